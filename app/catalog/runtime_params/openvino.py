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
    sparse_weights_rate: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description=(
            "The share of zeros from which on 8-bit weights of matrix products are kept packed and read faster, as 0.5 after "
            "`prune-weights`; 1: never. Only processors with AMX do that."
        ),
    )
    cache_compiled: bool = Field(
        default=False,
        description=(
            "Keep the compiled network beside the IR: loads faster, at twice the size. Where version, processor or "
            "parameters are not those that it was compiled for, the IR is compiled as usual."
        ),
    )


class _AcceleratorParams(Params):
    hint: Literal["latency", "throughput"] = Field(
        default="latency",
        description="What the device is arranged for: one request at a time, or several side by side.",
    )
    cache_compiled: bool = Field(
        default=False,
        description=(
            "Keep the compiled network beside the IR: loads much faster, as compiling for the device takes long. Where "
            "version, device or parameters are not those that it was compiled for, the IR is compiled as usual."
        ),
    )


class OpenVinoGpuParams(_AcceleratorParams):
    """OpenVINO's GPU plugin, alone, on the first Intel GPU. The engine is an IR that is compiled for the device on loading.

    Needs Intel's GPU driver with OpenCL on the worker's machine, and leave to use `/dev/dri`. What floating point is
    computed in is asked for explicitly: left to itself the plugin takes half precision.

    The service's makers have not run it: they had no such device. The code is that of `openvino-cpu`, by device; what
    could be tried without one was (the refusal where there is none).

    Source: https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/gpu-device.html and
    https://docs.openvino.ai/2026/get-started/install-openvino/configurations/configurations-intel-gpu.html.
    """

    streams: int = Field(
        default=0, ge=0, le=64, description="Requests that run side by side. 0: as the hint has it."
    )
    inference_precision: Literal["f32", "f16", "auto"] = Field(
        default="f32",
        description=(
            "What floating point is computed in; 8-bit nodes stay 8-bit. f16 is what GPUs are made for, and keeps about "
            "three digits. auto: OpenVINO's choice, which is f16 where the device has it."
        ),
    )
    execution_mode: Literal["performance", "accuracy"] = Field(
        default="performance",
        description="performance lets OpenVINO quantize activations on the fly where weights are packed; accuracy does not.",
    )


class OpenVinoNpuParams(_AcceleratorParams):
    """OpenVINO's NPU plugin, alone. The engine is an IR that is compiled for the device on loading.

    Needs Intel's NPU driver on the worker's machine, and leave to use `/dev/accel`. An NPU takes models of fixed shapes:
    put `set-shapes` before anything else. It computes in half precision and in 8 bits, never in fp32: the baseline that
    an engine is measured against is in half precision too.

    The service's makers have not run it: they had no such device. The code is that of `openvino-cpu`, by device; what
    could be tried without one was (the refusal where there is none).

    Source: https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/npu-device.html.
    """

    inference_precision: Literal["f16", "auto"] = Field(
        default="f16",
        description="What floating point is computed in; 8-bit nodes stay 8-bit. auto: OpenVINO's choice.",
    )
