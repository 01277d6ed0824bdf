"""Every node case that the installed onnx package generates, through the conversion: right, or refused for a reason known here."""

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from app.errors import UnsupportedOperator
from workers.onnx_to_torch.convert import to_module
from workers.onnx_to_torch.types import tensor_from

# operators that are not there, and types that PyTorch does not compute with
REFUSED_OPERATORS = {
    *("DeformConv", "ImageDecoder", "MelWeightMatrix", "RoiAlign"),
    *("LinearAttention", "ai.onnx.preview:FlexAttention"),
    *("Optional", "OptionalGetElement", "OptionalHasElement", "SequenceMap"),
    *("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
    *("ai.onnx.ml:ArrayFeatureExtractor", "ai.onnx.ml:Binarizer", "ai.onnx.ml:LabelEncoder"),
    *("ai.onnx.ml:TreeEnsemble",),
    *("ai.onnx.preview.training:Adagrad", "ai.onnx.preview.training:Adam"),
    *("ai.onnx.preview.training:Momentum",),
}
REFUSED_REASONS = {
    *("the type FLOAT8E4M3FN", "the type FLOAT8E4M3FNUZ", "the type FLOAT8E5M2", "the type FLOAT8E5M2FNUZ"),
    *("the type FLOAT8E8M0", "the type FLOAT4E2M1", "the type STRING"),
    *("the type INT2", "the type INT4", "the type UINT2", "the type UINT4"),
    "a Scan of before opset 9",
}
# of 1,884; another number means that something is refused which was not, or the other way round
REFUSED_CASES = 273
# a module in eval mode drops nothing, whatever the model says; numbers of chance are PyTorch's own
RANDOM = {f"test_training_dropout{case}" for case in ("", "_default", "_mask", "_default_mask")} | {
    f"test_bernoulli{kind}{form}" for kind in ("", "_double", "_seed") for form in ("", "_expanded")
}
# here PyTorch and ONNX Runtime go by the standard's text, which the cases do not: test_resize.py
DEVIATING = {f"test_resize_downsample_scales_{kind}_align_corners" for kind in ("linear", "cubic")}
# of the largest value: two steps of the shorter types
ROUNDINGS = {torch.float16: 2**-9, torch.bfloat16: 2**-6, torch.float32: 1e-6}


def generated() -> dict[str, Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some cases overflow on purpose
        found = collect_testcases(None)
    return {case.name: case for case in found if case.model is not None and case.data_sets}


@pytest.fixture(scope="module")
def cases() -> dict[str, Any]:
    return generated()


def converted(case: Any) -> torch.nn.Module | UnsupportedOperator:
    try:
        return to_module(case.model)
    except UnsupportedOperator as error:
        return error


def value(given: Any) -> Any:
    if given is None or isinstance(given, torch.Tensor):
        return given
    if isinstance(given, list):
        return [value(one) for one in given]
    proto = given if isinstance(given, onnx.TensorProto) else numpy_helper.from_array(np.asarray(given))
    return tensor_from(proto)


def close(got: Any, wanted: Any, case: Any) -> str | None:
    """What is wrong with an output, or None."""
    if isinstance(wanted, list):
        found = [close(a, b, case) for a, b in zip(got, wanted, strict=True)]
        return next((one for one in found if one), None)
    if got.dtype != wanted.dtype or got.shape != wanted.shape:
        return f"{got.dtype} {tuple(got.shape)} where {wanted.dtype} {tuple(wanted.shape)} was to come"
    wide = torch.complex128 if got.is_complex() else torch.float64
    a, b = got.detach().to(wide).numpy(), wanted.to(wide).numpy()
    largest = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    atol = max(case.atol, ROUNDINGS.get(got.dtype, 0.0) * largest)
    return None if np.allclose(a, b, case.rtol, atol, equal_nan=True) else f"{a} where {b} was to come"


def fault(case: Any, module: torch.nn.Module) -> str | None:
    for inputs, outputs in case.data_sets:
        got = module(*(value(one) for one in inputs))
        for found, wanted in zip(got, outputs, strict=True):
            if (wrong := close(found, value(wanted), case)) is not None:
                return wrong
    return None


@pytest.mark.parametrize("part", range(8))
def test_every_case_is_right_or_refused(part, cases):
    """In parts, so that they share processes: the cases by turns, in the order of their names."""
    wrong = {}
    for name in sorted(cases)[part::8]:
        made = converted(cases[name])
        if isinstance(made, UnsupportedOperator):
            strange = [
                entry
                for entry in made.errors or [{"operator": "", "reason": made.detail}]
                if entry["operator"] not in REFUSED_OPERATORS and entry["reason"] not in REFUSED_REASONS
            ]
            if strange and "uses opset" not in made.detail:
                wrong[name] = f"refused: {strange}"
        elif name not in RANDOM | DEVIATING and (reason := fault(cases[name], made)) is not None:
            wrong[name] = reason
    assert wrong == {}


def test_as_many_cases_as_known_are_refused_each_with_what_to_do(cases):
    refused = [made for case in cases.values() if isinstance(made := converted(case), UnsupportedOperator)]
    assert all(error.hint and error.stage == "converting" for error in refused)
    assert len(cases) == 1884
    assert len(refused) == REFUSED_CASES
