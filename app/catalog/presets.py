"""What a job does that names no passes: one documented function per kind of target. Figures from measurements are in
`docs/`; the rule behind all of them: an 8-bit form is chosen only where the target has a fast kernel for it."""

from collections.abc import Mapping
from typing import Any

from app.catalog.spec import PresetChoice, PresetContext

CONVOLUTIONS = ("Conv", "ConvTranspose")
RECURRENT = ("LSTM", "GRU", "RNN")
DYNAMIC = ("MatMul", "Gemm", "Attention", "LSTM")  # what dynamic quantization has a fast form for


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


def _convolutional(context: PresetContext, simplify: dict[str, Any], convolutions: int) -> PresetChoice:
    static: dict[str, Any] = {"pass": "quantize-static"}
    why = f"A convolutional network ({convolutions} convolutions): static 8 bit is the fast form; dynamic 8 bit is slower than fp32."
    if context.calibration is not None:
        static["inputs"] = {"calibration": context.calibration}
        return PresetChoice([simplify, static], [why])
    if context.allow_synthetic:
        return PresetChoice(
            [simplify, static],
            [
                why,
                "No calibration data was given: ranges come from generated random data, as the request allows.",
            ],
        )
    return PresetChoice(
        [simplify],
        [
            why,
            "No calibration data was given and generated data is not allowed, so nothing was quantized: "
            "give a dataset, or set options.allow_synthetic.",
        ],
    )


def _count(operators: Mapping[str, int], kinds: tuple[str, ...]) -> int:
    return sum(operators.get(kind, 0) for kind in kinds)
