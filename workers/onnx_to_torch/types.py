"""Element types: ONNX's and PyTorch's, and casts between them."""

from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.values import Numbers, Value

_T = onnx.TensorProto
TYPES: dict[int, torch.dtype] = {
    _T.FLOAT: torch.float32,
    _T.DOUBLE: torch.float64,
    _T.FLOAT16: torch.float16,
    _T.BFLOAT16: torch.bfloat16,
    _T.INT8: torch.int8,
    _T.INT16: torch.int16,
    _T.INT32: torch.int32,
    _T.INT64: torch.int64,
    _T.UINT8: torch.uint8,
    _T.UINT16: torch.uint16,
    _T.UINT32: torch.uint32,
    _T.UINT64: torch.uint64,
    _T.BOOL: torch.bool,
    _T.COMPLEX64: torch.complex64,
    _T.COMPLEX128: torch.complex128,
}
_SMALL = (torch.int64, torch.int32, torch.bool, torch.float32, torch.float64)


def torch_type(number: int) -> torch.dtype:
    """PyTorch's type of an ONNX one."""
    return TYPES[number]


def type_name(number: int) -> str:
    """ONNX's name of a type: `FLOAT8E4M3FN`."""
    return str(_T.DataType.Name(number)) if number in _T.DataType.values() else str(number)


def tensor_from(proto: onnx.TensorProto) -> Tensor:
    """A constant of the model, in memory of its own."""
    if proto.data_type == _T.BFLOAT16:
        array = numpy_helper.to_array(proto).view("int16")
        return torch.from_numpy(array.copy()).view(torch.bfloat16)
    array = numpy_helper.to_array(proto)
    return torch.from_numpy(array.copy(order="C")).reshape(tuple(proto.dims))


def _refuses(node: Any) -> str | None:
    to = node.attributes.get("to")
    return None if to is None or to in TYPES else f"the type {type_name(to)}"


@operator("Cast", refuses=_refuses)
def cast(x: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    """To whole numbers towards zero. `saturate` and `round_mode` speak of 8-bit floats alone."""
    return converted(x, TYPES[to])


@operator("CastLike")
def cast_like(x: Value, other: Value, *, saturate: int = 1, round_mode: str = "up") -> Value:
    return converted(x, other.dtype)


def converted(x: Value, dtype: torch.dtype) -> Value:
    """In another type; sizes stay numbers."""
    if not isinstance(x, Numbers):
        return x.to(dtype)
    if dtype not in _SMALL:
        return x.tensor().to(dtype)
    convert = bool if dtype == torch.bool else torch.sym_float if dtype.is_floating_point else _whole
    return x.like([convert(value) for value in x.values], dtype)


def _whole(value: Any) -> Any:
    if isinstance(value, bool | torch.SymBool):
        return int(value)
    return torch.sym_int(value)  # type: ignore[no-untyped-call]


@operator("BitCast", refuses=_refuses)
def bit_cast(x: Tensor, *, to: int) -> Tensor:
    """The same bits as another type of the same size."""
    return x.contiguous().view(TYPES[to])
