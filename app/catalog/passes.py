"""The passes: what each takes and gives. Its parameters are in `pass_params`; the file of its name in `workers/passes` does the work."""

from app.catalog.pass_params.accuracy import EqualizeParams, SmoothParams
from app.catalog.pass_params.distill import DistillParams
from app.catalog.pass_params.factor import DepthwiseSeparableParams, LowRankParams
from app.catalog.pass_params.finetune import FinetuneParams
from app.catalog.pass_params.graph import FuseTransformerParams, SetShapesParams, SimplifyParams
from app.catalog.pass_params.openvino import QuantizeOpenVinoParams
from app.catalog.pass_params.precision import ToBf16Params, ToFp16Params
from app.catalog.pass_params.prune_channels import PruneChannelsParams
from app.catalog.pass_params.prune_weights import PruneWeightsParams
from app.catalog.pass_params.qat import QatParams
from app.catalog.pass_params.quantization import (
    QuantizeDynamicParams,
    QuantizeFp8Params,
    QuantizeStaticParams,
    QuantizeWeightsParams,
)
from app.catalog.pass_params.shrink_depth import ShrinkDepthParams
from app.catalog.pass_params.torch import CastTorchParams, QuantizeTorchParams
from app.catalog.spec import ByParameter, PassSpec, Precision, WhereGiven

ANY_PRECISION: frozenset[Precision] = frozenset(
    {"fp32", "fp16", "bf16", "int8", "fp8", "int8-dynamic", "weights-8bit", "weights-4bit", "mixed"}
)

ANY_DIALECT = frozenset({"onnxruntime"})  # of passes that leave operators alone which they do not know

