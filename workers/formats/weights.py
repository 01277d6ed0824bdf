"""The tensors of an ONNX model: where they lie, whether that is true, what they hold. Read a piece at a time."""

from collections import defaultdict
from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from app.errors import InvalidModel
from workers.formats.bounds import MOST_AXES
from workers.onnx_files import graphs

SMALL_BYTES = 1024  # smaller tensors may hold shapes, which shape inference reads
_PIECE_BYTES = 16 * 1024 * 1024
_MOST_LOCATION_BYTES = 1024
_MOST_PART_BYTES = 255
_MOST_SHARING = 16  # tensors that lie in the same bytes: tied weights do, a few at a time
_SAVED_APART = "save the external data beside the .onnx file, under a relative name"
_FLOATS: dict[int, np.dtype] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.DOUBLE: np.dtype("<f8"),
    TensorProto.FLOAT16: np.dtype("<f2"),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
_VALUES: dict[int, str] = {  # the field with one entry an element, where there are no raw bytes
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.STRING: "string_data",
    **dict.fromkeys((TensorProto.UINT32, TensorProto.UINT64), "uint64_data"),
    **dict.fromkeys(
        (
            TensorProto.INT32, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT16, TensorProto.UINT8,
            TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.BFLOAT16,
        ),
        "int32_data",
    ),
}  # fmt: skip
_PAYLOADS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor that may lie outside the protobuf: initializers and attributes, subgraphs included."""
    for tensor, _ in _with_purpose(model):
        yield tensor


def parameters(model: onnx.ModelProto) -> int:
    """The number of elements of all initializers and constants; of a sparse one, those that are stored."""
    return sum(elements(tensor) for tensor, holds_values in _with_purpose(model) if holds_values)


def elements(tensor: TensorProto) -> int:
    """The number of elements that a tensor's shape gives.

    Raises:
        InvalidModel: a dimension is negative, there are too many, or the product passes 2^63.
    """
    if any(dim < 0 for dim in tensor.dims):
        raise InvalidModel(f"a dimension of {tensor.name!r} is negative", node=tensor.name)
    if len(tensor.dims) > MOST_AXES or (total := prod(map(int, tensor.dims))) >= 2**63:
        raise InvalidModel(
            f"the shape of {tensor.name!r} is too large: {list(tensor.dims)[:8]}", node=tensor.name
        )
    return total


def bits_of(data_type: int) -> int:
    """Bits per element of an ONNX type.

    Raises:
        InvalidModel: there is no such type.
    """
    names = TensorProto.DataType
    try:
        name = names.Name(data_type)
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    except (ValueError, KeyError) as error:
        raise InvalidModel(f"a tensor has the unknown type {data_type}") from error
    if "INT4" in name or "FLOAT4" in name:
        return 4
    if "INT2" in name:
        return 2
    return int(dtype.itemsize) * 8


def check_tensors(model: onnx.ModelProto, folder: Path, root: Path) -> None:
    """Hold every tensor to its type, and those outside the protobuf, which lies in `folder`, to the files below `root`.

    Raises:
        InvalidModel: a type is unknown; values are more or fewer than the shape says; a file is missing, lies outside the upload, or is no match for the reference.
    """
    told: dict[Path, int] = defaultdict(int)
    for tensor in tensors(model):
        bits_of(tensor.data_type)
        if tensor.data_location == TensorProto.EXTERNAL:
            file, offset, length = extent(tensor, folder)
            if not file.is_file() or not file.resolve().is_relative_to(root.resolve()):
                raise InvalidModel(
                    f"weights of {tensor.name!r} are in {file.relative_to(folder).as_posix()!r}, which was not uploaded",
                    node=tensor.name,
                    hint="upload one .zip or .tar with the .onnx file and its weight files",
                )
            held = file.stat().st_size
            told[file] += _check_extent(tensor, offset, length, held)
            if told[file] > held * _MOST_SHARING:
                raise InvalidModel(
                    f"tensors take the bytes of {file.name!r} again and again: {told[file]} of a file of {held} bytes",
                    node=tensor.name,
                )
        else:
            _check_values(tensor)


def extent(tensor: TensorProto, folder: Path) -> tuple[Path, int, int | None]:
    """Where an external tensor lies: file, offset and length in bytes (None: up to the end of the file).

    Raises:
        InvalidModel: the reference is ambiguous, no number, or leaves the folder.
    """
    told = {item.key: item.value for item in tensor.external_data}
    if len(told) != len(tensor.external_data):
        raise InvalidModel(f"the reference to the weights of {tensor.name!r} is ambiguous", node=tensor.name)
    location = PurePosixPath(told.get("location", ""))
    if len(str(location).encode()) > _MOST_LOCATION_BYTES or any(
        len(part.encode()) > _MOST_PART_BYTES for part in location.parts
    ):
        raise InvalidModel(
            f"weights of {tensor.name!r} lie under too long a name: {str(location)[:100]!r}",
            node=tensor.name,
            hint=_SAVED_APART,
        )
    if not location.parts or location.is_absolute() or ".." in location.parts or "\\" in str(location):
        raise InvalidModel(
            f"weights of {tensor.name!r} point outside the upload: {str(location)!r}",
            node=tensor.name,
            hint=_SAVED_APART,
        )
    numbers = []
    for key in ("offset", "length"):
        value = told.get(key) or ""
        if value and not (value.isascii() and value.isdecimal() and len(value) < 20):
            raise InvalidModel(f"the {key} of {tensor.name!r} is no number: {value[:40]!r}", node=tensor.name)
        numbers.append(int(value) if value else None)
    return folder / location, numbers[0] or 0, numbers[1]


def load_weights(model: onnx.ModelProto, folder: Path) -> None:
    """Read all external weights into the protobuf, from files that may be links to a shared store.

    `onnx.load` refuses files with several hard links, as an upload could point one at a secret; here the files were
    checked when they were uploaded.
    """
    for tensor in tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        path, offset, length = extent(tensor, folder)
        with path.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(-1 if length is None else length)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def not_finite(model: onnx.ModelProto, folder: Path) -> Iterator[tuple[TensorProto, int]]:
    """Every floating point tensor that holds NaN or infinity, and how many; external ones are read piece by piece.

    Single numbers are left out: an infinite one is a bound or a mask, and meant.

    Raises:
        InvalidModel: the values of a tensor do not fit its shape.
    """
    for tensor in tensors(model):
        if tensor.data_type in _FLOATS and elements(tensor) > 1:
            count = sum(int(np.count_nonzero(~np.isfinite(piece))) for piece in _pieces(tensor, folder))
            if count:
                yield tensor, count


def drop_payloads(model: onnx.ModelProto) -> None:
    """Forget the values of all large tensors in the protobuf; names, types and shapes stay."""
    for tensor in tensors(model):
        if tensor.ByteSize() > SMALL_BYTES:
            for name in _PAYLOADS:
                tensor.ClearField(name)


def _with_purpose(model: onnx.ModelProto) -> Iterator[tuple[TensorProto, bool]]:
    """Each tensor, and whether its elements are values of the network (the indices of a sparse one are not)."""
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            yield tensor, True
        for sparse in graph.sparse_initializer:
            yield sparse.values, True
            yield sparse.indices, False
        yield from _of_attributes(graph)
    for function in model.functions:
        yield from _of_attributes(function)


def _of_attributes(holder: onnx.GraphProto | onnx.FunctionProto) -> Iterator[tuple[TensorProto, bool]]:
    for node in holder.node:
        constant = node.op_type == "Constant"
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t, constant
            for tensor in attribute.tensors:
                yield tensor, False
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                yield attribute.sparse_tensor.values, constant
                yield attribute.sparse_tensor.indices, False


def _check_values(tensor: TensorProto) -> None:
    """Raises InvalidModel where a tensor inside the protobuf holds more or less than its shape says."""
    if tensor.HasField("raw_data"):
        needed, held, unit = needed_bytes(tensor), len(tensor.raw_data), "bytes"
    elif (field := _VALUES.get(tensor.data_type)) is not None:
        needed, held, unit = elements(tensor), len(getattr(tensor, field)), "values"
    else:
        return
    if needed != held:
        raise InvalidModel(
            f"the values of {tensor.name!r} do not fit its shape {list(tensor.dims)[:8]}: it needs {needed} {unit} and has {held}",
            node=tensor.name,
        )


def needed_bytes(tensor: TensorProto) -> int:
    """The size of a tensor's values in bytes, by its type and shape.

    Raises:
        InvalidModel: they are strings, which have no size, or as `elements` and `bits_of`.
    """
    if tensor.data_type == TensorProto.STRING:
        raise InvalidModel(f"the strings of {tensor.name!r} cannot lie in raw bytes", node=tensor.name)
    return (elements(tensor) * bits_of(tensor.data_type) + 7) // 8


def _check_extent(tensor: TensorProto, offset: int, length: int | None, held: int) -> int:
    """The size of the tensor in bytes."""
    stop = held if length is None else offset + length
    if offset > stop or stop > held:
        raise InvalidModel(
            f"weights of {tensor.name!r} reach from byte {offset} to {stop} of a file of {held} bytes",
            node=tensor.name,
            hint="the weight file is cut short or belongs to another model: upload it again",
        )
    needed = needed_bytes(tensor)
    if needed != stop - offset:
        raise InvalidModel(
            f"weights of {tensor.name!r} need {needed} bytes and have {stop - offset}", node=tensor.name
        )
    return needed


def _pieces(tensor: TensorProto, folder: Path) -> Iterator[np.ndarray]:
    dtype = _FLOATS[tensor.data_type]
    if tensor.data_location != TensorProto.EXTERNAL:
        yield _inside(tensor, dtype)
        return
    path, offset, length = extent(tensor, folder)
    left = path.stat().st_size - offset if length is None else length
    with path.open("rb") as file:
        file.seek(offset)
        while left > 0 and (data := file.read(min(left, _PIECE_BYTES))):
            left -= len(data)
            yield np.frombuffer(data, dtype, count=len(data) // dtype.itemsize)


def _inside(tensor: TensorProto, dtype: np.dtype) -> np.ndarray:
    """Raises InvalidModel where the tensor holds less or more than its shape says."""
    try:
        if tensor.HasField("raw_data"):
            return np.frombuffer(tensor.raw_data, dtype).reshape(elements(tensor))
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise InvalidModel(
            f"the values of {tensor.name!r} do not fit its shape {list(tensor.dims)[:8]}", node=tensor.name
        ) from error
