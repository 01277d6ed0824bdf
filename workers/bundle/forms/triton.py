"""An engine as a model of Triton Inference Server: a model repository with `config.pbtxt` and version 1.

Source: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html, and
the READMEs of the backends onnxruntime, openvino and tensorrt.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.catalog.packages import PACKAGES
from app.errors import UnsupportedFormat
from app.storage.disk import link_or_copy
from workers.bundle.build import ENGINE_FOLDER
from workers.bundle.forms.pbtxt import Enum, Message, text_of

REPOSITORY = "model_repository"
LARGEST_BATCH = 32  # where the engine itself has no bound
NOTHING_MORE = 2  # Triton's word for "no graph optimization": the engine was optimized when it was built
TYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "string": "STRING", "bfloat16": "BF16",
}  # fmt: skip
BACKENDS = {
    "onnxruntime-cpu": "onnxruntime",
    "onnxruntime-cuda": "onnxruntime",
    "onnxruntime-tensorrt": "onnxruntime",
    "openvino-cpu": "openvino",
    "tensorrt": "tensorrt",
}
FILES = {"onnxruntime": "model.onnx", "openvino": "model.xml", "tensorrt": "model.plan"}


def write(folder: Path, bundle: Path, manifest: dict[str, Any], name: str) -> None:
    """Write the repository below `folder`.

    Raises:
        UnsupportedFormat: Triton has no backend for the engine, or not for a type or shape of it.
    """
    called = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    place = folder / REPOSITORY / called
    config = configuration(manifest, called)
    version = place / "1"
    version.mkdir(parents=True)
    (place / "config.pbtxt").write_text(text_of(config), encoding="utf-8")
    backend = BACKENDS[manifest["target"]["runtime"]]
    entry = bundle / manifest["engine"]["entry"]
    for path in sorted((bundle / ENGINE_FOLDER).iterdir()):
        if path == entry:
            link_or_copy(path, version / FILES[backend])
        elif backend == "openvino" and path == entry.with_suffix(".bin"):
            link_or_copy(path, version / "model.bin")
        elif backend == "onnxruntime" and path.is_file():
            link_or_copy(path, version / path.name)  # weights, which the graph names
    (folder / "README.md").write_text(_readme(manifest, called, config), encoding="utf-8")


def configuration(manifest: Mapping[str, Any], name: str) -> Message:
    """The model's configuration, by the fields of Triton's `ModelConfig`. Raises as `write`."""
    target = manifest["target"]
    runtime, params = target["runtime"], target["params"]
    if (why := PACKAGES["triton"].refuses(runtime, params)) is not None:
        raise UnsupportedFormat(why, stage="packaging", param="options.package")
    backend = BACKENDS[runtime]
    signature = manifest["signature"]
    largest = largest_batch(manifest)
    config: Message = {"name": name, "backend": backend}
    if backend == "tensorrt":
        config["platform"] = "tensorrt_plan"
    config |= {
        "default_model_filename": FILES[backend],
        "max_batch_size": largest,
        "input": [_tensor(entry, largest > 0, backend) for entry in signature["inputs"]],
        "output": [_tensor(entry, largest > 0, backend) for entry in signature["outputs"]],
        "instance_group": [_instances(manifest)],
    }
    if largest:
        config["dynamic_batching"] = {}
    return config | _of_backend(backend, runtime, params)


def largest_batch(manifest: Mapping[str, Any]) -> int:
    """Samples that one run may have; 0: the engine takes no batches of a free size, or not of one."""
    signature = manifest["signature"]
    tensors = [*signature["inputs"], *signature["outputs"]]
    if not all(entry["shape"] and entry["shape"][0] is None for entry in tensors):
        return 0
    ranges = [bounds for profile in manifest["validity"].get("profiles") or [] for bounds in profile.values()]
    if not ranges:
        return LARGEST_BATCH
    if any(low[0] > 1 for low, _, _ in ranges):
        return 0
    return int(min(high[0] for _, _, high in ranges))


def _tensor(entry: Mapping[str, Any], batched: bool, backend: str) -> Message:
    """An input or output: without its first dimension where that is the batch's."""
    if entry["dtype"] not in TYPES:
        raise UnsupportedFormat(
            f"Triton has no type for {entry['name']!r}, which is {entry['dtype']}",
            stage="packaging",
            node=entry["name"],
            param="options.package",
        )
    dims = [-1 if dim is None else dim for dim in entry["shape"][1 if batched else 0 :]]
    said: Message = {
        "name": entry["name"],
        "data_type": Enum(f"TYPE_{TYPES[entry['dtype']]}"),
        "dims": dims or [1],
    }
    if not dims:  # a dimension must be there; this takes it away again
        said["reshape"] = {"shape": []}
        if backend == "openvino":
            raise UnsupportedFormat(
                f"Triton's OpenVINO backend takes no scalars, and {entry['name']!r} is one",
                stage="packaging",
                node=entry["name"],
                param="options.package",
            )
    return said


