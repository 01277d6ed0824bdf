"""A job's events as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from fastapi.sse import format_sse_event

from app.db import transaction
from app.errors import NotFound, Unavailable
from app.events import notifier
from app.events import service as events
from app.http.schemas import rfc3339
from app.http.together import read_together
from app.jobs import service
from app.jobs.status import finished

HEARTBEAT_SECONDS = 15.0  # proxies cut connections that are silent for longer, often after 30
RETRY_MILLISECONDS = 1000
PIECE = 200


@dataclass(frozen=True)
class Piece:
    """Events after a number, as they go over the wire. `more`: there are others; `over`: there will never be others."""

    wire: bytes
    last_seq: int
    more: bool
    over: bool


def read(project_id: str, job_id: str, after: int) -> Piece:
    """The next events of a job. A number that no event has yet counts as the newest one's.

    Raises:
        NotFound: the project has no such job.
    """
    with transaction(readonly=True) as session:
        job = service.get_job(session, project_id, job_id)  # first: a job that is finished has all its events
        newest = events.last_seqs(session, [job_id]).get(job_id, 0)
        after = min(after, newest)
        rows = events.since(session, project_id, job_id, after, PIECE)
        wire = b"".join(
            format_sse_event(
                id=str(row.seq),
                event=row.type,
                data_str=json.dumps({"at": rfc3339(row.created_at), **row.data}, allow_nan=False),
            )
            for row in rows
        )
        last = rows[-1].seq if rows else after
        return Piece(wire, last, last < newest, finished(job.status) and last >= newest)


async def stream(project_id: str, job_id: str, piece: Piece) -> AsyncIterator[bytes]:
    """Everything from `piece` on, until the job has ended, is deleted, or the service stops.

    Between events it holds neither a thread nor a session.
    """
    yield format_sse_event(retry=RETRY_MILLISECONDS) + piece.wire
    seq = piece.last_seq
    try:
        while not piece.over:
            if not piece.more:
                seq = await notifier.wait(job_id, piece.last_seq, HEARTBEAT_SECONDS)
                if seq == piece.last_seq:
                    yield format_sse_event(comment="still here")
                    continue
            after = piece.last_seq
            piece = await read_together((job_id, after, seq), partial(read, project_id, job_id, after))
            if piece.wire:
                yield piece.wire
    except (NotFound, Unavailable):
        return
