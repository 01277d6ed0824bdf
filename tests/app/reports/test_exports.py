"""Reports in experiment trackers, read back by the trackers' own libraries."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from app.reports import mlflow, tensorboard
from app.reports.scalars import Scalar, scalars
from app.reports.schemas import Report
from tests.workers.reporting.samples import HOSTILE, optimized, profiled

MARKDOWN = "# A report\n\nwith words"


def needs(name: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f'{name} is not installed (pip install "burnish[export]")')


def test_numbers_of_an_optimization() -> None:
    found = scalars(optimized())
    assert Scalar("optimized", "latency_p50_ms", 0.0913) in found
    assert Scalar("optimized", "latency_p50_ms_low", 0.091) in found
    assert Scalar("baseline", "size_bytes", 983460) in found
    blocks = [one for one in found if (one.side, one.name) == ("optimized", "latency_block_median_ms")]
    assert [one.step for one in blocks] == list(range(20))
    keys = [(one.side, one.name, one.step) for one in found]
    assert len(set(keys)) == len(keys)


def test_numbers_of_a_profile() -> None:
    found = {one.name: one.value for one in scalars(profiled()) if one.side == "engine"}
    assert found["operator_ms/Conv"] == 2.0
    assert found["phase_ms/forward"] == 3.0
    assert (found["latency_p50_ms"], found["layers_ms"], found["peak_memory_bytes"]) == (3.6, 4.0, 12_000_000)


@needs("tensorboard")
@pytest.mark.filterwarnings("ignore")  # of others' libraries
@pytest.mark.parametrize("make", [optimized, profiled], ids=["optimize", "profile"])
def test_tensorboard_reads_what_was_written(make: Callable[[], Report], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report = make()
    wanted = scalars(report)
    runs = tensorboard.write(report, MARKDOWN, tmp_path / "runs")
    assert {path.name for path in runs} == {
        f"job_1-{side}" for side in ({one.side for one in wanted} | {"report"})
    }
    read = {}
    for run in runs:
        events = EventAccumulator(str(run), size_guidance={"tensors": 0})
        events.Reload()
        side = run.name.removeprefix("job_1-")
        for tag in events.Tags()["tensors"]:
            for event in events.Tensors(tag):
                if side == "report":
                    assert list(event.tensor_proto.string_val) == [MARKDOWN.encode()]
                    assert events.SummaryMetadata(tag).plugin_data.plugin_name == "text"
                    continue
                assert events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"
                read[side, tag, event.step] = event.tensor_proto.float_val[0]
    given = {(one.side, one.name, one.step): one.value for one in wanted}
    assert read == pytest.approx(given, rel=1e-6)


@needs("mlflow")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    file = tmp_path / "report.html"
    file.write_text("<!doctype html>")
    folder = tmp_path / "runs"
    reports = (optimized(), profiled(HOSTILE))
    runs = [mlflow.write(report, MARKDOWN, [file], folder) for report in reports]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    runs.append(mlflow.write(optimized(job="job_2"), MARKDOWN, [file], None))
    client = MlflowClient()
    experiment = client.get_experiment_by_name(mlflow.EXPERIMENT)
    assert {run.info.run_id for run in client.search_runs([experiment.experiment_id])} == set(runs)
    first = client.get_run(runs[0])
    assert first.data.metrics["optimized/latency_p50_ms"] == 0.0913
    assert first.data.params["passes"] == "simplify, quantize-static"
    assert first.data.tags["burnish.job"] == "job_1"
    assert first.data.tags["mlflow.note.content"] == MARKDOWN
    assert first.info.status == "FINISHED"
    history = client.get_metric_history(runs[0], "optimized/latency_block_median_ms")
    assert len(history) == 20
    assert [one.path for one in client.list_artifacts(runs[0])] == ["report.html"]
    assert client.get_run(runs[1]).data.metrics["engine/operator_ms/Conv"] == 2.0
    assert client.get_run(runs[2]).data.tags["burnish.job"] == "job_2"
