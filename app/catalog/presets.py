"""What a job does that names no passes: one documented function per kind of target. Figures from measurements are in
`docs/`; the rule behind all of them: an 8-bit form is chosen only where the target has a fast kernel for it."""

from collections.abc import Mapping
from typing import Any

from app.catalog.spec import PresetChoice, PresetContext

CONVOLUTIONS = ("Conv", "ConvTranspose")
RECURRENT = ("LSTM", "GRU", "RNN")
DYNAMIC = ("MatMul", "Gemm", "Attention", "LSTM")  # what dynamic quantization has a fast form for
TORCH_SAMPLES = 300  # that quantize-torch calibrates with

_SYNTHETIC = "No calibration data was given: ranges come from generated random data, as the request allows."
_NO_DATA = (
    "No calibration data was given and generated data is not allowed, so nothing was quantized: "
    "give a dataset, or set options.allow_synthetic."
)
_BF16 = (
    "Where the processor has bf16 instructions, the target's parameter inference_precision=bf16 computes faster, "
    "to about three digits."
)


def cpu_preset(context: PresetContext) -> PresetChoice:
    """The preset for ONNX Runtime on CPUs.

    - A model that is not fp32 is simplified alone: what its maker chose stays.
    - Convolutional networks: `simplify`, then `quantize-static` where calibration data (or leave to use generated
      data) is at hand; otherwise `simplify` alone. Never dynamic quantization, which made resnet18 3.5 times and
      mobilenetv2 8 times slower.
    - Convolutions inside control flow alone (an `If` around the network): `simplify` alone, as static quantization leaves
      the branches, and dynamic quantization does not pay for convolutions.
    - Networks of MatMul, Gemm or LSTM without convolutions (transformers): `simplify`, then `quantize-dynamic`, which
      halves a BERT's latency; static 8 bit is no faster there and less exact.
    - Anything else, networks with convolutions before recurrent layers among them: `simplify` alone where there is no
      calibration data.
    """
    operators = context.model.operators
    simplify: dict[str, Any] = {"pass": "simplify"}
    if context.model.precision != "fp32":
        return PresetChoice(
            [simplify], [f"The model is {context.model.precision} already: its numbers are left as they are."]
        )
    convolutions = _count(operators, CONVOLUTIONS)
    if convolutions and convolutions == _count(context.model.control_flow, CONVOLUTIONS):
        return PresetChoice(
            [simplify],
            [
                f"All {convolutions} convolutions are inside control flow, which static quantization leaves as it is; "
                "name `quantize-dynamic` in a recipe to make the rest smaller."
            ],
        )
    if convolutions:
        return _convolutional(context, simplify, convolutions)
    matrix = _count(operators, DYNAMIC)
    if matrix:
        kind = "recurrent" if _count(operators, RECURRENT) else "MatMul-dominated"
        return PresetChoice(
            [simplify, {"pass": "quantize-dynamic"}],
            [
                f"A {kind} network ({matrix} MatMul, Gemm, Attention or LSTM nodes, no convolution): 8-bit weights "
                "with activation ranges taken on the fly are fast and need no data."
            ],
        )
    return PresetChoice([simplify], ["No operator of this model has an 8-bit form that is faster on a CPU."])


def openvino_preset(context: PresetContext) -> PresetChoice:
    """The preset for OpenVINO on CPUs.

    - A model that is not fp32 is simplified alone: what its maker chose stays.
    - Networks with convolutions, MatMul or Gemm outside control flow: `simplify`, then `quantize-openvino` where
      calibration data (or leave to use generated data) is at hand: a quarter of OpenVINO's own fp32 latency on resnet18,
      half on mobilenetv2, a third on a BERT. Networks of more products than
      convolutions with a Softmax are quantized as transformers.
    - Without calibration data, and anything else: `simplify` alone, and the reason names `inference_precision=bf16`, which
      needs no data and is a parameter of the target.
    """
    simplify: dict[str, Any] = {"pass": "simplify"}
    if context.model.precision != "fp32":
        return PresetChoice(
            [simplify], [f"The model is {context.model.precision} already: its numbers are left as they are."]
        )
    convolutions, products = (_outside(context, kinds) for kinds in (CONVOLUTIONS, ("MatMul", "Gemm")))
    if not convolutions and not products:
        return PresetChoice(
            [simplify], [f"No operator of this model has an 8-bit form that is faster on a CPU. {_BF16}"]
        )
    why = f"{convolutions} convolutions and {products} matrix products: 8 bit from calibration data is OpenVINO's fastest form."
    if context.calibration is None and not context.allow_synthetic:
        return PresetChoice([simplify], [why, _NO_DATA, _BF16])
    quantize: dict[str, Any] = {"pass": "quantize-openvino"}
    if _attends(context, convolutions, products):
        quantize["params"] = {"model_type": "transformer"}
    if context.calibration is not None:
        quantize["inputs"] = {"calibration": context.calibration}
        return PresetChoice([simplify, quantize], [why])
    return PresetChoice([simplify, quantize], [why, _SYNTHETIC])


