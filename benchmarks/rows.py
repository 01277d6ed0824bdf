"""Rows as a busy installation has them: jobs with steps, events and results, written in a few statements."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Interval, Text, bindparam, cast, func, insert, literal, select
from sqlalchemy.orm import Session

from app.auth.tables import DEFAULT_PROJECT
from app.events.tables import Event
from app.ids import new_id
from app.jobs.schemas import OptimizeRequest
from app.jobs.tables import Job, JobStep

RARE = "archive"  # the label of the few oldest
OLD = 20
STEPS = ("pass:simplify", "pass:quantize-static", "build", "measure", "verify", "package")
SPREAD = timedelta(seconds=1)  # between two jobs


def _latency() -> dict[str, Any]:
    return {
        "p50_ms": 3.281723, "p90_ms": 3.402811, "p99_ms": 3.61234, "mean_ms": 3.30127, "samples": 2000,
        "launches": 5, "batch": 1, "threads": 1,
    }  # fmt: skip


def _side() -> dict[str, Any]:
    return {
        "size_bytes": 870_120, "latency": _latency(), "throughput_per_s": 304.1, "peak_memory_bytes": 91_000_000,
        "load_ms": 41.2, "accuracy": {"value": 0.9931, "low": 0.985, "high": 0.998, "samples": 600},
    }  # fmt: skip


RESULT = {
    "reference": None,
    "baseline": _side(),
    "optimized": _side(),
    "comparison": {
        "speedup": {"value": 2.38, "low": 2.37, "high": 2.41, "verdict": "faster"},
        "size_ratio": 0.27,
        "fidelity": {
            "outputs": {"logits": {"cosine": 0.9999, "sqnr_db": 44.0, "max_abs": 0.03, "top1_agreement": 1.0}}
        },
        "accuracy_drop": {"value": 0.0, "low": -0.0064, "high": 0.0064},
        "within_budget": True,
        "why": ["all 53 compute nodes run in int8"],
    },
    "verification": "verified",
    "artifacts": {"engine": "art_engine", "report": "art_report"},
}


def fill_jobs(session: Session, count: int) -> str:
    """So many finished jobs, a second apart; the `OLD` oldest failed and carry the label `RARE`. An id in the middle."""
    request = OptimizeRequest.model_validate(
        {
            "kind": "optimize",
            "subject": new_id("mdl"),
            "targets": [{"runtime": "onnxruntime-cpu", "params": {"threads": 1}}],
            "recipe": {"schema": 1, "passes": [{"pass": "simplify"}]},
            "labels": {"team": "vision"},
        }
    )
    first = datetime.now(UTC) - SPREAD * count
    common: dict[str, Any] = {
        "project_id": DEFAULT_PROJECT, "kind": "optimize", "name": "resnet int8", "stage": None,
        "progress": {"done": 4, "total": 4, "message": ""}, "request": request.model_dump(mode="json"),
        "subject": request.subject, "subject_digest": "0" * 64, "datasets": [], "queue": "runtime.onnxruntime-cpu",
        "attempt": 1, "stalled_attempts": 0, "result": RESULT,
    }  # fmt: skip
    for old in (True, False):
        numbers = func.generate_series(0 if old else OLD, OLD - 1 if old else count - 1).column_valued("n")
        began = literal(first) + cast(numbers, Text).op("||")(" seconds").cast(Interval)
        values = {
            **common,
            "labels": {"team": RARE if old else "vision"},
            "status": "failed" if old else "succeeded",
        }
        columns: dict[str, Any] = {
            name: bindparam(name, value, getattr(Job, name).type) for name, value in values.items()
        }
        columns["id"] = literal("job_") + func.lpad(cast(numbers, Text), 20, "0")
        columns |= dict.fromkeys(
            ("created_at", "started_at", "finished_at", "sent_at", "pending_until"), began
        )
        session.execute(
            insert(Job).from_select(
                list(columns), select(*(value.label(key) for key, value in columns.items()))
            )
        )
    for index, name in enumerate(STEPS):
        session.execute(
            insert(JobStep).from_select(
                ["job_id", "index", "project_id", "name", "status", "cached", "seconds", "key", "facts"],
                select(
                    Job.id, literal(index), Job.project_id, literal(name), literal("done"), literal(False),
                    literal(1.25), literal("0" * 64), bindparam("facts", {}, JobStep.facts.type),
                ),
            )
        )  # fmt: skip
    for seq in (1, 2, 3):
        session.execute(
            insert(Event).from_select(
                ["subject_id", "seq", "project_id", "type", "data", "created_at"],
                select(
                    Job.id, literal(seq), Job.project_id, literal("status"),
                    bindparam("data", {"status": "succeeded"}, Event.data.type), Job.created_at,
                ),
            )
        )  # fmt: skip
    return f"job_{count // 2:020d}"
