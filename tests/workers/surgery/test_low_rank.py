"""Layers as two narrow ones: the components, the ranks, and which layers the pass takes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app.errors import IncompatibleRecipe, InvalidModel, InvalidParams
from tests.workers.surgery.trials import Trial, trial
from workers.surgery import low_rank
from workers.surgery.counting import layers, totals
from workers.surgery.low_rank import Outputs, break_even, narrowed, of_weights, ranks_under
from workers.surgery.observing import observe
from workers.torch.program import load_program

ROWS = ({"name": "rows", "dtype": "float32", "shape": ["batch", 4, 24]},)
SCORES = ({"name": "scores", "dtype": "float32", "shape": ["batch", 4, 3]},)
LAYERS = {
    "linear": lambda: nn.Linear(10, 14),
    "no-bias": lambda: nn.Linear(14, 10, bias=False),
    "strided": lambda: nn.Conv2d(10, 14, 1, stride=2),
    "padded": lambda: nn.Conv2d(14, 10, 1, padding=1),
    "reflected": lambda: nn.Conv2d(10, 14, 1, padding=2, padding_mode="reflect", bias=False),
    "one-axis": lambda: nn.Conv1d(10, 14, 1),
    "three-axes": lambda: nn.Conv3d(14, 10, 1),
}


class Watched(nn.Module):
    """A layer whose weight is read elsewhere too, one that holds layers of its own, and a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.plain = nn.Linear(24, 24), nn.Linear(24, 24, bias=False)
        self.adapted = Adapted(24, 24)
        self.last = nn.Linear(24, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.one(rows)) + self.one.weight.abs().sum()
        return self.last(self.adapted(torch.relu(self.plain(hidden))))


class Adapted(nn.Linear):
    """A linear layer with a narrow one beside it."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return super().forward(rows) + self.up(self.down(rows))


class Tied(nn.Module):
    """Feed-forward layers, and two that share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.back = nn.Linear(24, 48), nn.Linear(48, 24)
        self.one, self.two = nn.Linear(24, 24), nn.Linear(24, 24)
        self.two.weight = self.one.weight
        self.last = nn.Linear(24, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = rows + self.back(nn.functional.gelu(self.wide(rows)))
        return self.last(self.two(torch.relu(self.one(hidden))))


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def tied(tmp_path: Path) -> Trial:
    torch.manual_seed(0)
    return trial(tmp_path, "low-rank", Tied(), ROWS, SCORES)


def values_for(layer: Any) -> torch.Tensor:
    if isinstance(layer, nn.Linear):
        return torch.randn(3, 5, layer.in_features)
    return torch.randn(3, layer.in_channels, *[6] * (layer.weight.dim() - 2))


@pytest.mark.parametrize("data", [False, True], ids=["weights", "data"])
@pytest.mark.parametrize("name", LAYERS)
def test_all_components_give_the_layer_itself(name: str, data: bool):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    values = values_for(layer)
    spectrum = of_weights(layer)
    if data:
        outputs = Outputs(layer)
        outputs(values, layer(values))
        spectrum = outputs.spectrum()
    full = len(spectrum.energies)
    parts = narrowed(layer, spectrum, full)

    assert full == 10
    assert spectrum.error(full) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(parts["second"](parts["first"](values)), layer(values), atol=1e-5, rtol=1e-4)


def test_weights_of_a_low_rank_are_found_again():
    torch.manual_seed(0)
    layer = nn.Linear(20, 16)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(16, 3) @ torch.randn(3, 20))
    spectrum = of_weights(layer)
    parts, values = narrowed(layer, spectrum, 3), torch.randn(7, 20)

    assert spectrum.rank_of(0.999999) == 3
    torch.testing.assert_close(parts["second"](parts["first"](values)), layer(values), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("inputs", "outputs"), [(20, 16), (16, 20)], ids=["narrower", "wider"])
def test_data_keep_what_the_inputs_use(inputs: int, outputs: int):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs)
    values = torch.randn(200, 3) @ torch.randn(3, inputs) + torch.randn(inputs)
    gathered = Outputs(layer)
    gathered(values[:100], layer(values[:100]))
    gathered(values[100:], layer(values[100:]))
    wanted = layer(values)

    def apart(spectrum: Any) -> float:
        parts = narrowed(layer, spectrum, 3)
        return float((parts["second"](parts["first"](values)) - wanted).square().mean().sqrt())

    assert apart(gathered.spectrum()) < 0.01 * float(wanted.std())
    assert gathered.spectrum().rank_of(0.9999) == 3
    assert gathered.spectrum().error(3) < 0.01
    assert apart(of_weights(layer)) > 0.1 * float(wanted.std())


def test_a_total_gives_ranks_where_they_bring_most():
    torch.manual_seed(0)
    flat, steep = nn.Linear(32, 32), nn.Linear(32, 32)
    with torch.no_grad():
        left, _, right = torch.linalg.svd(steep.weight)
        steep.weight.copy_(left @ torch.diag(0.5 ** torch.arange(32.0)) @ right)
    spectra = {"flat": of_weights(flat), "steep": of_weights(steep)}
    costs, whole = dict.fromkeys(spectra, 64), dict.fromkeys(spectra, 1024)
    found = ranks_under(spectra, costs, whole, 1200)

    assert found is not None
    assert sum(found.get(name, 16) * 64 for name in spectra) <= 1200
    assert found["steep"] < found.get("flat", 16)
    assert ranks_under(spectra, costs, whole, 100) is None


