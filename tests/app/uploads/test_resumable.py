"""The protocol of resumable uploads: offsets, ends, refusals, and what becomes of the bytes."""

import hashlib
import random
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.config import get_settings
from app.db import db_now, transaction
from app.storage import get_storage
from app.uploads import digests, service
from app.uploads.tables import Upload
from tests.app.api.support import assert_problem, bearer, make_key, make_project

DATA = random.Random(7).randbytes(300_000)
SHA = hashlib.sha256(DATA).hexdigest()
PARTIAL = {"Content-Type": "application/partial-upload"}


def announce(api: TestClient, **more: Any) -> str:
    response = api.post("/v1/uploads", json={"name": "net.onnx", **more})
    assert response.status_code == 201, response.text
    assert response.headers["location"] == f"/v1/uploads/{response.json()['id']}"
    return str(response.json()["id"])


def patch(api: TestClient, id_: str, offset: int, data: bytes, **fields: str) -> Any:
    headers = {**PARTIAL, "Upload-Offset": str(offset), **{k.replace("_", "-"): v for k, v in fields.items()}}
    return api.patch(f"/v1/uploads/{id_}", content=data, headers=headers)


def stored() -> tuple[list[str], list[str]]:
    return sorted(get_storage().digests()), [id_ for id_, _ in get_storage().partials()]


def progress(answer: Any) -> tuple[str, str, str]:
    return tuple(answer.headers.get(f"Upload-{name}") for name in ("Offset", "Length", "Complete"))  # type: ignore[return-value]


def test_a_file_in_three_parts_becomes_a_model(api: TestClient) -> None:
    id_ = announce(api, size_bytes=len(DATA), sha256=SHA)
    length = str(len(DATA))
    for start, end in ((0, 100_000), (100_000, 100_001), (100_001, len(DATA))):
        head = api.head(f"/v1/uploads/{id_}")
        assert (head.status_code, head.headers["cache-control"]) == (200, "no-store")
        assert progress(head) == (str(start), length, "?0")
        answer = patch(api, id_, start, DATA[start:end])
        assert (answer.status_code, answer.content) == (204, b"")
        assert progress(answer) == (str(end), length, "?1" if end == len(DATA) else "?0")
    told = api.get(f"/v1/uploads/{id_}").json()
    assert (told["complete"], told["offset_bytes"], told["sha256"]) == (True, len(DATA), SHA)
    assert stored() == ([SHA], [])
    made = api.post("/v1/models", json={"upload": id_, "name": "net", "signature": ["x:float32:1,?"]})
    assert made.status_code == 201, made.text
    model = made.json()
    assert (model["sha256"], model["size_bytes"], model["filename"]) == (SHA, len(DATA), "net.onnx")
    assert (model["name"], model["status"]) == ("net", "inspecting")
    assert model["declared"]["signature"]["inputs"][0]["name"] == "x"
    assert_problem(api.get(f"/v1/uploads/{id_}"), 404, "not_found")
    assert_problem(api.post("/v1/models", json={"upload": id_}), 404, "not_found")
    assert b"".join(get_storage().open(SHA)) == DATA


def test_a_size_that_only_the_end_tells_and_a_dataset(api: TestClient) -> None:
    id_ = announce(api)
    assert progress(patch(api, id_, 0, DATA[:10])) == ("10", None, "?0")
    problem = assert_problem(api.post("/v1/datasets", json={"upload": id_}), 409, "conflict")
    assert "10 of an unknown number" in problem["detail"]
    answer = patch(api, id_, 10, DATA[10:], Upload_Complete="?1")
    assert progress(answer) == (str(len(DATA)), str(len(DATA)), "?1")
    dataset = api.post("/v1/datasets", json={"upload": id_}).json()
    assert (dataset["name"], dataset["sha256"]) == ("net.onnx", SHA)


