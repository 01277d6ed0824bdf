"""AOTInductor: exported programs compiled ahead of time into a `.pt2` package, and run from it (torch 2.13)."""

import json
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from app.errors import (
    BurnishError,
    InvalidModel,
    OutOfMemory,
    SignatureMismatch,
    UnsupportedOperator,
)
from app.text import first_line, plain
from workers.compiler import compiler_command
from workers.runtimes.base import Feeds, LoadedEngine, unnamed
from workers.samples import FREE_DIMENSION
from workers.torch.facts import layers
from workers.torch.inductor_facts import compiled_facts
from workers.torch.model import example_inputs, sizes, to_array, to_tensor
from workers.torch.program import Program, check_feeds, moved, runner

METADATA = "burnish"  # the key in the package's metadata: {"inputs", "outputs", "threads", "device"}; inputs have an "order"
SOURCES = (
    ".cpp",
    ".cu",
)  # of the generated code: not needed to run, and full of the paths of the machine that built it
UNFROZEN = (
    "With its weights frozen in, the compiled engine gave other values than the model: it was compiled without `freezing`, "
    "which costs speed."
)
REFUSED_HINT = "try freezing=false, or another target"
LONGEST = 500  # characters of a reason
MOST_NOISE = 0.01  # noise to signal, in power: 20 dB; rounding leaves 60 dB in 8 bits, but for a few inputs, another layout none
QUANTIZED_DRAWS = 8  # inputs of which a program of 8 bits must meet one


def compile_program(
    program: Program, package: Path, *, device: str, threads: int, freezing: bool, max_autotune: bool
) -> dict[str, Any]:
    """Compile a program for `device` (cpu, cuda) and `threads` into `package`, which ends with `.pt2`; its facts.

    Nothing stays behind but the package: caches go into a folder that is removed, and no compiler process lives on.
    Where `freezing` makes a network that is not quantized wrong, as convolutions of one channel whose inputs have it last, it is compiled
    without, and `explained` says so.

    Raises:
        Unavailable: there is no C++ compiler on this machine.
        UnsupportedOperator: Inductor cannot compile something in it, or what it made gives other values.
        OutOfMemory: compiling took too much.
    """
    compiler_command()
    with _threads(threads), _caches(), _quiet():
        facts = _compile(program, package, device, threads, freezing, max_autotune)
        try:
            prove(program, load_package(package, 0), REFUSED_HINT)
        except UnsupportedOperator:
            if not freezing or any(layer.quantized for layer in layers(program.program)):
                raise
            facts = _compile(program, package, device, threads, False, max_autotune)
            prove(program, load_package(package, 0), REFUSED_HINT)
            facts["explained"].append(UNFROZEN)
    return facts


def _compile(
    program: Program, package: Path, device: str, threads: int, freezing: bool, max_autotune: bool
) -> dict[str, Any]:
    orders = _orders(program.program)
    inputs = [{**entry, "order": order} for entry, order in zip(program.inputs, orders, strict=True)]
    told = {"inputs": inputs, "outputs": program.outputs, "threads": threads, "device": device}
    options: dict[str, Any] = {
        "freezing": freezing,
        "max_autotune": max_autotune,
        "compile_threads": 1,  # more are processes that outlive the compilation
        "cpp.threads": threads,
        "aot_inductor.metadata": {METADATA: json.dumps(told)},
        "aot_inductor.enable_line_tables": False,
        **_without_paths(),
    }
    exported = program.program if device == "cpu" else moved(program, device).program
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / package.name
        try:
            with torch.no_grad():
                torch._inductor.aoti_compile_and_package(
                    exported, package_path=str(made), inductor_configs=options
                )
        except MemoryError as error:
            raise OutOfMemory("compiling took more memory than there is", stage="building") from error
        except Exception as error:  # Inductor raises errors of many kinds, Python's own among them
            raise _explained(error) from error
        source = _strip(made, package)
    return compiled_facts(program.program, source, freezing)


