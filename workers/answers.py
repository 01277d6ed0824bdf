"""What a supervisor does with each thing that a child says (`protocol.py`). What a child says is not trusted."""

import json
import shutil
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app import references
from app.auth import quotas
from app.config import get_settings
from app.db import db_now, upsert
from app.errors import InvalidParams, NotFound, Unavailable
from app.fleet import devices
from app.jobs import lease, logs
from app.jobs.tables import Job, StepResult
from app.redaction import showable
from app.signing.keys import current
from app.signing.signatures import BadKey, sign
from app.storage import Blob, get_storage
from workers import running
from workers.assignment import JobAssignment
from workers.child_process import ChildProcess, ProtocolError, printable
from workers.hold import JobHold
from workers.nodes.gathering import Gather, Gathering
from workers.spans import StepSpans
from workers.watch import Watch

PROGRESS_SECONDS = 0.5
LOG_SECONDS = 1.0
ACQUIRE_SECONDS = 0.5
MESSAGE_CHARS = 2000
MOST_WRITES = 10_000  # steps, stages and questions of one attempt: each is written to the database
MOST_MANIFEST_CHARS = 16 * 1024 * 1024
MOST_BYTES = 256 * 1024 * 1024  # of everything that one attempt says

Key = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


class Progress(_Said):
    """How far the child is."""

    stage: Name
    done: int | float
    total: int | float
    message: str


class Step(_Said):
    """A step began or ended."""

    index: int
    name: Name
    status: Literal["running", "done", "failed"]
    cached: bool
    seconds: float | None
    key: Key | None
    facts: dict[str, Any]


class Lookup(_Said):
    """Is this step stored?"""

    key: Key


class Store(_Said):
    """Keep this step's files."""

    key: Key
    name: Name
    root: Path
    facts: dict[str, Any]
    seconds: float


class Forget(_Said):
    """What is stored under this key is of no use any more."""

    key: Key


class Device(_Said):
    """A device to measure on alone."""

    device: Annotated[str, StringConstraints(min_length=1, max_length=40)]


class Sign(_Said):
    """A manifest to sign."""

    manifest: Annotated[str, StringConstraints(max_length=MOST_MANIFEST_CHARS)]


