"""What `burnish gc` does: everything that is kept no longer goes, rows first and then the bytes that only they named."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.auth.tables import Project
from app.config import get_settings
from app.db import db_now, transaction, upsert
from app.references import COLLECTOR
from app.retention import files, jobs, rows, steps
from app.retention.tables import Pause
from app.storage import get_storage


@dataclass
class Removed:
    """How much of a kind went, or would go."""

    count: int = 0
    size_bytes: int = 0

    def add(self, count: int, size_bytes: int = 0) -> None:
        """Count some more."""
        self.count += count
        self.size_bytes += size_bytes


@dataclass
class Report:
    """What a run removed, by kind. The bytes of jobs and steps are those that they named; what was freed is under `blobs`."""

    dry_run: bool
    paused_until: datetime | None = None
    kinds: dict[str, Removed] = field(default_factory=dict)

    def add(self, kind: str, count: int, size_bytes: int = 0) -> None:
        """Count some more of a kind."""
        self.kinds.setdefault(kind, Removed()).add(count, size_bytes)

    @property
    def files(self) -> int:
        """Files removed from the store."""
        return self.kinds["blobs"].count + self.kinds["partials"].count

    @property
    def size_bytes(self) -> int:
        """Bytes removed from the store."""
        return sum(self.kinds[kind].size_bytes for kind in ("blobs", "partials", "leftovers"))

    def answer(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "dry_run": self.dry_run,
            "paused_until": None if self.paused_until is None else self.paused_until.isoformat(),
            "files": self.files,
            "size_bytes": self.size_bytes,
            "kinds": {kind: asdict(removed) for kind, removed in self.kinds.items()},
        }


def collect(*, dry_run: bool = False) -> Report:
    """Remove what is kept no longer; safe while API and workers run, and where two run at once.

    While somebody copies database and store (`pause`), rows go and files stay.
    """
    settings = get_settings()
    report = Report(dry_run)
    report.add("uploads", files.remove_uploads(dry_run=dry_run))
    with transaction(readonly=True) as session:
        kept = select(Project.id, Project.keep_jobs_days, Project.keep_steps_bytes).order_by(Project.id)
        projects = session.execute(kept).all()
        report.paused_until = paused_until(session)
    report.add("jobs", 0)
    report.add("steps", 0)
    for project_id, days, size_bytes in projects:
        _jobs(report, project_id, settings.project_keep_jobs_days if days is None else days)
        _steps(report, project_id, settings.project_keep_steps_bytes if size_bytes is None else size_bytes)
    report.add("events", rows.remove_events(dry_run=dry_run))
    for kind in rows.kinds():
        report.add(kind.name, rows.remove(kind, dry_run=dry_run))
    report.add("blobs", *files.remove_blobs(dry_run=dry_run))
    report.add("partials", *files.remove_partials(dry_run=dry_run))
    report.add("leftovers", 0, 0 if dry_run or report.paused_until else get_storage().sweep())
    return report


def pause(session: Session, hours: float) -> datetime:
    """Let no stored file be removed for so many hours, in any process; until when. What is being removed now was decided before."""
    until = db_now(hours * 3600)
    session.execute(
        upsert(session, Pause)
        .values(name=COLLECTOR, until=until)
        .on_conflict_do_update(index_elements=[Pause.name], set_={"until": until})
    )
    return session.scalars(select(Pause.until).where(Pause.name == COLLECTOR)).one()


def resume(session: Session) -> None:
    """End a pause; no error where there is none."""
    session.execute(delete(Pause).where(Pause.name == COLLECTOR))


def paused_until(session: Session) -> datetime | None:
    """The end of a pause, None where there is none now."""
    return session.scalar(select(Pause.until).where(Pause.name == COLLECTOR, Pause.until > db_now()))


def _jobs(report: Report, project_id: str, keep_days: int) -> None:
    if not keep_days:
        return
    with transaction(readonly=True) as session:
        going = jobs.outlived(session, project_id, keep_days)
        sizes = jobs.sizes(session, project_id) if going else {}
    gone = going if report.dry_run else jobs.remove(project_id, going)
    report.add("jobs", len(gone), sum(sizes.get(job_id, 0) for job_id in gone))


def _steps(report: Report, project_id: str, keep_bytes: int) -> None:
    if not keep_bytes:
        return
    with transaction(readonly=True) as session:
        found = steps.surplus(session, project_id, keep_bytes)
    gone = list(found.trees) if report.dry_run else steps.remove(project_id, found)
    report.add("steps", len(gone), sum(found.trees[digest] for digest in gone))
