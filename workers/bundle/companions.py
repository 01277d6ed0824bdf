"""Files that were uploaded beside a model and are needed where its engine runs: a tokenizer's, an image processor's."""

from pathlib import Path

from app.errors import InvalidModel
from app.storage.disk import link_or_copy
from workers.model_handle import ModelHandle

COMPANIONS = "companions"  # the fact that lists them
FOLDER = "tokenizer"


def copy_companions(model: ModelHandle, listed: list[str], folder: Path) -> list[str]:
    """Copy the listed files of an uploaded model into the bundle's folder; their paths inside the bundle.

    Raises:
        InvalidModel: one lies outside of the model's files, or is not there.
    """
    copied = []
    root = model.root.resolve()
    for name in listed:
        file = (root / name).resolve()
        if not file.is_relative_to(root) or not file.is_file():
            raise InvalidModel(f"the model has no file {name!r} to put into the bundle", stage="packaging")
        target = folder / FOLDER / file.name
        target.parent.mkdir(exist_ok=True)
        link_or_copy(file, target)
        copied.append(target.relative_to(folder).as_posix())
    return copied
