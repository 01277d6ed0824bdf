"""Which runtimes can run a model, each asked in a process of its own: native code that crashes takes nobody with it.

`python -m workers coverage RUNTIME MODEL.json`; the file is {root, entry, format}. It prints one JSON object.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.catalog.runtimes import RUNTIMES
from app.errors import BurnishError, Unavailable
from workers.measure.processors import usable_processors
from workers.model_handle import ModelHandle
from workers.offered import without_absent

SECONDS = 120.0  # for one runtime
TOGETHER = 4  # each holds a framework and the model
SHOWN = 50  # unsupported nodes; all are counted
ASSIGNMENT = "coverage.json"


def coverage(model: ModelHandle, names: Iterable[str], scratch: Path) -> dict[str, Any]:
    """Of `names`, by runtime that takes this format: {versions, operators, share, evidence, unsupported: [{node, operator, reason}],
    unsupported_count}, or {problem} where it could not tell. A runtime that is not installed here is left
    out, as is one for an Intel GPU or NPU that is not here."""
    path = scratch / ASSIGNMENT
    path.write_text(json.dumps({"root": str(model.root), "entry": model.entry, "format": model.format}))
    asked = [name for name in without_absent(names) if model.format in RUNTIMES[name].formats]
    with ThreadPoolExecutor(max_workers=min(usable_processors(), TOGETHER)) as pool:
        found = zip(asked, pool.map(lambda name: _ask(name, path), asked), strict=True)
        return {name: answer for name, answer in found if answer is not None}


def answer(name: str, path: Path) -> int:
    """Print one runtime's answer; null where it is not installed. The exit status."""
    given = json.loads(path.read_bytes())
    model = ModelHandle(Path(given["root"]), given["entry"], given["format"], "")
    print(json.dumps(_answer(name, model)))  # noqa: T201 - this is what the process is for
    return 0


def _answer(name: str, model: ModelHandle) -> dict[str, Any] | None:
    from workers.runtimes import registry

    try:
        runtime = registry.alone(name)
    except ImportError:
        return None
    try:
        found = runtime.coverage(model)
    except Unavailable:  # its library is not installed, or is one for other hardware
        return None
    except BurnishError as error:
        return {"problem": error.problem()}
    return {
        "versions": dict(runtime.versions()),
        "operators": found.operators,
        "share": round(found.share, 4),
        "evidence": found.evidence,
        "unsupported": [asdict(one) for one in found.unsupported[:SHOWN]],
        "unsupported_count": len(found.unsupported),
    }


def _ask(name: str, path: Path) -> dict[str, Any] | None:
    command = [sys.executable, "-P", "-m", "workers", "coverage", name, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {
            "problem": {"code": "timed_out", "detail": f"{name} did not answer within {SECONDS:g} seconds"}
        }
    if done.returncode != 0:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
        sys.stderr.write(done.stderr)
        return {
            "problem": {"code": "crashed", "detail": f"{name} ended with {how} when it looked at the model"}
        }
    parsed: dict[str, Any] | None = json.loads(done.stdout.splitlines()[-1])
    return parsed
