"""Text of uploads as it may be shown."""

import pytest

from app.errors import InvalidModel
from app.text import is_plain, plain


@pytest.mark.parametrize("text", ["", "a b", "ünï-\u00a0 '\"", "日本", "\U0001f469\u200d\U0001f4bb", "שלום"])
def test_what_people_write_stays(text: str) -> None:
    assert is_plain(text)
    assert plain(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b2J", "\\x9b2J"),
        ("a\0b\x07", "a\\x00b\\x07"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("a\u2028b\ud800", "a\\u2028b\\ud800"),
    ],
)
def test_what_terminals_obey_is_escaped(text: str, shown: str) -> None:
    assert not is_plain(text)
    assert plain(text) == shown


def test_lines_stay_lines_and_long_texts_lose_their_middle() -> None:
    assert plain("a\nb") == "a\nb"
    short = plain("a" * 5000 + "z" * 5000, 100)
    assert len(short) <= 100
    assert short.startswith("aaa")
    assert short.endswith("zzz")


def test_every_problem_is_printable_and_bounded() -> None:
    problem = InvalidModel("\x1b[2J" + "d" * 100_000, node="n\0", hint="h\u202e").problem()
    assert len(problem["detail"]) <= 4000
    assert all(is_plain(str(value)) for value in problem.values())
