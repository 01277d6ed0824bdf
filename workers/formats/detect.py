"""What an uploaded file is, found by its content, never by its name."""

import codecs
import pickletools
from pathlib import Path

from app.errors import BurnishError, UnsafeModel, UnsupportedFormat
from workers.archive import damage_named, is_archive, is_zip, open_zip

# the three lines that write a network without its Python code
EXPORT_HINT = (
    "export the network where you trust it, and upload what these lines write: `import torch`; "
    "`program = torch.export.export(model.eval(), (example,))`; `torch.export.save(program, 'model.pt2')`. "
    "Or as ONNX: `torch.onnx.export(model.eval(), (example,), 'model.onnx', dynamo=True)`"
)
_HEAD_BYTES = 4096
_KNOWN = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program or library (ELF)",
    b"GGUF": "a GGUF model of llama.cpp",
    b"\x93NUMPY": "a numpy array",
}
_TAKEN = "`burnish formats` and `GET /v1/formats` say what is"
_PICKLE_INSTRUCTIONS = 4  # in a row: no other file reads as these by chance


def refusal(file: Path) -> BurnishError | None:
    """The error for a file of no format that is known and not taken; None for what may be ONNX or an archive of it.

    Raises:
        InvalidModel: it is a damaged zip.
    """
    with file.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if is_zip(file):
        return _refused_zip(file)
    if is_archive(file):
        return None
    if _is_pickle(head):
        return UnsafeModel("the file is a Python pickle, which runs code when it is loaded", hint=EXPORT_HINT)
    if head[4:8] == b"TFL3":
        return _unsupported(
            "TensorFlow Lite",
            "upload the model that it was made from: a Keras file (`model.save('model.keras')`), a SavedModel, or ONNX",
        )
    if head.lstrip()[:1] in (b"{", b"<"):
        return _unsupported("text (JSON or XML)", "save the model in a binary form: `.pt2`, or ONNX")
    if (found := next((what for start, what in _KNOWN.items() if head.startswith(start)), None)) is not None:
        return _unsupported(found, _TAKEN)
    if _is_text(head):
        return _unsupported("text", _TAKEN)
    return None


def _refused_zip(file: Path) -> BurnishError | None:
    with damage_named(), open_zip(file) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") for name in names):
        return UnsafeModel(
            "the file is a PyTorch pickle of more than weights, which runs code when it is loaded",
            hint=EXPORT_HINT,
        )
    if names and all(name.endswith(".npy") for name in names):
        return UnsupportedFormat(
            "the file holds numpy arrays (.npz): it is a dataset, not a model",
            hint="upload it as one: `burnish datasets upload`, or `--dataset` and `--evaluate` of `burnish optimize`",
        )
    return None


def _is_text(head: bytes) -> bool:
    """Whether it reads as text: nothing in it steers a terminal. ONNX begins with a number that does."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # a letter may be cut at the end
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)


def _is_pickle(head: bytes) -> bool:
    """Protocols 2 to 5 say so in two bytes; older ones show by their first instructions, none of which ONNX begins with."""
    if head[:1] == b"\x80" and b"\x02" <= head[1:2] <= b"\x05":
        return True
    names = []
    try:
        for operation, _, _ in pickletools.genops(head):
            names.append(operation.name)
    except (ValueError, IndexError):
        pass  # a head is cut anywhere
    return len(names) > _PICKLE_INSTRUCTIONS or (len(names) > 1 and names[-1] == "STOP")


def _unsupported(found: str, hint: str) -> UnsupportedFormat:
    return UnsupportedFormat(f"the file is {found}, which is not taken", hint=hint)
