"""Engines of the runtimes `xla-cpu` and `xla-tpu`, compiled by XLA where they are loaded. Imports no torch."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import InvalidModel, OutOfMemory, SignatureMismatch
from app.text import first_line, plain
from workers.fitting import check_feeds
from workers.runtimes.base import Feeds, Outputs, unnamed
from workers.xla import files
from workers.xla.devices import device_of, start

MOST_SHAPES = 64  # compiled at a time, for engines with free dimensions


class LoadedXla:
    """A program on its device; see `runtimes.base.LoadedEngine`.

    XLA compiles for fixed shapes: an engine without free dimensions when it is loaded, another at the first run of each
    shape.
    """

    def __init__(self, entry: Path, platform: str, threads: int):
        """`threads`: of the CPU.

        Raises:
            Unavailable: JAX is not installed, or finds no such device.
            InvalidParams: this process runs XLA with another number of threads.
            InvalidModel: it is no engine that this JAX reads.
        """
        self._jax = start(platform, threads)
        self._device = device_of(self._jax, platform)
        told = files.signature(entry)
        self._signature = told["inputs"]
        self.inputs, self.outputs = unnamed(told["inputs"]), unnamed(told["outputs"])
        try:
            self._exported = self._jax.export.deserialize(
                bytearray((entry.parent / files.PROGRAM).read_bytes())
            )
            held = files.read_weights(entry.parent / files.WEIGHTS, told["weights"])
        except Exception as error:  # flatbuffers' and MLIR's errors have no common class
            raise InvalidModel(
                f"this engine cannot be loaded by JAX {self._jax.__version__}: {plain(first_line(str(error)), 400)}",
                stage="loading",
                hint="build it again with this version of JAX",
            ) from error
        self._weights = [self._jax.device_put(value, self._device) for value in held]
        self._compiled = lru_cache(MOST_SHAPES)(self._compile)
        shapes = tuple(tuple(one["shape"]) for one in self._signature)
        if all(isinstance(dim, int) for shape in shapes for dim in shape):
            self._compiled(shapes)

    def run(self, feeds: Feeds) -> Outputs:
        """The outputs by name.

        Raises:
            SignatureMismatch: names, types or shapes of the feeds are not the engine's.
            OutOfMemory: the device has too little.
        """
        check_feeds(self._signature, feeds)
        arrays = [self._jax.device_put(feeds[one["name"]], self._device) for one in self._signature]
        compiled = self._compiled(tuple(array.shape for array in arrays))
        try:
            found = [np.asarray(value) for value in compiled(self._weights, arrays)]
        except self._jax.errors.JaxRuntimeError as error:
            raise _failed(error) from error
        return {one["name"]: value for one, value in zip(self.outputs, found, strict=True)}

    def _compile(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        """The program for inputs of these shapes."""
        jax = self._jax
        place = jax.sharding.SingleDeviceSharding(self._device)
        given = [
            jax.ShapeDtypeStruct(shape, one["dtype"], sharding=place)
            for shape, one in zip(shapes, self._signature, strict=True)
        ]
        try:
            return jax.jit(self._exported.call).lower(self._weights, given).compile()
        except jax.errors.JaxRuntimeError as error:
            raise _failed(error) from error
        except (ValueError, TypeError) as error:  # the bounds of free dimensions
            raise SignatureMismatch(
                f"the engine does not take these sizes: {plain(first_line(str(error)), 400)}", stage="running"
            ) from error


def _failed(error: Exception) -> Exception:
    said = plain(first_line(str(error)), 400)
    if "RESOURCE_EXHAUSTED" in said:
        return OutOfMemory(f"XLA: {said}", stage="running")
    return InvalidModel(f"XLA does not run this engine: {said}", stage="running")