class LoadedInductor:
    """A package that is ready to run; see `runtimes.base.LoadedEngine`."""

    def __init__(self, model: Any, told: Mapping[str, Any]):
        self._run = model.loader.boxed_run
        self._device = told["device"]
        self._signature = told["inputs"]
        self.inputs = unnamed(
            {key: entry[key] for key in ("name", "dtype", "shape")} for entry in told["inputs"]
        )
        self.outputs = unnamed(told["outputs"])

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs by name.

        Raises:
            SignatureMismatch: names, types or shapes of the feeds are not the engine's.
        """
        check_feeds(self._signature, feeds)
        tensors = [
            _laid_out(to_tensor(feeds[entry["name"]]), entry["order"]).to(self._device)
            for entry in self._signature
        ]
        try:
            with torch.inference_mode():
                found = self._run(tensors)
        except RuntimeError as error:
            raise SignatureMismatch(
                f"the engine does not take these inputs: {_first_line(error)}", stage="running"
            ) from error
        outputs = [value for value in found if isinstance(value, torch.Tensor)]
        return {entry["name"]: to_array(value) for entry, value in zip(self.outputs, outputs, strict=True)}


def load_package(package: Path, threads: int) -> LoadedInductor:
    """A package, ready to run with the threads that it was compiled for. `threads`: those that are asked for, 0 for any.

    Raises:
        InvalidModel: it was compiled for another number of threads, or cannot be loaded here.
    """
    try:
        model = torch._inductor.aoti_load_package(str(package))
        told = json.loads(model.get_metadata()[METADATA])
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        raise InvalidModel(
            f"this engine cannot be loaded here: {_first_line(error)}",
            stage="loading",
            hint="build it again on this machine, with this version of torch",
        ) from error
    if threads and threads != told["threads"]:
        raise InvalidModel(
            f"the engine was compiled for {told['threads']} threads, asked for were {threads}",
            stage="loading",
            param="threads",
            hint=f"build it again with threads={threads}, or load it with threads={told['threads']}",
        )
    torch.set_num_threads(told["threads"])
    return LoadedInductor(model, told)


def prove(program: Program, engine: LoadedEngine, hint: str) -> None:
    """Hold an engine against the program on seeded inputs: Inductor's mistakes with layouts give wrong numbers silently.

    Free dimensions are tried longer too: Inductor unrolls a GRU for the length at hand, and reads no more of another.

    Raises:
        UnsupportedOperator: it gives other values; `hint` says what to try.
    """
    longer = sizes(program.inputs, 3, 2 * FREE_DIMENSION)
    hold(program, engine, {}, hint)
    if longer:
        where = ", ".join(f"{name} = {size}" for name, size in longer.items())
        hint = "declare free dimensions other than the batch as numbers, or use another target"
        hold(program, engine, longer, hint, f" with {where}")


def hold(program: Program, engine: LoadedEngine, dims: Mapping[str, int], hint: str, where: str = "") -> None:
    """Raises UnsupportedOperator where the engine gives something else than the program for these free dimensions.

    In 8 bits a last bit that falls otherwise may grow, through a network's depth, to more than 20 dB allow (to 2 dB in the
    six layers of a MiniLM), for one input and not for the next. A mistake is there with each: a program of 8 bits may miss
    some inputs, not all.
    """
    draws = QUANTIZED_DRAWS if any(layer.quantized for layer in layers(program.program)) else 1
    for seed in range(draws):
        name = _other(program, engine, dims, seed)
        if name is None:
            return
    raise UnsupportedOperator(
        f"compiled, the model gives other values of {name!r} than before{where}",
        stage="building",
        node=name,
        hint=hint,
    )


def _other(program: Program, engine: LoadedEngine, dims: Mapping[str, int], seed: int) -> str | None:
    """An output of which the engine gives something else than the program."""
    tensors = example_inputs(program.inputs, seed, dims=dims)
    feeds = {entry["name"]: to_array(tensor) for entry, tensor in zip(program.inputs, tensors, strict=True)}
    try:
        expected = runner(program)(feeds)
    except SignatureMismatch:
        return None  # it takes particular sizes or values, which are not known here
    found = engine.run(feeds)
    for name, value in expected.items():
        if value.dtype.kind != "f" or not np.isfinite(value).all():
            continue
        fits = found[name].shape == value.shape
        noise = float(np.square(value.astype(np.float64) - found[name]).sum()) if fits else np.inf
        if noise > MOST_NOISE * float(np.square(value.astype(np.float64)).sum()):
            return name
    return None


def _orders(program: ExportedProgram) -> list[list[int]]:
    """For each input its axes from the outermost in memory to the innermost, as it was exported.

    The code is made for that, and looks at memory alone: another layout gives wrong numbers, not an error. Axes of size 1
    count too, as oneDNN takes a tensor of one channel for one whose channels are last by their strides.
    """
    given = program.graph_signature.user_inputs
    by_name = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    values = [by_name[name] for name in given if isinstance(name, str)]
    return [
        sorted(range(value.ndim), key=lambda axis: (-_hint(value.stride(axis)), -_hint(value.shape[axis])))
        for value in values
    ]


def _hint(size: Any) -> int:
    """A size, or what a free one was when the program was exported."""
    return size if isinstance(size, int) else int(size.node.hint)


def _laid_out(tensor: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """The tensor with its axes in this order in memory, without gaps."""
    strides, step = [0] * tensor.ndim, 1
    for axis in reversed(order):
        strides[axis] = step
        step *= tensor.shape[axis]
    if tensor.stride() == tuple(strides):
        return tensor
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)


def _without_paths() -> dict[str, Any]:
    """Options that keep paths of this machine out of the library, where its compiler flags are known.

    Sources name themselves in messages (`__FILE__`). Inductor has no option for more flags, but passes this one on as it is.
    """
    if platform.machine() != "x86_64":
        return {}
    packages = Path(torch.__file__).parent.parent
    folders = (str(packages), tempfile.gettempdir())
    flags = [f"-ffile-prefix-map={shlex.quote(folder)}/=" for folder in folders]
    return {"cpp.march": " ".join(["native", *flags])}


def _strip(made: Path, package: Path) -> str:
    """Copy a package without its sources; the sources."""
    found = []
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(package, "w", zipfile.ZIP_STORED) as new:
        for member in old.infolist():
            if member.filename.endswith(SOURCES):
                found.append(old.read(member).decode("utf-8", "replace"))
                continue
            with old.open(member) as source, new.open(member, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target)
    return "\n".join(found)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _caches() -> Iterator[None]:
    """Inductor's and Triton's caches in a folder that is removed; in a job, everything lies in the attempt's folder."""
    from torch._inductor.utils import clear_caches

    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="inductor-") as folder:
        clear_caches()
        os.environ.update({names[0]: folder, names[1]: str(Path(folder) / "triton")})
        try:
            yield
        finally:
            clear_caches()
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Inductor says of torch's own functions."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="To copy construct from a tensor", category=UserWarning)
        warnings.filterwarnings(
            "ignore", message="No complete tensor found in the group", category=UserWarning
        )
        warnings.filterwarnings("ignore", message="TypedStorage is deprecated", category=UserWarning)
        warnings.filterwarnings("ignore", message="`torch.jit.* is deprecated", category=DeprecationWarning)
        yield


