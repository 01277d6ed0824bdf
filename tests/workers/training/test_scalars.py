"""TensorBoard's event files, read back by the rules of TFRecord and by protobuf's own parser."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from workers.training.scalars import EVENTS, LINES, crc32c, masked_crc, write_scalars

ROWS = [
    {"step": 1, "time": 1700000000.5, "train/loss": 2.25, "train/learning_rate": 1e-3},
    {"step": 300, "time": 1700000001.25, "train/loss": -0.5},
    {"step": 2**40, "time": 1700000002.0, "epoch/score": 0.0},
]


def event_type() -> Any:
    """`Event` as TensorBoard's event.proto and summary.proto declare it, less what scalars do without."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="burnish_test", syntax="proto3")
    summary = file.message_type.add(name="Summary")
    value = summary.nested_type.add(name="Value")
    value.field.add(name="tag", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    value.field.add(name="simple_value", number=2, type=kinds.TYPE_FLOAT, label=kinds.LABEL_OPTIONAL)
    summary.field.add(
        name="value", number=1, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_REPEATED,
        type_name=".burnish_test.Summary.Value",
    )  # fmt: skip
    event = file.message_type.add(name="Event")
    event.field.add(name="wall_time", number=1, type=kinds.TYPE_DOUBLE, label=kinds.LABEL_OPTIONAL)
    event.field.add(name="step", number=2, type=kinds.TYPE_INT64, label=kinds.LABEL_OPTIONAL)
    event.field.add(name="file_version", number=3, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    event.field.add(
        name="summary", number=5, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_OPTIONAL,
        type_name=".burnish_test.Summary",
    )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("burnish_test.Event"))


def records(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == masked_crc(data[:8])
        content = data[12 : 12 + length]
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked_crc(content)
        yield content
        data = data[16 + length :]


@pytest.mark.parametrize(
    ("content", "crc"),
    [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
    ids=["nothing", "digits", "zeros", "ones"],
)
def test_the_checksum_is_the_published_one(content: bytes, crc: int):
    """RFC 3720, appendix B.4."""
    assert crc32c(content) == crc


def test_event_files_hold_the_rows(tmp_path: Path):
    write_scalars(ROWS, tmp_path / "scalars")
    kind = event_type()
    events = [kind.FromString(record) for record in records(tmp_path / "scalars" / EVENTS)]

    assert events[0].file_version == "brain.Event:2"
    found = [
        (event.step, event.wall_time, value.tag, value.simple_value)
        for event in events[1:]
        for value in event.summary.value
    ]
    assert [entry[:3] for entry in found] == [
        (row["step"], row["time"], name) for row in ROWS for name in row if name not in ("step", "time")
    ]
    assert [entry[3] for entry in found] == pytest.approx([2.25, 1e-3, -0.5, 0.0])
    lines = (tmp_path / "scalars" / LINES).read_text().splitlines()
    assert [json.loads(line) for line in lines] == ROWS


def test_nothing_to_tell_is_a_valid_file(tmp_path: Path):
    write_scalars([], tmp_path)

    assert len(list(records(tmp_path / EVENTS))) == 1
    assert (tmp_path / LINES).read_text() == ""
