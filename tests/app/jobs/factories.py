"""Rows as uploads, inspections and workers leave them."""

import hashlib
import io
from typing import Any

from app.artifacts.tables import Artifact, ArtifactInput
from app.auth.tables import DEFAULT_PROJECT
from app.datasets.tables import Dataset
from app.db import transaction
from app.fleet import service as fleet
from app.ids import new_id
from app.jobs import lease
from app.jobs.status import JobStatus
from app.jobs.tables import Job
from app.models.tables import Model
from app.storage import get_storage

RUNTIME = "onnxruntime-cpu"
SIGNATURE = {
    "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 1, 8, 8]}],
    "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 10]}],
}
FACTS = {
    "opset": 18,
    "parameters": 1000,
    "flops": 2000,
    "operators": {"Conv": 2, "Gemm": 1, "Relu": 2},
    "domains": {"": 18},
    "precision": "fp32",
    "size_bytes": 4000,
    "entry": "model.onnx",
    "over_2gb": False,
}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


STRUCTURE: dict[str, Any] = {
    "source": "onnx",
    "parameters": 650,
    "flops": 1280,
    "layers": [
        {
            "name": "head",
            "kind": "Gemm",
            "parameters": 650,
            "flops": 1280,
            "output": [10],
            "savings": {
                "low-rank": {"break_even_rank": 8},
                "prune-weights": {"weights": 640, "two_of_four": True},
            },
        }
    ],
    "left_out": 0,
}


def make_model(project: str = DEFAULT_PROJECT, status: str = "ready", **columns: Any) -> str:
    id_ = new_id("mdl")
    facts = {**FACTS, **columns.pop("facts", {})}
    values: dict[str, Any] = {
        "name": "digits",
        "filename": "digits.onnx",
        "format": "onnx",
        "upload_digest": sha(id_),
        "size_bytes": 4000,
        "digest": sha("tree" + id_),
        "declared": {},
        "signature": SIGNATURE,
        "facts": facts,
        "structure": STRUCTURE,
    }
    with transaction() as session:
        session.add(Model(id=id_, project_id=project, status=status, **{**values, **columns}))
    return id_


def make_dataset(project: str = DEFAULT_PROJECT, status: str = "ready", **columns: Any) -> str:
    id_ = new_id("dat")
    values: dict[str, Any] = {
        "name": "digits",
        "filename": "digits.npz",
        "format": "npz",
        "upload_digest": sha(id_),
        "size_bytes": 4000,
        "digest": sha("tree" + id_),
        "samples": 200,
        "inputs": {"image": {"dtype": "float32", "shape": [1, 8, 8]}},
        "labels": {"name": "labels", "dtype": "int64", "shape": [], "classes": 10},
    }
    with transaction() as session:
        session.add(Dataset(id=id_, project_id=project, status=status, **{**values, **columns}))
    return id_


def offer(*runtimes: str, worker_id: str | None = None, host: str = "host-a") -> str:
    """A live worker that offers runtimes."""
    id_ = worker_id or new_id("wrk")
    with transaction() as session:
        fleet.register(
            session,
            worker_id=id_,
            host=host,
            pid=1,
            version="0",
            queues=["inspect", *(f"runtime.{name}" for name in runtimes)],
            runtimes={name: {"version": "1"} for name in runtimes},
            hardware={"cpus": 2},
        )
    return id_


def optimize(subject: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "optimize", "subject": subject, "targets": [RUNTIME], **fields}


def make_artifact(job_id: str, data: bytes = b"engine", **columns: Any) -> str:
    """An artifact whose bytes are in storage, made from a model and a dataset."""
    blob = get_storage().put(io.BytesIO(data))
    id_ = new_id("art")
    values: dict[str, Any] = {
        "kind": "engine",
        "filename": "engine.zip",
        "media_type": "application/zip",
        "manifest": {"schema": 1},
    }
    with transaction() as session:
        job = session.get_one(Job, job_id)
        session.add(
            Artifact(
                id=id_,
                project_id=job.project_id,
                job_id=job_id,
                digest=blob.digest,
                size_bytes=blob.size_bytes,
                **{**values, **columns},
            )
        )
        session.flush()
        session.add(
            ArtifactInput(
                artifact_id=id_,
                role="subject",
                input_id=job.subject,
                project_id=job.project_id,
                digest=job.subject_digest,
            )
        )
    return id_


def claim(job_id: str, worker_id: str = "wrk_test") -> int | None:
    """Claim a job as a worker does: its attempt, or None."""
    with transaction() as session:
        job = lease.claim(session, job_id, worker_id, 30)
        return None if job is None else job.attempt


def finish(job_id: str, attempt: int, status: JobStatus = JobStatus.SUCCEEDED, **said: Any) -> bool:
    with transaction() as session:
        return lease.finish(session, job_id, attempt, status, **said)


def status_of(job_id: str) -> str:
    with transaction(readonly=True) as session:
        return session.get_one(Job, job_id).status
