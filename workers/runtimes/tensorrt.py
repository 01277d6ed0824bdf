"""TensorRT: an engine for the GPU of the machine that builds it."""

from app.catalog.runtimes import RUNTIMES
from workers.runtimes import implements
from workers.tensorrt.runtime import TensorRtRuntime

SPEC = RUNTIMES["tensorrt"]


@implements(SPEC.name)
class TensorRt(TensorRtRuntime):
    """See `TensorRtRuntime`."""

    name = SPEC.name
