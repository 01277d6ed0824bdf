"""What was uploaded beside a model goes into the bundle, and nothing else does."""

from pathlib import Path

import pytest

from app.errors import InvalidModel
from workers.bundle.companions import copy_companions
from workers.bundle.text import companion_lines
from workers.model_handle import ModelHandle


@pytest.fixture
def model(tmp_path: Path) -> ModelHandle:
    for name in ("net/config.json", "net/vocab.txt", "net/model.safetensors"):
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_text(name)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "secret").write_text("of another")
    return ModelHandle(tmp_path / "model", "net/config.json", "transformers", "digest")


def test_the_listed_files_lie_in_a_folder_of_their_own(model: ModelHandle, tmp_path: Path) -> None:
    copied = copy_companions(model, ["net/config.json", "net/vocab.txt"], tmp_path / "bundle")
    assert copied == ["tokenizer/config.json", "tokenizer/vocab.txt"]
    files = {
        path.relative_to(tmp_path / "bundle").as_posix(): path.read_text()
        for path in (tmp_path / "bundle").rglob("*")
        if path.is_file()
    }
    assert files == {"tokenizer/config.json": "net/config.json", "tokenizer/vocab.txt": "net/vocab.txt"}
    assert "`tokenizer/vocab.txt`" in companion_lines(copied)[0]


def test_without_any_there_is_no_folder_and_no_line(model: ModelHandle, tmp_path: Path) -> None:
    assert copy_companions(model, [], tmp_path / "bundle") == companion_lines([]) == []
    assert not list((tmp_path / "bundle").iterdir())


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "net", "net/none"])
def test_a_file_that_is_not_the_models_is_refused(name: str, model: ModelHandle, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="no file"):
        copy_companions(model, [name], tmp_path / "bundle")


def test_a_link_out_of_the_model_is_refused(model: ModelHandle, tmp_path: Path) -> None:
    (model.root / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidModel, match="no file"):
        copy_companions(model, ["link"], tmp_path / "bundle")
