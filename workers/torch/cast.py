"""A program that computes in half precision inside: weights, constants and what makes numbers; its ends stay as they were."""

from typing import Any

import torch
from torch import fx, nn

from workers.torch.lift import lift
from workers.torch.model import leaves
from workers.torch.program import Program, TorchModel, export

LARGEST_HALF = 65504.0


class Ends(nn.Module):
    """Casts floating inputs to the inner type, and floating outputs back to what the signature says."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype, outputs: tuple[torch.dtype, ...]):
        super().__init__()
        self.inner = inner
        self._dtype = dtype
        self._outputs = outputs

    def forward(self, *tensors: torch.Tensor) -> Any:
        """What the network returns, as a tuple of its tensors."""
        given = [tensor.to(self._dtype) if tensor.dtype == torch.float32 else tensor for tensor in tensors]
        found = leaves(self.inner(*given))
        return tuple(
            value.to(dtype) if value.is_floating_point() else value
            for value, dtype in zip(found, self._outputs, strict=True)
        )


def cast_program(program: Program, dtype: torch.dtype) -> tuple[torch.export.ExportedProgram, dict[str, int]]:
    """The program with fp32 turned into `dtype` inside; {cast: elements of weights, clamped: those beyond half's range}.

    Types that the graph names (`to(float32)`, `arange(dtype=float32)`) are turned too: a network in one type has no other
    to meet. PyTorch's kernels for norms, softmax and products accumulate in fp32 whatever the type.

    Raises:
        UnsupportedOperator, InvalidModel: as `lift` and `export`.
    """
    module = lift(program.program).requires_grad_(False)
    told = _cast_weights(module, dtype)
    _rename_types(module, dtype)
    outputs = tuple(getattr(torch, entry["dtype"]) for entry in program.outputs)
    ends = Ends(module, dtype, outputs).eval()
    exported = export(TorchModel(ends, program.inputs, program.outputs))
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of generated code, numbered by the process
    return exported, told


def _cast_weights(module: nn.Module, dtype: torch.dtype) -> dict[str, int]:
    cast = clamped = 0
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.dtype != torch.float32:
                continue
            cast += tensor.numel()
            if dtype == torch.float16:
                beyond = tensor.isfinite() & (tensor.abs() > LARGEST_HALF)
                clamped += int(beyond.sum())
                tensor.copy_(torch.where(beyond, tensor.clamp(-LARGEST_HALF, LARGEST_HALF), tensor))
    module.to(dtype)
    return {"cast": cast, "clamped": clamped}


def _rename_types(module: nn.Module, dtype: torch.dtype) -> None:
    """Every fp32 that a call of the graph names becomes `dtype`, in subgraphs too."""

    def renamed(value: Any) -> Any:
        return dtype if value is torch.float32 else value

    for graphed in module.modules():
        if not isinstance(graphed, fx.GraphModule):
            continue
        for node in graphed.graph.nodes:
            if node.op == "call_function":
                node.args = fx.node.map_aggregate(node.args, renamed)
                node.kwargs = fx.node.map_aggregate(node.kwargs, renamed)
        graphed.recompile()
