"""Tars that lie, explode, or write where they must not."""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Sequence
from typing import Any

from tests.hostile.case import MAX_ARCHIVE_BYTES, Hostile, case, each, family
from tests.hostile.zips import OUTSIDE, UNUSABLE, model

BLOCK = tarfile.BLOCKSIZE


def member(name: str = "model.onnx", data: bytes = b"x", **fields: Any) -> bytes:
    """One member, with whatever header fields were asked for."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % BLOCK)


def tar(*members: bytes) -> bytes:
    return b"".join(members) + bytes(2 * BLOCK)


def raw_size(field: bytes, data: bytes = b"") -> bytes:
    """A member whose size field holds these 12 bytes, with a right checksum."""
    head = bytearray(member("model.onnx", b"")[:BLOCK])
    head[124:136] = field
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return tar(bytes(head) + data)


def pax(records: dict[str, str], type_: bytes = tarfile.XHDTYPE) -> bytes:
    text = b""
    for key, value in records.items():
        line = f" {key}={value}\n".encode()
        length = len(line) + 1
        while length != len(str(length)) + len(line):
            length += 1
        text += str(length).encode() + line
    return member("pax", text, type=type_)


def pax_text(text: bytes) -> bytes:
    return tar(member("pax", text, type=tarfile.XHDTYPE), member("model.onnx", model()))


def link(type_: bytes, target: str = "/etc/passwd") -> Callable[[], bytes]:
    return lambda: tar(member("model.onnx", b"", type=type_, linkname=target))


def written_through_a_link() -> bytes:
    """A link to a folder outside, and a file below it."""
    return tar(
        member("w", b"", type=tarfile.SYMTYPE, linkname="/tmp"), member("w/burnish-hostile.onnx", b"x")
    )


def sparse() -> bytes:
    """An old GNU sparse file that says to be 2^40 bytes of zeros."""
    head = bytearray(member("model.onnx", b"", type=tarfile.GNUTYPE_SPARSE)[:BLOCK])
    head[386:398], head[398:410] = b"%011o\0" % 2**20, b"%011o\0" % 0
    head[483:495] = (0x80 << 88 | 2**40).to_bytes(12, "big")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return tar(bytes(head))


def pax_sparse() -> bytes:
    records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**50)}
    return tar(pax(records), member("model.onnx", b"1\n0\n0\n" + bytes(500)))


def pax_sparse_lies(counts: bytes) -> Callable[[], bytes]:
    records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "100"}
    return lambda: tar(pax(records), member("model.onnx", counts + bytes(500)))


def damaged(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes(byte ^ 0x55 for byte in data[offset : offset + 20]) + data[offset + 20 :]


def compressed_bomb(compress: Callable[[bytes], bytes]) -> Callable[[], bytes]:
    return lambda: compress(tar(member("model.onnx", bytes(MAX_ARCHIVE_BYTES * 2))))


def nothing_but_zeros() -> bytes:
    """Blank blocks: an archive that ends at once, and decompresses for long."""
    return gzip.compress(bytes(MAX_ARCHIVE_BYTES * 3))


def gzip_of(text: bytes) -> Callable[[], bytes]:
    return lambda: gzip.compress(text)


def long_link(size: int) -> bytes:
    return tar(member("././@LongLink", b"a" * size, type=tarfile.GNUTYPE_LONGNAME), member("x", model()))


def many(count: int) -> bytes:
    return gzip.compress(tar(*(member(f"f{number}", b"") for number in range(count))), 1)


def chain(types: Sequence[bytes], count: int) -> bytes:
    """Extension headers that extend extension headers."""
    return tar(*(member("e", b"name\0", type=types[number % len(types)]) for number in range(count)), member("model.onnx", model()))  # fmt: skip


def cut_gzip() -> bytes:
    return gzip.compress(tar(member("model.onnx", model())))[:-20]


def xz_with_a_large_dictionary() -> bytes:
    return lzma.compress(tar(member("model.onnx", model())), preset=9 | lzma.PRESET_EXTREME)


def concatenated() -> bytes:
    out = io.BytesIO()
    for _ in range(2000):
        out.write(gzip.compress(b""))
    return out.getvalue()


LINKS = {
    "symlink": tarfile.SYMTYPE,
    "hard-link": tarfile.LNKTYPE,
    "character-device": tarfile.CHRTYPE,
    "block-device": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}
SIZES = {
    "negative-base256": b"\xff" * 11 + b"\x00",
    "negative-text": b"-0000000001\0",
    "huge-base256": b"\x80" + b"\x7f" * 11,
    "huge-octal": b"777777777777",
    "no-number": b"size unknown",
    "backwards": (2**96 - 512).to_bytes(12, "big"),
}

CASES: list[Hostile] = family(
    "tar",
    each({f"outside-{key}": lambda name=name: tar(member("model.onnx", model()), member(name)) for key, name in OUTSIDE.items()}),
    each({f"name-{key}": lambda name=name: tar(member("model.onnx", model()), member(name)) for key, name in UNUSABLE.items()}),
    each({f"is-{key}": link(type_) for key, type_ in LINKS.items()}, phrase="link or a device"),
    case("link-up", link(tarfile.SYMTYPE, "../../burnish.db")),
    case("through-a-link", written_through_a_link, phrase="link or a device"),
    case("unknown-type", lambda: tar(member(data=model(), type=b"Z")), "ready", "invalid_model"),
    case("contiguous", lambda: tar(member(data=model(), type=tarfile.CONTTYPE)), "ready", "invalid_model"),
    case("setuid", lambda: tar(member(data=model(), mode=0o6777, uid=0, uname="root")), "ready"),
    case("unreadable", lambda: tar(member(data=model(), mode=0)), "ready"),
    case("folder-unwritable", lambda: tar(member("d", b"", type=tarfile.DIRTYPE, mode=0), member("d/model.onnx", model())), "ready"),
    case("twice", lambda: tar(member(data=model()), member(data=b"other")), phrase="twice"),
    each({f"size-{key}": lambda field=field: raw_size(field, bytes(1024)) for key, field in SIZES.items()}, "invalid_model", "payload_too_large"),
    case("sparse", sparse),
    case("sparse-pax", pax_sparse),
    case("sparse-pax-counts", pax_sparse_lies(b"999999999\n0\n")),
    case("sparse-pax-negative", pax_sparse_lies(b"1\n-5\n-7\n")),
    case("sparse-pax-rubbish", pax_sparse_lies(b"x\ny\n")),
    case("pax-giant", lambda: tar(pax({"comment": "c" * 3_000_000}), member(data=model())), phrase="oversized header"),
    case("pax-many-records", lambda: tar(pax({f"k{number}": "v" for number in range(30_000)}), member(data=model())), "ready", "invalid_model"),
    case("pax-size", lambda: tar(pax({"size": str(2**62)}), member(data=model())), "invalid_model", "payload_too_large"),
    case("pax-size-negative", lambda: tar(pax({"size": "-1024"}), member(data=model()))),
    case("pax-size-no-number", lambda: tar(pax({"size": "many"}), member(data=model())), "ready", "invalid_model"),
    case("pax-path-up", lambda: tar(pax({"path": "../../burnish-hostile.onnx"}), member(data=model())), phrase="points outside"),
    case("pax-link", lambda: tar(pax({"linkpath": "/etc/passwd"}), member(data=b"", type=tarfile.SYMTYPE))),
    case("pax-global-path", lambda: tar(pax({"path": "/etc/passwd"}, tarfile.XGLTYPE), member(data=model())), "ready", "invalid_model"),
    each({f"pax-text-{number}": lambda text=text: pax_text(text) for number, text in enumerate((b"0 a=b\n", b"-5 a=b\n", b"99999999999 a=b\n", b"5 ab\n", b"\xff\xfe", b"12 hdrcharset=BINARY\n"))}, "ready", "invalid_model"),
    case("gnu-long-name", lambda: long_link(900_000), phrase="too long a path"),
    case("gnu-long-name-giant", lambda: long_link(2_000_000), phrase="oversized header"),
    case("headers-for-headers", lambda: chain([tarfile.GNUTYPE_LONGNAME], 5000)),
    case("headers-mixed", lambda: chain([tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME], 5000)),
    case("cut-in-header", lambda: tar(member(data=model()))[:300]),
    case("cut-in-data", lambda: tar(member(data=model() * 50))[:2000]),
    case("checksum-lies", lambda: damaged(tar(member(data=model())), 100)),
    case("magic-and-rubbish", lambda: member(data=b"")[:BLOCK] + b"\xff" * 5000, "invalid_model", "unsupported_format"),
    case("blank", lambda: bytes(10 * BLOCK)),
    case("empty-gz", gzip_of(b"")),
    case("gz-no-tar", gzip_of(b"hello")),
    case("gz-model", lambda: gzip.compress(model())),
    case("gz-cut", cut_gzip),
    case("gz-damaged", lambda: damaged(gzip.compress(tar(member(data=model() * 50))), 60)),
    case("gz-crc-lies", lambda: gzip.compress(tar(member(data=model())))[:-8] + bytes(8)),
    case("gz-magic-alone", lambda: b"\x1f\x8b"),
    case("gz-many-empty-members", concatenated),
    case("gz-in-gz", lambda: gzip.compress(gzip.compress(tar(member(data=model()))))),
    case("bz2-magic-alone", lambda: b"BZh9"),
    case("bz2-rubbish", lambda: b"BZh9" + b"\xff" * 5000),
    case("xz-magic-alone", lambda: b"\xfd7zXZ\0"),
    case("xz-rubbish", lambda: b"\xfd7zXZ\0" + b"\xff" * 5000),
    case("xz-large-dictionary", xz_with_a_large_dictionary, "ready"),
    case("bomb-gz", compressed_bomb(gzip.compress), "payload_too_large", phrase="unpacks to more"),
    case("bomb-bz2", compressed_bomb(bz2.compress), "payload_too_large"),
    case("bomb-xz", compressed_bomb(lzma.compress), "payload_too_large"),
    case("bomb-in-gz-in-gz", lambda: gzip.compress(gzip.compress(bytes(MAX_ARCHIVE_BYTES * 3)))),
    case("bomb-of-zeros", nothing_but_zeros, "payload_too_large", "invalid_model", "unsupported_format"),
    case("many", lambda: many(5000), "payload_too_large", phrase="more than"),
)  # fmt: skip
