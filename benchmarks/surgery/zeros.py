"""What zeros among the weights are worth on runtimes of CPUs: half of them as 2:4, or nine of ten, beside the same network without."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.runtimes import Measured
from benchmarks.surgery.networks import SEED, plain
from benchmarks.surgery.speed import CONTROL, engine, in_turns, share_text
from benchmarks.table import table
from benchmarks.training.common import one_core, room

SHAPE = (1, 28, 28)
ON = ("onnxruntime-cpu", "openvino-cpu", "torch-eager")
DENSE = "no zeros"
ZEROS: dict[str, dict[str, Any]] = {"2:4": {"n": 2, "m": 4}, "90% anywhere": {"ratio": 0.9}}
NO_FASTER = 0.95  # of the time


def wide() -> nn.Module:
    """Three linear layers of 1,024 channels."""
    torch.manual_seed(SEED)
    sizes = (28 * 28, 1024, 1024, 1024)
    layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"five convolutions": plain, "three linear layers": wide}


def run() -> tuple[str, bool]:
    """The table, and whether no runtime is faster, as `RuntimeSpec.sparsity` says of them where they are not asked to be."""
    image = np.random.default_rng(SEED).standard_normal((1, *SHAPE)).astype(np.float32)
    rows, as_told = [], True
    with room() as place:
        for network, make in NETWORKS.items():
            with one_core():
                dense = place.program(make(), SHAPE)
                models = {DENSE: dense} | {
                    kind: place.apply("prune-weights", dense, params, {})[0] for kind, params in ZEROS.items()
                }
            for runtime in ON:
                engines = {kind: engine(place, model, runtime) for kind, model in models.items()}
                times = in_turns(place, engines, image)
                as_told &= all(no_faster(times[kind]) for kind in ZEROS)
                shares = (share_text(times[kind]) for kind in (*ZEROS, CONTROL))
                rows.append((network, f"`{runtime}`", f"{times[DENSE].p50_ms.value:.3f}", *shares))
    columns = (
        "network",
        "runtime",
        "without zeros, ms",
        *(f"{kind}: latency left" for kind in ZEROS),
        "itself",
    )
    verdict = "none of them, as the catalog says" if as_told else "**others than the catalog says**"
    text = (
        f"{table(columns, rows)}\n\nOne image, one thread, fp32, in turns; `itself`: the network without zeros a second time. Runtimes that "
        f"are faster with zeros (less than {NO_FASTER:g} of the time) without being asked for it: {verdict}."
    )
    return text, as_told


def no_faster(found: Measured) -> bool:
    """Whether a network with zeros takes as long as without."""
    return 1 / found.speedup.value >= NO_FASTER
