"""A launch of a model under `torch.compile`, which is no target of Burnish's: timed by the protocol of `workers.measure.launch`.

python -P benchmarks/compiled.py SPEC.json    (the engine is one of torch-eager's)

Compiling is part of loading. What it makes is kept in the engine's folder, so that only the first launch waits for it.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

from app.catalog.runtime_params.torch import TorchEagerParams
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from workers import formats
from workers.formats.base import Source
from workers.measure import launch
from workers.measure.feeds_file import load_feeds
from workers.runtimes import implements
from workers.runtimes.base import Engine, Feeds, LoadedEngine
from workers.runtimes.torch_eager import MODEL, LoadedEager, TorchEager

NAME = "torch-compile"


class TorchCompile(TorchEager):
    """The network itself, compiled for what it is first fed, with the settings that `torch.compile` has by default."""

    first: Feeds

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The model, opened, compiled and run once. Raises as the format's `open`."""
        import torch

        from workers.torch.opened import OpenedTorch

        assert isinstance(params, TorchEagerParams)
        torch.set_num_threads(params.threads)
        told = json.loads(engine.path.read_bytes())
        source = Source(engine.root / MODEL, told["entry"], told["declared"])
        model = formats.registry.alone(told["format"]).open(source).to_torch()
        compiled = cast(torch.nn.Module, torch.compile(model.module))
        loaded = LoadedEager(OpenedTorch(replace(model, module=compiled)))
        loaded.run(self.first)
        return loaded


def main(spec: Path) -> int:
    """Serve until the input ends, with this runtime added to those of the catalog."""
    told = json.loads(spec.read_bytes())
    TorchCompile.first = load_feeds(Path(told["feeds"]))[0]
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(told["root"]) / "compiled")
    RUNTIMES[NAME] = replace(RUNTIMES["torch-eager"], name=NAME)
    implements(NAME)(TorchCompile)
    sys.modules["workers.runtimes.torch_compile"] = sys.modules[__name__]  # where it is looked for
    return launch.main(spec)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
