"""`?wait=`: holds an answer until what it tells of has changed, and holds neither a thread nor a session meanwhile."""

import time
from collections.abc import Callable
from typing import TypeVar

from pydantic import Field
from starlette.concurrency import run_in_threadpool

from app.config import get_settings
from app.db import transaction
from app.errors import Unavailable
from app.events import notifier
from app.events.service import last_seqs
from app.http.schemas import RequestSchema

Answer = TypeVar("Answer")


class WaitQuery(RequestSchema):
    """`?wait=`; use as `Annotated[WaitQuery, Query()]`."""

    wait: float = Field(
        0.0, ge=0, le=86400, description="Seconds to wait at most; the service cuts it to its own bound."
    )


async def wait_until(
    read: Callable[[], Answer], done: Callable[[Answer], bool], subject_id: str, seconds: float
) -> Answer:
    """What `read` (run in a thread) gives once it is `done`, or when the time is over."""
    if seconds <= 0:
        return await run_in_threadpool(read)
    deadline = time.monotonic() + min(seconds, get_settings().max_wait_seconds)
    while True:
        seq = await run_in_threadpool(_last_seq, subject_id)  # before the read: no change falls between
        answer = await run_in_threadpool(read)
        left = deadline - time.monotonic()
        if done(answer) or left <= 0:
            return answer
        try:
            await notifier.wait(subject_id, seq, left)
        except Unavailable:
            return answer  # the service stops: what was read holds, and another process hears the next question


def _last_seq(subject_id: str) -> int:
    with transaction(readonly=True) as session:
        return last_seqs(session, [subject_id]).get(subject_id, 0)
