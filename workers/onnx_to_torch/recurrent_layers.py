"""LSTM, GRU and RNN as PyTorch's layers, where these compute the same. Gates are reordered: i o f c to i f c o, z r h to r z h."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from workers.onnx_to_torch.build import Builder
from workers.onnx_to_torch.model import Node
from workers.onnx_to_torch.registry import layer

_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_ACTIVATIONS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}
_KINDS: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
_STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}


@layer("LSTM", "GRU", "RNN")
def recurrent(node: Node, build: Builder) -> fx.Node | None:
    """A layer of one or two directions, with what turns its inputs and outputs around."""
    count = _STATES[node.kind]
    if not _same(node, build):
        return None
    w, r = build.constant(node.inputs[1]), build.constant(node.inputs[2])
    assert w is not None
    assert r is not None
    directions, _, inputs = w.tensor.shape
    hidden = r.tensor.shape[-1]
    relu = node.kind == "RNN" and (node.attributes.get("activations") or ("Tanh",))[0].lower() == "relu"
    settings = {"nonlinearity": "relu"} if relu else {}
    made = _KINDS[node.kind](
        inputs, hidden, bias=bool(node.input(3)), bidirectional=directions == 2, device="meta", **settings
    )
    for place, suffix in enumerate(("", "_reverse")[:directions]):
        _load(made, node, build, place, suffix, hidden)
    made.flatten_parameters()
    back, layout = node.attributes.get("direction", "forward") == "reverse", node.attributes.get("layout", 0)
    states = [build.value(name) if name else None for name in (node.input(5), node.input(6))[:count]]
    x = build.value(node.inputs[0])
    given = build.call(sequence, x, back, layout)
    start = build.call(state_of, given, directions, hidden, count, layout, *states)
    found = build.layer(node.name, made, given, start)
    return build.call(outputs_of, found, directions, back, layout)


def _same(node: Node, build: Builder) -> bool:
    """Whether PyTorch's layer does what the node says. Lengths, peepholes and clipping it does not know."""
    constants = [build.constant(name) for name in (node.inputs[1], node.inputs[2], node.input(3)) if name]
    if None in constants or node.input(4):
        return False
    settings = node.attributes
    peepholes = node.input(7)
    if settings.get("clip") is not None or settings.get("input_forget", 0) or peepholes:
        return False
    if node.kind == "GRU" and not settings.get("linear_before_reset", 0):
        return False
    if node.kind == "LSTM" and bool(node.input(5)) != bool(node.input(6)):
        return False
    usual = _ACTIVATIONS[node.kind]
    told = tuple(name.lower() for name in settings.get("activations") or usual)
    each = [told[place : place + len(usual)] for place in range(0, len(told), len(usual))]
    return all(one == usual for one in each) or (node.kind == "RNN" and set(told) == {"relu"})


def _load(made: nn.Module, node: Node, build: Builder, place: int, suffix: str, hidden: int) -> None:
    order, gates = _ORDER[node.kind], len(_ORDER[node.kind])

    def reordered(rows: Tensor) -> Tensor:
        parts = rows.reshape(gates, hidden, *rows.shape[1:])
        return parts[list(order)].reshape(rows.shape)

    def weight(index: int) -> nn.Parameter | None:
        tag = f"{node.kind}{suffix}"
        return build.parameter(node.inputs[index], tag, lambda whole: reordered(whole[place]))

    made.register_parameter(f"weight_ih_l0{suffix}", weight(1))
    made.register_parameter(f"weight_hh_l0{suffix}", weight(2))
    if node.input(3):
        rows = gates * hidden
        tag = f"{node.kind}{suffix}"
        first = build.parameter(node.input(3), f"{tag} ih", lambda whole: reordered(whole[place][:rows]))
        second = build.parameter(node.input(3), f"{tag} hh", lambda whole: reordered(whole[place][rows:]))
        made.register_parameter(f"bias_ih_l0{suffix}", first)
        made.register_parameter(f"bias_hh_l0{suffix}", second)


def sequence(x: Tensor, back: bool, layout: int) -> Tensor:
    """(time, batch, features), in the order in which the layer reads it."""
    x = x.transpose(0, 1) if layout else x
    return x.flip(0) if back else x


def state_of(x: Tensor, directions: int, hidden: int, count: int, layout: int, *given: Any) -> Any:
    """The states before the first step: given ones, or zeros."""
    found = []
    for place in range(count):
        state = given[place] if place < len(given) else None
        if state is None:
            state = x.new_zeros(directions, x.shape[1], hidden)
        elif layout:
            state = state.transpose(0, 1).contiguous()
        found.append(state)
    return tuple(found) if count > 1 else found[0]


def outputs_of(found: Any, directions: int, back: bool, layout: int) -> tuple[Tensor, ...]:
    """Y (time, directions, batch, hidden) and the last states, from what the layer returns; batch first in `layout` 1."""
    y, states = found
    states = states if isinstance(states, tuple) else (states,)
    y = y.reshape(y.shape[0], y.shape[1], directions, y.shape[2] // directions)
    y = y.flip(0) if back else y
    if layout:
        return y.transpose(0, 1), *(state.transpose(0, 1) for state in states)
    return torch.transpose(y, 1, 2), *states
