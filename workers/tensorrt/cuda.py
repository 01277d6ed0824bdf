"""CUDA's driver API by `ctypes`: memory, one stream, graphs and events, with no package besides the driver.

Source: https://docs.nvidia.com/cuda/cuda-driver-api/index.html.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.errors import InvalidModel, OutOfMemory, Unavailable

DRIVER = "libcuda.so.1"
OUT_OF_MEMORY = 2
NON_BLOCKING = 1
CAPTURE_RELAXED = 2
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # device attributes


class Cuda:
    """The first GPU's primary context, current in this thread, and a stream. Addresses and handles are plain integers.

    Raises:
        Unavailable: there is no driver, or no GPU.
    """

    def __init__(self) -> None:
        try:
            self._driver = ctypes.CDLL(DRIVER)
        except OSError as error:
            raise _absent(f"NVIDIA's driver is not installed ({error})") from None
        if (code := self._driver.cuInit(0)) != 0:
            raise _absent(f"NVIDIA's driver does not start ({self._name(code)})")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        if self._driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
            raise _absent("NVIDIA's driver knows no GPU")
        self._device = device.value
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(NON_BLOCKING))
        self.stream: int = stream.value or 0

    def capability(self) -> str:
        """The compute capability, as in `8.9`."""
        found = []
        for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), self._device)
            found.append(value.value)
        return f"{found[0]}.{found[1]}"

    def allocate(self, size_bytes: int) -> int:
        """Memory of the GPU. Raises OutOfMemory."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size_bytes, 1)))
        return address.value

    def free(self, address: int) -> None:
        """Give memory of the GPU back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def allocate_pinned(self, size_bytes: int) -> int:
        """Memory of the host that copies to the GPU need not stage. Raises OutOfMemory."""
        address = ctypes.c_void_p()
        size = ctypes.c_size_t(max(size_bytes, 1))
        self._call("cuMemHostAlloc", ctypes.byref(address), size, ctypes.c_uint(0))
        return address.value or 0

    def free_pinned(self, address: int) -> None:
        """Give such memory back."""
        self._call("cuMemFreeHost", ctypes.c_void_p(address))

    def to_device(self, target: int, source: int, size_bytes: int) -> None:
        """Copy from the host, in the stream."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size_bytes),
            ctypes.c_void_p(self.stream),
        )

    def to_host(self, target: int, source: int, size_bytes: int) -> None:
        """Copy to the host, in the stream."""
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(target),
            ctypes.c_uint64(source),
            ctypes.c_size_t(size_bytes),
            ctypes.c_void_p(self.stream),
        )

    def wait(self) -> None:
        """Until everything in the stream is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    @contextmanager
    def recording(self) -> Iterator["Recording"]:
        """Record what is put into the stream, which does not run; `graph` of the recording is what `launch` takes."""
        recording = Recording()
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(self.stream), ctypes.c_int(CAPTURE_RELAXED))
        try:
            yield recording
        finally:
            graph, whole = ctypes.c_void_p(), ctypes.c_void_p()
            self._call("cuStreamEndCapture", ctypes.c_void_p(self.stream), ctypes.byref(graph))
        flags = ctypes.c_ulonglong(0)
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(whole), graph, flags)
        self._call("cuGraphDestroy", graph)
        recording.graph = whole.value or 0

    def launch(self, graph: int) -> None:
        """Run a recorded graph, in the stream."""
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(self.stream))

    def forget(self, graph: int) -> None:
        """Give a recorded graph back."""
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def event(self) -> int:
        """A mark that can be put into the stream."""
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(0))
        return event.value or 0

    def mark(self, event: int) -> None:
        """Put a mark into the stream."""
        self._call("cuEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(self.stream))

    def between_ms(self, first: int, second: int) -> float:
        """Milliseconds between two marks that the stream has passed."""
        found = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(found), ctypes.c_void_p(first), ctypes.c_void_p(second))
        return found.value

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._driver, function)(*arguments)
        if code == OUT_OF_MEMORY:
            raise OutOfMemory("the GPU's memory is used up", stage="running")
        if code != 0:
            raise InvalidModel(
                f"{function} failed: {self._name(code)}",
                stage="running",
                hint="the job's log may hold more; a fault of the GPU shows in the system's log as an Xid",
            )

    def _name(self, code: int) -> str:
        text = ctypes.c_char_p()
        if self._driver.cuGetErrorName(code, ctypes.byref(text)) != 0 or text.value is None:
            return f"error {code}"
        return text.value.decode()


class Recording:
    """What was recorded, once the recording is over."""

    graph: int = 0


def _absent(why: str) -> Unavailable:
    return Unavailable(
        f"there is no GPU that this process can use: {why}",
        stage="loading",
        hint="load the engine on a machine with an NVIDIA GPU",
        retryable=False,
    )
