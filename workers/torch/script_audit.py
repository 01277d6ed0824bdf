"""Is a TorchScript archive safe to load and run? No Python in it ever runs, but torch's C++ trusts what it reads.

What was found in torch's source (2.13; https://github.com/pytorch/pytorch):
- torch/csrc/jit/serialization/unpickler.cpp (`Unpickler::readGlobal`) is an unpickler of its own. It knows a dozen names for
  tensors, lists and devices; every other one must be a class of the archive's `code/` or one that is compiled into torch
  (`torch.classes`). So a pickle cannot call Python.
- torch/csrc/jit/serialization/import.cpp (`obj_loader`) runs a class's `__setstate__`, in TorchScript, while it loads.
- The same unpickler believes the number of elements that a pickle gives for a weight (`BINPERSID`): it may reach beyond the
  bytes in the file, into the memory of the process.
- Operators of TorchScript open and write files (`aten::from_file`, `aten::save`), and call other machines (`prim::rpc_sync`).
"""

import io
import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from app.errors import InvalidModel, UnsafeModel, UnsupportedFormat, UnsupportedOperator
from app.text import plain

HINT = "save it again where you trust it: torch.jit.save(torch.jit.script(model.eval()), 'model.pt')"
UNQUANTIZED = "upload the model as it was before it was quantized; recipes quantize it"
_NAMESPACES = {"aten", "prim"}
_REFUSED = {
    "aten::from_file", "aten::save", "prim::PythonOp", "prim::rpc_async", "prim::rpc_remote", "prim::rpc_sync",
}  # fmt: skip
# a dot, then a name; blanks, comments and line ends may stand between
_CLASSES = re.compile(rb"\.(\s|\\|#[^\n]*\n)*classes\b")
_SET_STATE = re.compile(rb"\b__setstate__\b")
_ITEM_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "ComplexDouble": 16, "ComplexFloat": 8,
}  # fmt: skip
_MADE = {"torch._utils._rebuild_tensor_v2", "collections.OrderedDict", "torch.device", "builtins.complex"}
_COMPILED = "__torch__.torch.classes."
_LISTS = {"build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag"}


def audit(path: Path) -> None:
    """Hold an archive against what `torch.jit.save` writes, before it is loaded.

    Raises:
        UnsafeModel: something would run as it is loaded, or reach beyond the file.
        UnsupportedFormat: its weights are quantized.
        InvalidModel: it is damaged.
    """
    reader = torch._C.PyTorchFileReader(str(path))  # the one that the loader uses: both see the same records
    names = reader.get_all_records()
    if "model.json" in names:
        raise InvalidModel("the TorchScript file is of a torch before 1.0", hint=HINT)
    for name in names:
        if name in ("data.pkl", "constants.pkl"):  # inputs of a trace are not loaded
            _Reading(reader, name.removesuffix(".pkl")).read(name)
        elif name.startswith("code/") and name.endswith("pkl"):
            _Reading(reader, None).read(name)
        elif name.startswith("code/"):
            _check_source(name, reader.get_record(name))


def check_operators(functions: Sequence[Any]) -> None:
    """Hold the operators of loaded functions, none of which ran yet, to those that compute.

    Raises:
        UnsafeModel: one opens files or connections.
        UnsupportedFormat: one computes with quantized values.
        UnsupportedOperator: one is not torch's own.
    """
    for function in functions:
        for node in nodes_of(function.graph):
            kind = node.kind()
            if kind in _REFUSED:
                raise UnsafeModel(
                    f"the TorchScript calls {kind}, which opens files or connections",
                    node=place_of(node),
                    hint="take it out of the network",
                )
            namespace = kind.partition("::")[0]
            if namespace in ("quantized", "_quantized", "sparse"):
                raise UnsupportedFormat(f"the TorchScript is quantized: it calls {kind}", hint=UNQUANTIZED)
            if namespace not in _NAMESPACES:
                raise UnsupportedOperator(
                    f"the TorchScript calls {plain(kind, 200)}, which is none of the operators that compute",
                    node=place_of(node),
                    hint="write it with torch's own operators",
                )


