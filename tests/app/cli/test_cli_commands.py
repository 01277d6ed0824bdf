"""The command itself: exit statuses, help, keys, comparisons, and `check` on a real engine."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app import __version__
from app.commands.compare import larger, slower, worse
from app.config import Settings
from tests.app.cli.scripted_server import say, scripted
from tests.app.jobs.factories import STRUCTURE

ROOT = Path(__file__).parents[3]


def burnish_command(
    *arguments: str, home: Path, check: int | None = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `burnish` in a process of its own, that knows no service but what the test names."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("BURNISH_URL", "BURNISH_API_KEY")
    }
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=ROOT,
        env={**kept, "XDG_CONFIG_HOME": str(home), "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr + done.stdout
    if check is not None:
        assert done.returncode == check, done.stderr + done.stdout
    return done


def test_version_and_help(tmp_path: Path) -> None:
    assert burnish_command("--version", home=tmp_path).stdout == f"burnish {__version__}\n"
    text = burnish_command("--help", home=tmp_path).stdout
    for name in ("optimize", "jobs", "models", "datasets", "artifacts", "download", "report", "passes", "runtimes",
                 "metrics", "workers", "compare", "check", "up", "serve", "worker", "migrate", "keys", "projects"):  # fmt: skip
        assert f" {name} " in text


def test_a_model_is_shown_with_its_layers(tmp_path: Path) -> None:
    model = json.dumps({"id": "mdl_1", "name": "digits"}).encode()
    with scripted(say(200, model), say(200, json.dumps(STRUCTURE).encode())) as script:
        done = burnish_command(
            "models",
            "show",
            "mdl_1",
            "--layers",
            home=tmp_path,
            BURNISH_URL=script.url,
            BURNISH_API_KEY="key",
        )
    assert [request["path"] for request in script.requests] == [
        "/v1/models/mdl_1",
        "/v1/models/mdl_1/structure",
    ]
    assert "name digits" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("head"))
    assert " ".join(row.split()) == "head Gemm 650 1,280 10 low-rank: below rank 8; prune-weights: 2:4 fits"
    assert "in all 650 parameters, 1,280 FLOPs" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["optimize"],
        ["no-such-command"],
        ["optimize", "model.onnx", "--no-such-option"],
        ["optimize", "model.onnx", "--max-drop", "0.1"],
        ["optimize", "model.onnx", "--pass", "a:b"],
        ["compare", "job_1", "job_1"],
        ["check", "no-such-directory"],
    ],
)
def test_wrong_usage(arguments: list[str], tmp_path: Path) -> None:
    assert burnish_command(*arguments, home=tmp_path, check=2).stderr


@pytest.mark.parametrize(
    "environment",
    [{}, {"BURNISH_URL": "http://127.0.0.1:1", "BURNISH_API_KEY": "k"}],
    ids=["unknown", "absent"],
)
def test_no_service(environment: dict[str, str], tmp_path: Path) -> None:
    done = burnish_command("jobs", "list", home=tmp_path, check=3, **environment)
    assert "cannot be reached" in done.stderr
    assert "burnish up" in done.stderr


def test_a_full_directory_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = burnish_command("optimize", "m.onnx", "-o", str(tmp_path), home=tmp_path, check=2)
    assert "holds no bundle" in done.stderr


def test_keys_and_projects(burnish_sqlite: Settings, tmp_path: Path) -> None:
    project = json.loads(burnish_command("projects", "create", "team", "--json", home=tmp_path).stdout)["id"]
    made = burnish_command(
        "keys", "create", "--name", "ci", "--scope", "read", "--project", project, home=tmp_path
    )
    secret, id_ = made.stdout.strip(), made.stderr.split(":")[0]
    assert secret.startswith(f"brn_{id_.removeprefix('key_')}_")
    rows = json.loads(burnish_command("keys", "list", "--project", project, "--json", home=tmp_path).stdout)
    assert [(row["id"], row["scopes"], row["revoked_at"]) for row in rows] == [(id_, ["read"], None)]
    burnish_command("keys", "revoke", id_, "--project", project, home=tmp_path)
    rows = json.loads(burnish_command("keys", "list", "--project", project, "--json", home=tmp_path).stdout)
    assert rows[0]["revoked_at"] is not None
    assert id_ not in burnish_command("keys", "list", home=tmp_path).stdout
    done = burnish_command("projects", "create", "team", home=tmp_path, check=1)
    assert "already" in done.stderr


def test_keys_without_a_database(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    done = burnish_command(
        "keys", "list", "--data", str(data), home=tmp_path, check=1, BURNISH_DATABASE_URL=""
    )
    assert "burnish migrate" in done.stderr


@pytest.mark.parametrize("command", [("gc",), ("gc", "--dry-run"), ("gc", "--pause", "1"), ("verify",)])
@pytest.mark.parametrize("there", [False, True])
def test_what_is_stored_without_a_database(tmp_path: Path, command: tuple[str, ...], there: bool) -> None:
    data = tmp_path / "data"
    if there:
        data.mkdir()
    done = burnish_command(
        *command, home=tmp_path, check=1, BURNISH_DATABASE_URL="", BURNISH_DATA_DIR=str(data)
    )
    assert "BURNISH_DATA_DIR" in done.stderr


def test_migrating_what_cannot_be_reached(tmp_path: Path) -> None:
    url = "postgresql+psycopg://burnish@127.0.0.1:1/burnish"
    done = burnish_command("migrate", home=tmp_path, check=1, BURNISH_DATABASE_URL=url)
    assert "BURNISH_DATABASE_URL" in done.stderr


@pytest.fixture
def job() -> dict[str, Any]:
    result = json.loads(Path(__file__).with_name("result.json").read_text())
    return {"id": "job_1", "subject": "mdl_1", "targets": [{"runtime": "onnxruntime-cpu"}], "result": result}


def like(job: dict[str, Any], **speedup: float) -> dict[str, Any]:
    other = copy.deepcopy(job)
    other["result"]["comparison"]["speedup"] |= speedup
    return other


def test_slower_needs_intervals_apart(job: dict[str, Any]) -> None:
    job = like(job, value=3.0, low=2.9, high=3.1)
    assert slower(job, like(job, value=2.5, low=2.4, high=2.6)).regression is True
    assert slower(job, like(job, value=2.9, low=2.8, high=3.0)).regression is False
    assert slower(job, like(job, value=4.0, low=3.9, high=4.1)).regression is False
    assert slower(job, like(job, value=2.5, low=None, high=None)).regression is None


def test_slower_on_other_models_needs_five_percent(job: dict[str, Any]) -> None:
    other = {**like(job), "subject": "mdl_2"}
    latency = other["result"]["optimized"]["latency"]
    before = latency["p50_ms"]
    latency["p50_ms"] = before * 1.04
    assert slower(job, other).regression is False
    latency["p50_ms"] = before * 1.06
    assert slower(job, other).regression is True


def test_larger(job: dict[str, Any]) -> None:
    other = like(job)
    assert larger(job, other).regression is False
    other["result"]["optimized"]["size_bytes"] += 1
    assert larger(job, other).regression is True
    assert larger(other, job).regression is False


def test_worse_knows_which_way_is_better(job: dict[str, Any]) -> None:
    other = like(job)
    other["result"]["optimized"]["accuracy"] |= {"value": 0.9, "low": 0.88, "high": 0.92}
    assert worse(job, other, {"top1": True}).regression is True
    assert worse(other, job, {"top1": True}).regression is False
    assert worse(job, other, {"top1": False}).regression is False
    assert worse(other, job, {"top1": False}).regression is True
    other["result"]["optimized"]["accuracy"] = None
    assert worse(job, other, {"top1": True}).regression is None
