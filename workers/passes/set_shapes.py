"""The pass `set-shapes`: free dimensions of inputs fixed or named, shapes inside inferred anew."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from app.catalog.pass_params.graph import SetShapesParams
from app.catalog.passes import PASSES
from app.errors import InvalidModel, InvalidParams, SignatureMismatch
from workers.context import PassContext
from workers.formats.onnx import signature
from workers.model_handle import ModelHandle
from workers.onnx_errors import ONNX_ERRORS, ORT_ERRORS, explain
from workers.onnx_files import graphs, save_onnx, signature_of
from workers.onnx_prepare import outline
from workers.onnx_proof import prove
from workers.onnx_trial import outputs_of, random_feeds
from workers.passes import implements

SPEC = PASSES["set-shapes"]
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
INVENTED = "unk__"  # how inference calls a dimension of which it knows nothing
Shape = tuple[object, ...]  # a free dimension is its name, or None


@dataclass
class Wanted:
    """What becomes of dimensions: those with a name everywhere, those without on their input and axis."""

    names: dict[str, int | str] = field(default_factory=dict)
    axes: dict[tuple[str, int], int | str] = field(default_factory=dict)


@implements(SPEC.name)
def apply(model: ModelHandle, params: SetShapesParams, ctx: PassContext) -> ModelHandle:
    """Set the dimensions, infer, and run both models on the same random inputs.

    Facts: `inputs` and `outputs` ({name: shape}), `free` (names that are left).

    Raises:
        InvalidParams: there is no such input or dimension, the rank is another, a size is fixed at another or set
            twice, or the model does not run with the sizes.
    """
    proto = model.load_onnx()
    wanted = settle({name: shape for name, (_, shape) in signature_of(proto)["inputs"].items()}, params)
    set_dimensions(proto, wanted)
    infer(proto, model, ctx)
    handle = save_onnx(proto, ctx.out)
    after = signature_of(proto)
    prove(after, handle, SPEC.name)
    _run_beside(model, handle, ctx)
    ctx.facts.update(
        {side: {name: list(shape) for name, (_, shape) in after[side].items()} for side in after},
        free=sorted({d for _, shape in after["inputs"].values() for d in shape if isinstance(d, str)}),
    )
    return handle


def settle(inputs: Mapping[str, Shape], params: SetShapesParams) -> Wanted:
    """Hold what is asked against the inputs' shapes. Raises InvalidParams as `apply`."""
    known = {dim for shape in inputs.values() for dim in shape if isinstance(dim, str)}
    for name in params.dimensions:
        if name not in known:
            raise InvalidParams(
                f"no input has a dimension called {name!r}",
                param=f"dimensions.{name}",
                hint=f"the inputs are {_described(inputs)}; one without a name is set by `inputs`",
            )
    wanted = Wanted(dict(params.dimensions))
    for name, given in params.inputs.items():
        if name not in inputs:
            raise InvalidParams(
                f"the model has no input called {name!r}",
                param=f"inputs.{name}",
                hint=f"its inputs are {_described(inputs)}",
            )
        if len(given) != len(inputs[name]):
            raise InvalidParams(
                f"input {name!r} has {len(inputs[name])} dimensions, {len(given)} were given",
                param=f"inputs.{name}",
                hint=f"its shape is {_described({name: inputs[name]})}; null leaves a dimension as it is",
            )
        for axis, (have, want) in enumerate(zip(inputs[name], given, strict=True)):
            if want is not None:
                _settle_axis(wanted, name, axis, have, want)
    return wanted


def _settle_axis(wanted: Wanted, name: str, axis: int, have: object, want: int | str) -> None:
    param = f"inputs.{name}[{axis}]"
    if have is None:
        wanted.axes[name, axis] = want
    elif not isinstance(have, str):
        if have != want:
            raise InvalidParams(
                f"dimension {axis} of input {name!r} is fixed at {have}, and cannot become {want}",
                param=param,
                hint="only free dimensions can be set: export the model with this one free",
            )
    elif wanted.names.setdefault(have, want) != want:
        raise InvalidParams(
            f"dimension {axis} of input {name!r} is {have!r}, which becomes {wanted.names[have]!r} elsewhere, not {want!r}",
            param=param,
            hint="equal names stand for equal sizes: give the dimension one size",
        )


