"""XLA on TPUs: engines built ahead of time, also where there is no TPU. None was ever run on one by its makers."""

from typing import Any

from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from workers.runtimes import implements
from workers.runtimes.base import Engine, unnamed
from workers.xla import files
from workers.xla.devices import without_tpu
from workers.xla.runtime import XlaRuntime

SPEC = RUNTIMES["xla-tpu"]


@implements(SPEC.name)
class XlaTpu(XlaRuntime):
    """See `XlaRuntime` and `base.AheadOfTime`. Lowered for CPUs too, so that the very program is run where it is built."""

    name = SPEC.name
    platforms = ("tpu", "cpu")

    def hindrance(self, params: Params) -> str | None:
        """Why an engine cannot run on this machine; None: it can."""
        return without_tpu()

    def signature(self, engine: Engine) -> dict[str, list[dict[str, Any]]]:
        """{inputs, outputs} as they were when it was built."""
        told = files.signature(engine.path)
        return {side: unnamed(told[side]) for side in ("inputs", "outputs")}
