"""The process in which an engine is profiled: `python -m workers.profiling.launch SPEC.json`.

It serves as `workers.measure.launch` does, with one command: `profile` (seconds, out) runs the runtime's profiler, writes what it
saw to the file `recorded.json` in `out`, and answers {}.
"""

import json
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workers.measure.processors import pin
from workers.protocol import SupervisorPipe
from workers.sandbox.namespaces import die_with_parent

RECORDED = "recorded.json"


def main(path: Path) -> int:
    """Serve until the input ends."""
    spec = json.loads(path.read_bytes())
    die_with_parent(spec["parent"])
    cpus = pin(spec["cpus"])
    pipe = SupervisorPipe.take_stdio()
    try:
        command = pipe.ask("ready", cpus=cpus)
        while True:
            record(spec, Path(command["out"]), command["seconds"])
            command = pipe.ask("done")
    except EOFError:
        return 0
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        from workers.problems import problem_of

        pipe.tell("problem", problem=problem_of(error, "profiling").problem())
        return 1


def record(spec: dict[str, Any], out: Path, seconds: float) -> None:
    """Profile the engine. Threads that imports start are pinned too, as pinning comes first: import late."""
    from app.catalog.runtimes import RUNTIMES
    from workers.measure.feeds_file import load_feeds
    from workers.profiling.profilers import registry
    from workers.profiling.recorded import Plan
    from workers.runtimes.base import Engine

    recorded = registry.alone(spec["runtime"]).profile(
        Engine(Path(spec["root"]), spec["entry"]),
        RUNTIMES[spec["runtime"]].params.model_validate(spec["params"]),
        load_feeds(Path(spec["feeds"])),
        Plan(seconds=seconds),
        out,
    )
    (out / RECORDED).write_text(json.dumps(asdict(recorded), default=str), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
