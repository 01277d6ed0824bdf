"""Lists: filters, pages, and a number of statements that does not grow with the rows."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi.testclient import TestClient
from sqlalchemy import event

from app.db import get_engine
from tests.app.api.support import assert_problem
from tests.app.jobs.factories import RUNTIME, claim, finish, make_artifact, make_model, offer, optimize


@contextmanager
def statements() -> Iterator[list[str]]:
    """What this process asks the database meanwhile."""
    seen: list[str] = []

    def note(connection, cursor, statement, *rest) -> None:  # type: ignore[no-untyped-def]
        seen.append(statement)

    event.listen(get_engine(), "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(get_engine(), "before_cursor_execute", note)


def submit(api: TestClient, subject: str, **fields: object) -> str:
    answer = api.post("/v1/jobs", json=optimize(subject, **fields))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def ids(api: TestClient, query: str) -> list[str]:
    answer = api.get(f"/v1/jobs?{query}")
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def test_filters(api: TestClient) -> None:
    offer(RUNTIME)
    one, other = make_model(), make_model()
    a = submit(api, one, labels={"team": "vision", "app.io/run": "a=b"})
    b = submit(api, one, labels={"team": "speech"})
    c = submit(api, other)
    attempt = claim(c)
    assert attempt is not None
    assert finish(c, attempt)
    assert ids(api, "") == [c, b, a]
    assert ids(api, "status=queued") == [b, a]
    assert ids(api, "status=succeeded&kind=optimize") == [c]
    assert ids(api, f"subject={one}") == [b, a]
    assert ids(api, "label=team%3Dvision") == [a]
    assert ids(api, "label=team%3Dvision&label=app.io/run%3Da%3Db") == [a]
    assert ids(api, "label=team%3Dvision&label=team%3Dspeech") == []
    assert ids(api, "label=nobody%3Dx") == []
    for query in ("status=paused", "label=team", "kind=train", "state=queued"):
        assert_problem(api.get(f"/v1/jobs?{query}"), 422, "invalid_params")


def test_pages_are_whole_and_flat(api: TestClient) -> None:
    offer(RUNTIME)
    model = make_model()
    made = [submit(api, model) for _ in range(7)]
    for job_id in made:
        make_artifact(job_id, data=job_id.encode())
    for path in ("/v1/jobs", "/v1/artifacts"):
        found, cursor, counts = [], "", []
        while True:
            with statements() as seen:
                page = api.get(f"{path}?limit=3{cursor}").json()
            counts.append(len(seen))
            found += [item.get("job", item["id"]) for item in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert found == made[::-1]
        with statements() as seen:
            api.get(f"{path}?limit=200")
        assert {len(seen), *counts} == {len(seen)}
