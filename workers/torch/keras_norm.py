"""Keras' batch norms, run by PyTorch's own: exporters know it as one operator, which folds into the convolution before it.

Keras computes them by subtraction and multiplication on its last axis, which nothing recognizes. The formula is the same
(https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html).
"""

import types
from typing import Any

import torch

from workers.torch.keras import keras_library


def normalize_by_torch(model: Any) -> None:
    """Let PyTorch run the batch norms of a model in inference; training stays Keras' own."""
    kind = keras_library().layers.BatchNormalization
    for layer in model._flatten_layers(include_self=False):
        if type(layer) is kind and isinstance(layer.axis, int):
            layer.call = types.MethodType(_call, layer)


def _call(layer: Any, inputs: torch.Tensor, training: bool | None = None, mask: Any = None) -> Any:
    """As `BatchNormalization.call`."""
    mean = layer.moving_mean.value
    if training or inputs.dtype != mean.dtype:
        return type(layer).call(layer, inputs, training=training, mask=mask)
    normed = torch.nn.functional.batch_norm(
        inputs.movedim(layer.axis, 1),
        mean,
        layer.moving_variance.value,
        layer.gamma.value if layer.scale else None,
        layer.beta.value if layer.center else None,
        eps=layer.epsilon,
    )
    return normed.movedim(1, layer.axis)
