"""Finds scaled dot-product attention in a graph by what it computes, whoever exported it, and makes one node of it.

softmax(scale · Q Kᵀ + mask) V becomes ONNX Runtime's `MultiHeadAttention`
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MultiHeadAttention), which
holds no matrix of all scores in memory. Projections stay nodes of their own, so that they can still be quantized.
ONNX Runtime's own fusion knows the graphs of PyTorch's older exporter alone.
"""

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from workers.onnx_prepare import infer_types, read_by, set_nodes, sort_nodes

DOMAIN = "com.microsoft"
TO_ROWS = [0, 2, 1, 3]  # [batch, heads, length, size] <-> [batch, length, heads, size]
TRIED = ((2, 3, 5), (1, 7, 4))  # what free dimensions are set to, one after another, to try a transposition


@dataclass
class Scores:
    """What goes into a softmax: `scale` · `query` @ transposed `key` + `mask`; all four-dimensional."""

    query: str
    key: str
    scale: float
    mask: str | None


def fuse_attention(model: onnx.ModelProto) -> int:
    """Fuse in the main graph; how many were."""
    infer_types(model)
    found = _Finder(model.graph)
    done = sum(found.fuse(node) for node in list(model.graph.node) if node.op_type == "MatMul")
    if done:
        found.finish()
        sort_nodes(model.graph)
    return done


