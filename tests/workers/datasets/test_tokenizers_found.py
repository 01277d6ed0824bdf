"""A worker that inspects a dataset brings it the tokenizer of the model that it names, of the same project alone."""

from pathlib import Path

import pytest
from sqlalchemy import update

from app.auth import service as auth
from app.auth.tables import DEFAULT_PROJECT
from app.config import Settings
from app.datasets.tables import Dataset
from app.db import transaction
from app.ids import new_id
from app.models import service as models
from app.models.tables import Model
from app.storage import get_storage
from tests.workers.conftest import add_model
from tests.workers.datasets.texts import LENGTH, MINILM, step, texts_of_tar
from workers import inspection


def add_texts(folder: Path, model: Model) -> str:
    """An uploaded dataset of texts that is not inspected yet."""
    folder.mkdir()
    declared = texts_of_tar(folder, step(model=model.id)).declared
    blob = get_storage().put_file(folder / "data.tar")
    row = Dataset(
        id=new_id("dat"), project_id=DEFAULT_PROJECT, name="texts", filename="data.tar", status="inspecting",
        upload_digest=blob.digest, size_bytes=blob.size_bytes, declared=declared,
    )  # fmt: skip
    with transaction() as session:
        session.add(row)
    return row.id


def inspected(id_: str) -> Dataset:
    inspection.inspect(id_)
    with transaction() as session:
        return session.get_one(Dataset, id_)


@pytest.fixture
def model(quick_sqlite: Settings, tmp_path: Path) -> Model:
    """A ready model with MiniLM's tokenizer beside it, and another tokenizer elsewhere."""
    row = add_model(tmp_path / "unused")
    root = tmp_path / "tree"
    for name, text in (
        ("net/tokenizer.json", (MINILM / "tokenizer.json").read_text()),
        ("net/model.onnx", "not opened"),
        ("tokenizer.json", "another one"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    with transaction() as session:
        values = {"digest": get_storage().put_tree(root).digest, "facts": {"entry": "net/model.onnx"}}
        session.execute(update(Model).where(Model.id == row.id).values(**values))
    return row


def test_the_dataset_holds_a_copy(model: Model, tmp_path: Path) -> None:
    row = inspected(add_texts(tmp_path / "texts", model))
    assert row.status == "ready", row.problem
    assert row.inputs is not None
    assert row.inputs["input_ids"] == {"dtype": "int64", "shape": [LENGTH]}
    assert row.digest is not None
    held = {entry.path: entry.digest for entry in get_storage().tree(row.digest)}
    assert sorted(held) == ["data.tar", "tokenizers/0/tokenizer.json"]
    assert (
        b"".join(get_storage().open(held["tokenizers/0/tokenizer.json"]))
        == (MINILM / "tokenizer.json").read_bytes()
    )


def test_a_model_that_was_deleted_meanwhile(model: Model, tmp_path: Path) -> None:
    id_ = add_texts(tmp_path / "texts", model)
    with transaction() as session:
        models.delete_model(session, DEFAULT_PROJECT, model.id)
    row = inspected(id_)
    assert row.problem is not None
    assert (row.status, row.problem["code"]) == ("rejected", "not_found")
    assert "was deleted before the dataset was inspected" in row.problem["detail"]


def test_a_model_of_another_project_lends_nothing(model: Model, tmp_path: Path) -> None:
    id_ = add_texts(tmp_path / "texts", model)
    with transaction() as session:
        other = auth.create_project(session, "other").id
        session.execute(update(Model).where(Model.id == model.id).values(project_id=other))
    row = inspected(id_)
    assert row.problem is not None
    assert (row.status, row.problem["code"]) == ("rejected", "not_found")
