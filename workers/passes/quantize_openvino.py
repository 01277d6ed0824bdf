"""The pass `quantize-openvino`: 8-bit weights and activations in OpenVINO's form, by NNCF."""

import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from app.catalog.evaluation import DEFAULT_METRIC
from app.catalog.pass_params.openvino import QuantizeOpenVinoParams
from app.catalog.passes import PASSES
from app.errors import IncompatibleRecipe, InvalidDataset, InvalidModel
from workers.attention_scores import before_softmax
from workers.context import Feeds, PassContext, Samples
from workers.feeds import plan_feeds
from workers.model_handle import ModelHandle
from workers.onnx_nodes import LISTED, check_names, nodes_of
from workers.openvino_ranges import is_eight_bit, reads_eight_bit
from workers.passes import implements

if TYPE_CHECKING:
    from workers.openvino_validation import Validation

SPEC = PASSES["quantize-openvino"]
COUNTED = (
    "Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul",
    "LSTMSequence", "GRUSequence",
)  # fmt: skip
READ_AT_ONCE = 16  # samples
OTHER_WAYS = "run simplify before it, exclude the node, or use quantize-static"
INTERMEDIATE = "intermediate_model.xml"  # as NNCF calls it
RESTORER = ["nncf", "quantization", "advanced_accuracy_restorer_parameters"]


@implements(SPEC.name)
def apply(model: ModelHandle, params: QuantizeOpenVinoParams, ctx: PassContext) -> ModelHandle:
    """Convert to OpenVINO, calibrate and quantize with NNCF, turn back what breaks the bound, and write an IR.

    Facts: `quantized` and `left_out` (as `onnx_nodes.outcome`, with OpenVINO's operators), `fused_share` (of the compute
    nodes, those that this machine's kernels run in int8; see `openvino_facts`), `calibration` ({samples, method, tensors,
    synthetic}), `accuracy_control` (where there is a bound: see `openvino_validation.outcome`).

    Raises:
        InvalidParams: an excluded node is not in the model.
        IncompatibleRecipe: the model has nothing that these parameters quantize, or the bound leaves nothing quantized.
        InvalidDataset: calibration gives NaN or infinity, or has no samples; or labels are missing or no class.
        SignatureMismatch: metric, output and labels do not fit each other.
        UnsupportedOperator, InvalidModel: OpenVINO cannot take the model, or NNCF cannot work on it.
    """
    from workers import openvino_model

    proto = model.load_onnx(weights=False)
    check_names(proto, params.excluded_nodes, "excluded_nodes")
    graph = openvino_model.read(model, SPEC.name)
    openvino_model.keep_reduced_axes(graph)
    before = [openvino_model.described(port) for port in (*graph.inputs, *graph.outputs)]
    names = {node.get_friendly_name() for node in graph.get_ops()}
    excluded = sorted(_excluded(proto, names, params))
    samples = ctx.samples["calibration"]
    data = _Calibration(graph, samples, params.samples, ctx)
    validation = _validation(graph, params, ctx)
    with tempfile.TemporaryDirectory() as scratch:
        quantized = _quantized(graph, data, excluded, params, validation, Path(scratch))
        tensors = _check(quantized, params)
        reverted = _reverted(Path(scratch), quantized, names) if validation else []
    openvino_model.name_nodes(quantized, names)
    after = [openvino_model.described(port) for port in (*quantized.inputs, *quantized.outputs)]
    if before != after:
        raise InvalidModel(f"NNCF changed the signature from {before} to {after}", stage=SPEC.name)
    reasons = dict.fromkeys(reverted, f"turned back to hold max_drop {params.max_drop}")
    ctx.facts.update(_outcome(quantized, reasons | dict.fromkeys(excluded, "excluded")))
    ctx.facts["calibration"] = {
        "samples": data.samples,
        "method": "NNCF",
        "tensors": tensors,
        "synthetic": samples.synthetic,
    }
    handle = openvino_model.write(quantized, ctx.out)
    written = openvino_model.read(handle, SPEC.name)
    compiled = _compiled(written)
    ctx.facts["fused_share"] = _fused_share(written, compiled)
    if validation is not None:
        control = validation.outcome(_compiled(graph), compiled, ctx)
        ctx.facts["accuracy_control"] = {**control, "reverted": reverted}
    return handle


