"""The structure report: layers of uploads, and what passes could save at each."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from app.errors import BurnishError
from tests.workers.formats.uploads import graph_model, inspected, tensor, value
from tests.workers.surgery.residual import Added
from workers.formats.onnx_structure import of_onnx
from workers.surgery import program_structure, structure
from workers.surgery.savings import Weight, savings
from workers.torch.program import Program, TorchModel, export, load_program


class Mixed(nn.Module):
    """(n, 3, 16, 16) to (n, 10): a convolution to separate, a depthwise one, a pointwise one, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16, bias=False)
        self.pointwise = nn.Conv2d(16, 32, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.pointwise(self.depthwise(self.wide(image)).relu()).mean((2, 3)))


SAVINGS = {
    "wide": {
        "depthwise-separable": {"flops": 2 * 256 * (3 * 9 + 3 * 16), "parameters": 3 * 9 + 3 * 16 + 16},
        "prune-weights": {"weights": 16 * 27, "two_of_four": False},
    },
    "depthwise": {"prune-weights": {"weights": 16 * 9, "two_of_four": False}},
    "pointwise": {
        "low-rank": {"break_even_rank": 10},  # 16·32 / (16 + 32) = 10.7
        "prune-weights": {"weights": 16 * 32, "two_of_four": True},
    },
    "head": {
        "low-rank": {"break_even_rank": 7},  # 32·10 / 42 = 7.6
        "prune-weights": {"weights": 320, "two_of_four": True},
    },
}
FLOPS = {
    "wide": 2 * 256 * 16 * 27,
    "depthwise": 2 * 196 * 16 * 9,
    "pointwise": 2 * 196 * 512,
    "head": 2 * 320,
}


@pytest.fixture(scope="module")
def of_program(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.manual_seed(0)
    program = torch.export.export(
        Mixed().eval(), (torch.randn(2, 3, 16, 16),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    file = tmp_path_factory.mktemp("upload") / "m"
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    file.write_bytes(buffer.getvalue())
    return inspected(file)


def test_a_program_is_told_by_its_layers(of_program: dict[str, Any]) -> None:
    told = of_program["structure"]
    layers = {row["name"]: row for row in told["layers"]}
    assert [row["name"] for row in told["layers"]] == ["wide", "depthwise", "pointwise", "head"]
    assert {name: row["flops"] for name, row in layers.items()} == FLOPS
    units = {"wide": 16, "depthwise": 16, "pointwise": 32, "head": 0}
    assert {name: row["savings"].pop("prune-channels") for name, row in layers.items()} == {
        name: {"channels": count or 10, "units": count} for name, count in units.items()
    }
    assert {name: row["savings"] for name, row in layers.items()} == SAVINGS
    assert layers["wide"]["output"] == [16, 16, 16]
    assert told["source"] == "program"
    assert told["flops"] == of_program["facts"]["flops"] == sum(FLOPS.values())
    assert told["parameters"] == of_program["facts"]["parameters"]
    json.dumps(told, allow_nan=False)


def test_layers_of_a_residual_branch_tell_what_goes_with_it() -> None:
    torch.manual_seed(0)
    inner = Added(nn.Linear(8, 8))
    network = nn.Sequential(nn.Linear(4, 8), Added(nn.Sequential(nn.Linear(8, 8), inner)), nn.Linear(8, 2))
    inputs = ({"name": "x", "dtype": "float32", "shape": ["batch", 4]},)
    outputs = ({"name": "y", "dtype": "float32", "shape": ["batch", 2]},)
    program = export(TorchModel(network, inputs, outputs))
    told = program_structure.of_program(Program(program, inputs, outputs))
    one = {"flops": 128, "parameters": 72}
    assert {row["name"]: row["savings"].get("shrink-depth") for row in told["layers"]} == {
        "0": None,
        "1.inner.0": {"branch": "1.inner", **{key: 2 * value for key, value in one.items()}},
        "1.inner.1.inner": {"branch": "1.inner.1.inner", **one},
        "2": None,
    }


def test_a_graph_is_told_by_its_nodes(tmp_path: Path) -> None:
    model = graph_model(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], name="first", pads=[1, 1, 1, 1]),
            helper.make_node("DequantizeLinear", ["q", "scale"], ["d"], name="scales"),
            helper.make_node("Flatten", ["c"], ["f"]),
            helper.make_node("Gemm", ["f", "d"], ["g"], name="product", transB=1),
            helper.make_node("Reshape", ["g", "sizes"], ["y"], name="reshape"),
        ],
        [value("x", ["n", 4, 2, 2])],
        [value("y", ["n", 3, 2])],
        [
            tensor("w", np.zeros((8, 4, 3, 3))),
            tensor("b", np.zeros(8)),
            numpy_helper.from_array(np.zeros((6, 32), np.int8), "q"),
            tensor("scale", np.ones(())),
            numpy_helper.from_array(np.array([-1, 3, 2]), "sizes"),
        ],
    )
    file = tmp_path / "m"
    file.write_bytes(model.SerializeToString())
    result = inspected(file)
    told = result["structure"]
    assert told["source"] == "onnx"
    assert [
        (row["name"], row["kind"], row["parameters"], row["flops"], row["output"]) for row in told["layers"]
    ] == [
        ("first", "Conv", 8 * 36 + 8, 2 * 8 * 4 * 36, [8, 2, 2]),
        ("product", "Gemm", 6 * 32, 2 * 6 * 32, [6]),  # its weights are what was dequantized
    ]
    assert told["layers"][1]["savings"]["low-rank"] == {"break_even_rank": 5}  # 192 / 38
    assert told["flops"] == result["facts"]["flops"]


