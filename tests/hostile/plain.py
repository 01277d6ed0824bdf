"""Files that are not what they seem: cut, empty, of other formats, pickles."""

import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from tests.hostile.case import Hostile, case, each, family
from tests.workers.formats.uploads import linear, package_file

REAL = {
    "rapidocr-cls": package_file("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"),
    "silero": package_file("silero_vad", "data/silero_vad.onnx"),
}


class Trap:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        import os

        return os._exit, (66,)


@cache
def real(name: str) -> bytes:
    return REAL[name].read_bytes()


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The same bytes at any time: members have no time of their own."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return out.getvalue()


def npz_of(compression: int, **arrays: np.ndarray) -> bytes:
    """As `numpy.savez` and `numpy.savez_compressed` write them, but for their time."""
    members = {}
    for name, array in arrays.items():
        out = io.BytesIO()
        np.save(out, array)
        members[f"{name}.npy"] = out.getvalue()
    return zip_of(members, compression)


def cut(name: str, share: float) -> Callable[[], bytes]:
    return lambda: real(name)[: int(len(real(name)) * share)]


def torch_file(zip_form: bool) -> bytes:
    out = io.BytesIO()
    torch.save({"w": torch.ones(3), "trap": Trap()}, out, _use_new_zipfile_serialization=zip_form)
    return out.getvalue()


def pickled(protocol: int) -> Callable[[], bytes]:
    return lambda: pickle.dumps(Trap(), protocol)


def keras(config: bytes) -> bytes:
    return zip_of({"config.json": config, "metadata.json": b"{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n"})


LAMBDA = (
    b'{"class_name": "Functional", "config": {"layers": [{"class_name": "Lambda", "config": '
    b'{"function": {"class_name": "__lambda__", "config": {"code": "4wEAAAAAAAAAAAAAAAEAAAADAAAA"}}}}]}}'
)


def memo_bomb() -> bytes:
    """A pickle that says nothing in its first four thousand bytes but blank instructions."""
    return b"N0" * 3000 + pickletools.optimize(pickle.dumps(Trap(), 0))


CASES: list[Hostile] = [
    *family(
        "truncated",
        each({f"rapidocr-{share}": cut("rapidocr-cls", share) for share in (0.001, 0.1, 0.3, 0.5, 0.9, 0.999)}),
        each({f"silero-{share}": cut("silero", share) for share in (0.0001, 0.05, 0.25, 0.6, 0.99)}),
        case("last-byte", lambda: linear().SerializeToString()[:-1]),
        case("first-bytes", lambda: linear().SerializeToString()[:7]),
        case("first-byte-gone", lambda: linear().SerializeToString()[1:], "invalid_model", "unsupported_format"),
    ),
    *family(
        "bytes",
        case("empty", lambda: b"", phrase="empty"),
        each({f"one-{byte:02x}": lambda byte=byte: bytes([byte]) for byte in (0x00, 0x08, 0xFF)}),
        case("one-0a", lambda: b"\n", "unsupported_format"),
        case("one-brace", lambda: b"{", "unsupported_format"),
        case("zeros", lambda: bytes(1_000_000)),
        case("noise", lambda: np.random.default_rng(0).bytes(1_000_000)),
        case("newlines", lambda: b"\n" * 100_000, "unsupported_format"),
        case("text", lambda: b"ir_version: 8\ngraph { name: 'g' }\n", "unsupported_format"),
        case("json", lambda: b'{"irVersion": "8", "graph": {}}', "unsupported_format"),
        case("xml", lambda: b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>", "unsupported_format"),
        case("elf", lambda: b"\x7fELF\x02\x01\x01" + bytes(1000), "unsupported_format"),
        case("shebang", lambda: b"#!/bin/sh\nrm -rf /\n", "unsupported_format"),
        case("png", lambda: b"\x89PNG\r\n\x1a\n" + bytes(1000), "unsupported_format"),
        case("pdf", lambda: b"%PDF-1.7\n" + bytes(1000), "unsupported_format"),
        case("rubbish-behind-a-model", lambda: linear().SerializeToString() + b"\xff" * 1000),
        case("model-twice", lambda: linear().SerializeToString() * 2, "invalid_model", "ready"),
    ),
    *family(
        "formats",
        case("hdf5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(1000)),
        case("hdf5-head-alone", lambda: b"\x89HDF\r\n\x1a\n"),
        case("tflite", lambda: b"\x1c\0\0\0TFL3" + b"\xff" * 1000, "unsupported_format"),
        case("safetensors", lambda: (2**40).to_bytes(8, "little") + b"{" + bytes(1000), "unsupported_format", "invalid_model"),
        case("safetensors-lies", lambda: (99_000_000).to_bytes(8, "little") + b'{"a":' + b"[" * 5000),
        case("saved-model", lambda: zip_of({"m/saved_model.pb": b"\x08\x01" * 9}), "unsupported_format"),
        case("keras-lambda", lambda: keras(LAMBDA), "unsafe_model", phrase="Lambda"),
        case("keras-pickle", lambda: keras(pickle.dumps(Trap())), phrase="no JSON"),
        case("keras-in-zip", lambda: zip_of({"net/model.keras": keras(LAMBDA)}), "unsafe_model", phrase="Lambda"),
        case("torchscript", lambda: zip_of({"m/constants.pkl": pickle.dumps(Trap()), "m/data.pkl": b"\x80\x02."}), "unsafe_model"),
        case("npz-as-model", lambda: zip_of({"x.npy": b"\x93NUMPY\x01\x00"}), "unsupported_format"),
    ),
    *family(
        "pickles",
        each({f"protocol-{number}": pickled(number) for number in range(6)}, "unsafe_model", phrase="pickle"),
        case("torch-zip", lambda: torch_file(True), "unsafe_model", phrase="pickle"),
        case("torch-old", lambda: torch_file(False), "unsafe_model", phrase="pickle"),
        case("torch-in-zip", lambda: zip_of({"net/model.pt": torch_file(True)}), "unsafe_model"),
        case("torch-named-onnx", lambda: zip_of({"model.onnx": torch_file(False)}), "unsafe_model", "invalid_model"),
        case("data-pkl-beside-a-model", lambda: zip_of({"archive/data.pkl": pickle.dumps(Trap()), "model.onnx": linear().SerializeToString()}), "unsafe_model", "unsupported_format"),
        case("joblib-in-zip", lambda: zip_of({"model.joblib": pickle.dumps(Trap())}), "unsafe_model"),
        case("stop-alone", lambda: b"\x80\x04.", "unsafe_model"),
        case("long-memo", memo_bomb, "unsafe_model"),
        case("cut", lambda: pickle.dumps(Trap(), 4)[:12], "unsafe_model"),
        case("unknown-protocol", lambda: b"\x80\x7f" + pickle.dumps(Trap(), 4)[2:], "unsafe_model", "invalid_model"),
    ),
]  # fmt: skip
