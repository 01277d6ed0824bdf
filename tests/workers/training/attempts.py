"""Attempts of trainings, each in a process of its own that may be killed at any moment: forked, so that it begins at once.

    python attempts.py FOLDER

Each line on stdin names a training, whose attempt goes on from what the last one kept. Printed: `began PID`, `kept` each time
that something was kept, `ended STATUS` (-N where signal N ended it). Once a training has ended, those behind it keep a checkpoint
in as many seconds as some of its steps took, so that it takes as many steps on any machine.
"""

import os
import sys
import traceback
from pathlib import Path

import torch

from tests.workers.training.trainings import FolderCheckpoint, Setting
from workers.measure.processors import allowed_cpus, pin
from workers.training.report import load_report

EPOCHS = 12
APART = 5  # steps from one checkpoint to the next


def attempt(setting: Setting, folder: Path, checkpoint_seconds: float) -> None:
    """Train, resume, end: `folder/done-PID` holds what came of it."""
    checkpoint = FolderCheckpoint.make(folder, lambda _: say("kept"))
    out = folder / f"done-{os.getpid()}"
    setting.train(out, checkpoint, checkpoint_seconds, epochs=EPOCHS, optimizer="adamw")


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201 - this is what the program is for


def main(folder: Path) -> None:
    pin(allowed_cpus()[:1])  # one thread: a pool of several would not live on in what is forked
    torch.set_num_threads(1)
    setting = Setting.make(folder)
    import workers.training.tasks.finetune  # noqa: F401 - so that no attempt has to

    checkpoint_seconds = 1e9
    say("ready")
    for line in sys.stdin:
        training = folder / line.strip()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                attempt(setting, training, checkpoint_seconds)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        say("began", pid)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            report = load_report(training / f"done-{pid}" / "training")
            checkpoint_seconds = APART * report.seconds / report.steps
        say("ended", status)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
