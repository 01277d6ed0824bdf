"""The API over HTTP: in this process without a socket (`api`), and by a real uvicorn on one (`server`)."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.main import create_app
from app.serve import make_server
from tests.app.api.support import Server, bearer, make_key


@pytest.fixture
def api(burnish: Settings) -> Iterator[TestClient]:
    """A client with an admin key, on both databases in turn."""
    with TestClient(create_app(), headers=bearer(make_key("admin"))) as client:
        yield client


@pytest.fixture
def api_sqlite(burnish_sqlite: Settings) -> Iterator[TestClient]:
    """The same on SQLite alone, where the database is not what is tested."""
    with TestClient(create_app(), headers=bearer(make_key("admin"))) as client:
        yield client


@pytest.fixture
def server(burnish: Settings) -> Iterator[Server]:
    with served() as server:
        yield server


@contextmanager
def served() -> Iterator[Server]:
    """This process's installation, served by uvicorn on a socket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uvicorn_server = make_server("127.0.0.1", port)
    thread = threading.Thread(target=uvicorn_server.run)

    def stop() -> None:
        uvicorn_server.should_exit = True
        thread.join(30)

    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not uvicorn_server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        key = make_key("admin")
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=bearer(key), timeout=60, trust_env=False
        ) as client:
            yield Server("127.0.0.1", port, key, client, stop)
    finally:
        stop()
    assert not thread.is_alive()
