"""Waiting for events: one task a process looks into the events table for everybody who waits, in one short read.

A waiter holds neither a thread nor a session. While nobody waits, nothing is read.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from app.config import get_settings
from app.db import transaction
from app.errors import Unavailable
from app.events.service import last_seqs

LONGEST_BACKOFF_SECONDS = 5.0

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class _Waiter:
    subject_id: str
    after_seq: int
    woken: asyncio.Future[int]


class Notifier:
    """The waiters of one event loop, and the task that wakes them."""

    def __init__(self, poll_seconds: float, read: Callable[[list[str]], dict[str, int]]):
        self._poll_seconds = poll_seconds
        self._read = read
        self._waiters: set[_Waiter] = set()
        self._wanted = asyncio.Event()
        self._task = asyncio.create_task(self._watch(), name="notifier")

    async def wait(self, subject_id: str, after_seq: int, seconds: float) -> int:
        """See the function of the same name."""
        if self._task.done():
            raise _stopped()
        waiter = _Waiter(subject_id, after_seq, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        self._wanted.set()
        try:
            async with asyncio.timeout(seconds):
                return await waiter.woken
        except TimeoutError:
            return after_seq
        finally:
            self._waiters.discard(waiter)
            if not self._waiters:
                self._wanted.clear()

    async def stop(self) -> None:
        """Stop looking; whoever waits is told that the service stops."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        for waiter in self._waiters:
            if not waiter.woken.done():
                waiter.woken.set_exception(_stopped())

    async def _watch(self) -> None:
        pause = self._poll_seconds
        while True:
            await self._wanted.wait()
            try:
                # asyncio's own threads: those that serve requests may all be busy
                seqs = await asyncio.to_thread(self._read, sorted({w.subject_id for w in self._waiters}))
            except Exception as error:  # a database that is away comes back; waiters have their own deadline
                pause = min(max(2 * pause, self._poll_seconds), LONGEST_BACKOFF_SECONDS)
                log.warning("notifier_cannot_read", error=str(error), pause_seconds=pause)
            else:
                pause = self._poll_seconds
                self._wake(seqs)
            await asyncio.sleep(pause)

    def _wake(self, seqs: dict[str, int]) -> None:
        for waiter in self._waiters:
            seq = seqs.get(waiter.subject_id, 0)
            # a lower number: the subject was deleted, and its events with it
            if seq != waiter.after_seq and not waiter.woken.done():
                waiter.woken.set_result(seq)


_current: Notifier | None = None


async def start() -> None:
    """Begin to serve waiters on this event loop."""
    global _current
    _current = Notifier(get_settings().events_poll_seconds, _read_last_seqs)


async def stop() -> None:
    """Stop; whoever waits gets Unavailable. Again is no error."""
    global _current
    current, _current = _current, None
    if current is not None:
        await current.stop()


async def wait(subject_id: str, after_seq: int, seconds: float) -> int:
    """The number of a subject's newest event, as soon as it is another than `after_seq`; 0 where the subject is deleted.

    `after_seq` itself when `seconds` are over. The caller has checked that it may see the subject.

    Raises:
        Unavailable: the service stops.
    """
    if _current is None:
        raise _stopped()
    return await _current.wait(subject_id, after_seq, seconds)


def _read_last_seqs(subject_ids: list[str]) -> dict[str, int]:
    with transaction(readonly=True) as session:
        return last_seqs(session, subject_ids)


def _stopped() -> Unavailable:
    return Unavailable("the service is stopping", hint="ask again", headers={"Retry-After": "1"})
