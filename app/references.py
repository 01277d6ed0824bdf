"""Which blobs rows still refer to, so that only the others are removed. Blobs are shared by every project."""

from collections.abc import Iterable

from sqlalchemy import CompoundSelect, select, union
from sqlalchemy.orm import Session

from app.artifacts.tables import Artifact
from app.config import get_settings
from app.datasets.tables import Dataset
from app.db import after_commit, transaction
from app.errors import NotFound
from app.jobs.tables import StepResult
from app.models.tables import Model
from app.storage import get_storage


def release(session: Session, *, blobs: Iterable[str] = (), trees: Iterable[str | None] = ()) -> None:
    """Remove blobs, and trees with their files, once the transaction is committed, if nothing refers to them then.

    What was stored within `BURNISH_GC_GRACE_SECONDS` stays for `burnish gc`: a row may be about to refer to it.
    """
    single = set(blobs)
    named = {tree for tree in trees if tree is not None}
    after_commit(session, lambda: _remove_unreferenced(single.union(*map(_with_files, named))))


def collect() -> tuple[int, int]:
    """Remove every stored file that no row refers to and that is older than the grace; (files, bytes) removed.

    Safe while API and workers run: bytes that are about to get a row are young, or become so when they are stored again.
    """
    storage, grace = get_storage(), get_settings().gc_grace_seconds
    stored = set(storage.digests())
    with transaction(readonly=True) as session:
        kept = set(session.scalars(_named_blobs()))
        kept = kept.union(*map(_with_files, session.scalars(_named_trees())))
    sizes = (storage.delete(digest, grace) for digest in stored - kept)
    freed = [size for size in sizes if size is not None]
    return len(freed), sum(freed)


def referenced(session: Session, candidates: set[str]) -> set[str]:
    """Those of some blobs that a row refers to: by itself, as a tree, or as a file of a tree."""
    blobs = _named_blobs().subquery()
    kept = set(session.scalars(select(blobs).where(blobs.c[0].in_(candidates))))
    for tree in session.scalars(_named_trees()):
        kept |= candidates & _with_files(tree)
        if kept >= candidates:
            break
    return kept


def _named_blobs() -> CompoundSelect[str]:
    return union(select(Model.upload_digest), select(Dataset.upload_digest), select(Artifact.digest))


def _named_trees() -> CompoundSelect[str]:
    columns = (Model.digest, Dataset.digest, Artifact.tree_digest, StepResult.digest)
    return union(*(select(column).where(column.is_not(None)) for column in columns))


def _remove_unreferenced(candidates: set[str]) -> None:
    with transaction(readonly=True) as session:
        kept = referenced(session, candidates)
    for digest in candidates - kept:
        get_storage().delete(digest, older_than_seconds=get_settings().gc_grace_seconds)


def _with_files(tree: str) -> set[str]:
    """A tree and its files."""
    try:
        return {tree, *(entry.digest for entry in get_storage().tree(tree))}
    except NotFound:
        return {tree}
