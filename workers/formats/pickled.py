"""Would `torch.load(weights_only=True)` take a file? Answered by its pickle's instructions, none of which is carried out."""

import io
import pickletools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from app.errors import InvalidModel
from workers.archive import damage_named, is_zip, open_zip

_MOST_BYTES = 64 * 1024 * 1024  # of a zip's pickle; tensors lie outside of it
_MOST_INSTRUCTIONS = 10_000_000
_MAGIC = 0x1950A86A20F9469CFC6C  # begins files of torch before 1.6
_OLD_PICKLES = 5  # magic, version, system, the object, the keys of its tensors
# a part of torch's own list (`torch._weights_only_unpickler`, 2.13), under the names that `torch.save` writes
_NAMES = frozenset(
    [
        "collections OrderedDict", "collections Counter", "torch.nn.parameter Parameter", "torch Size", "torch Tensor",
        "torch device", "torch.serialization _get_layout", "torch.storage UntypedStorage", "torch.storage TypedStorage",
        "torch._tensor _rebuild_from_type_v2", "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_parameter_with_state", "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_qtensor", "torch._utils _rebuild_sparse_tensor",
        "_codecs encode", "builtins bytearray", "builtins set", "builtins complex", "__builtin__ bytearray",
        "__builtin__ set", "__builtin__ complex",
    ]
)  # fmt: skip
_TYPES = re.compile(
    r"torch (([A-Z][a-zA-Z0-9]*Storage)|bfloat16|bool|u?int\d+|float\d+\w*|complex\d+|q?u?int\d+|per_(tensor|channel)_\w+)"
)
_INSTRUCTIONS = frozenset(
    [
        "APPEND", "APPENDS", "BINFLOAT", "BINGET", "BININT", "BININT1", "BININT2", "BINPERSID", "BINPUT", "BINUNICODE",
        "BUILD", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "EMPTY_TUPLE", "GLOBAL", "LONG1", "LONG_BINGET", "LONG_BINPUT",
        "MARK", "NEWFALSE", "NEWOBJ", "NEWTRUE", "NONE", "PROTO", "REDUCE", "SETITEM", "SETITEMS", "SHORT_BINSTRING",
        "STOP", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    ]
)  # fmt: skip


def holds_weights_alone(file: Path) -> bool:
    """Whether a file is one of `torch.save`, in its zip form or the one before, that makes nothing but tensors and plain data."""
    if not is_zip(file):
        with file.open("rb") as stream:
            return _is_old_form(stream)
    try:
        with damage_named(), open_zip(file) as archive:
            names = archive.namelist()
            pickles = [name for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
            if len(pickles) != 1 or any(name.endswith("/constants.pkl") for name in names):
                return False
            if archive.getinfo(pickles[0]).file_size > _MOST_BYTES:
                return False
            return all(_is_harmless(*one) for one in _instructions(io.BytesIO(archive.read(pickles[0]))))
    except (InvalidModel, _NoPickle):
        return False


class _NoPickle(Exception):
    """The bytes cannot be read as a pickle."""


def _is_old_form(stream: IO[bytes]) -> bool:
    try:
        first = list(_instructions(stream))
        if ("LONG1", _MAGIC) not in first or len(first) > 3:
            return False
        return all(_is_harmless(*one) for _ in range(_OLD_PICKLES - 1) for one in _instructions(stream))
    except _NoPickle:
        return False


def _instructions(stream: IO[bytes]) -> Iterator[tuple[str, object]]:
    """(instruction, argument) of the one pickle that begins here; the stream then stands behind it.

    Raises:
        _NoPickle: something else is here, or it does not end.
    """
    try:
        for number, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
            if number > _MOST_INSTRUCTIONS or instruction.name not in _INSTRUCTIONS:
                raise _NoPickle
            yield instruction.name, argument
    except (ValueError, IndexError, OverflowError, EOFError) as error:
        raise _NoPickle from error


def _is_harmless(instruction: str, argument: object) -> bool:
    return instruction != "GLOBAL" or argument in _NAMES or bool(_TYPES.fullmatch(str(argument)))
