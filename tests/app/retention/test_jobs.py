"""Finished jobs that are kept no longer, and other rows that are old."""

from typing import Any

import pytest
from sqlalchemy import func, select

from app.artifacts.tables import Artifact
from app.audit.tables import AuditEntry
from app.auth.tables import DEFAULT_PROJECT, IdempotencyKey
from app.config import Settings
from app.db import transaction
from app.events.tables import Event
from app.fleet.tables import DeviceLease
from app.jobs.tables import Job, JobLog, JobStep
from app.measurements.tables import Measurement
from app.models.tables import Model
from app.retention import service
from app.storage import get_storage
from app.webhooks.tables import Webhook, WebhookDelivery
from tests.app.api.support import make_project
from tests.app.jobs.factories import make_artifact, make_model, offer
from tests.app.retention.support import add_job, age, days_ago, keep, settings


def jobs() -> set[str]:
    with transaction(readonly=True) as session:
        return set(session.scalars(select(Job.id)))


def count(table: Any) -> int:
    with transaction(readonly=True) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_old_jobs_go_with_all_that_they_made(burnish: Settings) -> None:
    keep(keep_jobs_days=30)
    model = make_model()
    old, young, running = add_job(model, days=31), add_job(model, days=29), add_job(model)
    failed = add_job(model, days=40, status="failed")
    artifact = make_artifact(old, b"engine of old")
    kept = make_artifact(young)
    with transaction() as session:
        for job in (old, young):
            own = {"job_id": job, "project_id": DEFAULT_PROJECT}
            session.add_all(
                [
                    JobStep(index=0, name="build", status="done", cached=False, seconds=1.0, key=None, facts={}, **own),
                    JobLog(seq=1, attempt=1, text="log", **own),
                    Measurement(
                        id=f"mea_{job}", side="optimized", name="p50", unit="ms", value=1.0, low=None, high=None,
                        samples={}, machine={}, **own,
                    ),
                    Event(subject_id=job, seq=1, project_id=DEFAULT_PROJECT, type="status", data={}),
                ]
            )  # fmt: skip
    with transaction(readonly=True) as session:
        digests = {row.id: row.digest for row in session.scalars(select(Artifact))}
    age(*digests.values())

    planned = service.collect(dry_run=True)
    assert (planned.kinds["jobs"].count, planned.kinds["jobs"].size_bytes) == (2, len(b"engine of old"))
    assert jobs() == {old, young, running, failed}
    report = service.collect()
    assert (report.kinds["jobs"].count, report.kinds["jobs"].size_bytes) == (2, len(b"engine of old"))
    assert jobs() == {young, running}
    assert [count(table) for table in (JobStep, JobLog, Measurement, Event, Artifact)] == [1] * 5
    assert count(Model) == 1
    assert [get_storage().exists(digests[id_]) for id_ in (artifact, kept)] == [False, True]


def test_a_job_stays_while_another_starts_from_what_it_made(burnish: Settings) -> None:
    keep(keep_jobs_days=30)
    first = add_job(days=60)
    second = add_job(make_artifact(first, b"1", kind="model"), days=50)
    third = add_job(make_artifact(second, b"2", kind="model"), days=10)
    assert service.collect(dry_run=True).kinds["jobs"].count == 0
    assert service.collect().kinds["jobs"].count == 0
    assert jobs() == {first, second, third}
    keep(keep_jobs_days=5)
    assert service.collect(dry_run=True).kinds["jobs"].count == 3
    assert service.collect().kinds["jobs"].count == 3
    assert jobs() == set()


def test_children_stay_and_go_with_their_parent(burnish: Settings) -> None:
    keep(keep_jobs_days=30)
    parent = add_job(days=20, queue="")
    early = add_job(days=40, parent_id=parent)
    gone = add_job(days=40, queue="")
    late = add_job(days=35, parent_id=gone)
    user = add_job(days=50, queue="")
    child = add_job(days=50, parent_id=user)
    chained = add_job(make_artifact(child, kind="model"), days=1)
    assert service.collect().kinds["jobs"].count == 1
    assert jobs() == {parent, early, user, child, chained}
    assert late not in jobs()


def test_each_project_keeps_what_it_says_or_what_the_setting_says(
    burnish_sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_project("other")
    mine = add_job(days=20)
    theirs = add_job(make_model(other), days=20, project_id=other)
    assert service.collect().kinds["jobs"].count == 0
    with settings(monkeypatch, project_keep_jobs_days=10):
        keep(keep_jobs_days=0)
        service.collect()
    assert jobs() == {mine}
    keep(keep_jobs_days=10)
    service.collect()
    assert jobs() == set()
    assert theirs not in jobs()


def test_old_rows_of_other_kinds_go(burnish: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, open_ = add_job(days=31), add_job()
    mine = {"project_id": DEFAULT_PROJECT}
    offer("onnxruntime-cpu", host="alive")
    with transaction() as session:
        for job in (ended, open_):
            session.add_all(
                Event(subject_id=job, seq=seq, type="progress", data={}, **mine) for seq in (1, 2, 3)
            )
        session.add(Webhook(id="whk_1", url="https://example.org", secret="s", **mine))
        session.flush()
        for name, days in (("old", 50), ("new", 0)):
            session.add(
                AuditEntry(id=f"aud_{name}", action=name, detail={}, created_at=days_ago(days), **mine)
            )
            session.add(
                IdempotencyKey(
                    key=name, route="r", request_sha256="0", status=201, headers={}, body={}, created_at=days_ago(days), **mine
                )
            )  # fmt: skip
            for status in ("waiting", "delivered"):
                session.add(
                    WebhookDelivery(
                        id=f"{name} {status}", webhook_id="whk_1", job_id=ended, type="job.finished", payload={}, status=status,
                        created_at=days_ago(days), **mine,
                    )
                )  # fmt: skip
        session.add_all(DeviceLease(host=host, device="cpu") for host in ("alive", "gone"))

    expected = {"events": 2, "idempotency_keys": 1, "device_leases": 1, "webhook_deliveries": 1}
    for dry_run in (True, False):
        found = service.collect(dry_run=dry_run).kinds
        assert {kind: found[kind].count for kind in expected} == expected
        assert "audit_entries" not in found
    with settings(monkeypatch, keep_audit_days=40):
        assert service.collect().kinds["audit_entries"].count == 1
    with transaction(readonly=True) as session:
        left = session.execute(select(Event.subject_id, Event.seq).order_by(Event.seq)).all()
        assert [tuple(row) for row in left if row[0] == ended] == [(ended, 3)]
        assert len(left) == 4
        assert set(session.scalars(select(WebhookDelivery.id))) == {
            "old waiting",
            "new waiting",
            "new delivered",
        }
        assert session.scalars(select(DeviceLease.host)).all() == ["alive"]
    assert [count(IdempotencyKey), count(AuditEntry)] == [1, 1]
    assert all(removed.count == 0 for removed in service.collect().kinds.values())
