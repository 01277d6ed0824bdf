"""Recurrent operators step by step, for what PyTorch's layers do not do: other activations, peepholes, clipping, lengths.

The layers are in `recurrent_layers.py`. Formulas: https://onnx.ai/onnx/operators/onnx__LSTM.html, …__GRU.html, …__RNN.html.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from workers.onnx_to_torch.registry import operator

Step = Callable[[Tensor, list[Tensor]], list[Tensor]]
_ACTIVATIONS: dict[str, Callable[[Tensor, float | None, float | None], Tensor]] = {
    "Affine": lambda x, a, b: x * (1.0 if a is None else a) + (b or 0.0),
    "Elu": lambda x, a, b: nnf.elu(x, 1.0 if a is None else a),
    "HardSigmoid": lambda x, a, b: (x * (0.2 if a is None else a) + (0.5 if b is None else b)).clamp(0, 1),
    "LeakyRelu": lambda x, a, b: nnf.leaky_relu(x, 0.01 if a is None else a),
    "Relu": lambda x, a, b: torch.relu(x),
    "ScaledTanh": lambda x, a, b: (1.0 if a is None else a) * torch.tanh((1.0 if b is None else b) * x),
    "Sigmoid": lambda x, a, b: torch.sigmoid(x),
    "Softplus": lambda x, a, b: nnf.softplus(x),
    "Softsign": lambda x, a, b: nnf.softsign(x),
    "Tanh": lambda x, a, b: torch.tanh(x),
    "ThresholdedRelu": lambda x, a, b: nnf.threshold(x, 1.0 if a is None else a, 0.0),
}


class Gates:
    """What an operator's attributes say of its gates: activations and clipping, one direction's."""

    def __init__(self, settings: tuple[Any, Any, Any, float | None], usual: tuple[str, ...], direction: int):
        activations, alpha, beta, self._clip = settings
        count, first = len(usual), len(usual) * direction
        named = activations or usual * (direction + 1)
        self._names = [name.lower() for name in named[first : first + count]]
        self._alpha = (alpha or ())[first : first + count]
        self._beta = (beta or ())[first : first + count]

    def __call__(self, place: int, x: Tensor) -> Tensor:
        if self._clip is not None:
            x = x.clamp(-self._clip, self._clip)
        compute = next(f for name, f in _ACTIVATIONS.items() if name.lower() == self._names[place])
        alpha = self._alpha[place] if place < len(self._alpha) else None
        beta = self._beta[place] if place < len(self._beta) else None
        return compute(x, alpha, beta)


def _refuses(node: Any) -> str | None:
    known = {name.lower() for name in _ACTIVATIONS}
    strange = [name for name in node.attributes.get("activations", ()) if name.lower() not in known]
    return f"the activation {strange[0]}" if strange else None


@operator("LSTM", several=True, refuses=_refuses)
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: Any = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Gates i, o, f, c. Returns Y, Y_h, Y_c."""
    gates = (activations, activation_alpha, activation_beta, clip)

    def step_of(place: int) -> Step:
        gate = Gates(gates, ("Sigmoid", "Tanh", "Tanh"), place)
        size = r.shape[-1]
        p = x.new_zeros(3, size) if peepholes is None else peepholes[place].reshape(3, size)
        biases = None if b is None else b[place][: 4 * size] + b[place][4 * size :]

        def step(now: Tensor, state: list[Tensor]) -> list[Tensor]:
            h, c = state
            i, o, f, new = (nnf.linear(now, w[place], biases) + nnf.linear(h, r[place])).chunk(4, -1)
            i = gate(0, i + p[0] * c)
            f = 1 - i if input_forget else gate(0, f + p[2] * c)
            c = f * c + i * gate(1, new)
            return [gate(0, o + p[1] * c) * gate(2, c), c]

        return step

    return _run(x, w, r, lengths, [hidden, cell], direction, layout, step_of)


@operator("GRU", several=True, refuses=_refuses)
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    *,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: Any = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:
    """Gates z, r, h. Returns Y, Y_h."""
    gates = (activations, activation_alpha, activation_beta, clip)

    def step_of(place: int) -> Step:
        gate = Gates(gates, ("Sigmoid", "Tanh"), place)
        size = r.shape[-1]
        biases = x.new_zeros(6 * size) if b is None else b[place]
        of_x, of_h = biases[: 3 * size], biases[3 * size :]

        def step(now: Tensor, state: list[Tensor]) -> list[Tensor]:
            h = state[0]
            xz, xr, xh = nnf.linear(now, w[place], of_x).chunk(3, -1)
            hz, hr = nnf.linear(h, r[place][: 2 * size], of_h[: 2 * size]).chunk(2, -1)
            update, reset = gate(0, xz + hz), gate(0, xr + hr)
            own, bias = r[place][2 * size :], of_h[2 * size :]
            if linear_before_reset:
                new = gate(1, xh + reset * nnf.linear(h, own, bias))
            else:
                new = gate(1, xh + nnf.linear(reset * h, own, bias))
            return [(1 - update) * new + update * h]

        return step

    return _run(x, w, r, lengths, [hidden], direction, layout, step_of)


@operator("RNN", several=True, refuses=_refuses)
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    *,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: Any = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Returns Y, Y_h."""
    gates = (activations, activation_alpha, activation_beta, clip)

    def step_of(place: int) -> Step:
        gate = Gates(gates, ("Tanh",), place)
        size = r.shape[-1]
        biases = None if b is None else b[place][:size] + b[place][size:]

        def step(now: Tensor, state: list[Tensor]) -> list[Tensor]:
            return [gate(0, nnf.linear(now, w[place], biases) + nnf.linear(state[0], r[place]))]

        return step

    return _run(x, w, r, lengths, [hidden], direction, layout, step_of)


def _run(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    lengths: Tensor | None,
    initial: list[Tensor | None],
    direction: str,
    layout: int,
    step_of: Callable[[int], Step],
) -> tuple[Tensor, ...]:
    """All steps of all directions. x (time, batch, inputs), states (directions, batch, hidden); `layout` 1: batch first."""
    if layout:
        x = x.transpose(0, 1)
        initial = [None if state is None else state.transpose(0, 1) for state in initial]
    start = [
        x.new_zeros(w.shape[0], x.shape[1], r.shape[-1]) if state is None else state for state in initial
    ]
    backwards = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
    found, ends = [], []
    for place, back in enumerate(backwards):
        outputs, end = _one_way(x, lengths, [state[place] for state in start], back, step_of(place))
        found.append(outputs)
        ends.append(end)
    y = torch.stack(found, 1)
    states = [torch.stack(parts) for parts in zip(*ends, strict=True)]
    if layout:
        return y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in states)
    return y, *states


def _one_way(
    x: Tensor, lengths: Tensor | None, state: list[Tensor], back: bool, step: Step
) -> tuple[Tensor, list[Tensor]]:
    """A step beyond a sample's length changes no state and gives zeros."""
    count = x.shape[0]
    outputs: list[Tensor] = [x.new_zeros(0)] * count
    for time in reversed(range(count)) if back else range(count):
        after = step(x[time], state)
        if lengths is not None:
            alive = (time < lengths)[:, None]
            after = [torch.where(alive, new, old) for new, old in zip(after, state, strict=True)]
            outputs[time] = torch.where(alive, after[0], torch.zeros_like(after[0]))
        else:
            outputs[time] = after[0]
        state = after
    return torch.stack(outputs), state
