"""The Grafana dashboard asks for metrics that exist, by labels that they carry."""

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.db import db_now, transaction
from app.fleet import service as fleet
from app.jobs.tables import Job, JobStep
from app.webhooks.tables import Webhook, WebhookDelivery

ROOT = Path(__file__).resolve().parents[3]
DASHBOARD = json.loads((ROOT / "docs/grafana-dashboard.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
QUEUE = "runtime.onnxruntime-cpu"


@pytest.fixture
def scraped(api_sqlite: TestClient) -> dict[str, set[str]]:
    """The labels of every sample, by its name, of an installation that has a bit of everything."""
    with transaction() as session:
        for status, problem in (("queued", None), ("failed", {"code": "crashed"})):
            session.add(
                Job(
                    id=f"job_{status}", project_id="prj_default", kind="optimize", labels={}, status=status,
                    progress={}, request={}, subject="mdl_x", subject_digest="0" * 64, datasets=[], queue=QUEUE,
                    pending_until=db_now(60), problem=problem, finished_at=db_now() if problem else None,
                )
            )  # fmt: skip
        session.flush()
        session.add(
            JobStep(
                job_id="job_failed", index=0, project_id="prj_default", name="simplify", status="done",
                cached=False, seconds=2.0, facts={},
            )
        )  # fmt: skip
        session.add(Webhook(id="whk_a", project_id="prj_default", url="https://a.example", secret="whsec_a"))
        session.flush()
        session.add(
            WebhookDelivery(
                id="whd_a", project_id="prj_default", webhook_id="whk_a", job_id="job_failed", type="job.finished",
                payload={}, status="waiting",
            )
        )  # fmt: skip
        fleet.register(
            session, worker_id="wrk_a", host="h", pid=1, version="0", queues=[QUEUE], runtimes={}, hardware={}
        )
    api_sqlite.get("/v1/models")
    found: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(api_sqlite.get("/metrics").text):
        for sample in family.samples:
            found[sample.name] |= sample.labels.keys()
    return found


def test_every_metric_of_the_dashboard_is_scraped(scraped: dict[str, set[str]]) -> None:
    for expression in EXPRESSIONS:
        names = re.findall(r"\bburnish_\w+", expression)
        assert names, expression
        carried = set.union(*(scraped[name] for name in names if name in scraped), set())
        assert set(names) <= scraped.keys(), expression
        grouped = {
            label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")
        }
        selected = set(re.findall(r"[{,]\s*(\w+)\s*[=!]", expression))
        assert grouped | selected <= carried, expression


def test_every_metric_is_on_the_dashboard(scraped: dict[str, set[str]]) -> None:
    shown = set(re.findall(r"\bburnish_\w+", " ".join(EXPRESSIONS)))
    ours = {name for name in scraped if not name.endswith("_created")}
    stems = {re.sub(r"_(total|sum|count|bucket)$", "", name) for name in shown}
    assert {re.sub(r"_(total|sum|count|bucket)$", "", name) for name in ours} == stems


def test_panels_do_not_cover_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(expression.count("(") == expression.count(")") for expression in EXPRESSIONS)