class _Finder:
    def __init__(self, graph: onnx.GraphProto):
        self._graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, int] = {}
        for name in [n for node in graph.node for n in node.input] + [v.name for v in graph.output]:
            self._readers[name] = self._readers.get(name, 0) + 1
        self._shapes = {
            value.name: [
                d.dim_value if d.HasField("dim_value") else d.dim_param
                for d in value.type.tensor_type.shape.dim
            ]
            for value in (*graph.value_info, *graph.input, *graph.output)
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self._replaced: dict[int, list[NodeProto]] = {}

    def fuse(self, product: NodeProto) -> bool:
        """Fuse the attention whose last product this node is, if it is one."""
        weights, value = product.input
        softmax, guarded = self._softmax(weights)
        scores = self._scores(softmax.input[0]) if softmax is not None else None
        if softmax is None or scores is None or (guarded and not self._never_empty(scores.mask)):
            return False
        sizes = [self._heads(name) for name in (scores.query, scores.key, value)]
        if None in sizes or sizes[0] != sizes[1] or sizes[1] != sizes[2]:
            return False
        self._replaced[id(product)] = self._fused(product, scores, value, *sizes[0])  # type: ignore[misc]
        return True

    def finish(self) -> None:
        """Put the new nodes into the graph, and remove those whose results nobody reads any more."""
        nodes = [new for node in self._graph.node for new in self._replaced.get(id(node), [node])]
        apart = {new[-1].output[0]: new[-1].input[0] for new in self._replaced.values()}
        again = {
            node.output[0]: apart[node.input[0]]
            for node in nodes
            if node.op_type == "Transpose" and node.input[0] in apart and _perm(node) == TO_ROWS
        }
        for node in nodes:
            for index, name in enumerate(node.input):
                node.input[index] = again.get(name, name)
        results = {value.name for value in self._graph.output}
        while True:
            read = results | _read(nodes)
            kept = [node for node in nodes if read & set(node.output)]
            if len(kept) == len(nodes):
                break
            nodes = kept
        set_nodes(self._graph, nodes)

    def _softmax(self, name: str) -> tuple[NodeProto | None, bool]:
        """The softmax over the last axis that makes a value, and whether what is not a number becomes 0 after it."""
        node = self._makers.get(name)
        guarded = False
        if node is not None and node.op_type == "Where":
            asks, zero, kept = node.input
            test = self._makers.get(asks)
            if test is None or test.op_type != "IsNaN" or test.input[0] != kept or self._scalar(zero) != 0:
                return None, False
            node, guarded = self._makers.get(kept), True
        if node is None or node.op_type != "Softmax" or self._readers[name] != 1:
            return None, False
        axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
        return (node, guarded) if axis in (-1, 3) else (None, False)

    def _scores(self, name: str) -> Scores | None:
        name, scale = self._unscaled(name)
        mask = None
        node = self._makers.get(name)
        if node is not None and node.op_type == "Add" and scale == 1:
            for first, second in (node.input, reversed(node.input)):
                inner, factor = self._unscaled(first)
                if self._op(inner) == "MatMul" and len(self._shapes.get(second, [])) == 4:
                    node, mask, scale = self._makers[inner], second, factor
                    break
        if node is None or node.op_type != "MatMul":
            return None
        query, by = self._unscaled(node.input[0])
        transposed, also = self._unscaled(node.input[1])
        key = self._untransposed(transposed)
        return None if key is None else Scores(query, key, scale * by * also, mask)

    def _unscaled(self, name: str) -> tuple[str, float]:
        """A value without the constant factors that it was multiplied by, and their product."""
        node, factor = self._makers.get(name), 1.0
        while node is not None and node.op_type in ("Mul", "Div"):
            first, second = node.input
            if (by := self._scalar(second)) is not None and by != 0:
                factor, name = factor * (by if node.op_type == "Mul" else 1 / by), first
            elif node.op_type == "Mul" and (by := self._scalar(first)) is not None:
                factor, name = factor * by, second
            else:
                break
            node = self._makers.get(name)
        return name, factor

    def _untransposed(self, name: str) -> str | None:
        """The value whose last two axes were swapped to make this one."""
        node = self._makers.get(name)
        if node is None:
            return None
        if node.op_type == "Transpose":
            perm = _perm(node)
            if perm == [0, 1, 3, 2]:
                return str(node.input[0])
            if perm == [0, 2, 3, 1]:  # of [batch, length, heads, size]
                rows = f"{name}__rows"
                self._makers.setdefault(
                    rows, helper.make_node("Transpose", [node.input[0]], [rows], perm=TO_ROWS)
                )
                shape = self._shapes.get(node.input[0])
                if shape is not None:
                    self._shapes[rows] = [shape[axis] for axis in TO_ROWS]
                return rows
            return None
        # torch's decomposition: the two first axes are made one, the others swapped, and made two again
        middle = self._makers.get(node.input[0]) if node.op_type == "Reshape" else None
        first = (
            self._makers.get(middle.input[0])
            if middle is not None and middle.op_type == "Transpose"
            else None
        )
        if first is None or first.op_type != "Reshape":
            return None
        source = first.input[0]
        return source if self._swaps_last_axes(source, name) else None

    def _swaps_last_axes(self, source: str, name: str) -> bool:
        """Try whether the nodes between two values do that, whatever the sizes of free dimensions."""
        shape = self._shapes.get(source, [])
        nodes, weights = self._between(source, name)
        if len(shape) != 4 or nodes is None:
            return False
        x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 4) for n in (source, name))
        graph = helper.make_graph(nodes, "trial", [x], [y], weights)
        opsets = [helper.make_opsetid("", onnx.defs.onnx_opset_version())]
        trial = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(
                trial.SerializeToString(), options, ["CPUExecutionProvider"]
            )
            for free in TRIED:
                sizes = iter(free)
                values = np.random.default_rng(0).standard_normal(
                    [dim if isinstance(dim, int) and dim else next(sizes) for dim in shape]
                )
                given = values.astype(np.float32)
                if not np.array_equal(session.run(None, {source: given})[0], given.swapaxes(2, 3)):
                    return False
        except Exception:  # whatever it is that does not run here, it is no transposition
            return False
        return True

    def _between(self, source: str, name: str) -> tuple[list[NodeProto] | None, list[TensorProto]]:
        """The nodes that make one value of another, in order, and their constants; None where they read anything else."""
        nodes: list[NodeProto] = []
        weights: dict[str, TensorProto] = {}
        seen = {source, ""}

        def visit(value: str) -> bool:
            if value in seen:
                return True
            seen.add(value)
            if value in self._constants:
                weights[value] = self._constants[value]
                return True
            node = self._makers.get(value)
            if node is None or len(nodes) > 50 or not all(visit(other) for other in node.input):
                return False
            nodes.append(node)
            return True

        return (nodes, list(weights.values())) if visit(name) else (None, [])

    def _never_empty(self, mask: str | None) -> bool:
        """Whether no row of scores can be minus infinity throughout: the softmax is a number then."""
        node = self._makers.get(mask) if mask else None
        if mask is None:
            return True
        if node is None or node.op_type != "Where":
            return False
        return all(
            (found := self._scalar(name)) is not None and np.isfinite(found) for name in node.input[1:]
        )

    def _heads(self, name: str) -> tuple[int, int] | None:
        """(heads, size of one) of a value [batch, heads, length, size]."""
        shape = self._shapes.get(name, [])
        if len(shape) != 4 or not isinstance(shape[1], int):
            return None
        if isinstance(shape[3], int):
            return shape[1], shape[3]
        whole = self._shapes.get(self._split_from(name) or "", [])
        width = whole[2] if len(whole) == 3 else None  # a size of -1 is what is left of it
        return (shape[1], width // shape[1]) if isinstance(width, int) and width % shape[1] == 0 else None

    def _split_from(self, name: str) -> str | None:
        """The value [batch, length, width] whose last axis was split into heads to make this one."""
        node = self._makers.get(name)
        split = self._makers.get(node.input[0]) if node is not None and node.op_type == "Transpose" else None
        if split is None or split.op_type != "Reshape" or _perm(node) != TO_ROWS:
            return None
        return split.input[0] if len(self._shapes.get(split.input[0], [])) == 3 else None

    def _fused(
        self, product: NodeProto, scores: Scores, value: str, heads: int, size: int
    ) -> list[NodeProto]:
        out = product.output[0]
        nodes: list[NodeProto] = []
        rows = [
            self._flat(name, f"{out}__{role}", heads * size, nodes)
            for role, name in (("query", scores.query), ("key", scores.key), ("value", value))
        ]
        inputs = [*rows, "", "", self._bias(scores, rows[0], out, nodes)] if scores.mask else rows
        flat = f"{out}__flat"
        nodes.append(
            helper.make_node(
                "MultiHeadAttention",
                inputs,
                [flat],
                f"{out}__attention",
                domain=DOMAIN,
                num_heads=heads,
                scale=scores.scale,
            )
        )
        apart = f"{out}__apart"
        nodes.append(
            helper.make_node("Reshape", [flat, self._constant(f"{out}__heads", [0, 0, heads, size])], [apart])
        )
        nodes.append(helper.make_node("Transpose", [apart], [out], perm=TO_ROWS))
        return nodes

    def _flat(self, name: str, base: str, width: int, nodes: list[NodeProto]) -> str:
        """A value [batch, heads, length, size] as [batch, length, heads · size]; from before it was split where it was."""
        before = self._split_from(name)
        if before is not None and self._shapes[before][2] == width:
            return before
        node = self._makers.get(name)
        if node is not None and node.op_type == "Transpose" and _perm(node) == TO_ROWS:
            rows = node.input[0]
        else:
            rows = f"{base}_rows"
            nodes.append(helper.make_node("Transpose", [name], [rows], perm=TO_ROWS))
        flat = f"{base}_flat"
        nodes.append(
            helper.make_node("Reshape", [rows, self._constant(f"{base}_width", [0, 0, width])], [flat])
        )
        return flat

    def _bias(self, scores: Scores, query: str, out: str, nodes: list[NodeProto]) -> str:
        """The mask with as many rows as the query: the operator repeats it over samples and heads alone."""
        assert scores.mask is not None
        length = self._shapes.get(scores.query, [None] * 4)[2]
        if length and self._shapes[scores.mask][2] == length:
            return scores.mask
        names = {part: f"{out}__{part}" for part in ("shape", "length", "rows", "mask")}
        one, two = self._constant(f"{out}__one", [1]), self._constant(f"{out}__two", [2])
        nodes += [
            helper.make_node("Shape", [query], [names["shape"]]),
            helper.make_node("Slice", [names["shape"], one, two], [names["length"]]),
            helper.make_node("Concat", [one, one, names["length"], one], [names["rows"]], axis=0),
            helper.make_node("Expand", [scores.mask, names["rows"]], [names["mask"]]),
        ]
        return names["mask"]

    def _constant(self, name: str, values: list[int]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def _scalar(self, name: str) -> float | None:
        tensor = self._constants.get(name)
        if tensor is None or int(np.prod(tensor.dims)) != 1:
            return None
        return float(numpy_helper.to_array(tensor).ravel()[0])

    def _op(self, name: str) -> str | None:
        node = self._makers.get(name)
        return node.op_type if node is not None else None


def _perm(node: NodeProto | None) -> list[int]:
    return [] if node is None else next((list(a.ints) for a in node.attribute if a.name == "perm"), [])


def _read(nodes: list[NodeProto]) -> set[str]:
    return set().union(*(read_by(node) for node in nodes)) if nodes else set()
