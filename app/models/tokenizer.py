"""The tokenizer that was uploaded with a model: a `tokenizer.json` among its files."""

from pathlib import PurePosixPath

from app.storage import TreeFile, get_storage

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"


def tokenizer_files(digest: str, entry: str) -> list[TreeFile]:
    """The files of a model's tokenizer, its `tokenizer.json` first; none where it has no such file.

    `digest` is that of the model's tree, `entry` its main file in there: the tokenizer beside it counts, else the one
    nearest above it.

    Raises:
        NotFound: the model's files are gone.
    """
    held = {entry.path: entry for entry in get_storage().tree(digest)}
    for folder in PurePosixPath(entry).parents:
        if (found := held.get((folder / TOKENIZER).as_posix())) is not None:
            config = held.get((folder / CONFIG).as_posix())
            return [found] if config is None else [found, config]
    return []
