"""The commands of `docs/operations.md`, as a reader would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operations.md"


def sections() -> dict[str, str]:
    """Heading -> the shell commands below it."""
    found = {}
    for part in re.split(r"^#+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading = part.splitlines()[0].replace("`", "")
        if blocks := re.findall(r"^```sh\n(.*?)^```$", part, re.MULTILINE | re.DOTALL):
            found[heading] = "\n".join(blocks)
    return found


def follow(heading: str, environment: dict[str, str], *first_on_path: Path) -> str:
    """Run a section's commands in a shell that has `burnish` and `python3`; what they print."""
    path = os.pathsep.join([*map(str, first_on_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", sections()[heading]],
        env={**os.environ, **environment, "PATH": path, "PYTHONPATH": str(PAGE.parent.parent)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
