"""What passes and targets cost in accuracy on real labelled data. `docs/accuracy.md` is the table."""

from collections.abc import Iterator

import pytest

from app.client import Client
from tests.accuracy import digits
from tests.accuracy.cases import CASES, MAX_DROP, RUNTIMES, Case, Outcome
from tests.accuracy.direct import Bench
from tests.accuracy.jobs import Uploaded, preset, service, upload
from tests.accuracy.sources import NotFetched
from tests.accuracy.subjects import SUBJECTS, Subject

SAMPLE = (
    Case("onnxruntime-cpu", [{"pass": "simplify"}, {"pass": "quantize-static"}]),
    Case("onnxruntime-cpu", [{"pass": "simplify"}, {"pass": "quantize-weights", "params": {"bits": 8}}]),
    Case("openvino-cpu", [{"pass": "simplify"}, {"pass": "quantize-static"}]),
)
LEAST = {"fashion": 0.9, "digits": 0.98, "sentiment": 0.75}  # accuracy in fp32
# recipes that are known to lose more, and how much at most: MiniLM has activations that one range for a tensor does not suit
COARSE = {
    ("sentiment", "onnxruntime-cpu-simplify+quantize-static"): 0.07,
    ("sentiment", "onnxruntime-cpu-simplify+quantize-static-percentile"): 0.07,
    ("sentiment", "openvino-cpu-simplify+quantize-static"): 0.07,
    ("sentiment", "openvino-cpu-simplify+quantize-openvino"): 0.15,
}


def told(case: Case) -> str:
    """A test's name."""
    passes = "+".join(
        "-".join([step["pass"], *map(str, step.get("params", {}).values())]) for step in case.passes
    )
    return "-".join([case.runtime, *map(str, case.params.values()), passes])


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The published classifier on digits that scikit-learn ships: half of them to calibrate with."""
    images, labels = digits.scanned()
    subject = Subject(digits.published(), {"x": images[1::4]}, {"x": images[::2], "labels": labels[::2]})
    return Bench(subject, tmp_path_factory.mktemp("scanned"))


@pytest.mark.parametrize("case", SAMPLE, ids=told)
def test_a_published_classifier_names_what_it_named(scanned: Bench, case: Case) -> None:
    found = scanned.outcome(case)
    assert found.problem is None
    assert found.original is not None
    assert found.original > 0.75  # these are not the digits that it was trained on
    assert found.drop is not None
    assert found.drop["value"] < MAX_DROP
    assert found.drop["low"] <= found.drop["value"] <= found.drop["high"]
    assert found.size_ratio is not None
    assert found.size_ratio < 0.4
    assert found.sqnr_db is not None
    assert found.sqnr_db > 25


@pytest.fixture(scope="module", params=list(SUBJECTS))
def network(request: pytest.FixtureRequest) -> tuple[str, Subject]:
    """Each trained network in turn, with its name."""
    try:
        return request.param, SUBJECTS[request.param]()
    except NotFetched as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def bench(network: tuple[str, Subject], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The network and its data, for the workers' own code in this process."""
    return Bench(network[1], tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a service with every runtime."""
    with service(tmp_path_factory.mktemp("service")) as client:
        yield client


@pytest.fixture(scope="module")
def uploaded(
    network: tuple[str, Subject], client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Uploaded:
    """The network and its data in the service."""
    return upload(client, network[1], tmp_path_factory.mktemp("upload"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_presets_keep_within_the_budget(
    network: tuple[str, Subject], client: Client, uploaded: Uploaded, runtime: str
) -> None:
    found = preset(client, uploaded, runtime)
    assert found.problem is None
    check(network[0], found, MAX_DROP)
    assert found.within is not False


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", CASES, ids=told)
def test_recipes_lose_no_more_than_is_known(network: tuple[str, Subject], bench: Bench, case: Case) -> None:
    found = bench.outcome(case)
    assert found.problem is None
    check(network[0], found, COARSE.get((network[0], told(case)), MAX_DROP))


def check(name: str, found: Outcome, most: float) -> None:
    """Hold an outcome's accuracy against what is known of the network, and its drop against a bound."""
    assert found.original is not None
    assert found.original > LEAST[name]
    assert found.drop is not None
    assert found.drop["value"] < most
