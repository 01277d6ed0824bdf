"""Uploads and downloads of 2 GiB on loopback beside bare Starlette handlers, and the API's memory meanwhile."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from app.artifacts.tables import Artifact
from app.auth.service import create_key
from app.auth.tables import DEFAULT_PROJECT
from app.ids import new_id
from app.storage.disk import DiskStorage
from benchmarks.loopback import Grounds, Served, burnish, grounds, serving
from benchmarks.rows import fill_jobs

SIZE = 2 * 2**30
ROUNDS = 5
MIB = 2**20
LEAST_UP, LEAST_DOWN, MOST_GROWTH = 0.5, 0.8, 64 * MIB


def main() -> int:
    """Print the table; 1 where something is slower, or takes more memory, than it may."""
    with grounds() as place, ExitStack() as stack:
        bench = Bench(place, stack)
        print("| 2 GiB | MiB/s | bare, MiB/s | ratio [least, most] | API memory grew by |")
        print("| --- | --- | --- | --- | --- |", flush=True)
        ok = bench.compare("upload, multipart", "multipart", LEAST_UP)
        ok &= bench.compare("upload, resumable in parts of 64 MiB", "resumable", LEAST_UP)
        ok &= bench.compare("download", "download", LEAST_DOWN)
    return 0 if ok else 1


class Bench:
    """A service and the bare handlers, each a process, and a file."""

    def __init__(self, place: Grounds, stack: ExitStack):
        self._folder = place.folder / "transfer"
        self._folder.mkdir()
        self._file = self._folder / "source"
        self._sha256 = _make(self._file)
        self._blobs = DiskStorage(self._folder / "blobs")
        url = place.database("transfer")
        environment = place.environment(url) | {"BURNISH_DATA_DIR": str(self._folder)}
        burnish("migrate", environment=environment)
        self._artifact = new_id("art")
        engine = create_engine(url)
        with Session(engine) as session:
            self._key = create_key(session, DEFAULT_PROJECT, "benchmark", ["write"])[1]
            session.add(
                Artifact(
                    id=self._artifact,
                    project_id=DEFAULT_PROJECT,
                    job_id=fill_jobs(session, 100),
                    kind="engine",
                    filename="engine.zip",
                    media_type="application/zip",
                    digest=self._sha256,
                    size_bytes=SIZE,
                )
            )
            session.commit()
        engine.dispose()
        self._api = stack.enter_context(serving("api", "app.cli", place.folder, environment))
        self._bare = stack.enter_context(
            serving("bare", "benchmarks.bare_transfer", place.folder, environment)
        )

    def compare(self, name: str, kind: str, least: float) -> bool:
        """Do it in turns and print a row; whether it holds what it must."""
        ours, theirs = (self._download(True), self._download(False)) if kind == "download" else (
            self._upload(kind), self._upload("bare")
        )  # fmt: skip
        ours()  # the first one warms both up, and its memory is not that of a leak
        theirs()
        memory = Memory(self._api)
        seconds = []
        for number in range(ROUNDS):
            first, second = (ours, theirs) if number % 2 == 0 else (theirs, ours)
            one, other = first(), second()
            seconds.append((one, other) if number % 2 == 0 else (other, one))
        growth = memory.growth()
        ratios = [bare / own for own, bare in seconds]
        speeds = [SIZE / MIB / median(column) for column in zip(*seconds, strict=True)]
        print(
            f"| {name} | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] "
            f"| {growth / MIB:.0f} MiB |",
            flush=True,
        )
        held = median(ratios) >= least and growth < MOST_GROWTH
        if not held:
            print(
                f"{name} must make {least} of the bare speed within {MOST_GROWTH // MIB} MiB", file=sys.stderr
            )
        return held

    def _upload(self, kind: str) -> Callable[[], float]:
        server = self._bare if kind == "bare" else self._api

        def once() -> float:
            done = self._wire(kind, server, self._file)
            if done["answer"]["sha256"] != self._sha256:
                raise RuntimeError(f"{kind}: other bytes were stored than were sent")
            received = self._folder / "received" if kind == "bare" else self._blobs.path(self._sha256)
            received.unlink()
            return float(done["seconds"])

        return once

    def _download(self, own: bool) -> Callable[[], float]:
        path = Path(f"/v1/artifacts/{self._artifact}/content" if own else "/file")
        if own:
            shutil.copyfile(self._file, self._folder / "copy")
            self._blobs.adopt(_moved(self._folder / "copy", self._blobs.incoming), self._sha256)
        server = self._api if own else self._bare
        return lambda: float(self._wire("download", server, path)["seconds"])

    def _wire(self, kind: str, server: Served, path: Path) -> dict[str, Any]:
        os.sync()  # what earlier transfers left to be written is not this one's
        command = [
            sys.executable,
            "-m",
            "benchmarks.wire",
            kind,
            str(server.port),
            self._key,
            str(path),
            str(SIZE),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


class Memory:
    """How much a process has at most, from now on, over what it has now: the kernel counts (Linux)."""

    def __init__(self, server: Served):
        self._status = Path(f"/proc/{server.pid}/status")
        self._before: int = psutil.Process(server.pid).memory_info().rss
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # proc(5): resets the peak

    def growth(self) -> int:
        """Bytes."""
        (line,) = (line for line in self._status.read_text().splitlines() if line.startswith("VmHWM:"))
        peak = int(line.split()[1]) * 1024
        return peak - self._before


def _make(path: Path) -> str:
    """Random bytes, made once; their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(SIZE // (16 * MIB)):
            piece = os.urandom(16 * MIB)
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _moved(path: Path, folder: Path) -> Path:
    return path.rename(folder / path.name)
