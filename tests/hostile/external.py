"""Weights beside the model: missing, elsewhere, beyond the end, more than once."""

import io
import tarfile

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.hostile.case import Hostile, case, each, family
from tests.hostile.plain import zip_of
from tests.hostile.tars import member, tar
from tests.hostile.zips import packed
from tests.workers.formats.uploads import external, graph_model, linear, tensor, value

WEIGHTS = np.ones((4, 3), np.float32).tobytes()


def model(*tensors: TensorProto) -> bytes:
    """y = x·w, the weights where they say; more than one: all are weights of the graph."""
    whole = linear(tensors[0])
    whole.graph.initializer.extend(tensors[1:])
    return whole.SerializeToString()


def zipped(files: dict[str, bytes] | None = None, **told: str) -> bytes:
    return zip_of({"model.onnx": model(external("w", [4, 3], **told)), **(files or {"w.bin": WEIGHTS})})


def lone(**told: str) -> bytes:
    return model(external("w", [4, 3], **told))


def twice_told() -> bytes:
    weights = external("w", [4, 3], location="w.bin")
    weights.external_data.add(key="location", value="/etc/passwd")
    return zip_of({"model.onnx": model(weights), "w.bin": WEIGHTS})


def both_places() -> bytes:
    weights = external("w", [4, 3], location="w.bin")
    weights.raw_data = WEIGHTS
    return zip_of({"model.onnx": model(weights), "w.bin": WEIGHTS})


def typed(kind: int, dims: list[int], size: int = 48) -> bytes:
    weights = TensorProto(name="v", data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="w.bin")
    return zip_of(
        {"model.onnx": model(external("w", [4, 3], location="w.bin"), weights), "w.bin": bytes(size)}
    )


def amplified(count: int = 4000, size: int = 4_000_000) -> bytes:
    """Thousands of tensors, each of them the whole of one file."""
    tensors = [external(f"w{number}", [size // 4], location="w.bin") for number in range(count)]
    return zip_of({"model.onnx": model(tensor("w", np.ones((4, 3))), *tensors), "w.bin": bytes(size)})


def in_a_constant(location: str) -> bytes:
    held = external("c", [4, 3], location=location)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=held),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    whole = graph_model(nodes, [value("x", [1, 4])], [value("y", [1, 3])])
    return zip_of({"model.onnx": whole.SerializeToString(), "w.bin": WEIGHTS})


def in_a_branch(location: str) -> bytes:
    branches = []
    for name in ("then_branch", "else_branch"):
        node = helper.make_node("Identity", [f"w_{name}"], [f"o_{name}"])
        held = [external(f"w_{name}", [4, 3], location=location)]
        branches.append(helper.make_graph([node], name, [], [value(f"o_{name}", [4, 3])], held))
    node = helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1])
    whole = graph_model([node], [value("flag", [], TensorProto.BOOL)], [value("y", [4, 3])])
    return zip_of({"model.onnx": whole.SerializeToString(), "w.bin": WEIGHTS})


def in_a_sparse_tensor() -> bytes:
    sparse = onnx.SparseTensorProto(values=external("w", [3], location="../w.bin"), dims=[4, 3])
    sparse.indices.CopyFrom(tensor("i", [0, 1, 2], np.int64))
    whole = linear()
    del whole.graph.initializer[:]
    whole.graph.sparse_initializer.append(sparse)
    return whole.SerializeToString()


def linked_weights(type_: bytes) -> bytes:
    held = member("model.onnx", model(external("w", [4, 3], location="w.bin")))
    return tar(held, member("w.bin", b"", type=type_, linkname="/proc/self/environ"))


def folder_as_weights() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        folder = tarfile.TarInfo("w.bin")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        info = tarfile.TarInfo("model.onnx")
        data = model(external("w", [4, 3], location="w.bin"))
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


LOCATIONS = {
    "absolute": "/etc/passwd",
    "up": "../../../../etc/passwd",
    "up-inside": "a/../../w.bin",
    "own-environment": "/proc/self/environ",
    "device": "/dev/zero",
    "file-url": "file:///etc/passwd",
    "http-url": "http://127.0.0.1:8000/w.bin",
    "backslash": "..\\w.bin",
    "drive": "C:\\w.bin",
    "nul": "w.bin\0.txt",
    "newline": "w\n.bin",
    "ansi": "\x1b[2Jw.bin",
    "rtl": "w\u202enib",
    "empty": "",
    "dot": ".",
    "tilde": "~/w.bin",
    "variable": "$HOME/w.bin",
    "long": "w" * 5000,
    "longest": "w" * 1_000_000,
    "deep": "d/" * 3000 + "w",
    "half-character": "w\ufffd.bin",
}
NUMBERS = {
    "word": "many",
    "negative": "-48",
    "hex": "0x10",
    "float": "1e3",
    "spaces": " 8 ",
    "underscores": "1_0",
    "arabic": "\u0664\u0668",
    "superscript": "\u00b2",
    "huge": "9" * 19,
    "endless": "9" * 5000,
    "nul": "4\0",
}

