"""ONNX: is it valid, what does it take and give, what is in it. Weights beside the protobuf are checked, not loaded."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, shape_inference
from onnx.inliner import inline_local_functions

from app.catalog.spec import PROTOBUF_LIMIT_BYTES, Precision
from app.errors import InvalidModel, UnsupportedFormat
from app.storage.disk import link_or_copy
from app.text import first_line, plain
from workers.formats import implements
from workers.formats.base import Source
from workers.formats.bounds import check_bounds
from workers.formats.flops import NOTE, count_flops
from workers.formats.weights import (
    bits_of,
    check_tensors,
    drop_payloads,
    elements,
    not_finite,
    parameters,
    tensors,
)
from workers.model_handle import ModelHandle
from workers.onnx_files import graphs, tree_digest
from workers.onnx_nodes import nodes_of
from workers.runtimes.base import Engine, Feeds

if TYPE_CHECKING:
    from workers.torch.program import TorchModel

FORMAT = "onnx"
STANDARD_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"}
_DYNAMIC = {
    "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat",
    "MatMulInteger", "ConvInteger",
}  # fmt: skip
_STATIC = {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm"}
_LISTED = 20


def find_entry(root: Path) -> str:
    """The ONNX file of an unpacked upload: the only `.onnx` there is, or the only one at the top.

    Raises:
        UnsupportedFormat: none, or several.
    """
    found = sorted(root.rglob("*.onnx"))
    top = [path for path in found if path.parent == root]
    candidates = top if len(top) == 1 else found
    if len(candidates) == 1:
        return candidates[0].relative_to(root).as_posix()
    names = [path.relative_to(root).as_posix() for path in found]
    raise UnsupportedFormat(
        f"the archive holds several .onnx files: {names[:_LISTED]}"
        if names
        else "the archive holds no .onnx file",
        hint="pack one model: its .onnx file at the top, and its weight files where it refers to them",
    )


def read(root: Path, entry: str) -> onnx.ModelProto:
    """The protobuf without external weights.

    Raises:
        InvalidModel: the bytes are no ONNX model.
    """
    path = root / entry
    if path.stat().st_size > PROTOBUF_LIMIT_BYTES:
        raise InvalidModel(
            "the .onnx file is larger than 2 GB, which protobuf cannot hold",
            hint="save it with external data: onnx.save(model, path, save_as_external_data=True), and upload a .zip of both",
        )
    try:
        model = onnx.load(str(path), load_external_data=False, format="protobuf")
    except DecodeError as error:
        raise InvalidModel(
            f"the file is an ONNX model that was cut short or damaged, or nothing that is taken: {error}",
            hint="compare its size with the original's, and upload it again; `burnish formats` says what is taken",
        ) from error
    if not model.HasField("graph") or not model.opset_import:
        raise InvalidModel(
            "the file is no ONNX model: it has no graph or no opset",
            hint="`burnish formats` says what is taken",
        )
    return model


def check(root: Path, entry: str) -> tuple[onnx.ModelProto, list[str]]:
    """Read a model and hold it against the standard: the model less the values of its weights, and warnings.

    Raises:
        InvalidModel: the checker refuses it, or external weights are missing or lie about themselves.
    """
    model = read(root, entry)
    folder = (root / entry).parent
    check_bounds(model)
    check_tensors(model, folder, root)
    warnings = [
        f"{count} of the {elements(tensor)} values of {tensor.name!r} are NaN or infinite"
        for tensor, count in not_finite(model, folder)
    ]
    drop_payloads(model)
    try:
        onnx.checker.check_model(str(root / entry))
    except (onnx.checker.ValidationError, RuntimeError, ValueError, TypeError) as error:
        raise InvalidModel(
            f"the ONNX checker refuses the model: {_first_line(error).replace(f'{folder}/', '')}",
            hint="export it again with a current exporter; onnx.checker.check_model(path) gives the whole message",
        ) from error
    return model, warnings


def infer(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The model with the shapes that can be inferred, and what inference says against it.

    Shapes that contradict each other are no reason to refuse: exporters leave stale ones, and runtimes infer their own.
    """
    try:
        return shape_inference.infer_shapes(model, strict_mode=True, data_prop=True), []
    except (shape_inference.InferenceError, ValueError, RuntimeError) as error:
        warnings = [f"shape inference: {_first_line(error)}"]
    try:
        return shape_inference.infer_shapes(model, data_prop=True), warnings
    except (shape_inference.InferenceError, ValueError, RuntimeError):
        return model, warnings


