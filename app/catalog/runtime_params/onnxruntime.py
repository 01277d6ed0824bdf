"""Parameters of ONNX Runtime, by execution provider."""

from typing import Annotated, Literal

from pydantic import Field

from app.catalog.runtime_params.gpu import GpuParams
from app.catalog.spec import Params

Optimization = Literal["none", "basic", "extended", "all"]
Size = Annotated[int, Field(ge=1)]


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
    graph_optimization: Optimization = Field(
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
    engine_format: Literal["onnx", "ort"] = Field(
        default="onnx",
        description=(
            "onnx can be opened by any tool; ort is ONNX Runtime's own file (FlatBuffers), which loads faster and which "
            "its reduced builds for phones need. An ort file holds at most 2 GB, and is read by later releases too."
        ),
    )


class OnnxRuntimeGpuParams(GpuParams):
    """What every provider for NVIDIA GPUs is asked."""

    cuda_graph: bool = Field(
        default=False,
        description=(
            "Record the first run and replay it: saves the cost of launching each kernel, which bounds small networks. Needs "
            "fixed sizes (pass `set-shapes`) and every node on the GPU."
        ),
    )
    cpu_nodes: Literal["report", "refuse"] = Field(
        default="report",
        description="What to do where a node would run on the CPU: say so in the result, or fail.",
    )


class OnnxRuntimeCudaParams(OnnxRuntimeGpuParams):
    """ONNX Runtime's CUDA execution provider. The engine is the graph after ONNX Runtime's own optimizations for it.

    Inputs and outputs are bound to memory of the GPU; what is timed includes copying them there and back. Nodes that the
    provider has no kernel for run on the CPU, with copies before and after: the engine's facts count and name them, and
    `cpu_nodes=refuse` makes them an error. A provider that cannot be made at all is an error always, never the CPU.
    Not yet run on a GPU by its makers.

    Source: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html and
    https://onnxruntime.ai/docs/performance/tune-performance/iobinding.html.
    """

    graph_optimization: Optimization = Field(
        default="all",
        description="How far the graph is rewritten: basic stays in standard operators, extended and all fuse into ONNX Runtime's own.",
    )
    tf32: bool = Field(
        default=False,
        description=(
            "Compute fp32 convolutions and products with 10 bits of mantissa on the tensor cores: several times faster, "
            "to about three digits. The baseline is computed without."
        ),
    )
    conv_algorithms: Literal["exhaustive", "heuristic", "default"] = Field(
        default="exhaustive",
        description="How cuDNN chooses an algorithm for each convolution and shape: by timing all, by rules, or its first one.",
    )
    prefer_nhwc: bool = Field(
        default=False,
        description="Channels last in convolutions: what tensor cores want in fp16, at the cost of transposing.",
    )
    gpu_memory_limit_bytes: int = Field(
        default=0, ge=0, description="Most memory of the GPU that tensors may take, in bytes. 0: no limit."
    )


class OnnxRuntimeTensorRtParams(OnnxRuntimeGpuParams):
    """ONNX Runtime's TensorRT execution provider: parts of the graph that TensorRT takes become engines of it, others run on CUDA.

    The engine is an ONNX file that holds what TensorRT built (an EPContext node), and so belongs to one GPU architecture and
    one version of TensorRT, whose libraries (TensorRT 10) must be installed where it runs. Precision is the model's own:
    convert it by a pass. Never run by its makers, for want of those libraries.

    Source: https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html.
    """

    workspace_bytes: int = Field(
        default=1 << 30, ge=1, description="Most memory of the GPU that a layer may use to compute, in bytes."
    )
    optimization_level: int = Field(
        default=3,
        ge=0,
        le=5,
        description="How long TensorRT searches for fast kernels: 0 quickest, 5 longest.",
    )
    min_shapes: dict[str, list[Size]] = Field(
        default_factory=dict,
        description="By input: its smallest shape. All three of min, opt and max, or none.",
    )
    opt_shapes: dict[str, list[Size]] = Field(
        default_factory=dict, description="By input: the shape that the engine is made fast for."
    )
    max_shapes: dict[str, list[Size]] = Field(
        default_factory=dict, description="By input: its largest shape."
    )
