"""Zips that lie, explode, or write where they must not."""

import io
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence

from tests.hostile.case import MAX_ARCHIVE_BYTES, MAX_ARCHIVE_FILES, Hostile, case, each, family
from tests.hostile.plain import zip_of
from tests.workers.formats.uploads import linear

Members = Sequence[tuple[zipfile.ZipInfo | str, bytes]]


def model() -> bytes:
    return linear().SerializeToString()


def packed(members: Members, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", compression) as archive:
        warnings.simplefilter("ignore")  # names that come twice
        for info, data in members:
            archive.writestr(info, data)
    return out.getvalue()


def named(name: str) -> Callable[[], bytes]:
    return lambda: renamed(packed([("model.onnx", model()), ("N" * len(name.encode()), b"x")]), name)


def renamed(data: bytes, name: str) -> bytes:
    """zipfile mends some names as it writes them: put the name there by hand."""
    new = name.encode()
    return data.replace(b"N" * len(new), new)


def special(kind: int) -> Callable[[], bytes]:
    info = zipfile.ZipInfo("model.onnx")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return lambda: packed([(info, b"/etc/passwd")])


def patched(
    data: bytes, local: dict[int, bytes] | None = None, central: dict[int, bytes] | None = None
) -> bytes:
    """Bytes of the first local header and of the first central header replaced, by offset in them."""
    made = bytearray(data)
    for start, changes in ((data.index(b"PK\x03\x04"), local), (data.index(b"PK\x01\x02"), central)):
        for offset, value in (changes or {}).items():
            made[start + offset : start + offset + len(value)] = value
    return bytes(made)


def stored() -> bytes:
    return packed([("model.onnx", model())], zipfile.ZIP_STORED)


def deflated_zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 9, wbits=-15)


def overlapping(entries: int = 200, size: int = 8_000_000) -> bytes:
    """Many central entries that share one local file: David Fifield's simplest form."""
    data = deflated_zeros(size)
    crc = zlib.crc32(bytes(size))
    name = b"model.onnx"
    local = (
        struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(data), size, len(name), 0) + name + data
    )
    central = b""
    for number in range(entries):
        other = b"w/%06d.bin" % number
        central += struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, crc, len(data), size, len(other), 0, 0, 0, 0, 0, 0) + other  # fmt: skip
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, entries, entries, len(central), len(local), 0)
    return local + central + end


def quoted(files: int = 250, size: int = 1_000_000) -> bytes:
    """Fifield's quoted overlap: each file's stored block holds the next local header, down to one kernel of zeros."""
    kernel = deflated_zeros(size)
    crc = zlib.crc32(bytes(size))
    names = [b"w/%04d" % number for number in range(files)]

    def local(name: bytes, crc: int, compressed: int, whole: int) -> bytes:
        return (
            struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, compressed, whole, len(name), 0) + name
        )

    head = local(names[-1], crc, len(kernel), size)
    data, whole, plain = kernel, size, bytes(size)
    heads = [(names[-1], crc, len(kernel), size, head)]
    for name in reversed(names[:-1]):
        block = b"\0" + struct.pack("<HH", len(head), len(head) ^ 0xFFFF)
        data = block + head + data
        plain = head + plain
        whole += len(head)
        head = local(name, zlib.crc32(plain), len(data), whole)
        heads.append((name, zlib.crc32(plain), len(data), whole, head))
    body, central, offset = head + data, b"", 0
    for name, crc, compressed, whole, head in reversed(heads):
        central += struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, crc, compressed, whole, len(name), 0, 0, 0, 0, 0, offset) + name  # fmt: skip
        offset += len(head) + 5
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, files, files, len(central), len(body), 0)
    return body + central + end


def nested(depth: int = 6) -> bytes:
    data = zip_of({"model.onnx": bytes(5_000_000)})
    for _ in range(depth):
        data = zip_of({f"{number}.zip": data for number in range(10)})
    return data


def entries(count: int, name: Callable[[int], str]) -> bytes:
    return packed([(name(number), b"") for number in range(count)], zipfile.ZIP_STORED)


