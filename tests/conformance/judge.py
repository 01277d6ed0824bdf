"""One case through inspection, `simplify` and a runtime, in a process that may crash: what became of it.

`python -m tests.conformance.judge RUNTIME FOLDER NAME…` prints a line of JSON a case: {name, verdict, detail}. A folder of `-`
means the cases that the installed onnx package generates.

Verdicts: `right`; `refused`, an error of the contract with its code; `wrong`, other outputs than the standard's; `fault`, an
error that is none of the contract's.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.errors import BurnishError
from tests.conformance.cases import Case, generated, stored
from workers import passes, runtimes
from workers.context import PassContext
from workers.conversion import open_model
from workers.formats import onnx as onnx_format
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx
from workers.verify import verify_baseline

Verdict = tuple[str, str]
ROUNDINGS = {
    1: 0.13,
    2: 4e-3,
    4: 1e-5,
    8: 1e-12,
}  # of a floating type by its bytes, as a share of the largest value


def main(runtime: str, folder: str, names: list[str]) -> int:
    """Judge the cases of these names, in order."""
    for case in _chosen(folder, set(names)):
        verdict, detail = judge(case, runtime)
        print(json.dumps({"name": case.name, "verdict": verdict, "detail": detail}), flush=True)  # noqa: T201 - for `running.py`
    return 0


def judge(case: Case, runtime: str) -> Verdict:
    """The verdict on one case, and what explains it."""
    with tempfile.TemporaryDirectory() as place:
        try:
            model = save_onnx(case.model, Path(place) / "model")
            engine = _engine(model, runtime, Path(place))
            _verify(case, open_model(model), engine, runtime)
            for inputs, outputs in case.data:
                if (difference := _difference(case, engine, inputs, outputs)) is not None:
                    return "wrong", difference
        except BurnishError as error:
            return "refused", f"{error.code}: {error.detail}"
        except Exception as error:
            return "fault", f"{type(error).__name__}: {error}"
    return "right", ""


def _engine(model: ModelHandle, runtime: str, place: Path) -> Any:
    onnx_format.describe(model.root, model.entry, onnx_format.check(model.root, model.entry))
    simplify = PASSES["simplify"]
    out = place / "simplified"
    out.mkdir()
    simplified = passes.registry.alone("simplify")(model, simplify.params(), PassContext(out))
    built = place / "engine"
    built.mkdir()
    spec = RUNTIMES[runtime]
    params = spec.baseline_params(spec.params.model_validate({"threads": 1}))
    implementation = runtimes.registry.alone(runtime)
    return implementation.load(implementation.build(simplified, params, built), params)


def _verify(case: Case, source: Any, engine: Any, runtime: str) -> None:
    """What a job does before it measures, with the case's inputs as the data."""
    for inputs, _ in case.data:
        feeds = _feeds(case, engine, inputs)
        samples = OneRun({name: (value.dtype.name, value.shape) for name, value in feeds.items()}, feeds)
        verify_baseline(source, engine, samples, runtime)


@dataclass(frozen=True)
class OneRun:
    """Feeds of a single run, as a dataset of one sample."""

    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    feeds: Mapping[str, np.ndarray]
    count: int = 1
    digest: str = ""
    synthetic: bool = False

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[dict[str, np.ndarray], None]]:
        yield {name: value[np.newaxis] for name, value in self.feeds.items()}, None


def _feeds(case: Case, engine: Any, inputs: list[Any]) -> dict[str, np.ndarray]:
    names = [value.name for value in case.model.graph.input]
    given = {name: np.asarray(value) for name, value in zip(names, inputs, strict=False) if value is not None}
    return {entry["name"]: given[entry["name"]] for entry in engine.inputs}


def _difference(case: Case, engine: Any, inputs: list[Any], outputs: list[Any]) -> str | None:
    found = engine.run(_feeds(case, engine, inputs))
    for value, wanted in zip(case.model.graph.output, outputs, strict=False):
        got = found[value.name]
        expected = np.asarray(wanted)
        if got.shape != expected.shape:
            return f"{value.name}: shape {list(got.shape)}, the standard says {list(expected.shape)}"
        if expected.dtype.kind in "OUS":
            if not np.array_equal(got.astype(str), expected.astype(str)):
                return f"{value.name}: {got.tolist()}, the standard says {expected.tolist()}"
        elif (far := _far(case, got, expected)) is not None:
            return f"{value.name}: {far}"
    return None


def _far(case: Case, got: np.ndarray, expected: np.ndarray) -> str | None:
    """How far off numbers are, or None. Sums of other orders round otherwise: by the type's precision, of the largest value."""
    wide, wanted = got.astype(np.float64), expected.astype(np.float64)
    finite = np.abs(wanted[np.isfinite(wanted)])
    largest = float(finite.max()) if finite.size else 0.0
    rounding = ROUNDINGS.get(expected.dtype.itemsize, 0.0) if expected.dtype.kind not in "iub" else 0.0
    if np.allclose(wide, wanted, case.rtol, max(case.atol, rounding * largest), equal_nan=True):
        return None
    with np.errstate(invalid="ignore"):
        return f"{float(np.nanmax(np.abs(wide - wanted))):g} off at most, of values up to {largest:g}"


def _chosen(folder: str, names: set[str]) -> Iterator[Case]:
    cases = generated().values() if folder == "-" else stored(Path(folder))
    return (case for case in cases if case.name in names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
