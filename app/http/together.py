"""Reads that many want at the same moment are one read: hundreds wait for the same job, and hear of its change at once."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool

Answer = TypeVar("Answer")

_under_way: dict[Hashable, asyncio.Task[Any]] = {}  # of this process's one event loop


async def read_together(key: Hashable, read: Callable[[], Answer]) -> Answer:
    """What `read` (run in a thread) gives; whoever asks with an equal key while it runs gets the same.

    So the answer may have been read a moment before it was asked for: the key must say how new it has to be.
    """
    task = _under_way.get(key)
    if task is None:
        task = asyncio.create_task(run_in_threadpool(read))
        _under_way[key] = task
        task.add_done_callback(lambda _: _under_way.pop(key, None))
    answer: Answer = await asyncio.shield(task)  # one that goes away does not take the others' answer along
    return answer
