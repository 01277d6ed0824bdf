"""How close the engine's outputs are to the original's: per output, in one pass over the data, in constant memory."""

from dataclasses import dataclass, field
from math import log10, sqrt
from typing import Any

import numpy as np

IDENTICAL_DB = 200.0  # what a ratio without noise is shown as: JSON has no infinity


@dataclass
class OutputFidelity:
    """Running sums over one output."""

    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    energy: float = 0.0
    max_abs: float = 0.0
    elements: int = 0
    unequal: int = 0
    not_finite: int = 0
    rows: int = 0
    same_top: int = 0
    has_classes: bool = True
    numeric: bool = True

    def add(self, original: np.ndarray, optimized: np.ndarray) -> None:
        """Take the outputs of some samples, shape [samples, …] both."""
        self.elements += original.size
        if original.shape != optimized.shape:
            raise ValueError(f"the shapes differ: {original.shape} and {optimized.shape}")
        if not (np.issubdtype(original.dtype, np.number) or original.dtype == bool):
            self.numeric = False
            self.unequal += int(np.sum(original != optimized))
            return
        first, second = original.astype(np.float64), optimized.astype(np.float64)
        finite = np.isfinite(first) & np.isfinite(second)
        self.not_finite += int(np.sum(np.isfinite(first) & ~np.isfinite(second)))
        self.unequal += int(np.sum(original != optimized))
        a, b = first[finite], second[finite]
        if a.size:
            self.signal += float(a @ a)
            self.energy += float(b @ b)
            self.product += float(a @ b)
            self.noise += float((a - b) @ (a - b))
            self.max_abs = max(self.max_abs, float(np.max(np.abs(a - b))))
        self._tops(first, second)

    def figures(self) -> dict[str, Any]:
        """cosine, sqnr_db, max_abs, top1_agreement (null where no class axis), equal_share, not_finite."""
        equal = 1 - self.unequal / self.elements if self.elements else 1.0
        if not self.numeric:
            return {
                "cosine": None,
                "sqnr_db": None,
                "max_abs": None,
                "top1_agreement": None,
                "equal_share": equal,
                "not_finite": 0,
            }
        return {
            "cosine": self._cosine(),
            "sqnr_db": sqnr_db(self.signal, self.noise),
            "max_abs": self.max_abs,
            "top1_agreement": self.same_top / self.rows if self.has_classes and self.rows else None,
            "equal_share": equal,
            "not_finite": self.not_finite,
        }

    def _cosine(self) -> float:
        if self.noise == 0:
            return 1.0
        length = sqrt(self.signal) * sqrt(self.energy)
        return self.product / length if length else 0.0

    def _tops(self, first: np.ndarray, second: np.ndarray) -> None:
        if first.ndim < 2 or first.shape[-1] < 2:
            self.has_classes = False
            return
        classes = first.shape[-1]
        tops = [np.argmax(np.nan_to_num(values.reshape(-1, classes)), axis=1) for values in (first, second)]
        self.rows += len(tops[0])
        self.same_top += int(np.sum(tops[0] == tops[1]))


@dataclass
class Fidelity:
    """Every output of a network."""

    outputs: dict[str, OutputFidelity] = field(default_factory=dict)

    def add(self, original: dict[str, np.ndarray], optimized: dict[str, np.ndarray]) -> None:
        """Take the outputs of some samples from both engines.

        Raises:
            ValueError: an output is missing, or its shape differs.
        """
        for name, values in original.items():
            if name not in optimized:
                raise ValueError(f"the engine has no output {name!r}")
            self.outputs.setdefault(name, OutputFidelity()).add(values, optimized[name])

    def figures(self) -> dict[str, dict[str, Any]]:
        """By output."""
        return {name: output.figures() for name, output in self.outputs.items()}


def sqnr_db(signal: float, noise: float) -> float:
    """Signal to quantization noise, in dB; `IDENTICAL_DB` at most."""
    if noise == 0:
        return IDENTICAL_DB
    if signal == 0:
        return -IDENTICAL_DB
    return max(-IDENTICAL_DB, min(IDENTICAL_DB, 10 * log10(signal / noise)))
