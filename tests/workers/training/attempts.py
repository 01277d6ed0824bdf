"""Attempts of trainings, each in a process of its own that may be killed at any moment: forked, so that it begins at once.

    python attempts.py FOLDER

Each line on stdin names a training, whose attempt goes on from what the last one kept. Printed: `began PID`, `kept` each time
that something was kept, `ended STATUS` (-N where signal N ended it).
"""

import os
import sys
import traceback
from pathlib import Path

import torch

from tests.workers.training.trainings import FolderCheckpoint, Setting
from workers.measure.processors import allowed_cpus, pin

EPOCHS = 4
CHECKPOINT_SECONDS = 0.03  # several steps


def attempt(setting: Setting, folder: Path) -> None:
    """Train, resume, end: `folder/done-PID` holds what came of it."""
    checkpoint = FolderCheckpoint.make(folder, lambda _: say("kept"))
    out = folder / f"done-{os.getpid()}"
    setting.train(out, checkpoint, CHECKPOINT_SECONDS, epochs=EPOCHS, optimizer="adamw")


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201 - this is what the program is for


def main(folder: Path) -> None:
    pin(allowed_cpus()[:1])  # one thread: a pool of several would not live on in what is forked
    torch.set_num_threads(1)
    setting = Setting.make(folder)
    import workers.training.tasks.finetune  # noqa: F401 - so that no attempt has to

    say("ready")
    for line in sys.stdin:
        training = folder / line.strip()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                attempt(setting, training)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        say("began", pid)
        say("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
