"""`burnish gc` and stored files: what rows refer to stays, what is young stays, the rest goes."""

import json
from pathlib import Path

import pytest
from sqlalchemy import delete, select
from typer.testing import CliRunner

from app import references
from app.cli import app
from app.config import Settings
from app.db import transaction
from app.jobs.tables import StepResult
from app.retention import service
from app.retention.tables import TreeFile
from app.retention.verify import Fault, verify
from app.storage import DiskStorage, get_storage
from tests.app.retention.support import add_step, age, path_of, put_tree, settings


def collected(**options: bool) -> tuple[int, int]:
    report = service.collect(**options)
    return report.files, report.size_bytes


def test_only_old_files_without_a_row_go(burnish: Settings, tmp_path: Path) -> None:
    storage = get_storage()
    tree = put_tree(tmp_path / "tree", model=b"weights")
    orphan, young = storage.put([b"orphan"]).digest, storage.put([b"young"]).digest
    kept = {tree, *(entry.digest for entry in storage.tree(tree))}
    add_step(tree)
    age(orphan, *kept)
    assert collected(dry_run=True) == (1, len(b"orphan"))
    assert storage.exists(orphan)
    assert collected() == (1, len(b"orphan"))
    assert set(storage.digests()) == {young, *kept}
    assert collected() == (0, 0)


def test_bytes_that_are_stored_again_are_young(burnish_sqlite: Settings) -> None:
    digest = get_storage().put([b"again"]).digest
    age(digest)
    get_storage().put([b"again"])
    assert collected() == (0, 0)
    age(digest)
    answer = CliRunner().invoke(app, ["gc", "--json"])
    assert answer.exit_code == 0
    said = json.loads(answer.stdout)
    assert (said["files"], said["size_bytes"]) == (1, 5)
    assert said["kinds"]["blobs"] == {"count": 1, "size_bytes": 5}
    assert not get_storage().exists(digest)


def test_the_grace_is_a_setting(burnish_sqlite: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    get_storage().put([b"new"])
    assert collected() == (0, 0)
    with settings(monkeypatch, gc_grace_seconds=0):
        assert collected() == (1, 3)


def test_trees_are_read_once_and_forgotten_with_their_last_row(
    burnish: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = put_tree(tmp_path / "tree", one=b"1", two=b"2", other=b"2")
    add_step(tree)
    collected()
    with transaction(readonly=True) as session:
        assert len(session.scalars(select(TreeFile.file).where(TreeFile.tree == tree)).all()) == 2
    age(*get_storage().digests())
    with monkeypatch.context() as patch:
        patch.setattr(DiskStorage, "tree", None)  # nobody asks it again
        assert collected() == (0, 0)
    with transaction() as session:
        session.execute(delete(StepResult))
    assert collected()[0] == 3
    with transaction(readonly=True) as session:
        assert session.scalars(select(TreeFile)).all() == []


def test_a_file_of_a_tree_that_nobody_asked_for_yet_is_not_released_with_another(
    burnish: Settings, tmp_path: Path
) -> None:
    """Workers of an older version name trees without a word to the collector."""
    shared = put_tree(tmp_path / "one", shared=b"shared", own=b"own")
    add_step(put_tree(tmp_path / "two", shared=b"shared", other=b"other"))
    age(*get_storage().digests())
    with transaction() as session:
        references.release(session, trees=[shared])
    assert [found.problem for found in verify().faults] == []
    assert not get_storage().exists(shared)


def test_while_paused_rows_go_and_files_stay(burnish: Settings) -> None:
    digest = get_storage().put([b"orphan"]).digest
    age(digest)
    runner = CliRunner()
    assert json.loads(runner.invoke(app, ["gc", "--pause", "2", "--json"]).stdout)["paused_until"]
    with transaction() as session:
        references.release(session, blobs=[digest])
    report = json.loads(runner.invoke(app, ["gc", "--json"]).stdout)
    assert (report["files"], bool(report["paused_until"])) == (0, True)
    assert get_storage().exists(digest)
    assert "paused" in runner.invoke(app, ["gc"]).stdout
    runner.invoke(app, ["gc", "--pause", "0"])
    assert collected() == (1, 6)


def test_verify_finds_what_is_missing_or_damaged_and_who_needs_it(burnish: Settings, tmp_path: Path) -> None:
    storage = get_storage()
    tree = put_tree(tmp_path / "tree", model=b"weights", data=b"data")
    add_step(tree, "0" * 64)
    assert (verify().files, verify().faults) == (3, [])
    files = {entry.path: entry.digest for entry in storage.tree(tree)}
    path_of(files["data"]).unlink()
    path_of(files["model"]).chmod(0o644)
    path_of(files["model"]).write_bytes(b"wEights")
    user = f"step {'0' * 64}"
    missing = Fault(files["data"], "missing", [user])
    expected = [missing, Fault(files["model"], "damaged", [user])]
    assert verify().faults == sorted(expected, key=lambda fault: fault.digest)
    assert verify(read=False).faults == [missing]
    answer = CliRunner().invoke(app, ["verify", "--json"])
    assert answer.exit_code == 1
    assert {fault["problem"] for fault in json.loads(answer.stdout)["faults"]} == {"missing", "damaged"}
    path_of(tree).unlink()
    assert tree in {fault.digest for fault in verify().faults}
