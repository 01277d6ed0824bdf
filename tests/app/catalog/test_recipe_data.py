"""What a pass reads, held against the model: teachers. (Datasets: `test_recipe.py`.)"""

import dataclasses

import pytest

from app.catalog.recipe_data import check_inputs
from app.catalog.spec import InputRole, ModelFacts, Need, PassSpec
from app.errors import BurnishError, InvalidParams, SignatureMismatch
from tests.app.catalog.test_recipe import Evaluation, Options, dataset, model, planned

PATH = "recipe.passes[0]"


def check(
    needs: dict[InputRole, Need], inputs: dict[InputRole, str], teachers: dict[str, ModelFacts]
) -> None:
    spec = PassSpec(
        name="learn",
        version=1,
        title="",
        params=None,  # type: ignore[arg-type] - nothing reads it
        consumes=frozenset({"fp32"}),
        produces=None,
        over_2gb=False,
        inputs=needs,
    )
    check_inputs(spec, inputs, needs, model(), {}, teachers, Options(), PATH)


def test_a_teacher_that_takes_the_same_inputs_fits():
    check({"teacher": "optional"}, {"teacher": "mdl_1"}, {"mdl_1": model(format="torch-export")})
    check({"teacher": "optional"}, {}, {})
    other = model(outputs=({"name": "scores", "dtype": "float32", "shape": ["batch", 10]},))
    check({"teacher": "required"}, {"teacher": "art_1"}, {"art_1": other})


def _misfits() -> dict[str, tuple[ModelFacts | None, type[BurnishError], str]]:
    entry = dict(model().inputs[0])
    return {
        "missing": (None, InvalidParams, "there is no model or artifact 'mdl_1'"),
        "name": (
            dataclasses.replace(model(), inputs=({**entry, "name": "pixels"},)),
            SignatureMismatch,
            "an input 'pixels', which the model does not have: it takes images",
        ),
        "dtype": (
            dataclasses.replace(model(), inputs=({**entry, "dtype": "uint8"},)),
            SignatureMismatch,
            "takes uint8 as 'images', the model float32",
        ),
        "format": (model(format="torchscript"), InvalidParams, "does not become a PyTorch program"),
    }


@pytest.mark.parametrize("case", ["missing", "name", "dtype", "format"])
def test_a_teacher_that_cannot_teach_is_refused_before_anything_is_queued(case: str):
    teacher, kind, said = _misfits()[case]
    with pytest.raises(kind, match=said) as caught:
        check({"teacher": "required"}, {"teacher": "mdl_1"}, {"mdl_1": teacher} if teacher else {})
    assert caught.value.param == f"{PATH}.inputs.teacher"


def test_a_pass_without_a_teacher_takes_none():
    with pytest.raises(InvalidParams, match="learn reads no teacher data"):
        check({}, {"teacher": "mdl_1"}, {"mdl_1": model()})


@pytest.mark.parametrize(
    ("shape", "array", "remedy"),
    [
        ([None, 3, 32, 24], (32, 24, 3), "transpose(0, 3, 1, 2)"),
        ([None, 32, 24, 3], (3, 32, 24), "transpose(0, 2, 3, 1)"),
        ([None, 1, 8, 8], (8, 8), "array[:, None]"),
        ([None, 8, 8, 1], (8, 8), "array[..., None]"),
        ([None, 64], (8, 8), "reshape(len(array), -1)"),
        ([None, 3, 32, 32], (3, 31, 32), "of the model's sizes"),
    ],
)
def test_what_to_do_about_samples_of_another_shape(shape: list, array: tuple[int, ...], remedy: str):
    facts = model(inputs=({"name": "images", "dtype": "float32", "shape": shape},))
    with pytest.raises(SignatureMismatch) as caught:
        planned(facts=facts, data=dataset(shape=array), evaluation=Evaluation("dat_1"))
    assert remedy in str(caught.value.hint)


def test_what_to_do_about_numbers_of_another_kind():
    facts = model(inputs=({"name": "images", "dtype": "int64", "shape": [None, 1, 8, 8]},))
    with pytest.raises(SignatureMismatch) as caught:
        planned(facts=facts, data=dataset(), evaluation=Evaluation("dat_1"))
    assert ".astype('int64')" in str(caught.value.hint)
