"""What `nvidia-smi` says of the GPUs of this machine.

A process sees those that CUDA_VISIBLE_DEVICES names, where it is set: give numbers, or the UUIDs that `nvidia-smi -L` prints.
"""

import os
import subprocess
from collections.abc import Mapping

SECONDS = 20.0


def query(fields: Mapping[str, str]) -> list[dict[str, str]]:
    """One entry a GPU: `fields` are `nvidia-smi`'s names and what they are called here. [] where there is none that answers."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        if not visible or visible.startswith("-"):
            return []
        command.append(f"--id={visible}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.split(",") for line in done.stdout.strip().splitlines())
    return [
        dict(zip(fields.values(), (value.strip() for value in row), strict=True))
        for row in rows
        if len(row) == len(fields)
    ]
