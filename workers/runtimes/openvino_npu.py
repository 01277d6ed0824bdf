"""OpenVINO on Intel NPUs, by the code of `openvino_device`. Its makers had no such device: nothing here was ever run on one."""

from typing import Any

from app.catalog.runtime_params.openvino import OpenVinoNpuParams
from app.catalog.runtimes import RUNTIMES
from workers.runtimes import implements
from workers.runtimes.openvino_accelerator import OpenVinoAccelerator

SPEC = RUNTIMES["openvino-npu"]


@implements(SPEC.name)
class OpenVinoNpu(OpenVinoAccelerator):
    """See `base.Runtime`."""

    spec = SPEC
    device = "NPU"

    def properties(self, params: OpenVinoNpuParams) -> dict[str, Any]:
        """OpenVINO's properties for our parameters."""
        chosen: dict[str, Any] = {"PERFORMANCE_HINT": params.hint.upper(), "CACHE_DIR": ""}
        if params.inference_precision != "auto":
            chosen["INFERENCE_PRECISION_HINT"] = params.inference_precision
        return chosen
