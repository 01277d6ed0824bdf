"""The parts that no hostile child reaches here: the other machine's numbers, the other version of control groups."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app as command_line
from app.config import Settings
from app.db import transaction
from app.fleet import service
from app.storage import get_storage
from tests.app.api.conftest import served
from workers.sandbox import cgroups, report
from workers.sandbox.check import sandbox
from workers.sandbox.disk import used_bytes
from workers.sandbox.numbers import NUMBERS

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
DEFINED = re.compile(r"#define __NR(?:3264)?_(\w+)\s+(\d+)")


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_of_system_calls_are_the_kernels(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not installed")
    known = {name: int(number) for name, number in DEFINED.findall(HEADERS[machine].read_text())}
    ours = NUMBERS[machine]
    common = set(ours) & set(known)
    assert {
        "socket",
        "clone",
        "ptrace",
        "mount",
        "bpf",
        "chmod" if machine == "x86_64" else "fchmodat",
    } <= common
    assert {name: ours[name] for name in common} == {name: known[name] for name in common}


@pytest.fixture
def unified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree that looks like version 2, the worker in a group of its own below a delegated one (systemd's DelegateSubgroup=)."""
    service = tmp_path / "burnish.service"
    (service / "worker").mkdir(parents=True)
    (service / "cgroup.subtree_control").write_text("memory pids\n")
    (service / "worker" / "cgroup.subtree_control").write_text("\n")
    own = iter([(service / "worker", cgroups._V2)] * 100)
    monkeypatch.setattr(cgroups, "_own", lambda controller, root: [next(own)])
    return service


def test_version_2_makes_a_group_beside_the_workers(unified: Path) -> None:
    group = cgroups.Group("job_x-1", 1000, 20, unified)
    assert (group.memory, group.processes) == ("cgroup v2", "cgroup v2")
    [folder] = group.folders
    assert folder.parent == unified
    written = {name: (folder / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max")}
    assert written == {"memory.max": "1000", "memory.swap.max": "0", "pids.max": "20"}
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert group.ran_out_of_memory()
    assert group.reached_its_limit()
    (folder / "cgroup.procs").write_text("12\n34\n")
    assert group.pids() == {12, 34}


def test_no_group_where_nothing_is_delegated(unified: Path) -> None:
    (unified / "cgroup.subtree_control").write_text("cpu\n")
    group = cgroups.Group("job_x-1", 1000, 20, unified)
    assert (group.memory, group.processes, group.folders) == (None, None, [])


def test_groups_of_killed_workers_are_removed(unified: Path) -> None:
    for name in ("burnish-999999999-job_x-1", "burnish-1-job_x-1"):
        (unified / name).mkdir()
    cgroups.remove_abandoned(unified)
    assert [path.name for path in unified.glob("burnish-*")] == ["burnish-1-job_x-1"]


def test_holes_take_no_space_and_links_are_not_followed(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(10**12)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "sub" / "file").write_bytes(bytes(100_000))
    assert 100_000 <= used_bytes(tmp_path) < 1_000_000


def test_the_check_finds_out_what_holds(quick_sqlite: Settings) -> None:
    get_storage()
    found = sandbox()
    assert set(found) == set(report.Report().as_dict())
    bare = sandbox(["namespaces", "landlock", "seccomp"])
    assert (bare["network"], bare["files"]) == (None, None)
    assert report.lacking(bare) == ["network", "files"]
    assert {"network", "files", "neighbours", "system_calls"} <= set(report.warnings(bare))
    assert list(quick_sqlite.scratch_path.iterdir()) == []


def test_the_check_breaks_through_what_does_not_hold(
    quick_sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data that lie where a child must read, below the interpreter's folder say, are not held, whatever the kernel can."""
    get_storage()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(quick_sqlite.blobs_path))
    assert sandbox()["files"] is None


def test_people_see_what_holds(quick_sqlite: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"network": "namespace", "files": None, "system_calls": "seccomp"}
    described = {"worker_id": "wrk_a", "host": "h", "pid": 1, "version": "0", "queues": ["inspect"]}
    with transaction() as session:
        service.register(session, **described, runtimes={}, hardware={}, sandbox=held)
    with served() as server:
        [told] = server.client.get("/v1/workers").json()["items"]
        assert told["sandbox"] == held
        monkeypatch.setenv("BURNISH_URL", f"http://{server.host}:{server.port}")
        monkeypatch.setenv("BURNISH_API_KEY", server.key)
        monkeypatch.setenv("COLUMNS", "200")
        shown = CliRunner().invoke(command_line, ["workers"])
    assert shown.exit_code == 0, shown.output
    *_, headings, row = shown.output.rstrip().splitlines()
    assert headings.split() == ["worker", "network", "files", "system", "calls"]
    assert row.split() == ["wrk_a", "namespace", "–", "seccomp"]
