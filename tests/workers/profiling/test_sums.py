"""What layers take together, beside the latency of the same engine without a profiler: within a tenth, or the gap is named."""

from pathlib import Path

import pytest

from app.catalog.runtimes import RUNTIMES
from tests.workers.profiling import subjects, torch_subjects
from tests.workers.profiling.subjects import Subject
from workers.measure.feeds_file import save_feeds
from workers.measure.latency import EngineUnderTest
from workers.measure.single import time_alone
from workers.profiling.job import GAP, gap, record
from workers.runtimes import registry

NETWORKS = {
    "resnet18": subjects.resnet,
    "bert": subjects.bert,
    "lstm": subjects.recurrent,  # with a loop and branches
}
# where layers are large beside what watching them costs, and nothing hides the rest
CLOSE = {("resnet18", "torch-eager"), ("resnet18", "onnxruntime-cpu"), ("resnet18", "openvino-cpu")}
TURNS = 3  # others may be at work on the machine


def network(name: str, runtime: str, folder: Path) -> Subject:
    """As the runtime takes it. A loop that PyTorch exports has no counterpart of the ONNX one: an LSTM with a branch stands for it."""
    if runtime == "torch-eager" and name == "lstm":
        return torch_subjects.branching(folder)
    return NETWORKS[name](folder)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
@pytest.mark.parametrize("runtime", ["torch-eager", "onnxruntime-cpu", "openvino-cpu"])
@pytest.mark.parametrize("name", NETWORKS)
def test_layers_add_up_to_the_latency_or_the_gap_is_named(name: str, runtime: str, tmp_path: Path) -> None:
    subject = network(name, runtime, tmp_path / "model")
    params = RUNTIMES[runtime].params(threads=1)
    (tmp_path / "engine").mkdir()
    model = subject.original if runtime.startswith("torch") else subject.onnx
    engine = registry.alone(runtime).build(model, params, tmp_path / "engine")
    under_test = EngineUnderTest(runtime, engine.root, engine.entry, params.model_dump(mode="json"))
    seen = []
    for turn in range(TURNS):
        folder = tmp_path / str(turn)
        folder.mkdir()
        save_feeds(folder / "feeds.npz", subject.feeds)
        timed = time_alone(under_test, folder / "feeds.npz", folder / "latency", seconds=1.0)
        recorded = record(under_test, folder, timed["pinned_cpus"], 1.0)
        latency = timed["latency"]["p50_ms"]
        profiled = sorted(recorded.run_ms)[len(recorded.run_ms) // 2]
        total = sum(row.mean_ms for row in recorded.rows)
        said = gap(latency, profiled, total)
        seen.append({"latency_ms": latency, "profiled_ms": profiled, "layers_ms": total, "gap": said})
        if said is None or (name, runtime) not in CLOSE:
            break
    assert (said is None) == (abs(total / latency - 1) <= GAP)
    assert said is None or "; " in said, seen
    if (name, runtime) in CLOSE:
        assert abs(total / profiled - 1) <= GAP
        assert said is None or "busier or slower" in said, seen
