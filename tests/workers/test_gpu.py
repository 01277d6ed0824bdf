"""GPUs as `nvidia-smi` tells of them; where there is none, a script in its place prints what one printed."""

from pathlib import Path

import pytest

from app.errors import OutOfMemory, Unavailable
from workers import gpu

PRINTED = {
    "name": "NVIDIA H100 80GB HBM3, GPU-5b0a5a5c-2f0e-4c3a-9d1e-0c0f5f7b9a11, 81559, 580.159.04, 9.0",
    "clocks.sm": "1980, 1980, 2619, 41, 121.33, 4096, 77463, P0",
}


def test_what_it_tells_is_taken_apart(smi):
    smi(PRINTED)
    assert gpu.gpus() == [
        {
            "name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-5b0a5a5c-2f0e-4c3a-9d1e-0c0f5f7b9a11", "memory_mib": "81559",
            "driver": "580.159.04", "compute_capability": "9.0",
        }
    ]  # fmt: skip
    assert gpu.compute_capability() == "9.0"
    assert gpu.lease_name("cuda") == "GPU-5b0a5a5c-2f0e-4c3a-9d1e-0c0f5f7b9a11"
    assert len(gpu.lease_name("cuda")) <= 40  # what a lease's column holds
    assert gpu.lease_name("cpu") == "cpu"
    state = gpu.state()
    assert state is not None
    assert state["sm_mhz"] == 1980
    assert state["performance_state"] == "P0"
    assert gpu.memory_used_bytes() == 4096 << 20


def test_those_that_are_hidden_are_not_seen(smi, monkeypatch: pytest.MonkeyPatch):
    asked = smi(PRINTED)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert gpu.gpus()
    assert asked.read_text().strip().endswith("--id=1,0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpu.gpus() == []


def test_a_field_that_the_driver_does_not_tell_is_none(smi):
    smi({"clocks.sm": "[N/A], 1980, 2619, 41, [Not Supported], 10, [N/A], P0"})
    state = gpu.state()
    assert state is not None
    assert state["sm_mhz"] is state["watts"] is state["memory_free_mib"] is None
    gpu.require_free(1 << 60)  # nothing is known, so nothing is refused


def test_too_little_memory_is_told_before_anything_is_measured(smi):
    smi(PRINTED)
    gpu.require_free(70 << 30)
    with pytest.raises(OutOfMemory, match=r"75.6 GiB free and 4.0 GiB taken; .* about 90.0 GiB") as caught:
        gpu.require_free(90 << 30)
    assert "nvidia-smi" in (caught.value.hint or "")


def test_without_one_nothing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.gpus() == []
    assert gpu.state() is None
    assert gpu.memory_used_bytes() == 0
    assert gpu.lease_name("cuda") == "cuda"
    with pytest.raises(Unavailable, match="no NVIDIA GPU"):
        gpu.compute_capability()
