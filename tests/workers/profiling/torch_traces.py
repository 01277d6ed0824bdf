"""What is asked of the files that PyTorch's profilers leave."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from workers.profiling.recorded import Recorded

# of torch-tb-profiler 0.4.3, torch_tb_profiler/consts.py: WORKER_PATTERN
TENSORBOARD_FILE = re.compile(r"^(.*?)(\.\d+)?\.pt\.trace\.json(?:\.gz)?$")
PHASES = {"X", "M", "i", "C", "s", "f", "b", "e"}


def path_of(recorded: Recorded, kind: str) -> Path:
    """The file of a kind, of which there is one."""
    [trace] = [trace for trace in recorded.traces if trace.kind == kind]
    return trace.path


def events_of(text: str) -> list[dict[str, Any]]:
    """The events of a trace that keeps to Chrome's format, and names no machine."""
    document = json.loads(text)
    assert not {"host_name", "traceName"} & set(document)
    for event in document["traceEvents"]:
        assert event["ph"] in PHASES
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)  # speedscope falls over names
        assert isinstance(event["ts"], int | float)
        assert event["ph"] != "X" or event["dur"] >= 0
        assert event["ph"] == "C" or "tid" in event
    found: list[dict[str, Any]] = document["traceEvents"]
    return found


def stacks_of(path: Path) -> dict[tuple[str, ...], float]:
    """The stacks of a flame graph by speedscope's rules, with their milliseconds."""
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    names = [frame["name"] for frame in document["shared"]["frames"]]
    [profile] = document["profiles"]
    assert (profile["type"], profile["unit"]) == ("sampled", "milliseconds")
    assert len(profile["samples"]) == len(profile["weights"])
    assert min(profile["weights"]) > 0
    assert abs(profile["endValue"] - profile["startValue"] - sum(profile["weights"])) < 1e-6
    return {
        tuple(names[number] for number in sample): weight
        for sample, weight in zip(profile["samples"], profile["weights"], strict=True)
    }


def tensorboard_names(path: Path) -> set[str]:
    """Of the events in the only trace of a folder as TensorBoard's profiler plugin looks for one."""
    with zipfile.ZipFile(path) as archive:
        [name] = archive.namelist()
        folder, _, file = name.rpartition("/")
        assert folder.startswith("plugins/profile/")
        found = TENSORBOARD_FILE.match(file)
        assert found is not None
        assert found[1]
        document = json.loads(archive.read(name))
    assert not {"host_name", "traceName"} & set(document)
    return {event["name"] for event in document["traceEvents"]}
