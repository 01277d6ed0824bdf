#!/usr/bin/env python3
"""Load the engine beside this file, run it on the sample inputs, and check the outputs. Burnish is not needed.

    python run.py [--json] [--time]

Exit status: 0 the outputs are as promised, 1 they are not, 2 the runtime or a file is missing.
"""

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Manifest = dict[str, Any]
Run = Callable[[dict[str, Any]], dict[str, Any]]

HERE = Path(__file__).resolve().parent


def load_onnxruntime_cpu(engine: Path, target: Manifest) -> Run:
    """A function from feeds to outputs, by name; runs on ONNX Runtime's CPU provider."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # or importing it begins to report to its makers
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = target["params"].get("threads") or 0
    # the engine was optimized when it was built; a second time could undo what was measured
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def load_onnxruntime_gpu(engine: Path, target: Manifest) -> Run:
    """A function from feeds to outputs, by name; runs on ONNX Runtime's CUDA or TensorRT provider."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.preload_dlls()
    wanted = (
        "TensorrtExecutionProvider" if target["runtime"].endswith("tensorrt") else "CUDAExecutionProvider"
    )
    given = {"use_tf32": str(int(target["params"].get("tf32", False)))} if "CUDA" in wanted else {}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = [(wanted, given), *([] if given else ["CUDAExecutionProvider"]), "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(engine), options, providers=providers, enable_fallback=0)
    if wanted not in session.get_providers():
        raise ImportError(
            f"ONNX Runtime cannot load {wanted} here: install onnxruntime-gpu and its libraries"
        )
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def load_openvino(engine: Path, target: Manifest) -> Run:
    """A function from feeds to outputs, by name; compiles the IR with OpenVINO for the target's device: CPU, GPU or NPU."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # or importing openvino reports to its makers
    import openvino

    params = target["params"]
    properties = {
        "INFERENCE_NUM_THREADS": params.get("threads") or 0,
        "NUM_STREAMS": params.get("streams") or 0,
        "PERFORMANCE_HINT": params["hint"].upper(),
        "EXECUTION_MODE_HINT": params.get("execution_mode", "").upper(),
        # left to itself OpenVINO computes in bf16 where it can
        "INFERENCE_PRECISION_HINT": params["inference_precision"].replace("auto", ""),
    }
    core = openvino.Core()
    graph = core.read_model(str(engine))
    device = target["runtime"].removeprefix("openvino-").upper()
    compiled = core.compile_model(graph, device, {name: value for name, value in properties.items() if value})
    # names are taken from the graph: a compiled network's can be those of values inside, merged with its ends
    inputs, outputs = (
        [port.get_node().get_friendly_name().removesuffix("/sink_port_0") for port in ports]
        for ports in (graph.inputs, graph.outputs)
    )

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        found = compiled([feeds[name] for name in inputs])
        return {name: found[index] for index, name in enumerate(outputs)}

    return run


def load_torch_eager(engine: Path, target: Manifest) -> Run:
    """A function from feeds to outputs, by name; runs the exported program that lies beside `engine` in eager PyTorch."""
    device = "cuda" if target["runtime"].endswith("cuda") else "cpu"
    import numpy as np
    import torch
    import torch.ao.quantization.fx._decomposed  # the operators of programs in 8 bits

    told = json.loads(engine.read_text(encoding="utf-8"))
    if threads := target["params"].get("threads"):
        torch.set_num_threads(threads)
    program = torch.export.load(str(engine.parent / "model" / told["entry"]))
    if device == "cuda":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
        precision = "tf32" if target["params"].get("tf32") else "ieee"
        torch.backends.cuda.matmul.fp32_precision = precision
        torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
    module = program.module()

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        tensors = iter([torch.from_numpy(np.array(feeds[name])).to(device) for name in told["inputs"]])
        given = program.graph_signature.user_inputs
        flat = [
            next(tensors) if isinstance(value, str) else value for value in given
        ]  # the others are constants
        args, kwargs = torch.utils._pytree.tree_unflatten(flat, program.call_spec.in_spec)
        with torch.inference_mode():
            found = torch.utils._pytree.tree_leaves(module(*args, **kwargs))
        outputs = [value.cpu().numpy() for value in found if isinstance(value, torch.Tensor)]
        return dict(zip(told["outputs"], outputs, strict=True))

    return run


def load_torch_inductor(engine: Path, target: Manifest) -> Run:
    """A function from feeds to outputs, by name; runs the compiled package with the threads that it was compiled for."""
    import numpy as np
    import torch
    from torch._inductor import aoti_load_package

    model = aoti_load_package(str(engine))
    told = json.loads(model.get_metadata()["burnish"])
    torch.set_num_threads(told["threads"])

    def laid_out(array: Any, order: list[int]) -> Any:
        """A tensor whose axes lie in memory in this order: the code was made for that."""
        strides, step = [0] * array.ndim, 1
        for axis in reversed(order):
            strides[axis] = step
            step *= array.shape[axis]
        tensor = torch.from_numpy(np.array(array))
        return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        tensors = [laid_out(feeds[each["name"]], each["order"]).to(told["device"]) for each in told["inputs"]]
        with torch.inference_mode():
            found = model.loader.boxed_run(tensors)
        outputs = [value.cpu().numpy() for value in found if isinstance(value, torch.Tensor)]
        return {each["name"]: value for each, value in zip(told["outputs"], outputs, strict=True)}

    return run


def load_tensorrt(engine: Path, target: Manifest) -> Run:
    """A function from feeds to outputs, by name; runs the plan on the first GPU, by CUDA's driver API alone."""
    import ctypes
    import importlib

    import numpy as np

    trt = importlib.import_module(target["runtime"].replace("-", "_"))
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise ImportError(f"NVIDIA's driver: {error}") from None

    def call(function: str, *arguments: Any) -> None:
        if code := getattr(driver, function)(*arguments):
            raise ImportError(f"{function} says {code}: there is no GPU, or it does not take the engine")

    context, stream = ctypes.c_void_p(), ctypes.c_void_p()
    call("cuInit", 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    call("cuCtxSetCurrent", context)
    call("cuStreamCreate", ctypes.byref(stream), 1)
    logger = trt.Logger(trt.Logger.ERROR)
    runtime = trt.Runtime(logger)
    if target["params"].get("version_compatible"):
        runtime.engine_host_code_allowed = True
    plan = runtime.deserialize_cuda_engine(engine.read_bytes())
    if plan is None:
        raise ImportError(f"{target['runtime']} {trt.__version__} does not load this plan on this GPU")
    if target["params"].get("strip"):
        model = engine.parent / "model"
        refitter = trt.Refitter(plan, logger)
        trt.OnnxParserRefitter(refitter, logger).refit_from_file(str(model / (model / "entry").read_text()))
        refitter.refit_cuda_engine()
    running = plan.create_execution_context()
    names = [plan.get_tensor_name(index) for index in range(plan.num_io_tensors)]
    outputs = [name for name in names if plan.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]

    def profile_of(feeds: dict[str, Any]) -> int:
        for number in range(plan.num_optimization_profiles):
            shapes = {name: plan.get_tensor_profile_shape(name, number) for name in feeds}
            if all(
                all(
                    low <= dim <= high
                    for low, dim, high in zip(one[0], feeds[name].shape, one[2], strict=True)
                )
                for name, one in shapes.items()
            ):
                return number
        raise ValueError("no profile of this engine takes these shapes")

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        running.set_optimization_profile_async(profile_of(feeds), stream.value)
        arrays = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
        for name, value in arrays.items():
            running.set_input_shape(name, value.shape)
        for name in outputs:
            shape = tuple(running.get_tensor_shape(name))
            arrays[name] = np.empty(shape, trt.nptype(plan.get_tensor_dtype(name)))
        addresses = {name: ctypes.c_uint64() for name in names}
        for name, value in arrays.items():
            call("cuMemAlloc_v2", ctypes.byref(addresses[name]), ctypes.c_size_t(max(value.nbytes, 1)))
            running.set_tensor_address(name, addresses[name].value)
            pointer = ctypes.c_void_p(value.ctypes.data)
            call("cuMemcpyHtoD_v2", addresses[name], pointer, ctypes.c_size_t(value.nbytes))
        running.execute_async_v3(stream.value)
        call("cuStreamSynchronize", stream)
        for name in outputs:
            pointer = ctypes.c_void_p(arrays[name].ctypes.data)
            call("cuMemcpyDtoH_v2", pointer, addresses[name], ctypes.c_size_t(arrays[name].nbytes))
        for address in addresses.values():
            call("cuMemFree_v2", address)
        return {name: arrays[name] for name in outputs}

    return run


def load_xla(engine: Path, target: Manifest) -> Run:
    """A function from feeds to outputs, by name; XLA compiles the exported program for its device, anew for each shape."""
    platform = target["runtime"].removeprefix("xla-")
    if threads := target["params"].get("threads"):
        os.environ["NPROC"] = str(threads)  # read when JAX makes its CPU client
    import jax
    import jax.export
    import ml_dtypes  # noqa: F401 - gives numpy the names of bfloat16 and 8-bit floats
    import numpy as np

    settings: Any = jax.config
    settings.update("jax_enable_x64", True)
    settings.update("jax_platforms", platform)
    try:
        device = jax.devices(platform)[0]
    except RuntimeError as error:
        raise ImportError(f"JAX finds no {platform.upper()} here: {error}") from None
    told = json.loads(engine.read_text(encoding="utf-8"))
    exported = jax.export.deserialize(bytearray((engine.parent / "program.jax_export").read_bytes()))
    with (engine.parent / "weights.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start, weights = file.tell(), []
        for entry in (header[name] for name in told["weights"]):
            first, end = entry["data_offsets"]
            file.seek(start + first)
            values = np.frombuffer(file.read(end - first), np.dtype(told["dtypes"][entry["dtype"]]))
            weights.append(jax.device_put(values.reshape(entry["shape"]), device))
    call = jax.jit(exported.call)

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        given = [jax.device_put(feeds[entry["name"]], device) for entry in told["inputs"]]
        found = [np.asarray(value) for value in call(weights, given)]
        return {entry["name"]: value for entry, value in zip(told["outputs"], found, strict=True)}

    return run


LOADERS = {
    "onnxruntime-cpu": load_onnxruntime_cpu,
    "onnxruntime-cuda": load_onnxruntime_gpu,
    "onnxruntime-tensorrt": load_onnxruntime_gpu,
    "openvino-cpu": load_openvino,
    "openvino-gpu": load_openvino,
    "openvino-npu": load_openvino,
    "tensorrt": load_tensorrt,
    "tensorrt-rtx": load_tensorrt,
    "torch-eager": load_torch_eager,
    "torch-eager-cuda": load_torch_eager,
    "torch-inductor-cpu": load_torch_inductor,
    "torch-inductor-cuda": load_torch_inductor,
    "xla-cpu": load_xla,
    "xla-tpu": load_xla,
}


def load(manifest: Manifest) -> Run:
    """The engine of this bundle, as a function from feeds ({name: array}) to outputs ({name: array})."""
    target = manifest["target"]
    return LOADERS[target["runtime"]](HERE / manifest["engine"]["entry"], target)


def read_samples(manifest: Manifest) -> tuple[Manifest, Manifest]:
    """The sample inputs and the promised outputs: {name: array} each."""
    import numpy as np

    with np.load(HERE / manifest["samples"]["file"], allow_pickle=False) as stored:
        samples = dict(stored)
    sides = ("input:", "output:")
    feeds, promised = (
        {name.removeprefix(side): value for name, value in samples.items() if name.startswith(side)}
        for side in sides
    )
    return feeds, promised


def latency(run: Run, feeds: Manifest) -> Manifest:
    """How long a run takes here: {p50_ms, runs}, of what fits into two seconds, after as many runs as fit into half a second.

    One process, and nothing beside it to compare with: an indication. A verdict needs the service, which takes turns.
    """
    taken: list[float] = []
    for seconds in (0.5, 2.0):
        taken.clear()
        end = time.perf_counter() + seconds
        while len(taken) < 5 or time.perf_counter() < end:
            started = time.perf_counter()
            run(feeds)
            taken.append((time.perf_counter() - started) * 1000)
    return {"p50_ms": statistics.median(taken), "runs": len(taken)}


def check(manifest: Manifest, run: Run) -> list[Manifest]:
    """Run the sample inputs; a list of one dictionary an output: name, ok, exact, max_abs_error, tolerance."""
    import numpy as np

    feeds, promised = read_samples(manifest)
    outputs = run(feeds)
    checks = []
    for name, promise in manifest["samples"]["outputs"].items():
        expected, got = promised[name], np.asarray(outputs[name])
        same_kind = got.shape == expected.shape and got.dtype == expected.dtype
        exact = (
            same_kind and hashlib.sha256(np.ascontiguousarray(got).tobytes()).hexdigest() == promise["sha256"]
        )
        error = None
        ok = exact
        if same_kind and not exact and np.issubdtype(got.dtype, np.number):
            error = float(np.max(np.abs(got.astype(np.float64) - expected.astype(np.float64))))
            ok = bool(error <= promise["atol"])
        checks.append(
            {
                "output": name,
                "ok": ok,
                "exact": exact,
                "max_abs_error": 0.0 if exact else error,
                "atol": promise["atol"],
            }
        )
    return checks


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--time", action="store_true", help="say too how long a run takes here")
    arguments = parser.parse_args()
    try:
        manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
        run = load(manifest)
    except (ImportError, FileNotFoundError) as error:
        answer: Manifest = {"ok": False, "error": f"{type(error).__name__}: {error}", "outputs": []}
        status = 2
    else:
        checks = check(manifest, run)
        answer = {"ok": all(entry["ok"] for entry in checks), "outputs": checks}
        if arguments.time:
            answer["latency"] = latency(run, read_samples(manifest)[0])
        status = 0 if answer["ok"] else 1
    if arguments.json:
        print(json.dumps(answer))
    elif "error" in answer:
        print(f"cannot run: {answer['error']}", file=sys.stderr)
        print("install what `versions` in manifest.json names", file=sys.stderr)
    else:
        for entry in answer["outputs"]:
            how = (
                "identical"
                if entry["exact"]
                else f"max error {entry['max_abs_error']}, allowed {entry['atol']}"
            )
            print(f"{'ok  ' if entry['ok'] else 'FAIL'}  {entry['output']}: {how}")
        if "latency" in answer:
            print(f"a run takes {answer['latency']['p50_ms']:.3g} ms (median of {answer['latency']['runs']})")
    return status


if __name__ == "__main__":
    sys.exit(main())
