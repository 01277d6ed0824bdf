"""Write `requirements/*.txt`: every package of an installation, pinned, as pip resolves them now.

    python scripts/lock.py             keep the versions that are locked, add and drop what pyproject.toml changed
    python scripts/lock.py --upgrade   the newest versions that pyproject.toml allows

Resolved for the Python and the platform that run this: CPython 3.11 on x86-64 Linux in the committed files. Nothing is
installed; pip reads the packages' metadata alone where the index offers it.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
COMMAND = "make lock"

# in this order: what is resolved first binds the rest, so that a version is the same in every file
LOCKS = {
    "dev": (
        "worker,tensorrt-rtx,xla,demo,s3,tracing,export,dev",
        "everything that `make` needs: worker, demo, tests, lint",
    ),
    "worker": ("worker,s3,tracing", "a worker on CPU, the API and the commands"),
    "api": ("s3,tracing", "the API and the commands, without a worker: no torch, no onnx"),
}
GPU = "worker-gpu"
GPU_NOTE = "a worker on NVIDIA GPUs: onnxruntime-gpu and CUDA's libraries in place of onnxruntime"


def main() -> int:
    """Write every lock; the exit status."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    given.add_argument("--upgrade", action="store_true", help="do not keep the locked versions")
    upgrade = given.parse_args().upgrade
    bound = [] if upgrade else [path for path in (_path("dev"),) if path.exists()]
    for name, (extras, note) in LOCKS.items():
        pins = resolve([f"{ROOT}[{extras}]" if extras else str(ROOT)], bound)
        write(name, note, pins)
        bound = [_path("dev")]
    # `===` leaves out local builds of torch for CPUs, which would hide what a GPU needs
    torch = f"torch==={_pins(_path('worker'))['torch']}"
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder) / "shared.txt"
        shared.write_text(
            "".join(
                f"{name}=={version}\n" for name, version in _pins(_path("worker")).items() if name != "torch"
            )
        )
        previous = [] if upgrade or not _path(GPU).exists() else [_path(GPU)]
        write(GPU, GPU_NOTE, resolve([f"{ROOT}[{GPU},s3,tracing]", torch], [shared, *previous]))
    return 0


def resolve(requirements: list[str], constraints: list[Path]) -> dict[str, str]:
    """The packages that pip would install on an empty environment: name -> version.

    Raises:
        subprocess.CalledProcessError: there is no such set; pip has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed"]
        bounds = [argument for path in constraints for argument in ("--constraint", str(path))]
        subprocess.run([*command, "--report", str(report), *bounds, *requirements], check=True)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    metadata = [one["metadata"] for one in found]
    return {
        _normalized(one["name"]): one["version"].partition("+")[0]  # a local build is of the same release
        for one in metadata
        if _normalized(one["name"]) != "burnish"
    }


def write(name: str, note: str, pins: dict[str, str]) -> None:
    """Write one lock."""
    lines = [f"# {note[0].upper()}{note[1:]}.", f"# Written by `{COMMAND}`; do not edit."]
    lines += [f"{package}=={version}" for package, version in sorted(pins.items())]
    _path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _path(name: str) -> Path:
    return FOLDER / f"{name}.txt"


def _pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "==" in line]
    return dict(line.split("==", 1) for line in lines)


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
