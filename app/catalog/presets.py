"""What a job does that names no passes: one documented function per kind of target. Figures from measurements are in
`docs/`; the rule behind all of them: an 8-bit form is chosen only where the target has a fast kernel for it."""

from collections.abc import Mapping
from typing import Any

from app.catalog.spec import PresetChoice, PresetContext

CONVOLUTIONS = ("Conv", "ConvTranspose")
RECURRENT = ("LSTM", "GRU", "RNN")
DYNAMIC = ("MatMul", "Gemm", "Attention", "LSTM")  # what dynamic quantization has a fast form for

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
    operators = context.model.operators
    simplify: dict[str, Any] = {"pass": "simplify"}
    if context.model.precision != "fp32":
        return PresetChoice(
            [simplify], [f"The model is {context.model.precision} already: its numbers are left as they are."]
        )
    convolutions, products = (
        _count(operators, kinds) - _count(context.model.control_flow, kinds)
        for kinds in (CONVOLUTIONS, ("MatMul", "Gemm"))
    )
    if not convolutions and not products:
        return PresetChoice(
            [simplify], [f"No operator of this model has an 8-bit form that is faster on a CPU. {_BF16}"]
        )
    why = f"{convolutions} convolutions and {products} matrix products: 8 bit from calibration data is OpenVINO's fastest form."
    if context.calibration is None and not context.allow_synthetic:
        return PresetChoice([simplify], [why, _NO_DATA, _BF16])
    quantize: dict[str, Any] = {"pass": "quantize-openvino"}
    if operators.get("Attention") or (products > convolutions and operators.get("Softmax")):
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
    """The preset for Inductor: nothing besides compiling, which fuses what is elementwise and packs weights for oneDNN."""
    return PresetChoice(
        [],
        [
            "Compiling alone: it changes no numbers. `quantize-torch` in a recipe computes in 8 bits: int8-static for "
            "convolutions, int8-dynamic for linear layers; hold its accuracy against a dataset."
        ],
    )


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


def _count(operators: Mapping[str, int], kinds: tuple[str, ...]) -> int:
    return sum(operators.get(kind, 0) for kind in kinds)
