"""Models and datasets after their upload: inspection, lists, waiting, deletion."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import inspect, select, update

from app.datasets import service as datasets
from app.datasets.tables import Dataset
from app.db import db_now, transaction
from app.events.tables import Event
from app.jobs.tables import Job, StepResult
from app.models import service as models
from app.models.schemas import ModelQuery
from app.models.tables import Model
from app.storage import get_storage
from tests.app.api.support import assert_problem
from tests.app.jobs.factories import STRUCTURE

FACTS: dict[str, Any] = {"opset": 18, "parameters": 3}


def upload(api: TestClient, content: bytes = b"abc", kind: str = "models", **data: str) -> dict[str, Any]:
    response = api.post(f"/v1/{kind}", files={"file": ("m.onnx", content)}, data=data)
    assert response.status_code == 201, response.text
    return dict(response.json())


def add_job(subject: str, dataset_ids: list[str]) -> str:
    with transaction() as session:
        session.add(
            Job(
                id="job_1", project_id="prj_default", kind="optimize", labels={}, status="succeeded", progress={},
                request={}, subject=subject, subject_digest="0" * 64, datasets=dataset_ids,
                queue="runtime.onnxruntime-cpu", pending_until=db_now(60),
            )
        )  # fmt: skip
    return "job_1"


def inspect_as_ready(model_id: str, tree: str | None = None) -> None:
    with transaction() as session:
        row = models.begin_inspection(session, model_id, 30)
        assert row is not None
        found = {"format": "onnx", "digest": tree or "0" * 64, "signature": {"inputs": [], "outputs": []}}
        assert models.finish_inspection(
            session, model_id, row.inspect_attempts, ready={**found, "facts": FACTS}
        )


def events_of(subject_id: str) -> list[dict[str, Any]]:
    with transaction(readonly=True) as session:
        query = select(Event.data).where(Event.subject_id == subject_id).order_by(Event.seq)
        return list(session.scalars(query))


def test_an_inspection_is_claimed_once_and_ends_once(api: TestClient) -> None:
    id_ = upload(api)["id"]
    with transaction() as session:
        first = models.begin_inspection(session, id_, 30)
        assert first is not None
        assert first.inspect_attempts == 1
    with transaction() as session:
        assert models.begin_inspection(session, id_, 30) is None
        session.execute(update(Model).values(lease_expires_at=db_now(-1)))
    with transaction() as session:
        second = models.begin_inspection(session, id_, 30)
        assert second is not None
        assert second.inspect_attempts == 2
    with transaction() as session:
        assert not models.finish_inspection(session, id_, 1, problem={"code": "invalid_model"})
    assert api.get(f"/v1/models/{id_}").json()["status"] == "inspecting"
    found = {"format": "onnx", "digest": "0" * 64, "signature": {"inputs": [], "outputs": []}, "facts": FACTS}
    with transaction() as session:
        assert models.finish_inspection(session, id_, 2, ready=found)
    with transaction() as session:
        assert not models.finish_inspection(session, id_, 2, ready=found)
        assert models.begin_inspection(session, id_, 30) is None
    body = api.get(f"/v1/models/{id_}").json()
    assert (body["status"], body["facts"], body["digest"]) == ("ready", FACTS, "0" * 64)
    assert [event["status"] for event in events_of(id_)] == [
        "inspecting",
        "inspecting",
        "inspecting",
        "ready",
    ]


def test_concurrent_claims_have_one_winner(api: TestClient) -> None:
    id_ = upload(api)["id"]
    barrier, won = threading.Barrier(8), []

    def claim() -> None:
        barrier.wait(20)
        with transaction() as session:
            if models.begin_inspection(session, id_, 30) is not None:
                won.append(1)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(won) == 1


def test_a_rejected_dataset_says_why(api: TestClient) -> None:
    id_ = upload(api, kind="datasets")["id"]
    problem = {"code": "invalid_dataset", "detail": "not a zip"}
    with transaction() as session:
        row = datasets.begin_inspection(session, id_, 30)
        assert row is not None
        assert datasets.finish_inspection(session, id_, row.inspect_attempts, problem=problem)
    body = api.get(f"/v1/datasets/{id_}").json()
    assert (body["status"], body["problem"], body["samples"]) == ("rejected", problem, None)


def test_an_inspection_ends_with_one_of_two(api: TestClient) -> None:
    id_ = upload(api)["id"]
    with transaction() as session, pytest.raises(ValueError, match="either"):
        models.finish_inspection(session, id_, 1)


def test_pages_neither_skip_nor_repeat(api: TestClient) -> None:
    ids = [upload(api, content=bytes([n]))["id"] for n in range(7)]
    with transaction() as session:  # equal times: the id decides
        session.execute(update(Model).where(Model.id.in_(ids[:4])).values(created_at=db_now()))
        now = session.scalars(select(db_now())).one()
        session.execute(update(Model).where(Model.id.in_(ids[:4])).values(created_at=now))
    seen: list[str] = []
    cursor = None
    while True:
        page = api.get("/v1/models", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += [item["id"] for item in page["items"]]
        if len(seen) == 3:
            upload(api, content=b"new")  # what is newer than the first page does not move the others
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(ids)
    assert seen[:4] == sorted(ids[:4], reverse=True)


def test_filters(api: TestClient) -> None:
    first, second = upload(api, name="a")["id"], upload(api, name="b")["id"]
    inspect_as_ready(second)

    def ids(**params: str) -> list[str]:
        return [item["id"] for item in api.get("/v1/models", params=params).json()["items"]]

    assert ids(status="ready") == [second]
    assert ids(status="inspecting") == [first]
    assert ids(name="a") == [first]
    assert ids(name="a", status="ready") == []


@pytest.mark.parametrize("limit", ["0", "201", "x"])
def test_page_limits(api_sqlite: TestClient, limit: str) -> None:
    assert_problem(api_sqlite.get("/v1/models", params={"limit": limit}), 422, "invalid_params")


@pytest.mark.parametrize("cursor", ["x", "bm90IGpzb24", "WzEsMl0", "W10", "%00", "WyIyMDI2LTAxLTAxIiwiYSJd"])
def test_foreign_cursors(api: TestClient, cursor: str) -> None:
    assert assert_problem(api.get(f"/v1/models?cursor={cursor}"), 422, "invalid_params")["param"] == "cursor"


def test_wait_ends_when_the_inspection_does(api: TestClient) -> None:
    id_ = upload(api)["id"]
    timer = threading.Timer(0.7, inspect_as_ready, [id_])
    started = time.monotonic()
    timer.start()
    body = api.get(f"/v1/models/{id_}?wait=30").json()
    waited = time.monotonic() - started
    timer.join()
    assert body["status"] == "ready"
    assert 0.5 < waited < 20


def test_wait_ends_with_its_time_and_at_once_when_there_is_nothing_to_wait_for(api: TestClient) -> None:
    id_ = upload(api)["id"]
    started = time.monotonic()
    assert api.get(f"/v1/models/{id_}?wait=0.6").json()["status"] == "inspecting"
    assert time.monotonic() - started >= 0.6
    inspect_as_ready(id_)
    started = time.monotonic()
    assert api.get(f"/v1/models/{id_}?wait=30").json()["status"] == "ready"
    assert time.monotonic() - started < 10
    assert_problem(api.get("/v1/models/mdl_none?wait=30"), 404, "not_found")
    for wait in ("-1", "x", "nan", "inf"):
        assert_problem(api.get(f"/v1/models/{id_}?wait={wait}"), 422, "invalid_params")


def test_layers_are_told_once_they_are_counted(api: TestClient) -> None:
    id_ = upload(api)["id"]
    waiting = api.get(f"/v1/models/{id_}/structure")
    assert_problem(waiting, 409, "conflict")
    assert "is inspecting" in waiting.json()["detail"]
    inspect_as_ready(id_)
    assert_problem(api.get(f"/v1/models/{id_}/structure"), 404, "not_found")
    with transaction() as session:
        session.execute(update(Model).values(structure=STRUCTURE))
    assert api.get(f"/v1/models/{id_}/structure").json() == STRUCTURE
    with transaction(readonly=True) as session:
        (row,) = models.list_models(
            session, "prj_default", ModelQuery(limit=50, cursor=None, status=None, name=None)
        )[0]
        assert "structure" in inspect(row).unloaded  # lists do not read it


def test_what_a_job_uses_stays(api: TestClient) -> None:
    model, dataset = upload(api)["id"], upload(api, kind="datasets")["id"]
    free = upload(api, kind="datasets")["id"]
    job = add_job(model, ["dat_other", dataset])
    for path in (f"/v1/models/{model}", f"/v1/datasets/{dataset}"):
        problem = assert_problem(api.delete(path), 409, "conflict")
        assert job in problem["detail"]
        assert problem["hint"]
    assert api.delete(f"/v1/datasets/{free}").status_code == 204
    with transaction(readonly=True) as session:
        assert session.get(Dataset, dataset) is not None


@pytest.fixture
def old_blobs() -> Callable[[], None]:
    """Makes every stored blob look as if it was stored long ago."""

    def age() -> None:
        for digest in get_storage().digests():
            os.utime(get_storage().path(digest), (0, 0))

    return age


def test_bytes_go_with_the_last_row_that_refers_to_them(
    api: TestClient, old_blobs: Callable[[], None]
) -> None:
    first, second = upload(api), upload(api)
    old_blobs()
    assert api.delete(f"/v1/models/{first['id']}").status_code == 204
    assert get_storage().exists(first["sha256"])
    assert api.delete(f"/v1/models/{second['id']}").status_code == 204
    assert not get_storage().exists(first["sha256"])
    assert events_of(first["id"]) == []
    assert_problem(api.delete(f"/v1/models/{first['id']}"), 404, "not_found")


def test_trees_and_their_files_go_too_unless_another_tree_has_them(
    api: TestClient, tmp_path: Path, old_blobs: Callable[[], None]
) -> None:
    def tree(name: str, **files: bytes) -> str:
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
        return get_storage().put_tree(tmp_path / name).digest

    model = upload(api, b"archive")
    inspect_as_ready(model["id"], tree("model", own=b"own", shared=b"shared"))
    kept = tree("step", shared=b"shared")
    with transaction() as session:
        session.add(
            StepResult(
                project_id="prj_default", key="k", name="simplify", digest=kept, size_bytes=6, facts={}, seconds=1.0
            )
        )  # fmt: skip
    old_blobs()
    assert api.delete(f"/v1/models/{model['id']}").status_code == 204
    left = set(get_storage().digests())
    assert left == {kept, get_storage().tree(kept)[0].digest}


def test_young_bytes_stay_for_the_collector(api: TestClient) -> None:
    """Somebody may have stored the same bytes and be about to write the row."""
    model = upload(api)
    assert api.delete(f"/v1/models/{model['id']}").status_code == 204
    assert get_storage().exists(model["sha256"])
    assert list(get_storage().incoming.iterdir()) == []
