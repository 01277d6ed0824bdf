"""A process that has used OpenVINO still takes signals, in whatever order its cores go."""

import signal
import subprocess
import sys

import pytest

CORES = """
import signal, subprocess
{take}
older = openvino.Core(); older.get_versions("CPU")
younger = openvino.Core(); younger.get_versions("CPU")
del older
del younger
signal.signal(signal.SIGCHLD, lambda *_: None)
subprocess.run(["true"], check=True)
print("alive")
"""
OURS = "from workers.openvino_library import openvino"


def run(take: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CORES.format(take=take)], capture_output=True, text=True, timeout=120
    )


def test_signals_are_taken_after_the_older_of_two_cores_went_first():
    done = run(OURS)

    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_nncf_makes_the_same_cores():
    done = run(f"{OURS}\nfrom nncf.openvino.engine import ov as openvino")

    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


@pytest.mark.slow
def test_openvino_alone_still_needs_this():
    """Once it does not, `workers/openvino_signals.py` can go."""
    assert run("import openvino").returncode == -signal.SIGSEGV
