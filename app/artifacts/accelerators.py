"""Intel GPUs and NPUs, and TPUs, as Linux tells of them: found by reading a few files, with no driver or library loaded.

A GPU is a render node of a card of Intel's, an NPU an accelerator of the driver `intel_vpu`, a TPU a PCI device of Google's by
its number. That there is one does not say that it works: its runtime's self-test does.

Source: https://docs.kernel.org/gpu/drm-uapi.html#render-nodes and https://docs.kernel.org/accel/introduction.html;
https://docs.openvino.ai/2026/get-started/install-openvino/configurations/configurations-intel-npu.html;
`_TPU_PCI_DEVICE_IDS` of https://github.com/jax-ml/jax/blob/main/jax/_src/hardware_utils.py.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

GPU, NPU, TPU = "intel-gpu", "intel-npu", "tpu"
NPU_DRIVER = "intel_vpu"
SYSTEM = Path("/sys")
ALL = (GPU, NPU, TPU)
_INTEL, _GOOGLE = "0x8086", "0x1ae0"
_TPU_CHIPS = frozenset({"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"})  # v2 to v7


def accelerators(system: Path = SYSTEM) -> list[str]:
    """`intel-gpu`, `intel-npu` and `tpu`, as far as there is one; [] on other systems than Linux."""
    return [name for name, found in _FINDERS.items() if next(found(system), None) is not None]


def _gpus(system: Path) -> Iterator[Path]:
    for node in sorted((system / "class/drm").glob("renderD*")):
        if _text(node / "device/vendor") == _INTEL:
            yield node


def _npus(system: Path) -> Iterator[Path]:
    for node in sorted((system / "class/accel").glob("accel*")):
        if (node / "device/driver").resolve().name == NPU_DRIVER:
            yield node


def _tpus(system: Path) -> Iterator[Path]:
    for device in sorted((system / "bus/pci/devices").glob("*")):
        if _text(device / "vendor") == _GOOGLE and _text(device / "device") in _TPU_CHIPS:
            yield device


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


_FINDERS: dict[str, Callable[[Path], Iterator[Path]]] = {GPU: _gpus, NPU: _npus, TPU: _tpus}
