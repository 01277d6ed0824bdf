"""Engines for NVIDIA GPUs beside eager PyTorch on the same GPU, in turns in one run. Needs a GPU.

python -m benchmarks.gpu [--launches N] [--seconds S] [NETWORK…]    the tables on standard output; NETWORK by the start of its name
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from benchmarks.runtimes import Measured, figures
from benchmarks.table import table
from benchmarks.turns import Contender, take_turns
from benchmarks.untrained import NETWORKS, Untrained
from workers import gpu, passes, runtimes
from workers.context import PassContext
from workers.conversion import convert, open_model
from workers.distributions import versions_of
from workers.measure.feeds_file import save_feeds
from workers.measure.fidelity import OutputFidelity
from workers.measure.launched import EngineUnderTest
from workers.model_handle import ModelHandle
from workers.runtimes.base import LoadedEngine

EAGER, CONTROL = "torch-eager-cuda, fp32", "torch-eager-cuda, fp32, once more"
LAUNCHES, SECONDS = 5, 30.0
PACKAGES = ("torch", "onnxruntime")


@dataclass(frozen=True)
class Variant:
    """An engine to build: its target, and the passes before. `fixed`: with the sizes of the data."""

    name: str
    runtime: str
    passes: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    fixed: bool = False


VARIANTS = (
    Variant(EAGER, "torch-eager-cuda"),
    Variant("torch-eager-cuda, fp16", "torch-eager-cuda", ("cast-torch",)),
    Variant("torch-inductor-cuda, fp16", "torch-inductor-cuda", ("cast-torch",)),
    Variant("onnxruntime-cuda, fp32", "onnxruntime-cuda", ("simplify",)),
    Variant("onnxruntime-cuda, fp16", "onnxruntime-cuda", ("simplify", "to-fp16")),
    Variant(
        "onnxruntime-cuda, fp16, CUDA graph",
        "onnxruntime-cuda",
        ("simplify", "to-fp16"),
        {"cuda_graph": True},
        fixed=True,
    ),
    Variant(CONTROL, "torch-eager-cuda"),
)


def main(arguments: Sequence[str] = ()) -> int:
    """Time everything and print it. Nothing but a sentence where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--launches", type=int, default=LAUNCHES)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of runs for a network")
    parser.add_argument("networks", nargs="*")
    given = parser.parse_args(arguments)
    if not (found := gpu.gpus()):
        print("There is no NVIDIA GPU on this machine.")
        return 0
    for network in NETWORKS:
        if given.networks and not network.name.startswith(tuple(given.networks)):
            continue
        with tempfile.TemporaryDirectory(prefix="burnish-bench-") as temporary:
            folder = Path(temporary)
            contenders = list(Prepared(network, folder).contenders())
            seen = take_turns(
                contenders, folder / "feeds.npz", folder, launches=given.launches, seconds=given.seconds
            )
            print(f"\n**{network.name}**\n\n{shown(figures(contenders, seen))}", flush=True)
    versions = ", ".join(f"{name} {number}" for name, number in versions_of(PACKAGES).items())
    print(
        f"\n{found[0]['name']}, driver {found[0]['driver']}; {versions}; batch 1, {given.launches} launches."
    )
    return 0


class Prepared:
    """A network in a folder, in every form that a variant starts from, and the data that all are timed on."""

    def __init__(self, network: Untrained, folder: Path):
        self._folder = folder
        self._count = 0
        opened = open_model(network.write(self._new()))
        self._forms = {to: convert(opened, to, self._new())[0] for to in ("onnx", "torch-export")}
        self._feeds = network.data(1)
        save_feeds(folder / "feeds.npz", [self._feeds])
        self._reference: LoadedEngine | None = None

    def contenders(self) -> Iterator[Contender]:
        """Every variant, built; the first is what the others are held against, the last its control."""
        for variant in VARIANTS:
            print(f"building {variant.name}", file=sys.stderr, flush=True)
            runtime = runtimes.registry.alone(variant.runtime)
            params = RUNTIMES[variant.runtime].params.model_validate(variant.params)
            engine = runtime.build(self._optimized(variant), params, self._new())
            noise = self._sqnr_db(runtime.load(engine, params))
            told = EngineUnderTest(variant.runtime, engine.root, engine.entry, params.model_dump(mode="json"))
            yield Contender(variant.name, told, variant.passes, noise)

    def _sqnr_db(self, engine: LoadedEngine) -> float | None:
        """Signal to noise of the worst output against the first engine's, in dB; None where there is no noise."""
        self._reference = self._reference or engine
        expected, got = self._reference.run(self._feeds), engine.run(self._feeds)
        found = []
        for name, value in expected.items():
            one = OutputFidelity()
            one.observe(value, got[name])
            found.append(one.result()["sqnr_db"])
        return min((value for value in found if value is not None), default=None)

    def _optimized(self, variant: Variant) -> ModelHandle:
        (to,) = RUNTIMES[variant.runtime].formats
        model = self._forms[to]
        params: dict[str, dict[str, Any]] = {name: {} for name in variant.passes}
        if variant.fixed:
            sizes = {name: list(array.shape) for name, array in self._feeds.items()}
            params = {"set-shapes": {"inputs": sizes}, **params}
        for name, given in params.items():
            chosen = PASSES[name].params.model_validate(given)
            model = passes.registry.get(name)(model, chosen, PassContext(out=self._new(), samples={}))
        return model

    def _new(self) -> Path:
        self._count += 1
        out = self._folder / str(self._count)
        out.mkdir()
        return out


def shown(found: Sequence[Measured]) -> str:
    """A row an engine."""
    return table(
        ("engine", "p50, ms [95%]", "times as fast as eager [95%]", "verdict", "SQNR, dB"),
        [
            (
                one.contender.name,
                f"{one.p50_ms.value:.3f} [{one.p50_ms.low:.3f}, {one.p50_ms.high:.3f}]",
                "1"
                if one is found[0]
                else f"{one.speedup.value:.2f} [{one.speedup.low:.2f}, {one.speedup.high:.2f}]",
                "–" if one is found[0] else one.verdict,
                "–" if one.contender.sqnr_db is None else f"{one.contender.sqnr_db:.0f}",
            )
            for one in found
        ],
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
