"""An engine as a model of Triton Inference Server, held against Triton's own schema."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, text_format
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from app.catalog.packages import PACKAGES
from app.catalog.runtimes import RUNTIMES
from app.errors import UnsupportedFormat
from tests.workers.bundle.conftest import MakeBundle
from workers.bundle.forms import triton
from workers.bundle.forms.pbtxt import quoted, text_of

SCHEMA = Path(__file__).with_name("triton_schema") / "model_config.json"


@pytest.fixture(scope="module")
def schema() -> Any:
    """Triton's `ModelConfig`, as a class."""
    described = json_format.ParseDict(json.loads(SCHEMA.read_text()), descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(described)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def parsed(schema: Any, text: str) -> dict[str, Any]:
    """A configuration as Triton reads it. Raises ParseError where it does not."""
    found: dict[str, Any] = json_format.MessageToDict(
        text_format.Parse(text, schema()), preserving_proto_field_name=True
    )
    return found


def written(make: MakeBundle, schema: Any, out: Path, **given: Any) -> tuple[dict[str, Any], Path]:
    bundle, manifest = make(**given)
    out.mkdir()
    triton.write(out, bundle, manifest, "double-it.v1")
    (place,) = (out / "model_repository").iterdir()
    assert place.name == "double-it_v1"
    return parsed(schema, (place / "config.pbtxt").read_text()), place


def test_an_engine_of_onnx_runtime(make_bundle: MakeBundle, schema: Any, tmp_path: Path) -> None:
    config, place = written(make_bundle, schema, tmp_path / "out")
    assert config == {
        "name": "double-it_v1",
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "max_batch_size": 32,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["3"]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": ["3"]}],
        "instance_group": [{"kind": "KIND_CPU", "count": 1}],
        "dynamic_batching": {},
        "optimization": {"graph": {"level": 2}},
        "parameters": {"intra_op_thread_count": {"string_value": "1"}},
    }
    session = onnxruntime.InferenceSession(place / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones((5, 3), np.float32)})[0].tolist() == [[2.0] * 3] * 5
    assert "tritonserver --model-repository=model_repository" in (tmp_path / "out" / "README.md").read_text()


def test_an_engine_of_openvino(make_bundle: MakeBundle, schema: Any, tmp_path: Path) -> None:
    given = {"name": "openvino-cpu", "inference_precision": "f32", "hint": "throughput", "streams": 1}
    config, place = written(make_bundle, schema, tmp_path / "out", cache_compiled=True, **given)
    assert (config["backend"], config["default_model_filename"]) == ("openvino", "model.xml")
    assert sorted(path.name for path in (place / "1").iterdir()) == ["model.bin", "model.xml"]
    told = {key: value["string_value"] for key, value in config["parameters"].items()}
    assert told == {"INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1", "PERFORMANCE_HINT": "THROUGHPUT"}
    assert "computes in bf16" in (tmp_path / "out" / "README.md").read_text()
    from workers.openvino_library import openvino

    assert len(openvino.Core().read_model(place / "1" / "model.xml").inputs) == 1


@pytest.mark.parametrize(
    ("shape", "batch", "tensor"),
    [
        ([2, 3], None, {"dims": ["2", "3"]}),
        (["n", "m"], 32, {"dims": ["-1"]}),
        ([2, "m"], None, {"dims": ["2", "-1"]}),
        (["n"], 32, {"dims": ["1"], "reshape": {}}),
        ([], None, {"dims": ["1"], "reshape": {}}),
    ],
    ids=str,
)
def test_only_a_free_first_dimension_is_batched(
    make_bundle: MakeBundle,
    schema: Any,
    tmp_path: Path,
    shape: list[Any],
    batch: int | None,
    tensor: dict[str, Any],
) -> None:
    config, _ = written(make_bundle, schema, tmp_path / "out", shape=shape)
    assert config.get("max_batch_size") == batch
    assert ("dynamic_batching" in config) is (batch is not None)
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", **tensor}]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (TensorProto.FLOAT16, "TYPE_FP16"),
        (TensorProto.DOUBLE, "TYPE_FP64"),
        (TensorProto.INT32, "TYPE_INT32"),
        (TensorProto.INT64, "TYPE_INT64"),
    ],
)
def test_types(make_bundle: MakeBundle, schema: Any, tmp_path: Path, kind: int, told: str) -> None:
    config, _ = written(make_bundle, schema, tmp_path / "out", kind=kind)
    assert config["input"][0]["data_type"] == told


def test_every_type_is_one_of_tritons(schema: Any) -> None:
    names = schema.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
    assert {f"TYPE_{name}" for name in triton.TYPES.values()} <= set(names)


