"""Secrets are planted everywhere, everything is made to fail, and then every log line and every answer is read."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import redis

from app.client import Client
from demo import digits
from tests.e2e.test_production import is_ready
from tests.faults.parts import BURNISH, ROOT, Postgres, Program, Redis, ending, until
from tests.services import free_port

DATABASE_PASSWORD = "planted-Dat4base%21"  # as a URL has it
BROKER_PASSWORD = "planted-Br0ker"
BUCKET_SECRET = "planted-Buck3t/secret"
WRONG_KEY = "brn_0123456789_planted-Wr0ng-key-that-nobody-made-0123456789"
FORGOTTEN = "planted-pa55word-in-an-address"  # a client that puts its secret where none belongs
PLANTED = (DATABASE_PASSWORD, "planted-Dat4base!", BROKER_PASSWORD, BUCKET_SECRET, WRONG_KEY, FORGOTTEN)


class Reader:
    """Keeps what the service says, but for the answers that are there to tell a secret."""

    def __init__(self) -> None:
        self.answers: list[httpx.Response] = []

    def client(self, url: str, key: str) -> httpx.Client:
        """A client whose every answer is kept."""
        return httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
            trust_env=False,
            event_hooks={"response": [self._keep]},
        )

    def _keep(self, answer: httpx.Response) -> None:
        answer.read()
        self.answers.append(answer)

    def told(self, answer: httpx.Response) -> dict[str, Any]:
        """What an answer with a secret says; it is not looked through."""
        assert answer.status_code == 201, answer.text
        assert self.answers.pop() is answer
        said: dict[str, Any] = answer.json()
        return said


@contextmanager
def installed(folder: Path) -> Iterator[tuple[str, dict[str, str], Postgres, Redis, list[Program]]]:
    """The address, environment and parts of an installation that logs all that it can, and whose servers want passwords."""
    with tempfile.TemporaryDirectory(prefix="bpg") as short:
        postgres, broker = Postgres(Path(short)), Redis(folder)
        environment = {
            **os.environ,
            "BURNISH_DATA_DIR": str(folder / "data"),
            "BURNISH_DATABASE_URL": postgres.url.replace("postgres@", f"postgres:{DATABASE_PASSWORD}@", 1),
            "BURNISH_REDIS_URL": broker.url.replace("://", f"://:{BROKER_PASSWORD}@", 1),
            "BURNISH_WEBHOOK_ALLOWED": "127.0.0.1",
            "BURNISH_WEBHOOK_HTTP": "true",
            "BURNISH_LOG_LEVEL": "debug",
            "BURNISH_MAX_ATTEMPTS": "1",
            "AWS_SECRET_ACCESS_KEY": BUCKET_SECRET,
        }
        port = free_port()
        programs = [
            Program("api", (*BURNISH, "serve", "--port", str(port)), environment, folder / "api.log"),
            Program("worker", (*BURNISH, "worker", "--concurrency", "1"), environment, folder / "worker.log"),
        ]
        with ending(*programs, broker, postgres):
            postgres.start()
            broker.start()
            with redis.Redis(port=broker.port) as client:
                client.config_set("requirepass", BROKER_PASSWORD)
            subprocess.run([*BURNISH, "migrate"], env=environment, check=True, timeout=60)
            for program in programs:
                program.start()
            until(lambda: is_ready(port))
            yield f"http://127.0.0.1:{port}", environment, postgres, broker, programs


def create_key(environment: dict[str, str]) -> str:
    made = subprocess.run(
        [*BURNISH, "keys", "create", "--name", "test", "--scope", "admin", "--json"],
        env=environment, check=True, timeout=60, capture_output=True,
    )  # fmt: skip
    return str(json.loads(made.stdout)["secret"])


def provoke(client: httpx.Client) -> None:
    """Requests that no route takes, with secrets where none belong."""
    for headers in (
        {"Authorization": f"Bearer {WRONG_KEY}"},
        {"Authorization": f"Basic {FORGOTTEN}"},
        {"Cookie": f"session={FORGOTTEN}"},
    ):
        client.get("/v1/models", headers=headers)
    client.get(f"/v1/models?api_key={WRONG_KEY}")
    client.get(f"/v1/models/{WRONG_KEY}")
    client.get("/v1/models/..%2f..%2fetc%2fpasswd")
    client.get(f"/nowhere/{WRONG_KEY}")
    client.post("/v1/jobs", content=b"{" + WRONG_KEY.encode())
    client.post("/v1/jobs", json={"kind": "optimize", "subject": "\0", "targets": []})
    client.post("/v1/webhooks", json={"url": f"http://somebody:{FORGOTTEN}@127.0.0.1:9/"})


def kill_child(worker: Program, client: httpx.Client, job: str) -> None:
    """SIGKILL to the process that runs a job, once it is at work."""
    until(lambda: client.get(f"/v1/jobs/{job}").json()["progress"])
    for process in psutil.Process(worker.pid).children(recursive=True):
        with suppress(psutil.Error):
            if "child" in process.cmdline():
                process.kill()


def test_nothing_secret_and_no_place_is_told(tmp_path: Path) -> None:
    reader = Reader()
    split = digits.load()
    onnx = tmp_path / "digits.onnx"
    digits.export(digits.DigitsNet(), onnx)
    npz, _ = digits.write_data(split, tmp_path)
    with installed(tmp_path) as (url, environment, postgres, broker, (api, worker)):
        key = create_key(environment)
        with reader.client(url, key) as client, Client(url, key, patience_seconds=60) as burnish:
            provoke(client)
            second = reader.told(client.post("/v1/keys", json={"name": "second", "scopes": ["read"]}))
            hook = reader.told(
                client.post("/v1/webhooks", json={"url": f"http://127.0.0.1:{free_port()}/hook"})
            )
            for name, content in (("a.onnx", b"\x08\x0a" * 99), ("b.zip", b"PK\x03\x04" + bytes(99))):
                client.post("/v1/models", files={"file": (name, content)})
            model = burnish.wait_model(burnish.upload_model(onnx)["id"])["id"]
            dataset = burnish.wait_dataset(burnish.upload_dataset(npz)["id"])["id"]
            body = {
                "kind": "optimize",
                "subject": model,
                "recipe": {
                    "schema": 1,
                    "passes": [{"pass": "quantize-static", "inputs": {"calibration": dataset}}],
                },
                "targets": [{"runtime": "onnxruntime-cpu"}],
            }
            job = client.post("/v1/jobs", json=body).json()["id"]
            kill_child(worker, client, job)
            until(lambda: client.get(f"/v1/jobs/{job}").json()["finished_at"])
            for path in ("", "/logs", "/events?follow=false"):
                client.get(f"/v1/jobs/{job}{path}")
            for path in (
                "models", "datasets", "jobs", "keys", "projects", "webhooks", "audit", "usage", "workers",
            ):  # fmt: skip
                client.get(f"/v1/{path}")
            client.get("/metrics")
            until(lambda: "webhook" in api.log.read_text())
            broker.kill()
            client.post("/v1/jobs", json=body)
            client.get("/readyz")
            postgres.kill()
            client.get("/v1/jobs")
            client.get("/readyz")

    secrets = (*PLANTED, key.rpartition("_")[2], second["secret"].rpartition("_")[2], hook["secret"])
    read_logs([tmp_path / "api.log", tmp_path / "worker.log"], secrets)
    read_answers(reader.answers, secrets, [tmp_path, ROOT, Path(sys.prefix), Path(sys.base_prefix)])
    assert {401, 404, 422, 503} <= {answer.status_code for answer in reader.answers}


def read_logs(logs: list[Path], secrets: tuple[str, ...]) -> None:
    for log in logs:
        text = log.read_text()
        assert len(text.splitlines()) > 20, f"{log.name} says too little to be a test"
        for secret in secrets:
            assert secret not in text, f"{log.name}: {line_with(secret, text)}"


def read_answers(answers: list[httpx.Response], secrets: tuple[str, ...], places: list[Path]) -> None:
    for answer in answers:
        asked = f"{answer.request.method} {answer.request.url.path}"
        text = answer.text + json.dumps(dict(answer.headers))
        own = str(answer.request.url) + sent(answer.request)
        for secret in secrets:
            assert secret in own or secret not in text, f"{asked}: {line_with(secret, text)}"
        for place in (*map(str, places), "site-packages", "Traceback (most"):
            assert place not in text, f"{asked}: {line_with(place, text)}"
        assert "server" not in answer.headers, asked
        assert answer.headers["x-content-type-options"] == "nosniff", asked
        assert re.search("no-store|private", answer.headers["cache-control"]), asked


def sent(request: httpx.Request) -> str:
    """What the client wrote itself, which may stand in the answer; nothing of an upload."""
    try:
        return request.content.decode("latin-1")
    except httpx.RequestNotRead:
        return ""


def line_with(word: str, text: str) -> str:
    return next(line for line in text.splitlines() if word in line)[:2000]
