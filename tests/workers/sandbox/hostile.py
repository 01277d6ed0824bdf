"""A child that does what no child should. It starts like a real one; then it tries everything that it was told to."""

import argparse
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workers.protocol import SupervisorPipe
from workers.sandbox import enter

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_USER = 0x10000000
ATTACH = 16
SETTLE_SECONDS = 600


class Tries:
    """Each returns normally where it came through, and raises OSError where something held."""

    def __init__(self, told: dict[str, Any]):
        self.told = told
        self.work = Path.cwd().parent

    def tcp(self) -> None:
        socket.create_connection(tuple(self.told["tcp"]), timeout=3).close()

    def udp(self) -> None:
        """Whether it arrived is seen outside."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"data", tuple(self.told["udp"]))

    def far_away(self) -> None:
        with contextlib.suppress(TimeoutError):
            socket.create_connection(("192.0.2.1", 80), timeout=1).close()

    def virtual_machine_socket(self) -> None:
        socket.socket(40, socket.SOCK_STREAM).close()

    def abstract_socket(self) -> None:
        self._connect("\0" + self.told["abstract"])

    def path_socket(self) -> None:
        self._connect(self.told["path_socket"])

    def read_database(self) -> None:
        Path(self.told["database"]).read_bytes()

    def read_blob(self) -> None:
        Path(self.told["blob"]).read_bytes()

    def list_data(self) -> None:
        if "blobs" not in os.listdir(self.told["data"]):  # noqa: PTH208
            raise PermissionError("it holds nothing but the way to this attempt")

    def write_data(self) -> None:
        (Path(self.told["data"]) / "planted").write_text("x")

    def empty_database(self) -> None:
        os.truncate(self.told["database"], 0)

    def read_key(self) -> None:
        Path(self.told["key"]).read_bytes()

    def read_other_attempt(self) -> None:
        Path(self.told["other_attempt"]).read_bytes()

    def write_source(self) -> None:
        """Opened, not written to: it is the real one."""
        Path(self.told["source"]).open("r+b").close()

    def change_input(self) -> None:
        with contextlib.suppress(OSError):
            Path(self.told["input"]).chmod(0o666)
        with Path(self.told["input"]).open("r+b") as file:
            file.write(b"changed")

    def change_input_by_a_link(self) -> None:
        link = self.work / "link"
        link.hardlink_to(self.told["input"])
        with contextlib.suppress(OSError):
            link.chmod(0o666)
        with link.open("r+b") as file:
            file.write(b"changed")

    def age_input(self) -> None:
        """Whether it worked is seen outside."""
        os.utime(self.told["input"], (0, 0))
        Path(self.told["input"]).chmod(0o600)

    def replace_input(self) -> None:
        (self.work / "other").write_bytes(b"changed")
        (self.work / "other").replace(self.told["input"])

    def change_assignment(self) -> None:
        Path(self.told["assignment"]).write_text("{}")

    def kernel_settings(self) -> None:
        Path("/proc/sys/kernel/core_pattern").open("r+b").close()

    def read_shadow(self) -> None:
        Path("/etc/shadow").read_bytes()

    def environment(self) -> None:
        for folder in Path("/proc").glob("[0-9]*"):
            if folder.name not in (str(os.getpid()), "self"):
                with contextlib.suppress(OSError):
                    if self.told["secret"].encode() in (folder / "environ").read_bytes():
                        return
        raise PermissionError("no environment has it")

    def memory(self) -> None:
        Path(f"/proc/{self.told['supervisor']}/mem").open("rb").close()

    def trace(self) -> None:
        _check(LIBC.ptrace(ATTACH, self.told["sibling"], 0, 0))

    def kill(self) -> None:
        """Whether the right one died is seen outside: in a PID namespace the number is nobody's."""
        os.kill(self.told["sibling"], signal.SIGKILL)

    def become_another(self) -> None:
        os.setuid(12345)

    def mount(self) -> None:
        _check(LIBC.mount(b"x", os.fsencode(self.work), b"tmpfs", 0, None))

    def user_namespace(self) -> None:
        _check(LIBC.unshare(NEW_USER))

    def io_uring(self) -> None:
        _check(LIBC.syscall(425, 1, ctypes.create_string_buffer(120)))

    def keyring(self) -> None:
        _check(LIBC.syscall(250 if os.uname().machine == "x86_64" else 219, 0, -3, 0))

    def large_file(self) -> None:
        with (self.work / "large").open("wb") as file:
            for _ in range(64):
                file.write(bytes(1024 * 1024))

    def many_processes(self) -> None:
        started = []
        try:
            for _ in range(self.told["processes"] + 50):
                pid = os.fork()
                if pid == 0:
                    time.sleep(SETTLE_SECONDS)
                started.append(pid)
        finally:
            for pid in started:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _connect(self, address: str) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(3)
            client.connect(address)


