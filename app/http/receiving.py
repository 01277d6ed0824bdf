"""The bodies of uploads: in constant memory, written by a thread while the next bytes arrive, and cut where they stall."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from app.config import get_settings
from app.errors import UploadStalled
from app.http.limits import CLOSING, UNLIMITED_RECEIVE

PIECE_BYTES = 1024 * 1024  # gathered before a thread parses, hashes and writes them
LIVELY_BYTES = 64 * 1024  # fewer than these within `upload_stall_seconds`: the client stalls


async def receive_into(write: Callable[[bytes], None], request: Request) -> None:
    """Hand a body on in pieces, in order and one at a time; `write` runs in a thread, whatever it raises is raised here.

    Raises:
        UploadStalled: the client sends nothing, or hardly anything.
        starlette.requests.ClientDisconnect: the client went away; what came before was written.
    """
    seconds = get_settings().upload_stall_seconds
    loop = asyncio.get_running_loop()
    unlimited = Request(request.scope, request.scope[UNLIMITED_RECEIVE])
    gathered: list[bytes] = []
    size = lively = 0
    writing: asyncio.Future[None] | None = None
    try:
        async with asyncio.timeout(seconds) as stalling, aclosing(unlimited.stream()) as stream:
            async for chunk in stream:
                gathered.append(chunk)
                size += len(chunk)
                lively += len(chunk)
                if size >= PIECE_BYTES:
                    if writing is not None:
                        stalling.reschedule(None)  # a slow disk is not the client's fault
                        await _end_of(writing)
                    writing = asyncio.ensure_future(run_in_threadpool(write, b"".join(gathered)))
                    gathered, size = [], 0
                    lively = LIVELY_BYTES
                if lively >= LIVELY_BYTES:
                    lively = 0
                    stalling.reschedule(loop.time() + seconds)
    except TimeoutError as error:
        if not stalling.expired():
            raise
        raise UploadStalled(
            f"fewer than {LIVELY_BYTES} bytes came within {seconds:g} seconds",
            hint="send it again",
            headers=CLOSING,
        ) from error
    finally:
        if writing is not None:
            await _end_of(writing)
        if gathered:
            await run_in_threadpool(write, b"".join(gathered))


async def _end_of(writing: asyncio.Future[None]) -> None:
    """Wait for a thread's work: to cancel who waits would leave the thread writing to what is closed next."""
    await asyncio.wait({writing})
    writing.result()
