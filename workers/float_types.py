"""Narrow floating-point types, and what becomes of fp32 numbers in them."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from workers.onnx_files import graphs


@dataclass(frozen=True)
class FloatType:
    """A type by its number in ONNX and its numpy dtype, with the largest and the smallest magnitude that it holds."""

    onnx: int
    numpy: np.dtype
    largest: float
    smallest: float

    def narrowed(self, values: np.ndarray) -> np.ndarray:
        """Numbers in this type, to nearest: infinity, NaN and zero stay, others are brought between its bounds.

        A number that became zero would turn an epsilon in a division into a fault.
        """
        magnitudes = np.where(
            np.isfinite(values), np.clip(np.abs(values), self.smallest, self.largest), np.abs(values)
        )
        return np.where(values == 0, values, np.copysign(magnitudes, values)).astype(self.numpy)

    def narrowed_tensor(self, tensor: TensorProto, name: str) -> TensorProto:
        """A tensor's values in this type, under a name."""
        return numpy_helper.from_array(self.narrowed(numpy_helper.to_array(tensor)), name)

    def beyond(self, values: np.ndarray) -> tuple[int, int]:
        """How many finite numbers are too large for this type, and how many others too small."""
        magnitudes = np.abs(values)
        too_large = np.count_nonzero(np.isfinite(values) & (magnitudes > self.largest))
        return int(too_large), int(np.count_nonzero((values != 0) & (magnitudes < self.smallest)))


def _of(onnx: int, dtype: type) -> FloatType:
    held = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return FloatType(onnx, np.dtype(dtype), float(held.max), float(held.smallest_subnormal))


FP16 = _of(TensorProto.FLOAT16, np.float16)
BF16 = _of(TensorProto.BFLOAT16, ml_dtypes.bfloat16)
_FP8 = frozenset(
    (
        TensorProto.FLOAT8E4M3FN,
        TensorProto.FLOAT8E4M3FNUZ,
        TensorProto.FLOAT8E5M2,
        TensorProto.FLOAT8E5M2FNUZ,
    )
)


def narrow_floats(model: onnx.ModelProto) -> set[str]:
    """Of FP8 and BF16, those that weights, declared values or casts of a model have."""
    found = set()
    for graph in graphs(model.graph):
        kinds = {tensor.data_type for tensor in graph.initializer}
        kinds |= {
            value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)
        }
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in ("to", "output_dtype"):
                    kinds.add(attribute.i)
                elif attribute.type == onnx.AttributeProto.TENSOR:
                    kinds.add(attribute.t.data_type)
        if kinds & _FP8:
            found.add("FP8")
        if TensorProto.BFLOAT16 in kinds:
            found.add("BF16")
    return found
