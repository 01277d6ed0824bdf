"""Weights that lie about their size, type or values."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.case import Hostile, case, each, family
from tests.hostile.graphs import HARMLESS, changed, node, nodes
from tests.workers.formats.uploads import graph_model, linear, tensor, value

FLOAT = TensorProto.FLOAT
RAW = np.ones((4, 3), np.float32).tobytes()


def weight(**fields: object) -> Callable[[], bytes]:
    """y = x·w, where w is a tensor of these fields."""
    return lambda: linear(TensorProto(**{"name": "w", "data_type": FLOAT, **fields})).SerializeToString()


def beside(**fields: object) -> Callable[[], bytes]:
    """The same beside a sound w, read by nobody."""
    return changed(
        lambda m: m.graph.initializer.append(TensorProto(**{"name": "v", "data_type": FLOAT, **fields}))
    )


def constant(**fields: object) -> Callable[[], bytes]:
    """The same in a Constant node."""
    held = TensorProto(**{"name": "c", "data_type": FLOAT, **fields})
    return lambda: nodes(helper.make_node("Constant", [], ["c"], value=held), node("Add", "x c"))


def sparse(
    indices: list[int], dims: list[int], index_dims: list[int] | None = None, values: int = 2
) -> Callable[[], bytes]:
    def make() -> bytes:
        held = onnx.SparseTensorProto(values=tensor("s", np.ones(values)), dims=dims)
        shown = TensorProto(
            name="si", data_type=TensorProto.INT64, dims=index_dims or [len(indices)], int64_data=indices
        )
        held.indices.CopyFrom(shown)
        return changed(lambda m: m.graph.sparse_initializer.append(held))()

    return make


def filled(content: float, dtype: type = np.float32) -> Callable[[], bytes]:
    return lambda: linear(numpy_helper.from_array(np.full((4, 3), content, dtype), "w")).SerializeToString()


def strings(count: int, *, dims: list[int]) -> Callable[[], bytes]:
    return beside(data_type=TensorProto.STRING, dims=dims, string_data=[b"s"] * count)


def doubled() -> bytes:
    whole = graph_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x", [1, 4], TensorProto.DOUBLE)],
        [value("y", [1, 3], TensorProto.DOUBLE)],
        [TensorProto(name="w", data_type=TensorProto.DOUBLE, dims=[4, 3], float_data=[1.0] * 12)],
    )  # fmt: skip
    return whole.SerializeToString()


MOST = 2**63 - 1
DIMS = {
    "negative": [-4, 3],
    "negative-both": [-4, -3],
    "most-negative": [-(2**63), 3],
    "zero": [0, 3],
    "none": [],
    "overflow": [2**32, 2**32],
    "overflow-to-fit": [2**62, 4, 3],
    "most": [MOST, MOST, MOST],
    "too-large": [2**40, 3],
    "too-small": [2, 3],
    "rank-65": [1] * 63 + [4, 3],
    "rank-100k": [1] * 100_000,
    "rank-100k-huge": [2**62] * 100_000,
    "zero-among-huge": [2**62, 2**62, 0],
}
RAWS = {
    "empty": b"",
    "one-byte": b"\0",
    "short": RAW[:-1],
    "short-row": RAW[:-12],
    "long": RAW + b"\0",
    "twice": RAW * 2,
}

CASES: list[Hostile] = family(
    "tensor",
    each({f"dims-{key}": weight(dims=dims, raw_data=RAW) for key, dims in DIMS.items()}),
    each({f"unread-dims-{key}": beside(dims=DIMS[key], raw_data=RAW) for key in ("negative", "overflow-to-fit", "too-large", "rank-100k-huge")}),
    each({f"integers-dims-{key}": beside(data_type=TensorProto.INT64, dims=DIMS[key], raw_data=RAW) for key in ("negative", "overflow", "too-large", "most")}),
    each({f"constant-dims-{key}": constant(dims=DIMS[key], raw_data=RAW) for key in ("negative", "overflow-to-fit", "too-large")}),
    each({f"raw-{key}": weight(dims=[4, 3], raw_data=raw) for key, raw in RAWS.items()}),
    each({f"integers-raw-{key}": beside(data_type=TensorProto.INT64, dims=[6], raw_data=raw) for key, raw in RAWS.items()}),
    case("floats-short", weight(dims=[4, 3], float_data=[1.0] * 11)),
    case("floats-long", weight(dims=[4, 3], float_data=[1.0] * 13)),
    case("no-values", weight(dims=[4, 3])),
    case("raw-and-floats", weight(dims=[4, 3], raw_data=RAW, float_data=[2.0] * 12)),
    case("raw-and-integers", weight(dims=[4, 3], raw_data=RAW, int32_data=[2] * 12)),
    case("integers-of-a-float", weight(dims=[4, 3], int32_data=[2] * 12)),
    case("floats-of-a-double", doubled),
    case("doubles-of-a-float", weight(dims=[4, 3], double_data=[2.0] * 12)),
    case("segment", beside(dims=[12], raw_data=RAW, segment=TensorProto.Segment(begin=0, end=2**40)), *HARMLESS),
    case("bytes-beyond", beside(data_type=TensorProto.UINT8, dims=[3], int32_data=[-1, 256, 2**31 - 1]), *HARMLESS),
    case("halves-beyond", beside(data_type=TensorProto.FLOAT16, dims=[2], int32_data=[-1, 2**31 - 1]), *HARMLESS),
    case("bools-beyond", beside(data_type=TensorProto.BOOL, dims=[2], int32_data=[-1, 77]), *HARMLESS),
    case("nibbles-short", beside(data_type=TensorProto.INT4, dims=[9], raw_data=b"\0"), *HARMLESS),
    case("nibbles-beyond", beside(data_type=TensorProto.UINT4, dims=[2], int32_data=[2**31 - 1]), *HARMLESS),
    each({f"dtype-{kind}": beside(data_type=kind, dims=[12], raw_data=RAW) for kind in (0, 30, 99, 1000, 2**31 - 1, -1, -(2**31))}),
    each({f"dtype-of-read-{kind}": weight(data_type=kind, dims=[4, 3], raw_data=RAW) for kind in (0, 99)}),
    case("complex", beside(data_type=TensorProto.COMPLEX64, dims=[1], float_data=[1.0, 2.0]), *HARMLESS),
    case("complex-short", beside(data_type=TensorProto.COMPLEX128, dims=[4], double_data=[1.0]), *HARMLESS),
    case("float8", beside(data_type=TensorProto.FLOAT8E4M3FN, dims=[2], raw_data=b"\xff\x7f"), *HARMLESS),
    case("float8-short", beside(data_type=TensorProto.FLOAT8E5M2, dims=[20], raw_data=b"\xff"), *HARMLESS),
    case("strings-raw", beside(data_type=TensorProto.STRING, dims=[1], raw_data=b"x")),
    case("strings-short", strings(2, dims=[3]), *HARMLESS),
    case("strings-long", strings(4, dims=[3]), *HARMLESS),
    case("strings-no-text", beside(data_type=TensorProto.STRING, dims=[1], string_data=[b"\xff\xfe\0\x1b"]), *HARMLESS),
    case("strings-million", strings(1_000_000, dims=[1_000_000]), *HARMLESS),
    each({f"values-{key}": filled(content) for key, content in {"nan": np.nan, "infinite": np.inf, "minus-infinite": -np.inf, "denormal": 1e-45, "largest": 3.4e38}.items()}, "ready"),
    case("weights-zero", filled(0.0), "ready"),
    each({
        "sparse-index-negative": sparse([-1, 2], [12]),
        "sparse-index-beyond": sparse([0, 12], [12]),
        "sparse-index-huge": sparse([0, MOST], [12]),
        "sparse-index-twice": sparse([3, 3], [12]),
        "sparse-unordered": sparse([5, 3], [12]),
        "sparse-too-few-indices": sparse([1], [12]),
        "sparse-too-many-indices": sparse([1, 2, 3], [12]),
        "sparse-indices-of-wrong-rank": sparse([0, 0, 1, 1, 0, 0], [4, 3], [2, 3]),
        "sparse-indices-rank-3": sparse([0, 1], [12], [1, 1, 2]),
        "sparse-shape-overflows": sparse([0, 1], [2**62, 8]),
        "sparse-shape-negative": sparse([0, 1], [-12]),
        "sparse-no-shape": sparse([0, 1], []),
    }),
    case("sparse-shape-huge", sparse([0, 1], [2**62]), *HARMLESS),
)  # fmt: skip
