"""Uploads as users (and others) make them, and their inspection as a child does it."""

import importlib.util
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from workers.assignment import InspectAssignment
from workers.inspect import inspect

Members = Sequence[tuple[str, bytes]]
LIMIT_BYTES = 10_000_000
LIMIT_FILES = 50


def inspected(file: Path, subject: str = "model", **given: Any) -> dict[str, Any]:
    """The result of an inspection in a scratch folder of its own beside the file."""
    scratch = Path(tempfile.mkdtemp(dir=file.parent))
    fields = {"declared": {}, "max_archive_bytes": LIMIT_BYTES, "max_archive_files": LIMIT_FILES, **given}
    assignment = InspectAssignment.model_validate(
        {
            "subject": subject,
            "subject_id": "x",
            "scratch": scratch,
            "file": file,
            "filename": "upload",
            **fields,
        }
    )
    return inspect(assignment, lambda stage: None)


def zipped(path: Path, members: Members, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """A `.zip` of files."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def tarred(path: Path, members: Sequence[tuple[str, bytes] | tarfile.TarInfo], mode: str = "w") -> Path:
    """A `.tar` of files, and of whatever else a header can name."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def tensor(name: str, values: Any, dtype: Any = np.float32) -> TensorProto:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def external(name: str, dims: Sequence[int], **told: str) -> TensorProto:
    """A float32 initializer whose values lie where `told` says."""
    made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in told.items():
        made.external_data.add(key=key, value=value)
    return made


def value(name: str, shape: Sequence[Any] | None, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def graph_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[TensorProto] = (),
    opset: int = 18,
    domains: Sequence[str] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model of one graph."""
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def linear(weight: TensorProto | None = None, width: int = 3) -> onnx.ModelProto:
    """y = x·w with a free batch: (batch, 4) to (batch, width)."""
    weight = weight or tensor("w", np.ones((4, width)))
    return graph_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        [value("x", ["batch", 4])],
        [value("y", ["batch", width])],
        [weight],
    )


def saved(model: onnx.ModelProto, path: Path) -> Path:
    """A model's file."""
    path.write_bytes(model.SerializeToString())
    return path


def facts_of(model: onnx.ModelProto, folder: Path) -> dict[str, Any]:
    """What inspection says of a model."""
    return inspected(saved(model, folder / "facts.onnx"))["facts"]


def package_file(package: str, path: str) -> Path:
    """A file that an installed package ships, the package not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / path