def test_a_wrong_offset_is_told_the_right_one(api: TestClient) -> None:
    id_ = announce(api, size_bytes=len(DATA))
    patch(api, id_, 0, DATA[:1000])
    for offset in (0, 999, 1001):
        refused = patch(api, id_, offset, b"x")
        assert_problem(refused, 409, "conflict")
        assert refused.headers["Upload-Offset"] == "1000"
    answer = patch(api, id_, 1000, DATA[1000:])
    assert progress(answer)[2] == "?1"
    again = patch(api, id_, 1000, DATA[1000:])  # the answer was lost, the client tries again
    assert_problem(again, 409, "conflict")
    assert progress(again) == (str(len(DATA)), str(len(DATA)), "?1")


def test_an_empty_request_completes_what_is_all_there(api_sqlite: TestClient) -> None:
    id_ = announce(api_sqlite, size_bytes=len(DATA))
    assert progress(patch(api_sqlite, id_, 0, DATA, Upload_Complete="?0"))[2] == "?0"
    assert progress(patch(api_sqlite, id_, len(DATA), b""))[2] == "?1"


def test_tus_clients_are_understood(api_sqlite: TestClient) -> None:
    id_ = announce(api_sqlite, size_bytes=len(DATA))
    answer = patch(api_sqlite, id_, 0, DATA, Content_Type="application/offset+octet-stream")
    assert progress(answer)[2] == "?1"
    for strange in ("application/octet-stream", "application/json", ""):
        refused = patch(api_sqlite, id_, 0, DATA, Content_Type=strange)
        assert_problem(refused, 415, "unsupported_media_type")
    bare = api_sqlite.patch(f"/v1/uploads/{id_}", content=b"x", headers=PARTIAL)
    assert assert_problem(bare, 422, "invalid_params")["param"] == "Upload-Offset"


@pytest.mark.parametrize(
    ("announced", "body", "fields"),
    [
        ({"size_bytes": 10}, DATA[:11], {}),
        ({"size_bytes": 10}, DATA[:9], {"Upload_Complete": "?1"}),
        ({"size_bytes": 10, "sha256": SHA}, DATA[:10], {}),
        ({"sha256": SHA}, DATA[:10], {"Upload_Complete": "?1"}),
        ({}, b"", {"Upload_Complete": "?1"}),
    ],
)
def test_what_is_not_as_announced_is_refused_and_gone(
    api: TestClient, announced: dict[str, Any], body: bytes, fields: dict[str, str]
) -> None:
    id_ = announce(api, **announced)
    assert_problem(patch(api, id_, 0, body, **fields), 422, "upload_mismatch")
    assert_problem(patch(api, id_, 0, body), 404, "not_found")
    assert stored()[1] == []


def test_limits(api_sqlite: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_MAX_UPLOAD_BYTES", "1000")
    get_settings.cache_clear()
    refused = api_sqlite.post("/v1/uploads", json={"name": "x", "size_bytes": 1001})
    assert assert_problem(refused, 413, "payload_too_large")["param"] == "size_bytes"
    id_ = announce(api_sqlite)
    patch(api_sqlite, id_, 0, DATA[:900])
    assert_problem(patch(api_sqlite, id_, 900, DATA[:101]), 413, "payload_too_large")
    assert api_sqlite.head(f"/v1/uploads/{id_}").status_code == 404
    id_ = announce(api_sqlite)
    assert progress(patch(api_sqlite, id_, 0, DATA[:1000], Upload_Complete="?1"))[2] == "?1"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a", "size_bytes": 0}, "size_bytes"),
        ({"name": "a", "size_bytes": 2**63}, "size_bytes"),
        ({"name": "a", "sha256": SHA.upper()}, "sha256"),
        ({"name": "a", "size": 1}, "size"),
    ],
)
def test_announcements_that_are_refused(api_sqlite: TestClient, body: dict[str, Any], param: str) -> None:
    assert assert_problem(api_sqlite.post("/v1/uploads", json=body), 422, "invalid_params")["param"] == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b"\xff", None),
        (b"{}", "upload"),
        (b'{"upload": 5}', "upload"),
        (b'{"upload": "upl_x", "nope": 1}', "nope"),
        (b'{"upload": "upl_x", "format": "A B"}', "format"),
        (b'{"upload": "upl_x", "signature": ["x:float32"]}', "signature"),
        (b'{"upload": "upl_x", "file": "x"}', "file"),
    ],
)
def test_json_bodies_that_are_refused(api_sqlite: TestClient, body: bytes, param: str | None) -> None:
    refused = api_sqlite.post("/v1/models", content=body, headers={"content-type": "application/json"})
    assert assert_problem(refused, 422, "invalid_params").get("param") == param


