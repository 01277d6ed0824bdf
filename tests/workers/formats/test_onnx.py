"""ONNX: what inspection finds in real and made models, and what it refuses."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from app.errors import InvalidModel, SignatureMismatch, UnsupportedFormat
from tests.workers.formats.uploads import (
    external,
    facts_of,
    graph_model,
    inspected,
    linear,
    package_file,
    saved,
    tarred,
    tensor,
    value,
    zipped,
)
from workers.model_handle import ModelHandle

REAL = {
    "magika": package_file("magika", "models/standard_v3_3/model.onnx"),
    "silero-vad": package_file("silero_vad", "data/silero_vad.onnx"),
    "rapidocr": package_file("rapidocr", "models/PP-OCRv6_rec_small.onnx"),
    "rapidocr-cls": package_file("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"),
}
DTYPES = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(int64)": "int64"}


@pytest.mark.parametrize("name", REAL)
def test_real_models_are_described_as_onnx_runtime_sees_them(name: str, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(REAL[name].read_bytes())
    found = inspected(file)
    session = onnxruntime.InferenceSession(str(REAL[name]), providers=["CPUExecutionProvider"])
    for side, entries in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        shown = found["signature"][side]
        assert [entry["name"] for entry in shown] == [entry.name for entry in entries]
        assert [entry["dtype"] for entry in shown] == [DTYPES[entry.type] for entry in entries]
        assert [len(entry["shape"]) for entry in shown] == [len(entry.shape) for entry in entries]
    facts = found["facts"]
    weights = sum(np.prod(tensor.dims, dtype=int) for tensor in onnx.load(REAL[name]).graph.initializer)
    assert facts["parameters"] >= weights
    assert facts["size_bytes"] == REAL[name].stat().st_size
    assert facts["precision"] == "fp32"
    assert facts["flops"] > 0
    assert not facts["over_2gb"]
    assert sum(facts["operators"].values()) >= len(onnx.load(REAL[name]).graph.node)


def test_nodes_inside_an_if_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(REAL["silero-vad"].read_bytes())
    operators = inspected(file)["facts"]["operators"]
    assert operators["If"] > 0
    assert operators["Conv"] > 0  # every convolution lies in a branch
    assert not any(node.op_type == "Conv" for node in onnx.load(REAL["silero-vad"]).graph.node)


def test_free_dimensions_keep_their_names_and_initializers_are_no_inputs(tmp_path: Path) -> None:
    model = graph_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", ["batch", None, 4]), value("w", [4, 3])],
        [value("y", ["batch", None, "classes"])],
        [tensor("w", np.ones((4, 3)))],
    )
    signature = inspected(saved(model, tmp_path / "m"))["signature"]
    assert signature["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", None, 4]}]
    assert signature["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["batch", None, 3]}]


def test_free_dimensions_can_be_fixed_by_declaring_them(tmp_path: Path) -> None:
    file = saved(linear(), tmp_path / "m")

    def declare(name: str, dtype: str, shape: list[object]) -> list[object]:
        signature = {"inputs": [{"name": name, "dtype": dtype, "shape": shape}], "outputs": []}
        shown = inspected(file, declared={"signature": signature})["signature"]["inputs"][0]["shape"]
        assert isinstance(shown, list)
        return shown

    assert declare("x", "float32", [8, 4]) == [8, 4]
    assert declare("x", "float32", ["n", None]) == ["batch", 4]
    for wrong in (
        ("z", "float32", [1, 4]),
        ("x", "int64", [1, 4]),
        ("x", "float32", [1, 5]),
        ("x", "float32", [4]),
    ):
        with pytest.raises(SignatureMismatch) as caught:
            declare(*wrong)
        assert caught.value.param == "signature"


def test_parameters_are_elements_constants_and_subgraphs_included(tmp_path: Path) -> None:
    branch = [
        helper.make_graph(
            [helper.make_node("Add", ["x", f"b{number}"], [f"o{number}"])], "branch", [], [value(f"o{number}", [4])],
            [tensor(f"b{number}", np.ones(4))],
        )
        for number in range(2)
    ]  # fmt: skip
    model = graph_model(
        [
            helper.make_node("Constant", [], ["c"], value=tensor("c", np.ones(4), np.float16)),
            helper.make_node("Cast", ["c"], ["cf"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["x", "cf"], ["s"]),
            helper.make_node("If", ["flag"], ["y"], then_branch=branch[0], else_branch=branch[1]),
        ],
        [value("x", [4]), value("flag", [], TensorProto.BOOL)],
        [value("y", [4]), value("s", [4])],
    )
    facts = facts_of(model, tmp_path)
    assert facts["parameters"] == 12
    assert facts["operators"] == {"Add": 3, "Constant": 1, "Cast": 1, "If": 1}
    assert facts["control_flow"] == {"Add": 2}


def test_model_functions_are_looked_into(tmp_path: Path) -> None:
    function = helper.make_function(
        "own", "Twice", ["a", "b"], ["d"],
        [helper.make_node("MatMul", ["a", "b"], ["c"]), helper.make_node("Add", ["c", "c"], ["d"])],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    model = graph_model(
        [helper.make_node("Twice", ["x", "w"], ["y"], domain="own")],
        [value("x", [2, 4])],
        [value("y", [2, 3])],
        [tensor("w", np.ones((4, 3)))],
        domains=["own"],
        functions=[function],
    )
    facts = facts_of(model, tmp_path)
    assert facts["operators"] == {"MatMul": 1, "Add": 1}
    assert facts["custom_domains"] == []
    assert facts["flops"] == 2 * 2 * 4 * 3


def test_custom_domains_are_listed_not_judged(tmp_path: Path) -> None:
    model = graph_model(
        [
            helper.make_node("Gelu", ["x"], ["h"], domain="com.microsoft"),
            helper.make_node("Magic", ["h"], ["y"], domain="my.own"),
        ],
        [value("x", [2])],
        [value("y", [2])],
        domains=["com.microsoft", "my.own"],
    )
    facts = facts_of(model, tmp_path)
    assert facts["custom_domains"] == ["com.microsoft", "my.own"]
    assert facts["domains"] == {"": 18, "com.microsoft": 1, "my.own": 1}
    assert facts["opset"] == 18


def _quantized(*nodes: tuple[str, str]) -> onnx.ModelProto:
    """A model that holds these operators; types do not matter to what is looked at."""
    made = [
        helper.make_node(kind, ["x"], [f"v{number}"], domain=domain)
        for number, (kind, domain) in enumerate(nodes)
    ]
    return graph_model(made, [value("x", [2])], [value("x", [2])], domains=["com.microsoft"])


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        (linear(), "fp32"),
        (linear(tensor("w", np.ones((4, 3)), np.float16)), "fp16"),
        (_quantized(("QuantizeLinear", ""), ("DequantizeLinear", "")), "int8"),
        (_quantized(("QLinearConv", "")), "int8"),
        (_quantized(("DynamicQuantizeLinear", ""), ("MatMulInteger", "")), "int8-dynamic"),
        (_quantized(("MatMulInteger", "")), "int8-dynamic"),
        (_quantized(("DequantizeLinear", "")), "weights-8bit"),
        (_quantized(("MatMulNBits", "com.microsoft")), "weights-4bit"),
    ],
)  # fmt: skip
def test_the_precision_is_read_from_operators_and_weights(model: onnx.ModelProto, precision: str) -> None:
    from workers.formats.onnx import precision_of

    assert precision_of(model) == precision


def test_half_and_full_weights_together_are_mixed() -> None:
    from workers.formats.onnx import precision_of

    model = linear(tensor("w", np.ones((4, 3)), np.float16))
    model.graph.initializer.append(tensor("v", np.ones(12)))
    assert precision_of(model) == "mixed"


def test_weights_that_are_not_finite_are_warned_of(tmp_path: Path) -> None:
    values = np.ones((4, 3))
    values[1, 2], values[0, 0] = np.nan, np.inf
    (text,) = facts_of(linear(tensor("w", values)), tmp_path)["warnings"]
    assert "2 of the 12 values of 'w'" in text
    assert facts_of(linear(), tmp_path)["warnings"] == []


def test_shapes_that_contradict_each_other_are_warned_of(tmp_path: Path) -> None:
    (text,) = facts_of(linear(tensor("w", np.ones((5, 3)))), tmp_path)["warnings"]
    assert "MatMul" in text


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (graph_model([helper.make_node("Bogus", ["x"], ["y"])], [value("x", [1])], [value("y", [1])]), "Bogus"),
        (graph_model([helper.make_node("Relu", ["z"], ["y"])], [value("x", [1])], [value("y", [1])]), "z"),
        (graph_model([helper.make_node("Relu", ["x"], ["y"])], [value("x", None)], [value("y", [1])]), "shape"),
    ],
)  # fmt: skip
def test_what_the_checker_refuses_is_refused(model: onnx.ModelProto, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=said):
        inspected(saved(model, tmp_path / "m"))


def test_inputs_that_are_no_tensors_are_refused_with_their_kind(tmp_path: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [2])
    model = graph_model(
        [helper.make_node("SequenceLength", ["x"], ["y"])], [sequence], [value("y", [], TensorProto.INT64)]
    )
    with pytest.raises(InvalidModel, match="sequence_type") as caught:
        inspected(saved(model, tmp_path / "m"))
    assert caught.value.node == "x"


def test_external_weights_inside_an_archive(tmp_path: Path) -> None:
    weight = external("w", [4, 3], location="data/w.bin", offset="16", length="48")
    members = [("net/m.onnx", linear(weight).SerializeToString()), ("net/data/w.bin", bytes(64))]
    for file in (zipped(tmp_path / "a.zip", members), tarred(tmp_path / "a.tar.gz", members, "w:gz")):
        found = inspected(file)
        assert found["facts"]["entry"] == "m.onnx"
        assert found["facts"]["parameters"] == 12
        assert found["facts"]["size_bytes"] == len(members[0][1]) + 64
        assert (Path(found["root"]) / "data/w.bin").stat().st_size == 64


def test_external_weights_that_are_not_finite_are_warned_of(tmp_path: Path) -> None:
    values = np.ones(12, np.float32)
    values[5] = np.nan
    weight = external("w", [4, 3], location="w.bin")
    members = [("m.onnx", linear(weight).SerializeToString()), ("w.bin", values.tobytes())]
    (text,) = inspected(zipped(tmp_path / "a", members))["facts"]["warnings"]
    assert "1 of the 12 values of 'w'" in text


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"location": "/etc/passwd"}, "outside"),
        ({"location": "../w.bin"}, "outside"),
        ({"location": "a\\w.bin"}, "outside"),
        ({}, "outside"),
        ({"location": "other.bin"}, "not uploaded"),
        ({"location": "w.bin", "offset": "40", "length": "48"}, "reach from byte 40 to 88"),
        ({"location": "w.bin", "offset": "90"}, "reach from byte 90"),
        ({"location": "w.bin", "length": "44"}, "need 48 bytes and have 44"),
        ({"location": "w.bin", "offset": "-4"}, "no number"),
        ({"location": "w.bin", "offset": "1e3"}, "no number"),
        ({"location": "w.bin", "length": "9" * 30}, "no number"),
    ],
)
def test_references_to_weights_that_are_not_true_are_refused(
    told: dict[str, str], said: str, tmp_path: Path
) -> None:
    members = [("m.onnx", linear(external("w", [4, 3], **told)).SerializeToString()), ("w.bin", bytes(64))]
    with pytest.raises(InvalidModel, match=said) as caught:
        inspected(zipped(tmp_path / "a", members))
    assert caught.value.node == "w"


def test_a_reference_that_says_two_things_is_refused(tmp_path: Path) -> None:
    weight = external("w", [4, 3], location="../../secret")
    weight.external_data.add(key="location", value="w.bin")
    members = [("m.onnx", linear(weight).SerializeToString()), ("w.bin", bytes(48))]
    with pytest.raises(InvalidModel, match="ambiguous"):
        inspected(zipped(tmp_path / "a", members))


def test_a_reference_inside_a_subgraph_or_attribute_is_held_to_the_same(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["o"], value=external("o", [4], location="/etc/passwd"))
    branch = helper.make_graph([constant], "branch", [], [value("o", [4])])
    model = graph_model(
        [helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)],
        [value("flag", [], TensorProto.BOOL)],
        [value("y", [4])],
    )
    with pytest.raises(InvalidModel, match="outside"):
        inspected(saved(model, tmp_path / "m"))


def test_impossible_tensors_are_refused(tmp_path: Path) -> None:
    for dims in ([-4, 3], [2**40, 2**40]):
        weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(48))
        with pytest.raises(InvalidModel):
            inspected(saved(linear(weight), tmp_path / "m"))
    odd = TensorProto(name="w", data_type=99, dims=[4, 3], raw_data=bytes(48))
    with pytest.raises(InvalidModel):
        inspected(saved(linear(odd), tmp_path / "m"))
    short = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3], raw_data=bytes(40))
    with pytest.raises(InvalidModel, match="fit its shape"):
        inspected(saved(linear(short), tmp_path / "m"))


def test_the_model_of_an_archive_is_the_only_one_or_the_one_at_the_top(tmp_path: Path) -> None:
    data = linear().SerializeToString()
    top = zipped(tmp_path / "top", [("m.onnx", data), ("parts/a.onnx", b"x"), ("parts/b.onnx", b"x")])
    assert inspected(top)["facts"]["entry"] == "m.onnx"
    deep = zipped(tmp_path / "deep", [("net/onnx/m.onnx", data), ("net/README", b"x")])
    assert inspected(deep)["facts"]["entry"] == "onnx/m.onnx"
    for names in (("a/m.onnx", "b/m.onnx"), ("a.onnx", "b.onnx")):
        with pytest.raises(UnsupportedFormat, match="several") as caught:
            inspected(zipped(tmp_path / "several", [(name, data) for name in names]))
        assert all(name in caught.value.detail for name in names)


def test_weights_load_from_the_links_that_the_store_lays_out(tmp_path: Path) -> None:
    """`onnx.load` refuses files with several hard links; stored models have them."""
    values = np.arange(12, dtype=np.float32)
    (tmp_path / "blob").write_bytes(bytes(16) + values.tobytes())
    root = tmp_path / "tree"
    root.mkdir()
    os.link(tmp_path / "blob", root / "w.bin")
    saved(linear(external("w", [4, 3], location="w.bin", offset="16")), root / "m.onnx")
    loaded = ModelHandle(root, "m.onnx", "onnx", "0" * 64).load_onnx()
    assert onnx.numpy_helper.to_array(loaded.graph.initializer[0]).tolist() == values.reshape(4, 3).tolist()
    onnx.checker.check_model(loaded, full_check=True)
    session = onnxruntime.InferenceSession(loaded.SerializeToString(), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"x": np.ones((1, 4), np.float32)})
    assert out.tolist() == [[18.0, 22.0, 26.0]]


def test_a_model_over_2gb_is_inspected_in_constant_memory(tmp_path: Path) -> None:
    """2.2 GB of weights in a sparse file: checked, scanned and described with a small part of it in memory."""
    rows = 550 * 1024 * 1024 // 64
    root = tmp_path / "tree"
    root.mkdir()
    with (root / "w.bin").open("wb") as file:
        file.truncate(rows * 64 * 4)
    weight = external("w", [64, rows], location="w.bin", offset="0", length=str(rows * 64 * 4))
    model = graph_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", ["n", 64])],
        [value("y", ["n", rows])],
        [weight],
    )
    saved(model, root / "m.onnx")
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from workers.formats import onnx\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "root, before = Path(sys.argv[1]), peak()\n"
        "facts = onnx.describe(root, 'm.onnx', onnx.check(root, 'm.onnx'))['facts']\n"
        "print((peak() - before) // 1024, facts['over_2gb'], facts['parameters'], facts['flops'])\n"
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    megabytes, over, parameters, flops = done.stdout.split()
    assert int(megabytes) < 200
    assert (over, int(parameters), int(flops)) == ("True", rows * 64, 2 * rows * 64)


def test_a_damaged_model_is_never_our_mistake(
    tmp_path: Path, damaged: Callable[[bytes], list[bytes]]
) -> None:
    for data in damaged(linear().SerializeToString()):
        (tmp_path / "m").write_bytes(data)
        try:
            inspected(tmp_path / "m")
        except (InvalidModel, UnsupportedFormat):
            continue
