"""Steps of training: a loader that keeps the network waiting, arithmetic that could be narrower."""

from collections.abc import Iterator, Mapping
from typing import Any

from app.profiles.schemas import Gain
from workers.profiling.advice import rule
from workers.profiling.advising import Case, Finding
from workers.profiling.gains import Ratio, gain_of_ratio, noticeable

STARVING = 0.1  # of a step, that the network waits for samples
COMPUTING = frozenset(("forward", "backward"))
WORTHWHILE = 1.3  # times the peak of fp32

# new time over the time before
FED = Ratio(0.05, 0.9)
AUTOCAST = Ratio(1.0, 2.0)  # over what the peaks allow: casts, and what stays in fp32


@rule("loader", of="training")
def loader(case: Case) -> Iterator[Finding]:
    """The network waits for samples: let the loader measure and choose processes and cache itself, or keep samples once read."""
    shares = {phase.name: phase.share for phase in case.profile.phases}
    waiting = shares.get("loader", 0.0)
    if waiting < STARVING or not case.recipe:
        return
    last = case.recipe[-1]
    given: Mapping[str, Any] = last["params"].get("loader") or {}
    chosen = {"mode": "auto"} if given.get("mode") == "fixed" else {"mode": "auto", "cache": "memory"}
    settled = given.get("mode", "auto") == "auto" and given.get("cache", "auto") != "auto"
    yield Finding(
        title="Feed the network faster",
        why=f"The network waits for samples {waiting:.0%} of each step. "
        + (
            "The loader has chosen its processes by measuring already: store samples that need less work (fewer transforms, smaller files)."
            if settled
            else "With its own choice of processes and cache the loader reads ahead."
        ),
        evidence={"waiting": round(waiting, 4), "loader": dict(given)},
        gain=None if settled else _of_step({"loader": waiting}, FED),
        request=None if settled else case.request(changed={last["pass"]: {"loader": chosen}}),
    )


@rule("training-precision", of="training")
def training_precision(case: Case) -> Iterator[Finding]:
    """Steps in bf16 (autocast), where the device multiplies faster in it; weights stay fp32."""
    shares = {phase.name: phase.share for phase in case.profile.phases if phase.name in COMPUTING}
    if not shares or not case.recipe or case.peak("bf16") < WORTHWHILE:
        return
    last = case.recipe[-1]
    if last["params"].get("precision") != "fp32":
        return
    ideal = 1 / case.peak("bf16")
    gain = _of_step(shares, Ratio(AUTOCAST.low * ideal, min(AUTOCAST.high * ideal, 1.1)))
    if not noticeable(gain):
        return
    yield Finding(
        title="Train in bf16 (precision=bf16)",
        why=f"{sum(shares.values()):.0%} of a step is arithmetic in fp32, which the device does {case.peak('bf16'):.2g} times as fast in "
        "bf16; weights and their updates stay fp32.",
        evidence={"share": round(sum(shares.values()), 4), "peak_over_fp32": round(case.peak("bf16"), 3)},
        gain=gain,
        costs_accuracy=True,
        request=case.request(changed={last["pass"]: {"precision": "bf16"}}),
    )


def _of_step(shares: Mapping[str, float], ratio: Ratio) -> Gain:
    share = sum(shares.values())
    return gain_of_ratio(Ratio(1 - share * (1 - ratio.low), 1 - share * (1 - ratio.high)))
