"""OpenVINO and NNCF as this service takes them: silent. No other file imports either.

On import, OpenVINO reports to its makers and writes an identity into the home folder, and NNCF does at each
quantization, by the package `openvino_telemetry`. Where that package cannot be imported both fall back to stubs of
their own (`openvino/tools/ovc/telemetry_stub.py`, `nncf/telemetry/wrapper.py`); so it cannot be, in our processes. Their
other way out, a file in the home folder, would be the user's to write.
"""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as openvino  # noqa: E402

from workers.openvino_signals import careful  # noqa: E402

# in both of the library's own places: NNCF makes cores too, itself and by `openvino.compile_model`
openvino.Core = openvino._ov_api.Core = careful(openvino.Core)


@contextlib.contextmanager
def silent_nncf() -> Iterator[ModuleType]:
    """NNCF, whose progress bars and notes about itself are kept out of the job's log."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of the libraries that it imports
        import nncf

        nncf.set_log_level(logging.ERROR)
        yield nncf


def device_identity(device: str) -> str | None:
    """What tells devices of one kind apart, name and architecture as in `… [0xe20b] (dGPU) / GPU: vendor=0x8086 arch=v20.1.0`.

    `device` is OpenVINO's name (`GPU`, `NPU`: the first of several). None where it has no such device.
    """
    core = openvino.Core()
    if device not in {name.partition(".")[0] for name in core.available_devices}:
        return None
    told = core.get_property(device, "SUPPORTED_PROPERTIES")
    wanted = ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE")
    return " / ".join(str(core.get_property(device, name)).strip() for name in wanted if name in told)
