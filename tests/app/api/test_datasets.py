"""How a dataset is read, said at its upload: stored as it was meant, refused where it cannot be."""

import json

import pytest
from fastapi.testclient import TestClient

RESIZE = {"do": "resize", "height": 8, "width": 8}


def post(api: TestClient, **fields: list[str]) -> tuple[int, dict]:
    answer = api.post("/v1/datasets", files={"file": ("data.tar", b"bytes")}, data=fields)
    return answer.status_code, answer.json()


def test_what_was_declared_is_answered(api: TestClient) -> None:
    status, row = post(
        api,
        fields=["images=png", "labels=cls"],
        transforms=[json.dumps(RESIZE), json.dumps({"do": "layout", "to": "channels-first"})],
    )
    assert status == 201
    declared = api.get(f"/v1/datasets/{row['id']}").json()["declared"]
    assert declared["fields"] == {"images": "png", "labels": "cls"}
    assert [step["do"] for step in declared["transforms"]] == ["resize", "layout"]
    assert declared["transforms"][0]["filter"] == "bilinear"
    assert post(api)[1]["declared"] is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"fields": ["images"]}, "is not ARRAY=SOURCE"),
        ({"fields": ["a=b", "a=c"]}, "comes twice"),
        ({"transforms": ["resize"]}, "transform 0"),
        ({"transforms": [json.dumps(RESIZE), '{"do": "explode"}']}, "transform 1"),
        ({"transforms": ['{"do": "resize", "height": 8}']}, "give height and width"),
        ({"transforms": ['{"do": "flip"}']}, "transform 0"),
        ({"transforms": ['{"do": "resize", "height": 99999999, "width": 1}']}, "transform 0"),
    ],
    ids=["no-pair", "twice", "no-json", "unknown", "half-a-size", "random", "huge"],
)
def test_what_cannot_be_is_refused(api: TestClient, fields: dict[str, list[str]], words: str) -> None:
    status, problem = post(api, **fields)
    assert status == 422
    assert words in json.dumps(problem)
