"""A model in another form or on another runtime, held against its own framework: what computes something else is told.

Engine and baseline run on the same runtime, so comparing these two does not show what the runtime itself gets wrong.
"""

from typing import Any

from app.errors import BurnishError, UnsupportedOperator
from workers.context import Samples
from workers.measure.fidelity import Fidelity
from workers.measure.side_by_side import run_side_by_side
from workers.runtimes.base import LoadedEngine

STAGE = "verifying"
SAMPLES = 16
LEAST_SQNR_DB = 60.0  # of an output; rounding alone leaves 100 and more in fp32
LEAST_COARSE_SQNR_DB = 25.0  # of a model that computes in less than fp32, where each runtime rounds elsewhere
LEAST_AGREEMENT = 0.9  # of integers and truth values: what is chosen by rounding may fall otherwise


def verify_baseline(
    source: LoadedEngine, baseline: LoadedEngine, samples: Samples, runtime: str, precision: str = "fp32"
) -> list[str]:
    """Run both on the first samples; what a person must know.

    `source` is the model in its own framework (ONNX Runtime without optimizations where it is ONNX), `precision` the one
    that it computes in.

    Raises:
        UnsupportedOperator: the runtime computes other values of an output, which is named.
    """
    fidelity, reason = follow(source, baseline, samples)
    if reason is not None:
        return [f"the model's own framework could not be asked for the right outputs: {reason}"]
    if (found := first_difference(fidelity, precision)) is not None:
        name, difference = found
        raise UnsupportedOperator(
            f"{runtime} computes other values of the output {name!r} than the model's own framework does: {difference}",
            stage=STAGE,
            node=name,
            hint="choose another target: its runtime gets an operator of this model wrong, or rounds where the model "
            "cannot bear it",
        )
    return []


def follow(source: LoadedEngine, other: LoadedEngine, samples: Samples) -> tuple[Fidelity, str | None]:
    """How closely `other` follows the source on the first samples; or why the source itself did not run on them.

    Raises:
        BurnishError: the other does not run, or lacks an output.
    """
    own, fidelity = _Own(source), Fidelity()
    try:
        for run in run_side_by_side(own, other, samples, SAMPLES):
            fidelity.observe(run)
    except Exception as error:
        if own.failure is None:
            raise
        detail = error.detail if isinstance(error, BurnishError) else f"{type(error).__name__}: {error}"
        return fidelity, detail[:500]
    return fidelity, None


def first_difference(fidelity: Fidelity, precision: str = "fp32") -> tuple[str, str] | None:
    """The first output that differs by more than rounding in this precision, and how; None where all follow."""
    least_db = LEAST_SQNR_DB if precision == "fp32" else LEAST_COARSE_SQNR_DB
    for name, output in fidelity.outputs.items():
        if (difference := _difference(output.result(), output.misshapen, least_db)) is not None:
            return name, difference
    return None


def _difference(found: dict[str, Any], misshapen: int, least_db: float) -> str | None:
    if misshapen:
        return "its shape is another"
    if found["nonfinite_mismatches"]:
        return f"{found['nonfinite_mismatches']} elements are NaN or infinite in one alone"
    if found["exact_agreement"] is not None and found["exact_agreement"] < LEAST_AGREEMENT:
        return f"{found['exact_agreement']:.1%} of its elements agree"
    if found["sqnr_db"] is not None and found["sqnr_db"] < least_db:
        return f"signal-to-noise ratio {found['sqnr_db']:.1f} dB, largest difference {found['max_abs']:g}"
    return None


class _Own:
    """The source; its failures are told from the other's."""

    def __init__(self, source: LoadedEngine):
        self._source = source
        self.inputs, self.outputs = source.inputs, source.outputs
        self.failure: Exception | None = None

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._source.run(feeds)
        except Exception as error:
            self.failure = error
            raise
