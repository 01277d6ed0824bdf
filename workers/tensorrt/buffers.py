"""Memory for an engine's inputs and outputs, on the GPU and, pinned, on the host. It grows, and is kept between runs."""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workers.runtimes.base import Feeds
from workers.tensorrt.cuda import Cuda
from workers.tensorrt.library import Library
from workers.tensorrt.signature import Entry


class Buffers:
    """Of one execution context."""

    def __init__(self, library: Library, cuda: Cuda):
        self._library, self._cuda = library, cuda
        self._device: dict[str, tuple[int, int]] = {}  # address, size
        self._host: dict[str, tuple[int, int]] = {}
        self._allocators: dict[str, Any] = {}

    @property
    def sized_by_values(self) -> bool:
        """Whether an output's size is known only after a run."""
        return bool(self._allocators)

    def hold(
        self,
        context: Any,
        inputs: Sequence[Entry],
        outputs: Sequence[Entry],
        feeds: Feeds,
        shapes: Mapping[str, tuple[int, ...]],
    ) -> bool:
        """Make room for a run and tell the context where; whether any address is another than before."""
        moved = False
        for one in inputs:
            moved |= self._grow(context, one["name"], feeds[one["name"]].nbytes)
        for one in outputs:
            name, shape = one["name"], shapes[one["name"]]
            if min(shape, default=0) < 0:
                self._let_grow(context, name)
            else:
                moved |= self._grow(context, name, _bytes(one["dtype"], shape))
        return moved

    def send(self, feeds: Feeds) -> None:
        """Copy inputs to the GPU, in the stream."""
        for name, value in feeds.items():
            address, _ = self._host[name]
            laid = np.ascontiguousarray(value)
            ctypes.memmove(address, laid.ctypes.data, laid.nbytes)
            self._cuda.to_device(self._device[name][0], address, laid.nbytes)

    def fetch(self, outputs: Sequence[Entry], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """The outputs of the run before, copied; waits for it."""
        if self._allocators:
            self._cuda.wait()  # only then are the sizes known
        found = {}
        for one in outputs:
            name = one["name"]
            shape = self._allocators[name].shape if name in self._allocators else shapes[name]
            size = _bytes(one["dtype"], shape)
            if name in self._allocators:
                self._grow_host(name, size)
            source = self._allocators[name].address if name in self._allocators else self._device[name][0]
            if size:
                self._cuda.to_host(self._host[name][0], source, size)
            found[name] = (shape, size, np.dtype(one["dtype"]))
        self._cuda.wait()
        return {name: self._taken(name, *what) for name, what in found.items()}

    def _taken(self, name: str, shape: tuple[int, ...], size: int, dtype: np.dtype) -> np.ndarray:
        if not size:
            return np.empty(shape, dtype)
        return np.frombuffer(ctypes.string_at(self._host[name][0], size), dtype).reshape(shape).copy()

    def _grow(self, context: Any, name: str, size: int) -> bool:
        self._grow_host(name, size)
        if name in self._device and self._device[name][1] >= size:
            return False
        if name in self._device:
            self._cuda.free(self._device[name][0])
        self._device[name] = (self._cuda.allocate(size), size)
        context.set_tensor_address(name, self._device[name][0])
        return True

    def _grow_host(self, name: str, size: int) -> None:
        if name in self._host and self._host[name][1] >= size:
            return
        if name in self._host:
            self._cuda.free_pinned(self._host[name][0])
        self._host[name] = (self._cuda.allocate_pinned(size), size)

    def _let_grow(self, context: Any, name: str) -> None:
        if name not in self._allocators:
            self._allocators[name] = _allocator(self._library, self._cuda)
            context.set_output_allocator(name, self._allocators[name])


def _allocator(library: Library, cuda: Cuda) -> Any:
    """What an engine asks for memory of an output whose size it finds out while it runs."""
    trt = library.trt
    base: Any = trt.IOutputAllocator

    class Allocator(base):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.address, self._size = 0, 0
            self.shape: tuple[int, ...] = ()

        def reallocate_output_async(
            self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            if size > self._size or not self.address:
                if self.address:
                    cuda.free(self.address)
                self.address, self._size = cuda.allocate(size), size
            return self.address

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(int(dim) for dim in shape)

    return Allocator()


def _bytes(dtype: str, shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
