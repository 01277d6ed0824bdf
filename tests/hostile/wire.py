"""Protobufs that lie about their length, nest, or grow when they are read."""

from collections.abc import Callable

import onnx

from tests.hostile.case import Hostile, case, each, family
from tests.hostile.graphs import HARMLESS
from tests.hostile.plain import real
from tests.workers.formats.uploads import linear

IR, GRAPH, OPSET, FUNCTIONS, METADATA = 1, 7, 8, 25, 14  # fields of ModelProto
NODE, NAME, INITIALIZER, OUTPUT = 1, 2, 5, 12  # of GraphProto
VARINT, LONG, BYTES, START, END, SHORT = 0, 1, 2, 3, 4, 5


def varint(number: int) -> bytes:
    made = bytearray()
    number &= 2**64 - 1
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes([*made, number])


def key(field: int, kind: int) -> bytes:
    return varint(field << 3 | kind)


def held(field: int, data: bytes) -> bytes:
    return key(field, BYTES) + varint(len(data)) + data


def model(graph: bytes = b"", rest: bytes = b"") -> bytes:
    """A sound model whose graph and top level go on with these bytes."""
    sound = linear()
    own = sound.graph.SerializeToString()
    sound.ClearField("graph")
    return sound.SerializeToString() + held(GRAPH, own + graph) + rest


def deep(levels: int) -> bytes:
    """Graphs in attributes of nodes in graphs."""
    data = b""
    for _ in range(levels):
        data = held(
            NODE, held(4, b"If") + held(5, held(1, b"b") + key(20, VARINT) + varint(5) + held(6, data))
        )
    return model(data)


def types(levels: int) -> bytes:
    """A sequence of sequences of sequences …"""
    data = key(1, VARINT) + varint(1)
    data = held(1, data)
    for _ in range(levels):
        data = held(4, held(1, data))
    return model(held(OUTPUT, held(1, b"y") + held(2, data)))


def groups(levels: int) -> bytes:
    return model(rest=key(99, START) * levels + key(99, END) * levels)


def tiny(field: int, count: int, content: bytes = b"") -> Callable[[], bytes]:
    """Very many parts of two bytes: what they become in memory is far larger."""
    return lambda: model(held(field, content) * count)


def packed_varints(count: int) -> bytes:
    """A tensor of one-byte numbers, which become eight bytes each."""
    return model(
        held(
            INITIALIZER,
            held(7, bytes(count)) + held(8, b"z") + key(2, VARINT) + varint(7) + held(1, varint(count)),
        )
    )


def unpacked(count: int) -> bytes:
    return model(
        held(INITIALIZER, (key(7, VARINT) + b"\1") * count + held(8, b"z") + key(2, VARINT) + varint(7))
    )


def merged(count: int) -> bytes:
    """The graph comes again and again: protobuf merges them."""
    return model() + held(GRAPH, b"") * count


def length(number: int, tail: bytes = b"") -> bytes:
    return model(rest=key(METADATA, BYTES) + varint(number) + tail)


LENGTHS = {"2gb": 2**31 - 1, "over-2gb": 2**31, "4gb": 2**32, "negative": -1, "64-bit": 2**63, "one-more": 1}
KINDS = {f"kind-{kind}": key(METADATA, kind) for kind in (1, 3, 4, 5, 6, 7)}

CASES: list[Hostile] = family(
    "wire",
    each({f"length-{name}": lambda number=number: length(number) for name, number in LENGTHS.items()}),
    case("length-of-the-graph", lambda: key(GRAPH, BYTES) + varint(2**31 - 2) + b"x" * 1000),
    each({f"field-{name}": lambda tag=tag: model(rest=tag + b"\xff" * 3) for name, tag in KINDS.items()}),
    case("varint-endless", lambda: model(rest=key(IR, VARINT) + b"\xff" * 100)),
    case("varint-11-bytes", lambda: model(rest=key(IR, VARINT) + b"\xff" * 10 + b"\1")),
    case("varint-cut", lambda: model(rest=key(IR, VARINT) + b"\x80")),
    case("varint-padded", lambda: model(rest=key(IR, VARINT) + b"\x8a\x80\x80\0"), *HARMLESS),
    case("field-zero", lambda: model(rest=b"\0\0")),
    case("field-too-high", lambda: model(rest=varint(2**32 << 3) + b"\1")),
    case("unknown-fields", lambda: model(rest=held(5000, b"x") * 100_000), *HARMLESS),
    case("graph-is-a-number", lambda: key(IR, VARINT) + b"\x08" + key(GRAPH, VARINT) + b"\1"),
    case("ir-is-a-text", lambda: held(IR, b"eight") + linear().SerializeToString(), *HARMLESS),
    case("group-unended", lambda: model(rest=key(99, START))),
    case("group-unbegun", lambda: model(rest=key(99, END))),
    case("group-ends-otherwise", lambda: model(rest=key(99, START) + key(98, END))),
    each({f"groups-{levels}": lambda levels=levels: groups(levels) for levels in (1000, 1_000_000)}),
    each({f"deep-{levels}": lambda levels=levels: deep(levels) for levels in (20, 40, 5000)}),
    each({f"types-{levels}": lambda levels=levels: types(levels) for levels in (10, 40, 10_000)}),
    case("text-no-utf8", lambda: model(held(NAME, b"\xff\xfe\xfd"))),
    case("text-half-characters", lambda: model(held(NAME, b"\xed\xa0\x80"))),
    case("node-name-no-utf8", lambda: model(held(NODE, held(1, b"x") + held(2, b"z") + held(3, b"\xc3\x28") + held(4, b"Relu")))),
    case("nodes-3m-empty", tiny(NODE, 3_000_000), "invalid_model", "out_of_memory"),
    case("nodes-20m-empty", tiny(NODE, 20_000_000), "invalid_model", "out_of_memory"),
    case("weights-1m-empty", tiny(INITIALIZER, 1_000_000), "invalid_model", "out_of_memory"),
    case("outputs-3m-empty", tiny(OUTPUT, 3_000_000), "invalid_model", "out_of_memory"),
    case("nodes-of-200k-inputs", tiny(NODE, 10, held(1, b"x") * 200_000), "invalid_model", "out_of_memory"),
    case("packed-20m", lambda: packed_varints(20_000_000), "ready", "invalid_model", "out_of_memory"),
    case("unpacked-5m", lambda: unpacked(5_000_000), "invalid_model", "out_of_memory"),
    case("functions-1m-empty", lambda: model(rest=held(FUNCTIONS, b"") * 1_000_000), "invalid_model", "out_of_memory"),
    case("opsets-1m-empty", lambda: model(rest=held(OPSET, b"") * 1_000_000), "invalid_model", "out_of_memory"),
    case("graph-1m-times", lambda: merged(1_000_000), *HARMLESS),
    case("real-model-merged-twice", lambda: real("rapidocr-cls") * 2),
    case("initializer-merged", lambda: model(held(INITIALIZER, held(8, b"w") + held(9, bytes(48))))),
    case("a-checkpoint", lambda: onnx.TensorProto(dims=[2], data_type=1, raw_data=bytes(8)).SerializeToString()),
)  # fmt: skip
