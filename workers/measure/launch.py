"""One launch of one engine in a process of its own: loads it, runs it when told, and tells times and memory.

`python -m workers.measure.launch SPEC.json`; the spec is {parent, runtime, root, entry, params, feeds, cpus}. It says `ready`
and takes commands (`protocol.py`, the other way round: each answer waits for the next command), until its input ends:

| command `do` | fields | answer |
| --- | --- | --- |
| load | - | load_ms, resident_before_bytes, resident_loaded_bytes, requests (that it takes side by side) |
| warm_up | seconds, at_most_seconds | run_ns (median of the second half), runs, gpu {memory_bytes, sm_mhz} or null |
| block | runs, warm_up_seconds | ns (one a run), waited_ns (for a processor, or null) |
| throughput | seconds | ns (of all), runs; `requests` of them under way |
| first | - | ns of the first run after `load` |
| serve | arrivals_ns, batch, patience_ns | ns (from arrival to answer, one a query), runs, busy_ns, all_ns, gave_up |
| memory | - | peak_bytes, resident_bytes |

An error is answered with `problem`.
"""

import bisect
import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workers.measure.processors import pin
from workers.measure.scheduling import longest_wait_ns, waited_ns
from workers.protocol import SupervisorPipe
from workers.sandbox.namespaces import die_with_parent

LEAST_EACH = 2  # runs a request, of a block with several under way
SPUN_NS = 200_000  # before a query arrives
LEAST_RUNS = 3  # of a warm-up, where they do not take too long


def main(path: Path) -> int:
    """Serve until the input ends."""
    spec = json.loads(path.read_bytes())
    die_with_parent(spec["parent"])
    cpus = pin(spec["cpus"])
    pipe = SupervisorPipe.take_stdio()
    try:
        launch = Launch(spec)
        command = pipe.ask("ready", cpus=cpus)
        while True:
            command = pipe.ask("done", **launch.do(command))
    except EOFError:
        return 0
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        from workers.problems import problem_of

        pipe.tell("problem", problem=problem_of(error, "measuring").problem())
        return 1


