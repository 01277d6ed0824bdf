"""Networks as programs: what is free stays free, what is not is refused in a sentence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.errors import InvalidModel, SignatureMismatch, UnsupportedOperator
from workers.samples import synthetic_samples
from workers.torch.program import (
    Program,
    TorchModel,
    example_inputs,
    export,
    load_program,
    runner,
    save_program,
)

Signature = Sequence[tuple[str, str, list[Any]]]


class Calls(torch.nn.Module):
    """A function of any number of tensors."""

    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(*tensors)


class Branches(torch.nn.Module):
    """What it does depends on a value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def _model(module: torch.nn.Module, inputs: Signature, outputs: Signature = ()) -> TorchModel:
    sides = [
        tuple({"name": name, "dtype": dtype, "shape": shape} for name, dtype, shape in side)
        for side in (inputs, outputs)
    ]
    return TorchModel(module.eval(), sides[0], sides[1])


def _convolution() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 4, 5)


def test_inputs_are_those_of_synthetic_samples() -> None:
    inputs = _model(
        Branches(),
        [
            ("input_ids", "int64", ["batch", 8]),
            ("attention_mask", "int64", ["batch", 8]),
            ("x", "float32", ["batch", 3]),
        ],
    ).inputs
    made = dict(
        zip(("input_ids", "attention_mask", "x"), example_inputs(inputs, seed=4, free=3), strict=True)
    )
    feeds, _ = next(synthetic_samples({"inputs": list(inputs)}, 4, 3).batches(3))
    for name, array in feeds.items():
        np.testing.assert_array_equal(made[name].numpy(), array)


def test_dimensions_of_one_name_have_one_size_and_others_another() -> None:
    inputs = _model(
        Branches(), [("a", "float32", ["n", "h", "w"]), ("b", "float32", ["n", None, "w"])]
    ).inputs
    first, second = example_inputs(inputs)
    assert first.shape[0] == second.shape[0]
    assert first.shape[2] == second.shape[2]
    assert len({*first.shape, second.shape[1]}) == 4
    larger, _ = example_inputs(inputs, dims={"w": 7}, free=3)
    assert larger.shape[2] == 7
    assert all(size != other for size, other in zip(first.shape, larger.shape, strict=True))


def test_names_that_torch_cannot_carry_come_back(tmp_path: Path) -> None:
    module = _convolution()
    model = _model(
        module, [("input.1", "float32", ["n", 3, "h", "w"])], [("out:0", "float32", ["n", 4, None, None])]
    )
    save_program(export(model), model.inputs, model.outputs, tmp_path / "m.pt2")
    loaded = load_program(tmp_path / "m.pt2")
    assert (loaded.inputs, loaded.outputs) == (model.inputs, model.outputs)
    run = runner(loaded)
    for shape in ((1, 3, 9, 12), (5, 3, 40, 7)):
        x = np.random.default_rng(0).standard_normal(shape).astype("float32")
        with torch.inference_mode():
            expected = module(torch.from_numpy(x)).numpy()
        np.testing.assert_array_equal(run({"input.1": x})["out:0"], expected)


def test_a_program_of_a_user_tells_its_own_signature(tmp_path: Path) -> None:
    class Nested(torch.nn.Module):
        def forward(self, ids: torch.Tensor, *, mask: torch.Tensor | None = None, scale: Any = None) -> Any:
            assert mask is not None
            return {"logits": ids * mask, "states": (ids.float(), ids.sum())}

    ids = torch.ones(2, 6, dtype=torch.int64)
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Nested(),
        (ids,),
        {"mask": ids.bool(), "scale": None},
        dynamic_shapes={"ids": {0: batch}, "mask": {0: batch}, "scale": None},
    )
    torch.export.save(program, tmp_path / "user.pt2")
    loaded = load_program(tmp_path / "user.pt2")
    free = loaded.inputs[0]["shape"][0]
    assert isinstance(free, str)
    assert [
        (entry["name"], entry["dtype"], entry["shape"]) for entry in (*loaded.inputs, *loaded.outputs)
    ] == [
        ("ids", "int64", [free, 6]),
        ("mask", "bool", [free, 6]),
        ("logits", "int64", [free, 6]),
        ("states_0", "float32", [free, 6]),
        ("states_1", "int64", []),
    ]
    outputs = runner(loaded)({"ids": ids.numpy()[:1], "mask": ids.numpy()[:1] > 0})
    assert outputs["states_1"] == 6


@pytest.mark.parametrize(
    ("returned", "names"),
    [
        (lambda x: x, ["output"]),
        (lambda x: (x, [x + 1, x]), ["output_0", "output_1_0", "output_1_1"]),
        (lambda x: {"a": {"b": x}}, ["a_b"]),
        (lambda x: (x, None), ["output_0"]),
    ],
    ids=["tensor", "tuple", "dict", "none"],
)
def test_outputs_are_named_by_their_place(returned: Any, names: list[str], tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Calls(returned), (torch.ones(2),)), tmp_path / "m.pt2")
    loaded = load_program(tmp_path / "m.pt2")
    assert [entry["name"] for entry in loaded.outputs] == names
    assert list(runner(loaded)({loaded.inputs[0]["name"]: np.ones(2, "float32")})) == names


