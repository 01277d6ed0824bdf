"""Nothing leaves the machine, and nothing is written into the home folder, whatever we do with OpenVINO, NNCF and ONNX Runtime."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers.engines.networks import Network

ROOT = Path(__file__).parents[3]
ONLY = "workers/openvino_library.py"  # imports OpenVINO and NNCF
WATCHED = """
import os, sys
seen = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        os.write(seen, f"{event} {arguments!r}\\n".encode())
        raise OSError("this test has no network")
sys.addaudithook(watch)
"""
OURS = """
import tempfile
from pathlib import Path
import numpy as np
from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from workers import passes, runtimes
from workers.context import PassContext
from workers.model_handle import ModelHandle

class Images:
    digest, count, synthetic, inputs = "", 40, False, {"images": ("float32", (1, 8, 8))}
    def batches(self, size, limit=None):
        yield {"images": np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)}, np.arange(40) % 10

import onnxruntime
runtime, spec = runtimes.registry.alone("openvino-cpu"), RUNTIMES["openvino-cpu"]
model = ModelHandle(Path(sys.argv[2]), "model.onnx", "onnx", "")
quantize = passes.registry.alone("quantize-openvino")

def quantized(**params):
    samples = {"calibration": Images(), "validation": Images()}
    context = PassContext(out=Path(tempfile.mkdtemp(dir=sys.argv[3])), samples=samples)
    return quantize(model, PASSES["quantize-openvino"].params(**params), context)

for one in (model, quantized(), quantized(max_drop=1.0)):
    params = spec.params(cache_compiled=True)
    engine = runtime.build(one, params, Path(tempfile.mkdtemp(dir=sys.argv[3])))
    runtime.load(engine, params).run({"images": np.zeros((2, 1, 8, 8), np.float32)})
    runtime.coverage(one)
print("done")
"""
THEIRS = ["openvino", "onnxruntime"]  # the second connects without Python, unseen: its files tell


def run(tmp_path: Path, model: Path, script: str) -> tuple[str, list[str], list[str]]:
    """What a process prints, where it tries to connect to, and the files that it leaves in its home folder."""
    home, seen, scratch = tmp_path / "home", tmp_path / "seen", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    seen.touch()
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCHED + script, str(seen), str(model), str(scratch)],
        env={**kept, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    left = [str(path.relative_to(home)) for path in home.rglob("*")]
    return done.stdout, seen.read_text().splitlines(), left


def test_converting_compiling_running_and_quantizing_tell_nobody(cnn: Network, tmp_path: Path):
    printed, connections, left = run(tmp_path, cnn.model.root, OURS)

    assert printed.splitlines() == ["done"]
    assert connections == []
    assert left == []


@pytest.mark.parametrize("library", THEIRS)
def test_a_report_would_be_seen(library: str, cnn: Network, tmp_path: Path):
    _, connections, left = run(tmp_path, cnn.model.root, f"import {library}")

    assert left
    assert connections or library == "onnxruntime"


def test_one_file_imports_them():
    importing = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "workers").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if any(name.split(".")[0] in ("openvino", "nncf") for name in imported(node))
    }
    assert importing == {ONLY, "workers/bundle/run.py"}


def imported(node: ast.AST) -> list[str]:
    """The modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return []
