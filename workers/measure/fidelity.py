"""How closely an engine's outputs follow the original's, over all samples, in constant memory."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workers.measure.side_by_side import SideBySide

NUMBERS = frozenset("iub")
TEXTS = frozenset("OUS")
POOR_SQNR_DB = 10.0


@dataclass
class Fidelity:
    """Accumulates over runs, in float64."""

    outputs: dict[str, "OutputFidelity"] = field(default_factory=dict)

    def observe(self, run: SideBySide) -> None:
        """Add the outputs of one run."""
        for name, wanted in run.baseline.items():
            self.outputs.setdefault(name, OutputFidelity()).observe(wanted, run.optimized[name])

    def result(self) -> dict[str, Any]:
        """`fidelity` of `api.md`: {outputs: {name: …}}, see `OutputFidelity.result`."""
        return {"outputs": {name: output.result() for name, output in self.outputs.items()}}

    def warnings(self) -> list[str]:
        """What a person must know: outputs that are not finite where the original's are, of another shape, or far off."""
        texts = []
        for name, output in self.outputs.items():
            if output.nonfinite:
                texts.append(
                    f"{output.nonfinite} elements of output {name!r} are NaN or infinite in one of the two models "
                    "and not in the other"
                )
            if output.misshapen:
                texts.append(
                    f"output {name!r} had another shape than the original's in {output.misshapen} runs, which are "
                    "not in its fidelity"
                )
            sqnr = output.result()["sqnr_db"]
            if sqnr is not None and sqnr < POOR_SQNR_DB:
                texts.append(
                    f"output {name!r} has lost most of its detail: its signal-to-noise ratio against the original is "
                    f"{sqnr:.1f} dB"
                )
        return texts


@dataclass
class OutputFidelity:
    """Sums of one output."""

    floating: bool = False
    numeric: bool = True
    elements: int = 0
    signal: float = 0.0  # sum of squares of the original
    power: float = 0.0  # of the optimized
    product: float = 0.0
    noise: float = 0.0
    max_abs: float = 0.0
    equal: int = 0
    nonfinite: int = 0
    misshapen: int = 0
    decisions: int = 0
    agreeing: int = 0

    def observe(self, wanted: np.ndarray, got: np.ndarray) -> None:
        """Add one run's output, any type and shape."""
        if wanted.shape != got.shape:
            self.misshapen += 1
            return
        self.elements += wanted.size
        if wanted.dtype.kind in TEXTS or got.dtype.kind in TEXTS:
            self.numeric = False
            self.equal += int(np.sum(wanted == got))
            return
        self.floating = self.floating or wanted.dtype.kind not in NUMBERS or got.dtype.kind not in NUMBERS
        original, optimized = wanted.astype(np.float64).ravel(), got.astype(np.float64).ravel()
        if not self._sum(original, optimized):
            same = (original == optimized) | (np.isnan(original) & np.isnan(optimized))
            finite = np.isfinite(original) & np.isfinite(optimized)
            self.nonfinite += int(np.sum(~finite & ~same))
            self.equal += int(np.sum(same & ~finite))
            self._sum(original[finite], optimized[finite])
        if self.floating and 2 <= wanted.ndim <= 3 and wanted.shape[-1] >= 2:
            self._decide(wanted, got)

    def result(self) -> dict[str, Any]:
        """What was seen of one output; a key is None where it has no meaning.

        Floating point: `cosine` similarity of the outputs of all samples as one vector; `sqnr_db`, ten times the
        logarithm of the original's power over the difference's (None where there is no difference, or the original is
        zero throughout); `max_abs`, the largest difference; `top1_agreement`, the share of positions where the largest
        score is at the same class, for outputs [n, C] and [n, positions, C] with C of at least 2. Integers and truth
        values: `max_abs` and `exact_agreement`, the share of equal elements. Texts: `exact_agreement`.
        `nonfinite_mismatches` counts elements that are NaN or infinite on one side only, or differently; they, and
        those that agree in it, are in no other figure.
        """
        return {
            "cosine": self._cosine() if self.floating else None,
            "sqnr_db": self._sqnr() if self.floating else None,
            "max_abs": self.max_abs if self.numeric and self.elements else None,
            "top1_agreement": self.agreeing / self.decisions if self.decisions else None,
            "exact_agreement": self.equal / self.elements if self.elements and not self.floating else None,
            "nonfinite_mismatches": self.nonfinite,
        }

    def _sum(self, original: np.ndarray, optimized: np.ndarray) -> bool:
        """Add numbers in one pass each; False, and nothing added, where some are not finite."""
        with np.errstate(invalid="ignore", over="ignore"):
            difference = original - optimized
            signal, power = float(np.dot(original, original)), float(np.dot(optimized, optimized))
        if not (math.isfinite(signal) and math.isfinite(power)) and not (
            np.isfinite(original).all() and np.isfinite(optimized).all()
        ):
            return False
        self.signal += signal
        self.power += power
        self.product += float(np.dot(original, optimized))
        self.noise += float(np.dot(difference, difference))
        self.equal += difference.size - int(np.count_nonzero(difference))
        if difference.size:
            self.max_abs = max(self.max_abs, float(difference.max()), -float(difference.min()))
        return True

    def _decide(self, wanted: np.ndarray, got: np.ndarray) -> None:
        """Compare where the largest scores are; a row with a NaN decides nothing, and agrees with nothing."""
        rows, columns = (array.argmax(axis=-1)[..., np.newaxis] for array in (wanted, got))
        largest = (np.take_along_axis(wanted, rows, -1), np.take_along_axis(got, columns, -1))
        usable = ~np.isnan(largest[0]) & ~np.isnan(largest[1])  # NumPy's argmax finds the first NaN
        self.decisions += rows.size
        self.agreeing += int(np.sum((rows == columns) & usable))

    def _cosine(self) -> float | None:
        if self.noise == 0 and self.elements:
            return 1.0
        lengths = math.sqrt(self.signal) * math.sqrt(self.power)
        return min(max(self.product / lengths, -1.0), 1.0) if lengths else None

    def _sqnr(self) -> float | None:
        if self.noise == 0 or self.signal == 0:
            return None
        return 10 * math.log10(self.signal / self.noise)