class Deeds:
    """What a hostile job does, told by its recipe's script; each ends the job, one way or another."""

    def __init__(self, assignment: dict[str, Any], pipe: SupervisorPipe):
        self.assignment, self.pipe, self.work = assignment, pipe, Path(assignment["scratch"])

    def eat_memory(self) -> None:
        held = []
        while True:
            held.append(os.urandom(1024 * 1024) * 4)

    def fill_the_disk(self) -> None:
        for number in range(1_000_000):
            (self.work / f"file{number}").write_bytes(bytes(256 * 1024))
            time.sleep(0.01)

    def fork_for_ever(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                if os.fork() == 0:
                    time.sleep(SETTLE_SECONDS)

    def loop(self) -> None:
        while True:
            pass

    def leave_an_orphan(self, pids: str, name: str) -> None:
        """Twice forked, in a session of its own, its environment empty, its name another."""
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execve(sys.executable, [name, "-c", "import time; time.sleep(600)"], {})
            os._exit(0)
        time.sleep(0.5)
        os._exit(0)

    def bring(self, kind: str, target: str) -> None:
        """An artifact that is no file of its own."""
        self.artifact(self.make(kind, target))

    def store(self, kind: str, target: str) -> None:
        """A step whose folder holds something that is no file of its own."""
        root = self.work / "steps"
        root.mkdir()
        self.make(kind, target, root)
        self.pipe.ask("store", key="a" * 64, name="x", root=str(root), facts={}, seconds=1)
        self.pipe.tell("result", result={"result": {}, "artifacts": [], "measurements": []})

    def store_a_folder_that_is_swapped(self, target: str) -> None:
        """While the supervisor reads them, a folder and a file become links and files again."""
        root = self.work / "steps"
        (root / "sub").mkdir(parents=True)
        (root / "sub" / "file").write_text("mine")
        (root / "file").write_text("mine")
        link, away = root.parent / "away-link", root.parent / "away"
        threading.Thread(target=_swap, args=(root / "file", Path(target), link), daemon=True).start()
        threading.Thread(target=_swap, args=(root / "sub", Path(target).parent, away), daemon=True).start()
        for number in range(40):
            key = f"{number:064x}"
            self.pipe.ask("store", key=key, name="x", root=str(root), facts={}, seconds=1)

    def make(self, kind: str, target: str, root: Path | None = None) -> Path:
        path = (root or self.work) / "thing"
        if kind == "link":
            path.symlink_to(target)
        elif kind == "folder link":
            path.symlink_to(Path(target).parent)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            os.mknod(path, 0o140644)
        elif kind == "deep":
            here = os.getcwd()  # noqa: PTH109
            os.chdir(root or self.work)
            for _ in range(3000):
                os.mkdir("d")  # noqa: PTH102
                os.chdir("d")
            os.chdir(here)
            return (root or self.work) / "d"
        return path

    def artifact(self, path: Path) -> None:
        artifact = {
            "role": "engine", "kind": "engine", "filename": "x", "media_type": "x", "path": str(path),
            "manifest": None, "inputs": [],
        }  # fmt: skip
        result = {"result": {}, "artifacts": [artifact], "measurements": []}
        self.pipe.tell("result", result=result)

    def flood(self, kind: str) -> None:
        """More than anybody can want to hear."""
        for number in range(10_000_000):
            if kind == "stages":
                self.pipe.tell("progress", stage=f"stage {number}", done=0, total=0, message="")
            elif kind == "steps":
                step = {
                    "index": number,
                    "name": "x",
                    "status": "done",
                    "cached": False,
                    "seconds": 0,
                    "key": None,
                }
                self.pipe.tell("step", facts={}, **step)
            else:
                step = {"index": 0, "name": "x", "status": "done", "cached": False, "seconds": 0, "key": None}
                self.pipe.tell("step", facts={"a": "x" * 20_000_000}, **step)

    def one_long_line(self) -> None:
        while True:
            self.pipe._out.write("x" * 1_000_000)

    def print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201
        self.pipe.tell("progress", stage="x", done=0, total=0, message=text)
        self.pipe.tell("result", result={"result": {}, "artifacts": [], "measurements": []})

    def lock_folders(self) -> None:
        (self.work / "a" / "b").mkdir(parents=True)
        (self.work / "a" / "b").chmod(0)
        (self.work / "a").chmod(0)
        self.pipe.tell("result", result={"result": {}, "artifacts": [], "measurements": []})


def _swap(path: Path, target: Path, aside: Path) -> None:
    while True:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
            kept = aside.with_name(aside.name + "-kept")
            path.rename(kept)
            path.symlink_to(target)
            time.sleep(0.0005)
            path.unlink()
            kept.rename(path)
            time.sleep(0.0005)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def tried(told: dict[str, Any]) -> dict[str, str | None]:
    """Try -> the reason why it was held, None where it came through."""
    tries = Tries(told)
    return {name: _outcome(getattr(tries, name)) for name in names()}


def names() -> list[str]:
    return [name for name in vars(Tries) if not name.startswith("_")]


def _outcome(attempt: Callable[[], None]) -> str | None:
    try:
        attempt()
    except OSError as error:
        return str(error) or "refused"
    return None


def _lines() -> Iterator[str]:
    yield from Path("/proc/self/status").read_text().splitlines()


def main() -> None:
    parser = argparse.ArgumentParser()
    enter.add_arguments(parser)
    given = enter.given(parser.parse_args())
    report = enter.enter(given)
    assignment = json.loads(given.assignment.read_text())
    pipe = SupervisorPipe.take_stdio()
    if "tries" in assignment:
        capabilities = next(line.split()[1] for line in _lines() if line.startswith("CapEff"))
        pipe.tell(
            "result", report=report.as_dict(), tried=tried(assignment["tries"]), capabilities=capabilities
        )
        return
    deeds = Deeds(assignment, pipe)
    for action, *arguments in assignment["recipe"]["script"]:
        getattr(deeds, action)(*arguments)


if __name__ == "__main__":
    main()
