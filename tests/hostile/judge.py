"""What must hold of every problem that a user sees, whatever was uploaded."""

import re
from collections.abc import Iterator
from typing import Any

from app.errors import by_code
from app.text import is_plain

LONGEST_CHARS = 4000
_TRACEBACK = re.compile(r'Traceback \(most recent|File "[^"]+", line \d+')


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts(item)


def faults(problem: dict[str, Any], *folders: str) -> list[str]:
    """What is wrong with a problem: unknown code, no detail, text that is long, unprintable, or names a server's folder."""
    found = []
    if problem["code"] not in by_code() or problem["code"] == "internal":
        found.append(f"code {problem['code']}")
    if not problem["detail"].strip():
        found.append("no detail")
    for text in texts(problem):
        found += text_faults(text, *folders)
    return found


def text_faults(text: str, *folders: str) -> list[str]:
    """What is wrong with a text that comes from an upload and goes to a terminal or a log."""
    found = []
    if len(text) > LONGEST_CHARS:
        found.append(f"{len(text)} characters: {text[:100]!r}")
    if not is_plain(text.replace("\n", "")):
        found.append(f"characters that a terminal obeys: {text[:200]!r}")
    if _TRACEBACK.search(text):
        found.append(f"a traceback: {text[:300]!r}")
    found += [f"the folder {folder} in {text[:300]!r}" for folder in folders if folder in text]
    return found
