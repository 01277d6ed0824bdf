"""`?wait=`: holds an answer until what it tells of has changed, and holds neither a thread nor a session meanwhile."""

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from pydantic import Field
from starlette.concurrency import run_in_threadpool

from app.config import get_settings
from app.db import transaction
from app.errors import Unavailable
from app.events import notifier
from app.events.service import last_seqs
from app.http.schemas import RequestSchema
from app.http.together import read_together

Answer = TypeVar("Answer")


class WaitQuery(RequestSchema):
    """`?wait=`; use as `Annotated[WaitQuery, Query()]`."""

    wait: float = Field(
        0.0, ge=0, le=86400, description="Seconds to wait at most; the service cuts it to its own bound."
    )


async def wait_until(
    read: partial[Answer], done: Callable[[Answer], bool], subject_id: str, seconds: float
) -> Answer:
    """What `read` (run in a thread) gives once it is `done`, or when the time is over. Equal reads of many are one."""
    if seconds <= 0:
        return await run_in_threadpool(read)
    deadline = time.monotonic() + min(seconds, get_settings().max_wait_seconds)
    key = (read.func, *read.args)
    seq, answer = await read_together(key, partial(_with_seq, read, subject_id))
    while not done(answer) and (left := deadline - time.monotonic()) > 0:
        try:
            seq = await notifier.wait(subject_id, seq, left)
        except Unavailable:
            return (
                answer  # the service stops: what was read holds, and another process hears the next question
            )
        answer = await read_together((*key, seq), read)
    return answer


def _with_seq(read: Callable[[], Answer], subject_id: str) -> tuple[int, Answer]:
    with transaction(readonly=True) as session:
        seq = last_seqs(session, [subject_id]).get(subject_id, 0)  # first: no change falls between
    return seq, read()
