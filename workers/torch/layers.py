"""The layers that make the calls which export leaves: from a call's arguments and weights to a `torch.nn` layer."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

aten = torch.ops.aten
_SIZES = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORMS = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}  # by the input's rank
_FEATURE_DROPOUTS = {3: nn.Dropout1d, 4: nn.Dropout2d, 5: nn.Dropout3d}


@dataclass(frozen=True)
class Layer:
    """A layer in place of a call: what it is called with, the names of its weights, and where its outputs lie.

    `outputs` says for each number of a call's outputs the path to it in what the layer returns; None: both are one tensor.
    """

    module: nn.Module
    inputs: tuple[Any, ...]
    weights: tuple[str, ...]
    settings: Hashable = None
    outputs: dict[int, tuple[int, ...]] | None = None

    @property
    def key(self) -> Hashable:
        """The same for calls that one layer makes."""
        return type(self.module), self.weights, self.settings


class Weights:
    """The tensors of a program by name, copied once each: names of one memory give one tensor."""

    def __init__(self, held: nn.Module, parameters: set[str]):
        self._held = held
        self._parameters = parameters
        self._copies: dict[Any, torch.Tensor] = {}

    def value(self, name: str) -> Any:
        """What the program holds under a name; a tensor is a copy, and a parameter where the program says so."""
        value = _attribute(self._held, name)
        if not isinstance(value, torch.Tensor):
            return value
        return self._copy(value, name in self._parameters or isinstance(value, nn.Parameter))

    def weight(self, node: Any) -> nn.Parameter | None:
        """The weight that a node of the graph reads, as a parameter, whatever the program held it as."""
        if not self.is_weight(node):
            return None
        found = self._copy(_attribute(self._held, node.target), True)
        return found if isinstance(found, nn.Parameter) else None

    def state(self, node: Any) -> torch.Tensor | None:
        """The tensor that a node reads, as it is."""
        return self._copy(_attribute(self._held, node.target), False) if self.is_weight(node) else None

    def is_weight(self, node: Any) -> bool:
        """Whether a node reads a tensor that the program holds."""
        return (
            isinstance(node, fx.Node)
            and node.op == "get_attr"
            and isinstance(_attribute(self._held, str(node.target)), torch.Tensor)
        )

    def _copy(self, tensor: torch.Tensor, parameter: bool) -> torch.Tensor:
        where = tensor.untyped_storage().data_ptr() if tensor.numel() else id(tensor)
        key = where, tensor.storage_offset(), tensor.dtype, tuple(tensor.shape), tensor.stride()
        copied = self._copies.get(key)
        if copied is None:
            copied = self._copies[key] = tensor.detach().clone()
        if parameter and not isinstance(copied, nn.Parameter) and copied.is_floating_point():
            copied = self._copies[key] = nn.Parameter(copied)
        return copied


Arguments = dict[str, Any]
Builder = Callable[[Arguments, Weights, fx.Node], Layer | None]


def arguments(node: fx.Node) -> Arguments:
    """A call's arguments by their names in the operator's schema, defaults filled in."""
    schema: Any = node.target
    return {
        argument.name: node.args[number]
        if number < len(node.args)
        else node.kwargs.get(argument.name, argument.default_value)
        for number, argument in enumerate(schema._schema.arguments)
    }


def _attribute(root: Any, name: str) -> Any:
    for part in name.split("."):
        root = getattr(root, part)
    return root


def _names(*nodes: Any) -> tuple[str, ...]:
    return tuple(str(node.target) for node in nodes if isinstance(node, fx.Node))


def _all_weights(weights: Weights, *nodes: Any) -> bool:
    """Whether each is a weight, or left out."""
    return all(node is None or weights.is_weight(node) for node in nodes)


def _convolution(given: Arguments, weights: Weights, node: fx.Node) -> Layer | None:
    weight, bias = given["weight"], given["bias"]
    if weight is None or not _all_weights(weights, weight, bias):
        return None
    held = weights.weight(weight)
    rank = held.dim() - 2 if held is not None else 0
    if held is None or rank not in _SIZES or given["input"].meta["val"].dim() != rank + 2:
        return None  # a single image without a batch is a call that no layer makes after export
    transposed = bool(given.get("transposed")) or "transpose" in str(node.target)
    groups = given["groups"]
    settings = {
        "kernel_size": tuple(held.shape[2:]),
        "stride": _spread(given["stride"], rank),
        "padding": _spread(given["padding"], rank),
        "dilation": _spread(given["dilation"], rank),
        "groups": groups,
        "bias": bias is not None,
    }
    if transposed:
        settings["output_padding"] = _spread(given["output_padding"], rank)
        channels = held.shape[0], held.shape[1] * groups
    else:
        channels = held.shape[1] * groups, held.shape[0]
    module = (_TRANSPOSED if transposed else _SIZES)[rank](*channels, **settings, device="meta")
    _give(module, weight=held, bias=weights.weight(bias))
    return Layer(module, (given["input"],), _names(weight, bias), tuple(settings.items()))


def _give(module: nn.Module, **held: torch.Tensor | None) -> None:
    for name, tensor in held.items():
        setattr(module, name, tensor)


def _spread(value: Any, rank: int) -> Any:
    """A setting for each dimension; `same` and `valid` as they are."""
    if isinstance(value, str):
        return value
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * rank if len(values) == 1 else values)


def _linear(given: Arguments, weights: Weights, node: fx.Node) -> Layer | None:
    weight, bias = given["weight"], given["bias"]
    if not _all_weights(weights, weight, bias):
        return None
    held = weights.weight(weight)
    if held is None or held.dim() != 2:
        return None
    module = nn.Linear(held.shape[1], held.shape[0], bias=bias is not None, device="meta")
    _give(module, weight=held, bias=weights.weight(bias))
    return Layer(module, (given["input"],), _names(weight, bias))


def _embedding(given: Arguments, weights: Weights, node: fx.Node) -> Layer | None:
    held = weights.weight(given["weight"])
    if held is None:
        return None
    padding = given["padding_idx"] if given["padding_idx"] >= 0 else None
    settings = {
        "padding_idx": padding,
        "scale_grad_by_freq": given["scale_grad_by_freq"],
        "sparse": given["sparse"],
    }
    module = nn.Embedding(held.shape[0], held.shape[1], **settings, device="meta")
    module.weight = held
    return Layer(module, (given["indices"],), _names(given["weight"]), tuple(settings.items()))


def _batch_norm(given: Arguments, weights: Weights, node: fx.Node) -> Layer | None:
    read = [given[name] for name in ("weight", "bias", "running_mean", "running_var")]
    rank = given["input"].meta["val"].dim()
    alone = given.get("training") or not _all_weights(weights, *read) or rank not in _BATCH_NORMS
    if alone or None in read[2:] or (read[0] is None) != (read[1] is None):
        return None
    mean = weights.state(read[2])
    assert mean is not None
    settings = {"eps": given["eps"], "momentum": given["momentum"], "affine": read[0] is not None}
    module = _BATCH_NORMS[rank](mean.shape[0], **settings, device="meta")
    module.running_mean, module.running_var = mean, weights.state(read[3])
    module.num_batches_tracked = torch.zeros((), dtype=torch.long)
    if settings["affine"]:
        _give(module, weight=weights.weight(read[0]), bias=weights.weight(read[1]))
    several = "no_training" in str(node.target)
    if several and any(user.args[1:] != (0,) for user in node.users):
        return None
    names = _names(*read)
    return Layer(module, (given["input"],), names, tuple(settings.items()), {0: ()} if several else None)


def _layer_norm(given: Arguments, weights: Weights, node: fx.Node) -> Layer | None:
    weight, bias = given["weight"], given["bias"]
    if not _all_weights(weights, weight, bias) or (weight is None and bias is not None):
        return None
    shape = tuple(given["normalized_shape"])
    settings = {"eps": given["eps"], "elementwise_affine": weight is not None, "bias": bias is not None}
    module = nn.LayerNorm(shape, **settings, device="meta")
    if weight is not None:
        _give(module, weight=weights.weight(weight), bias=weights.weight(bias))
    return Layer(module, (given["input"],), _names(weight, bias), (shape, *settings.items()))


def _group_norm(given: Arguments, weights: Weights, node: fx.Node) -> Layer | None:
    weight, bias = given["weight"], given["bias"]
    channels = given["input"].meta["val"].shape[1]
    if (
        not _all_weights(weights, weight, bias)
        or (weight is None) != (bias is None)
        or not isinstance(channels, int)
    ):
        return None
    settings = {"eps": given["eps"], "affine": weight is not None}
    module = nn.GroupNorm(given["num_groups"], channels, **settings, device="meta")
    if weight is not None:
        _give(module, weight=weights.weight(weight), bias=weights.weight(bias))
    return Layer(module, (given["input"],), _names(weight, bias), (given["num_groups"], *settings.items()))


def _dropout(given: Arguments, weights: Weights, node: fx.Node) -> Layer | None:
    if given["train"]:
        return None
    rank = given["input"].meta["val"].dim()
    kind = _FEATURE_DROPOUTS.get(rank) if "feature" in str(node.target) else nn.Dropout
    if kind is None:
        return None
    return Layer(kind(given["p"]), (given["input"],), ())


def _recurrent(given: Arguments, weights: Weights, node: fx.Node) -> Layer | None:
    read = given["params"]
    if given["train"] or not _all_weights(weights, *read):
        return None
    held = [weights.weight(one) for one in read]
    name = str(node.target).split(".")[1]
    gates = {"lstm": 4, "gru": 3}.get(name, 1)
    first = held[0]
    if first is None or None in held:
        return None
    directions = 2 if given["bidirectional"] else 1
    per_layer = len(held) // (given["num_layers"] * directions)
    projected = per_layer in (3, 5)
    settings: dict[str, Any] = {
        "num_layers": given["num_layers"],
        "bias": given["has_biases"],
        "batch_first": given["batch_first"],
        "dropout": given["dropout"] if given["num_layers"] > 1 else 0.0,
        "bidirectional": given["bidirectional"],
    }
    if projected:
        settings["proj_size"] = held[per_layer - 1].shape[0]
    if name.startswith("rnn"):
        settings["nonlinearity"] = name.removeprefix("rnn_")
    kind = {"lstm": nn.LSTM, "gru": nn.GRU}.get(name, nn.RNN)
    module = kind(first.shape[1], first.shape[0] // gates, **settings, device="meta")
    _give(module, **dict(zip(module._flat_weights_names, held, strict=True)))
    states = given["hx"]
    inputs = (given["input"], tuple(states) if name == "lstm" else states)
    outputs: dict[int, tuple[int, ...]] = (
        {0: (0,), 1: (1, 0), 2: (1, 1)} if name == "lstm" else {0: (0,), 1: (1,)}
    )
    return Layer(module, inputs, _names(*read), tuple(settings.items()), outputs)


BUILDERS: dict[Any, Builder] = {
    **dict.fromkeys(
        (
            aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding, aten.conv3d.default,
            aten.conv3d.padding, aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input,
            aten.convolution.default,
        ),
        _convolution,
    ),
    **dict.fromkeys((aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default), _batch_norm),
    **dict.fromkeys((aten.dropout.default, aten.dropout_.default, aten.feature_dropout.default), _dropout),
    **dict.fromkeys((aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input), _recurrent),
    aten.linear.default: _linear,
    aten.embedding.default: _embedding,
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
}  # fmt: skip
