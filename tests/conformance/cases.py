"""The ONNX standard's own test cases: those that the installed onnx package generates, or those in a folder."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

DEBIAN = Path("/usr/share/libonnx-testdata/data")  # where Debian's package libonnx-testdata puts them
RTOL, ATOL = 1e-3, 1e-7  # the standard's own, where a case names none


@dataclass(frozen=True)
class Case:
    """A model, and what it must give. A value that is no array (a sequence, an optional) is None."""

    name: str
    model: onnx.ModelProto
    data: list[tuple[list[Any], list[Any]]]  # inputs and outputs, in the graph's order
    rtol: float = RTOL
    atol: float = ATOL


@cache
def generated() -> dict[str, Case]:
    """The node cases of the installed onnx package, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some cases overflow on purpose
        found = collect_testcases(None)
    return {
        one.name: Case(
            one.name,
            one.model,
            [([_value(v) for v in given], [_value(v) for v in wanted]) for given, wanted in one.data_sets],
            one.rtol,
            one.atol,
        )
        for one in found
        if one.model is not None and one.data_sets
    }


def stored(folder: Path) -> Iterator[Case]:
    """Cases as `onnx.backend.test` lays them out: a folder each with model.onnx and test_data_set_N."""
    for path in sorted(folder.rglob("model.onnx")):
        model = onnx.load(str(path))
        sets = sorted(path.parent.glob("test_data_set_*"))
        yield Case(path.parent.name, model, [(_read(one, "input"), _read(one, "output")) for one in sets])


def _value(value: Any) -> np.ndarray | None:
    """An array of what a generated case holds."""
    if isinstance(value, onnx.TensorProto):
        return np.asarray(numpy_helper.to_array(value))
    return (
        None
        if value is None or isinstance(value, list | onnx.SequenceProto | onnx.OptionalProto)
        else np.asarray(value)
    )


def _read(folder: Path, kind: str) -> list[Any]:
    count = len(list(folder.glob(f"{kind}_*.pb")))
    return [_array(folder / f"{kind}_{number}.pb") for number in range(count)]


def _array(path: Path) -> np.ndarray | None:
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception:  # a sequence or an optional
        return None
