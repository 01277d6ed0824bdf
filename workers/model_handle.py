"""A model on disk: where it lies, what it is; loaded late."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.catalog.spec import PROTOBUF_LIMIT_BYTES as PROTOBUF_LIMIT_BYTES

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class ModelHandle:
    """A directory of files that must not be written to; `entry` is the file to open, relative to `root`."""

    root: Path
    entry: str
    format: str
    digest: str  # of the tree under `root`

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
