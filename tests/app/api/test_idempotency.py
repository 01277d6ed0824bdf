"""The same POST twice creates once."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from app.auth.tables import IdempotencyKey, Project
from app.config import Settings
from app.db import db_now, transaction
from app.http.idempotency import Created, Idempotency
from app.http.schemas import AnswerSchema
from app.ids import new_id
from tests.app.api.support import Server, assert_problem, bearer, make_key, make_project

KEY = {"Idempotency-Key": "once"}


def test_replay_answers_the_same(api: TestClient) -> None:
    first = api.post("/v1/projects", json={"name": "one"}, headers=KEY)
    again = api.post("/v1/projects", json={"name": "one"}, headers=KEY)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert first.headers["location"] == again.headers["location"]


def test_another_request_with_the_same_key_is_refused(api: TestClient) -> None:
    api.post("/v1/projects", json={"name": "one"}, headers=KEY)
    for response in (
        api.post("/v1/projects", json={"name": "two"}, headers=KEY),
        api.post("/v1/models", files={"file": ("m", b"abc")}, headers=KEY),
    ):
        assert assert_problem(response, 422, "invalid_params")["param"] == "Idempotency-Key"


def test_a_failed_request_may_be_sent_again(api: TestClient) -> None:
    api.post("/v1/projects", json={"name": "one"})
    assert_problem(api.post("/v1/projects", json={"name": "one"}, headers=KEY), 409, "conflict")
    assert api.post("/v1/projects", json={"name": "two"}, headers=KEY).status_code == 201


def test_uploads_compare_bytes_name_and_fields(api: TestClient) -> None:
    def send(content: bytes, **data: str) -> object:
        return api.post("/v1/models", files={"file": ("m", content)}, data=data, headers=KEY)

    first = send(b"abc", name="n")
    assert send(b"abc", name="n").json() == first.json()  # type: ignore[attr-defined]
    assert_problem(send(b"abd", name="n"), 422, "invalid_params")
    assert_problem(send(b"abc", name="other"), 422, "invalid_params")
    assert len(api.get("/v1/models").json()["items"]) == 1


def test_keys_belong_to_projects(api: TestClient) -> None:
    other = bearer(make_key("write", project=make_project("other")))
    mine = api.post("/v1/models", files={"file": ("m", b"abc")}, headers=KEY).json()
    theirs = api.post("/v1/models", files={"file": ("m", b"abc")}, headers=KEY | other)
    assert theirs.status_code == 201
    assert theirs.json()["id"] != mine["id"]


def test_expired_records_are_forgotten(api: TestClient, burnish: Settings) -> None:
    for key in ("once", "other"):
        first = api.post("/v1/models", files={"file": ("m", b"abc")}, headers={"Idempotency-Key": key}).json()
    with transaction() as session:
        long_ago = db_now(-burnish.idempotency_hours * 3600 - 1)
        session.execute(update(IdempotencyKey).values(created_at=long_ago))
    again = api.post("/v1/models", files={"file": ("m", b"abc")}, headers=KEY)
    assert "idempotency-replayed" not in again.headers
    assert again.json()["id"] != first["id"]
    with transaction(readonly=True) as session:
        assert session.scalar(select(func.count()).select_from(IdempotencyKey)) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "caf\u00e9"])
def test_unusable_keys(api_sqlite: TestClient, key: str) -> None:
    response = api_sqlite.post(
        "/v1/projects", json={"name": "one"}, headers={"Idempotency-Key": key.encode("latin-1")}
    )
    assert_problem(response, 422, "invalid_params")


def test_concurrent_duplicates_create_once(server: Server) -> None:
    count = 12
    barrier = threading.Barrier(count)

    def send(_: int) -> tuple[str, str | None]:
        barrier.wait(20)
        response = server.client.post("/v1/models", files={"file": ("m", b"abc")}, headers=KEY)
        assert response.status_code == 201, response.text
        return response.json()["id"], response.headers.get("idempotency-replayed")

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(send, range(count)))
    assert len({id_ for id_, _ in answers}) == 1
    assert [replayed for _, replayed in answers].count(None) == 1
    assert len(server.client.get("/v1/models").json()["items"]) == 1


class _Answer(AnswerSchema):
    id: str


def test_the_second_waits_for_the_first_to_commit_or_roll_back(burnish: Settings) -> None:
    entered, leave = threading.Event(), threading.Event()
    idempotency = Idempotency("once", "POST /v1/things")

    def answer(fail: bool, slow: bool) -> dict[str, str] | None:
        def create() -> Created:
            if slow:
                entered.set()
                assert leave.wait(20)
            project = Project(id=new_id("prj"), name=new_id("name"))
            session.add(project)
            session.flush()
            if fail:
                raise ValueError("rolled back")
            return Created(_Answer(id=project.id), f"/v1/things/{project.id}")

        try:
            with transaction() as session:
                response = idempotency.answer(session, "prj_default", {"a": 1}, create)
        except ValueError:
            return None
        return {
            **json.loads(bytes(response.body)),
            "replayed": response.headers.get("idempotency-replayed", ""),
        }

    def race(fail: bool) -> tuple[dict[str, str] | None, dict[str, str] | None]:
        entered.clear()
        leave.clear()
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(answer, fail, True)
            assert entered.wait(20)
            second = pool.submit(answer, False, False)
            with pytest.raises(TimeoutError):
                second.result(0.5)
            leave.set()
            return first.result(30), second.result(30)

    first, second = race(fail=True)
    assert first is None
    assert second is not None
    assert second["replayed"] == ""
    with transaction() as session:
        session.execute(
            update(IdempotencyKey).values(created_at=db_now(-burnish.idempotency_hours * 3600 - 1))
        )
    first, second = race(fail=False)
    assert first is not None
    assert second is not None
    assert (first["id"], second["replayed"]) == (second["id"], "true")
