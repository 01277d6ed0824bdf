"""The folder that an attempt works in: laid out before, removed after."""

import contextlib
import itertools
import os
import stat
import uuid
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.artifacts.tables import Artifact
from app.catalog.formats import FORMATS
from app.catalog.recipe import Target, is_dataset
from app.config import get_settings
from app.datasets.tables import Dataset
from app.errors import NotFound
from app.jobs.advice import find_advice
from app.jobs.routing import measuring_queue
from app.jobs.schemas import AdviceRequest
from app.jobs.subjects import BUNDLE, ENGINE
from app.jobs.tables import Job
from app.models.tables import Model
from app.storage import get_storage
from workers.assignment import DatasetFiles, JobAssignment, SubjectFiles
from workers.sandbox.limits import memory_limit_bytes
from workers.sandbox.paths import WORK


def folder(subject_id: str, attempt: int) -> Path:
    """The folder of an attempt; its name says whose it is, so that the sweep can tell (`owner`)."""
    return get_settings().scratch_path / f"{subject_id}-{attempt}"


def owner(name: str) -> tuple[str, int] | None:
    """The subject and attempt that a folder's name says, None where it is no attempt's."""
    subject_id, separator, attempt = name.rpartition("-")
    return (subject_id, int(attempt)) if separator and attempt.isdigit() else None


def make(path: Path) -> Path:
    """A new empty folder for this user alone."""
    remove(path)
    path.mkdir(parents=True, mode=0o700)
    return path


def remove(path: Path) -> None:
    """Remove a folder, whatever the child left in it; nothing happens where there is none.

    Folders are moved up before they are removed, so that no nest is too deep.
    """
    numbers, mark = itertools.count(), uuid.uuid4().hex
    with contextlib.suppress(FileNotFoundError):
        while folders := _remove_files(path):
            for folder in folders:
                for inner in _remove_files(folder):
                    inner.rename(path / f"{mark}.{next(numbers)}")
                folder.rmdir()
        path.rmdir()


def describe(session: Session, job: Job, scratch: Path) -> JobAssignment:
    """The assignment of a claimed job, from the rows alone.

    Raises:
        NotFound: the subject or a dataset is gone.
    """
    request = job.request
    target, allowed = Target.model_validate(request["targets"][0]), request["options"].get("allow_unmeasured")
    return JobAssignment(
        kind=job.kind,
        job_id=job.id,
        attempt=job.attempt,
        scratch=scratch / WORK,
        seed=request["options"].get("seed", 0),
        subject=_subject(session, job, scratch / "subject"),
        origin=_origin(session, job, scratch / "origin"),
        datasets={
            id_: _dataset(session, job, id_, scratch / "datasets" / id_)
            for id_ in job.datasets
            if is_dataset(id_)
        },
        teachers={
            id_: _teacher(session, job, id_, scratch / "teachers" / id_)
            for id_ in job.datasets
            if not is_dataset(id_)
        },
        recipe=request["recipe"],
        target=request["targets"][0],
        evaluation=request.get("evaluation"),
        budget=request.get("budget"),
        options=request["options"],
        asked=request.get(job.kind) or {},
        inputs=request.get("inputs") or {},
        data=request.get("data"),
        advice=_advice(session, job),
        measure_seconds=get_settings().measure_seconds,
        measure_launches=get_settings().measure_launches,
        checkpoint_seconds=get_settings().checkpoint_seconds,
        memory_bytes=memory_limit_bytes(get_settings().child_memory_bytes),
        measuring_queue=measuring_queue(session, target, job.queue, allow_unmeasured=bool(allowed)),
    )


def lay_out(assignment: JobAssignment) -> Path:
    """The files that an assignment names, and the assignment itself: the path of its JSON.

    Raises:
        NotFound: files are gone.
        DiskFull: no space left.
    """
    storage = get_storage()
    subject = assignment.subject
    if subject.format == ENGINE:
        subject.root.mkdir()
        storage.materialize_file(subject.digest, subject.root / subject.entry)
        if assignment.origin is not None:
            try:
                storage.materialize(assignment.origin.digest, assignment.origin.root)
            except (NotFound, FileNotFoundError):  # deleted meanwhile: its layers' names are all that is lost
                assignment.origin = None
    else:
        storage.materialize(subject.digest, subject.root)
    for teacher in assignment.teachers.values():
        storage.materialize(teacher.digest, teacher.root)
    for dataset in assignment.datasets.values():
        storage.materialize(dataset.digest, dataset.root)
    path = assignment.scratch.parent / "assignment.json"
    path.write_text(assignment.model_dump_json())
    return path


