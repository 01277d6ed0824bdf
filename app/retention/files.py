"""Bytes in the store that nothing refers to."""

from sqlalchemy import func, select

from app.config import get_settings
from app.db import db_now, transaction
from app.references import chunks, forget_trees, learn_trees, paused, remove_unreferenced, unreferenced
from app.storage import get_storage
from app.uploads import service as uploads
from app.uploads.tables import Upload


def remove_blobs(*, dry_run: bool) -> tuple[int, int]:
    """Remove stored files that no row refers to and that are older than the grace, or only count them; (files, bytes).

    Safe while API and workers run: bytes that are about to get a row are young, or become so when they are stored again.
    """
    learn_trees()
    if not dry_run:
        forget_trees()
    count, size_bytes = 0, 0
    for some in chunks(get_storage().digests()):
        found = _count_old(unreferenced(some)) if dry_run else remove_unreferenced(some)
        count, size_bytes = count + found[0], size_bytes + found[1]
    return count, size_bytes


def remove_uploads(*, dry_run: bool) -> int:
    """Forget the uploads that nobody went on with in time, or only count them; how many."""
    with transaction(readonly=dry_run) as session:
        if paused(session):
            return 0
        if not dry_run:
            return len(uploads.expire(session))
        over = select(func.count()).select_from(Upload).where(Upload.expires_at <= db_now())
        return session.scalar(over) or 0


def remove_partials(*, dry_run: bool) -> tuple[int, int]:
    """Remove the bytes of uploads that have no row (any more) and did not grow within the grace; (uploads, bytes)."""
    storage, grace = get_storage(), get_settings().gc_grace_seconds
    count, size_bytes = 0, 0
    for some in chunks(id_ for id_, age in storage.partials() if age >= grace):
        with transaction(readonly=True) as session:
            known = set(session.scalars(select(Upload.id).where(Upload.id.in_(some))))
            if paused(session):
                break
        for id_ in set(some) - known:
            partial = storage.partial(id_)
            count, size_bytes = count + 1, size_bytes + partial.size()
            if not dry_run:
                partial.abort()
    return count, size_bytes


def _count_old(digests: list[str]) -> tuple[int, int]:
    storage, grace = get_storage(), get_settings().gc_grace_seconds
    found = [facts for digest in digests if (facts := storage.stat(digest)) is not None]
    old = [size_bytes for size_bytes, age_seconds in found if age_seconds >= grace]
    return len(old), sum(old)
