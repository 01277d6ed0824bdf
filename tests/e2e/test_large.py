"""A model of more than 2 GB from the upload to the engine that runs elsewhere."""

from pathlib import Path

import pytest

from app.catalog.spec import PROTOBUF_LIMIT_BYTES
from benchmarks.large import one_pass, pack, write_large, write_samples
from tests.e2e.service import Service, run_alone


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_over_2gb_through_the_whole_service(service: Service, tmp_path: Path) -> None:
    model = service.model(pack(write_large(tmp_path)))
    data = service.client.wait_dataset(service.client.upload_dataset(write_samples(tmp_path))["id"])["id"]
    job = service.client.wait(service.client.submit(one_pass(model, data, "quantize-static"))["id"])
    assert job["status"] == "succeeded", job
    result = job["result"]
    assert result["verification"] == "verified"
    assert result["baseline"]["size_bytes"] > PROTOBUF_LIMIT_BYTES
    assert result["optimized"]["size_bytes"] < result["baseline"]["size_bytes"] / 3
    assert result["comparison"]["fidelity"]["outputs"]["y"]["sqnr_db"] > 10
    assert run_alone(service.bundle(job))["ok"]