def set_dimensions(model: onnx.ModelProto, wanted: Wanted) -> None:
    """Set dimensions of inputs and outputs, in every graph; what was inferred before is removed."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if value.name not in constants and (value.name, axis) in wanted.axes:
                _set(dim, wanted.axes[value.name, axis])
    for graph in graphs(model.graph):
        del graph.value_info[:]
        for value in (*graph.input, *graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in wanted.names:
                    _set(dim, wanted.names[dim.dim_param])
                elif wanted.names.keys() & set(NAME.findall(dim.dim_param)):
                    dim.Clear()  # an expression such as "2*batch": inference says what it is now


def infer(model: onnx.ModelProto, original: ModelHandle, ctx: PassContext) -> None:
    """Write what strict inference tells into values and outputs.

    Inference that refuses the original too (it has operators of a kind that it cannot judge) is only warned of.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(outline(model), strict_mode=True, data_prop=True)
    except ONNX_ERRORS as error:
        if _is_consistent(original):
            told = explain(error, "the shapes contradict the model", stage=SPEC.name)
            raise InvalidParams(
                told.detail, stage=SPEC.name, node=told.node, hint="see which sizes the node allows"
            ) from error
        ctx.warn(f"shapes inside are not all known: inference refuses the original model too: {error}"[:500])
        inferred = onnx.shape_inference.infer_shapes(outline(model), data_prop=True)
    for mine, theirs in zip(graphs(model.graph), graphs(inferred.graph), strict=True):
        mine.value_info.extend(theirs.value_info)
    for value, known in zip(model.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(known)
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.startswith(INVENTED):
                dim.Clear()


def _is_consistent(model: ModelHandle) -> bool:
    proto = model.load_onnx()
    set_dimensions(proto, Wanted())
    try:
        onnx.shape_inference.infer_shapes(outline(proto), strict_mode=True, data_prop=True)
    except ONNX_ERRORS:
        return False
    return True


def _run_beside(before: ModelHandle, after: ModelHandle, ctx: PassContext) -> None:
    """Run both on the same random inputs: their outputs must have equal shapes, those that are declared.

    Raises:
        InvalidParams: the original does not run with these sizes, but does with others.
        InvalidModel: the two differ.
    """
    described = signature(after.load_onnx(weights=False))
    try:
        feeds = random_feeds(described, ctx.seed)
    except SignatureMismatch as error:
        ctx.warn(f"the new shapes were not tried by running the model: {error.detail}")
        return
    try:
        expected = outputs_of(before, feeds)
    except ORT_ERRORS as error:
        if _runs_by_itself(before, ctx.seed):
            told = explain(error, "the model does not run with these sizes", stage=SPEC.name)
            raise InvalidParams(told.detail, stage=SPEC.name, node=told.node) from error
        ctx.warn("the new shapes were not tried: the model does not run on random inputs")
        return
    got = outputs_of(after, feeds)
    for output in described["outputs"]:
        name, shape = output["name"], got[output["name"]].shape
        declared = [
            dim if isinstance(dim, int) else size for dim, size in zip(output["shape"], shape, strict=False)
        ]
        if declared != list(shape) or shape != expected[name].shape:
            raise InvalidModel(
                f"output {name!r} is declared {output['shape']}; it came out as {list(shape)}, and as "
                f"{list(expected[name].shape)} of the original on the same inputs",
                stage=SPEC.name,
                hint="leave set-shapes out of the recipe",
            )


def _runs_by_itself(model: ModelHandle, seed: int) -> bool:
    """Whether a model runs on random inputs with 1 for every free dimension."""
    described = signature(model.load_onnx(weights=False))
    smallest = [
        {**entry, "shape": [dim if isinstance(dim, int) else 1 for dim in entry["shape"]]}
        for entry in described["inputs"]
    ]
    try:
        outputs_of(model, random_feeds({"inputs": smallest}, seed))
    except ORT_ERRORS:
        return False
    return True


def _set(dim: onnx.TensorShapeProto.Dimension, to: int | str) -> None:
    if isinstance(to, int):
        dim.dim_value = to
    else:
        dim.dim_param = to


def _described(inputs: Mapping[str, Shape]) -> str:
    return ", ".join(
        f"{name} [{', '.join('?' if dim is None else str(dim) for dim in shape)}]"
        for name, shape in inputs.items()
    )
