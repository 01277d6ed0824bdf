"""What every pass must prove of the model that it wrote: valid, loadable, with the signature that it had."""

import onnx
import onnxruntime

from app.errors import InvalidModel
from workers.model_handle import ModelHandle
from workers.onnx_errors import refused
from workers.onnx_files import signature_of
from workers.onnx_prepare import outline

Signature = dict[str, dict[str, tuple[int, tuple[object, ...]]]]


def restore_shapes(model: onnx.ModelProto, original: onnx.GraphProto) -> None:
    """Give inputs and outputs back the dimensions that `original` declares (tools rename or guess them).

    Element types stay as they are in `model`. Inputs that a tool dropped because nothing reads them come back.
    """
    constants = {tensor.name for tensor in original.initializer}
    for mine, theirs in ((model.graph.input, original.input), (model.graph.output, original.output)):
        kinds = {value.name: value.type.tensor_type.elem_type for value in mine}
        values = [value for value in theirs if value.name not in constants]
        del mine[:]
        mine.extend(values)
        for value in mine:
            if kinds.get(value.name):
                value.type.tensor_type.elem_type = kinds[value.name]


def prove(
    before: Signature, after: ModelHandle, stage: str, *, may_change: frozenset[int] = frozenset()
) -> None:
    """Check a written model with the ONNX checker, against the signature it had, and by loading it.

    Element types in `may_change` may have become another.

    Raises:
        InvalidModel, UnsupportedOperator: it is not valid, naming the node where that is known.
    """
    hint = "this is a fault of the pass on this model: leave the node out of it (excluded or blocked nodes), or the pass"
    with refused("checking the new model", stage=stage, hint=hint):
        onnx.checker.check_model(str(after.path))
    same_signature(before, signature_of(after.load_onnx(weights=False)), stage, may_change)
    with refused("loading the new model", stage=stage, hint=hint):
        open_session(after)


def prove_written(before: Signature, after: ModelHandle, stage: str) -> None:
    """As `prove`, for a model that ONNX Runtime has no kernels for: types are inferred node by node in place of loading it.

    Raises:
        InvalidModel: it is not valid.
    """
    hint = (
        "this is a fault of the pass on this model: leave the node out of it (blocked operators), or the pass"
    )
    with refused("checking the new model", stage=stage, hint=hint):
        onnx.checker.check_model(str(after.path))
    model = after.load_onnx(weights=False)
    same_signature(before, signature_of(model), stage)
    try:
        onnx.shape_inference.infer_shapes(outline(model), check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise InvalidModel(
            f"the types of the new model do not fit each other: {str(error)[:500]}", stage=stage, hint=hint
        ) from error


def same_signature(
    before: Signature, after: Signature, stage: str, may_change: frozenset[int] = frozenset()
) -> None:
    """Raises InvalidModel where names, order, shapes or element types of inputs or outputs changed."""
    for side in ("inputs", "outputs"):
        if list(before[side]) != list(after[side]):
            raise InvalidModel(
                f"{stage} changed the {side} from {', '.join(before[side])} to {', '.join(after[side])}",
                stage=stage,
            )
        for name, (kind, shape) in before[side].items():
            new_kind, new_shape = after[side][name]
            if shape != new_shape or (kind != new_kind and kind not in may_change):
                raise InvalidModel(
                    f"{stage} changed {name} from type {kind} {list(shape)} to type {new_kind} {list(new_shape)}",
                    stage=stage,
                )


def open_session(model: ModelHandle) -> onnxruntime.InferenceSession:
    """A session that runs the graph as it is written, on one thread: for checking, not for speed."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
