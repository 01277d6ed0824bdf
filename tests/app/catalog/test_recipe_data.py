"""What a pass reads, held against the model: teachers. (Datasets: `test_recipe.py`.)"""

import dataclasses

import pytest

from app.catalog.recipe_data import check_inputs
from app.catalog.spec import InputRole, ModelFacts, Need, PassSpec
from app.errors import BurnishError, InvalidParams, SignatureMismatch
from tests.app.catalog.test_recipe import Options, model

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
