"""What a job does that names no passes and has a GPU as its target."""

from typing import Any

from app.catalog.spec import PresetChoice, PresetContext

COMPUTE = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Attention", "LSTM", "GRU", "RNN", "Einsum")


def cuda_preset(context: PresetContext) -> PresetChoice:
    """The preset for ONNX Runtime on GPUs: `simplify`, then `to-fp16`, which tensor cores compute fastest.

    A model that is not fp32 is simplified alone, and so is one that has no convolution, product or recurrent layer. 8 bits
    are not chosen: the CUDA provider has no fused kernels for quantized convolutions, and computes them in fp32.
    """
    simplify: dict[str, Any] = {"pass": "simplify"}
    if context.model.precision != "fp32":
        return PresetChoice(
            [simplify], [f"The model is {context.model.precision} already: its numbers are left as they are."]
        )
    count = sum(context.model.operators.get(kind, 0) for kind in COMPUTE)
    if not count:
        return PresetChoice(
            [simplify], ["Nothing in this model runs on tensor cores: half precision would bring little."]
        )
    return PresetChoice(
        [simplify, {"pass": "to-fp16"}],
        [
            f"{count} convolutions, products and recurrent layers: half precision runs on the GPU's tensor cores."
        ],
    )


def inductor_cuda_preset(context: PresetContext) -> PresetChoice:
    """The preset for PyTorch on GPUs: `cast-torch` to fp16, where the model is fp32."""
    if context.model.precision != "fp32":
        return PresetChoice(
            [], [f"The model is {context.model.precision} already: its numbers are left as they are."]
        )
    return PresetChoice(
        [{"pass": "cast-torch"}],
        [
            "Half precision runs on the GPU's tensor cores; sums, norms and softmax keep what PyTorch computes them in."
        ],
    )