def nodes_of(graph: Any) -> Iterator[Any]:
    """Every node of a graph or block, those in branches, loops and forks too."""
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from nodes_of(block)
        if node.hasAttribute("Subgraph"):
            yield from nodes_of(node.g("Subgraph"))


def place_of(node: Any) -> str:
    """A node's operator, and the file and line where the network's source calls it: `aten::save at net.py:12`."""
    found = re.search(r'File "([^"]+)", line (\d+)', node.sourceRange())
    if found is None:
        return str(node.kind())
    file = found[1].rpartition("/site-packages/")[2]
    return plain(f"{node.kind()} at {file}:{found[2]}", 300)


def _check_source(name: str, text: bytes) -> None:
    if _SET_STATE.search(text):
        raise UnsafeModel(
            f"{plain(name, 200)} in the TorchScript defines __setstate__, which runs as it is loaded; modules of quantized "
            "weights do",
            hint=UNQUANTIZED,
        )
    if _CLASSES.search(text):
        raise UnsafeModel(
            f"{plain(name, 200)} in the TorchScript uses classes that are compiled into torch; packed weights do",
            hint=UNQUANTIZED,
        )


class _Object:
    """What stands for an object of the archive's classes, a list's tag and the like: it does nothing."""

    def __init__(self, *given: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Kind:
    """A type of elements."""

    def __init__(self, item_bytes: int):
        self.item_bytes = item_bytes


class _Reading(pickle.Unpickler):
    """Reads a pickle as torch's unpickler does, makes nothing of it, and holds tensors against the records with their bytes.

    `folder` is where those are; None: a pickle of places in the source, which has none.
    """

    def __init__(self, reader: Any, folder: str | None):
        self._records = reader
        self._folder = folder

    def read(self, name: str) -> None:
        """Check a record. Raises as `audit`."""
        super().__init__(io.BytesIO(self._records.get_record(name)))
        try:
            self.load()
        except (UnsafeModel, UnsupportedFormat, InvalidModel, MemoryError):
            raise
        except Exception as error:  # a damaged pickle raises anything
            raise InvalidModel(
                f"{plain(name, 200)} in the TorchScript is damaged: {type(error).__name__}: {plain(str(error), 200)}",
                hint="upload it again",
            ) from error

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name."""
        full = f"{module}.{name}"
        if module == "torch.jit._pickle" and name in _LISTS:
            return lambda given, *_: given
        if self._folder is not None:
            if full in _MADE:
                return _Object
            if module == "torch" and (size := _ITEM_BYTES.get(name.removesuffix("Storage"))):
                return _Kind(size)
            if full.startswith(_COMPILED):
                raise UnsafeModel(
                    f"the TorchScript holds a {plain(full, 200)}, which is compiled code's; packed weights are",
                    hint=UNQUANTIZED,
                )
            if full.startswith("__torch__."):
                return _Object
        if full == "torch._utils._rebuild_qtensor" or (module == "torch" and name.startswith("Q")):
            raise UnsupportedFormat(f"the TorchScript is quantized: it holds {name}", hint=UNQUANTIZED)
        raise UnsafeModel(
            f"the TorchScript holds a pickle that names {plain(full, 200)}, which torch.jit.save does not write",
            hint=HINT,
        )

    def persistent_load(self, pid: Any) -> _Object:
        """The elements of a record."""
        kind, element, key, _, elements = pid
        if kind != "storage" or not isinstance(element, _Kind) or type(elements) is not int:
            raise ValueError("no storage")
        record = f"{self._folder}/{key}"
        held = self._records.get_record_size(record) if elements else 0
        if not 0 <= elements * element.item_bytes <= held:
            raise UnsafeModel(
                f"a weight of the TorchScript claims {elements * element.item_bytes} bytes, of which the file holds {held}",
                node=record,
                hint="upload it again",
            )
        return _Object()