def _validation(graph: Any, params: QuantizeOpenVinoParams, ctx: PassContext) -> "Validation | None":
    if params.max_drop is None:
        return None
    from workers.openvino_validation import Bound, Validation

    metric = params.metric or DEFAULT_METRIC
    bound = Bound(params.max_drop, metric, params.output, params.validation_samples)
    return Validation(graph, ctx.samples["validation"], bound, SPEC.name, ctx.report)


class _Calibration:
    """The feeds of one run after another, as often as NNCF iterates; a model of a fixed batch gets that many samples at once."""

    def __init__(self, graph: Any, samples: Samples, limit: int, ctx: PassContext):
        from workers import openvino_model

        self._plan = plan_feeds([openvino_model.described(port) for port in graph.inputs], samples.inputs)
        self._source = samples
        self._report = ctx.report
        self.samples = min(samples.count, limit)
        if not self.samples:
            raise InvalidDataset("the calibration dataset has no samples", stage=SPEC.name)

    def __len__(self) -> int:
        return -(-self.samples // (self._plan.fixed_batch or 1))

    def __iter__(self) -> Iterator[Feeds]:
        done = 0
        for several, _ in self._source.batches(max(READ_AT_ONCE, self._plan.fixed_batch or 1), self.samples):
            for feed, count in self._plan.feeds(several, 1):
                self._report(done, self.samples, "calibrating")
                _check_finite(feed, done)  # NNCF's ranges pass over what is not
                done += count
                yield feed


def _check_finite(feed: Feeds, sample: int) -> None:
    for name, value in feed.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise InvalidDataset(
                f"the input {name!r} holds NaN or infinity in calibration sample {sample}",
                stage=SPEC.name,
                param=name,
                hint="remove the sample, or look for a fault in its preprocessing",
            )


def _excluded(proto: onnx.ModelProto, names: set[str], params: QuantizeOpenVinoParams) -> set[str]:
    """OpenVINO's names of what is excluded: a node of ONNX becomes `name`, or `name/part` for each of several.

    With it of attention's scores and masks: NNCF leaves those out for `transformer` alone.
    """
    chosen = [
        node
        for node in nodes_of(proto)
        if node.op_type in params.excluded_operators or node.name in params.excluded_nodes
    ]
    chosen += before_softmax(proto.graph)
    given = {name for node in chosen for name in (node.name, *node.output) if name}
    return {name for name in names if _within(name, given)}


def _within(name: str, given: set[str]) -> bool:
    parts = name.split("/")
    return any("/".join(parts[:end]) in given for end in range(1, len(parts) + 1))


def _quantized(
    graph: Any,
    data: _Calibration,
    excluded: list[str],
    params: QuantizeOpenVinoParams,
    validation: "Validation | None",
    scratch: Path,
) -> Any:
    """The quantized graph; with a bound also, in `scratch`, what it was before nodes were turned back."""
    from workers.openvino_errors import OPENVINO_ERRORS, explain
    from workers.openvino_library import silent_nncf

    with silent_nncf() as nncf:
        smoothing = nncf.AdvancedSmoothQuantParameters()
        if params.smooth_quant_alpha is not None:
            smoothing.matmul = params.smooth_quant_alpha
        advanced = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smoothing)
        how = {
            "preset": nncf.QuantizationPreset(params.preset) if params.preset else None,
            "model_type": nncf.ModelType.TRANSFORMER if params.model_type == "transformer" else None,
            "subset_size": len(data),
            "fast_bias_correction": params.fast_bias_correction,
            "ignored_scope": nncf.IgnoredScope(names=excluded) if excluded else None,
        }
        try:
            if validation is None:
                return nncf.quantize(graph, nncf.Dataset(data), advanced_parameters=advanced, **how)
            quantized = nncf.quantize_with_accuracy_control(
                graph,
                nncf.Dataset(data),
                nncf.Dataset(validation),
                validation,
                max_drop=validation.highest_drop,
                advanced_quantization_parameters=advanced,
                advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                    max_num_iterations=params.max_reverted or sys.maxsize,
                    num_ranking_workers=1,  # more are models in memory side by side
                    intermediate_model_dir=str(scratch),
                ),
                **how,
            )
            # NNCF writes into the model how it was called, the name of our folder with it
            quantized.set_rt_info(f"{{'max_num_iterations': {params.max_reverted}}}", RESTORER)
            return quantized
        except OPENVINO_ERRORS as error:
            refusal = explain(error, "quantizing with NNCF", stage=SPEC.name)
            refusal.hint = refusal.hint or OTHER_WAYS
            raise refusal from error
        except (nncf.UnsupportedModelError, nncf.ValidationError, nncf.InternalError) as error:
            raise _unworkable(str(error)) from error
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            if _passed_our_code(error):
                raise
            raise _unworkable(f"{type(error).__name__}: {error}") from error


