"""A job whose API and workers share nothing but a database, a broker and a bucket."""

import os
from contextlib import ExitStack
from pathlib import Path

import httpx

from app.client import Client
from demo import digits
from tests.e2e.service import Service, run_alone
from tests.e2e.test_production import first_key, is_ready, running, until
from tests.services import free_port


def test_a_job_over_a_bucket(s3: str, redis_url: str, tmp_path: Path) -> None:
    shared = {
        **os.environ,
        "BURNISH_DATABASE_URL": f"sqlite:///{tmp_path / 'burnish.db'}",
        "BURNISH_REDIS_URL": redis_url,
        "BURNISH_STORAGE_PRESIGNED_DOWNLOADS": "true",
    }
    api = {**shared, "BURNISH_DATA_DIR": str(tmp_path / "api")}
    worker = {**shared, "BURNISH_DATA_DIR": str(tmp_path / "worker")}
    key = first_key(api)
    port = free_port()
    with ExitStack() as stack:
        stack.enter_context(running(api, "serve", "--port", str(port)))
        stack.enter_context(running(worker, "worker"))
        client = stack.enter_context(Client(f"http://127.0.0.1:{port}", key, patience_seconds=60))
        until(lambda: is_ready(port))
        until(lambda: client.workers() != [])

        path = tmp_path / "digits.onnx"
        digits.export(digits.train(digits.load(), epochs=1), path)
        service = Service(client, tmp_path)
        job = service.optimize(service.model(path), [{"pass": "simplify"}])
        assert job["status"] == "succeeded", job
        engine = job["result"]["artifacts"]["engine"]
        sent = httpx.get(
            f"http://127.0.0.1:{port}/v1/artifacts/{engine}/content",
            headers={"Authorization": f"Bearer {key}"}, trust_env=False,
        )  # fmt: skip
        assert (sent.status_code, s3 in sent.headers["location"]) == (307, True)
        assert run_alone(service.bundle(job))["ok"]
    assert not list(tmp_path.glob("*/blobs"))
    assert list((tmp_path / "cache").iterdir()) != []
