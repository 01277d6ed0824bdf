"""The pass `quantize-fp8`: 8-bit floats, with scales from calibration data."""

from app.catalog.pass_params.quantization import QuantizeFp8Params
from app.catalog.passes import PASSES
from workers import qdq
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.passes import implements
from workers.quantize_for_tensorrt import Asked, quantize

SPEC = PASSES["quantize-fp8"]


@implements(SPEC.name)
def apply(model: ModelHandle, params: QuantizeFp8Params, ctx: PassContext) -> ModelHandle:
    """Calibrate, then insert Q/DQ. Facts and errors: see `quantize_for_tensorrt.quantize`."""
    asked = Asked(
        kind=qdq.FP8, operators=frozenset(params.operators), excluded_nodes=params.excluded_nodes, method=params.method,
        bins=params.histogram_bins, percentile=params.percentile, samples=params.samples, per_channel=params.per_channel,
        rest=params.rest,
    )  # fmt: skip
    return quantize(model, asked, ctx, SPEC.name)
