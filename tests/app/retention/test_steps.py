"""The step cache is held to its size."""

from pathlib import Path

import pytest
from sqlalchemy import select

from app.config import Settings
from app.db import transaction
from app.jobs.tables import StepResult
from app.retention import service, steps
from app.storage import get_storage
from tests.app.jobs.factories import sha
from tests.app.retention.support import add_job, add_step, age, keep, put_tree, settings

PROJECT = "prj_default"


def trees() -> set[str]:
    with transaction(readonly=True) as session:
        return set(session.scalars(select(StepResult.digest)))


def test_what_was_not_used_for_longest_goes_first(burnish: Settings, tmp_path: Path) -> None:
    made = [put_tree(tmp_path / str(days), file=str(days).encode()) for days in range(4)]
    for days, tree in enumerate(made):
        add_step(tree, days=days + 1, size_bytes=100)
    age(*get_storage().digests())
    keep(keep_steps_bytes=250)
    assert service.collect(dry_run=True).kinds["steps"] == service.Removed(2, 200)
    report = service.collect()
    assert report.kinds["steps"] == service.Removed(2, 200)
    assert trees() == set(made[:2])
    assert [get_storage().exists(tree) for tree in made] == [True, True, False, False]
    assert service.collect().kinds["steps"].count == 0


def test_a_tree_of_several_steps_counts_once_and_is_as_young_as_its_last_use(burnish: Settings) -> None:
    for days in (1, 9):
        add_step(sha("shared"), days=days, size_bytes=100)
    add_step(sha("own"), days=5, size_bytes=100)
    keep(keep_steps_bytes=200)
    assert service.collect().kinds["steps"].count == 0
    keep(keep_steps_bytes=100)
    service.collect()
    assert trees() == {sha("shared")}


def test_what_an_unfinished_job_may_have_taken_stays(burnish: Settings) -> None:
    """It began a day ago."""
    add_job()
    add_step(sha("taken"), days=0.5)
    add_step(sha("before"), days=2)
    keep(keep_steps_bytes=1)
    service.collect()
    assert trees() == {sha("taken")}


def test_what_is_used_meanwhile_stays(burnish: Settings) -> None:
    add_step(sha("used"), "0" * 64, days=2)
    add_step(sha("unused"), days=3)
    with transaction(readonly=True) as session:
        found = steps.surplus(session, PROJECT, 1)
    assert set(found.trees) == {sha("used"), sha("unused")}
    add_step(sha("used"), days=0)
    assert steps.remove(PROJECT, found) == [sha("unused")]
    assert trees() == {sha("used")}


def test_without_a_limit_everything_stays(burnish_sqlite: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    add_step(sha("one"), days=400)
    service.collect()
    assert trees() == {sha("one")}
    with settings(monkeypatch, project_keep_steps_bytes=1):
        service.collect()
    assert trees() == set()
