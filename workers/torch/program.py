"""Exported programs: saved as `.pt2` with their signature, loaded without running what stands in the file, and run."""

import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.utils._pytree import tree_unflatten

from app.errors import BurnishError, InvalidModel, OutOfMemory, SignatureMismatch, UnsafeModel
from app.text import first_line, plain
from workers.fitting import check_feeds as check_feeds
from workers.torch.exporting import export as export
from workers.torch.model import EXPORT_HINT as HINT
from workers.torch.model import TorchModel as TorchModel
from workers.torch.model import example_inputs as example_inputs
from workers.torch.model import leaves, to_array, to_tensor
from workers.torch.signature import program_inputs, program_outputs

EXTRA = "burnish.json"
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # makes every torch.load inside torch's loader refuse code
_OUTPUT_TYPES = re.compile(
    r'\\?"type\\?": \\?"(transformers\.(?:modeling_outputs|models\.\w+\.modeling_\w+))\.\w+\\?"'
)
_LEGACY = "serialized_exported_program.json"

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Program:
    """An exported program and its signature: {name, dtype, shape} in the order of its tensors."""

    program: ExportedProgram
    inputs: tuple[dict[str, Any], ...]
    outputs: tuple[dict[str, Any], ...]


def save_program(
    program: ExportedProgram,
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    path: Path,
) -> None:
    """Write a `.pt2` that torch reads too; names that torch cannot carry (`input.1`) stand in an extra file of it.

    The bytes depend on the program alone: where its nodes came from, which torch tells by addresses, is dropped.
    """
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("from_node", None)
    signature = {"schema": 1, "inputs": list(map(dict, inputs)), "outputs": list(map(dict, outputs))}
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={EXTRA: json.dumps(signature)})


def load_program(path: Path) -> Program:
    """A `.pt2`, ours or anybody's.

    Raises:
        UnsafeModel: something in it would run when it is loaded.
        UnsupportedOperator: it uses an operator that torch does not have.
        InvalidModel: it is damaged, or of a torch whose files this one cannot read.
    """
    # torch makes a folder for its compiler's cache when these are imported
    from torch.export.pt2_archive import PT2ArchiveReader
    from torch.export.pt2_archive._package import load_pt2

    from workers.torch.audit import audit

    with path.open("rb") as file:
        with _refused(path):
            _check_sums(path)
            reader = PT2ArchiveReader(file)
            document = audit(reader)
            _check_version(document)
            _import_output_types(document)
        file.seek(0)
        written_by = plain(str(document.get("torch_version")), 50)
        with (
            _refused(path, f"it was written by torch {written_by}, this is torch {torch.__version__}"),
            _weights_only(),
        ):
            contents = load_pt2(file)
            program = contents.exported_programs["model"]
            program.module()  # what does not fit together shows here
            inputs, outputs = program_inputs(program), program_outputs(program)
    if (told := contents.extra_files.get(EXTRA)) is None:
        return Program(program, inputs, outputs)
    return Program(program, *_told(told, inputs, outputs))


def moved(program: Program, device: str) -> Program:
    """The program on a device: its weights, and the devices that its calls name."""
    from torch.export.passes import move_to_device_pass

    return replace(program, program=move_to_device_pass(program.program, device))


def runner(program: Program, device: str = "cpu", module: torch.nn.Module | None = None) -> Run:
    """The program as a function from arrays by name to arrays by name, run eagerly on the device that its weights are on.

    `module` runs in place of the program's own. The function raises SignatureMismatch where names, dtypes or shapes do not fit.
    """
    module = module or program.program.module()
    arrange = arguments(program.program)

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        check_feeds(program.inputs, feeds)
        tensors = [to_tensor(feeds[entry["name"]]).to(device) for entry in program.inputs]
        args, kwargs = arrange(tensors)
        try:
            with torch.inference_mode():
                outputs = leaves(module(*args, **kwargs))
        except (BurnishError, MemoryError):
            raise
        except Exception as error:  # guards raise AssertionError, operators what they please
            if "allocate memory" in str(error):
                raise OutOfMemory(f"running the program: {plain(_first_line(error), 400)}") from error
            raise SignatureMismatch(
                f"the program does not take these inputs: {plain(_first_line(error), 400)}",
                hint="the program was exported for certain sizes and values; the message names the one that fails",
            ) from error
        return {entry["name"]: to_array(value) for entry, value in zip(program.outputs, outputs, strict=True)}

    return run


