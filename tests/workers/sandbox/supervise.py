"""Starts a hostile child as a worker does, and looks at what it did to the world: prints that as one JSON object.

`python supervise.py FOLDER [--without=…]`: a program of its own, so that a test can start it as another user.
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from workers.child_process import ChildLimits, ChildProcess
from workers.sandbox import privileges
from workers.sandbox.cgroups import ROOT

HOSTILE = Path(__file__).with_name("hostile.py")
SECRET = "postgresql://burnish:hunter2@db/burnish"
PROCESSES = 60


def main(root: Path, without: frozenset[str]) -> dict[str, Any]:
    privileges.close_memory()
    data, attempt = root / "data", root / "data" / "scratch" / "job_x-1"
    for folder in (data / "blobs", attempt / "subject", root / "home", data / "scratch" / "job_y-1"):
        folder.mkdir(parents=True)
    files = {
        "database": data / "burnish.db", "blob": data / "blobs" / "other", "key": root / "home" / "id_ed25519",
        "other_attempt": data / "scratch" / "job_y-1" / "subject",
    }  # fmt: skip
    for path in files.values():
        path.write_text("secret")
    blob = data / "blobs" / "own"
    blob.write_bytes(b"a model")
    blob.chmod(0o444)
    (attempt / "subject" / "model.onnx").hardlink_to(blob)
    before = blob.stat()
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0burnish-test-{os.getpid()}")
        named = stack.enter_context(socket.socket(socket.AF_UNIX))
        os.chdir(data)  # a short path: sun_path holds 108 bytes
        named.bind("s")
        for server in (abstract, named):
            server.listen()
        sibling = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        stack.callback(sibling.wait)
        stack.callback(sibling.kill)
        told = {
            **{name: str(path) for name, path in files.items()},
            "data": str(data),
            "input": str(attempt / "subject" / "model.onnx"),
            "assignment": str(attempt / "assignment.json"),
            "source": str(Path(privileges.__file__)),
            "tcp": tcp.getsockname(),
            "udp": udp.getsockname(),
            "abstract": f"burnish-test-{os.getpid()}",
            "path_socket": str(data / "s"),
            "secret": SECRET,
            "supervisor": os.getpid(),
            "sibling": sibling.pid,
            "processes": PROCESSES,
        }
        (attempt / "assignment.json").write_text(json.dumps({"tries": told}))
        limits = ChildLimits(8 * 2**20, 2**30, PROCESSES, 2**40, 100_000, without=without)
        child = ChildProcess(
            (sys.executable, str(HOSTILE)), attempt / "assignment.json", attempt, "job_x-1", limits
        )
        said: dict[str, Any] = {}
        while not child.ended:
            for message in child.messages(0.2):
                said = message
        status = child.close(5)
        try:
            arrived = bool(udp.recv(10))
        except BlockingIOError:
            arrived = False
        after = blob.stat()
        return {
            **said,
            "status": status,
            "log": child.log.tail(40),
            "datagram_arrived": arrived,
            "sibling_alive": sibling.poll() is None,
            "blob_same": blob.read_bytes() == b"a model"
            and blob.samefile(attempt / "subject" / "model.onnx"),
            "blob_metadata_same": (before.st_mode, before.st_mtime) == (after.st_mode, after.st_mtime),
            "groups_left": [str(path) for path in ROOT.rglob(f"burnish-{os.getpid()}-*")],
        }


if __name__ == "__main__":
    os.environ["BURNISH_DATABASE_URL"] = SECRET
    if "--restarted" not in sys.argv:  # /proc shows the environment that a process was started with
        os.execv(sys.executable, [sys.executable, *sys.argv, "--restarted"])
    without = frozenset(word.removeprefix("--without=") for word in sys.argv if word.startswith("--without="))
    print(json.dumps(main(Path(sys.argv[1]), without)))  # noqa: T201 - this is what the program is for
