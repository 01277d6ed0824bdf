"""A model on disk: where it lies, what it is; loaded late."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.catalog.spec import PROTOBUF_LIMIT_BYTES as PROTOBUF_LIMIT_BYTES

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class ModelHandle:
    """A directory of files that must not be written to; `entry` is the file or folder to open, relative to `root`.

    `declared` is what the uploader said of it (`formats.base.Source`); formats that need it are opened with it.
    """

    root: Path
    entry: str
    format: str
    digest: str  # of the tree under `root`
    declared: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file to open."""
        return self.root / self.entry

    @property
    def size_bytes(self) -> int:
        """The size of all files, external weights included."""
        return sum(file.stat().st_size for file in self.root.rglob("*") if file.is_file())

    def load_onnx(self, *, weights: bool = True) -> "onnx.ModelProto":
        """The protobuf, with external weights read into it unless `weights` is false."""
        import onnx

        from workers.formats.weights import load_weights

        model = onnx.load(str(self.path), load_external_data=False)
        if weights:
            load_weights(model, self.path.parent)
        return model
