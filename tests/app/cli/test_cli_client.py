"""The client beside services that fail, break off and come back."""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from app import client as client_module
from app import transport
from app.client import ApiProblem, Client, Unreachable
from app.downloads import DamagedDownload
from tests.app.cli.scripted_server import Answer, hang_up, say, scripted

JOB: dict[str, Any] = {"id": "job_1", "status": "running", "finished": False}
PROBLEM = {
    "type": "urn:x",
    "title": "No",
    "status": 422,
    "detail": "not so",
    "code": "invalid_params",
    "hint": "so",
}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (transport, client_module):
        monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(transport, "LONGEST_PAUSE_SECONDS", 0.05)


def reply(value: Any, status: int = 200) -> Answer:
    return say(status, json.dumps(value).encode())


def test_a_post_is_tried_again_under_the_same_key() -> None:
    with (
        scripted(hang_up, say(503, Retry_After="0"), reply(JOB, 202)) as script,
        Client(script.url, "key") as client,
    ):
        assert client.submit({"kind": "optimize"}) == JOB
        client.submit({"kind": "optimize"})
    keys = [request["headers"]["Idempotency-Key"] for request in script.requests]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert all(json.loads(request["body"]) == {"kind": "optimize"} for request in script.requests)
    assert script.requests[0]["headers"]["Authorization"] == "Bearer key"


def test_a_refusal_is_not_tried_again() -> None:
    answer = say(422, json.dumps(PROBLEM).encode(), Content_Type="application/problem+json")
    with scripted(answer) as script, Client(script.url, "key") as client, pytest.raises(ApiProblem) as caught:
        client.submit({})
    assert len(script.requests) == 1
    assert caught.value.refused
    assert caught.value.problem == PROBLEM
    assert caught.value.code == "invalid_params"


def test_a_strangers_error_page_is_a_problem_too() -> None:
    page = say(500, b"<html>Bad gateway</html>", Content_Type="text/html")
    with scripted(page) as script, Client(script.url, "key") as client, pytest.raises(ApiProblem) as caught:
        client.passes()
    assert not caught.value.refused
    assert "Bad gateway" in caught.value.problem["detail"]


def test_an_answer_that_is_no_object_is_a_problem() -> None:
    with (
        scripted(say(200, b"<html>")) as script,
        Client(script.url, "key") as client,
        pytest.raises(ApiProblem),
    ):
        client.show("jobs", "job_1")


def test_nobody_there() -> None:
    with Client("http://127.0.0.1:1", "key") as client, pytest.raises(Unreachable, match="does not answer"):
        client.workers()


def test_wait_outlives_a_restart_of_the_service() -> None:
    finished = {**JOB, "finished": True, "status": "succeeded"}
    answers = [reply(JOB), *[hang_up] * 6, say(503), reply({**JOB, "stage": "building"}), reply(finished)]
    seen: list[dict[str, Any]] = []
    with scripted(*answers) as script, Client(script.url, "key") as client:
        assert client.wait("job_1", seen.append) == finished
    assert [job.get("stage") for job in seen] == [None, "building", None]
    assert script.requests[0]["path"] == "/v1/jobs/job_1"
    assert all("wait=30" in request["path"] for request in script.requests[1:])


def test_wait_has_an_end_of_patience() -> None:
    with (
        scripted(reply(JOB), hang_up) as script,
        Client(script.url, "key", patience_seconds=0.3) as client,
        pytest.raises(Unreachable),
    ):
        client.wait("job_1")


def test_a_rejected_model_is_raised() -> None:
    model = {"id": "mdl_1", "status": "rejected", "problem": PROBLEM}
    with (
        scripted(reply({"id": "mdl_1", "status": "inspecting"}), reply(model)) as script,
        Client(script.url, "key") as client,
        pytest.raises(ApiProblem) as caught,
    ):
        client.wait_model("mdl_1")
    assert not caught.value.refused


def test_pages_are_followed_up_to_the_limit() -> None:
    first = {"items": [{"id": 1}, {"id": 2}], "next_cursor": "c1"}
    second = {"items": [{"id": 3}], "next_cursor": "c2"}
    with scripted(reply(first), reply(second)) as script, Client(script.url, "key") as client:
        assert [row["id"] for row in client.list("jobs", most=3, status="failed", label=None)] == [1, 2, 3]
    assert script.requests[0]["path"] == "/v1/jobs?status=failed&limit=3"
    assert script.requests[1]["path"] == "/v1/jobs?status=failed&limit=1&cursor=c1"


def test_an_upload_streams_and_starts_again(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "net.onnx").write_bytes(content)
    told: list[tuple[int, int]] = []
    answers = (say(503, Retry_After="0"), reply({"id": "mdl_1"}, 201))
    with scripted(*answers) as script, Client(script.url, "key") as client:
        client.upload_model(
            tmp_path / "net.onnx",
            name="net",
            signature=["a:float32:1", "b:int64:?"],
            progress=lambda done, total: told.append((done, total)),
        )
    first, second = script.requests
    assert content in first["body"]
    assert content in second["body"]
    assert second["body"].count(b'name="signature"') == 2
    assert b'filename="net.onnx"' in second["body"]
    assert first["headers"]["Idempotency-Key"] == second["headers"]["Idempotency-Key"]
    assert told[-1] == (300_000, 300_000)


def event(id_: int, type_: str, data: Any) -> bytes:
    return f"id: {id_}\nevent: {type_}\ndata: {json.dumps(data)}\n\n".encode()


