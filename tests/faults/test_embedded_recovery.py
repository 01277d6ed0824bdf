"""`burnish up`, killed with all that it started: what it was at goes on as soon as it is up again."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from app.client import Client
from benchmarks.networks import packaged
from tests.e2e.service import Service
from tests.e2e.test_embedded import Up, gone, up
from tests.faults.parts import processes_of, until

TINY = ("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx")


@pytest.mark.timeout(600)
def test_a_killed_service_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases and messages that nobody sends again would outlast this test: nothing waits for them."""
    monkeypatch.setenv("BURNISH_LEASE_SECONDS", "3600")
    monkeypatch.setenv("BURNISH_RESEND_SECONDS", "3600")
    data, home = tmp_path / "data", tmp_path / "home"
    with up(data, home) as service, Client(service.url, service.api_key) as client:
        model = Service(client, tmp_path).model(packaged(*TINY))
        job_id = client.submit(body(model, "simplify"))["id"]
        kill_at_work(service, client, job_id, attempt=1)
        assert not processes_of(data)
    with up(data, home) as service, Client(service.url, service.api_key) as client:
        kill_at_work(service, client, job_id, attempt=2)
        assert not processes_of(data)
    with up(data, home) as service, Client(service.url, service.api_key) as client:
        job = client.wait(job_id)
        assert (job["status"], job["attempt"]) == ("succeeded", 3), job["problem"]
        made = client.list(f"jobs/{job_id}/artifacts")
        assert sorted(one["id"] for one in made) == sorted(job["result"]["artifacts"].values())
        until(lambda: not list((data / "scratch").iterdir()))
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0
    assert not processes_of(data)


def kill_at_work(service: Up, client: Client, job_id: str, attempt: int) -> None:
    def at_work() -> bool:
        job = client.show("jobs", job_id)
        return job["attempt"] == attempt and any(step["status"] == "running" for step in job["steps"])

    until(at_work)
    family = service.family()
    os.kill(service.process.pid, signal.SIGKILL)
    until(lambda: gone(family))


def body(model: str, name: str) -> dict[str, Any]:
    return {
        "kind": "optimize",
        "subject": model,
        "recipe": {"schema": 1, "passes": [{"pass": name}]},
        "targets": [{"runtime": "onnxruntime-cpu", "params": {"threads": 1}}],
        "options": {"allow_synthetic": True},
    }
