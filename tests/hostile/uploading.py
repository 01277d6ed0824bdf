"""Hostile files over HTTP to a whole service, and what must be true of it afterwards."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from app.client import ApiProblem, Client
from tests.faults.parts import attempts_of
from tests.hostile.case import READY, Hostile
from tests.hostile.judge import faults, text_faults, texts
from tests.workers.formats.uploads import linear

MEMORY_BYTES = 1536 * 1024 * 1024
RESIDENT_BYTES = 512 * 1024 * 1024  # of a process that opens no upload
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Uploader:
    """A client of a running service whose long-lived processes are these."""

    client: Client
    folder: Path
    processes: list[psutil.Process]

    def upload(self, one: Hostile) -> tuple[str, dict[str, Any]]:
        """The id of an uploaded file, and its row once it was inspected."""
        path = self.folder / "upload"
        path.write_bytes(one.make())
        model = one.subject == "model"
        row = (self.client.upload_model if model else self.client.upload_dataset)(path, name=one.name)
        try:
            (self.client.wait_model if model else self.client.wait_dataset)(row["id"])
        except ApiProblem as error:
            if error.problem.get("code") == "not_found":
                raise
        return row["id"], self.client.show("models" if model else "datasets", row["id"])

    def wrong_with(self, one: Hostile) -> list[str]:
        """What is wrong with the answer to a file; a file that cannot even be sent must be refused with a code."""
        try:
            id_, row = self.upload(one)
        except ApiProblem as error:
            taken = error.problem["code"] in {*one.codes, "invalid_params"}  # an empty file is no file
            return [] if taken else [f"{one.name}: {error.problem}"]
        code = READY if row["status"] == READY else (row["problem"] or {}).get("code", row["status"])
        found = [] if code in one.codes else [f"{code}, not {sorted(one.codes)}: {row['problem']}"]
        if row["problem"]:
            found += faults(row["problem"], str(self.folder))
        for text in texts(row):
            found += text_faults(text, str(self.folder))
        self.client.delete("models" if one.subject == "model" else "datasets", id_)
        return [f"{one.name}: {fault}" for fault in found]

    def harm(self) -> list[str]:
        """What is wrong with the service itself: a dead process, one that grew, an orphan, a folder left, no answer."""
        found = [f"{one.pid} is gone" for one in self.processes if not one.is_running()]
        for one in self.processes:
            if one.is_running() and (held := one.memory_info().rss) > RESIDENT_BYTES:
                found.append(f"{one.pid} holds {held} bytes: {one.cmdline()}")
        sound = Hostile("sound", lambda: linear().SerializeToString(), frozenset({READY}))
        found += self.wrong_with(sound)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found + left

    def left(self) -> list[str]:
        """Scratch folders and processes of attempts that are over."""
        scratch = self.folder / "data" / "scratch"
        folders = [f"left: {path.name}" for path in scratch.iterdir()] if scratch.exists() else []
        return folders + [f"orphan: {process.pid}" for process in attempts_of(self.folder)]
