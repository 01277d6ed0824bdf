"""Networks trained once a session; ways to apply passes and run models."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.catalog.passes import PASSES
from tests.workers.engines.networks import ArraySamples, Cnn, Deep, Mlp, Network, trained
from workers import passes
from workers.context import PassContext, Samples
from workers.model_handle import ModelHandle
from workers.training import launch

Applied = tuple[ModelHandle, PassContext]


def _train(network: Any, folder: Path) -> Network:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        return trained(network, folder)


@pytest.fixture(scope="session")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """A convolutional network that tells digits apart."""
    return _train(Cnn(), tmp_path_factory.mktemp("cnn"))


@pytest.fixture(scope="session")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """The same of matrix products alone."""
    return _train(Mlp(), tmp_path_factory.mktemp("mlp"))


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """The same of residual branches."""
    return _train(Deep(), tmp_path_factory.mktemp("deep"))


@pytest.fixture
def apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Applied]:
    """`apply(pass, model, data, **params)`: the new model and the context, with facts and warnings."""
    monkeypatch.setattr(
        launch, "usable_processors", lambda: 1
    )  # threads of small layers wait for one another
    count = 0

    def run(name: str, model: ModelHandle, data: ArraySamples | None = None, **params: Any) -> Applied:
        nonlocal count
        count += 1
        out = tmp_path / f"out{count}"
        out.mkdir()
        roles = PASSES[name].inputs
        samples: dict[str, Samples] = {"calibration": data} if data else {}
        if data and "train" in roles:
            samples = {"train": data.filed(tmp_path / f"train{count}")}
        teacher = model if "teacher" in roles else None
        context = PassContext(out=out, samples=samples, teacher=teacher)
        return passes.registry.get(name)(model, PASSES[name].params(**params), context), context

    return run


@pytest.fixture
def simplified(cnn: Network, apply: Callable[..., Applied]) -> ModelHandle:
    """The convolutional network after `simplify`."""
    return apply("simplify", cnn.model)[0]


@pytest.fixture(scope="session")
def signal() -> Callable[[np.ndarray, np.ndarray], float]:
    """Signal to noise in dB: how close `got` is to `expected`."""

    def db(expected: np.ndarray, got: np.ndarray) -> float:
        noise = float(np.sum((expected.astype(np.float64) - got.astype(np.float64)) ** 2))
        return 10 * float(np.log10(np.sum(expected.astype(np.float64) ** 2) / max(noise, 1e-30)))

    return db
