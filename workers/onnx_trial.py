"""Runs a model on random inputs as it was and as a pass left it: what a pass says it keeps is seen to be kept."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from app.errors import InvalidModel, SignatureMismatch
from workers.context import Feeds, PassContext
from workers.formats.onnx import signature
from workers.model_handle import ModelHandle
from workers.onnx_errors import ORT_ERRORS
from workers.onnx_proof import open_session
from workers.samples import synthetic_samples

RUN_ERRORS: tuple[type[Exception], ...] = (SignatureMismatch, *ORT_ERRORS)
SAME_DB = 80.0  # fp32 in another order of operations stays above this


def random_feeds(described: Mapping[str, Any], seed: int) -> Feeds:
    """One run's inputs for a signature {inputs: [{name, dtype, shape}]}; free dimensions as in `synthetic_samples`.

    Raises:
        SignatureMismatch: an input's dtype cannot be generated.
    """
    whole = {"inputs": [{**entry, "shape": [1, *entry["shape"]]} for entry in described["inputs"]]}
    feeds, _ = next(iter(synthetic_samples(whole, seed, 1).batches(1)))
    return {name: np.asarray(values[0]) for name, values in feeds.items()}


def outputs_of(model: ModelHandle, feeds: Feeds) -> Feeds:
    """The outputs by name, of the graph as it is written. Raises one of `ORT_ERRORS`."""
    session = open_session(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def prove_same(
    before: ModelHandle, after: ModelHandle, ctx: PassContext, stage: str, least_db: float = SAME_DB
) -> None:
    """Run both on the same random inputs; where the first does not run on such, say that nothing was compared.

    Raises:
        InvalidModel: an output has another shape, or is further away than `least_db`.
    """
    try:
        feeds = random_feeds(signature(before.load_onnx(weights=False)), ctx.seed)
        expected = outputs_of(before, feeds)
    except RUN_ERRORS:
        ctx.warn("the result was not compared with the original: the model does not run on random inputs")
        return
    got = outputs_of(after, feeds)
    for name, wanted in expected.items():
        db = signal_db(wanted, got[name]) if got[name].shape == wanted.shape else None
        if db is None or db < least_db:
            raise InvalidModel(
                f"{stage} changed the output {name!r}: "
                + (f"{db:.0f} dB instead of {least_db:.0f} or more" if db is not None else "another shape"),
                stage=stage,
                hint=f"leave {stage} out of the recipe",
            )


def signal_db(expected: np.ndarray, got: np.ndarray) -> float:
    """Signal to noise in dB where both are finite; infinite for what is no float and where nothing differs."""
    if expected.dtype.kind != "f":
        return float("inf")
    wide, other = expected.astype(np.float64), got.astype(np.float64)
    if not np.array_equal(np.isfinite(wide), np.isfinite(other)):
        return float("-inf")
    finite = np.isfinite(wide)
    noise = float(np.sum((wide[finite] - other[finite]) ** 2))
    power = float(np.sum(wide[finite] ** 2))
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(power / noise)) if power else float("-inf")