def describe(
    root: Path, entry: str, checked: tuple[onnx.ModelProto, list[str]] | None = None
) -> dict[str, Any]:
    """{signature, facts} of a model that is valid; `checked` is what `check` gave, if it was called."""
    given, warnings = (read(root, entry), []) if checked is None else checked
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    held = parameters(given)
    precision = precision_of(given)
    model, doubts = infer(inline_local_functions(given) if given.functions else given)
    flops, unknown = count_flops(model)
    note = NOTE + (f"; nodes of unknown shape, not counted: {len(unknown)}" if unknown else "")
    nodes = list(nodes_of(model))
    domains = {item.domain: item.version for item in model.opset_import}
    facts = {
        "opset": domains.get("", domains.get("ai.onnx")),
        "ir_version": model.ir_version,
        "producer": _producer(model),
        "parameters": held,
        "flops": flops,
        "flops_note": note,
        "operators": dict(Counter(node.op_type for node in nodes).most_common()),
        "control_flow": dict(Counter(node.op_type for node in inner_nodes(model)).most_common()),
        "domains": domains,
        "custom_domains": sorted({node.domain for node in nodes} - STANDARD_DOMAINS),
        "precision": precision,
        "size_bytes": size,
        "over_2gb": size > PROTOBUF_LIMIT_BYTES,
        "entry": entry,
        "warnings": [plain(warning) for warning in (*warnings, *doubts)][:_LISTED],
    }
    return {"signature": signature(given, model), "facts": facts}


def _producer(model: onnx.ModelProto) -> str:
    told = (model.producer_name, model.producer_version)
    return plain(" ".join(part for part in told if part and isinstance(part, str)), 200)  # bytes are no UTF-8


