"""Traces in a viewer that people use: speedscope, from its npm package, in Chromium. `traces.checked` holds the format in every run."""

import base64
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from scripts.chromium import browser, chromium
from tests.workers.profiling.subjects import look

SPEEDSCOPE = "speedscope@1.25.0"
EXECUTABLE = chromium()
SECONDS = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="Chromium is not installed (apt-get install chromium)"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed"),
]


@pytest.fixture(scope="module")
def speedscope(tmp_path_factory) -> Path:
    """Its page."""
    folder = tmp_path_factory.mktemp("speedscope")
    done = subprocess.run(
        ["npm", "pack", SPEEDSCOPE], cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"npm has no {SPEEDSCOPE} to give: {done.stderr[-300:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package/dist/release/index.html"


@pytest.mark.parametrize("runtime", ["onnxruntime-cpu", "openvino-cpu"])
def test_a_viewer_shows_every_row(runtime, speedscope, recurrent, tmp_path):
    recorded = look(runtime, recurrent.onnx, recurrent.feeds, tmp_path).recorded
    path = recorded.traces[0].path
    content = json.dumps(base64.b64encode(path.read_bytes()).decode())
    (tmp_path / "load.js").write_text(f"speedscope.loadFileFromBase64({json.dumps(path.name)}, {content})")

    with browser(EXECUTABLE) as page:
        page.open(f"file://{speedscope}#localProfilePath={tmp_path}/load.js&view=sandwich")
        page.wait_for(f"document.title.startsWith({json.dumps(path.name)})")
        page.wait_for("document.body.innerText.includes('Symbol Name')")
        shown = page.value("document.body.innerText")
        complaints = [text for text in page.complaints if "WebGL" not in text]

    assert complaints == []
    assert all(f"\n\t{row.name} " in shown for row in recorded.rows)
