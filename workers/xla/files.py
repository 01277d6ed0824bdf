"""An engine's files: `engine.json` (signature, order of the weights, names of types), the program of `jax.export`, weights in safetensors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.errors import InvalidModel

if TYPE_CHECKING:
    from workers.xla.lower import Lowered

ENTRY = "engine.json"
PROGRAM = "program.jax_export"
WEIGHTS = "weights.safetensors"
DTYPES = {  # numpy's names by safetensors'
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32", "U64": "uint64",
    "I64": "int64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F16": "float16", "BF16": "bfloat16", "F32": "float32",
    "F64": "float64",
}  # fmt: skip


def write(
    lowered: "Lowered", inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]], out: Path
) -> None:
    """Write the files of a lowered program into `out`."""
    from safetensors.torch import save_file

    (out / PROGRAM).write_bytes(lowered.program)
    save_file({name: _whole(value) for name, value in lowered.weights.items()}, out / WEIGHTS)
    told = {
        "inputs": list(inputs),
        "outputs": list(outputs),
        "weights": list(lowered.weights),
        "dtypes": DTYPES,
    }
    (out / ENTRY).write_text(json.dumps(told), encoding="utf-8")


def signature(entry: Path) -> dict[str, Any]:
    """What `ENTRY` says: {inputs, outputs, weights, dtypes}. Raises InvalidModel where it says nothing of the kind."""
    try:
        told: dict[str, Any] = json.loads(entry.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidModel(f"this engine cannot be loaded: {error}", stage="loading") from error
    return told


def read_weights(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays of a safetensors file, mapped into memory; numpy and ml_dtypes are all that it takes."""
    import ml_dtypes  # noqa: F401 - gives numpy the names of 8-bit floats and bfloat16

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    start = 8 + length
    held = np.memmap(path, np.uint8, "r", start) if path.stat().st_size > start else np.empty(0, np.uint8)
    found = []
    for name in names:
        told = header[name]
        first, end = told["data_offsets"]
        found.append(held[first:end].view(np.dtype(DTYPES[told["dtype"]])).reshape(told["shape"]))
    return found


def _whole(tensor: Any) -> Any:
    """The tensor in memory of its own: safetensors refuses two views of one."""
    held = tensor.detach().cpu().contiguous()
    return held if held.untyped_storage().nbytes() == held.nbytes else held.clone()
