"""The pass `quantize-torch`: exported programs in 8 bits, by torchao (0.18)."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from app.catalog.pass_params.torch import QuantizeTorchParams
from app.catalog.passes import PASSES
from app.errors import BurnishError, IncompatibleRecipe, InvalidDataset, UnsupportedOperator
from app.text import plain
from workers.context import PassContext
from workers.feeds import plan_feeds
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.passes import implements

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

    from workers.torch.program import Program

SPEC = PASSES["quantize-torch"]
ENTRY = "model.pt2"
READ_AT_ONCE = 16  # samples
REASONS = 10  # layers named; all are counted


@implements(SPEC.name)
def apply(model: ModelHandle, params: QuantizeTorchParams, ctx: PassContext) -> ModelHandle:
    """Quantize the program's graph and export it again, with the same signature and free dimensions.

    Facts: `quantized` {precision: layers}, `left_out` {operator: layers, names of some}, and for int8-static
    `calibration` {samples, synthetic}.

    Raises:
        IncompatibleRecipe: the model has nothing that this mode quantizes.
        InvalidDataset: calibration has no samples, or gives NaN or infinity.
        UnsupportedOperator: torchao or the exporter cannot do this graph.
    """
    from workers.torch.program import load_program, save_program

    program = load_program(model.path)
    with _quiet():
        if params.mode == "weights-8bit":
            exported = _weights(program)
        else:
            exported = _exported(_integers(program, params, ctx), program.program)
    _tell(exported, params, ctx)
    save_program(exported, program.inputs, program.outputs, ctx.out / ENTRY)
    return ModelHandle(ctx.out, ENTRY, model.format, tree_digest(ctx.out))


def _integers(program: "Program", params: QuantizeTorchParams, ctx: PassContext) -> "GraphModule":
    """The graph with quantize and dequantize operators around what oneDNN computes in 8 bits (PT2E)."""
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    dynamic = params.mode == "int8-dynamic"
    config = get_default_x86_inductor_quantization_config(
        is_dynamic=dynamic, reduce_range=params.reduce_range
    )
    with _refused("quantizing"):
        graph = program.program.module(check_guards=False)
        quantizer = _sparing(X86InductorQuantizer)()
        if dynamic:  # Inductor has no 8-bit kernel for convolutions whose ranges are not known before
            quantizer.set_function_type_qconfig(torch.nn.functional.linear, config)
        else:
            quantizer.set_global(config)
        prepared = prepare_pt2e(graph, quantizer)
    if dynamic:  # ranges of weights are taken as the graph runs
        args, kwargs = program.program.example_inputs or ((), {})
        with torch.no_grad(), _refused("quantizing"):
            prepared(*args, **kwargs)
    else:
        _calibrate(program, prepared, params, ctx)
    with _refused("quantizing"):
        return _without_leftovers(convert_pt2e(prepared))


def _sparing(quantizer: Any) -> Any:
    """A quantizer that leaves convolutions of a single input channel in floating point.

    Inductor (torch 2.13) takes their 8-bit input for one whose channels are last, or not, by strides that say nothing where
    there is one channel, and reads the result in the other order: wrong numbers without an error.
    """
    from workers.torch.facts import CONVOLUTIONS, operator

    class Sparing(quantizer):  # type: ignore[misc]
        def annotate(self, model: Any) -> Any:
            annotated = super().annotate(model)
            for node in model.graph.nodes:
                if node.op == "call_function" and operator(node) in CONVOLUTIONS:
                    values = node.args[0].meta.get("val")
                    if values is not None and values.shape[1] == 1:
                        node.meta.pop("quantization_annotation", None)
            return annotated

    return Sparing


def _calibrate(
    program: "Program", prepared: "GraphModule", params: QuantizeTorchParams, ctx: PassContext
) -> None:
    import torch

    from workers.torch.model import leaves, to_tensor
    from workers.torch.program import arguments

    samples = ctx.samples["calibration"]
    total = min(samples.count, params.samples or samples.count)
    if not total:
        raise InvalidDataset("the calibration data has no samples", stage=SPEC.name)
    inputs = [dict(entry) for entry in program.inputs]
    feeding = plan_feeds(inputs, samples.inputs)
    arrange = arguments(program.program)
    done = 0
    for batch, _ in samples.batches(READ_AT_ONCE, total):
        for feeds, _ in feeding.feeds(batch):
            args, kwargs = arrange([to_tensor(feeds[entry["name"]]) for entry in inputs])
            try:
                with torch.no_grad():
                    outputs = leaves(prepared(*args, **kwargs))
                finite = all(torch.isfinite(value).all() for value in outputs if value.is_floating_point())
            except RuntimeError as error:  # of an observer that takes ranges inside the model
                if "finite" not in str(error):
                    raise
                finite = False
            if not finite:
                raise InvalidDataset(
                    "the model gives NaN or infinity on the calibration data",
                    stage=SPEC.name,
                    hint="look for NaN, infinity, or values of another scale in the samples",
                )
        done += len(next(iter(batch.values())))
        ctx.report(done, total, "calibrating")
    ctx.facts["calibration"] = {"samples": total, "synthetic": samples.synthetic}


def _weights(program: "Program") -> "ExportedProgram":
    """The program with the weights of its linear layers in 8 bits, a scale for each output."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
    from torchao.utils import unwrap_tensor_subclass

    from workers.torch.lift import lift
    from workers.torch.program import TorchModel, export

    module = lift(program.program).requires_grad_(False)
    with _refused("quantizing"):
        quantize_(module, Int8WeightOnlyConfig(set_inductor_config=False))
        unwrap_tensor_subclass(module)
    return export(TorchModel(module, program.inputs, program.outputs))


