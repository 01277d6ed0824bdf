"""Reading server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ServerEvent:
    """One event: `data` is its JSON; `id` is where to go on after it."""

    id: str | None
    type: str
    data: Any


def read_events(lines: Iterable[str]) -> Iterator[ServerEvent]:
    """The events of a stream's lines. A last event without its blank line is dropped, as the standard asks."""
    id_: str | None = None
    type_ = "message"
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield ServerEvent(id_, type_, json.loads("\n".join(data)))
            type_, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id" and "\0" not in value:
            id_ = value
        elif field == "event":
            type_ = value
        elif field == "data":
            data.append(value)