def _instances(manifest: Mapping[str, Any]) -> Message:
    profiles = manifest["validity"].get("profiles") or []
    kind = "KIND_CPU" if manifest["validity"].get("device") == "cpu" else "KIND_GPU"
    group: Message = {"kind": Enum(kind), "count": 1}
    if len(profiles) > 1:
        group["profile"] = [str(number) for number in range(len(profiles))]
    return group


def _of_backend(backend: str, runtime: str, params: Mapping[str, Any]) -> Message:
    if backend == "onnxruntime":
        return _onnxruntime(runtime, params)
    if backend == "openvino":
        said = {"PERFORMANCE_HINT": params["hint"].upper()}
        if params["threads"]:
            said["INFERENCE_NUM_THREADS"] = str(params["threads"])
        if params["streams"]:
            said["NUM_STREAMS"] = str(params["streams"])
        if params["inference_precision"] == "bf16":
            said["HINT_BF16"] = "YES"
        return {"parameters": _parameters(said)}
    return {"optimization": {"cuda": {"graphs": True}}} if params["cuda_graphs"] else {}


def _onnxruntime(runtime: str, params: Mapping[str, Any]) -> Message:
    optimization: Message = {"graph": {"level": NOTHING_MORE}}
    said: dict[str, str] = {}
    if runtime == "onnxruntime-cpu":
        said["intra_op_thread_count"] = str(params["threads"])
        if params["execution_mode"] == "parallel":
            said |= {"execution_mode": "1", "inter_op_thread_count": str(params["inter_op_threads"])}
    else:
        provider = "tensorrt" if runtime == "onnxruntime-tensorrt" else "cuda"
        optimization["execution_accelerators"] = {"gpu_execution_accelerator": [{"name": provider}]}
    return {"optimization": optimization, "parameters": _parameters(said)}


def _parameters(said: Mapping[str, str]) -> Sequence[Message]:
    return [{"key": key, "value": {"string_value": value}} for key, value in sorted(said.items())]


def _readme(manifest: Mapping[str, Any], name: str, config: Message) -> str:
    runtime = manifest["target"]["runtime"]
    versions = ", ".join(f"{key} {value}" for key, value in manifest["requires"].items() if key != "numpy")
    batches = config["max_batch_size"]
    lines = [
        f"# {name} for Triton Inference Server",
        "",
        "```",
        f"tritonserver --model-repository={REPOSITORY}",
        "```",
        "",
        f"The backend is `{config['backend']}`. The engine was built and measured with {versions}: take a release of Triton whose "
        "backend has this version, or a later one where `validity` of `manifest.json` lets that be.",
        f"Up to {batches} requests are put into one run." if batches else "Each request is a run of its own.",
    ]
    if runtime == "openvino-cpu" and manifest["target"]["params"]["inference_precision"] == "f32":
        lines.append(
            "The engine was measured in f32. Triton's OpenVINO backend cannot ask for that: on processors with bf16 it computes in bf16."
        )
    return "\n".join([*lines, ""])
