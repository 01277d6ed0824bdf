"""Equal reads at the same moment are one."""

import asyncio
import threading

import pytest

from app.http.together import read_together


class Slow:
    """A read that waits until it may end."""

    def __init__(self) -> None:
        self.calls = 0
        self.may_end = threading.Event()

    def __call__(self) -> int:
        self.calls += 1
        assert self.may_end.wait(30)
        return self.calls


def test_many_who_ask_at_once_are_one_read() -> None:
    async def ask() -> tuple[list[int], int]:
        slow = Slow()
        waiting = [asyncio.create_task(read_together("a", slow)) for _ in range(50)]
        other = asyncio.create_task(read_together("b", lambda: 7))
        await asyncio.sleep(0.05)
        slow.may_end.set()
        answers = await asyncio.gather(*waiting)
        return [*answers, await other, await read_together("a", slow)], slow.calls

    answers, calls = asyncio.run(ask())
    assert answers == [1] * 50 + [7, 2]
    assert calls == 2, "a read that is over answers nobody any more"


def test_who_goes_away_takes_nobodys_answer_along() -> None:
    async def ask() -> int:
        slow = Slow()
        first, second = (asyncio.create_task(read_together("a", slow)) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        slow.may_end.set()
        return await second

    assert asyncio.run(ask()) == 1


def test_an_error_is_everybodys() -> None:
    def fail() -> int:
        raise LookupError("gone")

    async def ask() -> list[int | BaseException]:
        return await asyncio.gather(*(read_together("a", fail) for _ in range(2)), return_exceptions=True)

    assert [str(error) for error in asyncio.run(ask())] == ["gone", "gone"]
    with pytest.raises(LookupError):
        asyncio.run(read_together("a", fail))
