"""Flame graphs as speedscope opens them: what each stack of frames took itself.

Source of the format: https://github.com/jlfwong/speedscope/wiki/Importing-from-custom-sources.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from workers.profiling.recorded import Trace

MEDIA_TYPE = "application/json"
SCHEMA = "https://www.speedscope.app/file-format-schema.json"
Stack = tuple[str, ...]  # from the outermost frame to the innermost


def flame_graph(path: Path, name: str, stacks: Mapping[Stack, float]) -> Trace:
    """Write the milliseconds of each stack without those of deeper ones, in this order. What took no time is left out."""
    kept = {stack: spent for stack, spent in stacks.items() if spent > 0}
    frames = {frame: number for number, frame in enumerate(dict.fromkeys(sum(kept, ())))}
    profile = {
        "type": "sampled",
        "name": name,
        "unit": "milliseconds",
        "startValue": 0,
        "endValue": sum(kept.values()),
        "samples": [[frames[frame] for frame in stack] for stack in kept],
        "weights": list(kept.values()),
    }
    told = {
        "$schema": SCHEMA,
        "shared": {"frames": [{"name": frame} for frame in frames]},
        "profiles": [profile],
    }
    path.write_text(json.dumps({**told, "exporter": "burnish"}), encoding="utf-8")
    return Trace("flamegraph", path, MEDIA_TYPE)
