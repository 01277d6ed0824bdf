"""Files that would run code when torch loads them: refused, and nothing ran."""

import copy
import io
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from app.errors import BurnishError, InvalidModel, UnsafeModel, UnsupportedOperator
from tests.workers.torch_programs.pt2 import changed, edited
from workers.torch.noise import quiet
from workers.torch.program import TorchModel, export, load_program, runner, save_program

Edit = Callable[[dict[str, Any], str], None]


class Network(torch.nn.Module):
    """A free size, a constant and a weight: something of each part of a file."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.register_buffer("scale", torch.ones(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.linear(x) * self.scale, self.linear(x)])


class Creates:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that loads."""
    path = tmp_path_factory.mktemp("pt2") / "good.pt2"
    inputs = ({"name": "x", "dtype": "float32", "shape": ["batch", 4]},)
    outputs = ({"name": "y", "dtype": "float32", "shape": [None, 3]},)
    model = TorchModel(Network().eval(), inputs, outputs)
    save_program(export(model), inputs, outputs, path)
    assert [entry["name"] for entry in load_program(path).outputs] == ["y"]
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_in_place_of_the_sample_inputs(good: Path, tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "mark"
    hostile = changed(
        good,
        tmp_path / "h.pt2",
        **{"data__sample_inputs__model.pt": pickle.dumps(Creates(mark), protocol)},
    )
    _refused(hostile, mark)


def test_a_pickle_inside_saved_tensors(good: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    buffer = io.BytesIO()
    torch.save(((torch.ones(2, 4), Creates(mark)), {}), buffer)
    hostile = changed(good, tmp_path / "h.pt2", **{"data__sample_inputs__model.pt": buffer.getvalue()})
    _refused(hostile, mark)


def test_a_weight_that_is_a_pickle(good: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    buffer = io.BytesIO()
    torch.save(Creates(mark), buffer)
    hostile = changed(
        good,
        tmp_path / "h.pt2",
        data__weights__weight_0=buffer.getvalue(),
        **{
            "data__weights__model_weights_config.json": lambda data: data.replace(
                b'"use_pickle": false', b'"use_pickle": true'
            )
        },
    )
    _refused(hostile, mark)


def test_weights_as_torch_2_8_wrote_them(good: Path, tmp_path: Path) -> None:
    mark, network = tmp_path / "mark", Network()
    pickles = [io.BytesIO() for _ in range(3)]
    for stream, held in zip(
        pickles,
        (dict(network.named_parameters()), {"scale": network.scale}, {"scale": Creates(mark)}),
        strict=True,
    ):
        torch.save(held, stream)
    weights, constants, hostile = (stream.getvalue() for stream in pickles)
    older = changed(
        good,
        tmp_path / "o.pt2",
        **{"data__weights__model.pt": weights, "data__constants__model.pt": constants},
    )
    x = np.ones((2, 4), "float32")
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(runner(load_program(older))({"x": x})["y"], expected)
    _refused(changed(good, tmp_path / "h.pt2", **{"data__constants__model.pt": hostile}), mark)


def test_an_object_among_the_constants(good: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for prefix in ("custom_obj", "opaque_obj"):
        hostile = changed(
            good, tmp_path / "h.pt2", **{f"data__constants__{prefix}_0": pickle.dumps(Creates(mark))}
        )
        _refused(hostile, mark)


def test_a_compiled_library(good: Path, tmp_path: Path) -> None:
    hostile = changed(good, tmp_path / "h.pt2", **{"data__aotinductor__model__m.wrapper.so": b"\x7fELF"})
    _refused(hostile, tmp_path / "mark")


def _expression(document: dict[str, Any], code: str) -> None:
    values = document["graph_module"]["graph"]["tensor_values"]
    free = next(size for meta in values.values() for size in meta["sizes"] if "as_expr" in size)
    free["as_expr"]["expr_str"] = code


def _inside_a_function(document: dict[str, Any], code: str) -> None:
    _expression(document, f"Max({code!r}, Integer(2))")


def _guard(document: dict[str, Any], code: str) -> None:
    document["guards_code"] = [f"{code} is None"]


def _name_of_a_node(document: dict[str, Any], code: str) -> None:
    document["graph_module"]["graph"]["nodes"][0]["name"] = f"a = {code}\n    b"


def _name_of_an_argument(document: dict[str, Any], code: str) -> None:
    document["graph_module"]["graph"]["nodes"][0]["inputs"][0]["name"] = f"a = {code}, b"


def _name_of_a_weight(document: dict[str, Any], code: str) -> None:
    document["graph_module"]["signature"]["input_specs"][0]["parameter"]["parameter_name"] = f'x", {code}, "y'


def _imported_enum(document: dict[str, Any], code: str) -> None:
    tree = '[1, {"type": "builtins.dict", "context": "{\\"__enum__\\": 1, \\"fqn\\": \\"antigravity:x\\"}", "children_spec": []}]'
    document["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = tree


def _name_of_an_input(document: dict[str, Any], code: str) -> None:
    tree = '[1, {"type": "builtins.tuple", "context": "null", "children_spec": [%s, %s]}]'
    args = '{"type": "builtins.tuple", "context": "null", "children_spec": []}'
    kwargs = '{"type": "builtins.dict", "context": "[\\"x=f(1)\\"]", "children_spec": [{"type": null, "context": null, "children_spec": []}]}'
    document["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = tree % (args, kwargs)


def _hidden_as_a_note(document: dict[str, Any], code: str) -> None:
    values = document["graph_module"]["graph"]["tensor_values"]
    _expression(document, code)
    values["metadata"] = next(
        meta for meta in values.values() if any("as_expr" in size for size in meta["sizes"])
    )


def _hint(document: dict[str, Any], code: str) -> None:
    values = document["graph_module"]["graph"]["tensor_values"]
    free = next(size for meta in values.values() for size in meta["sizes"] if "as_expr" in size)
    free["as_expr"]["hint"] = {"as_int": code}


def _any_function(document: dict[str, Any], code: str) -> None:
    document["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"


def _opens_files(document: dict[str, Any], code: str) -> None:
    document["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.from_file.default"


@pytest.mark.parametrize(
    "edit",
    [
        _expression, _inside_a_function, _guard, _name_of_a_node, _name_of_an_argument, _name_of_a_weight, _imported_enum,
        _name_of_an_input, _hidden_as_a_note, _hint, _any_function, _opens_files,
    ],
    ids=lambda edit: edit.__name__.strip("_"),
)  # fmt: skip
def test_text_that_torch_would_execute(good: Path, tmp_path: Path, edit: Edit) -> None:
    mark = tmp_path / "mark"
    code = f'__import__("os").mkdir("{mark}")'
    hostile = edited(good, tmp_path / "h.pt2", lambda document: edit(document, code))
    _refused(hostile, mark)


def test_a_guard_of_sizes_is_no_danger(good: Path, tmp_path: Path) -> None:
    def guard(document: dict[str, Any]) -> None:
        document["guards_code"] = ["L['x'].size()[0] % 2 == 0 and L['x'].size()[0] <= 8"]

    assert load_program(edited(good, tmp_path / "g.pt2", guard)).program.example_inputs is not None


def test_what_exporters_write_is_no_danger(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleDict(
                {"a b/1": torch.nn.Linear(3, 3), "c-d(e)": torch.nn.Linear(3, 3)}
            )

        def forward(self, x: torch.Tensor, *, y: torch.Tensor, n: int) -> Any:
            x = x[::2].masked_fill(y > 0, float("-inf")).repeat(1, n)
            with torch.autocast("cpu", torch.bfloat16):
                z = sum(part(y) for part in self.parts.values())
            return {"a b(c)": x, "d": torch.cond(x.sum() > 0, torch.sin, torch.cos, (z,))}

    half = torch.export.Dim("half")
    with quiet():
        program = torch.export.export(
            Odd(),
            (torch.randn(4, 3),),
            {"y": torch.randn(2, 3), "n": 2},
            dynamic_shapes={"x": {0: 2 * half}, "y": {0: half}, "n": None},
        )
    torch.export.save(program, tmp_path / "odd.pt2")
    loaded = load_program(tmp_path / "odd.pt2")
    assert [entry["name"] for entry in (*loaded.inputs, *loaded.outputs)] == ["x", "y", "a b(c)", "d"]
    assert loaded.inputs[0]["shape"][0] == f"2*{loaded.inputs[1]['shape'][0]}"


def test_an_operator_of_another_library_is_named(good: Path, tmp_path: Path) -> None:
    def custom(document: dict[str, Any]) -> None:
        document["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.mylib.fast_linear.default"

    with pytest.raises(UnsupportedOperator, match=r"mylib\.fast_linear") as caught:
        load_program(edited(good, tmp_path / "c.pt2", custom))
    assert caught.value.node == "mylib.fast_linear.default"


def test_damage_is_no_crash(good: Path, tmp_path: Path) -> None:
    whole, path = good.read_bytes(), tmp_path / "d.pt2"
    weights = whole.index(b"weight_0") + 200
    for data in (b"", b"no zip", whole[:3000], whole[:weights] + b"\xff" * 8 + whole[weights + 8 :]):
        path.write_bytes(data)
        with pytest.raises(InvalidModel):
            load_program(path)


def test_a_program_of_another_schema_says_whose(good: Path, tmp_path: Path) -> None:
    def older(document: dict[str, Any]) -> None:
        document["schema_version"]["major"], document["torch_version"] = 7, "2.5.1"

    with pytest.raises(InvalidModel, match=r"torch 2\.5\.1 with schema 7"):
        load_program(edited(good, tmp_path / "o.pt2", older))


def test_a_signature_that_does_not_fit_is_refused(good: Path, tmp_path: Path) -> None:
    told = b'{"schema": 1, "inputs": [], "outputs": []}'
    with pytest.raises(InvalidModel, match="does not fit"):
        load_program(changed(good, tmp_path / "s.pt2", **{"extra__burnish.json": told}))


@pytest.mark.parametrize("seed", range(3))
def test_no_change_of_a_program_gives_more_than_an_error_of_ours(
    good: Path, tmp_path: Path, seed: int
) -> None:
    random = Random(seed)
    outcomes = set()
    for _ in range(30):
        damaged = edited(good, tmp_path / "f.pt2", lambda document: _spoil(document, random))
        try:
            loaded = load_program(damaged)
            feeds = {
                entry["name"]: np.ones(
                    [size if isinstance(size, int) else 2 for size in entry["shape"]], entry["dtype"]
                )
                for entry in loaded.inputs
            }
            runner(loaded)(feeds)
            outcomes.add("runs")
        except BurnishError as error:
            outcomes.add(error.code)
    assert {"invalid_model", "runs"} <= outcomes


def _spoil(document: dict[str, Any], random: Random) -> None:
    """Take out one value of a program, or put another of its values in its place."""
    places = list(_places(document))
    holder, key = random.choice(places)
    if random.random() < 0.3:
        del holder[key]
    else:
        other, of_other = random.choice(places)
        holder[key] = copy.deepcopy(other[of_other])


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _refused(path: Path, mark: Path) -> None:
    with pytest.raises(UnsafeModel) as caught:
        load_program(path)
    assert not mark.exists()
    assert caught.value.hint
