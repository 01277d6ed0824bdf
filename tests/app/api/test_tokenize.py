"""A dataset that names a model's tokenizer: refused at once where the model cannot give one."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db import transaction
from app.models import service as models
from app.storage import get_storage
from tests.app.api.support import assert_problem, bearer, make_key, make_project

FILES = ("net/config.json", "net/tokenizer.json", "net/tokenizer_config.json")


def upload(api: TestClient, model: str, **told: Any) -> Any:
    step = {"do": "tokenize", "field": "text", "model": model, "length": 64, **told}
    given = {"fields": ["text=txt"], "transforms": [json.dumps({"do": "grayscale"}), json.dumps(step)]}
    return api.post("/v1/datasets", files={"file": ("data.tar", b"bytes")}, data=given)


def model_of(api: TestClient, folder: Path, *names: str, entry: str = "net/config.json") -> str:
    """An inspected model of these files."""
    id_ = str(api.post("/v1/models", files={"file": ("net.zip", b"abc")}).json()["id"])
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    facts = {"entry": entry, "limits": {"sequence": 512}}
    signature: dict[str, Any] = {"inputs": [], "outputs": []}
    digest = get_storage().put_tree(folder).digest
    with transaction() as session:
        row = models.begin_inspection(session, id_, 30)
        assert row is not None
        found = {"format": "transformers", "digest": digest, "signature": signature, "facts": facts}
        assert models.finish_inspection(session, id_, row.inspect_attempts, ready=found)
    return id_


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ("net/config.json", FILES),
        ("onnx/model.onnx", ("onnx/model.onnx", "tokenizer.json")),
        ("model.onnx", ("model.onnx", "tokenizer.json", "other/tokenizer.json")),
    ],
    ids=["beside", "above", "nearest"],
)
def test_a_model_with_a_tokenizer_is_taken(
    api: TestClient, tmp_path: Path, entry: str, names: tuple[str, ...]
) -> None:
    model = model_of(api, tmp_path, *names, entry=entry)
    answer = upload(api, model, pair="other")
    assert answer.status_code == 201, answer.text
    said = answer.json()["declared"]["transforms"][1]
    assert said == {"do": "tokenize", "field": "text", "pair": "other", "model": model, "length": 64}


def test_no_such_model(api: TestClient) -> None:
    problem = assert_problem(upload(api, "mdl_none"), 404, "not_found")
    assert problem["detail"] == "there is no model mdl_none"
    assert problem["param"] == "transforms[1].model"


def test_a_model_of_another_project_is_none(api: TestClient, tmp_path: Path) -> None:
    model = model_of(api, tmp_path, *FILES)
    other = bearer(make_key("write", project=make_project("other")))
    step = json.dumps({"do": "tokenize", "field": "text", "model": model, "length": 64})
    answer = api.post(
        "/v1/datasets", files={"file": ("data.tar", b"bytes")}, data={"transforms": [step]}, headers=other
    )
    problem = assert_problem(answer, 404, "not_found")
    assert problem["detail"] == f"there is no model {model}"


def test_a_model_that_is_not_inspected_yet(api: TestClient) -> None:
    model = api.post("/v1/models", files={"file": ("net.zip", b"abc")}).json()["id"]
    problem = assert_problem(upload(api, model), 409, "conflict")
    assert f"GET /v1/models/{model}?wait=30" in problem["hint"]


def test_a_model_that_was_rejected(api: TestClient) -> None:
    model = api.post("/v1/models", files={"file": ("net.zip", b"abc")}).json()["id"]
    with transaction() as session:
        row = models.begin_inspection(session, model, 30)
        assert row is not None
        models.finish_inspection(session, model, 1, problem={"code": "invalid_model", "detail": "damaged"})
    problem = assert_problem(upload(api, model), 422, "invalid_model")
    assert problem["detail"] == f"the model {model} was rejected: damaged"


@pytest.mark.parametrize(
    "names", [("net/config.json",), ("net/config.json", "else/tokenizer.json")], ids=["none", "elsewhere"]
)
def test_a_model_without_a_tokenizer(api: TestClient, tmp_path: Path, names: tuple[str, ...]) -> None:
    model = model_of(api, tmp_path, *names)
    problem = assert_problem(upload(api, model), 422, "invalid_params")
    assert problem["detail"] == f"the model {model} has no tokenizer.json among its files"
    assert problem["param"] == "transforms[1].model"
    assert "tokenizer.save_pretrained" in problem["hint"]
    assert api.get("/v1/datasets").json()["items"] == []


def test_more_tokens_than_the_model_takes(api: TestClient, tmp_path: Path) -> None:
    model = model_of(api, tmp_path, *FILES)
    assert upload(api, model, length=512).status_code == 201
    problem = assert_problem(upload(api, model, length=513), 422, "invalid_params")
    assert problem["detail"] == f"the model {model} takes 512 tokens at most, `length` is 513"
    assert problem["param"] == "transforms[1].length"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"length": 0}, "transform 1: tokenize.length"),
        ({"length": 131073}, "transform 1: tokenize.length"),
        ({"model": "art_1"}, "transform 1: tokenize.model"),
        ({"pair": "text"}, "`pair` is the same text as `field`"),
        ({"field": None}, "transform 1: tokenize.field"),
        ({"padding": "left"}, "transform 1: tokenize.padding"),
    ],
    ids=["short", "long", "no-model", "pair", "no-field", "unknown"],
)
def test_what_is_no_such_transform(api: TestClient, told: dict[str, Any], words: str) -> None:
    answer = upload(api, "mdl_1", **told) if "model" not in told else upload(api, **told)
    assert answer.status_code == 422
    assert words in answer.text
