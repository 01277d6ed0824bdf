"""What every format gives: is this file yours, where is the model in this folder, and the opened model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from workers.model_handle import ModelHandle
from workers.runtimes.base import Feeds

if TYPE_CHECKING:
    import numpy as np

    from workers.torch.program import TorchModel


@dataclass(frozen=True)
class Source:
    """An uploaded model as it lies: `entry` is its file or folder relative to `root`. Nothing there may be written to.

    `declared` is what the uploader said: `signature` {inputs, outputs: [{name, dtype, shape}]}, `architecture`.
    """

    root: Path
    entry: str
    declared: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file or folder to open."""
        return self.root / self.entry


class OpenedModel(Protocol):
    """A model in its own framework. It can be run like a loaded engine (`runtimes.base.LoadedEngine`), and converted.

    `inputs` and `outputs` are [{name, dtype (numpy), shape}]; a free dimension is its name, or None. `facts` are what the
    format knows besides (layers, classes, files), plain data.
    """

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    facts: dict[str, Any]

    def run(self, feeds: Feeds) -> "dict[str, np.ndarray]":
        """The outputs by name, computed by the model's own framework in eager mode.

        Raises:
            SignatureMismatch: names, types or shapes of the feeds are not the model's.
        """
        ...

    def to_onnx(self, out: Path) -> ModelHandle:
        """The model as ONNX in the empty folder `out`, its inputs, outputs and free dimensions named as here.

        Raises:
            UnsupportedOperator: an operator has no ONNX form; it is named with its place in the source.
            InvalidModel: the exporter fails for another reason.
        """
        ...

    def to_torch(self) -> "TorchModel":
        """The model as a module whose weights can be trained, in eval mode.

        Raises:
            UnsupportedOperator, InvalidModel: there is none.
        """
        ...


class Format(Protocol):
    """One file a format implements this, registered by `@implements(SPEC.name)`. Heavy imports happen in `open`."""

    file_name: str  # what a single uploaded file is called once it is laid out

    def recognizes(self, file: Path) -> bool:
        """Whether a single file is of this format, by its content. It may be hostile: nothing is loaded."""
        ...

    def find_entry(self, root: Path) -> str | None:
        """Where in an unpacked archive a model of this format is, relative to `root`; None: nowhere.

        Raises:
            BurnishError: there is one, and something is wrong with it.
        """
        ...

    def open(self, source: Source) -> OpenedModel:
        """The model, opened in a child that is confined.

        Raises:
            UnsafeModel: opening it would run code.
            InvalidModel, UnsupportedFormat, SignatureMismatch, InvalidParams: it cannot be opened; the hint says what to do.
        """
        ...
