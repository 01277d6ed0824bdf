"""A process that has used OpenVINO still takes signals, in whatever order its cores go."""

import signal
import subprocess
import sys

import pytest

CORES = """
import signal, subprocess
{take}
older = {make}
younger = {make}
del older
del younger
signal.signal(signal.SIGCHLD, lambda *_: None)
subprocess.run(["true"], check=True)
print("alive")
"""
OURS = "from workers.openvino_library import openvino"
MAKES = {
    "cores": "(core := openvino.Core(), core.get_versions('CPU'))[0]; del core",
    "compiled": "openvino.compile_model(openvino.Model([opset.relu(p := opset.parameter([2]))], [p]), 'CPU')",
}


def run(take: str, make: str = MAKES["cores"]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CORES.format(take=take, make=make)],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("make", MAKES)
def test_signals_are_taken_after_the_older_of_two_cores_went_first(make: str):
    done = run(f"{OURS}\nfrom openvino import opset13 as opset", MAKES[make])

    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_nncf_makes_the_same_cores():
    done = run(f"{OURS}\nfrom nncf.openvino.engine import ov as openvino")

    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


@pytest.mark.slow
def test_openvino_alone_still_needs_this():
    """Once it does not, `workers/openvino_signals.py` can go."""
    done = run("import openvino")
    assert done.returncode == -signal.SIGSEGV, done.stderr
