"""Keras' LSTM and GRU layers, run by PyTorch's own: Keras unrolls them on PyTorch, for the one length at hand.

The formulas are the same (https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html, and GRU); Keras' GRU has them
with `reset_after=True`, its gates in another order. What PyTorch's do not have (masks, other activations, dropout while
training) stays unrolled.
"""

import types
from typing import Any

import torch

from workers.torch.keras import keras_library


def run_by_torch(model: Any) -> None:
    """Let PyTorch's LSTM and GRU run the layers of a model that are those, and unroll others for batches of any size."""
    keras = keras_library()
    for layer in model._flatten_layers(include_self=False):
        if type(layer) is keras.layers.LSTM and _is_standard(layer):
            layer.inner_loop = types.MethodType(_lstm, layer)
        elif type(layer) is keras.layers.GRU and _is_standard(layer) and layer.reset_after:
            layer.inner_loop = types.MethodType(_gru, layer)
        elif type(layer) in (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN):
            layer.inner_loop = types.MethodType(_unrolled, layer)


def _is_standard(layer: Any) -> bool:
    activations = keras_library().activations
    return layer.activation is activations.tanh and layer.recurrent_activation is activations.sigmoid


def _lstm(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
    """As `LSTM.inner_loop`: the last output, all outputs, and the states."""
    if _is_special(layer, mask, training):
        return _unrolled(layer, sequences, initial_state, mask, training)
    cell = layer.cell
    bias = cell.bias.value if cell.use_bias else torch.zeros_like(cell.kernel.value[0])
    # oneDNN's LSTM in Inductor takes weights for laid out by rows, whatever they are
    kernels = [value.value.T.contiguous() for value in (cell.kernel, cell.recurrent_kernel)]
    weights = [*kernels, bias, torch.zeros_like(bias)]
    states = [state.to(bias.dtype).unsqueeze(0) for state in initial_state]
    outputs, hidden, memory = torch._VF.lstm(
        _in_order(layer, sequences, bias), states, weights, True, 1, 0.0, training, False, True
    )
    return hidden[0], outputs, [hidden[0], memory[0]]


def _gru(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
    """As `GRU.inner_loop`: the last output, all outputs, and the state."""
    if _is_special(layer, mask, training):
        return _unrolled(layer, sequences, initial_state, mask, training)
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


def _unrolled(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
    """As `RNN.inner_loop`, step by step: a step that is masked keeps the states, and gives the output before it or zeros.

    Keras' own loop lists the rows of a batch, which fixes their number in a program (keras/src/backend/torch/rnn.py).
    """
    order = slice(None, None, -1) if layer.go_backwards else slice(None)
    masks = mask[0] if isinstance(mask, list | tuple) else mask
    shown = [None] * sequences.shape[1] if masks is None else masks.unbind(1)[order]
    states = list(initial_state) if isinstance(initial_state, list | tuple) else [initial_state]
    outputs: list[torch.Tensor] = []
    for step, seen in zip(sequences.unbind(1)[order], shown, strict=True):
        output, new = layer.cell(step, states, training=training)
        new = list(new) if isinstance(new, list | tuple) else [new]
        if seen is not None:
            kept = seen.unsqueeze(-1)
            before = outputs[-1] if outputs and not layer.zero_output_for_mask else torch.zeros_like(output)
            output = torch.where(kept, output, before)
            new = [torch.where(kept, mine, held) for mine, held in zip(new, states, strict=True)]
        outputs.append(output)
        states = new
    return outputs[-1], torch.stack(outputs, dim=1), states


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
