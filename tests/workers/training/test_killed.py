"""A training that is killed at random moments ends with the weights of one that ran through, to the bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from workers.training.report import load_report
from workers.training.weights import WEIGHTS

PROGRAM = Path(__file__).with_name("attempts.py")
KILLS = 5
STEPS = 16  # of an epoch


def test_five_kills_at_random_change_nothing(tmp_path: Path) -> None:
    repository = str(PROGRAM.parents[3])
    chance = random.Random(7)
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), str(tmp_path)], cwd=repository, text=True,
        env={**os.environ, "PYTHONPATH": repository}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as program:  # fmt: skip
        assert program.stdin is not None
        assert program.stdout is not None

        def listen() -> list[str]:
            assert program.stdout is not None
            return program.stdout.readline().split()

        def begin(training: str) -> int:
            assert program.stdin is not None
            program.stdin.write(f"{training}\n")
            program.stdin.flush()
            word, pid = listen()
            assert word == "began"
            return int(pid)

        def ended() -> int:
            while (said := listen()) == ["kept"]:
                continue
            return int(said[1])

        assert listen() == ["ready"]
        begin("through")
        assert ended() == 0
        for _ in range(KILLS):
            pid = begin("killed")
            for _ in range(chance.randint(1, 3)):
                assert listen() == ["kept"], "it is not over yet"
            time.sleep(chance.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
            assert ended() == -signal.SIGKILL
        begin("killed")
        assert ended() == 0
        program.stdin.close()
    through, killed = (_result(tmp_path / name) for name in ("through", "killed"))
    report = load_report(killed)
    assert len(report.resumed_from) == KILLS
    assert report.resumed_from == sorted(set(report.resumed_from)), "each attempt went on from somewhere else"
    assert any(step % STEPS for step in report.resumed_from), "in the middle of an epoch, too"
    assert len({step // STEPS for step in report.resumed_from}) > 1, "from more than one epoch"
    assert [epoch.loss for epoch in report.history] == [epoch.loss for epoch in load_report(through).history]
    expected, found = load_file(through / WEIGHTS), load_file(killed / WEIGHTS)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def _result(folder: Path) -> Path:
    """Where the attempt that ended by itself left its weights."""
    (found,) = folder.glob(f"done-*/training/{WEIGHTS}")
    return found.parent
