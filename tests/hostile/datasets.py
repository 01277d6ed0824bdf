"""Datasets that lie, explode, run code or hold nothing of use."""

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.hostile.case import MAX_ARCHIVE_BYTES, Hostile, case, each, family
from tests.hostile.plain import Trap, torch_file, zip_of
from tests.hostile.zips import packed, patched, quoted


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, **arrays)
    return out.getvalue()


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def header(text: str, version: int = 1, length: int | None = None) -> bytes:
    """A header of this text, whatever it says."""
    data = text.encode("latin1") + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(data) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + data


def described(shape: str = "(2, 3)", descr: str = "'<f4'", fortran: str = "False", rest: str = "") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, {rest}}}"


def one(data: bytes, name: str = "x.npy") -> Callable[[], bytes]:
    return lambda: zip_of({name: data})


def pickled() -> bytes:
    array = np.empty(2, dtype=object)
    array[:] = [Trap(), Trap()]
    return npz(x=array)


def named(name: str) -> Callable[[], bytes]:
    return lambda: packed([(f"{name}.npy", npy(np.ones((2, 3))))])


def lying_size() -> bytes:
    """The zip says 24 bytes of data, the stream gives 64 MiB."""
    data = packed([("x.npy", header(described()) + bytes(2 * MAX_ARCHIVE_BYTES))])
    size = struct.pack("<I", len(header(described())) + 24)
    return patched(data, {22: size}, {24: size})


def damaged() -> bytes:
    data = bytearray(npz(compressed=True, x=np.random.default_rng(0).random((1000, 10))))
    data[3000:3020] = bytes(20)
    return bytes(data)


def many(count: int) -> bytes:
    array = npy(np.ones((2, 1), np.float32))
    return packed([(f"a{number}.npy", array) for number in range(count)], zipfile.ZIP_STORED)


def twice() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return packed([("x.npy", npy(np.ones((2, 3)))), ("x.npy", npy(np.zeros((2, 3))))])


ROWS = np.ones((4, 3), np.float32)
DATA = bytes(24)
HEADERS = {
    "no-dict": "[1, 2, 3]",
    "nothing": "",
    "call": "__import__('os').system('touch /tmp/burnish-hostile')",
    "dict-of-calls": "dict(descr='<f4', fortran_order=False, shape=(2, 3))",
    "comprehension": "{k: v for k, v in []}",
    "unfinished": "{'descr': '<f4', 'shape': (2,",
    "unended-text": "{'descr': '<f4",
    "nested": "(" * 150 + ")" * 150,
    "nested-deep": "[" * 9000,
    "minus-signs": "-" * 9000 + "1",
    "additions": "1" + "+1" * 4000,
    "backslash": "\\",
    "nul": "{'descr': '<f4'\0}",
    "indented": "  {\n   'a'\n",
    "keys-missing": "{'descr': '<f4'}",
    "keys-more": described(rest="'extra': 1"),
    "shape-text": described(shape="'many'"),
    "shape-number": described(shape="6"),
    "shape-none": described(shape="(None, 3)"),
    "shape-float": described(shape="(2.0, 3)"),
    "shape-bool": described(shape="(True, 6)"),
    "shape-negative": described(shape="(-2, 3)"),
    "shape-two-negatives": described(shape="(-2, -3)"),
    "shape-huge": described(shape="(2, 10**30)"),
    "shape-digits": described(shape=f"(2, {'9' * 5000})"),
    "shape-many-digits": described(shape=f"(2, {'9' * 4000})"),
    "shape-wraps": described(shape=f"({2**32}, {2**32}, 6)"),
    "shape-rank-65": described(shape=f"(2, 3, {'1, ' * 63})"),
    "shape-rank-3000": described(shape=f"(2, 3, {'1, ' * 3000})"),
    "shape-zeros-and-huge": described(shape=f"(2, 0, {2**62})"),
    "dtype-object": described(descr="'|O'"),
    "dtype-structured": described(descr="[('a', '<f4'), ('b', '<f8')]"),
    "dtype-of-objects": described(descr="[('a', '|O')]"),
    "dtype-subarray": described(descr="('<f4', (1000000, 1000000))"),
    "dtype-nested": described(descr="[('a', " * 100 + "'<f4'" + ")]" * 100),
    "dtype-void": described(descr="'|V24'"),
    "dtype-nothing": described(descr="''"),
    "dtype-none": described(descr="None"),
    "dtype-number": described(descr="7"),
    "dtype-unknown": described(descr="'<q99'"),
    "dtype-comma": described(descr="'<f4,<f8'"),
    "dtype-text-huge": described(descr="'<U536870911'"),
    "dtype-text-larger": described(descr="'<U99999999999'"),
    "dtype-text-empty": described(descr="'<U0'"),
    "dtype-time": described(descr="'<M8[s]'"),
    "dtype-complex": described(descr="'<c8'"),
    "fortran": described(fortran="True"),
    "fortran-text": described(fortran="'no'"),
}
RAWS = {
    "no-magic": b"hello",
    "magic-alone": b"\x93NUMPY",
    "version-3": b"\x93NUMPY\x03\0" + struct.pack("<I", 10) + b"{}        \n",
    "version-255": b"\x93NUMPY\xff\xff" + bytes(100),
    "length-lies": header(described(), length=60_000),
    "length-4gb": header(described(), 2, length=2**32 - 1),
    "length-zero": header(described(), length=0),
    "length-large": header(described() + " " * 3_000_000, 2),
    "pickle": b"\x80\x04cos\nsystem\n",
    "shorter": header(described()) + bytes(23),
    "longer": header(described()) + bytes(25),
    "empty": b"",
}
ARRAYS: dict[str, dict[str, Any]] = {
    "rows-differ": {"x": np.ones((4, 2)), "z": np.ones((5, 2))},
    "no-rows": {"x": np.ones((0, 2))},
    "no-columns": {"x": np.ones((3, 0))},
    "scalar": {"x": np.float32(1)},
    "nan": {"x": np.array([[1.0], [np.nan]])},
    "infinite": {"x": np.array([[1.0], [np.inf]], np.float16)},
    "nan-label": {"x": ROWS, "labels": np.array([0, 1, np.nan, 1])},
    "labels-differ": {"x": ROWS, "labels": np.arange(5)},
    "times": {"x": np.zeros(3, "M8[s]")},
    "records": {"x": np.zeros(3, [("a", "f4")])},
    "nothing": {},
}
NAMES = {"ansi": "\x1b[2Jx", "newline": "a\nb", "turned": "a\u202eb", "long": "n" * 60_000, "empty": ""}
STRANGE = {
    "emoji": "\U0001f600",
    "path": "../../x",
    "absolute": "/etc/x",
    "html": "<b>x</b>",
    "markup": "[red]x",
}
STRANGE_ARRAYS: dict[str, dict[str, Any]] = {
    "label-below-zero": {"x": ROWS, "labels": np.array([-5, 0, 1, 2])},
    "label-huge": {"x": ROWS, "labels": np.array([2**62, 0, 1, 2])},
    "labels-of-texts": {"x": ROWS, "labels": np.array(["a", "\x1b[2J", "", "\u202e"])},
    "labels-of-floats": {"x": ROWS, "labels": np.array([0.5, 1e300, -1, 0])},
    "labels-of-bools": {"x": ROWS, "labels": np.array([True, False, True, True])},
    "labels-alone": {"labels": np.arange(4)},
    "labels-of-two-kinds": {"x": ROWS, "labels": np.arange(4), "y": np.arange(4)},
    "texts-no-utf8": {"x": np.array([b"\xff\xfe", b"\x1b", b"ok", b""])},
    "long-double": {"x": np.ones((2, 2), np.longdouble)},
    "big-endian": {"x": np.ones((2, 2), ">f8")},
    "largest": {"x": np.full((2, 2), 1.7e308)},
}

