"""What layers do with channels: which they read, which they make, which axes of their weights these are."""

from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from workers.surgery.bonds import Groups, Only
from workers.surgery.sets import fixed, slabs
from workers.surgery.trace import LayerRule, Tracer, lying, place, row


def through_layer(tracer: Tracer, node: fx.Node, layer: nn.Module, value: Any) -> Any:
    """The ids of what a layer gives."""
    source = node.args[0]
    ids = tracer.ids[source] if isinstance(source, fx.Node) else None
    rule = next((rule for kind, rule in _RULES.items() if isinstance(layer, kind)), None)
    if rule is None or not isinstance(ids, Tensor):
        return tracer.opaque(node, value, f"channels of a {type(layer).__name__} are not followed")
    return rule(tracer, node, layer, ids, value)


def _convolution(tracer: Tracer, node: fx.Node, layer: nn.Module, ids: Tensor, value: Any) -> Tensor:
    assert isinstance(layer, _ConvNd)
    trace, name = tracer.trace, str(node.target)
    trace.bonds.append(Only(ids, frozenset({1}), place(node)))
    read, groups = row(ids, 1), layer.groups
    making, reading = (1, 0) if layer.transposed else (0, 1)  # axes of the weight
    if groups == 1:
        made = trace.make(name, layer, making)
        trace.bind(name, "in", "weight", layer, reading, read)
    elif groups == layer.in_channels:
        made = trace.makers[name] = read.repeat_interleave(layer.out_channels // groups)
        trace.bind(name, "out", "weight", layer, 0, read if layer.transposed else made)
    else:
        made = trace.makers.get(name, trace.sets.fresh(layer.out_channels, made=True))
        trace.makers[name] = made
        sides = {making: made, reading: read}
        inner = sides[1].reshape(groups, -1)
        trace.bonds.append(Groups(read.reshape(groups, -1), made.reshape(groups, -1), place(node)))
        trace.bind(name, "in" if layer.transposed else "out", "weight", layer, 0, sides[0])
        trace.bind(name, "out" if layer.transposed else "in", "weight", layer, 1, inner.T)
    if groups > 1:
        trace.groups[name] = made.reshape(groups, -1)
    trace.bind(name, "out", "bias", layer, 0, made)
    return lying(made, 1, value.shape)


def _linear(tracer: Tracer, node: fx.Node, layer: nn.Module, ids: Tensor, value: Any) -> Tensor:
    name = str(node.target)
    tracer.trace.bonds.append(Only(ids, frozenset({ids.dim() - 1}), place(node)))
    made = tracer.trace.make(name, layer, 0)
    tracer.trace.bind(name, "in", "weight", layer, 1, row(ids, ids.dim() - 1))
    tracer.trace.bind(name, "out", "bias", layer, 0, made)
    return lying(made, value.dim() - 1, value.shape)


def _embedding(tracer: Tracer, node: fx.Node, layer: nn.Module, ids: Tensor, value: Any) -> Tensor:
    assert isinstance(layer, nn.Embedding)
    name = str(node.target)
    tracer.trace.sets.fix(ids, place(node), "they are numbers of rows")
    made = tracer.trace.make(name, layer, 1)
    tracer.trace.bind(name, "in", "weight", layer, 0, fixed((layer.num_embeddings,)))
    return lying(made, value.dim() - 1, value.shape)


def _batch_norm(tracer: Tracer, node: fx.Node, layer: nn.Module, ids: Tensor, value: Any) -> Tensor:
    for attribute in ("weight", "bias", "running_mean", "running_var"):
        tracer.trace.bind(str(node.target), "norm", attribute, layer, 0, slabs(ids, 1))
    return ids


def _layer_norm(tracer: Tracer, node: fx.Node, layer: nn.Module, ids: Tensor, value: Any) -> Tensor:
    assert isinstance(layer, nn.LayerNorm)
    count = len(layer.normalized_shape)
    for axis in range(count):
        for attribute in ("weight", "bias"):
            lies = slabs(ids, ids.dim() - count + axis)
            tracer.trace.bind(str(node.target), "norm", attribute, layer, axis, lies)
    tracer.trace.normed[str(node.target)] = ids
    return ids


def _group_norm(tracer: Tracer, node: fx.Node, layer: nn.Module, ids: Tensor, value: Any) -> Tensor:
    assert isinstance(layer, nn.GroupNorm)
    name, read = str(node.target), row(ids, 1)
    grouped = tracer.trace.groups[name] = read.reshape(layer.num_groups, -1)
    tracer.trace.bonds += [Only(ids, frozenset({1}), place(node)), Groups(grouped, grouped, place(node))]
    for attribute in ("weight", "bias"):
        tracer.trace.bind(name, "norm", attribute, layer, 0, read)
    return ids


def _same(tracer: Tracer, node: fx.Node, layer: nn.Module, ids: Tensor, value: Any) -> Tensor:
    return ids


_RULES: dict[type[nn.Module], LayerRule] = {
    _ConvNd: _convolution,
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    _BatchNorm: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    _DropoutNd: _same,
}
