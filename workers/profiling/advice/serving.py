"""How it is served: threads, and samples a run. What was measured beside the profile decides."""

from collections.abc import Iterator, Mapping

from app.profiles.schemas import Gain
from workers.profiling.advice import rule
from workers.profiling.advising import Case, Finding
from workers.profiling.gains import noticeable

KNEE = 0.9  # of the best throughput, which the knee of the curve reaches

Times = Mapping[str, float]


@rule("threads")
def threads(case: Case) -> Iterator[Finding]:
    """Another number of threads that was faster on this machine."""
    now = case.profile.threads
    if now not in case.threads or len(case.threads) < 2:
        return
    best = min(case.threads, key=lambda number: case.threads[number]["p50_ms"])
    gain = _measured(case.threads[now], case.threads[best])
    if best == now or not noticeable(gain) or gain.low <= 1.0:
        return
    yield Finding(
        title=f"Use {best} thread{'s' if best > 1 else ''} instead of {now}",
        why=f"A run takes {case.threads[best]['p50_ms']:.3g} ms on {best}, {case.threads[now]['p50_ms']:.3g} ms on {now}: "
        + (
            "the layers are too small to be shared out."
            if best < now
            else "the machine has more processors than it uses."
        ),
        evidence={"p50_ms": {str(number): times["p50_ms"] for number, times in sorted(case.threads.items())}},
        gain=gain,
        request=case.request(params={"threads": best}),
    )


@rule("batch")
def batch(case: Case) -> Iterator[Finding]:
    """The knee of the batch curve: the least batch with nearly the best throughput. Whoever calls the engine chooses it."""
    now = case.profile.batch
    if now not in case.batches or len(case.batches) < 2:
        return
    rates = {size: 1000 * size / times["p50_ms"] for size, times in case.batches.items()}
    knee = min(size for size, rate in rates.items() if rate >= KNEE * max(rates.values()))
    times = rates[knee] / rates[now]
    if knee <= now or times < 1 / KNEE:
        return
    yield Finding(
        title=f"Where samples can wait for each other, run {knee} at once",
        why=f"Runs of {knee} give {times:.2g} times as many samples a second as runs of {now}, and take "
        f"{case.batches[knee]['p50_ms'] / case.batches[now]['p50_ms']:.2g} times as long; more than {knee} bring little. No job is "
        "needed: give the engine larger batches.",
        evidence={
            "samples_per_s": {str(size): round(rate, 2) for size, rate in sorted(rates.items())},
            "knee": knee,
        },
    )


def _measured(before: Times, after: Times) -> Gain:
    return Gain(
        value=before["p50_ms"] / after["p50_ms"],
        low=before["low_ms"] / after["high_ms"],
        high=before["high_ms"] / after["low_ms"],
    )