_SPECS = (
    PassSpec(
        name="simplify",
        version=1,
        title="Simplify the graph",
        params=SimplifyParams,
        consumes=ANY_PRECISION,
        produces=None,
        over_2gb=True,
        dialects=ANY_DIALECT,
        packages=("onnxslim", "onnx"),
    ),
    PassSpec(
        name="set-shapes",
        version=1,
        title="Fix or name dimensions",
        params=SetShapesParams,
        consumes=ANY_PRECISION,
        produces=None,
        over_2gb=True,
        dialects=ANY_DIALECT,
        packages=("onnx",),
    ),
    PassSpec(
        name="fuse-transformer",
        version=1,
        title="Fuse attention, layer norms, GELU and embeddings",
        params=FuseTransformerParams,
        consumes=frozenset({"fp32"}),
        produces=None,
        over_2gb=False,
        dialect="onnxruntime",
        packages=("onnxruntime", "onnx", "sympy"),
    ),
    PassSpec(
        name="equalize",
        version=1,
        title="Equalize channels across layers",
        params=EqualizeParams,
        consumes=frozenset({"fp32"}),
        produces=None,
        over_2gb=False,
        dialects=ANY_DIALECT,
        packages=("onnx", "numpy"),
    ),
    PassSpec(
        name="smooth",
        version=1,
        title="Move the spread of activations into weights",
        params=SmoothParams,
        consumes=frozenset({"fp32"}),
        produces=None,
        over_2gb=True,
        dialects=ANY_DIALECT,
        inputs={"calibration": "required-or-synthetic"},
        packages=("onnxruntime", "onnx", "numpy"),
    ),
    PassSpec(
        name="to-fp16",
        version=1,
        title="Convert to half precision",
        params=ToFp16Params,
        consumes=frozenset({"fp32"}),
        produces="fp16",
        over_2gb=True,
        packages=("onnx", "numpy"),
    ),
    PassSpec(
        name="to-bf16",
        version=1,
        title="Store weights as bfloat16",
        params=ToBf16Params,
        consumes=frozenset({"fp32"}),
        produces="bf16",
        over_2gb=True,
        dialects=ANY_DIALECT,
        packages=("onnx", "numpy", "ml_dtypes"),
    ),
    PassSpec(
        name="quantize-dynamic",
        version=1,
        title="Quantize weights to 8 bits, activations on the fly",
        params=QuantizeDynamicParams,
        consumes=frozenset({"fp32"}),
        produces="int8-dynamic",
        over_2gb=True,
        dialects=ANY_DIALECT,
        packages=("onnxruntime", "onnx"),
    ),
    PassSpec(
        name="quantize-static",
        version=2,
        title="Quantize weights and activations to 8 bits",
        params=QuantizeStaticParams,
        consumes=frozenset({"fp32"}),
        produces="int8",
        over_2gb=True,
        inputs={"calibration": "required-or-synthetic"},
        packages=("onnxruntime", "onnx", "numpy"),
    ),
    PassSpec(
        name="quantize-fp8",
        version=1,
        title="Quantize weights and activations to 8-bit floating point",
        params=QuantizeFp8Params,
        consumes=frozenset({"fp32"}),
        produces="fp8",
        over_2gb=True,
        inputs={"calibration": "required-or-synthetic"},
        packages=("onnxruntime", "onnx", "numpy", "ml_dtypes"),
    ),
    PassSpec(
        name="quantize-weights",
        version=1,
        title="Quantize MatMul weights in blocks",
        params=QuantizeWeightsParams,
        consumes=frozenset({"fp32", "fp16"}),
        produces=ByParameter("bits", {4: "weights-4bit", 8: "weights-8bit"}),
        over_2gb=True,
        dialects=ANY_DIALECT,
        packages=("onnxruntime", "onnx"),
    ),
    PassSpec(
        name="finetune",
        version=2,
        title="Train on labelled data",
        params=FinetuneParams,
        consumes=frozenset({"fp32"}),
        produces=None,
        over_2gb=False,
        formats=frozenset({"torch-export"}),
        inputs={"train": "required", "validation": "optional"},
        packages=("torch", "numpy"),
        leaves_aside=True,
        unkeyed=frozenset({"loader"}),
    ),
    PassSpec(
        name="depthwise-separable",
        version=1,
        title="Make convolutions depthwise-separable",
        params=DepthwiseSeparableParams,
        consumes=frozenset({"fp32"}),
        produces=None,
        over_2gb=False,
        formats=frozenset({"torch-export"}),
        inputs={"calibration": "optional"},
        packages=("torch", "numpy"),
    ),
    PassSpec(
        name="low-rank",
        version=2,
        title="Lower the rank of layers",
        params=LowRankParams,
        consumes=frozenset({"fp32"}),
        produces=None,
        over_2gb=False,
        formats=frozenset({"torch-export"}),
        inputs={"calibration": "optional"},
        packages=("torch", "numpy"),
    ),
    PassSpec(
        name="prune-channels",
        version=3,
        title="Remove channels",
        params=PruneChannelsParams,
        consumes=frozenset({"fp32"}),
        produces=None,
        over_2gb=False,
        formats=frozenset({"torch-export"}),
        inputs={
            "train": ByParameter(
                "importance",
                {
                    "taylor": "required",
                    "hessian": "required",
                    **dict.fromkeys(("magnitude-l1", "magnitude-l2", "batch-norm", "random"), "optional"),
                },
            )
        },
        packages=("torch", "numpy"),
        times=ByParameter(
            "target", {"latency": True, **dict.fromkeys(("flops", "parameters", "size", None), False)}
        ),
    ),
    PassSpec(
        name="shrink-depth",
        version=1,
        title="Drop residual branches",
        params=ShrinkDepthParams,
        consumes=frozenset({"fp32"}),
        produces=None,
        over_2gb=False,
        formats=frozenset({"torch-export"}),
        inputs={"train": "required"},
        packages=("torch", "numpy"),
        times=ByParameter("target", {"latency": True, **dict.fromkeys(("flops", "parameters", None), False)}),
    ),
    PassSpec(
        name="prune-weights",
        version=1,
        title="Set small weights to zero",
        params=PruneWeightsParams,
        consumes=frozenset({"fp32"}),
        produces=None,
        over_2gb=False,
        formats=frozenset({"torch-export"}),
        packages=("torch",),
    ),
    PassSpec(
        name="qat",
        version=2,
        title="Train with weights and activations in 8 bits",
        params=QatParams,
        consumes=frozenset({"fp32"}),
        produces="int8",
        over_2gb=False,
        formats=frozenset({"torch-export"}),
        leaves="onnx",
        inputs={"train": "required", "validation": "optional", "calibration": "optional"},
        packages=("torch", "onnx", "onnxscript", "onnxruntime", "numpy"),
        leaves_aside=True,
        unkeyed=frozenset({"loader"}),
    ),
    PassSpec(
        name="distill",
        version=2,
        title="Learn from another network",
        params=DistillParams,
        consumes=frozenset({"fp32"}),
        produces=None,
        over_2gb=False,
        formats=frozenset({"torch-export"}),
        inputs={"train": "required", "validation": "optional", "teacher": "optional"},
        packages=("torch", "pytorchcv", "numpy"),
        leaves_aside=True,
        unkeyed=frozenset({"loader"}),
    ),
    PassSpec(
        name="cast-torch",
        version=1,
        title="Cast a PyTorch program to half precision",
        params=CastTorchParams,
        consumes=frozenset({"fp32"}),
        produces=ByParameter("dtype", {"fp16": "fp16", "bf16": "bf16"}),
        over_2gb=False,
        formats=frozenset({"torch-export"}),
        packages=("torch",),
    ),
    PassSpec(
        name="quantize-torch",
        version=1,
        title="Quantize a PyTorch program to 8 bits",
        params=QuantizeTorchParams,
        consumes=frozenset({"fp32"}),
        produces=ByParameter(
            "mode", {"int8-static": "int8", "int8-dynamic": "int8-dynamic", "weights-8bit": "weights-8bit"}
        ),
        over_2gb=False,
        formats=frozenset({"torch-export"}),
        inputs={
            "calibration": ByParameter(
                "mode", {"int8-static": "required-or-synthetic", "int8-dynamic": None, "weights-8bit": None}
            )
        },
        packages=("torch", "torchao", "numpy"),
    ),
    PassSpec(
        name="quantize-openvino",
        version=1,
        title="Quantize weights and activations to 8 bits for OpenVINO",
        params=QuantizeOpenVinoParams,
        consumes=frozenset({"fp32"}),
        produces="int8",
        over_2gb=False,
        leaves="openvino",
        inputs={
            "calibration": "required-or-synthetic",
            "validation": WhereGiven("max_drop", "required"),
        },
        bound="max_drop",
        packages=("nncf", "openvino", "onnx", "numpy"),
        hardware=WhereGiven("max_drop", True),
    ),
)

PASSES: dict[str, PassSpec] = {spec.name: spec for spec in _SPECS}
