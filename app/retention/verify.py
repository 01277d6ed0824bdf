"""Whether the store holds every file that a row refers to, unharmed: after a restore, and whenever in doubt."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import literal, or_, select, union_all
from sqlalchemy.orm import Session

from app.artifacts.tables import Artifact
from app.datasets.tables import Dataset
from app.db import transaction
from app.errors import NotFound
from app.jobs.tables import StepResult
from app.models.tables import Model
from app.references import CHUNK, learn_trees, named_digests
from app.retention.tables import TreeFile
from app.storage import get_storage
from app.uploads.tables import Upload

MISSING, DAMAGED = "missing", "damaged"
USERS_SHOWN = 20


@dataclass(frozen=True)
class Fault:
    """A file that is missing or damaged, and who needs it: ids of models, datasets, uploads and artifacts, keys of steps."""

    digest: str
    problem: str
    used_by: list[str]


@dataclass
class Verification:
    """How many files were looked at, and what is wrong."""

    files: int = 0
    faults: list[Fault] = field(default_factory=list)


def verify(*, read: bool = True) -> Verification:
    """Look at every file that a row refers to; `read`: its bytes too, against the digest."""
    learn_trees()
    found = Verification()
    for digest in _digests():
        found.files += 1
        problem = _problem(digest, read)
        if problem is None:
            continue
        with transaction(readonly=True) as session:
            users = _users(session, digest)
        if users:  # none: its row went meanwhile, and the file with it
            found.faults.append(Fault(digest, problem, users))
    return found


def _digests() -> Iterator[str]:
    """Every referenced digest, in order, a page at a time."""
    after = ""
    while True:
        with transaction(readonly=True) as session:
            page = named_digests(session, after, CHUNK)
        yield from page
        if len(page) < CHUNK:
            return
        after = page[-1]


def _problem(digest: str, read: bool) -> str | None:
    storage = get_storage()
    if not read:
        return None if storage.exists(digest) else MISSING
    hashed = hashlib.sha256()
    try:
        for chunk in storage.open(digest):
            hashed.update(chunk)
    except (NotFound, FileNotFoundError):
        return MISSING
    return None if hashed.hexdigest() == digest else DAMAGED


def _users(session: Session, digest: str) -> list[str]:
    trees = [digest, *session.scalars(select(TreeFile.tree).where(TreeFile.file == digest))]
    query = union_all(
        select(Model.id).where(or_(Model.upload_digest == digest, Model.digest.in_(trees))),
        select(Dataset.id).where(or_(Dataset.upload_digest == digest, Dataset.digest.in_(trees))),
        select(Upload.id).where(Upload.digest == digest),
        select(Artifact.id).where(or_(Artifact.digest == digest, Artifact.tree_digest.in_(trees))),
        select(literal("step ") + StepResult.key).where(StepResult.digest.in_(trees)),
    )
    return sorted(session.scalars(query.limit(USERS_SHOWN)))
