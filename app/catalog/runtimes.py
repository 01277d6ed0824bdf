"""The runtimes: what runs an engine, and its parameters. The work is done in `workers/runtimes`."""

from typing import Literal

from pydantic import Field

from app.catalog.presets import cpu_preset, eager_preset, inductor_preset, openvino_preset
from app.catalog.runtime_params.openvino import OpenVinoCpuParams
from app.catalog.runtime_params.torch import TorchEagerParams, TorchInductorCudaParams, TorchInductorParams
from app.catalog.spec import Params, RuntimeSpec


class OnnxRuntimeCpuParams(Params):
    """ONNX Runtime's CPU execution provider, alone: nothing can fall back elsewhere.

    The engine is the graph after ONNX Runtime's own optimizations. At `graph_optimization` all it may hold layouts
    made for this processor's vector width: its manifest names the CPU features, and another machine should build anew.

    Source: https://onnxruntime.ai/docs/performance/tune-performance/threading.html and
    https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html.
    """

    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Threads that one operator may use. 0: one for each processor that the process may use.",
    )
    inter_op_threads: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Operators that may run side by side; counts only with execution_mode parallel.",
    )
    execution_mode: Literal["sequential", "parallel"] = Field(
        default="sequential",
        description="Operators one after another, or independent branches of the graph side by side.",
    )
    graph_optimization: Literal["none", "basic", "extended", "all"] = Field(
        default="all",
        description=(
            "How far the graph is rewritten: basic stays in standard operators, extended fuses into ONNX Runtime's "
            "own, all adds memory layouts for this processor (the engine is then less portable)."
        ),
    )
    allow_spinning: bool = Field(
        default=True,
        description="Idle threads wait in a loop: lower latency, more processor time. False where others share the CPUs.",
    )
    memory_arena: bool = Field(
        default=True, description="Keep freed memory for the next run: faster, holds the peak."
    )
    memory_pattern: bool = Field(
        default=True, description="Plan a run's memory as one block when the shapes do not change."
    )
    denormals_as_zero: bool = Field(
        default=False,
        description="Flush denormal numbers to zero: faster where activations decay towards zero.",
    )


_SPECS = (
    RuntimeSpec(
        name="onnxruntime-cpu",
        version=1,
        title="ONNX Runtime on CPU",
        params=OnnxRuntimeCpuParams,
        device="cpu",
        formats=frozenset({"onnx"}),
        preset=cpu_preset,
        packages=("onnxruntime",),
        dialects=frozenset({"onnxruntime"}),
    ),
    RuntimeSpec(
        name="openvino-cpu",
        version=1,
        title="OpenVINO on CPU",
        params=OpenVinoCpuParams,
        device="cpu",
        formats=frozenset({"onnx", "openvino"}),
        preset=openvino_preset,
        packages=("openvino",),
        dialects=frozenset({"onnxruntime"}),
        baseline={"inference_precision": "f32"},
    ),
    RuntimeSpec(
        name="torch-eager",
        version=1,
        title="PyTorch, eager",
        params=TorchEagerParams,
        device="cpu",
        formats=frozenset({"torch-export"}),
        preset=eager_preset,
        packages=("torch",),
    ),
    RuntimeSpec(
        name="torch-inductor-cpu",
        version=1,
        title="PyTorch, compiled by Inductor for CPU",
        params=TorchInductorParams,
        device="cpu",
        formats=frozenset({"torch-export"}),
        preset=inductor_preset,
        packages=("torch",),
    ),
    RuntimeSpec(
        name="torch-inductor-cuda",
        version=1,
        title="PyTorch, compiled by Inductor for NVIDIA GPUs",
        params=TorchInductorCudaParams,
        device="cuda",
        formats=frozenset({"torch-export"}),
        preset=inductor_preset,
        packages=("torch",),
    ),
)

RUNTIMES: dict[str, RuntimeSpec] = {spec.name: spec for spec in _SPECS}
