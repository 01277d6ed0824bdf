"""Intel GPUs and NPUs as Linux tells of them: found by reading a few files, with no driver or library loaded.

A GPU is a render node of a card of Intel's, an NPU an accelerator of the driver `intel_vpu`. That there is one does not say
that it works: its runtime's self-test does.

Source: https://docs.kernel.org/gpu/drm-uapi.html#render-nodes and https://docs.kernel.org/accel/introduction.html;
https://docs.openvino.ai/2026/get-started/install-openvino/configurations/configurations-intel-npu.html.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

GPU, NPU = "intel-gpu", "intel-npu"
NPU_DRIVER = "intel_vpu"
SYSTEM = Path("/sys")
ALL = (GPU, NPU)
_INTEL = "0x8086"


def accelerators(system: Path = SYSTEM) -> list[str]:
    """`intel-gpu` and `intel-npu`, as far as there is one; [] on other systems than Linux."""
    return [name for name, found in _FINDERS.items() if next(found(system), None) is not None]


def _gpus(system: Path) -> Iterator[Path]:
    for node in sorted((system / "class/drm").glob("renderD*")):
        if _text(node / "device/vendor") == _INTEL:
            yield node


def _npus(system: Path) -> Iterator[Path]:
    for node in sorted((system / "class/accel").glob("accel*")):
        if (node / "device/driver").resolve().name == NPU_DRIVER:
            yield node


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


_FINDERS: dict[str, Callable[[Path], Iterator[Path]]] = {GPU: _gpus, NPU: _npus}