def test_what_is_left_is_counted_and_named(tied: Trial):
    made, ctx = tied.apply(energy=0.6, ignore=["last"])
    told = ctx.facts["surgery"]
    program = load_program(made.path)
    counts = layers(tied.lifted(made), program.inputs)

    assert {row["name"] for row in told["layers"]} == {"wide", "back"}
    assert {row["name"]: row["reason"] for row in told["left_out"]} == {
        "one": "shares its weight with another layer",
        "two": "shares its weight with another layer",
        "last": "is ignored",
    }
    assert (told["parameters"][1], told["flops"][1]) == totals(counts)
    assert {"wide.first", "wide.second", "back.first", "back.second"} <= {one.name for one in counts}
    for row in told["layers"]:
        assert row["error"] ** 2 <= 0.4
        assert row["parameters"][1] < row["parameters"][0]


@pytest.mark.parametrize("rank", [1, 4])
def test_every_layer_gets_the_rank_that_is_asked_for(rank: int, tied: Trial):
    _, ctx = tied.apply(rank=rank, ignore=["back"])

    assert {row["name"]: row["rank"] for row in ctx.facts["surgery"]["layers"]}["wide"] == rank


def test_a_total_is_reached(tied: Trial):
    _, ctx = tied.apply(keep_parameters=0.7)
    before, after = ctx.facts["surgery"]["parameters"]

    assert 0.6 * before < after <= 0.7 * before


def test_data_are_asked_where_they_are_given(tied: Trial):
    torch.manual_seed(1)
    rows = (torch.randn(60, 4, 3) @ torch.randn(3, 24)).numpy()
    on_data, ctx = tied.apply({"calibration": {"rows": rows}}, rank=6)
    on_weights, _ = tied.apply(rank=6)
    wanted = tied.run(tied.model, rows=rows)["scores"]

    assert ctx.facts["surgery"]["fitted_on"] == "data"
    apart = [abs(tied.run(made, rows=rows)["scores"] - wanted).mean() for made in (on_data, on_weights)]
    assert apart[0] < 0.5 * apart[1]


def test_layers_that_others_need_stay(tmp_path: Path):
    torch.manual_seed(0)
    watched = trial(tmp_path, "low-rank", Watched(), ROWS, SCORES)
    _, ctx = watched.apply(rank=3, ignore=["last"])
    left = {row["name"]: row["reason"] for row in ctx.facts["surgery"]["left_out"]}

    assert {row["name"] for row in ctx.facts["surgery"]["layers"]} == {"plain"}
    assert left["one"] == "shares its weight with another layer"
    assert left["adapted"] == "holds layers of its own"


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_total_is_reached_on_data_where_layers_have_no_bias(share: float, tmp_path: Path):
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Linear(24, 24, bias=False) for _ in range(2)), nn.Linear(24, 3, bias=False))
    plain = trial(tmp_path, "low-rank", network, ROWS, SCORES)
    rows = torch.randn(30, 4, 24).numpy()
    _, ctx = plain.apply({"calibration": {"rows": rows}}, keep_parameters=share)
    before, after = ctx.facts["surgery"]["parameters"]

    assert after <= share * before


def test_the_share_that_is_told_as_the_nearest_can_be_had(tied: Trial):
    with pytest.raises(IncompatibleRecipe) as raised:
        tied.apply(keep_parameters=0.01)
    (nearest,) = re.findall(r"ask for (0\.\d+) or more", raised.value.hint or "")
    tied.apply(keep_parameters=float(nearest))


def test_weights_that_are_no_numbers_are_named(tmp_path: Path):
    network = Tied()
    network.back.weight[3, 4] = float("nan")
    broken = trial(tmp_path, "low-rank", network, ROWS, SCORES)

    with pytest.raises(InvalidModel, match="weights of back hold NaN"):
        broken.apply(rank=3)


@pytest.mark.parametrize(
    ("params", "error", "said"),
    [
        ({"ignore": ["nowhere"]}, InvalidParams, r"nowhere"),
        ({"ignore": ["*"]}, IncompatibleRecipe, r"is ignored"),
        ({"energy": 1.0}, IncompatibleRecipe, r"would not become smaller"),
        ({"keep_parameters": 0.01}, IncompatibleRecipe, r"at rank 1 everywhere 0\.\d+"),
    ],
    ids=["nobody", "all-ignored", "all-energy", "out-of-reach"],
)
def test_what_cannot_be_done_says_why(params: dict[str, Any], error: type[Exception], said: str, tied: Trial):
    with pytest.raises(error, match=said) as raised:
        tied.apply(**params)
    assert raised.value.hint


def test_break_even_is_the_last_rank_that_saves():
    layer = nn.Linear(30, 20)
    rank = break_even(layer)

    assert rank * 50 < 600 <= (rank + 1) * 50


def test_moments_are_gathered_in_rounds_where_they_are_many(tied: Trial, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(1)
    data = {"calibration": {"rows": torch.randn(60, 4, 24).numpy()}}
    (once, _), runs = tied.apply(data, rank=3), []
    monkeypatch.setattr(low_rank, "HELD", 8 * 24**2)
    monkeypatch.setattr(
        low_rank,
        "observe",
        lambda model, outputs, *given: runs.append(len(outputs)) or observe(model, outputs, *given),
    )
    again, _ = tied.apply(data, rank=3)

    assert again.digest == once.digest
    assert len(runs) > 1
    assert sum(runs) == 3
