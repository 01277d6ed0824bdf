"""A job's threads sleep while they wait; those of what it measures do as they do elsewhere."""

import subprocess
import sys

import pytest

PROGRAM = """
import os
from workers.openmp import environment_as_given, wait_asleep
wait_asleep()
print(os.environ["OMP_WAIT_POLICY"], environment_as_given().get("OMP_WAIT_POLICY"))
"""


@pytest.mark.parametrize(("given", "said"), [(None, "passive None"), ("active", "active active")])
def test_what_is_measured_waits_as_the_environment_says(
    given: str | None, said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)

    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == said
