"""TorchScript as ONNX, by torch's first exporter: it alone keeps branches and loops that depend on values.

It is deprecated (https://docs.pytorch.org/docs/stable/onnx_torchscript.html), and has no successor for scripted modules.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.onnx._constants import ONNX_TORCHSCRIPT_EXPORTER_MAX_OPSET as OPSET
from torch.onnx.errors import UnsupportedOperatorError

from app.errors import BurnishError, UnsupportedOperator
from app.text import first_line, plain
from workers.formats.onnx import check
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx
from workers.torch.model import TorchModel, example_inputs
from workers.torch.script_audit import nodes_of, place_of
from workers.torch.script_file import quiet
from workers.torch.script_graph import plain_module
from workers.torch.to_onnx import STAGE, declare, strip

_OPERATOR = re.compile(r"operator '?([\w:]+)")
_HINT = (
    "write it with operators that ONNX has, or upload the network as a `.pt2` "
    "(`torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')`), which other runtimes take too"
)


def script_to_onnx(model: TorchModel, sizes: Mapping[str, int], out: Path) -> ModelHandle:
    """Write a scripted module of tensors into the folder `out`; `sizes` are those of free dimensions at which it runs.

    The opset is the newest that the exporter knows. Names of inputs, outputs and free dimensions are the signature's.

    Raises:
        UnsupportedOperator: an operator has no form in ONNX; `node` is the operator and its place in the source.
        InvalidModel: what the exporter made is not valid.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.onnx"
        _export(model, sizes, made)
        proto = onnx.load(str(made))
    declare(proto.graph.input, model.inputs, "input")
    declare(proto.graph.output, model.outputs, "output")
    strip(proto)
    handle = save_onnx(proto, out)
    check(handle.root, handle.entry)
    return handle


def _export(model: TorchModel, sizes: Mapping[str, int], path: Path) -> None:
    entries = (*model.inputs, *model.outputs)
    free = {
        entry["name"]: {
            axis: dim or f"{entry['name']}_{axis}"
            for axis, dim in enumerate(entry["shape"])
            if not isinstance(dim, int)
        }
        for entry in entries
    }
    example = example_inputs(model.inputs, dims=sizes)
    other = example_inputs(model.inputs, dims={name: 2 * size for name, size in sizes.items()})
    module = _plain(model.module, [example, other])
    # where it fails it prints the graph, whatever it is told
    torch._C._jit_set_onnx_log_output_stream("stderr")
    with _explained(module), quiet():
        torch.onnx.export(
            module,
            example,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[entry["name"] for entry in model.inputs],
            output_names=[entry["name"] for entry in model.outputs],
            dynamic_axes={name: axes for name, axes in free.items() if axes},
        )


def _plain(module: Any, examples: Sequence[Sequence[torch.Tensor]]) -> Any:
    try:
        return plain_module(module, examples)
    except RuntimeError:
        return module  # as it is: it has interfaces, whose calls cannot be inlined, or runs at one size alone


@contextmanager
def _explained(module: Any) -> Iterator[None]:
    try:
        yield
    except UnsupportedOperatorError as error:
        found = _OPERATOR.search(str(error))
        operator = found[1] if found else "an operator"
        raise UnsupportedOperator(
            f"{operator} has no form in ONNX: {_first_line(error)}",
            stage=STAGE,
            node=_place(module, operator),
            hint=_HINT,
        ) from error
    except (BurnishError, MemoryError):
        raise
    except Exception as error:  # the exporter's functions may raise anything
        raise UnsupportedOperator(
            f"the TorchScript cannot be written as ONNX: {type(error).__name__}: {_first_line(error)}",
            stage=STAGE,
            node=_said_place(error),
            hint=_HINT,
        ) from error


def _place(module: Any, operator: str) -> str:
    for node in nodes_of(module.inlined_graph):
        if node.kind() == operator:
            return place_of(node)
    return operator


def _said_place(error: Exception) -> str | None:
    found = re.search(r'File "([^"]+)", line (\d+)', str(error))
    return plain(f"{found[1].rpartition('/site-packages/')[2]}:{found[2]}", 300) if found else None


def _first_line(error: Exception) -> str:
    return plain((first_line(str(error)) or "no reason given"), 400)