def many_entries(count: int) -> bytes:
    """Entries that are written faster than zipfile writes them."""
    name = b"%06d"
    local = b"".join(
        struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 6, 0) + name % n for n in range(count)
    )
    central = b"".join(
        struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 36 * n)
        + name % n
        for n in range(count)
    )
    full = min(count, 0xFFFF)
    return local + central + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, full, full, len(central), len(local), 0)


def zip64_lie() -> bytes:
    """Sizes of 2^60 in a zip64 field."""
    extra = struct.pack("<HHQQ", 1, 16, 2**60, 2**60)
    info = zipfile.ZipInfo("model.onnx")
    info.extra = extra
    data = packed([(info, model())], zipfile.ZIP_STORED)
    most = b"\xff\xff\xff\xff"
    return patched(data, {18: most, 22: most}, {20: most, 24: most})


def end_moved(directory: int, size: int | None = None) -> bytes:
    data = bytearray(stored())
    place = data.index(b"PK\5\6")
    if size is not None:
        data[place + 12 : place + 16] = struct.pack("<I", size)
    data[place + 16 : place + 20] = struct.pack("<I", directory)
    return bytes(data)


def comment_holds_a_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("model.onnx", model())
        archive.comment = packed([("evil.onnx", b"x")])[:60000]
    return out.getvalue()


def bomb(compression: int) -> Callable[[], bytes]:
    return lambda: packed([("model.onnx", bytes(MAX_ARCHIVE_BYTES * 2))], compression)


OUTSIDE = {
    "up": "../../../../tmp/burnish-hostile.onnx",
    "up-inside": "a/../../burnish-hostile.onnx",
    "absolute": "/tmp/burnish-hostile.onnx",
    "drive": "C:/burnish-hostile.onnx",
    "drive-backslash": "C:\\burnish-hostile.onnx",
    "backslashes": "..\\..\\burnish-hostile.onnx",
    "unc": "//server/share/burnish.onnx",
    "dots": "..",
}
UNUSABLE = {
    "newline": "a\nb.onnx",
    "ansi": "\x1b[31mred\x1b[0m.onnx",
    "bell": "\x07.onnx",
    "long": "x" * 300 + ".onnx",
    "deep": "d/" * 60 + "m.onnx",
    "longest": "y" * 65_000,
}
HARMLESS = {
    "line-separator": "a\u2028b.bin",
    "rtl-override": "a\u202exnno.bin",
    "emoji": "\U0001f600.bin",
    "spaces": "  .bin",
    "dot": "./w.bin",
}

