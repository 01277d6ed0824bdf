"""What training inside a recipe brings, on real labelled data: a table a part, each run alone in minutes on two cores.

python -m benchmarks.training [--write] [PART…]    the tables on standard output; --write: into docs/training.md too
"""

from benchmarks import parts
from benchmarks.written import ROOT

PARTS = {
    "distillation": "a small network taught by a large one, beside the same network and labels alone",
    "quantization": "training with the rounding in it, beside quantizing afterwards",
    "data_path": "60,000 PNG images from a tar, beside a plain DataLoader",
    "processes": "two processes beside one",
    "precision": "bf16 beside fp32",
}
PAGE = ROOT / "docs" / "training.md"


def main() -> int:
    """All parts, as `python -m benchmarks` runs them."""
    return parts.main("benchmarks.training", PARTS, PAGE)
