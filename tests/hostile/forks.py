"""Inspections in forks of one process that has imported everything already: the child's code, without its start and walls.

Run as a process of its own (`python -m tests.hostile.forks`), as forking wants a single thread: a line of JSON
{assignment, seconds, memory_bytes} on stdin gives a line of JSON on stdout (`Outcome`), when that inspection is over.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hostile.case import MAX_ARCHIVE_BYTES, MAX_ARCHIVE_FILES
from workers.assignment import InspectAssignment

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
MEMORY_BYTES = 1536 * 1024 * 1024
FILE_BYTES = 256 * 1024 * 1024
_TICK_SECONDS = 0.01
_PAGE_BYTES = resource.getpagesize()


@dataclass(frozen=True)
class Outcome:
    """How an inspection ended. `said` is its last line, None where it gave none; `end` is exited, timed_out, out_of_memory."""

    end: str
    status: int
    said: dict[str, Any] | None
    log: str
    seconds: float

    @property
    def code(self) -> str:
        """`ready`, the code of the problem, or what a worker would call this end."""
        if self.end != "exited":
            return self.end
        if self.said is None:
            return "crashed"
        return "ready" if self.said["type"] == "result" else str(self.said["problem"]["code"])


class Forks:
    """The client's end: inspects bytes, each in a scratch folder of its own that is removed afterwards."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.forks"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def inspect(
        self,
        data: bytes,
        subject: str = "model",
        *,
        seconds: float = SECONDS,
        memory_bytes: int = MEMORY_BYTES,
    ) -> Outcome:
        """What the inspection of an upload says."""
        scratch = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            (scratch / "upload").write_bytes(data)
            assignment = InspectAssignment.model_validate(
                {
                    "subject": subject,
                    "subject_id": "x",
                    "scratch": scratch,
                    "file": scratch / "upload",
                    "filename": "upload",
                    "declared": {},
                    "max_archive_bytes": MAX_ARCHIVE_BYTES,
                    "max_archive_files": MAX_ARCHIVE_FILES,
                }
            )
            (scratch / "assignment.json").write_text(assignment.model_dump_json())
            return self._ask(
                assignment=str(scratch / "assignment.json"), seconds=seconds, memory_bytes=memory_bytes
            )
        finally:
            shutil.rmtree(scratch)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def _ask(self, **wanted: Any) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))


@contextmanager
def forking(folder: Path) -> Iterator[Forks]:
    """A running `Forks`."""
    forks = Forks(folder)
    try:
        yield forks
    finally:
        forks.close()


def serve() -> None:
    """Answer one line after another, until stdin ends."""
    import workers.child
    import workers.inspect

    for line in sys.stdin:
        wanted = json.loads(line)
        assignment = Path(wanted["assignment"])
        said, log = assignment.with_name("said"), assignment.with_name("log")
        started = time.monotonic()
        pid = fork(
            lambda assignment=assignment: workers.child.main(assignment),
            said,
            log,
        )
        end, status = watch(pid, started + wanted["seconds"], wanted["memory_bytes"])
        lines = said.read_text().splitlines()
        last = json.loads(lines[-1]) if lines else None
        answer = {
            "end": end,
            "status": status,
            "said": last if last and last["type"] in ("result", "problem") else None,
            "log": log.read_text(errors="replace")[-4000:],
            "seconds": time.monotonic() - started,
        }
        print(json.dumps(answer), flush=True)  # noqa: T201 - the answer


def fork(run: Callable[[], int], said: Path, log: Path) -> int:
    """Start `run` in a fork whose standard streams are files; its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with open(os.devnull) as nothing, said.open("w") as out, log.open("w") as errors:
            for number, stream in enumerate((nothing, out, errors)):
                os.dup2(stream.fileno(), number)
        status = run()
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 99
    os._exit(status)


def watch(pid: int, deadline: float, memory_bytes: int) -> tuple[str, int]:
    """Wait for a fork within its limits, as a worker does: how it ended, and its exit status."""
    end = "exited"
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return end, os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            end = "timed_out"
        elif resident_bytes(pid) > memory_bytes:
            end = "out_of_memory"
        if end != "exited":
            os.killpg(pid, signal.SIGKILL)
        time.sleep(_TICK_SECONDS)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


if __name__ == "__main__":
    serve()