class Answers:
    """Hears one child of a job."""

    def __init__(
        self,
        hold: JobHold,
        child: ChildProcess,
        watch: Watch,
        assignment: JobAssignment,
        nodes: Gathering | None = None,
    ):
        self._nodes = nodes
        self._hold = hold
        self._child = child
        self._watch = watch
        self._scratch = assignment.scratch
        self._subject = assignment.subject.digest
        self._fresh_only = bool(assignment.options.get("no_cache"))
        self._progress: Progress | None = None
        self._writes = 0
        self.stage: str | None = None
        self._progress_at = 0.0
        self._log_at = 0.0
        self._spans = StepSpans()

    def take(self, message: dict[str, Any]) -> None:
        """Do what the child asks, and answer if it waits.

        Raises:
            ProtocolError: there is no such message.
            Lost: the hold is gone.
            BurnishError: it could not be done, `disk_full` or `quota_exceeded` for one.
        """
        self._count(message)
        fields = dict(message)
        try:
            match fields.pop("type"):
                case "progress":
                    self._hear(Progress.model_validate(fields))
                case "step":
                    self._step(Step.model_validate(fields))
                case "lookup":
                    self._lookup(Lookup.model_validate(fields))
                case "store":
                    self._store(Store.model_validate(fields))
                case "forget":
                    self._forget(Forget.model_validate(fields))
                case "acquire":
                    self._acquire(Device.model_validate(fields).device)
                case "release":
                    self._release(Device.model_validate(fields).device)
                case "gather" if self._nodes is not None:
                    self._gather(self._nodes, Gather.model_validate(fields))
                case "dismiss" if self._nodes is not None:
                    self._nodes.close()
                    self._child.answer()
                case "sign":
                    self._sign(Sign.model_validate(fields).manifest)
                case other:
                    raise ProtocolError(f"a message of type {other!r}")
        except ValidationError as error:
            raise ProtocolError(f"a {message['type']} message that does not fit: {error}") from error

    def _count(self, message: dict[str, Any]) -> None:
        self._writes += message["type"] != "progress" or message.get("stage") != self.stage
        if self._writes > MOST_WRITES:
            raise ProtocolError(f"more than {MOST_WRITES} steps, stages and questions")
        if message["type"] != "progress" and self._child.said_bytes > MOST_BYTES:
            raise ProtocolError(f"more than {MOST_BYTES} bytes")

    def tick(self) -> None:
        """Write what waits: the newest progress, the log."""
        now = time.monotonic()
        if self._progress is not None and now - self._progress_at >= PROGRESS_SECONDS:
            self._tell_progress()
        if now - self._log_at >= LOG_SECONDS:
            self.keep_log()
        if self._nodes is not None:
            self._nodes.watch()

    def close(self) -> None:
        """The child is gone: write the rest of the log, and end what it left open."""
        self.keep_log()
        self._spans.close()

    def keep_log(self) -> None:
        """Write what the child printed."""
        self._log_at = time.monotonic()
        if text := self._prefixed(self._child.log.take()):
            limit = get_settings().max_log_bytes
            self._hold.write(
                lambda session: logs.append_log(session, self._hold.job_id, self._hold.attempt, text, limit)
            )

    def _prefixed(self, text: str) -> str:
        return text

    def _hear(self, said: Progress) -> None:
        self._progress = said
        if said.stage != self.stage or time.monotonic() - self._progress_at >= PROGRESS_SECONDS:
            self._tell_progress()

    def _tell_progress(self) -> None:
        said, self._progress = self._progress, None
        assert said is not None
        self.stage = said.stage
        self._progress_at = time.monotonic()
        how_far = {
            "done": said.done,
            "total": said.total,
            "message": showable(printable(said.message[:MESSAGE_CHARS])),
        }
        self._hold.write(
            lambda session: lease.progress(
                session, self._hold.job_id, self._hold.attempt, said.stage, how_far
            )
        )

    def _step(self, step: Step) -> None:
        self._spans.hear(step.index, step.name, step.status, step.cached)
        self._hold.write(
            lambda session: lease.record_step(
                session, self._hold.job_id, self._hold.attempt, step.model_dump()
            )
        )

    def _lookup(self, asked: Lookup) -> None:
        self._child.wait_for_us()
        found = self._hold.write(lambda session: self._find(session, asked.key))
        if found and (root := self._lay_out(found["digest"])):
            self._child.answer(found=True, root=str(root), **found)
        else:
            self._child.answer(found=False)

    def _find(self, session: Session, key: str) -> dict[str, Any] | None:
        """The stored step, {} where there is none, None where the hold is lost."""
        job = lease.hold(session, self._hold.job_id, self._hold.attempt)
        if job is None:
            return None
        where = [StepResult.project_id == job.project_id, StepResult.key == key]
        if self._fresh_only:  # what this job stored in an earlier attempt is no cache
            where.append(
                StepResult.created_at >= select(Job.started_at).where(Job.id == job.id).scalar_subquery()
            )
        row = session.scalar(select(StepResult).where(*where))
        if row is None:
            return {}
        session.execute(
            update(StepResult)
            .where(StepResult.project_id == job.project_id, StepResult.key == key)
            .values(last_used_at=db_now()),
            execution_options={"synchronize_session": False},
        )
        return {"digest": row.digest, "facts": row.facts, "seconds": row.seconds}

    def _lay_out(self, digest: str) -> Path | None:
        """The folder of a stored tree, by its digest: what a key names may be stored anew meanwhile. None: it is gone."""
        root = self._scratch.parent / "cached" / digest
        if root.exists():
            return root
        partial = root.with_suffix(".partial")
        try:
            get_storage().materialize(digest, partial)
        except (NotFound, FileNotFoundError):
            # its files were removed before or meanwhile: the step is done again, and stored again
            shutil.rmtree(partial, ignore_errors=True)
            return None
        partial.rename(root)
        return root

    def _store(self, step: Store) -> None:
        self._child.wait_for_us()
        root = inside(self._scratch, step.root)
        try:
            blob = get_storage().put_tree(root)
        except ValueError as error:
            raise ProtocolError(f"files of step {step.name} that cannot be stored: {error}") from error
        self._hold.write(lambda session: self._keep(session, step, blob))
        self._child.answer(digest=blob.digest, root=str(root))

    def _keep(self, session: Session, step: Store, blob: Blob) -> bool:
        if not lease.step_stored(session, self._hold.job_id, self._hold.attempt):
            return False
        values = {
            "name": step.name,
            "digest": blob.digest,
            "size_bytes": blob.size_bytes,
            "facts": step.facts,
            "seconds": step.seconds,
        }
        insert = upsert(session, StepResult).values(project_id=self._hold.project_id, key=step.key, **values)
        renewed = {**values, "created_at": db_now(), "last_used_at": db_now()}
        session.execute(
            insert.on_conflict_do_update(index_elements=[StepResult.project_id, StepResult.key], set_=renewed)
        )
        quotas.check_storage(session, self._hold.project_id, 0)
        return True

    def _forget(self, asked: Forget) -> None:
        self._child.wait_for_us()
        self._hold.write(lambda session: self._remove(session, asked.key))
        self._child.answer()

    def _remove(self, session: Session, key: str) -> bool:
        if lease.hold(session, self._hold.job_id, self._hold.attempt) is None:
            return False
        where = (StepResult.project_id == self._hold.project_id, StepResult.key == key)
        trees = list(session.scalars(select(StepResult.digest).where(*where)))
        session.execute(delete(StepResult).where(*where))
        references.release(session, trees=trees)
        return True

    def _acquire(self, device: str) -> None:
        self._child.wait_for_us()
        while not self._hold.write(lambda session: self._try_acquire(session, device))["acquired"]:
            self._hear(
                Progress(stage="waiting", done=0, total=0, message=f"for {device}: another job measures")
            )
            self.tick()
            time.sleep(ACQUIRE_SECONDS)
            if self._watch.stopped is not None or self._child.exited():
                return
        self._hold.devices.add(device)
        self._child.answer()

    def _try_acquire(self, session: Session, device: str) -> dict[str, bool] | None:
        if lease.hold(session, self._hold.job_id, self._hold.attempt) is None:
            return None
        seconds = get_settings().lease_seconds
        return {"acquired": devices.acquire(session, running.HOST, device, self._hold.holder, seconds)}

    def _gather(self, nodes: Gathering, asked: Gather) -> None:
        self._child.wait_for_us()

        def wait(there: int, wanted: int) -> bool:
            said = f"for {wanted} nodes to train on: {there} there"
            self._hear(Progress(stage="waiting", done=there, total=wanted, message=said))
            self.tick()
            return self._watch.stopped is None and not self._child.exited()

        try:
            answer = nodes.gather(asked, wait)
        except (InvalidParams, Unavailable) as error:
            answer = {"problem": error.problem()}
        if answer:
            self._child.answer(**answer)

    def _release(self, device: str) -> None:
        self._child.wait_for_us()
        self._hold.release(device)
        self._child.answer()

    def _sign(self, manifest: str) -> None:
        """Sign what names this job and its subject, and nothing else: a child must not speak for other models."""
        self._child.wait_for_us()
        try:
            said = json.loads(manifest)
            own = (said["job"], said["model"]["digest"]) == (self._hold.job_id, self._subject)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ProtocolError("a manifest to sign that cannot be read") from error
        if not own:
            raise ProtocolError("a manifest to sign that is not of this job")
        self._child.answer(signature=signature_of(manifest))


def signature_of(manifest: str) -> str | None:
    """The signature's file for a manifest; None where this installation has no key.

    Raises:
        Unavailable: the keys cannot be read.
    """
    try:
        key = current(get_settings().signing_path)
    except BadKey as error:
        raise Unavailable(
            f"the keys that bundles are signed with cannot be read: {error}",
            stage="packaging",
            hint="see `burnish keys signing list` on this worker's machine",
        ) from error
    return None if key is None else sign(key, manifest.encode())


def inside(scratch: Path, said: Path) -> Path:
    """A path that a child named, if it is in the child's folder.

    Raises:
        ProtocolError: it is not.
    """
    path = (scratch / said).resolve()
    if not path.is_relative_to(scratch.resolve()) or path == scratch.resolve():
        raise ProtocolError(f"a path outside its folder: {said}")
    return path