class Launch:
    """The engine and its feeds. Threads that imports start are pinned too, as pinning comes first: import late."""

    def __init__(self, spec: dict[str, Any]):
        from app.catalog.runtimes import RUNTIMES
        from workers.measure.feeds_file import load_feeds
        from workers.runtimes import registry
        from workers.runtimes.base import Engine

        self._runtime = registry.alone(spec["runtime"])
        self._params = RUNTIMES[spec["runtime"]].params.model_validate(spec["params"])
        self._built = Engine(Path(spec["root"]), spec["entry"])
        self._feeds = load_feeds(Path(spec["feeds"]))
        self._engine: Any = None
        self._on_gpu = RUNTIMES[spec["runtime"]].device == "cuda"
        self._gpu_used_before = 0

    def do(self, command: dict[str, Any]) -> dict[str, Any]:
        """Obey one command."""
        given = {name: value for name, value in command.items() if name != "do"}
        commands: dict[str, Callable[..., dict[str, Any]]] = {
            "load": self.load,
            "warm_up": self.warm_up,
            "block": self.block,
            "throughput": self.throughput,
            "memory": self.memory,
            "first": self.first,
            "serve": self.serve,
        }
        return commands[command["do"]](**given)

    def load(self) -> dict[str, Any]:
        """Load the engine; from here on the peak of memory counts. Imports are done, the engine's files are cached."""
        from workers import gpu
        from workers.feeds import in_precision_of
        from workers.measure.memory import reset_peak, resident_bytes
        from workers.runtimes.base import Concurrent

        gc.collect()
        if self._on_gpu:
            self._gpu_used_before = gpu.memory_used_bytes()
        reset_peak()
        before = resident_bytes()
        started = time.perf_counter()
        self._engine = self._runtime.load(self._built, self._params)
        load_ms = (time.perf_counter() - started) * 1000
        gc.collect()
        gc.freeze()
        resident = resident_bytes()
        self._feeds = [in_precision_of(self._engine.inputs, one) for one in self._feeds]
        return {
            "load_ms": load_ms,
            "resident_before_bytes": before,
            "resident_loaded_bytes": resident,
            "requests": self._engine.requests if isinstance(self._engine, Concurrent) else 1,
        }

    def warm_up(self, seconds: float, at_most_seconds: float) -> dict[str, Any]:
        """Run for `seconds`, and until every feed was run and `LEAST_RUNS` are over unless `at_most_seconds` are.

        A GPU's memory is what loading and these runs took there, its context included: nobody else takes any meanwhile, and
        runtimes keep what they once had.
        """
        least = max(LEAST_RUNS, len(self._feeds))
        started = time.perf_counter()
        times: list[int] = []
        while (spent := time.perf_counter() - started) < seconds or (
            len(times) < least and spent < at_most_seconds
        ):
            times.append(self._time(len(times)))
        return {
            "run_ns": statistics.median(times[len(times) // 2 :]),
            "runs": len(times),
            "gpu": self._gpu() if self._on_gpu else None,
        }

    def block(self, runs: int, warm_up_seconds: float) -> dict[str, Any]:
        """At least one run that is not timed, then `runs` that are; feeds in turns, always from the first."""
        started = time.perf_counter()
        while True:
            self._time(0)
            if time.perf_counter() - started >= warm_up_seconds:
                break
        gc.disable()
        before = waited_ns()
        try:
            times = [self._time(number) for number in range(runs)]
        finally:
            gc.enable()
        return {"ns": times, "waited_ns": longest_wait_ns(before, waited_ns())}

    def throughput(self, seconds: float) -> dict[str, Any]:
        """Runs for `seconds`, as many under way as the engine takes, until the last is done; each was run before that."""
        self._run_many(0.0)
        gc.disable()
        started = time.perf_counter_ns()
        try:
            runs = self._run_many(seconds)
        finally:
            gc.enable()
        return {"ns": time.perf_counter_ns() - started, "runs": runs}

    def first(self) -> dict[str, Any]:
        """The first run: what is only done then is in it."""
        return {"ns": self._time(0)}

    def serve(self, arrivals_ns: list[int], batch: int, patience_ns: int) -> dict[str, Any]:
        """Answer queries of one sample as they arrive: those that wait go into one run, `batch` at most.

        `arrivals_ns` are ascending, from the start on. It gives up where an answer came later than `patience_ns`: the engine does
        not keep up, and would ever less.
        """
        whole = next(iter(self._feeds[0].values())).shape[:1]
        shares = whole == (batch,) and batch > 1  # a run of fewer samples takes the first of them
        times: list[int] = []
        done = runs = busy = 0
        gc.disable()
        started = time.perf_counter_ns()
        try:
            while done < len(arrivals_ns) and not (times and times[-1] > patience_ns):
                now = _wait_until(started + arrivals_ns[done]) - started
                waiting = bisect.bisect_right(arrivals_ns, now, done, min(done + batch, len(arrivals_ns)))
                taken = max(waiting - done, 1)
                feeds = self._feeds[runs % len(self._feeds)]
                if shares and taken < batch:
                    feeds = {name: array[:taken] for name, array in feeds.items()}
                self._engine.run(feeds)
                answered = time.perf_counter_ns() - started
                times += [answered - arrival for arrival in arrivals_ns[done : done + taken]]
                done, runs, busy = done + taken, runs + 1, busy + answered - now
        finally:
            gc.enable()
        return {
            "ns": times,
            "runs": runs,
            "busy_ns": busy,
            "all_ns": time.perf_counter_ns() - started,
            "gave_up": done < len(arrivals_ns),
        }

    def memory(self) -> dict[str, Any]:
        """The peak since `load`, and what is resident now."""
        from workers.measure.memory import peak_bytes, resident_bytes

        return {"peak_bytes": peak_bytes(), "resident_bytes": resident_bytes()}

    def _run_many(self, seconds: float) -> int:
        """How many runs were started within `seconds`; at least `LEAST_EACH` a request."""
        from workers.runtimes.base import Concurrent

        several = isinstance(self._engine, Concurrent)
        least, end, runs = (
            LEAST_EACH * (self._engine.requests if several else 1),
            time.perf_counter() + seconds,
            0,
        )

        def feeds() -> Iterator[Any]:
            nonlocal runs
            while runs < least or time.perf_counter() < end:
                yield self._feeds[runs % len(self._feeds)]
                runs += 1

        if several:
            self._engine.run_many(feeds(), lambda number, outputs: None)
        else:
            for one in feeds():
                self._engine.run(one)
        return runs

    def _gpu(self) -> dict[str, Any]:
        from workers import gpu

        state = gpu.state() or {}
        used = gpu.bytes_of(state.get("memory_used_mib"))
        return {"memory_bytes": max(used - self._gpu_used_before, 0), "sm_mhz": state.get("sm_mhz")}

    def _time(self, number: int) -> int:
        feeds = self._feeds[number % len(self._feeds)]
        started = time.perf_counter_ns()
        self._engine.run(feeds)
        return time.perf_counter_ns() - started


def _wait_until(when_ns: int) -> int:
    """Sleep until then, the last part without sleep, which ends late; the time it is."""
    while (left := when_ns - time.perf_counter_ns()) > 0:
        if left > SPUN_NS:
            time.sleep((left - SPUN_NS) / 1e9)
    return time.perf_counter_ns()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
