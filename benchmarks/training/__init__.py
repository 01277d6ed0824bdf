"""What training inside a recipe brings, on real labelled data: a table a part, each run alone in minutes on two cores.

python -m benchmarks.training [--write] [PART…]    the tables on standard output; --write: into docs/training.md too
"""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

from benchmarks.written import ROOT, write

PARTS = {
    "distillation": "a small network taught by a large one, beside the same network and labels alone",
    "quantization": "training with the rounding in it, beside quantizing afterwards",
    "data_path": "60,000 PNG images from a tar, beside a plain DataLoader",
    "processes": "two processes beside one",
    "precision": "bf16 beside fp32",
}
PAGE = ROOT / "docs" / "training.md"


def main(arguments: Sequence[str] = ()) -> int:
    """Run parts by name, all where none is given; 1 where one did not show what it is there to show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/training.md")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    given = parser.parse_args(arguments)
    failed = False
    for name in given.parts or PARTS:
        print(f"\n### {name}: {PARTS[name]}\n", flush=True)
        text, shown = importlib.import_module(f"benchmarks.training.{name}").run()
        print(text, flush=True)
        failed |= not shown
        if given.write:
            write(Path(PAGE), name, text)
    return int(failed)