def _advice(session: Session, job: Job) -> dict[str, Any] | None:
    """What the job follows; None where the profile is gone by now."""
    if job.request.get("advice") is None:
        return None
    try:
        return find_advice(session, job.project_id, AdviceRequest.model_validate(job.request["advice"]))
    except NotFound:
        return None


def _subject(session: Session, job: Job, root: Path) -> SubjectFiles:
    return _network(session, job, job.subject, root, job.subject_digest)


def _teacher(session: Session, job: Job, id_: str, root: Path) -> SubjectFiles:
    return _network(session, job, id_, root, None)


def _network(session: Session, job: Job, id_: str, root: Path, digest: str | None) -> SubjectFiles:
    """A model or an artifact; `digest`: of its tree, where that is known."""
    if id_.startswith("art_"):
        artifact = _row(session, Artifact, job.project_id, id_)
        described = artifact.manifest or {}
        if artifact.kind == ENGINE:
            return _engine(artifact, described, root)
        name, format_, signature, facts = (
            described["name"],
            described["format"],
            described["signature"],
            described["facts"],
        )
        declared: dict[str, Any] = {}
        licence = described.get("license")
        found = artifact.tree_digest
        structure: dict[str, Any] = {}
    else:
        model = _row(session, Model, job.project_id, id_)
        structure = (model.structure or {}) if job.kind == "profile" else {}
        name, format_, signature, facts = model.name, model.format, model.signature or {}, model.facts or {}
        declared = {key: value for key, value in model.declared.items() if key in FORMATS[format_].declares}
        licence = model.declared.get("license")
        found = model.digest
    return SubjectFiles(
        id=id_,
        digest=digest or found,
        root=root,
        entry=facts["entry"],
        format=format_,
        signature=signature,
        facts=facts,
        declared=declared,
        license=licence,
        name=name,
        structure=structure,
    )


def _engine(artifact: Artifact, manifest: dict[str, Any], root: Path) -> SubjectFiles:
    return SubjectFiles(
        id=artifact.id,
        digest=artifact.digest,
        root=root,
        entry=BUNDLE,
        format=ENGINE,
        signature=manifest["signature"],
        facts={"precision": None, **manifest["engine"]["facts"]},
        name=manifest["model"]["name"],
    )


def _origin(session: Session, job: Job, root: Path) -> SubjectFiles | None:
    """The model that a job's engine was made from; None where the subject is no engine, or the model is gone."""
    query = select(Artifact).where(Artifact.id == job.subject, Artifact.project_id == job.project_id)
    artifact = session.scalar(query) if job.subject.startswith("art_") else None
    if artifact is None or artifact.kind != ENGINE:
        return None
    try:
        return _network(session, job, (artifact.manifest or {})["model"]["id"], root, None)
    except NotFound:
        return None


def _dataset(session: Session, job: Job, id_: str, root: Path) -> DatasetFiles:
    row = _row(session, Dataset, job.project_id, id_)
    return DatasetFiles(
        id=id_,
        digest=row.digest or "",
        root=root,
        format=row.format or "",
        name=row.name,
        declared=row.declared or {},
    )


def _row(session: Session, table: Any, project_id: str, id_: str) -> Any:
    row = session.scalar(select(table).where(table.id == id_, table.project_id == project_id))
    if row is None:
        raise NotFound(f"{id_} is gone", stage="fetching")
    return row


def _remove_files(folder: Path) -> list[Path]:
    """Remove what is in a folder, whatever rights the child left on it; the folders in it, which stay."""
    folder.chmod(stat.S_IRWXU)
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                path.chmod(stat.S_IRWXU)
                folders.append(path)
            else:
                path.unlink(missing_ok=True)
    return folders
