"""One inspection of an upload, in a child process like a job's; what it finds is stored on the upload's row."""

import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from app import inspections
from app.config import get_settings
from app.datasets import service as datasets
from app.datasets.tables import Dataset
from app.db import transaction
from app.errors import BurnishError, Crashed, NotFound, OutOfMemory, TimedOut, Unavailable
from app.models import service as models
from app.models.tables import Model
from app.models.tokenizer import tokenizer_files
from app.storage import TreeFile, get_storage
from workers import running, scratch
from workers.answers import inside
from workers.assignment import UPLOAD_NAMES, InspectAssignment
from workers.child_process import ChildProcess, ProtocolError, child_limits
from workers.endings import death_of, misunderstood, overrun, unforeseen
from workers.finish import read_problem
from workers.hold import InspectionHold, Lost, Stop
from workers.offered import offered
from workers.sandbox import cgroups
from workers.sandbox.paths import WORK
from workers.supervisor import CHILD, LEAVE_SECONDS, TICK_SECONDS
from workers.watch import Limits, Watch

log = structlog.get_logger(__name__)


class _Found(BaseModel):
    model_config = ConfigDict(extra="forbid")

    root: Path
    format: str


class ModelFound(_Found):
    """What the inspection of a model found."""

    signature: dict[str, Any]
    facts: dict[str, Any]
    structure: dict[str, Any] | None = None


class DatasetFound(_Found):
    """What the inspection of a dataset found."""

    samples: int
    inputs: dict[str, Any]
    labels: dict[str, Any] | None


def inspect(subject_id: str, command: Sequence[str] | None = None) -> None:
    """Inspect an upload (`mdl_…`, `dat_…`), if it can be claimed. Raises nothing that the upload is to blame for."""
    if running.stopping.is_set():
        return
    claimed_at = time.monotonic()
    with transaction() as session:
        row = service_of(subject_id).begin_inspection(session, subject_id, get_settings().lease_seconds)
    if row is None:
        log.info("not_claimed", subject=subject_id)
        return
    folder = scratch.folder(row.id, row.inspect_attempts)
    with running.entered(folder.name, row.id), structlog.contextvars.bound_contextvars(subject=row.id):
        try:
            Inspection(row, claimed_at, folder, command or CHILD).run()
        finally:
            scratch.remove(folder)


