"""An engine in the memory of a GPU. Never run by its makers, who had no machine with these libraries and a GPU for them."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from app.catalog.runtime_params.tensorrt import TensorRtParams, TensorRtRtxParams
from app.errors import InvalidModel
from workers.runtimes.base import Feeds
from workers.tensorrt import rtx
from workers.tensorrt.buffers import Buffers
from workers.tensorrt.cuda import Cuda
from workers.tensorrt.library import Library
from workers.tensorrt.logger import complaints, listen
from workers.tensorrt.signature import Entry, check_feeds, entry, fitting_profile

GRAPHS = 16  # recorded shapes that are kept
Key = tuple[int, tuple[tuple[str, tuple[int, ...]], ...]]


class LoadedTensorRt:
    """See `base.LoadedEngine`.

    Raises:
        Unavailable: there is no GPU.
        InvalidModel: the library does not take the engine here: another version, another GPU.
    """

    def __init__(
        self,
        library: Library,
        plan: Path,
        params: TensorRtParams | TensorRtRtxParams,
        weights: Path | None = None,
    ):
        """`weights` is the ONNX model that a stripped engine gets its weights from."""
        self._library, self._params = library, params
        self._cuda = Cuda()
        self._heard = listen(library)
        trt = library.trt
        self._runtime = trt.Runtime(self._heard)
        if isinstance(params, TensorRtParams) and params.version_compatible:
            self._runtime.engine_host_code_allowed = True  # such a plan carries the code that runs it
        engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise self._refused("does not load the engine", "loading")
        self._engine = engine
        if weights is not None:
            self._refit(weights)
        if params.weight_streaming:
            budget = params.weight_streaming_mib
            engine.weight_streaming_budget_v2 = (
                engine.get_weight_streaming_automatic_budget() if budget is None else budget * 2**20
            )
        self._context = self._make_context()
        self._read_signature()
        self._buffers = Buffers(library, self._cuda)
        self._profile = 0
        self._graphs: dict[Key, int] = {}

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs by name.

        Raises:
            SignatureMismatch: names, types or shapes of the feeds are not the engine's, or outside all of its profiles.
            OutOfMemory, InvalidModel: the engine fails on these inputs.
        """
        key = self._prepare(feeds)
        graph = self._graphs.get(key)
        if graph is not None:
            self._cuda.launch(graph)
        else:
            self._enqueue()
        found = self._buffers.fetch(self.outputs, self._output_shapes())
        if graph is None and self._recordable() and len(self._graphs) < GRAPHS:
            self._record(key)
        return found

    def enqueue_times(self, feeds: Feeds, runs: int = 20) -> dict[str, Any]:
        """{host_ms, device_ms, bound}: what launching a run takes, and what the GPU works; `bound` where launching is longer.

        Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html (enqueue-bound workloads).
        """
        self._prepare(feeds)
        self._enqueue()
        self._cuda.wait()
        first, last = self._cuda.event(), self._cuda.event()
        self._cuda.mark(first)
        started = time.perf_counter()
        for _ in range(runs):
            self._enqueue()
        host_ms = (time.perf_counter() - started) * 1000 / runs
        self._cuda.mark(last)
        self._cuda.wait()
        device_ms = self._cuda.between_ms(first, last) / runs
        return {
            "host_ms": round(host_ms, 4),
            "device_ms": round(device_ms, 4),
            "bound": host_ms > 0.9 * device_ms,
        }

    @property
    def engine(self) -> Any:
        """The library's engine, for its inspector."""
        return self._engine

    @property
    def context(self) -> Any:
        """What runs it, for its inspector: it knows the shapes of the last run."""
        return self._context

    def tell(self, clock: Any) -> None:
        """Tell the time of each layer to `clock.layer_clock` from now on. It must be loaded without CUDA graphs."""
        self._context.profiler = clock
        self._clock = clock  # the library does not keep it alive

    def _make_context(self) -> Any:
        if isinstance(self._params, TensorRtRtxParams):
            context = rtx.execution_context(self._library, self._engine, self._params)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise self._refused("makes no execution context of the engine", "loading")
        return context

    def _read_signature(self) -> None:
        engine, modes = self._engine, self._library.trt.TensorIOMode
        self.inputs: list[Entry] = []
        self.outputs: list[Entry] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            side = self.inputs if engine.get_tensor_mode(name) == modes.INPUT else self.outputs
            side.append(
                entry(name, engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name)), "loading")
            )
        self._profiles = [
            {
                one["name"]: (tuple(ranges[0]), tuple(ranges[2]))
                for one in self.inputs
                if (ranges := engine.get_tensor_profile_shape(one["name"], number))
            }
            for number in range(engine.num_optimization_profiles)
        ]

    def _prepare(self, feeds: Feeds) -> Key:
        """Bring profile, shapes and inputs to the GPU."""
        check_feeds(self.inputs, feeds)
        shapes = {name: tuple(value.shape) for name, value in feeds.items()}
        number = fitting_profile(self._profiles, shapes) if self._profiles else 0
        if number != self._profile:
            self._context.set_optimization_profile_async(number, self._cuda.stream)
            self._cuda.wait()
            self._profile = number
        for name, shape in shapes.items():
            self._context.set_input_shape(name, shape)
        moved = self._buffers.hold(self._context, self.inputs, self.outputs, feeds, self._output_shapes())
        if moved:  # what was recorded reads and writes where the buffers were
            self._forget_graphs()
        self._buffers.send(feeds)
        return number, tuple(sorted(shapes.items()))

    def _output_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            one["name"]: tuple(int(dim) for dim in self._context.get_tensor_shape(one["name"]))
            for one in self.outputs
        }

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise self._refused("does not run the engine on these inputs", "running")

    def _recordable(self) -> bool:
        """TensorRT for RTX records by itself; outputs whose size the values decide cannot be recorded."""
        return self._params.cuda_graphs and not self._library.across and not self._buffers.sized_by_values

    def _record(self, key: Key) -> None:
        with self._cuda.recording() as recording:
            self._enqueue()
        self._graphs[key] = recording.graph

    def _forget_graphs(self) -> None:
        for graph in self._graphs.values():
            self._cuda.forget(graph)
        self._graphs.clear()

    def _refit(self, weights: Path) -> None:
        trt = self._library.trt
        refitter = trt.Refitter(self._engine, self._heard)
        parser = trt.OnnxParserRefitter(refitter, self._heard)
        if not parser.refit_from_file(str(weights)) or not refitter.refit_cuda_engine():
            raise self._refused("does not take the weights of the model beside the engine", "loading")

    def _refused(self, what: str, stage: str) -> InvalidModel:
        told = complaints(self._heard)
        return InvalidModel(
            f"{self._library.runtime} {self._library.version} {what}: {told[-1] if told else 'it gave no reason'}",
            stage=stage,
            hint="an engine is valid for the version and the GPUs that its manifest names; build it anew for others",
        )
