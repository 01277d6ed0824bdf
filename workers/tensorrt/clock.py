"""The time of each layer, as a library tells it after every run. Never run on a GPU by its makers.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/Profiler.html.
"""

from typing import Any

from workers.tensorrt.library import Library


def layer_clock(library: Library) -> Any:
    """What an execution context takes as its `profiler`. With one, running waits until the GPU is done.

    `take()` gives [(layer, milliseconds)] since the last time it was asked, in the order in which layers ran.
    """
    trt = library.trt
    base: Any = trt.IProfiler

    class Clock(base):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self._told: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self._told.append((str(layer_name), float(ms)))

        def take(self) -> list[tuple[str, float]]:
            told, self._told = self._told, []
            return told

    return Clock()