def _unworkable(why: str) -> InvalidModel:
    return InvalidModel(f"NNCF cannot work on this model: {why[:500]}", stage=SPEC.name, hint=OTHER_WAYS)


def _passed_our_code(error: Exception) -> bool:
    """Whether an error that left NNCF came out of what NNCF calls of ours, the samples or the measure of accuracy."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.partition(".")[0] == "workers" for name in frames[1:])  # the first is who called NNCF


def _check(quantized: Any, params: QuantizeOpenVinoParams) -> int:
    """The number of tensors that got a range.

    Raises:
        IncompatibleRecipe: none did.
        InvalidDataset: a range is not finite.
    """
    ranged = [node for node in quantized.get_ops() if node.get_type_name() == "FakeQuantize"]
    if not ranged and params.max_drop is not None:
        raise IncompatibleRecipe(
            f"with a node in 8 bits the drop is more than max_drop {params.max_drop:g} on the validation data, or there is "
            "no operator that these parameters quantize",
            stage=SPEC.name,
            hint="allow a larger drop, calibrate with more or other data, or leave quantize-openvino out",
        )
    if not ranged:
        raise IncompatibleRecipe(
            "the model has no operator that these parameters quantize",
            stage=SPEC.name,
            hint="leave quantize-openvino out of the recipe, or exclude less",
        )
    for node in ranged:
        for place in range(1, 5):
            bound = node.input_value(place).get_node()
            if bound.get_type_name() == "Constant" and not np.isfinite(bound.get_data()).all():
                raise InvalidDataset(
                    f"the tensor {node.get_friendly_name().split('/fq_')[0]!r} holds NaN or infinity on the calibration data",
                    stage=SPEC.name,
                    hint="look for a fault in a sample or its preprocessing",
                )
    return len(ranged)


def _reverted(scratch: Path, quantized: Any, names: set[str]) -> list[str]:
    """The nodes that had an 8-bit input before some were turned back and have none now, by name, in order."""
    from workers.openvino_library import openvino

    before = reads_eight_bit(openvino.Core().read_model(str(scratch / INTERMEDIATE)))
    after = set(reads_eight_bit(quantized))
    return [name for name in before if name in names and name not in after]


def _outcome(quantized: Any, reasons: Mapping[str, str]) -> dict[str, Any]:
    taken: dict[str, int] = {}
    left: dict[tuple[str, str], list[str]] = {}
    for node in quantized.get_ordered_ops():
        kind = node.get_type_name()
        if kind not in COUNTED:
            continue
        if is_eight_bit(node, 0) and is_eight_bit(node, 1):
            taken[kind] = taken.get(kind, 0) + 1
        else:
            name = node.get_friendly_name()
            why = reasons.get(name, "NNCF gave an input of it no 8-bit range")
            left.setdefault((kind, why), []).append(name)
    return {
        "quantized": taken,
        "left_out": [
            {"operator": kind, "reason": why, "count": len(names), "nodes": names[:LISTED]}
            for (kind, why), names in left.items()
        ],
    }


def _compiled(graph: Any) -> Any:
    """Of a network that compiles: raises the errors of `openvino_errors` otherwise."""
    from workers.openvino_errors import refused
    from workers.openvino_library import openvino

    with refused("compiling the model with OpenVINO", stage=SPEC.name):
        return openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def _fused_share(graph: Any, compiled: Any) -> float | None:
    from workers.runtimes.openvino_facts import compiled_facts

    share: float | None = compiled_facts(graph, compiled)["int8_share"]
    return share