def test_names_cannot_break_out_of_the_configuration(
    make_bundle: MakeBundle, schema: Any, tmp_path: Path
) -> None:
    evil = 'x"\n}\nbackend: "python" # \\ größe'
    config, _ = written(make_bundle, schema, tmp_path / "out", names=(evil, "y'\t"))
    assert config["backend"] == "onnxruntime"
    assert (config["input"][0]["name"], config["output"][0]["name"]) == (evil, "y'\t")


@given(st.text())
def test_any_text_comes_through(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    read = text_format.Parse(f"name: {quoted(text)}", descriptor_pb2.FileDescriptorProto())
    assert read.name == text


def of_tensorrt(profiles: list[dict[str, Any]], **params: Any) -> dict[str, Any]:
    """The manifest of an engine of TensorRT, as far as its configuration needs it."""
    chosen = RUNTIMES["tensorrt"].params(**params).model_dump(mode="json")
    tensor = {"dtype": "float16", "shape": [None, 3, None]}
    return {
        "target": {"runtime": "tensorrt", "params": chosen},
        "signature": {
            "inputs": [{"name": "a", **tensor}, {"name": "b", **tensor}],
            "outputs": [{"name": "c", **tensor}],
        },
        "validity": {"device": "cuda", "profiles": profiles},
    }


def profile(low: int, high: int) -> list[list[int]]:
    return [[low, 3, 1], [low, 3, 64], [high, 3, 128]]


def test_an_engine_of_tensorrt_has_its_profiles(schema: Any) -> None:
    manifest = of_tensorrt(
        [{"a": profile(1, 8), "b": profile(1, 6)}, {"a": profile(1, 16), "b": profile(1, 16)}],
        cuda_graphs=True,
    )
    config = parsed(schema, text_of(triton.configuration(manifest, "net")))
    assert (config["backend"], config["platform"]) == ("tensorrt", "tensorrt_plan")
    assert config["default_model_filename"] == "model.plan"
    assert config["max_batch_size"] == 6
    assert config["instance_group"] == [{"kind": "KIND_GPU", "count": 1, "profile": ["0", "1"]}]
    assert config["optimization"] == {"cuda": {"graphs": True}}
    assert config["input"][1] == {"name": "b", "data_type": "TYPE_FP16", "dims": ["3", "-1"]}


def test_a_profile_that_wants_more_than_one_sample_is_not_batched(schema: Any) -> None:
    config = parsed(schema, text_of(triton.configuration(of_tensorrt([{"a": profile(2, 8)}]), "net")))
    assert "max_batch_size" not in config
    assert "dynamic_batching" not in config
    assert config["input"][0]["dims"] == ["-1", "3", "-1"]


def test_onnx_runtime_on_gpus(schema: Any) -> None:
    for runtime, provider in (("onnxruntime-cuda", "cuda"), ("onnxruntime-tensorrt", "tensorrt")):
        manifest = of_tensorrt([])
        manifest["target"] = {
            "runtime": runtime,
            "params": RUNTIMES[runtime].params().model_dump(mode="json"),
        }
        config = parsed(schema, text_of(triton.configuration(manifest, "net")))
        accelerators = config["optimization"]["execution_accelerators"]
        assert accelerators == {"gpu_execution_accelerator": [{"name": provider}]}
        assert config["instance_group"][0]["kind"] == "KIND_GPU"


@pytest.mark.parametrize("runtime", sorted(set(RUNTIMES) - set(triton.BACKENDS)))
def test_what_triton_cannot_serve_is_refused_with_the_reason(runtime: str) -> None:
    manifest = of_tensorrt([])
    manifest["target"] = {"runtime": runtime, "params": RUNTIMES[runtime].params().model_dump(mode="json")}
    with pytest.raises(UnsupportedFormat, match="Triton"):
        triton.configuration(manifest, "net")


def test_engines_that_triton_would_not_load_are_refused(make_bundle: MakeBundle) -> None:
    with pytest.raises(UnsupportedFormat, match="strip"):
        triton.configuration(of_tensorrt([], strip=True, refit=True), "net")
    _, manifest = make_bundle(engine_format="ort")
    with pytest.raises(UnsupportedFormat, match="engine_format=onnx"):
        triton.configuration(manifest, "net")
    _, manifest = make_bundle(name="openvino-cpu", shape=[])
    with pytest.raises(UnsupportedFormat, match="scalars"):
        triton.configuration(manifest, "net")
    manifest["signature"]["inputs"][0]["dtype"] = "float8_e4m3fn"
    with pytest.raises(UnsupportedFormat, match="no type"):
        triton.configuration(manifest, "net")


def test_the_catalog_knows_what_there_is_a_backend_for() -> None:
    assert PACKAGES["triton"].runtimes == set(triton.BACKENDS)