def test_events_go_on_where_they_broke_off() -> None:
    half = event(1, "status", {"n": 1}) + event(2, "step", {"n": 2})
    stream = {"Content_Type": "text/event-stream"}
    answers = [
        say(200, b"retry: 1000\n\n" + half + b"id: 3\nda", length=10_000, **stream),
        reply(JOB),
        say(200, b": still here\n\n" + event(3, "status", {"n": 3}), **stream),
        reply({**JOB, "finished": True}),
        say(204, b"", **stream),
        reply({**JOB, "finished": True}),
    ]
    with scripted(*answers) as script, Client(script.url, "key") as client:
        assert [(one.id, one.type, one.data["n"]) for one in client.events("job_1")] == [
            ("1", "status", 1),
            ("2", "step", 2),
            ("3", "status", 3),
        ]
    streams = [
        one["headers"].get("Last-Event-ID") for one in script.requests if one["path"].endswith("events")
    ]
    assert streams == [None, "2", "3"]


CONTENT = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ARTIFACT = {"id": "art_1", "filename": "engine.zip", "sha256": DIGEST, "size_bytes": len(CONTENT)}


def content(body: bytes = CONTENT, status: int = 200, length: int | None = None, **headers: str) -> Answer:
    digest = base64.b64encode(bytes.fromhex(DIGEST)).decode()
    return say(status, body, length=length, ETag=f'"{DIGEST}"', Repr_Digest=f"sha-256=:{digest}:", **headers)


def test_a_download_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    size = len(CONTENT)
    broken = content(CONTENT[:100_000], length=size)
    rest = content(CONTENT[100_000:], 206, Content_Range=f"bytes 100000-{size - 1}/{size}")
    told: list[int] = []
    with scripted(reply(ARTIFACT), broken, rest) as script, Client(script.url, "key") as client:
        path = client.download("art_1", tmp_path, lambda done, total: told.append(done))
    assert path == tmp_path / "engine.zip"
    assert path.read_bytes() == CONTENT
    assert script.requests[2]["headers"]["Range"] == "bytes=100000-"
    assert script.requests[2]["headers"]["If-Range"] == f'"{DIGEST}"'
    assert told[-1] == size
    assert [entry.name for entry in tmp_path.iterdir()] == ["engine.zip"]


def test_a_service_without_ranges_sends_it_whole(tmp_path: Path) -> None:
    target = tmp_path / "engine.zip"
    target.with_name(f"engine.zip.{DIGEST[:12]}.part").write_bytes(b"older bytes")
    with scripted(reply(ARTIFACT), content()) as script, Client(script.url, "key") as client:
        client.download("art_1", target)
    assert target.read_bytes() == CONTENT


def test_a_download_from_elsewhere_is_asked_for_without_the_key(tmp_path: Path) -> None:
    size = len(CONTENT)
    broken = say(200, CONTENT[:100_000], length=size, ETag='"of the other host"')
    over = say(403, b"<Error><Code>AccessDenied</Code></Error>")
    rest = say(206, CONTENT[100_000:], Content_Range=f"bytes 100000-{size - 1}/{size}")
    with scripted(broken, over, rest) as other:
        link = say(307, b"", Location=f"{other.url}/bucket/key?X-Amz-Signature=0")
        with scripted(reply(ARTIFACT), link) as script, Client(script.url, "key") as client:
            path = client.download("art_1", tmp_path)
    assert path.read_bytes() == CONTENT
    assert [request["headers"].get("Range") for request in other.requests] == [
        None,
        "bytes=100000-",
        "bytes=100000-",
    ]
    assert {request["path"] for request in other.requests} == {"/bucket/key?X-Amz-Signature=0"}
    for request in other.requests:
        assert not {"Authorization", "Cookie", "If-Range"} & request["headers"].keys()
    assert {request["headers"]["Authorization"] for request in script.requests} == {"Bearer key"}


@pytest.mark.parametrize(
    "answer",
    [
        content(CONTENT[:-1] + b"x"),
        say(200, CONTENT, ETag='"0000"'),
        content(CONTENT, 206, Content_Range="bytes 5-9/9"),
    ],
    ids=["wrong bytes", "wrong promise", "wrong range"],
)
def test_damage_leaves_no_file(answer: Answer, tmp_path: Path) -> None:
    with (
        scripted(reply(ARTIFACT), answer) as script,
        Client(script.url, "key") as client,
        pytest.raises(DamagedDownload),
    ):
        client.download("art_1", tmp_path / "engine.zip")
    assert list(tmp_path.iterdir()) == []


def refusal(code: str, **headers: str) -> Answer:
    said = {**PROBLEM, "status": 429, "code": code}
    return say(429, json.dumps(said).encode(), Content_Type="application/problem+json", **headers)


def test_a_key_that_used_up_its_requests_comes_again_when_it_is_told() -> None:
    limited = [refusal("rate_limited", Retry_After="0") for _ in range(transport.ATTEMPTS + 2)]
    with scripted(*limited, reply(JOB)) as script, Client(script.url, "key") as client:
        assert client.show("jobs", "job_1") == JOB
    assert len(script.requests) == transport.ATTEMPTS + 3


def test_patience_with_a_limit_ends() -> None:
    limited = refusal("rate_limited", Retry_After="0")
    with (
        scripted(limited) as script,
        Client(script.url, "key", patience_seconds=0) as client,
        pytest.raises(ApiProblem) as caught,
    ):
        client.show("jobs", "job_1")
    assert caught.value.code == "rate_limited"
    assert len(script.requests) == transport.ATTEMPTS


def test_a_quota_that_is_used_up_is_told_at_once() -> None:
    with (
        scripted(refusal("quota_exceeded")) as script,
        Client(script.url, "key") as client,
        pytest.raises(ApiProblem) as caught,
    ):
        client.submit({})
    assert caught.value.refused
    assert len(script.requests) == 1
