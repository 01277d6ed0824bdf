"""Weights without a network: `.safetensors`, or PyTorch's own file of a state dict. The network is a name of the zoo's."""

from pathlib import Path
from typing import TYPE_CHECKING

from workers.formats import implements
from workers.formats.base import Source
from workers.formats.pickled import holds_weights_alone

if TYPE_CHECKING:
    from workers.torch.opened import OpenedTorch

_MOST_HEADER_BYTES = 100_000_000  # what the safetensors library itself takes


@implements("state-dict")
class StateDict:
    """See `formats.base.Format`."""

    file_name = "weights.bin"

    def recognizes(self, file: Path) -> bool:
        """A safetensors file, or a PyTorch file whose pickle names tensors alone; it is read, not loaded."""
        return is_safetensors(file) or holds_weights_alone(file)

    def find_entry(self, root: Path) -> str | None:
        """Nowhere: it is a single file, which `recognizes` finds."""
        return None

    def open(self, source: Source) -> "OpenedTorch":
        """The architecture that the uploader named, with these weights.

        Raises:
            InvalidParams: no architecture was named, or there is none of that name, or it does not take its arguments.
            UnsafeModel: the file holds more than tensors.
            InvalidModel: the weights are damaged, or not those of the architecture: what does not fit is listed.
            UnsupportedFormat: the weights are quantized.
        """
        from workers.torch.state_dict import opened

        return opened(source.path, source.declared, safetensors=is_safetensors(source.path))


def is_safetensors(file: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a header, and the header's JSON."""
    with file.open("rb") as stream:
        head = stream.read(9)
    length = int.from_bytes(head[:8], "little")
    return head[8:] == b"{" and 2 <= length <= min(_MOST_HEADER_BYTES, file.stat().st_size - 8)
