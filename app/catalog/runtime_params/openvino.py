"""Parameters of OpenVINO."""

from typing import Literal

from pydantic import Field

from app.catalog.spec import Params


class OpenVinoCpuParams(Params):
    """OpenVINO's CPU plugin, alone. The engine is an IR (`model.xml`, `model.bin`) that is compiled for the processor on loading.

    Weights stay in the model's precision. What floating point is computed in is asked for explicitly, as OpenVINO's own
    choice depends on the processor: it computes an fp32 model in bf16 wherever there are bf16 instructions. Integers
    of 64 bits are computed in 32, and fp64 in fp32, whatever the parameters say.

    Source: https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html and
    https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference/high-level-performance-hints.html.
    """

    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Threads that all streams share. 0: one for each processor that the process may use.",
    )
    hint: Literal["latency", "throughput"] = Field(
        default="latency",
        description=(
            "What threads are arranged for: one request at a time on all of them, or several side by side on a few "
            "each, which pays only where a program has several requests under way."
        ),
    )
    streams: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Requests that run side by side; at most one a thread. 0: as the hint has it.",
    )
    inference_precision: Literal["f32", "bf16", "f16", "auto"] = Field(
        default="f32",
        description=(
            "What floating point is computed in; 8-bit nodes stay 8-bit. bf16 is often nearly twice as fast where the "
            "processor has instructions for it, and keeps about three digits; a precision that the processor has no "
            "instructions for is refused. auto: OpenVINO's choice for the processor."
        ),
    )
    execution_mode: Literal["performance", "accuracy"] = Field(
        default="performance",
        description=(
            "performance lets OpenVINO quantize activations on the fly where weights are stored in 4 or 8 bits; "
            "accuracy does not."
        ),
    )
    cache_compiled: bool = Field(
        default=False,
        description=(
            "Keep the compiled network beside the IR: loads faster, at twice the size. Where version, processor or "
            "parameters are not those that it was compiled for, the IR is compiled as usual."
        ),
    )
