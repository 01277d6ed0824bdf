"""TorchScript: `.pt`, `.pth` and `.jit` files of `torch.jit.save`. See https://docs.pytorch.org/docs/stable/jit.html."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from workers.archive import zip_names
from workers.formats import implements
from workers.formats.base import Source

if TYPE_CHECKING:
    from workers.torch.script import OpenedScript

_CONSTANTS = re.compile(r"([^/]+/)?constants\.pkl")
_CODE = re.compile(r"([^/]+/)?code/.+")


@implements("torchscript")
class TorchScript:
    """See `formats.base.Format`."""

    file_name = "model.pt"

    def recognizes(self, file: Path) -> bool:
        """A zip with the constants and the code that `torch.jit.save` writes."""
        names = zip_names(file)
        return any(map(_CONSTANTS.fullmatch, names)) and any(map(_CODE.fullmatch, names))

    def find_entry(self, root: Path) -> str | None:
        """Nowhere: it is a single file, which `recognizes` finds."""
        return None

    def open(self, source: Source) -> "OpenedScript":
        """The module with the signature that the uploader declared. Raises as `script_file.load` and `script.OpenedScript`."""
        from workers.torch.script import OpenedScript
        from workers.torch.script_file import load

        return OpenedScript(load(source.path), source.declared)
