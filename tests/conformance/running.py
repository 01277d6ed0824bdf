"""Cases judged in processes: one that dies is told, and the next goes on behind the case that killed it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

SECONDS = 900.0  # of one process
MOST_CASES = 150  # of one process


@dataclass(frozen=True)
class Judged:
    """What became of a case on a runtime."""

    name: str
    verdict: str  # right, refused, wrong, fault, crashed
    detail: str


def judged(runtime: str, folder: str, names: Sequence[str]) -> list[Judged]:
    """Every case's verdict, in the order of their names."""
    found: list[Judged] = []
    left = list(names)
    while left:
        done, status = _batch(runtime, folder, left[:MOST_CASES])
        found += done
        seen = {one.name for one in done}
        left = [name for name in left if name not in seen]
        if status != 0:
            found.append(Judged(left[0], "crashed", f"the process ended with status {status}"))
            left = left[1:]
    return sorted(found, key=lambda one: one.name)


def _batch(runtime: str, folder: str, names: Sequence[str]) -> tuple[list[Judged], int]:
    command = [sys.executable, "-m", "tests.conformance.judge", runtime, folder, *names]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    lines = [line for line in ran.stdout.splitlines() if line.startswith('{"name"')]
    return [Judged(**json.loads(line)) for line in lines], ran.returncode
