"""From a network that was trained in 8 bits to the model that computes so."""

from pathlib import Path

import onnx

from app.catalog.pass_params.qat import QatParams
from workers.calibration import Ranges
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx, signature_of
from workers.onnx_prepare import prepare
from workers.onnx_proof import prove
from workers.quantize_for_tensorrt import LEAST_OPSET, with_half_rest
from workers.torch.program import load_program
from workers.torch.to_onnx import declare
from workers.training.fake_quant_graph import folded
from workers.training.fake_quant_network import FakeQuantized, arrays_of, put_back
from workers.training.fake_quant_prepare import Prepared
from workers.training.weights import load_trained, state_of

STAGE = "qat"


def finish(
    prepared: Prepared, weights: Path, params: QatParams, model: ModelHandle, ctx: PassContext
) -> ModelHandle:
    """Write the quantized network of trained `weights` (`trained.safetensors`) into `ctx.out`, with the signature of `model`.

    Facts: `rest`, see `with_half_rest`, where the rest is fp16.

    Raises:
        InvalidModel: see `onnx_proof.prove`.
    """
    after = trained_model(prepared, weights, params)
    original = load_program(model.path)
    declare(after.graph.input, original.inputs, "input")
    declare(after.graph.output, original.outputs, "output")
    signature = onnx.ModelProto()
    signature.CopyFrom(after)
    if params.rest == "fp16":
        after = with_half_rest(after, signature.graph, ctx)
    handle = save_onnx(after, ctx.out)
    prove(signature_of(signature), handle, STAGE)
    return handle


def trained_model(prepared: Prepared, weights: Path, params: QatParams) -> onnx.ModelProto:
    """The network with these weights, batch norms folded into them, quantized by the ranges that were trained."""
    network, held = prepared.plan.build(params)
    load_trained(network, weights)
    trained = put_back(prepared.plan.load(), arrays_of(state_of(network), held))
    flat = prepare(folded(trained, prepared.plan.folds), STAGE, least_opset=LEAST_OPSET)
    return prepared.form.quantize(flat, _ranges(network, prepared))


def _ranges(network: FakeQuantized, prepared: Prepared) -> Ranges:
    """By tensor. Those that no quantized edge reads get any: they are asked for, and go unused."""
    known = network.ranges()
    found: Ranges = dict.fromkeys(prepared.form.tensors, (0.0, 1.0))
    for name, activation in prepared.plan.layout.activations.items():
        found |= dict.fromkeys(activation.edges, known[name])
    return found
