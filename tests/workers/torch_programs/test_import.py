"""Importing these files starts nothing and leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

WATCHED = """
import os, sys

seen = []

def watch(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.mkdir", "os.rename", "os.fork", "os.posix_spawn", "os.system")):
        seen.append((event, str(arguments)[:200]))
    elif event == "open" and (set(arguments[1] or "") & set("wax+")):
        seen.append((event, str(arguments)[:200]))

sys.addaudithook(watch)
import workers.torch.lift, workers.torch.program, workers.torch.to_onnx
import threading

assert not seen, seen
assert threading.active_count() == 1, threading.enumerate()
loaded = {"keras", "nncf", "openvino", "openvino_telemetry", "tensorflow", "torchao", "transformers"} & set(sys.modules)
assert not loaded, loaded
"""


def test_importing_writes_sends_and_starts_nothing(tmp_path: Path) -> None:
    folders = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"), str(tmp_path))
    environment = {**os.environ, **folders, "PYTHONDONTWRITEBYTECODE": "1"}
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
