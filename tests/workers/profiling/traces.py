"""What viewers ask of a trace in Chrome's format, held strictly."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def checked(path: Path) -> list[Event]:
    """The events of a trace that keeps to the format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.

    Perfetto drops complete events (`X`) of a thread that overlap without one lying in the other.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    assert set(document) <= {"traceEvents", "displayTimeUnit", "otherData", "metadata"}
    assert document.get("displayTimeUnit", "ms") in ("ms", "ns")
    threads: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in document["traceEvents"]:
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["name"], str)
        assert isinstance(event.get("args", {}), dict)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
        else:
            assert event["ph"] == "X"
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            threads[event["pid"], event["tid"]].append(event)
    assert threads
    for events in threads.values():
        _nested(events)
    return [event for events in threads.values() for event in events]


def _nested(events: list[Event]) -> None:
    around: list[float] = []  # when those that are under way end
    for event in sorted(events, key=lambda one: (one["ts"], -one["dur"])):
        start, end = event["ts"], round(event["ts"] + event["dur"], 3)
        while around and around[-1] <= start:
            around.pop()
        assert not around or end <= around[-1], event
        around.append(end)
