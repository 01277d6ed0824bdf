"""Datasets as `.tar` and Parquet that lie, explode or hold nothing of use."""

import gzip
import io
import struct
import tarfile
import zlib
from collections.abc import Callable

import numpy as np

from tests.hostile.case import MAX_ARCHIVE_BYTES, Hostile, case, each, family


def tar(
    *members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, link: str = "", size: int | None = None
) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, link
            archive.addfile(info, io.BytesIO(data))
    if size is None:
        return out.getvalue()
    info.size = size
    return info.tobuf() + out.getvalue()[512:]


def png(
    rows: int = 2, columns: int = 2, told: tuple[int, int] | None = None, data: bytes | None = None
) -> bytes:
    """Grey pixels; `told` is what the header says instead of their number."""
    raw = b"".join(b"\0" + bytes(columns) for _ in range(rows))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", *(told or (columns, rows)), 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw, 9) if data is None else data),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )  # fmt: skip


def parquet(**columns: object) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet as form

    out = io.BytesIO()
    form.write_table(pa.table(columns), out)
    return out.getvalue()


def npy_of(header: str) -> Callable[[], bytes]:
    text = header.encode() + b"\n"
    data = b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + bytes(24)
    return lambda: tar(("0.x.npy", data))


IMAGE = png()
TARS: dict[str, Callable[[], bytes]] = {
    "empty-sample": lambda: tar(("0.png", b"")),
    "no-image": lambda: tar(("0.png", b"\x89PNG\r\n\x1a\nno")),
    "image-of-another-kind": lambda: tar(("0.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")),
    "image-30000": lambda: tar(("0.png", png(told=(30_000, 30_000)))),
    "image-bomb": lambda: tar(("0.png", png(told=(2**31 - 1, 2**31 - 1)))),
    "image-sizes": lambda: tar(("0.png", IMAGE), ("1.png", png(3, 3))),
    "label-text": lambda: tar(("0.png", IMAGE), ("0.cls", b"__import__('os')")),
    "label-digits": lambda: tar(("0.png", IMAGE), ("0.cls", b"9" * 5000)),
    "label-huge": lambda: tar(("0.png", IMAGE), ("0.cls", b"9" * 30)),
    "link": lambda: tar(("0.png", b""), kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "hard-link": lambda: tar(("0.png", b""), kind=tarfile.LNKTYPE, link="/etc/passwd"),
    "device": lambda: tar(("0.png", b""), kind=tarfile.CHRTYPE),
    "fifo": lambda: tar(("0.png", b""), kind=tarfile.FIFOTYPE),
    "lying-size": lambda: tar(("0.png", IMAGE), size=10**9),
    "lying-size-huge": lambda: tar(("0.png", IMAGE), size=2**60),
    "garbage-behind": lambda: tar(("0.png", IMAGE))[:1024] + b"x" * 2048,
    "twice": lambda: tar(("0.png", IMAGE), ("0.png", IMAGE)),
    "nothing-known": lambda: tar(("0.pkl", b"\x80\x04.")),
    "many-endings": lambda: tar(*((f"0.{number}.npy", b"") for number in range(200))),
    "npy-objects": npy_of("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}"),
    "npy-huge": npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 10**30)}"),
    "npy-negative": npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3)}"),
    "npy-call": npy_of("__import__('os').system('touch /tmp/burnish-hostile')"),
    "npy-nested": npy_of("(" * 150 + ")" * 150),
    "npy-structured": npy_of("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,)}"),
    "gzip-damaged": lambda: gzip.compress(tar(("0.png", IMAGE)))[:-20],
}
TABLES: dict[str, Callable[[], bytes]] = {
    "null": lambda: parquet(x=[1.0, None]),
    "ragged": lambda: parquet(x=[[1], [1, 2]]),
    "no-row": lambda: parquet(x=np.zeros(0)),
    "no-column": lambda: parquet(),
    "infinite": lambda: parquet(x=[1.0, float("inf")]),
    "image-bomb": lambda: parquet(x=[png(told=(2**31 - 1, 2**31 - 1))]),
    "head-alone": lambda: b"PAR1",
    "no-footer": lambda: parquet(x=[1.0, 2.0])[:-8],
    "footer-length": lambda: parquet(x=[1.0, 2.0])[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1",
    "footer-garbage": lambda: b"PAR1" + b"\xff" * 500 + struct.pack("<I", 400) + b"PAR1",
}  # fmt: skip

CASES: list[Hostile] = family(
    "samples",
    each({f"tar-{key}": make for key, make in TARS.items()}, subject="dataset"),
    each({f"parquet-{key}": make for key, make in TABLES.items()}, subject="dataset"),
    case("tar-path-outside", lambda: tar(("../../etc/0.png", IMAGE)), "ready", subject="dataset"),
    case("tar-bomb", lambda: gzip.compress(tar(("0.png", bytes(2 * MAX_ARCHIVE_BYTES)))), "payload_too_large", subject="dataset"),
    case("parquet-bomb", lambda: parquet(x=np.zeros(MAX_ARCHIVE_BYTES)), "payload_too_large", subject="dataset"),
)  # fmt: skip
