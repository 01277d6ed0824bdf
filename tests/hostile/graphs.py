"""Graphs that are no networks: cycles, depth, breadth, recursion, parts that are missing or there twice."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.hostile.case import Hostile, case, each, family
from tests.workers.formats.uploads import graph_model, linear, tensor, value

BOOL = TensorProto.BOOL
Model = onnx.ModelProto


def changed(change: Callable[[Model], object], model: Callable[[], Model] = linear) -> Callable[[], bytes]:
    """A sound model after one change."""

    def make() -> bytes:
        whole = model()
        change(whole)
        return whole.SerializeToString()

    return make


def nodes(*made: onnx.NodeProto, weights: tuple[TensorProto, ...] = ()) -> bytes:
    """x (4) to y (4) through these nodes."""
    return graph_model(list(made), [value("x", [4])], [value("y", [4])], weights).SerializeToString()


def node(operator: str, inputs: str = "x", outputs: str = "y", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def nested_ifs(depth: int) -> bytes:
    graph = helper.make_graph([node("Identity", "x", "o0")], "g", [], [value("o0", [4])])
    for level in range(1, depth):
        inner = node(
            "If", "flag", f"o{level}", then_branch=graph, else_branch=graph if level == 1 else bottom(level)
        )
        graph = helper.make_graph([inner], "g", [], [value(f"o{level}", [4])])
    top = node("If", "flag", "y", then_branch=graph, else_branch=bottom(depth))
    return graph_model(
        [top], [value("x", [4]), value("flag", [], BOOL)], [value("y", [4])]
    ).SerializeToString()


def bottom(level: int) -> onnx.GraphProto:
    return helper.make_graph([node("Identity", "x", f"e{level}")], "e", [], [value(f"e{level}", [4])])


def nested_loops(depth: int) -> bytes:
    """Loops in loops, each of 2^62 rounds."""
    graph = None
    for level in range(depth):
        names = [f"{what}{level}" for what in ("i", "c", "v", "co", "vo")]
        i, c, v, co, vo = names
        inner = [node("Identity", c, co)]
        if graph is None:
            inner.append(node("Identity", v, vo))
        else:
            inner.append(node("Loop", f"trips {c} {v}", vo, body=graph))
        graph = helper.make_graph(
            inner, "body", [value(i, [], TensorProto.INT64), value(c, [], BOOL), value(v, [4])],
            [value(co, [], BOOL), value(vo, [4])],
        )  # fmt: skip
    top = node("Loop", "trips flag x", "y", body=graph)
    weights = (tensor("trips", 2**62, np.int64), tensor("flag", True, np.bool_))
    return nodes(top, weights=weights)


def chain(count: int) -> bytes:
    made = [helper.make_node("Relu", ["x" if i == 0 else f"h{i}"], [f"h{i + 1}"]) for i in range(count)]
    return nodes(*made, node("Relu", f"h{count}", "y"))


def wide(count: int) -> bytes:
    """One node of very many inputs."""
    return nodes(node("Sum", " ".join(["x"] * count)))


def many_inputs(count: int) -> bytes:
    inputs = [value(f"x{number}", [4]) for number in range(count)]
    return graph_model([node("Identity", "x0")], inputs, [value("y", [4])]).SerializeToString()


def many_outputs(count: int) -> bytes:
    made = [node("Identity", "x", f"y{number}") for number in range(count)]
    outputs = [value(f"y{number}", [4]) for number in range(count)]
    return graph_model(made, [value("x", [4])], outputs).SerializeToString()


def functions(calls: dict[str, list[str]]) -> bytes:
    """A model whose functions each call others, one behind another."""
    made = []
    for name, called in calls.items():
        names = ["a", *(f"t{number}" for number in range(1, len(called))), "b"]
        body = [
            helper.make_node(
                other, [names[number]], [names[number + 1]], domain="" if other == "Relu" else "own"
            )
            for number, other in enumerate(called)
        ]
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        made.append(helper.make_function("own", name, ["a"], ["b"], body, opsets))
    top = helper.make_node(next(iter(calls)), ["x"], ["y"], domain="own")
    model = graph_model([top], [value("x", [4])], [value("y", [4])], domains=["own"], functions=made)
    return model.SerializeToString()


def laughs(levels: int, calls: int) -> bytes:
    """Each function calls the next several times: calls^levels nodes once they are inlined."""
    table = {f"f{level}": [f"f{level + 1}"] * calls for level in range(levels)}
    return functions({**table, f"f{levels}": ["Relu"]})


def function_twice() -> bytes:
    model = onnx.ModelProto.FromString(functions({"f": ["Relu"]}))
    model.functions.append(model.functions[0])
    return model.SerializeToString()


def training() -> bytes:
    model = linear()
    info = model.training_info.add()
    info.algorithm.CopyFrom(model.graph)
    info.initialization.CopyFrom(model.graph)
    return model.SerializeToString()


def typed_output(kind: str) -> Callable[[], bytes]:
    def change(model: Model) -> None:
        model.graph.output[0].type.Clear()
        if kind == "sequence":
            model.graph.output[0].type.sequence_type.elem_type.tensor_type.elem_type = 1
        elif kind == "map":
            model.graph.output[0].type.map_type.key_type = 7
        elif kind == "optional":
            model.graph.output[0].type.optional_type.elem_type.tensor_type.elem_type = 1
        elif kind == "sparse":
            model.graph.output[0].type.sparse_tensor_type.elem_type = 1

    return changed(change)


def attribute(operator: str, **fields: object) -> Callable[[], bytes]:
    """A node whose attribute says one type and holds another."""

    def make() -> bytes:
        made = node(operator)
        held = made.attribute.add()
        for name, content in fields.items():
            if isinstance(content, list):
                getattr(held, name).extend(content)
            else:
                setattr(held, name, content)
        return nodes(made)

    return make


def opset(version: int, domain: str = "") -> Callable[[Model], object]:
    return lambda model: (
        model.ClearField("opset_import"),
        model.opset_import.add(domain=domain, version=version),
    )


ATTRIBUTES = onnx.AttributeProto
HARMLESS = ("ready", "invalid_model")

CASES: list[Hostile] = family(
    "graph",
    case("cycle", lambda: nodes(node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b"))),
    case("self-loop", lambda: nodes(node("Add", "x y", "y"))),
    case("long-cycle", lambda: nodes(node("Add", "x h999", "h0"), *(node("Relu", f"h{i}", f"h{i + 1}") for i in range(999)), node("Relu", "h5"))),
    case("backwards", lambda: nodes(node("Relu", "h", "y"), node("Relu", "x", "h"))),
    case("output-from-nowhere", lambda: nodes(node("Relu", "x", "z"))),
    case("input-from-nowhere", lambda: nodes(node("Add", "x ghost"))),
    case("output-twice", lambda: nodes(node("Relu"), node("Abs"))),
    case("writes-its-input", lambda: nodes(node("Relu", "x", "x"), node("Relu"))),
    case("writes-a-weight", lambda: nodes(node("Relu", "x", "w"), node("Relu"), weights=(tensor("w", [1.0]),))),
    case("no-graph", changed(lambda m: m.ClearField("graph"))),
    case("empty-graph", changed(lambda m: m.graph.Clear())),
    case("no-nodes", changed(lambda m: m.graph.ClearField("node"))),
    case("no-outputs", changed(lambda m: m.graph.ClearField("output"))),
    case("no-inputs", changed(lambda m: m.graph.ClearField("input"))),
    case("no-graph-name", changed(lambda m: m.graph.ClearField("name"))),
    case("input-twice", changed(lambda m: m.graph.input.add().CopyFrom(m.graph.input[0]))),
    case("output-listed-twice", changed(lambda m: m.graph.output.add().CopyFrom(m.graph.output[0]))),
    case("weight-twice", changed(lambda m: m.graph.initializer.add().CopyFrom(m.graph.initializer[0]))),
    case("weight-is-an-output", changed(lambda m: m.graph.output.add().CopyFrom(value("w", [4, 3]))), *HARMLESS),
    case("input-is-an-output", changed(lambda m: m.graph.output.add().CopyFrom(m.graph.input[0])), *HARMLESS),
    case("nodes-named-alike", lambda: nodes(helper.make_node("Relu", ["x"], ["h"], name="n"), helper.make_node("Relu", ["h"], ["y"], name="n")), *HARMLESS),
    case("nameless-input", changed(lambda m: setattr(m.graph.input[0], "name", ""))),
    case("nameless-output", changed(lambda m: setattr(m.graph.output[0], "name", ""))),
    case("nameless-weight", changed(lambda m: setattr(m.graph.initializer[0], "name", ""))),
    case("input-without-type", changed(lambda m: m.graph.input[0].ClearField("type"))),
    case("input-without-shape", changed(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")), ),
    case("input-of-no-dtype", changed(lambda m: m.graph.input[0].type.tensor_type.ClearField("elem_type"))),
    each({f"input-dtype-{kind}": changed(lambda m, kind=kind: setattr(m.graph.input[0].type.tensor_type, "elem_type", kind)) for kind in (-1, 99, 2**31 - 1)}),
    each({f"output-{kind}": typed_output(kind) for kind in ("nothing", "sequence", "map", "optional", "sparse")}),
    each({f"input-dimension-{size}": changed(lambda m, size=size: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", size)) for size in (0, -1, -(2**63))}, *HARMLESS),
    case("input-dimension-huge", changed(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 2**63 - 1)), *HARMLESS),
    case("input-rank-1000", changed(lambda m: [m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=2**40) for _ in range(1000)]), *HARMLESS),
    case("input-rank-20k", changed(lambda m: [m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=2**62) for _ in range(20_000)])),
    case("value-rank-100k", changed(lambda m: m.graph.value_info.add().CopyFrom(value("y", [2**62] * 100_000))), *HARMLESS),
    case("no-opset", changed(lambda m: m.ClearField("opset_import"))),
    each({f"opset-{version}": changed(opset(version)) for version in (0, -1, 9999, 2**63 - 1, -(2**63))}),
    case("opset-1", changed(opset(1)), *HARMLESS),
    case("opset-of-another-domain", changed(opset(1, "ai.onnx.ml")), "invalid_model"),
    case("opset-twice", changed(lambda m: m.opset_import.add(domain="", version=7)), *HARMLESS),
    case("opsets-100k", changed(lambda m: [m.opset_import.add(domain=f"d{i}", version=1) for i in range(100_000)])),
    each({f"ir-{version}": changed(lambda m, version=version: setattr(m, "ir_version", version)) for version in (0, -1, 999, 2**63 - 1)}),
    case("no-ir", changed(lambda m: m.ClearField("ir_version"))),
    case("ir-1", changed(lambda m: setattr(m, "ir_version", 1)), *HARMLESS),
    case("unknown-operator", lambda: nodes(node("Explode"))),
    case("nameless-operator", lambda: nodes(node(""))),
    case("unknown-domain", lambda: nodes(helper.make_node("Relu", ["x"], ["y"], domain="com.evil"))),
    case("too-few-inputs", lambda: nodes(node("Add", "x"))),
    case("too-many-inputs", lambda: nodes(node("Relu", "x x x"))),
    case("no-outputs-of-a-node", lambda: nodes(helper.make_node("Relu", ["x"], []), node("Relu"))),
    case("wrong-dtype", lambda: nodes(node("Cast", "x", "i", to=TensorProto.INT64), node("Add", "x i")), *HARMLESS),
    case("shapes-contradict", lambda: nodes(node("Add", "x w"), weights=(tensor("w", np.ones(5)),)), *HARMLESS),
    case("cast-to-nothing", lambda: nodes(node("Cast", to=0)), *HARMLESS),
    case("cast-to-99", lambda: nodes(node("Cast", to=99)), *HARMLESS),
    case("quantized-axis", lambda: nodes(node("DequantizeLinear", "w s", "d", axis=99), node("Add", "x d"), weights=(tensor("w", [1, 2, 3, 4], np.int8), tensor("s", [1.0, 2, 3, 4]))), *HARMLESS),
    case("quantized-scales", lambda: nodes(node("DequantizeLinear", "w s", "d"), node("Add", "x d"), weights=(tensor("w", [1, 2, 3, 4], np.int8), tensor("s", np.zeros((2, 2, 2))))), *HARMLESS),
    case("constant-of-nothing", lambda: nodes(helper.make_node("Constant", [], ["c"]), node("Add", "x c")), *HARMLESS),
    case("constant-of-two", lambda: nodes(helper.make_node("Constant", [], ["c"], value_float=1.0, value_int=2), node("Add", "x c")), *HARMLESS),
    case("constant-strings", lambda: nodes(helper.make_node("Constant", [], ["c"], value_strings=["s" * 100] * 100_000), node("Relu")), *HARMLESS),
    case("attribute-no-type", attribute("LeakyRelu", name="alpha", f=1.0)),
    case("attribute-type-lies", attribute("LeakyRelu", name="alpha", i=7, type=ATTRIBUTES.FLOAT)),
    case("attribute-of-wrong-type", attribute("LeakyRelu", name="alpha", s=b"x", type=ATTRIBUTES.STRING)),
    case("attribute-two-values", attribute("LeakyRelu", name="alpha", f=1.0, s=b"x", type=ATTRIBUTES.FLOAT)),
    case("attribute-graph-missing", attribute("If", name="then_branch", type=ATTRIBUTES.GRAPH)),
    case("attribute-tensor-missing", attribute("Constant", name="value", type=ATTRIBUTES.TENSOR)),
    case("attribute-unknown-type", attribute("LeakyRelu", name="alpha", f=1.0, type=14)),
    case("attribute-nameless", attribute("LeakyRelu", f=1.0, type=ATTRIBUTES.FLOAT)),
    case("attribute-refers", attribute("LeakyRelu", name="alpha", ref_attr_name="a", type=ATTRIBUTES.FLOAT), *HARMLESS),
    case("attribute-twice", lambda: nodes(node("LeakyRelu", alpha=1.0), node("LeakyRelu", "x", "z", alpha=2.0)).replace(b"alpha", b"alphb"), *HARMLESS),
    case("attribute-giant", attribute("Split", name="split", ints=[1] * 500_000, type=ATTRIBUTES.INTS)),
    case("axis-huge", lambda: nodes(node("Concat", "x x", axis=2**62)), *HARMLESS),
    case("permutation-wild", lambda: nodes(node("Transpose", perm=[7, -9, 2**40])), *HARMLESS),
    case("ifs-10", lambda: nested_ifs(10), *HARMLESS),
    case("ifs-30", lambda: nested_ifs(30), *HARMLESS),
    case("loops-5", lambda: nested_loops(5), *HARMLESS),
    case("loops-30", lambda: nested_loops(30), *HARMLESS),
    case("if-without-branches", lambda: graph_model([node("If", "flag")], [value("flag", [], BOOL)], [value("y", [4])]).SerializeToString()),
    case("loop-body-of-wrong-form", lambda: nodes(node("Loop", "t f x", body=bottom(0)), weights=(tensor("t", 3, np.int64), tensor("f", True, np.bool_))), *HARMLESS),
    case("scan-of-nothing", lambda: nodes(node("Scan", body=bottom(0), num_scan_inputs=2**40)), *HARMLESS),
    case("nodes-100k", lambda: chain(100_000), "ready"),
    case("node-of-100k-inputs", lambda: wide(100_000), "ready"),
    case("inputs-20k", lambda: many_inputs(20_000)),
    case("outputs-20k", lambda: many_outputs(20_000)),
    case("functions-end-in-a-laugh", lambda: laughs(99, 100), phrase="nodes"),
    case("function-calls-itself", lambda: functions({"f": ["f"]}), phrase="calls itself"),
    case("functions-call-each-other", lambda: functions({"f": ["g"], "g": ["h"], "h": ["f"]}), phrase="calls itself"),
    case("functions-laugh", lambda: laughs(30, 10), phrase="nodes"),
    case("functions-giggle", lambda: laughs(20, 2), phrase="nodes"),
    case("functions-deep", lambda: laughs(2000, 1)),
    case("function-missing", lambda: functions({"f": ["g"]}), *HARMLESS),
    case("function-twice", function_twice),
    case("function-hides-an-operator", lambda: functions({"Relu": ["Relu"]}), *HARMLESS),
    case("training", training, *HARMLESS),
    case("metadata-giant", changed(lambda m: m.metadata_props.add(key="k" * 1_000_000, value="v" * 1_000_000)), *HARMLESS),
)  # fmt: skip
