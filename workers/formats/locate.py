"""Which format an upload is of, and where in it the model lies: found by content, never by name."""

from pathlib import Path

from app.errors import UnsupportedFormat
from app.storage.disk import link_or_copy
from app.text import plain
from workers.archive import is_archive, unpack
from workers.formats import registry
from workers.formats.detect import refusal
from workers.formats.onnx import FORMAT as ONNX

_MOST_LISTED = 20


def locate(file: Path, root: Path, max_bytes: int, max_files: int) -> tuple[str, Path, str]:
    """(format, folder, entry) of an uploaded file; what is an archive of a model is unpacked into `root`.

    The folder is the file's own where it lies there under the format's name already.

    Raises:
        BurnishError: it is damaged, dangerous, or of no format that is taken.
    """
    for name, format_ in registry.all().items():
        if format_.recognizes(file):
            return name, place(file, root, format_.file_name), format_.file_name
    if (error := refusal(file)) is not None:
        raise error
    if not is_archive(file):
        entry = registry.get(ONNX).file_name
        return ONNX, place(file, root, entry), entry
    unpack(file, root, max_bytes, max_files)
    return _inside(root)


def place(file: Path, root: Path, name: str) -> Path:
    """The folder in which the upload lies under a plain name: its own, where it was laid out under that name."""
    if file.name == name:
        return file.parent
    root.mkdir(parents=True)
    link_or_copy(file, root / name)
    return root


def _inside(root: Path) -> tuple[str, Path, str]:
    """The one model of an unpacked archive: laid out by its format, or a file of a format that is one file."""
    found = [
        (name, entry)
        for name, format_ in registry.all().items()
        if (entry := format_.find_entry(root)) is not None
    ] or _single(root)
    if len(found) > 1:
        listed = ", ".join(f"{plain(entry, 100)} ({name})" for name, entry in sorted(found)[:_MOST_LISTED])
        raise UnsupportedFormat(
            f"the archive holds several models: {listed}",
            hint="pack one model; several files of one network's weights need its configuration beside them",
        )
    if found:
        name, entry = found[0]
        return name, root, entry
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        if (error := refusal(file)) is not None:
            raise error
    raise UnsupportedFormat(
        "the archive holds no .onnx file, nor a model of another format that is taken",
        hint="`GET /v1/formats` and `burnish formats` say what can be uploaded",
    )


def _single(root: Path) -> list[tuple[str, str]]:
    """(format, path) of every file that is a model by itself."""
    return [
        (name, file.relative_to(root).as_posix())
        for file in sorted(path for path in root.rglob("*") if path.is_file())
        for name, format_ in registry.all().items()
        if format_.recognizes(file)
    ]
