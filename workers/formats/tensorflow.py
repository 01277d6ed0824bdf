"""TensorFlow's SavedModel: a folder with `saved_model.pb` and its variables. Needs the `tensorflow` extra on the worker.

Sources: https://www.tensorflow.org/guide/saved_model, https://github.com/onnx/tensorflow-onnx.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import UnsupportedFormat
from workers.formats import implements
from workers.formats.base import Source

if TYPE_CHECKING:
    from workers.tensorflow.opened import OpenedTensorFlow

CONVERT_HINT = (
    "ask the administrator to install the `tensorflow` extra on the workers (`pip install 'burnish[tensorflow]'`), or "
    "convert it yourself: `python -m tf2onnx.convert --saved-model FOLDER --opset 18 --output model.onnx`"
)
_ENTRY = "saved_model.pb"
_PACKAGES = ("tensorflow", "tf2onnx")
_HEAD = (
    b"\x08\x01\x12"  # protobuf: schema version 1, then a graph (tensorflow/core/protobuf/saved_model.proto)
)


@implements("tensorflow")
class TensorFlow:
    """See `formats.base.Format`."""

    file_name = _ENTRY

    def recognizes(self, file: Path) -> bool:
        """Never: the file alone has no weights."""
        return False

    def find_entry(self, root: Path) -> str | None:
        """The `saved_model.pb` of the topmost SavedModel."""
        found = [path for path in root.rglob(_ENTRY) if path.is_file() and _begins(path, _HEAD)]
        first = min(found, key=lambda path: (len(path.parts), path), default=None)
        return first.relative_to(root).as_posix() if first else None

    def open(self, source: Source) -> "OpenedTensorFlow":
        """The model's serving signature, once its graph holds nothing that reads files or runs Python.

        Raises:
            UnsupportedFormat: TensorFlow is not installed on this worker, or the signature is not one of plain tensors.
            UnsafeModel: the graph reads or writes files, or calls Python.
            InvalidModel: it is damaged.
        """
        missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise UnsupportedFormat(
                f"the model is a TensorFlow SavedModel, and this worker has no {' and no '.join(missing)}",
                hint=CONVERT_HINT,
            )
        from workers.tensorflow.opened import opened

        return opened(source.path.parent)


def _begins(path: Path, head: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(head)) == head
