"""Numbers by step, for TensorBoard and for anybody: an event file and the same as JSON lines.

TensorBoard's files are TFRecords of `Event` messages; writing the four fields that a scalar needs takes less than the package,
which brings a web server. Formats: https://github.com/tensorflow/tensorboard, compat/proto/event.proto and summary.proto;
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

EVENTS, LINES = "events.out.tfevents.0.burnish", "scalars.jsonl"
MOST_POINTS = 1000  # of one curve over the steps
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types

Row = Mapping[str, Any]  # step, time (seconds since 1970), and numbers by name


def write_scalars(rows: Iterable[Row], folder: Path) -> None:
    """Write both files into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    held = list(rows)
    with (folder / LINES).open("w") as lines:
        lines.writelines(json.dumps(dict(row)) + "\n" for row in held)
    with (folder / EVENTS).open("wb") as file:
        start = held[0]["time"] if held else 0.0
        file.write(_record(_double(1, start) + _field(3, b"brain.Event:2")))
        for row in held:
            file.writelines(_record(event) for event in _events(row))


def _events(row: Row) -> Iterator[bytes]:
    head = _double(1, row["time"]) + _key(2, _VARINT) + _varint(row["step"])
    for name, value in row.items():
        if name not in ("time", "step"):
            scalar = _field(1, name.encode()) + _key(2, _FIXED32) + struct.pack("<f", value)
            yield head + _field(5, _field(1, scalar))


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", masked_crc(length)) + content + struct.pack("<I", masked_crc(content))


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _field(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(content)) + content


def _double(number: int, value: float) -> bytes:
    return _key(number, _FIXED64) + struct.pack("<d", value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def masked_crc(content: bytes) -> int:
    """TFRecord's checksum: CRC-32C, turned and shifted."""
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(content: bytes) -> int:
    """CRC-32C (Castagnoli; RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        found.append(value)
    return found


_TABLE = _table()
