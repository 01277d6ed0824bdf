"""The measuring end of a launch (`launch.py`): started, told what to do, stopped between its turns, killed."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from app.errors import BurnishError, Crashed, OutOfMemory
from workers.openmp import environment_as_given
from workers.problems import error_of
from workers.sandbox.cgroups import oom_kills

_numbers = itertools.count(1)

LAUNCH = (sys.executable, "-P", "-m", "workers.measure.launch")


@dataclass(frozen=True)
class EngineUnderTest:
    """A built engine and what runs it: the runtime's name in the catalog, its parameters, the engine's files."""

    runtime: str
    root: Path
    entry: str
    params: dict[str, Any]


class Launched:
    """One process with one engine, in a session of its own; it dies with this process, and is killed on leaving.

    `command` serves as `launch.py` does, given the path of a spec.
    """

    def __init__(
        self,
        engine: EngineUnderTest,
        feeds: Path,
        cpus: Sequence[int],
        scratch: Path,
        command: Sequence[str] = LAUNCH,
    ):
        spec = scratch / f"launch-{next(_numbers)}.json"
        spec.write_text(
            json.dumps(
                {
                    "parent": os.getpid(),
                    "runtime": engine.runtime,
                    "root": str(engine.root.absolute()),
                    "entry": engine.entry,
                    "params": engine.params,
                    "feeds": str(feeds.absolute()),
                    "cpus": list(cpus),
                }
            )
        )
        self._oom_kills = oom_kills()
        self._process = subprocess.Popen(
            [*command, str(spec.absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=scratch,
            env=environment_as_given(),
            start_new_session=True,
            text=True,
        )

    def __enter__(self) -> "Launched":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def wait_ready(self) -> list[int]:
        """Wait until everything but the engine is loaded, then rest; the CPUs that the process is pinned to.

        Raises:
            BurnishError: as `tell`.
        """
        cpus: list[int] = self._listen()["cpus"]
        self._signal(signal.SIGSTOP)
        return cpus

    def tell(self, do: str, **fields: Any) -> dict[str, Any]:
        """Wake the process, give it a command, take the answer, and let it rest: resting threads do not spin.

        Raises:
            BurnishError: the engine's own error.
            Crashed, OutOfMemory: the process died.
        """
        self.begin(do, **fields)
        return self.answer()

    def begin(self, do: str, **fields: Any) -> None:
        """The first half of `tell`, for several processes that work at the same time."""
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The second half of `tell`. Raises as it does."""
        answer = self._listen()
        self._signal(signal.SIGSTOP)
        return answer

    def _listen(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if answer["type"] == "problem":
            raise error_of(answer["problem"])
        return answer

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _death(self) -> BurnishError:
        status = self._process.wait()
        if status == -signal.SIGKILL and oom_kills() > self._oom_kills:
            return OutOfMemory(
                "the kernel killed the engine's process for want of memory while it was measured",
                stage="measuring",
                hint="use a machine with more memory",
            )
        how = f"signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"status {status}"
        return Crashed(
            f"the engine's process ended with {how} while it was measured",
            stage="measuring",
            hint="the job's log has its last lines",
        )
