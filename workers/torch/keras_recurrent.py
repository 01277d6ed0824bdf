"""Keras' LSTM and GRU layers, run by PyTorch's own: Keras unrolls them on PyTorch, for the one length at hand.

The formulas are the same (https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html, and GRU); Keras' GRU has them
with `reset_after=True`, its gates in another order.
"""

import types
from typing import Any

import torch

from workers.torch.keras import keras_library


def run_by_torch(model: Any) -> None:
    """Let PyTorch's LSTM and GRU run the layers of a model that are those; others stay as they are."""
    keras = keras_library()
    for layer in model._flatten_layers(include_self=False):
        if type(layer) is keras.layers.LSTM and _is_standard(layer):
            layer.inner_loop = types.MethodType(_lstm, layer)
        elif type(layer) is keras.layers.GRU and _is_standard(layer) and layer.reset_after:
            layer.inner_loop = types.MethodType(_gru, layer)


def _is_standard(layer: Any) -> bool:
    activations = keras_library().activations
    return layer.activation is activations.tanh and layer.recurrent_activation is activations.sigmoid


def _lstm(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
    """As `LSTM.inner_loop`: the last output, all outputs, and the states."""
    if _is_special(layer, mask, training):
        return type(layer).inner_loop(layer, sequences, initial_state, mask, training)
    cell = layer.cell
    bias = cell.bias.value if cell.use_bias else torch.zeros_like(cell.kernel.value[0])
    weights = [cell.kernel.value.T, cell.recurrent_kernel.value.T, bias, torch.zeros_like(bias)]
    states = [state.to(bias.dtype).unsqueeze(0) for state in initial_state]
    outputs, hidden, memory = torch._VF.lstm(
        _in_order(layer, sequences, bias), states, weights, True, 1, 0.0, training, False, True
    )
    return hidden[0], outputs, [hidden[0], memory[0]]


def _gru(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
    """As `GRU.inner_loop`: the last output, all outputs, and the state."""
    if _is_special(layer, mask, training):
        return type(layer).inner_loop(layer, sequences, initial_state, mask, training)
    cell = layer.cell
    kernels = [_reset_first(value.value) for value in (cell.kernel, cell.recurrent_kernel)]
    biases = cell.bias.value if cell.use_bias else torch.zeros_like(cell.kernel.value[:2])
    weights = [*(kernel.T for kernel in kernels), *(_reset_first(biases[row]) for row in (0, 1))]
    first = initial_state[0] if isinstance(initial_state, list | tuple) else initial_state
    outputs, hidden = torch._VF.gru(
        _in_order(layer, sequences, biases),
        first.to(biases.dtype).unsqueeze(0),
        weights,
        True,
        1,
        0.0,
        training,
        False,
        True,
    )
    return hidden[0], outputs, [hidden[0]]


def _is_special(layer: Any, mask: Any, training: bool) -> bool:
    masks = mask if isinstance(mask, list | tuple) else [mask]
    return masks[0] is not None or bool(training and (layer.dropout or layer.recurrent_dropout))


def _in_order(layer: Any, sequences: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    taken = sequences.to(like.dtype)
    return taken.flip(1) if layer.go_backwards else taken


def _reset_first(gates: torch.Tensor) -> torch.Tensor:
    """Keras' order of a GRU's gates (update, reset, new) on the last axis as PyTorch's (reset, update, new)."""
    units = gates.shape[-1] // 3
    return torch.cat([gates[..., units : 2 * units], gates[..., :units], gates[..., 2 * units :]], dim=-1)
