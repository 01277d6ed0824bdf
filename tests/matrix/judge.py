"""One upload on one runtime: inspected, converted, built, run and compared with its own framework."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.catalog.formats import way
from app.catalog.runtimes import RUNTIMES
from app.errors import BurnishError
from tests.matrix.uploads import FORMATS, Upload
from workers import runtimes
from workers.conversion import convert, open_model
from workers.formats import onnx as onnx_format
from workers.formats import registry
from workers.formats.base import Source
from workers.formats.locate import locate
from workers.model_handle import ModelHandle
from workers.samples import synthetic_samples
from workers.verify import first_difference, follow

LIMIT_BYTES, LIMIT_FILES = 10**9, 1000


@dataclass(frozen=True)
class Cell:
    """What became of it: `works`, or a code of the contract with its detail. `absent`: the format holds no such network."""

    outcome: str
    detail: str = ""


def judge(format_: str, kind: str, runtime: str) -> Cell:
    """The cell of the matrix. Errors that are none of the contract's are not caught."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "upload").mkdir()
        upload = FORMATS[format_](kind, folder / "upload")
        if upload is None:
            return Cell("absent")
        try:
            return _run(upload, format_, runtime, folder)
        except BurnishError as error:
            return Cell(error.code, error.detail)


def _run(upload: Upload, format_: str, runtime: str, folder: Path) -> Cell:
    found, root, entry = locate(upload.file, folder / "tree", LIMIT_BYTES, LIMIT_FILES)
    assert found == format_, f"{upload.file.name} was taken for {found}"
    if found == onnx_format.FORMAT:
        onnx_format.check(root, entry)
    source = registry.get(found).open(Source(root, entry, upload.declared))
    spec = RUNTIMES[runtime]
    try:
        to = way(found, spec.formats)
    except LookupError:
        return Cell("incompatible_recipe", f"{found} models do not become {', '.join(sorted(spec.formats))}")
    model = ModelHandle(root, entry, found, "", upload.declared)
    if to is not None:
        model, _ = convert(source, to, _made(folder / "converted"))
    params = spec.baseline_params(spec.params.model_validate({"threads": 1}))
    implementation = runtimes.registry.alone(runtime)
    engine = implementation.load(implementation.build(model, params, _made(folder / "engine")), params)
    return _compared(open_model(ModelHandle(root, entry, found, "", upload.declared)), engine)


def _compared(source: Any, engine: Any) -> Cell:
    samples = synthetic_samples(
        {"inputs": source.inputs}, 0, 4, {"sequence": 9, "sequence_dim1": 9, "tokens_dim1": 9}
    )
    fidelity, reason = follow(source, engine, samples)
    assert reason is None, reason
    if (difference := first_difference(fidelity)) is not None:
        return Cell("wrong", f"{difference[0]}: {difference[1]}")
    return Cell("works")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
