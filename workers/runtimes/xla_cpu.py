"""XLA on CPUs."""

from app.catalog.runtimes import RUNTIMES
from workers.runtimes import implements
from workers.xla.runtime import XlaRuntime

SPEC = RUNTIMES["xla-cpu"]


@implements(SPEC.name)
class XlaCpu(XlaRuntime):
    """See `XlaRuntime`."""

    name = SPEC.name
    platforms = ("cpu",)
