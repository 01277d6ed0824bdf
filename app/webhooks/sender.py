"""Sending messages: one task in every API process, which has a way out of the installation; workers have none."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import structlog

from app.db import transaction
from app.http.schemas import rfc3339
from app.webhooks import service
from app.webhooks.service import Attempt
from app.webhooks.signing import headers
from app.webhooks.transport import Outcome, post

POLL_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 30.0
AT_ONCE = 20  # attempts of this process
STOP_SECONDS = 3.0  # what open attempts get when the process stops; those that are cut are made again, by whoever is left

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Sender:
    """The attempts of one process."""

    def __init__(self) -> None:
        # threads of its own: neither a slow database nor a slow name server may take those that serve requests
        self._database = ThreadPoolExecutor(2, thread_name_prefix="webhooks-database")
        self._resolver = ThreadPoolExecutor(4, thread_name_prefix="webhooks-resolver")
        self._attempts: dict[asyncio.Task[None], str] = {}
        self._task = asyncio.create_task(self._run(), name="webhooks")

    async def stop(self) -> None:
        """Claim nothing more; give open attempts a moment."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        open_ = list(self._attempts)
        if open_:
            await asyncio.wait(open_, timeout=STOP_SECONDS)
        for attempt in open_:
            attempt.cancel()
        await asyncio.gather(*open_, return_exceptions=True)
        await asyncio.to_thread(self._database.shutdown)
        self._resolver.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        pause = POLL_SECONDS
        while True:
            try:
                claimed = await self._claim()
            except Exception as error:  # a database that is away comes back
                pause = min(2 * pause, LONGEST_BACKOFF_SECONDS)
                log.warning("webhooks_cannot_read", error=str(error), pause_seconds=pause)
            else:
                pause = POLL_SECONDS
                for each in claimed:
                    attempt = asyncio.create_task(self._attempt(each))
                    self._attempts[attempt] = each.webhook_id
                    attempt.add_done_callback(lambda done: self._attempts.pop(done))
            if self._attempts:  # the next one may go as soon as one of these is done
                await asyncio.wait(list(self._attempts), timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(pause)

    async def _claim(self) -> list[Attempt]:
        most = AT_ONCE - len(self._attempts)
        if not most:
            return []
        busy = dict(Counter(self._attempts.values()))
        return await self._in_database(partial(_claim, most, busy))

    async def _attempt(self, attempt: Attempt) -> None:
        try:
            body = json.dumps(
                {"type": attempt.type, "timestamp": rfc3339(attempt.created_at), "data": attempt.payload},
                separators=(",", ":"),
                ensure_ascii=False,
            ).encode()
            signed = headers(attempt.secret, attempt.delivery_id, int(time.time()), body)
            outcome = await post(attempt.url, body, signed, service.allowed(), self._resolver)
            await self._in_database(partial(_settle, attempt, outcome))
            log.info(
                "webhook_attempt", delivery=attempt.delivery_id, attempt=attempt.number, status=outcome.status,
                problem=outcome.problem,
            )  # fmt: skip
        except Exception:  # it is due again once it counts as lost
            log.exception("webhook_attempt_failed", delivery=attempt.delivery_id)

    async def _in_database(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._database, work)


def _claim(most: int, busy: dict[str, int]) -> list[Attempt]:
    with transaction(readonly=True) as session:
        if not service.anything_due(session):  # most of the time: nothing is written, nobody is waited for
            return []
    with transaction() as session:
        return service.claim(session, most, busy)


def _settle(attempt: Attempt, outcome: Outcome) -> None:
    with transaction() as session:
        service.settle(session, attempt, outcome)