CASES: list[Hostile] = family(
    "dataset",
    each({f"header-{key}": one(header(text) + DATA) for key, text in HEADERS.items() if key != "shape-bool"}, subject="dataset"),
    case("header-shape-bool", one(header(HEADERS["shape-bool"]) + DATA), "invalid_dataset", "ready", subject="dataset"),
    each({f"npy-{key}": one(data) for key, data in RAWS.items()}, subject="dataset"),
    each({f"arrays-{key}": lambda arrays=arrays: npz(**arrays) for key, arrays in ARRAYS.items()}, subject="dataset"),
    each({f"arrays-{key}": lambda arrays=arrays: npz(**arrays) for key, arrays in STRANGE_ARRAYS.items()}, "ready", subject="dataset"),
    each({f"name-{key}": named(name) for key, name in NAMES.items()}, subject="dataset"),
    each({f"name-{key}": named(name) for key, name in STRANGE.items()}, "ready", "invalid_dataset", subject="dataset"),
    each({
        "empty": lambda: b"",
        "one-byte": lambda: b"P",
        "text": lambda: b"1,2,3\n4,5,6\n",
        "npy-alone": lambda: npy(ROWS),
        "pickled-objects": pickled,
        "torch": lambda: torch_file(True),
        "no-arrays": lambda: zip_of({"README": b"text"}),
        "arrays-and-more": lambda: zip_of({"x.npy": npy(ROWS), "x.pkl": b"\x80\x04."}),
        "name-twice": twice,
        "cut": lambda: npz(x=np.ones((100, 100)))[:-500],
        "cut-early": lambda: npz(x=np.ones((100, 100)))[:300],
        "damaged": damaged,
        "size-lies": lying_size,
        "encrypted": lambda: patched(npz(x=ROWS), {6: b"\1\0"}, {8: b"\1\0"}),
        "unknown-compression": lambda: patched(npz(x=ROWS), {8: b"\x63\0"}, {10: b"\x63\0"}),
        "quoted-overlap": quoted,
        "rows-of-a-terabyte": one(header(described(shape=f"({2**40}, 1)"), 1) + bytes(2**20)),
        "many": lambda: many(20_000),
    }, subject="dataset"),
    case("bomb", lambda: npz(compressed=True, x=np.zeros((8, 2 * MAX_ARCHIVE_BYTES // 8), np.uint8)), "payload_too_large", subject="dataset"),
    case("row-of-a-bomb", lambda: npz(compressed=True, x=np.zeros((1, 2 * MAX_ARCHIVE_BYTES), np.uint8)), "payload_too_large", subject="dataset"),
    case("rows-of-one-byte", lambda: npz(compressed=True, x=np.zeros((MAX_ARCHIVE_BYTES - 1, 1), np.uint8)), "ready", subject="dataset"),
)  # fmt: skip
