"""What operators do with channels: move them, let them meet, sum over them. What is not here fixes what it reads."""

import operator
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from workers.surgery.bonds import Only
from workers.surgery.trace import Rule, Tracer, lying, meet, place, reduced, row
from workers.torch.layers import arguments

_POOL = re.compile(r"(?:adaptive_)?(?:avg|max|lp)_pool(\d)d|upsample_[a-z]+?(\d)d")


def name_of(node: fx.Node) -> str:
    """An operator's name without what makes it write in place: `relu` of `aten::relu_`."""
    name = str(getattr(getattr(node.target, "_schema", None), "name", "")).removeprefix("aten::")
    return name.rstrip("_")


def through_call(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    """The ids of what a call of an operator gives."""
    if node.target is operator.getitem:
        source, index = node.args
        return tracer.ids[source][index]  # type: ignore[index]
    name = name_of(node)
    rule = _RULES.get(name)
    if rule is None and (found := _POOL.match(name.removeprefix("_"))):
        return _pooled(tracer, node, value, int(found[1] or found[2]))
    if rule is None and _is_pointwise(node, name):
        rule = _elementwise
    return tracer.opaque(node, value) if rule is None else rule(tracer, node, value)


def _is_pointwise(node: fx.Node, name: str) -> bool:
    """Whether torch says so of an operator, or of its form that does not write in place: it forgot some of the others."""
    plain = getattr(torch.ops.aten, name, None)
    forms = [node.target, getattr(plain, getattr(node.target, "_overloadname", ""), None)]
    return any(torch.Tag.pointwise in getattr(form, "tags", ()) for form in forms)


def _operands(tracer: Tracer, node: fx.Node) -> list[Tensor]:
    found = [tracer.ids[source] for source in node.all_input_nodes]
    return [ids for ids in found if isinstance(ids, Tensor)]


def _elementwise(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    ids, *others = _operands(tracer, node)
    for other in others:
        ids = meet(tracer.trace, place(node), ids, other)
    return ids.expand(value.shape)


def _same(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    return _operands(tracer, node)[0].expand(value.shape)


def _new(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    return tracer.neutral(value)


def _per_channel(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    """Weights [C] of axis 1: `prelu`, `instance_norm`."""
    ids, *weights = _operands(tracer, node)
    for weight in weights:
        if weight.numel() > 1:
            ids = meet(
                tracer.trace, place(node), ids, lying(weight, 1, (1, len(weight)) + (1,) * (ids.dim() - 2))
            )
    return ids


def _moved(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    """Run it on ids."""
    function: Any = torch.reshape if name_of(node) in ("view", "_unsafe_view") else node.target
    args, kwargs = tracer.given(node.args), tracer.given(node.kwargs)
    found = function(*args, **kwargs)
    tree_map_only(Tensor, lambda ids: tracer.grid(node, ids), found)
    source = node.args[0]
    tracer.trace.sized[node.name] = (
        tracer.ids[source] if isinstance(source, fx.Node) else tracer.given(source),
        found,
    )
    return found


def _along(tracer: Tracer, node: fx.Node, axes: Iterable[int]) -> None:
    """Hold channels off these axes of the input."""
    ids = _operands(tracer, node)[0]
    tracer.trace.bonds.append(
        Only(ids, frozenset(range(ids.dim())) - {axis % ids.dim() for axis in axes}, place(node))
    )


def _picked(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    """One place of an axis, or each by itself: none of them may go."""
    _along(tracer, node, [int(arguments(node)["dim"])])
    return _moved(tracer, node, value)


def _cut(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    """Parts of an axis, of which some places may go."""
    if int(arguments(node).get("step") or 1) != 1:
        _along(tracer, node, [int(arguments(node)["dim"])])
    found = _moved(tracer, node, value)
    axis = int(arguments(node)["dim"])
    for ids in [found] if isinstance(found, Tensor) else found:
        if ids.shape[axis] and axis % ids.dim() in tracer.trace.sets.varying(ids):
            tracer.trace.parts.append(row(ids, axis % ids.dim()))
    return found


def _turned(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    """Places that are told by number: those of channels stay."""
    axes = arguments(node)["dims"]
    _along(tracer, node, [axes] if isinstance(axes, int) else axes)
    return _operands(tracer, node)[0]


def _indexed(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    """Rows of a table by numbers that are constant or computed; channels lie on the other axes."""
    ids = _operands(tracer, node)[0]
    given = arguments(node)
    if name_of(node) == "index_select":
        axes = [int(given["dim"]) % ids.dim()]
    else:
        axes = [axis for axis, index in enumerate(given["indices"]) if index is not None]
    if axes != list(range(axes[0], axes[-1] + 1)) or value.dim() < ids.dim() - len(axes):
        return tracer.opaque(node, value)
    _along(tracer, node, axes)
    first = ids
    for axis in axes:
        first = first.narrow(axis, 0, 1)
    count = value.dim() - (ids.dim() - len(axes))
    kept = list(first.shape)
    shape = kept[: axes[0]] + [1] * count + kept[axes[-1] + 1 :]
    if tracer.trace.sets.loose(ids):
        tracer.trace.sets.unite_along(ids, axes)
    return first.reshape(shape).expand(value.shape)


def _padded(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    """Padding belongs to the channels beside it; channels that are added are new ones."""
    ids, pads = _operands(tracer, node)[0], list(arguments(node)["pad"])
    varying = tracer.trace.sets.varying(ids)
    before = ids
    for number in range(0, len(pads), 2):
        axis = ids.dim() - 1 - number // 2
        low, high = (int(tracer.given(pad)) for pad in pads[number : number + 2])
        if axis not in varying or (low == high == 0):
            ids = ids.narrow(axis, 0, 1).expand(
                [*ids.shape[:axis], value.shape[axis], *ids.shape[axis + 1 :]]
            )
            continue
        if (name_of(node) == "pad" and arguments(node)["mode"] != "constant") or low < 0 or high < 0:
            return tracer.opaque(node, value)
        ends = [
            lying(
                tracer.trace.sets.fresh(count, made=False),
                axis,
                [*ids.shape[:axis], count, *ids.shape[axis + 1 :]],
            )
            for count in (low, high)
        ]
        ids = torch.cat([ends[0], ids, ends[1]], axis)
    tracer.trace.sized[node.name] = (before, ids)
    return ids


def _pooled(tracer: Tracer, node: fx.Node, value: Any, axes: int) -> Any:
    """The last axes are made smaller or larger."""
    ids = _operands(tracer, node)[0]
    over = range(ids.dim() - axes, ids.dim())
    _along(tracer, node, over)
    for axis in over:
        ids = ids.narrow(axis, 0, 1)
    return tree_map_only(Tensor, lambda tensor: ids.expand(tensor.shape), value)


def _reduced(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    ids, given = _operands(tracer, node)[0], arguments(node)
    if "other" in given:  # the larger of two
        return _elementwise(tracer, node, value)
    axes = given.get("dim")
    chosen = range(ids.dim()) if axes is None or axes == [] else [axes] if isinstance(axes, int) else axes
    found = reduced(tracer.trace, ids, chosen, keep=bool(given.get("keepdim")))
    return tree_map_only(Tensor, lambda tensor: found.expand(tensor.shape), value)


def _product(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    """`matmul` and its kin: an elementwise product [..., i, k, j], summed over k."""
    operands = _operands(tracer, node)
    if name_of(node) == "baddbmm":
        added, *operands = operands
        return meet(tracer.trace, place(node), _multiplied(tracer, node, *operands), added)
    if len(operands) == 1:
        operands *= 2
    if any(ids.dim() < 2 for ids in operands):
        return tracer.opaque(node, value)
    return _multiplied(tracer, node, *operands)


def _multiplied(tracer: Tracer, node: fx.Node, one: Tensor, other: Tensor) -> Tensor:
    met = meet(tracer.trace, place(node), one.unsqueeze(-1), other.unsqueeze(-3))
    return reduced(tracer.trace, met, [-2], keep=False)


def _attention(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    """softmax(q kᵀ + mask) v of heads [..., length, size]."""
    given = {key: tracer.given(one) for key, one in arguments(node).items()}
    query, key, worth, mask = (given[name] for name in ("query", "key", "value", "attn_mask"))
    if given.get("enable_gqa"):
        times = query.shape[-3] // key.shape[-3]
        key, worth = (ids.repeat_interleave(times, -3) for ids in (key, worth))
    scores = _multiplied(tracer, node, query, key.transpose(-1, -2))
    if mask is not None:
        scores = meet(tracer.trace, place(node), scores, mask)
    return _multiplied(tracer, node, scores, worth)


def _einsum(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    given = arguments(node)
    equation = str(given["equation"]).replace(" ", "")
    operands = tracer.given(given["tensors"])
    if "->" not in equation or "." in equation or len(operands) != 2:
        return tracer.opaque(node, value)
    terms, result = equation.split("->")
    names = terms.split(",")
    labels = "".join(dict.fromkeys(result + "".join(names)))
    if any(len(set(term)) != len(term) for term in names):
        return tracer.opaque(node, value)
    spread = []
    for ids, term in zip(operands, names, strict=True):
        order = [term.index(label) for label in labels if label in term]
        sizes = iter(ids.permute(order).shape)
        spread.append(ids.permute(order).reshape([next(sizes) if label in term else 1 for label in labels]))
    met = meet(tracer.trace, place(node), *spread)
    return reduced(tracer.trace, met, range(len(result), len(labels)), keep=False)


def _normed(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    """`layer_norm` and `rms_norm` with weights that are no layer's."""
    found = _elementwise(tracer, node, value)
    tracer.trace.sized[node.name] = (_operands(tracer, node)[0], found)
    return found


def _shuffled(tracer: Tracer, node: fx.Node, value: Any) -> Any:
    """The same places of each group stay, as many as its argument says there are."""
    ids = _operands(tracer, node)[0]
    grouped = row(ids, 1).reshape(int(arguments(node)["groups"]), -1)
    tracer.trace.bonds.append(Only(ids, frozenset({1}), place(node)))
    tracer.trace.sets.unite_along(grouped, [0])
    return lying(grouped.T.reshape(-1), 1, value.shape)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ["view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "mT", "movedim", "squeeze", "unsqueeze", "expand", "expand_as", "view_as", "reshape_as", "cat", "concat", "concatenate", "stack", "repeat", "tile", "repeat_interleave", "pixel_shuffle", "pixel_unshuffle"],
        _moved,
    ),
    **dict.fromkeys(["select", "unbind"], _picked),
    **dict.fromkeys(["slice", "narrow", "split", "split_with_sizes", "chunk", "tensor_split"], _cut),
    **dict.fromkeys(["roll", "flip"], _turned),
    **dict.fromkeys(["index", "index_select"], _indexed),
    **dict.fromkeys(["pad", "constant_pad_nd"], _padded),
    **dict.fromkeys(
        ["softmax", "_softmax", "log_softmax", "_log_softmax", "dropout", "feature_dropout", "clone", "contiguous", "detach", "alias", "to", "_to_copy", "hardswish", "cumsum", "lift_fresh_copy", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "type_as", "hardsigmoid", "hardtanh"],
        _same,
    ),
    **dict.fromkeys(["zeros", "ones", "full", "arange", "scalar_tensor", "new_zeros", "new_ones", "new_full", "rand", "randn"], _new),
    **dict.fromkeys(["prelu", "instance_norm"], _per_channel),
    **dict.fromkeys(
        ["mean", "sum", "amax", "amin", "var", "std", "prod", "logsumexp", "norm", "linalg_vector_norm", "max", "min", "argmax", "argmin", "any", "all"],
        _reduced,
    ),
    **dict.fromkeys(["matmul", "bmm", "mm", "baddbmm"], _product),
    **dict.fromkeys(["layer_norm", "rms_norm"], _normed),
    "rsub": _elementwise,
    "masked_fill": _elementwise,
    "where": _elementwise,
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
    "channel_shuffle": _shuffled,
    "native_channel_shuffle": _shuffled,
}  # fmt: skip