def test_a_node_of_unknown_shape_says_so() -> None:
    model = graph_model(
        [
            helper.make_node("Unheard", ["x"], ["h"], domain="com.example"),
            helper.make_node("MatMul", ["h", "w"], ["y"], name="lost"),
        ],
        [value("x", [1, 4])],
        [value("y", None)],
        [tensor("w", np.zeros((4, 4)))],
        domains=["com.example"],
    )
    (row,) = of_onnx(model)["layers"]
    assert (row["name"], row["flops"], row["parameters"], row["savings"]) == ("lost", None, 16, {})


def test_many_layers_are_counted_and_not_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "MOST_LAYERS", 2)
    rows = [structure.Row(f"l{number}", "Linear", 3, 4, (1,)) for number in range(5)]
    told = structure.report(rows, "onnx")
    assert (told["parameters"], told["flops"], len(told["layers"]), told["left_out"]) == (15, 20, 2, 3)


def test_a_network_that_cannot_be_counted_is_no_worse_for_it(
    of_program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any) -> Any:
        raise BurnishError("not this one")

    file = Path(of_program["root"]) / of_program["facts"]["entry"]
    plain = [set(one) for one in SAVINGS.values()]
    for name, other in (("couple", refuse), ("MOST_PARAMETERS", 1), ("MOST_FLOPS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(program_structure, name, other)
            told = program_structure.of_program(load_program(file))
        assert [set(row["savings"]) for row in told["layers"]] == plain, name
    monkeypatch.setattr(program_structure, "layers", refuse)
    again = inspected(file)
    assert again["structure"]["source"] == "onnx"
    assert again["structure"]["flops"] == of_program["structure"]["flops"]


def test_savings_count_what_is_left() -> None:
    # 2×2 places of a 3×3 convolution from 8 to 16 channels
    flops = 2 * 4 * 16 * 8 * 9
    assert savings(Weight((16, 8, 3, 3), convolution=True, bias=16), flops) == {
        "depthwise-separable": {"flops": 2 * 4 * (8 * 9 + 8 * 16), "parameters": 8 * 9 + 8 * 16 + 16},
        "prune-weights": {"weights": 16 * 72, "two_of_four": True},
    }
    assert savings(Weight((16, 0), convolution=False), 0) == {}
    assert "low-rank" not in savings(Weight((1, 100), convolution=False), 200)  # 100 / 101: no rank saves
