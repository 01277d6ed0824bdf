"""The API over a bucket: downloads through the service or by a signed address, uploads in parts, and what `burnish gc` leaves."""

import base64
import hashlib

import httpx
import pytest
from fastapi.testclient import TestClient

from app.config import get_settings
from app.retention.service import collect
from app.storage import get_storage
from app.storage.bucket import MIB
from app.storage.s3 import S3Storage
from tests.app.api.conftest import api_sqlite
from tests.app.api.support import assert_problem
from tests.app.jobs.factories import RUNTIME, make_artifact, make_model, offer, optimize
from tests.app.storage.conftest import leftovers
from tests.services import free_port

__all__ = ["api_sqlite"]

DATA = bytes(range(256)) * 20


@pytest.fixture
def api(s3: str, api_sqlite: TestClient) -> TestClient:
    return api_sqlite


@pytest.fixture
def signing(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_STORAGE_PRESIGNED_DOWNLOADS", "true")


def content_of(api: TestClient) -> str:
    offer(RUNTIME)
    job = api.post("/v1/jobs", json=optimize(make_model())).json()["id"]
    return f"/v1/artifacts/{make_artifact(job, DATA, filename='größe 1.zip')}/content"


def test_the_service_streams_whole_files_and_ranges(api: TestClient) -> None:
    path = content_of(api)
    answer = api.get(path)
    digest = hashlib.sha256(DATA)
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["etag"] == f'"{digest.hexdigest()}"'
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    part = api.get(path, headers={"Range": "bytes=10-19", "If-Range": answer.headers["etag"]})
    assert (part.status_code, part.content) == (206, DATA[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(DATA)}"
    assert api.get(path, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert_problem(api.get(path, headers={"Range": f"bytes={len(DATA)}-"}), 416, "range_not_satisfiable")
    get_storage().delete(digest.hexdigest())
    assert_problem(api.get(path), 404, "not_found")


def test_the_bucket_is_asked_whether_the_service_is_ready(
    api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.get("/readyz").json()["storage"] == {"ok": True, "problem": None}
    monkeypatch.setenv("BURNISH_S3_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    get_settings.cache_clear()
    get_storage.cache_clear()
    answer = api.get("/readyz")
    assert (answer.status_code, answer.json()["storage"]) == (503, {"ok": False, "problem": "Unavailable"})
    assert answer.json()["database"]["ok"]


def test_a_signed_address_gives_the_file_under_its_name(signing: None, api: TestClient) -> None:
    path = content_of(api)
    answer = api.get(path, follow_redirects=False)
    assert (answer.status_code, answer.content) == (307, b"")
    assert answer.headers["cache-control"] == "private, no-store"
    link = answer.headers["location"]
    assert "a secret of the tests" not in link
    with httpx.Client(trust_env=False) as stranger:
        whole = stranger.get(link)
        assert (whole.status_code, whole.content) == (200, DATA)
        assert whole.headers["content-type"] == "application/zip"
        assert whole.headers["content-disposition"].endswith("filename*=UTF-8''gr%C3%B6%C3%9Fe%201.zip")
        part = stranger.get(link, headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, DATA[10:20])
    head = api.head(path)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(DATA)))
    known = api.get(path, headers={"If-None-Match": head.headers["etag"]}, follow_redirects=False)
    assert known.status_code == 304


def test_links_lead_to_the_address_that_clients_know(
    s3: str, signing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_S3_PUBLIC_ENDPOINT", "https://files.example.com")
    monkeypatch.setenv("BURNISH_S3_ADDRESSING", "path")
    get_settings.cache_clear()
    get_storage.cache_clear()
    link = get_storage().link(get_storage().put([b"x"]).digest, "application/zip", "attachment") or ""
    assert link.startswith(f"https://files.example.com/{s3}/a/prefix/blobs/")


def test_an_upload_in_parts_becomes_a_model(api: TestClient) -> None:
    storage = get_storage()
    assert isinstance(storage, S3Storage)
    storage.bucket.part_bytes = 5 * MIB
    data = DATA * 2500  # 12.8 MB
    announced = {"name": "net.onnx", "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    upload = api.post("/v1/uploads", json=announced).json()["id"]
    for start, end in ((0, 1_000_000), (1_000_000, 7_000_000), (7_000_000, len(data))):
        sent = api.patch(
            f"/v1/uploads/{upload}",
            content=data[start:end],
            headers={"Upload-Offset": str(start), "Content-Type": "application/partial-upload"},
        )
        assert (sent.status_code, sent.headers["upload-offset"]) == (204, str(end))
        assert api.head(f"/v1/uploads/{upload}").headers["upload-offset"] == str(end)
    model = api.post("/v1/models", json={"upload": upload}).json()
    assert (model["sha256"], model["size_bytes"]) == (announced["sha256"], len(data))
    assert b"".join(storage.open(model["sha256"])) == data
    assert leftovers(storage) == []


def test_what_nothing_refers_to_is_collected(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    content_of(api)
    storage = get_storage()
    kept = set(storage.digests())
    orphan = storage.put([b"an orphan"])
    writer = storage.partial("upl_orphan").append(0)
    writer.write(b"orphaned bytes")
    writer.close()
    assert collect().files == 0  # the young stay
    monkeypatch.setenv("BURNISH_GC_GRACE_SECONDS", "0")
    get_settings.cache_clear()
    report = collect()
    assert (report.files, report.size_bytes) == (2, orphan.size_bytes + len(b"orphaned bytes"))
    assert set(storage.digests()) == kept
    assert list(storage.partials()) == []
