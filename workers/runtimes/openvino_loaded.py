"""A network compiled by OpenVINO, fed with numpy: one run after another, or several side by side."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from app.errors import SignatureMismatch
from workers.openvino_errors import OPENVINO_ERRORS, explain
from workers.openvino_library import openvino
from workers.runtimes.base import Feeds, Outputs

RUNNING = "running the engine"


class LoadedOpenVino:
    """See `base.LoadedEngine` and `base.Concurrent`; `signature` is the graph's, as a compiled network's names can be others.

    `several`: whether as many requests are offered side by side as the device finds best for how it was compiled.
    """

    def __init__(self, compiled: Any, signature: Mapping[str, Any], *, several: bool):
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self.inputs, self.outputs = list(signature["inputs"]), list(signature["outputs"])
        self._names = [entry["name"] for entry in self.outputs]
        self.requests = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") if several else 1
        self._queue: Any = None

    def run(self, feeds: Feeds) -> Outputs:
        """The outputs by name.

        Raises:
            SignatureMismatch: names, types or shapes of the feeds are not the engine's.
            InvalidModel, OutOfMemory: the engine fails on these inputs.
        """
        ordered = self._ordered(feeds)
        try:
            # inputs are read in place, outputs are copies: the next run does not overwrite them
            results = self._request.infer(ordered, share_inputs=True, share_outputs=False)
        except OPENVINO_ERRORS as error:
            raise explain(error, RUNNING, stage="running") from error
        return {name: results[index] for index, name in enumerate(self._names)}

    def counters(self) -> list[Any]:
        """What a network that was compiled with PERF_COUNT counts of its nodes (openvino.ProfilingInfo)."""
        return list(self._request.profiling_info)

    def runtime_graph(self) -> Any:
        """What the device made of the network (openvino.Model)."""
        return self._compiled.get_runtime_model()

    def run_many(self, feeds: Iterable[Feeds], take: Callable[[int, Outputs], None]) -> None:
        """See `base.Concurrent`; outputs are copies here too.

        Source: https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference/optimizing-throughput.html.
        """
        queue = self._queue or openvino.AsyncInferQueue(self._compiled, self.requests)
        self._queue = None  # after an error it takes nothing more
        failed: list[Exception] = []

        def done(request: Any, given: tuple[int, Any]) -> None:
            try:
                take(given[0], self._copied(request))
            except Exception as error:  # one that left a callback would abort the process
                failed.append(error)

        queue.set_callback(done)
        try:
            try:
                for number, one in enumerate(feeds):
                    ordered = self._ordered(one)
                    # its inputs stay in memory, as part of what the callback is given, until the request is free again
                    queue.start_async(ordered, (number, ordered), share_inputs=True)
            finally:
                queue.wait_all()
        except OPENVINO_ERRORS as error:
            raise explain(error, RUNNING, stage="running") from error
        self._queue = queue
        if failed:
            raise failed[0]

    def _copied(self, request: Any) -> Outputs:
        return {
            name: np.array(request.get_output_tensor(index).data) for index, name in enumerate(self._names)
        }

    def _ordered(self, feeds: Feeds) -> dict[int, np.ndarray]:
        """The inputs by place, checked. Shared memory must be writable, though nothing writes to it."""
        self._check(feeds)
        return {
            index: np.require(feeds[entry["name"]], requirements=["C", "W"])
            for index, entry in enumerate(self.inputs)
        }

    def _check(self, feeds: Feeds) -> None:
        """OpenVINO itself casts what has another type, and ignores what it does not know."""
        if set(feeds) != {entry["name"] for entry in self.inputs}:
            raise SignatureMismatch(
                f"the engine takes {', '.join(sorted(entry['name'] for entry in self.inputs))}, "
                f"given were {', '.join(sorted(feeds)) or 'no inputs'}",
                stage="running",
            )
        for entry in self.inputs:
            value, shape = np.asarray(feeds[entry["name"]]), entry["shape"]
            fits = len(value.shape) == len(shape) and all(
                wanted in (None, given) for wanted, given in zip(shape, value.shape, strict=True)
            )
            if value.dtype.name != entry["dtype"] or not fits:
                raise SignatureMismatch(
                    f"input {entry['name']!r} takes {entry['dtype']} {shape}, given was {value.dtype.name} {list(value.shape)}",
                    stage="running",
                    param=entry["name"],
                )
