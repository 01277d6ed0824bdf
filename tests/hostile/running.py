"""Models that are valid as far as anybody can see, and explode, or never end, once they are folded or run."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.hostile.case import Hostile, case, family
from tests.hostile.graphs import HARMLESS, functions, laughs, nested_ifs, nested_loops, node, nodes, opset
from tests.workers.formats.uploads import graph_model, linear, tensor, value

INT64, BOOL = TensorProto.INT64, TensorProto.BOOL
MOST = 2**63 - 1


def integers(name: str, *numbers: int) -> TensorProto:
    return tensor(name, list(numbers), np.int64)


def summed(*made: onnx.NodeProto, weights: tuple[TensorProto, ...]) -> bytes:
    """What the nodes make (`big`) is summed and added to the input."""
    return nodes(*made, node("ReduceSum", "big", "sum", keepdims=0), node("Add", "x sum"), weights=weights)


def loop(trips: int, *body: onnx.NodeProto, grown: bool = False, scanned: bool = False) -> bytes:
    """v goes round and round through the body; each round's may be kept."""
    shape = ["n"] if grown else [4]
    outputs = [value("co", [], BOOL), value("vo", shape)]
    inner = [node("Identity", "c", "co"), *body]
    if scanned:
        inner.append(node("Identity", "v", "each"))
        outputs.append(value("each", [4]))
    graph = helper.make_graph(
        inner, "body", [value("i", [], INT64), value("c", [], BOOL), value("v", shape)], outputs
    )
    top = node("Loop", "trips go x", "last all" if scanned else "last", body=graph)
    weights = (tensor("trips", trips, np.int64), tensor("go", True, np.bool_))
    return summed(top, node("Identity", "all" if scanned else "last", "big"), weights=weights)


def constant_of_shape(*shape: int) -> bytes:
    return summed(node("ConstantOfShape", "shape", "big"), weights=(integers("shape", *shape),))


def touched(count: int) -> bytes:
    """Memory that is really written: zeros alone are given by the kernel for nothing."""
    return summed(
        node("ConstantOfShape", "shape", "zeros"), node("Exp", "zeros", "ones"), node("Exp", "ones", "big"),
        weights=(integers("shape", count),),
    )  # fmt: skip


def divided() -> bytes:
    """A division of integers by zero, which ends a process that does not look."""
    return nodes(
        node("Cast", "x", "i", to=TensorProto.INT32), node("Div", "i zero", "d"), node("Cast", "d", "y", to=1),
        weights=(tensor("zero", [0], np.int32),),
    )  # fmt: skip


def smallest_divided() -> bytes:
    """The one quotient of integers that fits no integer."""
    return nodes(
        node("Div", "least minus", "d"), node("Cast", "d", "f", to=1), node("Add", "x f"),
        weights=(tensor("least", [-(2**31)], np.int32), tensor("minus", [-1], np.int32)),
    )  # fmt: skip


def inputless() -> bytes:
    made = graph_model([node("Identity", "w")], [], [value("y", [4])], [tensor("w", np.ones(4))])
    return made.SerializeToString()


def old() -> bytes:
    made = linear()
    opset(1)(made)
    return made.SerializeToString()


def own_operator() -> bytes:
    made = helper.make_node("Explode", ["x"], ["y"], domain="com.evil")
    return graph_model([made], [value("x", [4])], [value("y", [4])], domains=["com.evil"]).SerializeToString()


def vast_input() -> bytes:
    return graph_model([node("Relu")], [value("x", [2**40, 4])], [value("y", [2**40, 4])]).SerializeToString()


CASES: list[Hostile] = family(
    "running",
    case("loop-endless", lambda: loop(MOST, node("Identity", "v", "vo")), *HARMLESS),
    case("loop-grows", lambda: loop(60, node("Concat", "v v", "vo", axis=0), grown=True), *HARMLESS),
    case("loop-keeps-all", lambda: loop(2**40, node("Identity", "v", "vo"), scanned=True), *HARMLESS),
    case("loops-in-loops", lambda: nested_loops(8), *HARMLESS),
    case("ifs-in-ifs", lambda: nested_ifs(20), *HARMLESS),
    case("constant-of-2-40", lambda: constant_of_shape(2**40), *HARMLESS),
    case("constant-of-2-62", lambda: constant_of_shape(2**62), *HARMLESS),
    case("constant-overflows", lambda: constant_of_shape(2**40, 2**40), *HARMLESS),
    case("constant-negative", lambda: constant_of_shape(-5), *HARMLESS),
    case("memory-touched", lambda: touched(1_500_000_000), *HARMLESS),
    case("expand", lambda: summed(node("Expand", "x shape", "big"), weights=(integers("shape", 2**36, 4),)), *HARMLESS),
    case("tile", lambda: summed(node("Tile", "x times", "big"), weights=(integers("times", 2**40),)), *HARMLESS),
    case("pad", lambda: summed(node("Pad", "x pads", "big"), weights=(integers("pads", 2**40, 2**40),)), *HARMLESS),
    case("range", lambda: summed(node("Range", "from to by", "r"), node("Cast", "r", "big", to=1), weights=(tensor("from", 0, np.int64), tensor("to", MOST, np.int64), tensor("by", 1, np.int64))), *HARMLESS),
    case("range-by-zero", lambda: summed(node("Range", "from to by", "r"), node("Cast", "r", "big", to=1), weights=(tensor("from", 0, np.int64), tensor("to", 9, np.int64), tensor("by", 0, np.int64))), *HARMLESS),
    case("random", lambda: summed(helper.make_node("RandomNormal", [], ["big"], shape=[2**20, 2**20]), weights=()), *HARMLESS),
    case("one-hot", lambda: summed(node("Cast", "x", "i", to=INT64), node("OneHot", "i depth values", "big"), weights=(integers("depth", 2**40), tensor("values", [0.0, 1.0]))), *HARMLESS),
    case("resize", lambda: summed(node("Resize", "x  scales".replace("  ", " none none "), "big"), weights=(tensor("scales", [1e12]), tensor("none", []))), *HARMLESS),
    case("gather-outside", lambda: nodes(node("Gather", "x far"), weights=(integers("far", 99, -99, 1, 2),)), *HARMLESS),
    case("reshape-wild", lambda: nodes(node("Reshape", "x shape", "r"), node("Add", "x r"), weights=(integers("shape", -1, -1),)), *HARMLESS),
    case("divided-by-zero", divided, *HARMLESS),
    case("smallest-divided", smallest_divided, *HARMLESS),
    case("no-inputs", inputless, phrase="no input"),
    case("vast-input", vast_input, *HARMLESS),
    case("opset-1", old, *HARMLESS),
    case("own-operator", own_operator, "ready"),
    case("function-missing", lambda: functions({"f": ["g"]}), *HARMLESS),
    case("functions-unfold", lambda: laughs(10, 3), *HARMLESS),
)  # fmt: skip
