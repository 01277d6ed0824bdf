"""The data of a `burnish up`, backed up while it runs as the guide says, and brought up in another place."""

from pathlib import Path

import pytest

from app.client import Client
from app.embedded import Embedded
from demo import digits
from tests import guide
from tests.e2e.service import Service, run_alone


@pytest.mark.slow
def test_the_data_of_burnish_up(tmp_path: Path) -> None:
    data, new, backup = tmp_path / "data", tmp_path / "new", tmp_path / "backup"
    path = tmp_path / "digits.onnx"
    digits.export(digits.train(digits.load(), epochs=1), path)
    (tmp_path / "first").mkdir()
    with Embedded(data) as up, Client(up.url, up.api_key) as client:
        service = Service(client, tmp_path / "first")
        model = service.model(path)
        job = service.optimize(model, [{"pass": "simplify"}])
        assert job["status"] == "succeeded", job
        guide.follow("The data of burnish up", {"DATA": str(data), "BACKUP": str(backup)})
        key, later = up.api_key, service.optimize(model, [{"pass": "to-fp16"}])["id"]

    said = guide.follow("Restore the data of burnish up", {"DATA": str(new), "BACKUP": str(backup)})
    assert "0 missing or damaged" in said
    with Embedded(new) as up, Client(up.url, up.api_key) as client:
        assert up.api_key == key
        assert later not in [row["id"] for row in client.list("jobs")]
        service = Service(client, tmp_path)
        assert run_alone(service.bundle(client.show("jobs", job["id"])))["ok"]
        again = service.optimize(model, [{"pass": "simplify"}])
        assert again["status"] == "succeeded", again
        assert next(step for step in again["steps"] if step["name"] == "pass:simplify")["cached"]
