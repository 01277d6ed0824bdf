"""Uploads, inspections, jobs, deletions and collections in any order: nothing that is referenced is lost, the rest goes."""

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import delete, select

from app import uploaded
from app.artifacts import service as artifacts
from app.artifacts.tables import Artifact
from app.auth.tables import DEFAULT_PROJECT, Project
from app.config import Settings
from app.db import transaction
from app.errors import Conflict
from app.ids import new_id
from app.jobs import service as jobs
from app.jobs.tables import Job, StepResult
from app.models.tables import Model
from app.references import named_digests
from app.retention import service
from app.retention.verify import verify
from app.storage import get_storage
from app.tables import metadata
from app.uploads.tables import Upload
from tests.app.jobs.factories import make_model, sha
from tests.app.retention.support import add_job, add_step, age, days_ago, keep, put_tree

CONTENTS = st.sampled_from([b"a", b"b", b"c", b"d"])
TREES = st.sets(CONTENTS, min_size=1, max_size=3)
WHICH = st.integers(0, 5)
DAYS = st.integers(0, 9)


class Installation(RuleBasedStateMachine):
    """What happens to rows and files."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        with transaction() as session:
            for table in reversed(metadata.sorted_tables):
                session.execute(delete(table))
            session.add(Project(id=DEFAULT_PROJECT, name="default"))
        for digest in list(get_storage().digests()):
            get_storage().delete(digest)

    @rule(content=CONTENTS)
    def upload_a_model(self, content: bytes) -> None:
        digest = get_storage().put([content]).digest
        make_model(status="inspecting", upload_digest=digest, digest=None, facts={})

    @rule(which=WHICH, files=TREES)
    def inspect_a_model(self, which: int, files: set[bytes]) -> None:
        if model := self._pick(select(Model).where(Model.status == "inspecting"), which):
            tree = self._tree(files)
            with transaction() as session:
                attempt = uploaded.begin_inspection(session, Model, model.id, 30)
                assert attempt is not None
                assert uploaded.finish_inspection(
                    session, Model, model.id, attempt.inspect_attempts, ready={"digest": tree}
                )

    @rule(content=CONTENTS, over=st.booleans())
    def complete_a_resumable_upload(self, content: bytes, over: bool) -> None:
        with transaction() as session:
            session.add(
                Upload(
                    id=new_id("upl"), project_id=DEFAULT_PROJECT, name="file", size_bytes=1, offset_bytes=1, sha256=None,
                    digest=get_storage().put([content]).digest, expires_at=days_ago(1 if over else -1),
                )
            )  # fmt: skip

    @rule(files=TREES, key=WHICH, days=DAYS)
    def store_a_step(self, files: set[bytes], key: int, days: int) -> None:
        tree = self._tree(files)
        with transaction() as session:
            session.execute(delete(StepResult).where(StepResult.key == sha(str(key))))
        add_step(tree, sha(str(key)), days=days, size_bytes=len(files))

    @rule(which=WHICH, days=st.one_of(st.none(), DAYS), content=CONTENTS)
    def run_a_job(self, which: int, days: int | None, content: bytes) -> None:
        """It makes a model from a stored step, if there is one."""
        subjects = [
            select(Model).where(Model.status == "ready"),
            select(Artifact).where(Artifact.kind == "model"),
        ]
        subject = self._pick(subjects[which % 2], which)
        if subject is None:
            return
        job = add_job(subject.id, days=days)
        step = self._pick(select(StepResult), which)
        blob = get_storage().put([content])
        with transaction() as session:
            session.add(
                Artifact(
                    id=new_id("art"), project_id=DEFAULT_PROJECT, job_id=job, kind="model", filename="model.zip",
                    media_type="application/zip", digest=blob.digest, size_bytes=1, manifest={},
                    tree_digest=step.digest if step else None,
                )
            )  # fmt: skip

    @rule(which=WHICH)
    def delete_a_model(self, which: int) -> None:
        if model := self._pick(select(Model), which):
            with contextlib.suppress(Conflict), transaction() as session:
                uploaded.remove(session, Model, DEFAULT_PROJECT, model.id)

    @rule(which=WHICH)
    def delete_a_job(self, which: int) -> None:
        if job := self._pick(select(Job), which):
            with contextlib.suppress(Conflict), transaction() as session:
                jobs.delete_job(session, DEFAULT_PROJECT, job.id)

    @rule(which=WHICH)
    def delete_an_artifact(self, which: int) -> None:
        if artifact := self._pick(select(Artifact), which):
            with contextlib.suppress(Conflict), transaction() as session:
                artifacts.delete_artifact(session, DEFAULT_PROJECT, artifact.id)

    @rule()
    def time_passes(self) -> None:
        age(*get_storage().digests())

    @rule(jobs=DAYS, steps=DAYS)
    def collect(self, jobs: int, steps: int) -> None:
        keep(keep_jobs_days=jobs, keep_steps_bytes=steps)
        planned, done = service.collect(dry_run=True), service.collect()
        for kind in ("uploads", "jobs", "steps"):
            assert planned.kinds[kind] == done.kinds[kind]

    @rule(hours=st.sampled_from([0, 1]))
    def pause_or_resume(self, hours: int) -> None:
        with transaction() as session:
            service.pause(session, hours) if hours else service.resume(session)

    @invariant()
    def everything_that_is_referenced_is_there(self) -> None:
        assert verify(read=False).faults == []

    def teardown(self) -> None:
        self.pause_or_resume(0)
        self.time_passes()
        service.collect()
        with transaction(readonly=True) as session:
            named = named_digests(session, "", 1000)
        assert sorted(get_storage().digests()) == named

    def _pick(self, query: object, which: int) -> object:
        with transaction(readonly=True) as session:
            rows = list(session.scalars(query))  # type: ignore[call-overload]
            session.expunge_all()
        return rows[which % len(rows)] if rows else None

    def _tree(self, files: Iterable[bytes]) -> str:
        root = self.folder / "tree"
        tree = put_tree(root, **{content.decode(): content for content in sorted(files)})
        shutil.rmtree(root)
        return tree


@pytest.mark.usefixtures("burnish_sqlite")
def test_nothing_is_lost_and_nothing_is_left(tmp_path: Path, burnish_sqlite: Settings) -> None:
    Installation.folder = tmp_path / "trees"
    run_state_machine_as_test(
        Installation,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
