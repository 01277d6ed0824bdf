"""Production mode: PostgreSQL and Redis by URL, two API processes, two workers that share the store."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from app.client import Client
from demo import digits
from tests.conftest import empty_postgres
from tests.e2e.service import Service, run_alone
from tests.services import free_port

BURNISH = (sys.executable, "-P", "-m", "app.cli")


@contextmanager
def running(
    environment: dict[str, str], *arguments: str, before_it: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A `burnish` command, with `before_it` before it, until it is told to end, which it must obey cleanly."""
    process = subprocess.Popen([*before_it, *BURNISH, *arguments], env=environment)
    try:
        yield process
        process.terminate()
        assert process.wait(60) in (0, -signal.SIGTERM)  # uvicorn hands the signal on when it is done
    finally:
        process.kill()
        process.wait()


def until(done: Callable[[], bool], seconds: float = 90) -> None:
    """Wait for something that comes soon."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def is_ready(port: int, host: str = "127.0.0.1") -> bool:
    """Whether an API process serves, its database, broker and store included."""
    try:
        return httpx.get(f"http://{host}:{port}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def first_key(environment: dict[str, str]) -> str:
    """A key of an installation whose database is set up by this."""
    subprocess.run([*BURNISH, "migrate"], env=environment, check=True, timeout=60)
    made = subprocess.run(
        [*BURNISH, "keys", "create", "--name", "test", "--scope", "write", "--json"],
        env=environment, check=True, timeout=60, capture_output=True,
    )  # fmt: skip
    return str(json.loads(made.stdout)["secret"])


@pytest.fixture
def environment(postgres_url: str, redis_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of an installation whose database is empty."""
    with empty_postgres(postgres_url) as database_url:
        yield {
            **os.environ,
            "BURNISH_DATA_DIR": str(tmp_path / "data"),
            "BURNISH_DATABASE_URL": database_url,
            "BURNISH_REDIS_URL": redis_url,
        }


def test_jobs_are_shared_by_several_processes(environment: dict[str, str], tmp_path: Path) -> None:
    key = first_key(environment)
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(running(environment, "serve", "--port", str(port)))
        for _ in range(2):
            stack.enter_context(running(environment, "worker"))
        first, second = (
            stack.enter_context(Client(f"http://127.0.0.1:{port}", key, patience_seconds=60))
            for port in ports
        )
        until(lambda: all(is_ready(port) for port in ports))
        until(lambda: len(second.workers()) == 2)

        split = digits.load()
        path = tmp_path / "digits.onnx"
        digits.export(digits.train(split, epochs=1), path)
        model = Service(first, tmp_path).model(path)
        body = {"kind": "optimize", "subject": model, "targets": ["onnxruntime-cpu"]}
        jobs = [
            first.submit({**body, "recipe": {"schema": 1, "passes": [{"pass": name}]}})
            for name in ("simplify", "to-fp16")
        ]
        ended = [second.wait(job["id"]) for job in jobs]
        assert [job["status"] for job in ended] == ["succeeded", "succeeded"], ended
        assert [job["attempt"] for job in ended] == [1, 1]
        assert run_alone(Service(second, tmp_path).bundle(ended[0]))["ok"]