CASES: list[Hostile] = family(
    "zip",
    each({f"outside-{key}": named(name) for key, name in OUTSIDE.items()}),
    each({f"name-{key}": named(name) for key, name in UNUSABLE.items()}),
    each({f"name-{key}": named(name) for key, name in HARMLESS.items()}, "ready", "invalid_model"),
    case("name-nul", named("a\0b.onnx"), "ready", "invalid_model"),
    case("name-no-text", lambda: packed([("model.onnx", model()), ("NN", b"x")]).replace(b"NN", b"\xff\xfe"), "ready", "invalid_model"),
    case("case-collision", lambda: zip_of({"model.onnx": model(), "W.bin": b"1", "w.bin": b"2"}), "ready", "invalid_model"),
    case("two-models-by-case", lambda: zip_of({"model.onnx": model(), "MODEL.onnx": b"2"}), "unsupported_format"),
    each({f"is-{key}": special(kind) for key, kind in {"link": stat.S_IFLNK, "device": stat.S_IFCHR, "disk": stat.S_IFBLK, "pipe": stat.S_IFIFO, "socket": stat.S_IFSOCK}.items()}, phrase="link or a device"),
    case("setuid", lambda: special(stat.S_IFREG | stat.S_ISUID)()),
    case("twice", lambda: packed([("model.onnx", model()), ("model.onnx", b"other")]), phrase="twice"),
    case("twice-by-dot", lambda: packed([("model.onnx", model()), ("./model.onnx", b"other")]), phrase="twice"),
    case("file-and-folder", lambda: packed([("model.onnx", model()), ("model.onnx/w", b"x")])),
    case("encrypted", lambda: patched(stored(), {6: b"\x01\x00"}, {8: b"\x01\x00"}), phrase="encrypted"),
    case("encrypted-locally-alone", lambda: patched(stored(), {6: b"\x01\x00"}), "invalid_model", "ready"),
    each({f"method-{method}": lambda method=method: patched(stored(), {8: struct.pack("<H", method)}, {10: struct.pack("<H", method)}) for method in (1, 6, 9, 12, 14, 93, 99, 255)}),
    case("method-disagrees", lambda: patched(stored(), {8: b"\x08\x00"}), "invalid_model", "ready"),
    case("name-disagrees", lambda: patched(stored(), {30: b"evil"})),
    case("crc-lies", lambda: patched(stored(), {14: b"abcd"}, {16: b"abcd"})),
    case("size-lies-small", lambda: patched(stored(), {22: b"\x05\0\0\0"}, {24: b"\x05\0\0\0"})),
    case("size-lies-large", lambda: patched(stored(), {18: b"\0\0\0\x7f"}, {20: b"\0\0\0\x7f"}), phrase="shares"),
    case("compressed-size-zero", lambda: patched(stored(), {18: bytes(4)}, {20: bytes(4)})),
    case("header-offset-outside", lambda: patched(stored(), central={42: b"\xf0\xff\xff\x7f"})),
    case("header-offset-on-rubbish", lambda: patched(stored(), central={42: b"\x04\0\0\0"})),
    case("zip64-lie", zip64_lie),
    case("zip64-cut", lambda: patched(packed([("model.onnx", model())]), central={24: b"\xff\xff\xff\xff"}), "ready", "invalid_model"),
    case("directory-outside", lambda: end_moved(2**31)),
    case("directory-negative", lambda: end_moved(2**32 - 10)),
    case("directory-huge", lambda: end_moved(0, 2**32 - 2)),
    case("end-alone", lambda: b"PK\5\6" + bytes(18), "unsupported_format", "invalid_model"),
    case("start-alone", lambda: b"PK\3\4"),
    case("magic-and-rubbish", lambda: b"PK\3\4" + b"\xff" * 10_000),
    case("cut", lambda: packed([("model.onnx", model() * 100)])[:-30]),
    case("no-directory", lambda: stored()[: stored().index(b"PK\1\2")]),
    case("rubbish-behind", lambda: stored() + b"\xff" * 1000, "invalid_model", "ready"),
    case("zip-in-comment", comment_holds_a_zip, "invalid_model", "ready", "unsupported_format"),
    case("deflate-damaged", lambda: patched(packed([("model.onnx", model() * 20)]), {45: b"\xff" * 8})),
    case("bomb-deflate", bomb(zipfile.ZIP_DEFLATED), "payload_too_large", phrase="unpacks to more"),
    case("bomb-bzip2", bomb(zipfile.ZIP_BZIP2), "payload_too_large"),
    case("bomb-lzma", bomb(zipfile.ZIP_LZMA), "payload_too_large"),
    case("bomb-of-many", lambda: zip_of({f"w{number}": bytes(4_000_000) for number in range(20)}), "payload_too_large"),
    case("bomb-size-hidden", lambda: patched(bomb(zipfile.ZIP_DEFLATED)(), {22: b"\x05\0\0\0"}, {24: b"\x05\0\0\0"}), "payload_too_large", "invalid_model"),
    case("overlapping", overlapping, phrase="shares"),
    case("quoted-overlap", quoted, phrase="shares"),
    case("nested", nested, "unsupported_format"),
    case("100k-entries", lambda: many_entries(100_000), "payload_too_large", phrase="more than"),
    case("2k-folders", lambda: entries(2000, lambda number: f"d{number}/"), "payload_too_large"),
    case("one-too-many", lambda: entries(MAX_ARCHIVE_FILES + 1, lambda number: f"f{number}"), "payload_too_large"),
    case("model-is-empty", lambda: zip_of({"model.onnx": b""})),
    case("model-is-a-folder", lambda: packed([("model.onnx/", b"")]), "unsupported_format", "invalid_model"),
    case("models-many", lambda: zip_of({f"{number}.onnx": b"x" for number in range(500)}), "unsupported_format"),
    case("holds-nothing", lambda: packed([]), "unsupported_format"),
    case("holds-tar-of-links", lambda: zip_of({"a.tar": b"model.onnx" + bytes(500)}), "unsupported_format"),
    case("gitignored-droppings", lambda: zip_of({"__MACOSX/m.onnx": model()}), "unsupported_format"),
)  # fmt: skip
