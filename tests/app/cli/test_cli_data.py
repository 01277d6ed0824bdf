"""Which passes get what `--dataset`, `--train`, `--validation` and `--teacher` name, held against the real catalog."""

from typing import Any

import pytest

from app.catalog.routes import list_passes
from app.commands.common import USAGE, Failure
from app.commands.optimize import OPTIONS, recipe_of


class Catalog:
    """The part of a client that is asked here."""

    def passes(self) -> list[dict[str, Any]]:
        """As the service answers them."""
        return [item.model_dump(mode="json") for item in list_passes(None).items]  # type: ignore[arg-type]


def body(data: dict[str, str], *steps: dict[str, Any]) -> Any:
    recipe = {"schema": 1, "passes": list(steps)} if steps else None
    return recipe_of(Catalog(), recipe, data)  # type: ignore[arg-type]


def test_each_role_goes_to_the_passes_that_read_it():
    bounded = {"pass": "quantize-openvino", "params": {"max_drop": 0.01}}
    found = body({"calibration": "dat_1", "validation": "dat_2"}, {"pass": "simplify"}, bounded)
    assert found["recipe"]["passes"] == [
        {"pass": "simplify"},
        {**bounded, "inputs": {"calibration": "dat_1", "validation": "dat_2"}},
    ]
    assert body({"calibration": "dat_1"}, bounded)["recipe"]["passes"][0]["inputs"] == {
        "calibration": "dat_1"
    }


def test_a_preset_calibrates_and_validates_nothing():
    assert body({}) == {}
    assert body({"calibration": "dat_1"}) == {"inputs": {"calibration": "dat_1"}}
    for role in ("train", "validation", "teacher"):
        with pytest.raises(Failure, match=f"no preset reads {OPTIONS[role]}") as caught:
            body({role: "dat_2"})
        assert caught.value.status == USAGE


@pytest.mark.parametrize(("role", "option"), OPTIONS.items(), ids=list(OPTIONS))
def test_data_that_nobody_reads_is_a_mistake(role: str, option: str):
    with pytest.raises(Failure, match=option) as caught:
        body({role: "dat_1"}, {"pass": "simplify"})
    assert caught.value.status == USAGE