def test_free_dimensions_of_a_transformer() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    module = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    model = _model(
        module, [("x", "float32", ["batch", "sequence", 16])], [("y", "float32", ["batch", "sequence", 16])]
    )
    run = runner(Program(export(model), model.inputs, model.outputs))
    for shape in ((1, 9, 16), (4, 3, 16)):
        x = np.random.default_rng(1).standard_normal(shape).astype("float32")
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(run({"x": x})["y"]), module(torch.from_numpy(x)))


@pytest.mark.parametrize(
    ("module", "inputs", "message"),
    [
        (
            Calls(lambda x: sum(x[:, step] for step in range(x.shape[1]))),
            [("x.1", "float32", ["n", "steps", 3])],
            r"dimension 1 \('steps'\) of input 'x\.1' = 64 alone",
        ),
        (Calls(lambda x: x.reshape(2, -1)), [("x", "float32", ["n", 3])], r"dimension 0 \('n'\) of input 'x' = 2 alone"),
        (
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * 65, 2)),
            [("x", "float32", [None, "h", "w"])],
            r"== 4160|dimension 1 \('h'\) of input 'x' = 64 alone",
        ),
        (
            Calls(lambda x: x + 1 if x.shape[0] < 4 else x * 2),
            [("x", "float32", ["n", 3])],
            r"at most 3 as dimension 0 \('n'\) of input 'x'",
        ),
    ],
    ids=["loop", "reshaped", "product", "branch"],
)  # fmt: skip
def test_a_dimension_that_is_not_free_is_named(
    module: torch.nn.Module, inputs: Signature, message: str
) -> None:
    with pytest.raises(InvalidModel, match=message) as caught:
        export(_model(module, inputs))
    assert caught.value.param == inputs[0][0]
    assert caught.value.hint == "declare it as a number"


def test_two_names_for_one_dimension() -> None:
    module = Calls(lambda x, y: x + y)
    with pytest.raises(InvalidModel, match="must match") as caught:
        export(_model(module, [("x", "float32", ["n", 3]), ("y", "float32", ["m", 3])]))
    assert "one name" in str(caught.value.hint)
    for name in ("n", None):
        inputs = [("x", "float32", [name, 3]), ("y", "float32", [name, 3])]
        model = _model(module, inputs, [("z", "float32", [name, 3])])
        x = np.ones((5, 3), "float32")
        assert runner(Program(export(model), model.inputs, model.outputs))({"x": x, "y": x})["z"].shape == (
            5,
            3,
        )


def test_a_state_is_as_it_was() -> None:
    class Counts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls.add_(1)
            return x + self.calls

    module = Counts()
    model = _model(module, [("x", "float32", ["n", 3])], [("y", "float32", ["n", 3])])
    program = export(model)
    assert module.calls == 0
    run = runner(Program(program, model.inputs, model.outputs))
    assert run({"x": np.zeros((5, 3), "float32")})["y"].max() == 1


def test_control_flow_on_values_is_refused_with_its_place() -> None:
    with pytest.raises(UnsupportedOperator, match="data-dependent") as caught:
        export(_model(Branches(), [("x", "float32", ["n", 3])]))
    assert caught.value.node is not None
    assert "test_export.py" in caught.value.node


def test_a_signature_that_the_network_does_not_take() -> None:
    with pytest.raises(InvalidModel, match="expected input"):
        export(_model(_convolution(), [("x", "float32", ["n", 4, 16, 16])]))


def test_feeds_that_do_not_fit() -> None:
    model = _model(
        Calls(lambda x, y: x[:, :4] + y),
        [("x", "float32", ["n", "w"]), ("y", "float32", ["n", 4])],
        [("z", "float32", ["n", 4])],
    )
    run = runner(Program(export(model), model.inputs, model.outputs))
    x, y = np.ones((2, 6), "float32"), np.ones((2, 4), "float32")
    assert run({"x": x, "y": y})["z"].shape == (2, 4)
    for feeds, message in (
        ({"x": x}, "takes 'x', 'y'"),
        ({"x": x, "y": y.astype("float64")}, "takes float32"),
        ({"x": x[0], "y": y}, "2 dimensions"),
        ({"x": x, "y": y[:, :3]}, "dimension 1 of input 'y' is 4, given was 3"),
        ({"x": x, "y": y[:1]}, r"dimension 0 of input 'y' \('n'\) is 1"),
        ({"x": x[:, :2], "y": y}, "does not take these inputs"),
    ):
        with pytest.raises(SignatureMismatch, match=message):
            run(feeds)


class Counted(torch.nn.Module):
    """Positions that are computed from the data, as RoBERTa's are: torch knows no bound of their table."""

    def __init__(self, positions: int):
        super().__init__()
        self.table = torch.nn.Embedding(1 + positions, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        seen = (ids != 1).long()
        return self.table(torch.cumsum(seen, dim=1) * seen)


@pytest.mark.parametrize("positions", [20, 100])
def test_a_short_table_of_positions_leaves_the_length_free(positions: int) -> None:
    model = _model(Counted(positions), [("ids", "int64", ["batch", "sequence"])], [("y", "float32", [])])
    program = export(model)
    run = runner(Program(program, model.inputs, model.outputs))
    for shape in ((1, positions), (3, 9)):
        ids = np.full(shape, 2)
        table = model.module.get_parameter("table.weight").detach().numpy()
        np.testing.assert_array_equal(
            run({"ids": ids})["y"], np.tile(table[1 : shape[1] + 1], (shape[0], 1, 1))
        )
