"""A model of more than 2 GB through every pass that takes one: the time of the job, and the most memory that it took."""

import sys
import tarfile
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from app.catalog.passes import PASSES
from app.client import Client
from app.embedded import Embedded
from benchmarks.table import print_head

WIDTH, LAYERS = 8192, 9  # 2.25 GiB of weights
SAMPLES = 4
LOOK_SECONDS = 0.5
JOB_PROCESSES = ("child", "workers.measure.launch")
PARAMS = {"set-shapes": {"dimensions": {"n": 1}}}  # of passes that do nothing without being told what
COLUMNS = ("pass", "size, GiB", "job, s", "its processes' memory at most, GiB", "verification")
GIB = 2**30


def main() -> int:
    """A job for each pass; 1 where one did not succeed."""
    print_head(COLUMNS)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="burnish-bench-") as temporary:
        folder = Path(temporary)
        archive, data = pack(write_large(folder)), write_samples(folder)
        with Embedded(folder / "data") as service, Client(service.url, service.api_key) as client:
            model = client.wait_model(client.upload_model(archive)["id"])["id"]
            dataset = client.wait_dataset(client.upload_dataset(data)["id"])["id"]
            for name in sorted(name for name, spec in PASSES.items() if spec.over_2gb):
                with MemoryOfJobs() as memory:
                    job = client.wait(client.submit(one_pass(model, dataset, name))["id"])
                if job["status"] == "succeeded":
                    print(row(name, job, memory.most_bytes), flush=True)
                else:
                    failed += 1
                    print(f"{name}: {job['problem']}", file=sys.stderr)
    return 1 if failed else 0


def write_large(folder: Path) -> Path:
    """A chain of matrix products, x [n, `WIDTH`] to y of the same shape, its weights in a file beside it."""
    rng = np.random.default_rng(0)
    names = ["x", *(f"h{i}" for i in range(LAYERS - 1)), "y"]
    weights = [
        numpy_helper.from_array(rng.standard_normal((WIDTH, WIDTH), dtype=np.float32) * 0.01, f"w{i}")
        for i in range(LAYERS)
    ]
    nodes = [
        helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], name=f"m{i}") for i in range(LAYERS)
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in "xy")
    graph = helper.make_graph(nodes, "large", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = folder / "large.onnx"
    onnx.save(model, path, save_as_external_data=True, location="large.onnx.data")
    return path


def pack(path: Path) -> Path:
    """The model and its weights as one file."""
    archive = path.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        for file in (path, path.with_name(f"{path.name}.data")):
            tar.add(file, file.name)
            file.unlink()
    return archive


def write_samples(folder: Path) -> Path:
    """A few inputs."""
    path = folder / "x.npz"
    np.savez(path, x=np.random.default_rng(1).standard_normal((SAMPLES, WIDTH)).astype(np.float32))
    return path


def one_pass(model: str, dataset: str, name: str) -> dict[str, Any]:
    """The request of a job."""
    inputs = {"inputs": {"calibration": dataset}} if "calibration" in PASSES[name].inputs else {}
    return {
        "kind": "optimize",
        "name": name,
        "subject": model,
        "recipe": {"schema": 1, "passes": [{"pass": name, "params": PARAMS.get(name, {}), **inputs}]},
        "targets": [{"runtime": "onnxruntime-cpu"}],
        "options": {"no_cache": True},
    }


def row(name: str, job: dict[str, Any], memory_bytes: int) -> str:
    """A line of the table."""
    result = job["result"]
    before, after = result["baseline"]["size_bytes"] / GIB, result["optimized"]["size_bytes"] / GIB
    seconds = sum(step["seconds"] or 0.0 for step in job["steps"])
    return f"| {name} | {before:.2f} → {after:.2f} | {seconds:.0f} | {memory_bytes / GIB:.1f} | {result['verification']} |"


class MemoryOfJobs:
    """Looks at the proportional set size (proc(5), Pss) of the processes of jobs, all together, while the block runs."""

    def __init__(self) -> None:
        self.most_bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory")

    def __enter__(self) -> "MemoryOfJobs":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.most_bytes = max(self.most_bytes, sum(map(_pss_bytes, psutil.process_iter())))


def _pss_bytes(process: psutil.Process) -> int:
    with suppress(psutil.Error, OSError):
        if any(word in JOB_PROCESSES for word in process.cmdline()):
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    return 0
