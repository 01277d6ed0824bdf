"""Downloads as RFC 9110 and RFC 9530 have them; ranges and names by themselves, then over HTTP."""

import base64
import hashlib
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from app.artifacts.content import disposition, parse_range
from app.errors import RangeNotSatisfiable
from app.storage import get_storage
from tests.app.api.support import Server, assert_problem
from tests.app.jobs.factories import RUNTIME, make_artifact, make_model, offer, optimize

DATA = bytes(range(256)) * 20


def make(api: TestClient, data: bytes = DATA, **columns: str) -> str:
    offer(RUNTIME)
    job = api.post("/v1/jobs", json=optimize(make_model())).json()["id"]
    return make_artifact(job, data, **columns)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-5", (2, 6)),
        ("bytes=2-", (2, 10)),
        ("bytes=2-500", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("BYTES= 1-2 ", (1, 3)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=0-1,3-4", None),
        ("pages=1-2", None),
        ("bytes=1", None),
        ("bytes=" + "9" * 5000 + "-", None),
    ],
)
def test_what_a_range_header_asks_for(header: str | None, wanted: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == wanted


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-5", 0)]
)
def test_ranges_that_begin_behind_the_end(header: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        parse_range(header, size)
    assert caught.value.headers == {"Content-Range": f"bytes */{size}"}


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_a_range_is_what_slicing_gives(size: int, first: int, last: int) -> None:
    data = bytes(range(size))
    if first <= last and first < size:
        start, end = parse_range(f"bytes={first}-{last}", size) or (0, 0)
        assert data[start:end] == data[first : last + 1]


@given(st.text(min_size=1, max_size=80).filter(lambda text: text.isprintable()))
def test_any_file_name_comes_through(name: str) -> None:
    value = disposition(name)
    value.encode("latin-1")
    match = re.fullmatch(r"attachment; filename=\"([A-Za-z0-9._-]+)\"; filename\*=UTF-8''(\S+)", value)
    assert match is not None
    assert unquote(match[2]) == name


def test_the_whole_file_and_what_is_said_of_it(api: TestClient) -> None:
    artifact = make(api, filename="größe 1.zip")
    answer = api.get(f"/v1/artifacts/{artifact}/content")
    digest = hashlib.sha256(DATA)
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["etag"] == f'"{digest.hexdigest()}"'
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert answer.headers["content-length"] == str(len(DATA))
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].endswith("filename*=UTF-8''gr%C3%B6%C3%9Fe%201.zip")
    head = api.head(f"/v1/artifacts/{artifact}/content", headers={"Range": "bytes=0-1"})
    assert (head.status_code, head.content) == (200, b"")
    same = {"content-length", "etag", "repr-digest", "content-disposition", "content-type"}
    assert {name: head.headers[name] for name in same} == {name: answer.headers[name] for name in same}


def test_parts_put_together_are_the_file(api: TestClient) -> None:
    path = f"/v1/artifacts/{make(api)}/content"
    parts = []
    for start in range(0, len(DATA), 1000):
        answer = api.get(path, headers={"Range": f"bytes={start}-{start + 999}"})
        end = min(start + 1000, len(DATA))
        assert answer.status_code == 206
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
        assert answer.headers["content-length"] == str(end - start)
        parts.append(answer.content)
    assert b"".join(parts) == DATA


def test_ranges_that_cannot_be_given(api: TestClient) -> None:
    path = f"/v1/artifacts/{make(api)}/content"
    answer = api.get(path, headers={"Range": f"bytes={len(DATA)}-"})
    assert_problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(DATA)}"
    several = api.get(path, headers={"Range": "bytes=0-1,5-6"})
    assert (several.status_code, several.content) == (200, DATA)


def test_validators(api: TestClient) -> None:
    path = f"/v1/artifacts/{make(api)}/content"
    etag = api.get(path).headers["etag"]
    for value in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = api.get(path, headers={"If-None-Match": value})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == etag
    assert api.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    part = {"Range": "bytes=0-9"}
    assert api.get(path, headers={**part, "If-Range": etag}).content == DATA[:10]
    for stale in ('"other"', f"W/{etag}", "Wed, 25 Nov 2026 00:00:00 GMT"):
        answer = api.get(path, headers={**part, "If-Range": stale})
        assert (answer.status_code, answer.content) == (200, DATA)


def test_lineage_filters_and_deletion(api: TestClient) -> None:
    artifact = make(api)
    told = api.get(f"/v1/artifacts/{artifact}").json()
    assert told["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert told["size_bytes"] == len(DATA)
    job = api.get(f"/v1/jobs/{told['job']}").json()
    assert [(source["role"], source["id"]) for source in told["inputs"]] == [("subject", job["subject"])]
    assert told["content_url"].endswith(f"/v1/artifacts/{artifact}/content")
    assert api.get(f"/v1/artifacts?job={told['job']}&kind=engine").json()["items"] == [told]
    assert api.get(f"/v1/artifacts?job={told['job']}&kind=report").json()["items"] == []
    assert api.delete(f"/v1/artifacts/{artifact}").status_code == 204
    assert_problem(api.get(f"/v1/artifacts/{artifact}"), 404, "not_found")


def test_bytes_that_are_gone_are_a_clear_error(api: TestClient) -> None:
    artifact = make(api)
    digest = api.get(f"/v1/artifacts/{artifact}").json()["sha256"]
    get_storage().delete(digest)
    problem = assert_problem(api.get(f"/v1/artifacts/{artifact}/content"), 404, "not_found")
    assert "gone" in problem["detail"]


def test_a_large_file_over_a_socket(server: Server, tmp_path: Path) -> None:
    data = hashlib.sha256(b"seed").digest() * 400_000  # 12.8 MB
    offer(RUNTIME)
    job = server.client.post("/v1/jobs", json=optimize(make_model())).json()["id"]
    path = f"/v1/artifacts/{make_artifact(job, data)}/content"
    seen = hashlib.sha256()
    with server.client.stream("GET", path) as answer:
        for chunk in answer.iter_bytes():
            seen.update(chunk)
    assert seen.hexdigest() == hashlib.sha256(data).hexdigest()
    head = server.client.head(path)
    assert (head.headers["content-length"], head.content) == (str(len(data)), b"")
    tail = server.client.get(path, headers={"Range": "bytes=-100"})
    assert (tail.status_code, tail.content) == (206, data[-100:])
