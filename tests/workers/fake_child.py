"""A child that does as the job's recipe says: real process, real limits, real protocol, no model."""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from workers.protocol import SupervisorPipe
from workers.sandbox import cgroups, enter, limits, namespaces

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


class FakeChild:
    """Runs a list of [action, argument, …]."""

    def __init__(self, assignment: dict[str, Any], pipe: SupervisorPipe):
        self.scratch = Path(assignment["scratch"])
        self.assignment = assignment
        self.pipe = pipe

    def run(self, script: list[list[Any]]) -> None:
        for action, *arguments in script:
            getattr(self, action)(*arguments)

    def progress(self, stage: str, done: int = 0, total: int = 0, message: str = "") -> None:
        self.pipe.tell("progress", stage=stage, done=done, total=total, message=message)

    def step(self, name: str, key: str, mark: str) -> None:
        """A cached step; where it had to be done, `mark` gets a line."""
        fields = {"index": 0, "name": name, "cached": False, "seconds": None, "key": key, "facts": {}}
        self.pipe.tell("step", status="running", **fields)
        hit = self.pipe.ask("lookup", key=key)
        if hit["found"]:
            assert (Path(hit["root"]) / "file").read_text() == f"{name}\n"
            assert hit["facts"] == {"name": name}
        else:
            root = self.scratch / "steps" / name
            root.mkdir(parents=True)
            (root / "file").write_text(f"{name}\n")
            self.mark(mark)
            kept = self.pipe.ask(
                "store", key=key, name=name, root=str(root), facts={"name": name}, seconds=0.5
            )
            assert (Path(kept["root"]) / "file").read_text() == f"{name}\n"
        self.pipe.tell("step", **{**fields, "status": "done", "cached": hit["found"], "seconds": 0.5})

    def hand_over(self, why: str) -> None:
        """The last line of a child whose machine lacks the device."""
        self.pipe.tell("hand_over", why=why)

    def remember(self, cause: str, text: str) -> None:
        """What later builds may recall."""
        from workers.memory import StepMemory

        StepMemory(self.pipe, self.scratch).remember("notes", {"of": cause}, text.encode())

    def recall(self, cause: str, path: str) -> None:
        """Add a line with what is remembered."""
        from workers.memory import StepMemory

        found = StepMemory(self.pipe, self.scratch).recall("notes", {"of": cause})
        with open(path, "a") as file:
            file.write(f"{None if found is None else found.decode()}\n")

    def checkpoint(self, step: str, text: str) -> None:
        """Keep a step half done."""
        from workers.memory import KeptFolder

        folder = self.scratch / f"checkpoint-{text}"
        folder.mkdir()
        (folder / "file").write_text(text)
        KeptFolder(self.pipe, "checkpoint", step).keep(folder)

    def go_on(self, step: str, path: str) -> None:
        """Add a line with what was kept last."""
        from workers.memory import KeptFolder

        found = KeptFolder(self.pipe, "checkpoint", step).last()
        with open(path, "a") as file:
            file.write(f"{None if found is None else (found / 'file').read_text()}\n")

    def finish_step(self, step: str) -> None:
        """The step is stored: no checkpoint is needed any more."""
        from workers.memory import KeptFolder

        checkpoint = KeptFolder(self.pipe, "checkpoint", step)
        checkpoint.last()
        checkpoint.drop()

    def mark(self, path: str) -> None:
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")

    def once(self, path: str, script: list[list[Any]]) -> None:
        """Only the first time."""
        if not Path(path).exists():
            self.mark(path)
            self.run(script)

    def acquire(self, device: str) -> None:
        self.pipe.ask("acquire", device=device)

    def release(self, device: str) -> None:
        self.pipe.ask("release", device=device)

    def gather(self, *counts: int) -> None:
        """Asks for nodes to train with, and ends where there are none to be had."""
        work = {"number": 0, "key": "a" * 64, "model": None, "device": "cpu"}
        answer = self.pipe.ask("gather", counts=counts, work=work)
        if "problem" in answer:
            self.fail(answer["problem"])

    def dismiss(self) -> None:
        self.pipe.ask("dismiss")

    def by_node(self, first: list[list[Any]], others: list[list[Any]]) -> None:
        """One script for the node that has the job, another for those that help."""
        self.run(first if self.assignment["part"] is None else others)

    def fail(self, problem: dict[str, Any], again: bool = False) -> None:
        self.pipe.tell("problem", problem=problem, result=None, again=again)
        time.sleep(600)

    def sign(self, path: str, changes: dict[str, Any]) -> None:
        """Asks for a signature of its job's manifest, with changes, and notes what came back."""
        own = {"job": self.assignment["job_id"], "model": {"digest": self.assignment["subject"]["digest"]}}
        text = json.dumps({**own, **changes})
        Path(path).write_text(json.dumps({"manifest": text, **self.pipe.ask("sign", manifest=text)}))

    def measure(self, path: str, seconds: float) -> None:
        """Fails where somebody else measures at the same time."""
        held = Path(path)
        held.touch(exist_ok=False)
        time.sleep(seconds)
        held.unlink()

    def print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def wait_for(self, path: str) -> None:
        """Until somebody has left a mark there."""
        while not Path(path).exists():
            time.sleep(0.05)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def spawn(self, path: str) -> None:
        """Two processes that outlive us unless somebody kills them: one in our group, one in a session of its own."""
        for own_session in (False, True):
            other = subprocess.Popen(SLEEPER, start_new_session=own_session)
            with open(path, "a") as file:
                file.write(f"{other.pid}\n")

    def eat(self, mib: int) -> None:
        held = []
        for _ in range(mib):
            held.append(bytearray(os.urandom(1024)) * 1024)
            time.sleep(0.001)
        time.sleep(600)

    def signal(self, number: int) -> None:
        os.kill(os.getpid(), number)
        time.sleep(600)

    def exit(self, status: int) -> None:
        os._exit(status)

    def say(self, line: str) -> None:
        """Anything at all."""
        self.pipe._out.write(line + "\n")
        self.pipe._out.flush()
        time.sleep(600)

    def report(self, path: str) -> None:
        """What this process may do."""
        seen = {
            "environment": dict(os.environ),
            "cwd": str(Path.cwd()),
            "network": _reaches(self.assignment["options"].get("reach")),
            "file": _writes(self.scratch / "large"),
            "memory_bytes": self.assignment["memory_bytes"],
            "subject": (Path(self.assignment["subject"]["root"]) / "model.onnx").read_text(),
        }
        Path(path).write_text(json.dumps(seen))

    def artifacts(self, text: str, key: str | None = None) -> None:
        """A whole result, with one engine and one measurement."""
        self.pipe.tell("result", result=self._result(text))

    def over_budget(self, text: str) -> None:
        problem = {
            "type": "urn:burnish:problem:budget_not_met", "title": "The optimized model breaks its budget",
            "status": 422, "detail": "worse by 0.2", "code": "budget_not_met", "retryable": False,
        }  # fmt: skip
        self.pipe.tell("problem", problem=problem, result=self._result(text))

    def tree(self) -> None:
        """What an inspection unpacks."""
        root = self.scratch / "tree"
        root.mkdir()
        (root / "model.onnx").write_bytes(Path(self.assignment["file"]).read_bytes())

    def result(self, result: Any) -> None:
        self.pipe.tell("result", result=result)

    def _result(self, text: str) -> dict[str, Any]:
        path = self.scratch / "engine.zip"
        path.write_text(text)
        subject = self.assignment["subject"]
        return {
            "result": {"verification": "verified"},
            "artifacts": [
                {
                    "role": "engine",
                    "kind": "engine",
                    "filename": "engine.zip",
                    "media_type": "application/zip",
                    "path": str(path),
                    "manifest": {"schema": 1},
                    "inputs": [{"role": "subject", "id": subject["id"], "digest": subject["digest"]}],
                    "tree_digest": None,
                }
            ],
            "measurements": [
                {
                    "side": "optimized",
                    "name": "latency_p50",
                    "unit": "ms",
                    "value": 1.5,
                    "low": 1.4,
                    "high": 1.6,
                    "samples": {"count": 3},
                    "machine": {},
                }
            ],
        }


def _reaches(address: str | None) -> bool | None:
    if address is None:
        return None
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def _writes(path: Path) -> str:
    try:
        with path.open("wb") as file:
            for _ in range(64):
                file.write(bytes(1024 * 1024))
    except OSError as error:
        return os.strerror(error.errno or 0)
    return "written"


def confine(given: enter.Confinement) -> None:
    """Less than a real child: tests tell it to write elsewhere, and look for the processes that it names."""
    cgroups.enter(given.cgroups)
    limits.offer_to_oom_killer()
    namespaces.leave(only_network=True)
    namespaces.die_with_parent(given.parent)
    limits.limit_files(given.file_bytes)


def main() -> None:
    parser = argparse.ArgumentParser()
    enter.add_arguments(parser)
    given = enter.given(parser.parse_args())
    confine(given)
    assignment = json.loads(given.assignment.read_text())
    pipe = SupervisorPipe.take_stdio()
    script = assignment["declared" if assignment["kind"] == "inspect" else "recipe"].get("script", [])
    FakeChild(assignment, pipe).run(script)
    if assignment["kind"] == "optimize":
        pipe.tell("result", result={"result": {}, "artifacts": [], "measurements": []})


if __name__ == "__main__":
    main()