def inner_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes inside control flow, at any depth."""
    _outer, *inner = graphs(model.graph)
    for graph in inner:
        yield from graph.node


def signature(model: onnx.ModelProto, inferred: onnx.ModelProto | None = None) -> dict[str, Any]:
    """{inputs, outputs}: name, numpy dtype, shape; a free dimension is its name in the model, or null.

    `inferred` is the same model with inferred shapes: what it knows of outputs in numbers is taken from it.

    Raises:
        InvalidModel: an input or output is no tensor.
    """
    held = {tensor.name for tensor in model.graph.initializer}
    numbers = {value.name: value for value in (inferred or model).graph.output}
    outputs = []
    for value in model.graph.output:
        entry, known = _entry(value, "output"), _entry(numbers[value.name], "output")["shape"]
        if len(known) == len(entry["shape"]):
            known = [
                new if isinstance(new, int) else own for own, new in zip(entry["shape"], known, strict=True)
            ]
        outputs.append({**entry, "shape": known})
    return {
        "inputs": [_entry(value, "input") for value in model.graph.input if value.name not in held],
        "outputs": outputs,
    }


def precision_of(model: onnx.ModelProto) -> Precision:
    """The precision in which the network computes, from its operators and weights."""
    kinds = {node.op_type for node in nodes_of(model)}
    if "MatMulNBits" in kinds:
        bits = {
            attribute.i
            for node in nodes_of(model)
            if node.op_type == "MatMulNBits"
            for attribute in node.attribute
            if attribute.name == "bits"
        }
        return "weights-8bit" if bits == {8} else "weights-4bit"
    if kinds & _DYNAMIC:
        return "int8-dynamic"
    if kinds & _STATIC:
        return "int8"
    if "DequantizeLinear" in kinds:  # with nothing that quantizes activations
        smallest = min((bits_of(tensor.data_type) for tensor in tensors(model)), default=8)
        return "weights-4bit" if smallest == 4 else "weights-8bit"
    types: Counter[int] = Counter()
    for tensor in tensors(model):
        types[tensor.data_type] += elements(tensor)
    halves = types[TensorProto.FLOAT16] + types[TensorProto.BFLOAT16]
    if not halves:
        return "fp32"
    if types[TensorProto.FLOAT] * 10 >= halves:
        return "mixed"
    return "fp16" if types[TensorProto.FLOAT16] > types[TensorProto.BFLOAT16] else "bf16"


def _entry(value: onnx.ValueInfoProto, what: str) -> dict[str, Any]:
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value")
        raise InvalidModel(
            f"{what} {value.name!r} is a {kind or 'value without a type'}; inputs and outputs must be tensors",
            node=value.name,
            hint="wrap the network so that it takes and gives tensors",
        )
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") and what == "input":
        raise InvalidModel(
            f"input {value.name!r} has no shape",
            node=value.name,
            hint="export the model with the rank of each input",
        )
    dims = [dim.dim_value if dim.dim_value > 0 else dim.dim_param or None for dim in tensor.shape.dim]
    return {"name": value.name, "dtype": dtype_name(tensor.elem_type), "shape": dims}


def dtype_name(data_type: int) -> str:
    """The numpy name of an ONNX type, `string` for text."""
    if data_type == TensorProto.STRING:
        return "string"
    bits_of(data_type)
    return str(np.dtype(helper.tensor_dtype_to_np_dtype(data_type)).name)


def _first_line(error: Exception) -> str:
    return (first_line(str(error)) or type(error).__name__)[:500]


@implements(FORMAT)
class Onnx:
    """See `base.Format`. ONNX has no mark of its own: what no other format recognizes is tried as ONNX."""

    file_name = "model.onnx"

    def recognizes(self, file: Path) -> bool:
        """Never: see the class."""
        return False

    def find_entry(self, root: Path) -> str | None:
        """The `.onnx` file of an unpacked upload. Raises as `find_entry`."""
        return find_entry(root) if any(root.rglob("*.onnx")) else None

    def open(self, source: Source) -> "OpenedOnnx":
        """The model in ONNX Runtime, as it is. Raises as `OnnxRuntimeCpu.load`."""
        return OpenedOnnx(source)


class OpenedOnnx:
    """See `base.OpenedModel`: run by ONNX Runtime without its optimizations."""

    def __init__(self, source: Source):
        from app.catalog.runtime_params.onnxruntime import OnnxRuntimeCpuParams
        from workers.runtimes.onnxruntime_cpu import OnnxRuntimeCpu

        self._source = source
        self._loaded = OnnxRuntimeCpu().load(Engine(source.root, source.entry), OnnxRuntimeCpuParams())
        self.inputs, self.outputs = self._loaded.inputs, self._loaded.outputs
        self.facts: dict[str, Any] = {}

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs by name. Raises as `LoadedOnnxRuntime.run`."""
        return self._loaded.run(feeds)

    def to_onnx(self, out: Path) -> ModelHandle:
        """A copy."""
        for file in self._source.root.rglob("*"):
            if file.is_file():
                link_or_copy(file, out / file.relative_to(self._source.root))
        return ModelHandle(out, self._source.entry, FORMAT, tree_digest(out))

    def to_torch(self) -> "TorchModel":
        """Real modules with trainable weights, see `workers.onnx_to_torch`.

        Raises:
            UnsupportedOperator: an operator has no counterpart; all of them are listed.
        """
        from workers.onnx_to_torch.convert import to_module
        from workers.torch.program import TorchModel

        handle = ModelHandle(self._source.root, self._source.entry, FORMAT, "")
        proto = handle.load_onnx()
        described = signature(proto)
        return TorchModel(to_module(proto), tuple(described["inputs"]), tuple(described["outputs"]))
