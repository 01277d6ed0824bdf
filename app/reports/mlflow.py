"""A report as a run of MLflow: numbers, parameters, and the files themselves. Needs `burnish[export]`."""

import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from app.reports.scalars import scalars
from app.reports.schemas import Report
from app.text import plain

EXPERIMENT = "burnish"
DATABASE, ARTIFACTS = "mlflow.db", "artifacts"
LONGEST = 6000  # letters of a parameter
AT_ONCE = 1000  # metrics of a request
_STRANGE = re.compile(r"[^\w\-. :/]", re.ASCII)


def write(report: Report, markdown: str, files: Iterable[Path], folder: Path | None) -> str:
    """Log the report, into a database of its own in `folder`, or where MLflow's own settings say; the run's id.

    MLflow keeps no more than one number of a name and step, so names hold the side: `optimized/latency_p50_ms`.

    Raises:
        ImportError: MLflow is not installed.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    place = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        place = (folder / ARTIFACTS).resolve().as_uri()
    client = MlflowClient(
        tracking_uri=None if folder is None else f"sqlite:///{(folder / DATABASE).resolve()}"
    )
    found = client.get_experiment_by_name(EXPERIMENT)
    experiment = (
        found.experiment_id if found else client.create_experiment(EXPERIMENT, artifact_location=place)
    )
    milliseconds = int(datetime.fromisoformat(report.created_at).timestamp() * 1000)
    name = plain(f"{report.subject['name']} on {report.target['runtime']}", 200)
    run: str = client.create_run(experiment, start_time=milliseconds, run_name=name).info.run_id
    metrics = [
        Metric(_STRANGE.sub("_", f"{one.side}/{one.name}"), float(one.value), milliseconds, one.step)
        for one in scalars(report)
    ]
    params = [Param(key, plain(value, LONGEST)) for key, value in _params(report).items()]
    tags = {
        "mlflow.note.content": markdown,
        "burnish.job": report.job,
        "burnish.subject": report.subject["digest"],
    }
    for start in range(0, max(len(metrics), 1), AT_ONCE):
        client.log_batch(run, metrics=metrics[start : start + AT_ONCE])
    client.log_batch(run, params=params, tags=[RunTag(key, value) for key, value in tags.items()])
    for file in files:
        client.log_artifact(run, str(file))
    client.set_terminated(run, end_time=milliseconds)
    return run


def _params(report: Report) -> dict[str, str]:
    """What the job was asked."""
    evaluation = report.request.get("evaluation") or {}
    return {
        "subject": report.subject["id"],
        "runtime": report.target["runtime"],
        "passes": ", ".join(step["pass"] for step in report.recipe["passes"]) or "none",
        "seed": str(report.request["options"].get("seed", 0)),
        **{f"target.{_STRANGE.sub('_', key)}": str(value) for key, value in report.target["params"].items()},
        **{f"evaluation.{key}": str(value) for key, value in evaluation.items()},
    }
