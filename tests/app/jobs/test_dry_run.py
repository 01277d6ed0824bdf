"""`burnish optimize --dry-run`: what the service says of a job, as a person reads it."""

import io
from typing import Any

import pytest
from fastapi.testclient import TestClient
from rich.console import Console

from app.commands.plan import print_plan
from tests.app.jobs.factories import RUNTIME, make_dataset, make_model, offer, optimize

COVERED = {
    "operators": 5,
    "share": 1.0,
    "evidence": "supported",
    "unsupported": [],
    "unsupported_count": 0,
    "versions": {},
}
LACKING = {
    **COVERED, "share": 0.8, "unsupported_count": 1, "unsupported": [{"node": "odd", "operator": "Odd", "reason": "no kernel [x]"}],
}  # fmt: skip


def printed(answer: dict[str, Any]) -> str:
    """What stands on the console."""
    text = io.StringIO()
    print_plan(Console(file=text, width=200), answer)
    return text.getvalue()


def plan(api: TestClient, model: str, **fields: Any) -> dict[str, Any]:
    answer = api.post(f"/v1/models/{model}/validate", json=optimize(model, **fields))
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_each_step_with_its_precision_and_who_takes_it(api: TestClient) -> None:
    offer(RUNTIME)
    model = make_model(facts={"coverage": {RUNTIME: COVERED}})
    text = printed(plan(api, model, inputs={"calibration": make_dataset()}))
    assert "1. simplify  fp32" in text
    assert "2. quantize-static  fp32 → int8" in text
    assert f"workers: 1 online (runtime.{RUNTIME})" in text
    assert "operators supported: 100.0% of 5" in text


def test_a_target_that_would_be_refused_says_why(api: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(facts={"coverage": {RUNTIME: LACKING}})
    text = printed(plan(api, model, recipe={"schema": 1, "passes": []}))
    assert "workers: never seen" in text
    assert "odd (Odd): no kernel [x]" in text
    assert "no kernel" in capsys.readouterr().err
