"""The process in which a device's peaks are measured: `python -m workers.profiling.peaks_launch SPEC.json`.

It serves as `workers.measure.launch` does, with one command: `peaks` (device, threads), answered with `peaks`, as
`app.profiles.schemas.Peaks` has them, and `waited_share`, of the time that others kept it from a processor.
"""

import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from workers.measure.processors import pin
from workers.measure.scheduling import longest_wait_ns, waited_ns
from workers.protocol import SupervisorPipe
from workers.sandbox.namespaces import die_with_parent


def main(path: Path) -> int:
    """Serve until the input ends."""
    spec = json.loads(path.read_bytes())
    die_with_parent(spec["parent"])
    cpus = pin(spec["cpus"])
    pipe = SupervisorPipe.take_stdio()
    try:
        command = pipe.ask("ready", cpus=cpus)
        while True:
            command = pipe.ask("done", **peaks(command["device"], command["threads"]))
    except EOFError:
        return 0
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        from workers.problems import problem_of

        pipe.tell("problem", problem=problem_of(error, "profiling").problem())
        return 1


def peaks(device: str, threads: int) -> dict[str, Any]:
    """What is answered. Threads that imports start are pinned too, as pinning comes first: import late."""
    from workers.profiling.peaks_torch import measured

    started, before = time.perf_counter_ns(), waited_ns()
    found = measured(device, threads)
    waited = longest_wait_ns(before, waited_ns())
    share = None if waited is None else waited / (time.perf_counter_ns() - started)
    return {"peaks": found, "waited_share": share}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
