"""Control flow: branches and loops run as Python runs them, so a condition that is data cannot be exported."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from workers.onnx_to_torch.build import Builder
from workers.onnx_to_torch.logic import truth
from workers.onnx_to_torch.model import Node
from workers.onnx_to_torch.registry import layer
from workers.onnx_to_torch.values import Numbers, tensor_of


class Branches(nn.Module):
    """An `If`: (condition, what the branches read) to a tuple of outputs."""

    def __init__(self, then: nn.Module, otherwise: nn.Module):
        super().__init__()
        self.then = then
        self.otherwise = otherwise

    def forward(self, condition: Any, *read: Any) -> Any:
        return self.then(*read) if truth(condition) else self.otherwise(*read)


class Repeated(nn.Module):
    """A `Loop`: (trips, condition, `carried` values, what the body reads) to the last carried values and all scanned ones."""

    def __init__(self, body: nn.Module, carried: int, scanned: int):
        super().__init__()
        self.body = body
        self.carried = carried
        self.scanned = scanned

    def forward(self, trips: Any, condition: Any, *given: Any) -> tuple[Any, ...]:
        values, read = list(given[: self.carried]), given[self.carried :]
        limit = None if trips is None else int(_number(trips))
        going, done = condition is None or truth(condition), 0
        scans: list[list[Any]] = [[] for _ in range(self.scanned)]
        while going and (limit is None or done < limit):
            found = self.body(Numbers((done,), 0), Numbers((going,), 0, torch.bool), *values, *read)
            going, values = truth(found[0]), list(found[1 : 1 + self.carried])
            for scan, value in zip(scans, found[1 + self.carried :], strict=True):
                scan.append(tensor_of(value))
            done += 1
        return (*values, *(torch.stack(scan) if scan else torch.empty(0) for scan in scans))


class Scanned(nn.Module):
    """A `Scan`: the states, then the sequences, which the body reads slice by slice; each may go backwards."""

    def __init__(self, body: nn.Module, states: int, settings: dict[str, Any], sequences: int, outputs: int):
        super().__init__()
        self.body = body
        self.states = states
        self.sequences = sequences
        self.in_axes = settings.get("scan_input_axes") or (0,) * sequences
        self.in_back = settings.get("scan_input_directions") or (0,) * sequences
        self.out_axes = settings.get("scan_output_axes") or (0,) * (outputs - states)
        self.out_back = settings.get("scan_output_directions") or (0,) * (outputs - states)

    def forward(self, *given: Any) -> tuple[Any, ...]:
        values = list(given[: self.states])
        read = given[self.states + self.sequences :]
        sequences = [tensor_of(value) for value in given[self.states : self.states + self.sequences]]
        ways = list(zip(sequences, self.in_axes, self.in_back, strict=True))
        steps = [
            list(reversed(value.unbind(axis))) if back else value.unbind(axis) for value, axis, back in ways
        ]
        scans: list[list[Tensor]] = [[] for _ in self.out_axes]
        for slices in zip(*steps, strict=True):
            found = self.body(*values, *slices, *read)
            values = list(found[: self.states])
            for scan, value in zip(scans, found[self.states :], strict=True):
                scan.append(tensor_of(value))
        outputs = zip(scans, self.out_axes, self.out_back, strict=True)
        return (
            *values,
            *(torch.stack(list(reversed(scan)) if back else scan, axis) for scan, axis, back in outputs),
        )


@layer("If")
def branches(node: Node, build: Builder) -> fx.Node:
    condition = build.plain(node.inputs[0])
    then, otherwise = node.attributes["then_branch"], node.attributes["else_branch"]
    if condition is not None:
        (chosen,), read = build.inner(then if condition[0] else otherwise)
        return build.layer(node.name, chosen, *(build.value(name) for name in read))
    modules, read = build.inner(then, otherwise)
    given = [build.value(name) for name in (node.inputs[0], *read)]
    return build.layer(node.name, Branches(*modules), *given)


@layer("Loop")
def repeated(node: Node, build: Builder) -> fx.Node:
    (body,), read = build.inner(node.attributes["body"])
    carried = max(len(node.inputs) - 2, 0)
    scanned = len(node.attributes["body"].output) - 1 - carried
    first = [build.value(name) if name else None for name in (node.input(0), node.input(1), *node.inputs[2:])]
    given = [*first, *(build.value(name) for name in read)]
    return build.layer(node.name, Repeated(body, carried, scanned), *given)  # type: ignore[arg-type]


def _refuses_scan(node: Node) -> str | None:
    return "a Scan of before opset 9" if node.opset < 9 else None


@layer("Scan", refuses=_refuses_scan)
def scanned(node: Node, build: Builder) -> fx.Node:
    body = node.attributes["body"]
    sequences = node.attributes["num_scan_inputs"]
    states = len(node.inputs) - sequences
    (module,), read = build.inner(body)
    made = Scanned(module, states, node.attributes, sequences, len(body.output))
    return build.layer(node.name, made, *(build.value(name) for name in (*node.inputs, *read)))


def _number(value: Any) -> Any:
    return value.values[0] if isinstance(value, Numbers) else value.item()