class Inspection:
    """One attempt to inspect, from the claim on."""

    def __init__(self, row: Model | Dataset, claimed_at: float, folder: Path, command: Sequence[str]):
        self._table = type(row)
        self._row = row
        self._folder = folder
        self._command = command
        self._hold = InspectionHold(self._table, row.id, row.inspect_attempts, claimed_at)

    def run(self) -> None:
        """Inspect, and settle it: ready, rejected, or tried again."""
        try:
            try:
                self._work()
            except Unavailable as error:  # the store is away: another attempt may find it back
                self._died(error)
            except BurnishError as error:
                self._reject(error.problem())
            except Lost:
                raise
            except Exception as error:
                log.exception("inspection_failed")
                self._reject(unforeseen(error).problem())
        except Lost:
            log.warning("lease_lost")

    def _work(self) -> None:
        settings = get_settings()
        if self._row.inspect_attempts > settings.max_attempts:
            raise Crashed("the workers that inspected this file were not heard of any more")
        watch = Watch(
            self._hold,
            Limits(
                running_seconds=settings.inspect_seconds,
                silent_seconds=settings.inspect_seconds,
            ),
        )
        watch.start()
        try:
            self._with_child(watch)
        finally:
            watch.settle()

    def _with_child(self, watch: Watch) -> None:
        path = self._lay_out()
        kills = cgroups.oom_kills()
        self._limits = child_limits(self._folder)
        child = ChildProcess(
            self._command,
            path,
            self._folder,
            self._folder.name,
            self._limits,
        )
        try:
            watch.attend(child)
            last = _last_line(child, watch)
            status = child.close(LEAVE_SECONDS if last else 0)
            log.info("inspected", status=status, log=child.log.tail())
            if watch.stopped is not None and (last is None or last["type"] == "problem"):
                self._stopped(watch.stopped)
            elif last is None:
                self._died(death_of(child, status, kills))
            else:
                self._keep(last)
        except ProtocolError as error:
            self._died(misunderstood(error))
        finally:
            child.close()

    def _lay_out(self) -> Path:
        settings = get_settings()
        scratch.make(self._folder)
        subject: Literal["model", "dataset"] = "model" if isinstance(self._row, Model) else "dataset"
        upload = self._folder / "upload" / UPLOAD_NAMES[subject]
        upload.parent.mkdir()
        get_storage().materialize_file(self._row.upload_digest, upload)
        assignment = InspectAssignment(
            subject=subject,
            subject_id=self._row.id,
            scratch=self._folder / WORK,
            file=upload,
            filename=self._row.filename,
            declared=self._row.declared or {},
            runtimes=offered(),
            tokenizers=self._lay_out_tokenizers(),
            max_archive_bytes=settings.max_archive_bytes,
            max_archive_files=settings.max_archive_files,
        )
        path = self._folder / "assignment.json"
        path.write_text(assignment.model_dump_json())
        return path

    def _lay_out_tokenizers(self) -> Path | None:
        """What `InspectAssignment.tokenizers` says; None where the row names none.

        Raises:
            NotFound: a model was deleted since the dataset was uploaded.
        """
        steps = datasets.tokenizing_steps(self._row.declared) if isinstance(self._row, Dataset) else {}
        folder = self._folder / "tokenizers"
        for number, step in steps.items():
            for file in self._tokenizer_of(step["model"]):
                target = folder / str(number) / PurePosixPath(file.path).name
                target.parent.mkdir(parents=True, exist_ok=True)
                get_storage().materialize_file(file.digest, target)
        return folder if steps else None

    def _tokenizer_of(self, model_id: str) -> list[TreeFile]:
        try:
            with transaction(readonly=True) as session:
                model = models.get_model(session, self._row.project_id, model_id)
                digest, entry = model.digest or "", (model.facts or {})["entry"]
            return tokenizer_files(digest, entry)
        except NotFound as error:
            raise NotFound(
                f"the model {model_id}, whose tokenizer the dataset names, was deleted before the dataset was inspected",
                hint="upload both again, and keep the model until the dataset is ready",
            ) from error

    def _keep(self, last: dict[str, Any]) -> None:
        if last["type"] == "problem":
            self._reject(read_problem(last.get("problem")))
            return
        kind = ModelFound if isinstance(self._row, Model) else DatasetFound
        try:
            found = kind.model_validate(last.get("result"))
        except ValidationError as error:
            raise ProtocolError(f"a result that does not fit: {error}") from error
        try:
            blob = get_storage().put_tree(inside(self._folder, Path(WORK) / found.root))
        except ValueError as error:
            raise ProtocolError(f"files that cannot be stored: {error}") from error
        self._finish(ready={"digest": blob.digest, **found.model_dump(exclude={"root"})})

    def _stopped(self, stopped: Stop) -> None:
        settings = get_settings()
        if stopped is Stop.SHUTDOWN:
            self._give_back()
        elif stopped in (Stop.MEMORY, Stop.PROCESSES, Stop.DISK):
            self._reject(overrun(stopped, self._limits, "inspecting").problem())
        elif stopped in (Stop.OVERTIME, Stop.SILENT):
            slow = TimedOut(
                f"the file was not inspected within {settings.inspect_seconds:g} seconds",
                stage="inspecting",
                hint="raise BURNISH_INSPECT_SECONDS",
            )
            self._reject(slow.problem())
        else:
            raise Lost

    def _died(self, problem: BurnishError) -> None:
        problem.stage = "inspecting"
        if isinstance(problem, OutOfMemory) or self._row.inspect_attempts >= get_settings().max_attempts:
            self._reject(problem.problem())
        else:
            self._give_back()

    def _give_back(self) -> None:
        self._hold.write(
            lambda session: inspections.give_back(
                session, self._table, self._row.id, self._row.inspect_attempts
            )
        )

    def _reject(self, problem: dict[str, Any]) -> None:
        self._finish(problem=problem)

    def _finish(self, **found: dict[str, Any]) -> None:
        self._hold.write(
            lambda session: service_of(self._row.id).finish_inspection(
                session, self._row.id, self._row.inspect_attempts, **found
            )
        )


def service_of(subject_id: str) -> ModuleType:
    """Whose rows these are: the models' or the datasets' service."""
    return models if subject_id.startswith("mdl_") else datasets


def _last_line(child: ChildProcess, watch: Watch) -> dict[str, Any] | None:
    while not child.ended:
        for message in child.messages(TICK_SECONDS):
            if message["type"] in ("result", "problem"):
                watch.child_done()
                return message
            if message["type"] != "progress":
                raise ProtocolError(f"a message of type {message['type']!r}")
    return None
