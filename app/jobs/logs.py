"""A job's log, bounded: head and tail are kept, the middle is cut, and how much was cut is said."""

import re

from sqlalchemy import Integer, LargeBinary, cast, delete, func, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.jobs import lease
from app.jobs.tables import JobLog

PIECE_CHARS = 32 * 1024
CUT_ATTEMPT = 0  # the row that says what was cut belongs to no attempt
_CUT = re.compile(r"(\d+) bytes")


def append_log(session: Session, job_id: str, attempt: int, text: str, max_bytes: int) -> bool:
    """Append to the log of a job that this attempt holds; False where the hold is lost."""
    job = lease.hold(session, job_id, attempt)
    if job is None:
        return False
    size = max(1, min(PIECE_CHARS, max_bytes // 8))
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")  # PostgreSQL's text holds no NUL
    last = session.scalar(select(JobLog).where(JobLog.job_id == job_id).order_by(JobLog.seq.desc()).limit(1))
    if last is not None and last.attempt == attempt and len(last.text) < size:
        room = size - len(last.text)
        last.text += text[:room]
        text = text[room:]
    seq = last.seq if last is not None else 0
    for start in range(0, len(text), size):
        seq += 1
        session.add(
            JobLog(
                job_id=job_id,
                seq=seq,
                project_id=job.project_id,
                attempt=attempt,
                text=text[start : start + size],
            )
        )
    session.flush()
    _trim(session, job_id, max_bytes)
    return True


def _trim(session: Session, job_id: str, max_bytes: int) -> None:
    rows = session.execute(
        select(JobLog.seq, JobLog.attempt, _octets(session).label("size"))
        .where(JobLog.job_id == job_id)
        .order_by(JobLog.seq)
    ).all()
    excess = sum(row.size for row in rows) - max_bytes
    if excess <= 0:
        return
    marker = next((row.seq for row in rows if row.attempt == CUT_ATTEMPT), None)
    head, cut, cut_bytes = 0, [], 0
    for row in rows[:-1]:
        head += row.size
        in_head = head <= max_bytes // 2 if marker is None else row.seq <= marker
        if not in_head and cut_bytes < excess:
            cut.append(row.seq)
            cut_bytes += row.size
    if not cut:
        return
    if marker is None:
        marker = cut.pop(0)
    session.execute(
        delete(JobLog).where(JobLog.job_id == job_id, JobLog.seq.in_(cut)),
        execution_options={"synchronize_session": "fetch"},
    )
    _say_cut(session, job_id, marker, cut_bytes)


def _say_cut(session: Session, job_id: str, seq: int, cut_bytes: int) -> None:
    row = session.get_one(JobLog, (job_id, seq))
    if row.attempt == CUT_ATTEMPT and (before := _CUT.search(row.text)) is not None:
        cut_bytes += int(before[1])
    row.attempt = CUT_ATTEMPT
    row.text = f"\n[… {cut_bytes} bytes of log were cut here …]\n"
    session.flush()


def _octets(session: Session) -> ColumnElement[int]:
    """The size of a row's text in bytes; SQLite before 3.43 has no octet_length."""
    if session.get_bind().dialect.name == "postgresql":
        return func.octet_length(JobLog.text, type_=Integer)
    return func.length(cast(JobLog.text, LargeBinary), type_=Integer)
