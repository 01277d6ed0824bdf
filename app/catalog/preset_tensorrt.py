"""What a job does that names no passes and has TensorRT, or TensorRT for RTX, as its target."""

from typing import Any

from app.catalog.spec import PresetChoice, PresetContext

CONVOLUTIONS = ("Conv", "ConvTranspose")
COMPUTE = (*CONVOLUTIONS, "MatMul", "Gemm", "Attention", "LSTM", "GRU", "RNN", "Einsum")


def tensorrt_preset(context: PresetContext) -> PresetChoice:
    """The preset for TensorRT: networks are strongly typed there, so passes decide the precision.

    - A model that is not fp32 is simplified alone: what its maker chose stays.
    - Convolutional networks with calibration data: `simplify`, then `quantize-static` in the form that TensorRT fuses, with
      the rest in half precision.
    - Anything else that tensor cores compute: `simplify`, then `to-fp16`, which needs no data. Generated data is never used to
      choose ranges here: half precision is nearly as fast, and exact.
    - Networks without a convolution, product or recurrent layer: `simplify` alone.
    """
    operators = context.model.operators
    simplify: dict[str, Any] = {"pass": "simplify"}
    if context.model.precision != "fp32":
        return PresetChoice(
            [simplify], [f"The model is {context.model.precision} already: its numbers are left as they are."]
        )
    count = sum(operators.get(kind, 0) for kind in COMPUTE)
    if not count:
        return PresetChoice([simplify], ["Nothing in this model runs on tensor cores."])
    convolutions = sum(
        operators.get(kind, 0) - context.model.control_flow.get(kind, 0) for kind in CONVOLUTIONS
    )
    if convolutions and context.calibration is not None:
        quantize = {
            "pass": "quantize-static",
            "params": {"form": "tensorrt", "rest": "fp16"},
            "inputs": {"calibration": context.calibration},
        }
        return PresetChoice(
            [simplify, quantize],
            [
                f"{convolutions} convolutions and calibration data: 8 bits in the form that TensorRT fuses, half precision "
                "around them."
            ],
        )
    return PresetChoice(
        [simplify, {"pass": "to-fp16"}],
        [
            f"{count} convolutions, products and recurrent layers: half precision runs on the GPU's tensor cores, and needs no "
            "data. `quantize-fp8` (from compute capability 8.9) and `quantize-static` with form=tensorrt go further."
        ],
    )
