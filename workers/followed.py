"""What came of advice that a job followed: the prediction beside the measurement."""

from collections.abc import Mapping
from typing import Any

from app.catalog.runtimes import RUNTIMES


def followed(
    advice: Mapping[str, Any], baseline: Mapping[str, Any], result: Mapping[str, Any]
) -> dict[str, Any]:
    """{job, number, rule, title, predicted, measured, as_predicted, against}. `advice` is what `find_advice` gives.

    Where the profile was of the model as it is, on what is this job's `baseline` (a target: runtime and parameters), `measured`
    is the speed-up of this run. Else it is the profile's latency over the engine's: of two runs, so only about right, which
    `against` says.
    """
    speedup = result["comparison"].get("speedup")
    same = advice["passes"] == 0 and _same(advice["target"], baseline)
    measured = against = None
    if speedup is not None and same:
        measured = {name: speedup[name] for name in ("value", "low", "high")}
        against = "the baseline, in turns in one run"
    elif speedup is not None:
        before, after = advice["latency"], result["optimized"]["latency"]["p50_ms"]
        measured = {
            name: before[f"{bound}_ms"] / after
            for name, bound in (("value", "p50"), ("low", "low"), ("high", "high"))
        }
        against = "the latency in the profile, which was another run"
    predicted = advice["gain"]
    return {
        **{name: advice[name] for name in ("job", "number", "rule", "title")},
        "predicted": predicted,
        "measured": measured,
        "as_predicted": None
        if predicted is None or measured is None
        else measured["high"] >= predicted["low"] and measured["low"] <= predicted["high"],
        "against": against,
    }


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if one["runtime"] != other["runtime"]:
        return False
    params = RUNTIMES[one["runtime"]].params
    return params.model_validate(one["params"]) == params.model_validate(other["params"])
