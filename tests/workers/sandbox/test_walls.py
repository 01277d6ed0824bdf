"""A hostile child, started as a worker starts one, does not get through what its report says holds.

As root, as another user, and where user namespaces are forbidden; with each wall of the kernel left out, so that the next
one has to hold. Where the report says that nothing holds, nothing is asked of it.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workers.sandbox import hostile
from workers.sandbox import landlock
from workers.sandbox.libc import MACHINE

PROGRAM = Path(__file__).with_name("supervise.py")
ROOT = Path(__file__).resolve().parents[3]

# The interpreter may lie in root's home: it is shown to the other user in a mount namespace.
AS_NOBODY = """
set -e
mkdir "$1/python"
mount --bind "$2" "$1/python"
mount -t tmpfs -o mode=755 tmpfs /root
mkdir -p "$2"
mount --bind "$1/python" "$2" || true
shift 2
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"""
WITHOUT_USER_NAMESPACES = """
set -e
echo 0 > /proc/sys/user/max_user_namespaces
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""

WALL = {
    "network": {"tcp", "far_away", "abstract_socket"},
    "files": {
        "path_socket", "read_database", "read_blob", "list_data", "write_data", "empty_database", "read_key",
        "read_other_attempt", "write_source", "change_input", "change_input_by_a_link", "replace_input",
        "change_assignment", "kernel_settings", "read_shadow",
    },
    "neighbours": {"environment", "memory", "trace"},
    "privileges": {"become_another", "mount"},
    "system_calls": {"user_namespace", "io_uring", "keyring", "virtual_machine_socket"},
    "disk": {"large_file"},
    "processes": {"many_processes"},
}  # fmt: skip
SEEN_OUTSIDE = {"udp", "kill", "age_input"}
VARIANTS = [
    ("root", ()),
    ("root", ("namespaces",)),
    ("root", ("landlock",)),
    ("root", ("seccomp",)),
    ("root", ("namespaces", "landlock")),
    ("nobody", ()),
    ("nobody", ("namespaces",)),
    ("nobody", ("landlock",)),
    ("no user namespaces", ()),
]


def start(who: str, folder: Path, without: tuple[str, ...]) -> dict[str, Any]:
    """What the supervising program says."""
    program = [
        sys.executable,
        str(PROGRAM),
        str(folder / "there"),
        *(f"--without={wall}" for wall in without),
    ]
    if who == "nobody":
        script = ["sh", "-c", AS_NOBODY, "sh", str(folder), sys.base_prefix]
        program = ["unshare", "--mount", *script, *program]
    elif who == "no user namespaces":
        program = [
            "unshare",
            "--user",
            "--map-root-user",
            "sh",
            "-c",
            WITHOUT_USER_NAMESPACES,
            "sh",
            *program,
        ]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    if done.returncode != 0 and who != "root":
        pytest.skip(f"this machine does not let us be {who}: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda variant: "-".join([variant[0], *variant[1]]))
def outcome(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    who, without = request.param
    if who != "root" and os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    with tempfile.TemporaryDirectory(
        prefix="walls"
    ) as name:  # not below root's own: the other user needs a way
        Path(name).chmod(0o777)
        said = start(who, Path(name), without)
        yield {**said, "who": who, "without": without}


def test_every_try_belongs_to_a_wall() -> None:
    known = set().union(*WALL.values()) | SEEN_OUTSIDE
    assert known == set(hostile.names())


@pytest.mark.parametrize("wall", WALL)
def test_what_is_said_to_hold_holds(outcome: dict[str, Any], wall: str) -> None:
    assert outcome["status"] == 0, outcome["log"]
    if outcome["report"][wall] is None:
        return
    if outcome["report"][wall] == "watchdog" and wall == "processes":
        return  # the supervisor looks every second; test_deeds.py
    through = [name for name in WALL[wall] if outcome["tried"][name] is None]
    assert through == []


def test_what_is_seen_from_outside(outcome: dict[str, Any]) -> None:
    report = outcome["report"]
    assert outcome["groups_left"] == []
    assert report["network"] is None or not outcome["datagram_arrived"]
    assert report["neighbours"] is None or outcome["sibling_alive"]
    if report["files"] is not None:
        assert outcome["blob_same"]
        assert outcome["blob_metadata_same"] or report["system_calls"] is None
    if report["privileges"] is not None:
        assert int(outcome["capabilities"], 16) == 0


def test_nothing_is_missing_in_silence(outcome: dict[str, Any]) -> None:
    """Each wall that this kernel has is used."""
    report, without = outcome["report"], outcome["without"]
    if landlock.version() >= landlock.SCOPES and "landlock" not in without:
        assert "landlock" in report["files"]
        assert "landlock" in report["neighbours"]
    if MACHINE in ("x86_64", "aarch64") and "seccomp" not in without:
        assert report["system_calls"] == "seccomp"
        assert report["network"] is not None
    if outcome["who"] == "nobody":
        assert report["processes"] == "rlimit"
    if "namespaces" in without or outcome["who"] == "no user namespaces":
        assert report["network"] in ("seccomp", None)
        assert "namespace" not in (report["files"] or "")
    elif outcome["who"] == "root" and os.geteuid() == 0 and _may_unshare():
        assert report["network"] == "namespace"
        assert "mount namespace" in report["files"]
        assert "pid namespace" in report["neighbours"]


def _may_unshare() -> bool:
    tried = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], check=False)
    return tried.returncode == 0
