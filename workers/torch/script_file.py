"""A TorchScript file, loaded on the CPU in eval mode once it was found to be safe."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from app.errors import BurnishError, InvalidModel, UnsupportedOperator
from app.text import plain
from workers.archive import damage_named, open_zip
from workers.torch.script_audit import HINT, audit, check_operators

_UNKNOWN = re.compile(r"Unknown builtin op: (?P<name>[\w:.]+)|(?P<other>[\w:.]+) does not exist\b")
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_ORIGINAL = "original code"


@dataclass(frozen=True)
class Script:
    """A loaded module, and the graph of its `forward` with all calls inlined; weights are constants there, if torch could."""

    module: Any  # torch.jit.ScriptModule, which its types know in part
    graph: Any


def load(path: Path) -> Script:
    """A file of `torch.jit.save`.

    Raises:
        UnsafeModel, UnsupportedFormat: as `audit` and `check_operators`.
        UnsupportedOperator: it calls an operator that torch does not have.
        InvalidModel: it is damaged, or of a torch whose files this one cannot read.
    """
    with damage_named(), open_zip(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise InvalidModel(
                f"the TorchScript file is damaged: the checksum of {plain(damaged, 200)!r} does not fit",
                hint="upload it again",
            )
    with _refused():
        audit(path)
        library: Any = torch._C.CompilationUnit()
        reading: Any = torch._C.import_ir_module
        # what torch.jit.load does, which keeps the functions to itself
        held = reading(library, str(path), torch.device("cpu"), {}, False)
        _check_functions(library)
        if not held._has_method("forward"):
            raise InvalidModel(
                "the TorchScript has no `forward`",
                hint="save a module that computes: torch.jit.script(model.eval())",
            )
        module = as_module(held)
        module.eval()
    return Script(module, _graph(module))


def as_module(held: Any) -> Any:
    """A C++ module as a `torch.jit.ScriptModule`."""
    wrap: Any = torch.jit._recursive.wrap_cpp_module
    return wrap(held)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block torch does not say that TorchScript and its exporter are old, nor that they guess at arguments."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="You are using the legacy", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="The feature will be removed", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="no signature found for", category=UserWarning)
        warnings.filterwarnings("ignore", message="ONNX Preprocess - Removing mutation", category=UserWarning)
        warnings.filterwarnings("ignore", message="Constant folding - Only steps=1", category=UserWarning)
        # said of every example with a batch; conversions are tried with others
        warnings.filterwarnings(
            "ignore", message="Exporting a model to ONNX with a batch_size", category=UserWarning
        )
        yield


def sentence(error: BaseException) -> str:
    """What failed inside TorchScript, and the line of the network's source: torch says both at the end of a traceback."""
    text = str(error)
    said = [line.strip() for line in text.splitlines() if line.strip()]
    reason = plain(said[-1].removeprefix("RuntimeError: ") if said else type(error).__name__, 400)
    frames = [
        (file.rpartition("/site-packages/")[2], line)
        for file, line in _FRAME.findall(text.rpartition(_ORIGINAL)[2])
    ]
    own = [frame for frame in frames if not frame[0].startswith("torch/")] or frames
    return f"{reason} ({plain(own[-1][0], 200)}:{own[-1][1]})" if own else reason


def _check_functions(library: Any) -> None:
    """Functions are compiled when they are asked for, and that may load others."""
    known = -1
    while known < (count := len(functions := library.get_functions())):
        known = count
        check_operators(functions)


def _graph(module: Any) -> Any:
    try:
        with quiet():
            return torch.jit.freeze(module, optimize_numerics=False).graph
    except RuntimeError:  # it was frozen before, or has interfaces
        return module.inlined_graph


@contextmanager
def _refused() -> Iterator[None]:
    """Turn what torch raises for a file into ours."""
    try:
        yield
    except (BurnishError, MemoryError):
        raise
    except Exception as error:  # torch raises errors of many kinds for files that it cannot read
        text = str(error)
        if (found := _UNKNOWN.search(text)) is not None:
            name = plain(found["name"] or found["other"], 200).rstrip(".")
            raise UnsupportedOperator(
                f"the TorchScript calls {name}, which is none of torch's own operators",
                node=name,
                hint="write it with torch's own operators, or export the network to ONNX where its library is installed",
            ) from error
        first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        raise InvalidModel(
            f"the TorchScript cannot be loaded by torch {torch.__version__}: {plain(first, 300)}", hint=HINT
        ) from error
