"""What surgery brings, on real labelled data: a table a part, each run alone in minutes on two cores.

python -m benchmarks.surgery [--write] [PART…]    the tables on standard output; --write: into docs/surgery.md too
"""

from benchmarks import parts
from benchmarks.written import ROOT

PARTS = {
    "pruning": "half of the FLOPs cut from a residual network, by Taylor and at random",
    "separable": "the convolutions of a network like VGG made depthwise-separable",
    "low_rank": "the linear layers of a transformer at a lower rank",
    "depth": "the residual branches of a transformer dropped, beside fewer channels and a lower rank",
    "zeros": "what weights that are zero are worth on runtimes of CPUs",
    "chain": "pruned, distilled, quantized, beside PyTorch",
}
PAGE = ROOT / "docs" / "surgery.md"


def main() -> int:
    """All parts, as `python -m benchmarks` runs them."""
    return parts.main("benchmarks.surgery", PARTS, PAGE)
