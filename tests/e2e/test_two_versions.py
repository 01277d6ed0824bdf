"""The version before the third migration beside today's, on one database, broker and store: an upgrade without a stop."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from app.client import Client
from demo import digits
from tests.conftest import empty_postgres
from tests.e2e.service import Service, run_alone
from tests.e2e.test_production import is_ready, until
from tests.services import free_port

ROOT = Path(__file__).resolve().parents[2]
BEFORE = "32f4ded1db5d425ff4654509ad218a919c624830"  # the last commit that knows two migrations
TODAY = sys.executable
SIMPLIFY = {"recipe": {"schema": 1, "passes": [{"pass": "simplify"}]}}


@pytest.fixture
def before(tmp_path: Path) -> str:
    """A Python that runs the version before, with today's packages: children start it too, whatever their environment."""
    archive = subprocess.run(
        ["git", "archive", BEFORE, "app", "workers", "migrations"], cwd=ROOT, capture_output=True
    )
    if archive.returncode != 0:
        pytest.skip("the history does not reach back to the version before")
    code = tmp_path / "before"
    code.mkdir()
    subprocess.run(["tar", "--extract", "--directory", str(code)], input=archive.stdout, check=True)
    venv.create(tmp_path / "venv", with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")})
    Path(paths["purelib"], "before.pth").write_text(f"{code}\n{sysconfig.get_paths()['purelib']}\n")
    python = str(tmp_path / "venv" / "bin" / "python")
    found = subprocess.run(
        [python, "-P", "-c", "import app.db; print(app.db.__file__)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert found.startswith(str(code))
    return python


@pytest.fixture
def environment(postgres_url: str, redis_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of an installation whose database is empty."""
    with empty_postgres(postgres_url) as database_url:
        yield {
            **os.environ,
            "BURNISH_DATA_DIR": str(tmp_path / "data"),
            "BURNISH_DATABASE_URL": database_url,
            "BURNISH_REDIS_URL": redis_url,
            "BURNISH_RESEND_SECONDS": "3",
            "BURNISH_SWEEP_SECONDS": "1",
            "PYTHONSAFEPATH": "1",  # the folder that this test runs in holds today's code
        }


@contextmanager
def running(python: str, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `burnish` command of a version until it is told to end, which it must obey cleanly."""
    process = subprocess.Popen([python, "-P", "-m", "app.cli", *arguments], env=environment)
    try:
        yield process
        process.terminate()
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_serve_and_jobs_end_right_on_either(
    before: str, environment: dict[str, str], tmp_path: Path
) -> None:
    def burnish(python: str, *arguments: str) -> str:
        command = [python, "-P", "-m", "app.cli", *arguments]
        return subprocess.run(
            command, env=environment, check=True, timeout=60, capture_output=True, text=True
        ).stdout

    burnish(before, "migrate")
    key = json.loads(burnish(before, "keys", "create", "--name", "test", "--scope", "admin", "--json"))[
        "secret"
    ]
    path = tmp_path / "digits.onnx"
    digits.export(digits.train(digits.load(), epochs=1), path)
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        stack.enter_context(running(before, environment, "serve", "--port", str(ports[0])))
        old_worker = stack.enter_context(running(before, environment, "worker"))
        old, new = (
            stack.enter_context(Client(f"http://127.0.0.1:{port}", key, patience_seconds=60))
            for port in ports
        )
        until(lambda: is_ready(ports[0]))
        until(lambda: len(old.workers()) == 1)
        model = Service(old, tmp_path).model(path)
        body = {"kind": "optimize", "subject": model, "targets": ["onnxruntime-cpu"], **SIMPLIFY}
        first = old.submit(body)

        burnish(TODAY, "migrate")  # while the old version works
        stack.enter_context(running(TODAY, environment, "serve", "--port", str(ports[1])))
        stack.enter_context(running(TODAY, environment, "worker"))
        until(lambda: is_ready(ports[1]))
        until(lambda: len(new.workers()) == 2)
        assert is_ready(ports[0])
        webhook = new.create_webhook("https://hooks.example.invalid")["id"]

        jobs = [client.submit({**body, "name": name}) for name in ("a", "b", "c") for client in (old, new)]
        both = {"targets": [{"runtime": "onnxruntime-cpu", "params": {"threads": count}} for count in (1, 2)]}
        parents = [client.submit({**body, **both}) for client in (old, new)]
        cancelled = new.submit(body)
        old.cancel(cancelled["id"])
        ended = [new.wait(job["id"]) for job in (first, *jobs, *parents)]
        assert {job["status"] for job in ended} == {"succeeded"}, ended
        assert [job["attempt"] for job in ended[:-2]] == [1] * (len(jobs) + 1)
        assert old.wait(cancelled["id"])["status"] == "cancelled"
        for client, job in ((old, ended[-3]), (new, ended[0])):
            folder = tmp_path / job["id"]
            folder.mkdir()
            assert run_alone(Service(client, folder).bundle(job))["ok"]
        told = {row["job_id"] for row in new.list(f"webhooks/{webhook}/deliveries")}
        everything = {row["id"] for row in new.list("jobs")}
        assert told < everything  # today's processes told of the ends that they brought; the others did not
        assert told

        last = [client.submit(body) for client in (old, new, old, new)]
        until(lambda: any(new.show("jobs", job["id"])["started_at"] for job in last))
        old_worker.terminate()  # it gives back what it holds
        assert old_worker.wait(60) == 0
        assert {new.wait(job["id"])["status"] for job in last} == {"succeeded"}
    said = json.loads(burnish(TODAY, "verify", "--json"))
    assert said["faults"] == []
