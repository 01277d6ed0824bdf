"""Which blobs rows still refer to, so that only the others are removed. Blobs are shared by every project.

A blob is named by a row, or is a file of a tree that a row names. Trees never change, so the files of each are read from the
store once and kept in `tree_files`; asking for a blob is then a look into a few indexes.

Nothing is lost to a row that is just being written: bytes are stored, or stored again, before a row names them, which makes
them young, and the young stay. Where a row takes over a name (an artifact from a step, a model from an upload), the name is
never without a row in between, and what is referenced is asked in one statement, which sees one moment.
"""

import json
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import structlog
from sqlalchemy import (
    CTE,
    ColumnElement,
    CompoundSelect,
    String,
    cast,
    delete,
    func,
    literal,
    or_,
    select,
    union,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.artifacts.tables import Artifact
from app.config import get_settings
from app.datasets.tables import Dataset
from app.db import after_commit, db_now, transaction, upsert
from app.errors import NotFound
from app.jobs.tables import Job, StepResult
from app.models.tables import Model
from app.retention.tables import Pause, TreeFile
from app.storage import get_storage
from app.uploads.tables import Upload

CHUNK = 500  # digests asked for at once
COLLECTOR = "gc"
LET_GO = (
    "let_go"  # what a transaction releases, in its session's notes: looked after once, however much it is
)

BLOBS: tuple[InstrumentedAttribute[Any], ...] = (
    Model.upload_digest,
    Dataset.upload_digest,
    Artifact.digest,
    Upload.digest,
)
TREES: tuple[InstrumentedAttribute[Any], ...] = (
    Model.digest,
    Dataset.digest,
    Artifact.tree_digest,
    StepResult.digest,
)

log = structlog.get_logger(__name__)


def release(session: Session, *, blobs: Iterable[str] = (), trees: Iterable[str | None] = ()) -> None:
    """Remove blobs, and trees with their files, once the transaction is committed, if nothing refers to them then.

    What was stored within `BURNISH_GC_GRACE_SECONDS` stays for `burnish gc`: a row may be about to refer to it.
    """
    let_go: tuple[set[str], set[str]] | None = session.info.get(LET_GO)
    if let_go is None:
        let_go = session.info[LET_GO] = (set(), set())
        after_commit(session, partial(_remove, session, *let_go))
    let_go[0].update(blobs)
    let_go[1].update(tree for tree in trees if tree is not None)


def remove_unreferenced(digests: Sequence[str]) -> tuple[int, int]:
    """Remove those of some blobs that are unreferenced and older than the grace; (files, bytes) removed."""
    grace = get_settings().gc_grace_seconds
    sizes = [get_storage().delete(digest, grace) for digest in unreferenced(digests)]
    freed = [size for size in sizes if size is not None]
    return len(freed), sum(freed)


def unreferenced(digests: Sequence[str]) -> list[str]:
    """Those of up to `CHUNK` blobs that no row refers to; none while removing is paused. `learn_trees` comes before."""
    with transaction(readonly=True) as session:
        kept = set(session.scalars(_referenced(session, digests)))
        # asked after the references: what was unreferenced before a pause began is in no copy made during it
        if paused(session):
            return []
    return [digest for digest in digests if digest not in kept]


def learn_trees() -> None:
    """Read the trees that rows name and whose files are not known yet."""
    named = union(*(select(column).where(column.is_not(None)) for column in TREES)).subquery()
    with transaction(readonly=True) as session:
        known = select(TreeFile.tree).where(TreeFile.tree == named.c[0]).exists()
        unknown = list(session.scalars(select(named.c[0]).where(~known)))
    _learn(unknown)


def forget_trees() -> None:
    """Forget the files of trees that no row names any more."""
    with transaction() as session:
        session.execute(delete(TreeFile).where(~is_named(TreeFile.tree)))


def paused(session: Session) -> bool:
    """Whether no stored file may be removed now."""
    running = select(Pause.name).where(Pause.name == COLLECTOR, Pause.until > db_now())
    return session.scalar(running) is not None


def named_digests(session: Session, after: str, limit: int) -> list[str]:
    """The next referenced digests behind `after`, in order: blobs, trees, and the files of trees that are known."""
    parts = (
        *(select(column.label("digest")).where(column > after) for column in (*BLOBS, *TREES)),
        select(TreeFile.file).where(TreeFile.file > after, is_named(TreeFile.tree)),
    )
    pages = (part.order_by(part.selected_columns[0]).distinct().limit(limit).subquery() for part in parts)
    merged = union(*(select(page.c[0]) for page in pages)).subquery()
    return list(session.scalars(select(merged.c[0]).order_by(merged.c[0]).limit(limit)))


def is_named(tree: ColumnElement[str] | InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """Whether a row names this tree."""
    return or_(*(select(column).where(column == tree).exists() for column in TREES))


def read_by_jobs(ids: Sequence[str]) -> ColumnElement[bool]:
    """Whether a job starts from one of these, or names one as data or as a teacher."""
    named = (cast(Job.datasets, String).contains(f'"{id_}"', autoescape=True) for id_ in ids)
    return or_(Job.subject.in_(ids), *named)


def chunks(digests: Iterable[str]) -> Iterable[list[str]]:
    """Lists of up to `CHUNK`: a store of any size in bounded memory."""
    each = iter(digests)
    return iter(lambda: list(islice(each, CHUNK)), [])


def _referenced(session: Session, digests: Sequence[str]) -> CompoundSelect[Any]:
    asked = _rows_of(session, digests)
    held = select(TreeFile.tree, TreeFile.file).join(asked, TreeFile.file == asked.c.digest).cte("held")
    return union(
        *(select(column).join(asked, column == asked.c.digest) for column in (*BLOBS, *TREES)),
        # a join with each: PostgreSQL would read every named tree for one condition over all of them
        *(select(held.c.file).join(column.class_, column == held.c.tree) for column in TREES),
    )


def _rows_of(session: Session, digests: Sequence[str]) -> CTE:
    """Texts as rows, by one parameter: thousands of them would take longer than the answer."""
    if session.get_bind().dialect.name == "postgresql":
        listed = literal(list(digests), JSONB)
        return select(func.jsonb_array_elements_text(listed).column_valued("digest")).cte("asked")
    return select(func.json_each(json.dumps(digests)).table_valued("value").c.value.label("digest")).cte(
        "asked"
    )


def _learn(trees: Iterable[str]) -> None:
    for each in trees:
        try:
            files = sorted({entry.digest for entry in get_storage().tree(each)})
        except (NotFound, FileNotFoundError):  # `burnish verify` tells of it
            log.warning("tree_missing", digest=each)
            continue
        with transaction() as session:
            for some in chunks(files):
                rows = [{"tree": each, "file": file} for file in some]
                session.execute(upsert(session, TreeFile).values(rows).on_conflict_do_nothing())


def _remove(done: Session, blobs: set[str], trees: set[str]) -> None:
    done.info.pop(LET_GO)
    _learn(trees)
    learn_trees()
    with transaction() as session:
        files = set(session.scalars(select(TreeFile.file).where(TreeFile.tree.in_(trees))))
        session.execute(delete(TreeFile).where(TreeFile.tree.in_(trees), ~is_named(TreeFile.tree)))
    for some in chunks(blobs | trees | files):
        remove_unreferenced(some)