def _without_leftovers(graph: "GraphModule") -> "GraphModule":
    """The graph less the tensors that it does not use any more: the weights that were quantized."""
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    called = tuple(f"{node.target}." for node in graph.graph.nodes if node.op == "call_module")
    for name, _ in [
        *graph.named_parameters(remove_duplicate=False),
        *graph.named_buffers(remove_duplicate=False),
    ]:
        if name not in used and not name.startswith(called):
            owner, _, attribute = name.rpartition(".")
            delattr(graph.get_submodule(owner), attribute)
    graph.recompile()
    return graph


def _exported(graph: "GraphModule", original: "ExportedProgram") -> "ExportedProgram":
    """The graph as a program that is free where the original is."""
    import torch
    from torch.export import Dim

    args, kwargs = original.example_inputs or ((), {})
    free = iter(_free_axes(original))
    shapes = torch.utils._pytree.tree_map_only(
        torch.Tensor, lambda _: dict.fromkeys(next(free), Dim.DYNAMIC) or None, (*args, *kwargs.values())
    )
    with _refused("exporting"):
        return torch.export.export(graph, args, kwargs, dynamic_shapes=shapes)


def _free_axes(program: "ExportedProgram") -> Iterator[list[int]]:
    given = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in given and hasattr(node.meta.get("val"), "shape"):
            yield [axis for axis, size in enumerate(node.meta["val"].shape) if not isinstance(size, int)]


def _tell(program: "ExportedProgram", params: QuantizeTorchParams, ctx: PassContext) -> None:
    from workers.torch.facts import layers

    found = layers(program)
    quantized = Counter(layer.quantized for layer in found if layer.quantized)
    left = [layer for layer in found if not layer.quantized]
    ctx.facts["quantized"] = dict(quantized)
    ctx.facts["left_out"] = {
        "operators": dict(Counter(layer.operator for layer in left)),
        "nodes": [layer.name for layer in left[:REASONS]],
    }
    if not quantized:
        what = "convolution or linear layer" if params.mode == "int8-static" else "linear layer"
        raise IncompatibleRecipe(
            f"the model has no {what} with constant weights, which is what {params.mode} quantizes",
            stage=SPEC.name,
            hint="leave quantize-torch out of the recipe"
            + (
                ""
                if params.mode == "int8-static"
                else ", or use mode int8-static, which takes convolutions too"
            ),
        )


@contextmanager
def _refused(what: str) -> Iterator[None]:
    try:
        yield
    except (BurnishError, MemoryError):
        raise
    except Exception as error:  # torchao and torch.export raise errors of many kinds
        line = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UnsupportedOperator(
            f"{what} fails on this model: {type(error).__name__}: {plain(line, 400)}",
            stage=SPEC.name,
            hint="convert the model to ONNX and quantize it there, for onnxruntime-cpu or openvino-cpu",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torchao says of its own making, and of libraries for GPUs that it does not find."""
    from workers.torch.noise import quiet

    logger = logging.getLogger("torchao")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="`torch.jit.* is deprecated", category=DeprecationWarning
            )
            yield
    finally:
        logger.setLevel(before)
