"""What this machine can do: its hardware, and the runtimes that pass a self-test, each tried in a process of its own."""

import json
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from app.artifacts.accelerators import accelerators
from app.catalog.runtimes import RUNTIMES
from workers.gpu import gpus
from workers.measure.processors import usable_processors
from workers.offered import without_absent
from workers.sandbox import cgroups
from workers.sandbox.check import sandbox
from workers.sandbox.limits import clean_environment, memory_limit_bytes

SELF_TEST_SECONDS = 120.0
CPU_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "avx_vnni", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16", "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve",
)  # fmt: skip


def main(names: list[str]) -> int:
    """Print what was found as one JSON object: {runtimes: {name: facts}, failed: {name: reason}, hardware, sandbox}."""
    seen = hardware()
    names = [
        name
        for name in without_absent(names)
        if RUNTIMES[name].device != "cuda" or RUNTIMES[name].ahead_of_time or seen["gpus"]
    ]
    runtimes: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=seen["cores"]) as pool:
        for name, answer in zip(names, pool.map(_answer, names), strict=True):
            if isinstance(answer, str):
                failed[name] = answer
            else:
                runtimes[name] = answer
    found = {"runtimes": runtimes, "failed": failed, "hardware": seen, "sandbox": sandbox()}
    json.dump(found, sys.stdout)
    return 0


def _answer(name: str) -> dict[str, Any] | str:
    """A runtime's facts, or why it is not served."""
    try:
        return try_runtime(name)
    except RuntimeError as error:
        return str(error)


def try_runtime(name: str) -> dict[str, Any]:
    """The facts of a runtime whose self-test passed.

    Raises:
        RuntimeError: it failed, crashed or hung, with the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "workers", "probe", "--runtime", name],
                capture_output=True,
                text=True,
                timeout=SELF_TEST_SECONDS,
                check=False,
                cwd=folder,
                env=clean_environment(Path(folder), Path(folder)),
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"the self-test took longer than {SELF_TEST_SECONDS:g} seconds") from error
    if done.returncode != 0:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
        last = (done.stderr.strip().splitlines() or ["nothing was printed"])[-1]
        raise RuntimeError(f"the self-test ended with {how}: {last}"[:1000])
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def self_test(name: str) -> int:
    """Let the runtime test itself, or build, load and run a model of one node, and print its facts as JSON.

    Raises:
        Exception: whatever the runtime raises; the exit status tells.
    """
    from workers import runtimes
    from workers.runtimes.base import SelfTested

    started = time.monotonic()
    runtime = runtimes.registry.alone(name)
    if isinstance(runtime, SelfTested):
        runtime.self_test()
    else:
        _run_relu(name, runtime)
    facts = {
        "device": RUNTIMES[name].device,
        "versions": dict(runtime.versions()),
        "self_test_seconds": round(time.monotonic() - started, 3),
    }
    print(json.dumps(facts))  # noqa: T201 - this is what the process is for
    return 0


def _run_relu(name: str, runtime: Any) -> None:
    import numpy as np

    from workers.model_handle import ModelHandle

    params = RUNTIMES[name].params()
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "model", Path(folder) / "engine"
        root.mkdir()
        out.mkdir()
        _write_relu(root / "model.onnx")
        engine = runtime.build(ModelHandle(root, "model.onnx", "onnx", "0" * 64), params, out)
        loaded = runtime.load(engine, params)
        outputs = loaded.run({"x": np.array([[-1.0, 2.0]], dtype=np.float32)})
    if outputs["y"].tolist() != [[0.0, 2.0]]:
        raise RuntimeError(f"Relu of [-1, 2] came out as {outputs['y'].tolist()}")


def hardware() -> dict[str, Any]:
    """The machine: CPU, usable cores, memory, GPUs."""
    model, flags = cpu()
    return {
        "architecture": platform.machine(),
        "system": platform.system(),
        "glibc": platform.libc_ver()[1] or None,
        "cpu": model,
        "cpu_features": flags,
        "cores": usable_processors(),
        "physical_cores": psutil.cpu_count(logical=False),
        "core_quota": cgroups.cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "child_memory_bytes": memory_limit_bytes(0),
        "gpus": gpus(),
        "accelerators": accelerators(),
    }


def cpu() -> tuple[str, list[str]]:
    """The CPU's name, and those of its features that matter for speed."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor(), []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return fields.get("model name", platform.processor()), [flag for flag in CPU_FLAGS if flag in flags]


def _write_relu(path: Path) -> None:
    from onnx import TensorProto, helper, save

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "self-test", [x], [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
