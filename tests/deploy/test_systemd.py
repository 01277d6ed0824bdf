"""The systemd units: what they run and set exists, and systemd understands them. No machine has started them here."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.config import Settings
from app.serve import GRACE_SECONDS
from tests.deploy.commands import parse_command
from tests.deploy.documents import SYSTEMD, commands_of, unit

SERVICES = sorted(path.name for path in SYSTEMD.glob("*.service"))
UNITS = sorted(path.name for path in SYSTEMD.iterdir() if path.suffix in (".service", ".timer"))
ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_runs_commands_that_exist(name: str) -> None:
    assert commands_of(name)
    for command in commands_of(name):
        parse_command(command)


def test_the_example_of_settings_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (SYSTEMD / "burnish.env.example").read_text(encoding="utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert given.keys() <= {f"BURNISH_{name.upper()}" for name in Settings.model_fields}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    for name in SERVICES:
        state = Path("/var/lib") / unit(name)["StateDirectory"][0]
        assert settings.blobs_path.is_relative_to(state)
        assert settings.scratch_path.is_relative_to(state)


def test_units_give_time_to_stop_and_tell_the_worker_alone() -> None:
    assert int(unit("burnish-api.service")["TimeoutStopSec"][0]) > GRACE_SECONDS
    assert unit("burnish-worker.service")["KillMode"] == ["mixed"]


def test_the_worker_leaves_its_jobs_what_their_walls_are_made_of() -> None:
    forbidden = {
        "RestrictNamespaces", "PrivateUsers", "SystemCallFilter", "ProtectControlGroups", "ProtectKernelTunables",
        "ProtectKernelLogs", "ProtectProc", "MemoryDenyWriteExecute", "PrivateDevices", "ProtectClock",
    }  # fmt: skip
    assert not forbidden & unit("burnish-worker.service").keys()
    said = re.findall(r"^#.*$", (SYSTEMD / "burnish-worker.service").read_text(), re.MULTILINE)
    assert all(any(name in line for line in said) for name in forbidden)


def verify(folder: Path) -> subprocess.CompletedProcess[str]:
    """What systemd says of the units of a folder; errors only, without the manual pages."""
    assert ANALYZE is not None
    files = [str(path) for path in sorted(folder.iterdir()) if path.suffix in (".service", ".timer")]
    return subprocess.run(
        [ANALYZE, "verify", "--man=no", "--recursive-errors=no", *files],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with a program that exists here: systemd looks for it."""
    program = shutil.which("true")
    assert program is not None
    for name in UNITS:
        text = (SYSTEMD / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("/opt/burnish/bin/burnish", program), encoding="utf-8")
    return tmp_path


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_units(installed: Path) -> None:
    said = verify(installed)
    assert said.returncode == 0, said.stderr
    assert not [line for line in said.stderr.splitlines() if str(installed) in line], said.stderr


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_a_wrong_unit_is_found(installed: Path) -> None:
    api = installed / "burnish-api.service"
    api.write_text(api.read_text().replace("KillMode", "KilMode").replace("ProtectHome=", "ProtectHomme="))
    assert "ProtectHomme" in verify(installed).stderr
