"""ONNX Runtime's profiler on GPUs. Never run: its makers had no such machine when they wrote it.

A kernel is launched and works on while the processor goes on, so what ONNX Runtime tells of a node is the launch alone, unless it was
built with CUPTI and tells the kernels too. Therefore launches are made to wait for their kernels: a node then takes its kernels' time
and what launching them costs.

Source: https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html (CUDA_LAUNCH_BLOCKING).
"""

import os
from collections.abc import Sequence
from pathlib import Path

from app.catalog.runtime_params.onnxruntime import OnnxRuntimeGpuParams
from app.catalog.spec import Params
from workers.profiling.onnxruntime_profile import NOTE, OnnxRuntimeProfiler
from workers.profiling.recorded import Plan, Recorded
from workers.runtimes.base import Engine, Feeds

WAITING = "each kernel was waited for, so that its node has its time: the sum is more than a run takes where kernels follow one another"
ONE_BY_ONE = "nodes were launched one by one: a recorded CUDA graph runs as one, and nodes are not told"


class OnnxRuntimeGpuProfiler(OnnxRuntimeProfiler):
    """See `OnnxRuntimeProfiler`."""

    notes = (NOTE, WAITING)

    def profile(
        self, engine: Engine, params: Params, feeds: Sequence[Feeds], plan: Plan, out: Path
    ) -> Recorded:
        """See `OnnxRuntimeProfiler.profile`. It changes how this process launches kernels, from the first one on."""
        assert isinstance(params, OnnxRuntimeGpuParams)
        os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
        recorded = super().profile(engine, params.model_copy(update={"cuda_graph": False}), feeds, plan, out)
        if params.cuda_graph:
            recorded.notes.append(ONE_BY_ONE)
        return recorded