CASES: list[Hostile] = family(
    "external",
    case("missing", lambda: lone(location="w.bin"), phrase="not uploaded"),
    case("missing-in-zip", lambda: zipped({"other.bin": WEIGHTS}, location="w.bin"), phrase="not uploaded"),
    case("no-location", lambda: zipped(offset="0"), phrase="point outside"),
    case("no-key", lambda: zip_of({"model.onnx": model(external("w", [4, 3]))}), phrase="point outside"),
    each({f"location-{key}": lambda place=place: lone(location=place) for key, place in LOCATIONS.items()}),
    each({f"location-{key}-in-zip": lambda place=place: zipped(location=place) for key, place in LOCATIONS.items() if key in ("absolute", "up", "nul", "long", "file-url")}),
    each({f"offset-{key}": lambda number=number: zipped(location="w.bin", offset=number) for key, number in NUMBERS.items()}),
    each({f"length-{key}": lambda number=number: zipped(location="w.bin", length=number) for key, number in NUMBERS.items()}),
    case("offset-beyond", lambda: zipped(location="w.bin", offset="4096", length="48"), phrase="reach from byte"),
    case("offset-at-the-end", lambda: zipped(location="w.bin", offset="48")),
    case("length-beyond", lambda: zipped(location="w.bin", length="4096"), phrase="reach from byte"),
    case("length-short", lambda: zipped(location="w.bin", length="4"), phrase="need 48 bytes"),
    case("length-zero", lambda: zipped(location="w.bin", length="0"), phrase="need 48 bytes"),
    case("sum-overflows", lambda: zipped(location="w.bin", offset=str(2**63 - 1), length=str(2**63 - 1))),
    case("file-empty", lambda: zipped({"w.bin": b""}, location="w.bin")),
    case("file-short", lambda: zipped({"w.bin": WEIGHTS[:-1]}, location="w.bin")),
    case("unknown-key", lambda: zipped(location="w.bin", basepath="/etc"), "ready", "invalid_model"),
    case("checksum-wrong", lambda: zipped(location="w.bin", checksum="0" * 40), "ready", "invalid_model"),
    case("location-twice", twice_told, phrase="ambiguous"),
    case("both-places", both_places, "ready", "invalid_model"),
    case("its-own-file", lambda: zipped(location="model.onnx", length="48"), "ready", "invalid_model"),
    case("overlapping", lambda: zip_of({"model.onnx": model(external("w", [4, 3], location="w.bin"), external("v", [4, 2], location="w.bin", offset="8", length="32")), "w.bin": WEIGHTS}), "ready"),
    case("amplified", amplified, phrase="again and again"),
    case("strings", lambda: typed(TensorProto.STRING, [3])),
    case("no-type", lambda: typed(0, [12])),
    case("unknown-type", lambda: typed(99, [12])),
    case("negative-dimension", lambda: typed(TensorProto.FLOAT, [-12])),
    case("huge-shape", lambda: typed(TensorProto.FLOAT, [2**40, 2**40])),
    case("shape-wraps-to-fit", lambda: typed(TensorProto.FLOAT, [2**32, 2**32, 12])),
    case("constant-outside", lambda: in_a_constant("../w.bin"), phrase="point outside"),
    case("constant-missing", lambda: in_a_constant("none.bin"), phrase="not uploaded"),
    case("branch-outside", lambda: in_a_branch("/etc/passwd"), phrase="point outside"),
    case("sparse-outside", in_a_sparse_tensor),
    case("link", lambda: linked_weights(tarfile.SYMTYPE), phrase="link or a device"),
    case("hard-link", lambda: linked_weights(tarfile.LNKTYPE), phrase="link or a device"),
    case("folder", folder_as_weights),
    case("lone-model-of-a-zip-entry", lambda: packed([("model.onnx", lone(location="model.onnx"))]), "invalid_model"),
)  # fmt: skip