def arguments(program: ExportedProgram) -> Callable[[list[torch.Tensor]], tuple[list[Any], dict[str, Any]]]:
    """From the tensors of the signature to positional and keyword arguments; constants keep the value of the export."""
    given = program.graph_signature.user_inputs
    names = [name for name in given if isinstance(name, str)]

    def arrange(tensors: list[torch.Tensor]) -> tuple[list[Any], dict[str, Any]]:
        by_name = dict(zip(names, tensors, strict=True))
        flat = [by_name[name] if isinstance(name, str) else name for name in given]
        args, kwargs = tree_unflatten(flat, program.call_spec.in_spec)
        return args, kwargs

    return arrange


@contextmanager
def _refused(path: Path, versions: str | None = None) -> Iterator[None]:
    """Turn what torch raises for a file into ours; it raises errors of any kind for files that it cannot read."""
    try:
        yield
    except (BurnishError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        raise UnsafeModel(
            "the .pt2 holds a pickle that needs more than tensors to load, which runs code", hint=HINT
        ) from error
    except Exception as error:
        if _is_legacy(path):
            raise InvalidModel(
                f"the .pt2 was written by torch 2.7 or older; this is torch {torch.__version__}", hint=HINT
            ) from error
        reason = f"{type(error).__name__}: {plain(_first_line(error), 300)}"
        said = (
            f"the .pt2 cannot be loaded ({versions})" if versions else "the file is no .pt2, or it is damaged"
        )
        raise InvalidModel(f"{said}: {reason}", hint=HINT) from error


def _is_legacy(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return _LEGACY in archive.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return False


def _check_sums(path: Path) -> None:
    """torch's reader takes a weight whose bytes changed for a weight. Raises InvalidModel where a checksum does not fit."""
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise InvalidModel(
                f"the .pt2 is damaged: the checksum of {plain(damaged, 200)!r} does not fit",
                hint="upload it again",
            )


@contextmanager
def _weights_only() -> Iterator[None]:
    """Let no `torch.load` inside the block run code, and keep it from talking about pickles' protocols."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def _check_version(document: Mapping[str, Any]) -> None:
    from torch._export.serde.schema import SCHEMA_VERSION

    version = document.get("schema_version")
    major = version.get("major") if isinstance(version, dict) else None
    if major != SCHEMA_VERSION[0]:
        raise InvalidModel(
            f"the .pt2 was written by torch {plain(str(document.get('torch_version')), 50)} with schema {major}; "
            f"this is torch {torch.__version__} with schema {SCHEMA_VERSION[0]}",
            hint=HINT,
        )


def _import_output_types(document: Mapping[str, Any]) -> None:
    """transformers' output types register themselves with torch when their module is imported."""
    for module in sorted(
        set(_OUTPUT_TYPES.findall(json.dumps(document.get("graph_module", {}).get("module_call_graph"))))
    ):
        import_module(module)


def _told(
    text: str, inputs: tuple[dict[str, Any], ...], outputs: tuple[dict[str, Any], ...]
) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
    """The signature that stands in the file, held against the program's own."""
    try:
        told = json.loads(text)
        sides = [_fitting(told[key], own) for key, own in (("inputs", inputs), ("outputs", outputs))]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidModel(
            f"{EXTRA} in the .pt2 does not fit its program: {plain(_first_line(error), 200)}",
            hint="save the program without it, or with the signature that it has",
        ) from error
    return sides[0], sides[1]


def _fitting(told: list[dict[str, Any]], own: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """Raises ValueError where number, names, dtypes or dimensions do not fit."""
    if len(told) != len(own) or len({entry["name"] for entry in told}) != len(own):
        raise ValueError(f"it names {len(told)} values of {len(own)}")
    for entry, known in zip(told, own, strict=True):
        if entry["dtype"] != known["dtype"] or len(entry["shape"]) != len(known["shape"]):
            raise ValueError(f"{entry['name']!r} is {known['dtype']} {known['shape']} in the program")
        for dim, size in zip(entry["shape"], known["shape"], strict=True):
            if not isinstance(dim, int | str | None) or (
                isinstance(size, int) and isinstance(dim, int) and dim != size
            ):
                raise ValueError(f"{entry['name']!r} has the shape {known['shape']} in the program")
    return tuple(
        {"name": str(entry["name"]), "dtype": entry["dtype"], "shape": list(entry["shape"])} for entry in told
    )


def _first_line(error: Exception) -> str:
    return first_line(str(error)) or type(error).__name__
