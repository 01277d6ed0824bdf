"""Requests are counted a key, in the Redis that all API processes share; where it is away, requests pass."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from sqlalchemy import update

from app.auth.tables import DEFAULT_PROJECT, Project
from app.config import Settings
from app.db import transaction
from app.http.rates import Rates, get_rates
from app.main import create_app
from tests.app.api.support import assert_problem, bearer, make_key, make_project
from tests.services import running_redis


@pytest.fixture
def api(burnish_sqlite: Settings) -> Iterator[TestClient]:
    """A client without a key."""
    with TestClient(create_app()) as client:
        yield client


def limit(per_minute: int | None, project: str = DEFAULT_PROJECT) -> None:
    with transaction() as session:
        session.execute(
            update(Project).where(Project.id == project).values(max_requests_per_minute=per_minute)
        )


def test_without_a_limit_nothing_is_counted(api: TestClient) -> None:
    answer = api.get("/v1/models", headers=bearer(make_key("read")))
    assert "ratelimit" not in answer.headers
    assert get_rates.cache_info().currsize == 0  # nobody even asked for a connection


def test_a_key_has_its_requests_and_no_more(api: TestClient) -> None:
    limit(5)
    key, other = bearer(make_key("read")), bearer(make_key("read"))
    answers = [api.get("/v1/models", headers=key) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert [answer.headers["ratelimit-policy"] for answer in answers] == ['"key";q=5;w=60'] * 5
    assert re.fullmatch(r'"key";r=4;t=\d+', answers[0].headers["ratelimit"])
    assert answers[4].headers["ratelimit"].startswith('"key";r=0;')
    refused = api.get("/v1/models", headers=key)
    problem = assert_problem(refused, 429, "rate_limited")
    assert problem["retryable"]
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert refused.headers["ratelimit"].startswith('"key";r=0;')
    assert api.get("/v1/models", headers=other).status_code == 200  # each key has its own
    assert api.get("/healthz", headers=key).status_code == 200
    limit(None)
    assert api.get("/v1/models", headers=key).status_code == 200


def test_the_installations_limit_holds_where_a_project_has_none(
    api: TestClient, burnish_sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burnish_sqlite, "key_max_requests_per_minute", 1)
    free = make_project("free")
    limit(0, free)
    for key, status in ((make_key("read"), 429), (make_key("read", project=free), 200)):
        assert api.get("/v1/models", headers=bearer(key)).status_code == 200
        assert api.get("/v1/models", headers=bearer(key)).status_code == status


def test_answers_that_are_no_json_carry_the_fields_too(api: TestClient) -> None:
    limit(5)
    key = bearer(make_key("admin"))
    for path in ("/openapi.json", "/metrics", "/v1/artifacts/art_none/content"):
        assert '"key"' in api.get(path, headers=key).headers["ratelimit"], path


def test_processes_count_together(burnish_sqlite: Settings) -> None:
    url = burnish_sqlite.redis_url
    with closing(Rates(url)) as here, closing(Rates(url)) as there:
        assert here.admit_key("key_a", 2)["RateLimit"].startswith('"key";r=1;')
        assert there.admit_key("key_a", 2)["RateLimit"].startswith('"key";r=0;')
        for rates in (here, there):
            with pytest.raises(Exception, match="used up"):
                rates.admit_key("key_a", 2)


def test_wrong_keys_end_an_addresss_patience(
    api: TestClient, burnish_sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burnish_sqlite, "address_max_wrong_keys_per_minute", 3)
    right = bearer(make_key("read"))
    tries = [api.get("/v1/models", headers=bearer(f"brn_guess_{number}")) for number in range(4)]
    assert [answer.status_code for answer in tries] == [401, 401, 401, 429]
    assert int(tries[3].headers["retry-after"]) >= 1
    guessed = api.get("/v1/models", headers=right)  # or else a right guess would tell itself from a wrong one
    assert_problem(guessed, 429, "rate_limited")
    assert api.get("/healthz").status_code == 200


def test_right_keys_are_no_tries(
    api: TestClient, burnish_sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burnish_sqlite, "address_max_wrong_keys_per_minute", 1)
    right = bearer(make_key("read"))
    for _ in range(5):
        assert api.get("/v1/models", headers=right).status_code == 200


def test_without_redis_requests_pass_and_nobody_waits() -> None:
    with socket.socket() as listener:  # takes connections and never answers: worse than refusing them
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with closing(Rates(f"redis://127.0.0.1:{listener.getsockname()[1]}/0")) as rates:
            begun = time.monotonic()
            assert [rates.admit_key("key_a", 1) for _ in range(1000)] == [{}] * 1000
            assert time.monotonic() - begun < 60  # one wait of a quarter of a second, and not a thousand
    with running_redis() as url:
        rates = Rates(url)
        assert rates.admit_key("key_a", 1)
    with closing(rates):
        assert rates.admit_key("key_a", 1) == {}  # it went away in between


def test_redis_that_is_back_counts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.http.rates.AWAY_SECONDS", 0.0)
    with running_redis() as url:
        own = int(url.rpartition(":")[2].partition("/")[0])
        rates = Rates(url)
        assert rates.admit_key("key_a", 9)
    assert rates.admit_key("key_a", 9) == {}
    with running_redis(own), closing(rates):
        assert rates.admit_key("key_a", 9)


@pytest.mark.parametrize(
    "url", ["redis://host", "rediss://:s%40cret@host:6380/1", "redis+socket:///run/redis.sock"]
)
def test_brokers_that_a_setting_may_name(url: str) -> None:
    assert Settings(redis_url=url).redis_url == url
    Rates(url)  # it connects with the first count


@pytest.mark.parametrize("url", ["", "host:6379", "amqp://host", "unix:///run/redis.sock", "sentinel://host"])
def test_brokers_that_cannot_count_are_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValidationError, match="redis_url"):
        Settings(redis_url=url)
