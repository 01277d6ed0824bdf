"""OpenVINO on Intel GPUs, by the code of `openvino_device`. Its makers had no such device: nothing here was ever run on one."""

from typing import Any

from app.catalog.runtime_params.openvino import OpenVinoGpuParams
from app.catalog.runtimes import RUNTIMES
from workers.runtimes import implements
from workers.runtimes.openvino_accelerator import OpenVinoAccelerator

SPEC = RUNTIMES["openvino-gpu"]


@implements(SPEC.name)
class OpenVinoGpu(OpenVinoAccelerator):
    """See `base.Runtime`."""

    spec = SPEC
    device = "GPU"

    def properties(self, params: OpenVinoGpuParams) -> dict[str, Any]:
        """OpenVINO's properties for our parameters."""
        chosen: dict[str, Any] = {
            "PERFORMANCE_HINT": params.hint.upper(),
            "EXECUTION_MODE_HINT": params.execution_mode.upper(),
            "CACHE_DIR": "",
        }
        if params.streams:
            chosen["NUM_STREAMS"] = params.streams
        if params.inference_precision != "auto":
            chosen["INFERENCE_PRECISION_HINT"] = params.inference_precision
        return chosen
