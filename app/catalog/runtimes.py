"""The runtimes: what runs an engine, and its parameters. The work is done in `workers/runtimes`."""

from app.catalog.preset_cuda import cuda_preset, inductor_cuda_preset
from app.catalog.preset_openvino import openvino_gpu_preset, openvino_npu_preset
from app.catalog.preset_tensorrt import tensorrt_preset
from app.catalog.preset_xla import xla_preset
from app.catalog.presets import cpu_preset, eager_preset, inductor_preset, openvino_preset
from app.catalog.runtime_params.onnxruntime import (
    OnnxRuntimeCpuParams,
    OnnxRuntimeCudaParams,
    OnnxRuntimeTensorRtParams,
)
from app.catalog.runtime_params.openvino import OpenVinoCpuParams, OpenVinoGpuParams, OpenVinoNpuParams
from app.catalog.runtime_params.tensorrt import TensorRtParams, TensorRtRtxParams
from app.catalog.runtime_params.torch import (
    TorchEagerCudaParams,
    TorchEagerParams,
    TorchInductorCudaParams,
    TorchInductorParams,
)
from app.catalog.runtime_params.xla import XlaCpuParams, XlaTpuParams
from app.catalog.spec import RuntimeSpec

_SPECS = (
    RuntimeSpec(
        name="onnxruntime-cpu",
        version=4,
        title="ONNX Runtime on CPU",
        params=OnnxRuntimeCpuParams,
        device="cpu",
        formats=frozenset({"onnx"}),
        preset=cpu_preset,
        packages=("onnxruntime",),
        dialects=frozenset({"onnxruntime"}),
    ),
    RuntimeSpec(
        name="onnxruntime-cuda",
        version=4,
        title="ONNX Runtime on NVIDIA GPUs",
        params=OnnxRuntimeCudaParams,
        device="cuda",
        formats=frozenset({"onnx"}),
        preset=cuda_preset,
        packages=("onnxruntime",),
        dialects=frozenset({"onnxruntime"}),
        baseline={"tf32": False, "cuda_graph": False},
    ),
    RuntimeSpec(
        name="onnxruntime-tensorrt",
        version=3,
        title="ONNX Runtime with TensorRT",
        params=OnnxRuntimeTensorRtParams,
        device="cuda",
        formats=frozenset({"onnx"}),
        preset=cuda_preset,
        packages=("onnxruntime",),
        baseline={"cuda_graph": False},
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
        # src/plugins/intel_cpu/src/nodes/fullyconnected.cpp: useSparseWeightsDecompression
        sparsity="faster only where `sparse_weights_rate` asks for it: matrix products (no convolutions) in 8 bits, with weights "
        "whose sizes are multiples of 64, on processors with AMX",
    ),
    RuntimeSpec(
        name="openvino-gpu",
        version=1,
        title="OpenVINO on Intel GPUs",
        params=OpenVinoGpuParams,
        device="intel-gpu",
        formats=frozenset({"onnx", "openvino"}),
        preset=openvino_gpu_preset,
        packages=("openvino",),
        dialects=frozenset({"onnxruntime"}),
        baseline={"inference_precision": "f32"},
    ),
    RuntimeSpec(
        name="openvino-npu",
        version=1,
        title="OpenVINO on Intel NPUs",
        params=OpenVinoNpuParams,
        device="intel-npu",
        formats=frozenset({"onnx", "openvino"}),
        preset=openvino_npu_preset,
        packages=("openvino",),
        dialects=frozenset({"onnxruntime"}),
        baseline={"inference_precision": "f16"},
        baseline_precision="fp16",
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
        name="torch-eager-cuda",
        version=1,
        title="PyTorch, eager, on NVIDIA GPUs",
        params=TorchEagerCudaParams,
        device="cuda",
        formats=frozenset({"torch-export"}),
        preset=inductor_cuda_preset,
        packages=("torch",),
        baseline={"tf32": False},
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
        preset=inductor_cuda_preset,
        packages=("torch",),
        baseline={"tf32": False},
    ),
    RuntimeSpec(
        name="tensorrt",
        version=1,
        title="TensorRT",
        params=TensorRtParams,
        device="cuda",
        formats=frozenset({"onnx"}),
        preset=tensorrt_preset,
        packages=("tensorrt",),
        baseline={"tf32": False, "refit": False, "strip": False, "weight_streaming": False},
        # https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/data-formats-tensors.html
        sparsity="2:4 along input channels runs on sparse tensor cores of GPUs from Ampere (8.0) on, where `sparse_weights` allows "
        "it and the builder finds it faster; other zeros are no faster",
    ),
    RuntimeSpec(
        name="tensorrt-rtx",
        version=1,
        title="TensorRT for RTX",
        params=TensorRtRtxParams,
        device="cuda",
        formats=frozenset({"onnx"}),
        preset=tensorrt_preset,
        packages=("tensorrt-rtx",),
        baseline={"tf32": False, "refit": False, "strip": False, "weight_streaming": False},
        ahead_of_time=True,
        sparsity="as `tensorrt`, by the same flag, of which this library's guide says nothing: measure it",
    ),
    RuntimeSpec(
        name="xla-cpu",
        version=1,
        title="XLA on CPU",
        params=XlaCpuParams,
        device="cpu",
        formats=frozenset({"torch-export"}),
        preset=xla_preset,
        packages=("jax", "jaxlib", "flatbuffers"),
        builders=("torch", "torchax"),
    ),
    RuntimeSpec(
        name="xla-tpu",
        version=1,
        title="XLA on Google TPUs",
        params=XlaTpuParams,
        device="tpu",
        formats=frozenset({"torch-export"}),
        preset=xla_preset,
        packages=("jax", "jaxlib", "flatbuffers"),
        builders=("torch", "torchax"),
        baseline={"matmul_precision": "highest"},
        ahead_of_time=True,
    ),
)

RUNTIMES: dict[str, RuntimeSpec] = {spec.name: spec for spec in _SPECS}