def test_json_bodies_have_the_limit_of_json(api_sqlite: TestClient) -> None:
    refused = api_sqlite.post("/v1/models", json={"upload": "x" * 2**20})
    assert_problem(refused, 413, "payload_too_large")


def test_keys_of_other_projects_see_nothing(api: TestClient) -> None:
    id_ = announce(api, size_bytes=10, sha256=SHA)
    patch(api, id_, 0, b"12345")
    other = bearer(make_key("admin", project=make_project("other")))
    url = f"/v1/uploads/{id_}"
    for method in ("GET", "DELETE"):
        assert_problem(api.request(method, url, headers=other), 404, "not_found")
    assert api.head(url, headers=other).status_code == 404
    assert_problem(
        api.patch(url, content=b"x", headers={**PARTIAL, "Upload-Offset": "5", **other}), 404, "not_found"
    )
    for kind in ("models", "datasets"):
        assert_problem(api.post(f"/v1/{kind}", json={"upload": id_}, headers=other), 404, "not_found")
    assert api.get("/v1/uploads", headers=other).json()["items"] == []
    reader = bearer(make_key("read"))
    assert api.get(url, headers=reader).json()["offset_bytes"] == 5
    assert_problem(api.delete(url, headers=reader), 403, "forbidden")
    assert_problem(api.patch(url, headers={**PARTIAL, "Upload-Offset": "5", **reader}), 403, "forbidden")


def test_lists_and_deletion(api: TestClient) -> None:
    first, second = announce(api, sha256=SHA), announce(api, size_bytes=len(DATA))
    patch(api, first, 0, DATA[:7])
    patch(api, second, 0, DATA)
    assert [row["id"] for row in api.get("/v1/uploads").json()["items"]] == [second, first]
    (found,) = api.get(f"/v1/uploads?name=net.onnx&sha256={SHA}").json()["items"]
    assert (found["id"], found["offset_bytes"], found["complete"]) == (first, 7, False)
    assert stored() == ([SHA], [first])
    for id_ in (first, second):
        assert api.delete(f"/v1/uploads/{id_}").status_code == 204
        assert_problem(api.delete(f"/v1/uploads/{id_}"), 404, "not_found")
    assert stored()[1] == []


def test_a_request_that_fails_uses_nothing_up(api: TestClient) -> None:
    """Consuming and creating are one transaction: where the second fails, the upload is still there."""
    id_ = announce(api, size_bytes=len(DATA))
    patch(api, id_, 0, DATA)
    broken = api.post("/v1/models", json={"upload": id_, "name": "a\x00b"})  # PostgreSQL holds no NUL
    if broken.status_code == 201:
        return
    assert_problem(broken, 422, "invalid_params")
    assert api.get(f"/v1/uploads/{id_}").json()["complete"]
    assert api.post("/v1/models", json={"upload": id_}).status_code == 201