def _explained(error: Exception) -> BurnishError:
    from torch._inductor.exc import CppCompileError

    cause: BaseException = error
    while (inner := getattr(cause, "inner_exception", None) or cause.__cause__) is not None:
        cause = inner
    if isinstance(cause, CppCompileError | subprocess.CalledProcessError):
        return UnsupportedOperator(
            f"the C++ compiler refuses what Inductor generates for this model: {_compiler_error(cause)}",
            stage="building",
            hint="try freezing=false, another version of the compiler, or another target",
        )
    return UnsupportedOperator(
        f"Inductor cannot compile this model: {type(cause).__name__}: {_first_line(cause)}",
        stage="building",
        node=_node(str(error)),
        hint="try freezing=false, or another target: onnxruntime-cpu and openvino-cpu take other operators",
    )


def _node(text: str) -> str | None:
    """The operator that Inductor names in its message: `target: aten.x.default`."""
    line = next((line.strip() for line in text.splitlines() if line.strip().startswith("target: ")), None)
    return line.removeprefix("target: ") if line else None


def _compiler_error(error: BaseException) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said = error.stderr or error.output or b""
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        otherwise = f"it ended with status {error.returncode}"
    else:
        text, otherwise = str(error), _first_line(error)
    lines = [line.strip() for line in text.splitlines()]
    return plain(next((line for line in lines if "error:" in line), otherwise), LONGEST)


def _first_line(error: BaseException) -> str:
    line = first_line(str(error)) or type(error).__name__
    return plain(line, LONGEST)