def eager_preset(context: PresetContext) -> PresetChoice:
    """The preset for eager PyTorch: nothing. It is what engines are compared with."""
    return PresetChoice(
        [],
        [
            "Eager PyTorch runs the model as it is: no pass makes it faster there, as exported programs meet no 8-bit kernels."
        ],
    )


def inductor_preset(context: PresetContext) -> PresetChoice:
    """The preset for Inductor on CPUs. Compiling fuses what is elementwise and packs weights for oneDNN, whatever passes do.

    - A model that is not fp32 is compiled as it is: what its maker chose stays.
    - Networks of images with convolutions outside control flow: `quantize-torch` with `int8-static` where calibration data (or
      leave to use generated data) is at hand: a quarter of Inductor's own fp32 latency on resnet18, half on mobilenetv2.
      Otherwise nothing: Inductor has no 8-bit convolution whose ranges are not known before.
    - Networks of more products than convolutions with a Softmax, and those of MatMul or Gemm alone: `int8-static` with
      calibration data, less than half of Inductor's fp32 latency on a BERT, and on a trained MiniLM as exact as `int8-dynamic`;
      that is a tenth slower, needs no data, and is chosen without any.
    - Recurrent networks, convolutions over something else than images, and anything else: nothing. Inductor's 8-bit kernels
      are for two-dimensional convolutions and linear layers.

    At most 300 samples are read, as many as NNCF reads: the network runs in eager mode for each, with histograms of everything.
    """
    if context.model.precision != "fp32":
        return PresetChoice(
            [], [f"The model is {context.model.precision} already: its numbers are left as they are."]
        )
    convolutions, products = (_outside(context, kinds) for kinds in (CONVOLUTIONS, ("MatMul", "Gemm")))
    recurrent = _count(context.model.operators, RECURRENT)
    if products and not recurrent and (not convolutions or _attends(context, convolutions, products)):
        kind = f"A MatMul-dominated network ({products} matrix products, {convolutions} convolutions)"
        if context.calibration is not None:
            why = f"{kind}: static 8 bit from calibration data is Inductor's fastest form."
            return PresetChoice([_torch_static(context.calibration)], [why])
        why = f"{kind}: 8-bit weights with activation ranges taken on the fly are fast and need no data."
        return PresetChoice([{"pass": "quantize-torch", "params": {"mode": "int8-dynamic"}}], [why])
    if not convolutions or not _takes_images(context):
        return PresetChoice(
            [], ["Compiling alone: Inductor has no 8-bit kernel for what this model computes."]
        )
    why = f"A convolutional network ({convolutions} convolutions): static 8 bit is Inductor's fastest form."
    if context.calibration is not None:
        return PresetChoice([_torch_static(context.calibration)], [why])
    if context.allow_synthetic:
        return PresetChoice([_torch_static(None)], [why, _SYNTHETIC])
    return PresetChoice([], [why, _NO_DATA])


def _torch_static(calibration: str | None) -> dict[str, Any]:
    step = {"pass": "quantize-torch", "params": {"mode": "int8-static", "samples": TORCH_SAMPLES}}
    return step if calibration is None else {**step, "inputs": {"calibration": calibration}}


def _convolutional(context: PresetContext, simplify: dict[str, Any], convolutions: int) -> PresetChoice:
    static: dict[str, Any] = {"pass": "quantize-static"}
    why = f"A convolutional network ({convolutions} convolutions): static 8 bit is the fast form; dynamic 8 bit is slower than fp32."
    if context.calibration is not None:
        static["inputs"] = {"calibration": context.calibration}
        return PresetChoice([simplify, static], [why])
    if context.allow_synthetic:
        return PresetChoice(
            [simplify, static],
            [why, _SYNTHETIC],
        )
    return PresetChoice(
        [simplify],
        [why, _NO_DATA],
    )


def _outside(context: PresetContext, kinds: tuple[str, ...]) -> int:
    """How many of these operators are outside control flow."""
    return _count(context.model.operators, kinds) - _count(context.model.control_flow, kinds)


def _attends(context: PresetContext, convolutions: int, products: int) -> bool:
    """Whether it is a transformer, by its operators."""
    operators = context.model.operators
    return bool(operators.get("Attention") or (products > convolutions and operators.get("Softmax")))


def _takes_images(context: PresetContext) -> bool:
    """Whether an input has four axes: then its convolutions have two."""
    return any(len(entry["shape"]) == 4 for entry in context.model.inputs)


def _count(operators: Mapping[str, int], kinds: tuple[str, ...]) -> int:
    return sum(operators.get(kind, 0) for kind in kinds)
