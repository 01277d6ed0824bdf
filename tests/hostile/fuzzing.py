"""Mutations of real files: of bytes anywhere, and of a model's fields one message deep or more. A seed gives a file again."""

import io
import random
import zipfile
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.hostile.plain import npz_of, real, zip_of
from tests.hostile.tars import member, tar
from tests.workers.formats.uploads import external, linear

NUMBERS = [0, 1, -1, 2, 7, 127, 255, 2**31 - 1, -(2**31), 2**31, 2**32, 2**62, 2**63 - 1, -(2**63)]
TEXTS = [
    "",
    "x",
    "y",
    "w",
    "Relu",
    "If",
    "Loop",
    "ai.onnx",
    "com.microsoft",
    "../w",
    "/etc/passwd",
    "a\0b",
    "\x1b[2J",
    "n" * 3000,
]
_DEEPEST = 12


@cache
def seeds() -> dict[str, tuple[str, bytes]]:
    """Real files to start from: (subject, bytes) by name."""
    rows = np.random.default_rng(0).random((8, 3), np.float32)
    texts = np.array(["a"] * 8)
    apart = linear(external("w", [4, 3], location="w.bin")).SerializeToString()
    weights = {"model.onnx": apart, "w.bin": np.ones((4, 3), np.float32).tobytes()}
    return {
        "linear": ("model", linear().SerializeToString()),
        "rapidocr-cls": ("model", real("rapidocr-cls")),
        "silero": ("model", real("silero")),
        "zip": ("model", zip_of(weights)),
        "tar": ("model", tar(*(member(name, data) for name, data in weights.items()))),
        "npz-compressed": (
            "dataset",
            npz_of(zipfile.ZIP_DEFLATED, x=rows, labels=np.arange(8), text=texts),
        ),
        "npz": ("dataset", npz_of(zipfile.ZIP_STORED, x=rows, z=rows.astype(np.float16))),
    }


@cache
def parsed(name: str) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(seeds()[name][1])


def mutated(seed: int) -> tuple[str, str, bytes]:
    """(name, subject, bytes) of the file that a seed gives."""
    random_ = random.Random(seed)
    name = random_.choice(list(seeds()))
    subject, data = seeds()[name]
    if name in ("linear", "rapidocr-cls", "silero") and random_.random() < 0.7:
        return f"{name}, fields", subject, fields_changed(parsed(name), random_)
    if name in ("zip", "npz", "npz-compressed") and random_.random() < 0.5:
        return f"{name}, members", subject, members_changed(data, random_)
    return f"{name}, bytes", subject, bytes_changed(data, random_)


def bytes_changed(data: bytes, random_: random.Random) -> bytes:
    """A few flips, cuts, copies and runs."""
    made = bytearray(data)
    for _ in range(random_.randint(1, 6)):
        if not made:
            break
        start = (
            random_.randrange(len(made)) if random_.random() < 0.5 else random_.randrange(min(len(made), 400))
        )
        length = min(random_.choice([1, 1, 2, 4, 8, 100, 5000]), len(made) - start)
        match random_.randrange(6):
            case 0:
                made[start] ^= 1 << random_.randrange(8)
            case 1:
                made[start : start + length] = random_.randbytes(length)
            case 2:
                del made[start : start + length]
            case 3:
                made[start:start] = made[start : start + length] * random_.randint(1, 3)
            case 4:
                made[start : start + length] = random_.choice([b"\xff", b"\0", b"\x80"]) * length
            case _:
                made = made[:start] if random_.random() < 0.2 else made
    return bytes(made)


def members_changed(data: bytes, random_: random.Random) -> bytes:
    """The files in a zip changed, its own structure sound."""
    changed = {}
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        for info in source.infolist():
            held = source.read(info)
            if info.filename == "model.onnx" and random_.random() < 0.7:
                held = fields_changed(onnx.ModelProto.FromString(held), random_)
            elif random_.random() < 0.6:
                held = bytes_changed(held, random_)
            changed[info.filename] = held
    return zip_of(changed)


def fields_changed(model: onnx.ModelProto, random_: random.Random) -> bytes:
    """A model with a few of its fields changed, cleared, doubled or moved."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for _ in range(random_.randint(1, 5)):
        message = some_message(made, random_)
        change(message, random_.choice(list(message.DESCRIPTOR.fields)), random_)
    return made.SerializeToString()


def some_message(message: Message, random_: random.Random) -> Message:
    """A message inside this one, or itself."""
    for _ in range(_DEEPEST):
        inner = [
            value[random_.randrange(len(value))] if repeated(field) else value
            for field, value in message.ListFields()
            if field.type == FieldDescriptor.TYPE_MESSAGE
        ]
        if not inner or random_.random() < 0.15:
            break
        message = random_.choice(inner)
    return message


def repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def change(message: Any, field: FieldDescriptor, random_: random.Random) -> None:
    """One field of a message."""
    name = field.name
    if random_.random() < 0.2:
        message.ClearField(name)
        return
    if repeated(field):
        change_list(getattr(message, name), field, random_)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(message, name).SetInParent()
    else:
        setattr(message, name, scalar(field, random_))


def change_list(values: Any, field: FieldDescriptor, random_: random.Random) -> None:
    """A repeated field: an entry more, fewer, doubled, or swapped."""
    message = field.type == FieldDescriptor.TYPE_MESSAGE
    if not values or random_.random() < 0.2:
        if message:
            values.add()
        else:
            values.extend(scalar(field, random_) for _ in range(random_.choice([1, 1, 3, 70])))
        return
    place = random_.randrange(len(values))
    match random_.randrange(3):
        case 0:
            del values[place]
        case 1 if message:
            values.add().CopyFrom(values[place])
        case 2 if message:
            values[place].CopyFrom(values[random_.randrange(len(values))])
        case _:
            if not message:
                values[place] = scalar(field, random_)


def scalar(field: FieldDescriptor, random_: random.Random) -> Any:
    """A value that the field can hold, of those that hurt."""
    kind = field.cpp_type
    makers: dict[int, Callable[[], Any]] = {
        FieldDescriptor.CPPTYPE_INT64: lambda: random_.choice(NUMBERS),
        FieldDescriptor.CPPTYPE_INT32: lambda: random_.choice([n for n in NUMBERS if abs(n) < 2**31]),
        FieldDescriptor.CPPTYPE_UINT64: lambda: abs(random_.choice(NUMBERS)),
        FieldDescriptor.CPPTYPE_FLOAT: lambda: random_.choice([0.0, -1.0, 1e38, float("nan"), float("inf")]),
        FieldDescriptor.CPPTYPE_DOUBLE: lambda: random_.choice([0.0, -1.0, 1e308, float("nan")]),
        FieldDescriptor.CPPTYPE_ENUM: lambda: random_.choice([one.number for one in field.enum_type.values]),
    }
    if kind in makers:
        return makers[kind]()
    text = random_.choice(TEXTS)
    return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
