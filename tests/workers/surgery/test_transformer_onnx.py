"""Two layers of BERT uploaded as ONNX: at a lower rank or with fewer heads and a narrower feed-forward part, and back to engines."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.catalog.formats import FORMATS
from tests.workers.onnx_to_torch.exports import decibels, exported
from tests.workers.surgery.engines import ELSEWHERE, HERE, built, in_format, run_on
from tests.workers.surgery.trials import Trial
from workers.context import PassContext
from workers.conversion import open_model
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest

PASSES: dict[str, dict[str, Any]] = {
    "low-rank": {"rank": 8},
    "prune-channels": {"ratio": 0.5, "scope": "per-layer", "round_to": 1},
}
Feeds = dict[str, np.ndarray]
Changed = tuple[str, ModelHandle, PassContext]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, Feeds]:
    """The ONNX that the exporter wrote, and tokens with their mask."""
    folder = tmp_path_factory.mktemp("onnx")
    _, inputs = exported("bert", False, folder)
    return ModelHandle(folder, "model.onnx", "onnx", tree_digest(folder)), {
        f"in{number}": values for number, values in enumerate(inputs)
    }


@pytest.fixture(scope="module", params=list(PASSES))
def changed(
    request: pytest.FixtureRequest,
    bert: tuple[ModelHandle, Feeds],
    tmp_path_factory: pytest.TempPathFactory,
) -> Changed:
    """What a pass leaves of it."""
    folder = tmp_path_factory.mktemp("changed")
    program = in_format(bert[0], frozenset({"torch-export"}), folder / "program")
    return request.param, *Trial(folder, request.param, program).apply(**PASSES[request.param])


@pytest.mark.slow
def test_becomes_onnx_again(changed: Changed, bert: tuple[ModelHandle, Feeds], tmp_path: Path):
    _, model, _ = changed
    given, feeds = bert
    again = in_format(model, FORMATS["torch-export"].converts_to, tmp_path)
    before, after = (open_model(one) for one in (given, again))

    assert [entry["name"] for entry in after.inputs] == list(feeds)
    assert {name: values.shape for name, values in after.run(feeds).items()} == {
        name: values.shape for name, values in before.run(feeds).items()
    }
    assert again.size_bytes < 0.8 * given.size_bytes


def test_parts_of_every_layer_go(changed: Changed):
    name, _, ctx = changed
    if name == "low-rank":
        told = ctx.facts["surgery"]
        kinds = Counter(row["name"].split(".")[-2] for row in told["layers"])
        assert kinds == {"query": 2, "key": 2, "value": 2, "dense": 6, "pooler": 1}
        assert [row["name"] for row in told["left_out"]] == ["model.classifier"]
        return
    widths = {row["name"]: row["channels"] for row in ctx.facts["layers"] if "channels" in row}
    for part, before, after in (("query", 32, 16), ("value", 32, 16), ("intermediate", 64, 32)):
        found = [one for layer, one in widths.items() if f".{part}." in layer]
        assert found == [{"before": before, "after": after}] * 2


@pytest.mark.slow
@pytest.mark.parametrize("runtime", HERE)
def test_runs_with_the_answers_that_it_had(
    runtime: str, changed: Changed, bert: tuple[ModelHandle, Feeds], tmp_path: Path
):
    _, model, _ = changed
    (wanted,) = open_model(model).run(bert[1]).values()
    (found,) = run_on(model, runtime, bert[1], tmp_path).values()

    assert decibels(wanted, found) > 80


@pytest.mark.slow
def test_builds_for_tensorrt_for_rtx(changed: Changed, tmp_path: Path):
    engine = built(changed[1], ELSEWHERE, tmp_path)

    assert (engine.root / engine.entry).stat().st_size > 10_000
