"""TensorRT for RTX: engines built ahead of time, also where there is no GPU."""

from app.catalog.runtimes import RUNTIMES
from workers.runtimes import implements
from workers.tensorrt.runtime import TensorRtRuntime

SPEC = RUNTIMES["tensorrt-rtx"]


@implements(SPEC.name)
class TensorRtRtx(TensorRtRuntime):
    """See `TensorRtRuntime`."""

    name = SPEC.name
