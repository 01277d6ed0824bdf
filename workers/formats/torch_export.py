"""PyTorch exported programs: `.pt2` files of `torch.export.save`. See https://docs.pytorch.org/docs/stable/export.html."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from workers.archive import zip_names
from workers.formats import implements
from workers.formats.base import Source

if TYPE_CHECKING:
    from workers.torch.exported import OpenedProgram

_PROGRAM = re.compile(r"([^/]+/)?models/[^/]+\.json")  # since torch 2.8
_FORMAT = re.compile(r"([^/]+/)?archive_format")
_OLD_PROGRAM = "serialized_exported_program.json"  # until torch 2.7


@implements("torch-export")
class TorchExport:
    """See `formats.base.Format`."""

    file_name = "model.pt2"

    def recognizes(self, file: Path) -> bool:
        """A zip with the members that `torch.export.save` writes, today's or those of torch before 2.8."""
        names = zip_names(file)
        if _OLD_PROGRAM in names:
            return True
        return any(map(_PROGRAM.fullmatch, names)) and any(map(_FORMAT.fullmatch, names))

    def find_entry(self, root: Path) -> str | None:
        """Nowhere: it is a single file, which `recognizes` finds."""
        return None

    def open(self, source: Source) -> "OpenedProgram":
        """The program, once nothing in it can run as it is loaded. Raises as `load_program`."""
        from workers.torch.exported import OpenedProgram

        return OpenedProgram(source.path)