def test_posts_sent_twice_do_once(api: TestClient) -> None:
    key = {"Idempotency-Key": "announce-1"}
    body = {"name": "a", "size_bytes": len(DATA)}
    ids = {api.post("/v1/uploads", json=body, headers=key).json()["id"] for _ in range(2)}
    assert len(ids) == 1
    patch(api, ids.pop(), 0, DATA)
    (upload,) = api.get("/v1/uploads").json()["items"]
    use = {"Idempotency-Key": "use-1"}
    answers = [api.post("/v1/models", json={"upload": upload["id"]}, headers=use) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert len(api.get("/v1/models").json()["items"]) == 1
    other = api.post("/v1/models", json={"upload": upload["id"], "name": "x"}, headers=use)
    assert_problem(other, 422, "invalid_params")


def test_expired_uploads_are_gone(api: TestClient) -> None:
    kept, partial, complete = (announce(api, size_bytes=10) for _ in range(3))
    patch(api, partial, 0, b"12345")
    patch(api, complete, 0, b"1234567890")
    with transaction() as session:
        session.execute(
            update(Upload).where(Upload.id.in_((partial, complete))).values(expires_at=db_now(-1)),
            execution_options={"synchronize_session": False},
        )
    for id_ in (partial, complete):
        assert_problem(api.get(f"/v1/uploads/{id_}"), 404, "not_found")
        assert_problem(patch(api, id_, 5, b"12345"), 404, "not_found")
        assert_problem(api.post("/v1/models", json={"upload": id_}), 404, "not_found")
    assert [row["id"] for row in api.get("/v1/uploads").json()["items"]] == [kept]
    with transaction() as session:
        assert sorted(service.expire(session)) == sorted((partial, complete))
    assert stored()[1] == []
    with transaction() as session:
        assert service.expire(session) == []


def test_one_request_appends_at_a_time_and_a_dead_ones_hold_ends(api: TestClient) -> None:
    id_ = announce(api, size_bytes=10)
    project = make_project_of(id_)
    with transaction() as session:
        number = service.claim(session, project, id_, 60).appends
    refused = patch(api, id_, 0, b"12345")
    assert_problem(refused, 409, "conflict")
    assert "Upload-Offset" not in refused.headers
    assert refused.headers["retry-after"] == "1"
    with transaction() as session:
        assert service.renew(session, project, id_, number, 0, -1)
    assert progress(patch(api, id_, 0, b"12345"))[0] == "5"
    with transaction() as session:  # the dead one comes back
        assert not service.renew(session, project, id_, number, 0, 60)
        assert not service.end(session, project, id_, number, 0)
        service.discard(session, project, id_, number, None)
    assert api.get(f"/v1/uploads/{id_}").json()["offset_bytes"] == 5


def make_project_of(id_: str) -> str:
    with transaction(readonly=True) as session:
        upload = session.get(Upload, id_)
        assert upload is not None
        return upload.project_id


def test_the_digest_is_right_whichever_process_received_what(api: TestClient) -> None:
    """A process hashes as bytes come, unless another one appended in between: then it reads them all in the end."""
    for stranger in (False, True):
        id_ = announce(api, size_bytes=len(DATA))
        patch(api, id_, 0, DATA[:100])
        if stranger:
            with transaction() as session:
                number = service.claim(session, make_project_of(id_), id_, 60).appends
            writer = get_storage().partial(id_).append(100)
            writer.write(DATA[100:200])
            with transaction() as session:
                service.end(session, make_project_of(id_), id_, number, writer.close())
        patch(api, id_, 200 if stranger else 100, DATA[200 if stranger else 100 : 1000])
        patch(api, id_, 1000, DATA[1000:])
        assert api.get(f"/v1/uploads/{id_}").json()["sha256"] == SHA


def test_a_hash_is_for_the_next_request_alone() -> None:
    whole = digests.take("upl_a", 1, 0)
    assert whole is not None
    whole.update(DATA)
    for appends, offset in ((3, len(DATA)), (2, 1)):
        digests.leave("upl_a", 1, len(DATA), whole)
        assert digests.take("upl_a", appends, offset) is None
    digests.leave("upl_a", 1, len(DATA), whole)
    assert digests.take("upl_a", 2, len(DATA)) is whole
    assert digests.take("upl_a", 2, len(DATA)) is None
