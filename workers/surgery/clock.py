"""Networks that a pass might leave, timed on the job's target."""

from collections.abc import Callable
from pathlib import Path

from app.measurements.compare import Interval
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.surgery.factoring import ENTRY
from workers.surgery.written import write
from workers.torch.model import TorchModel


def clock(ctx: PassContext, work: Path) -> Callable[[TorchModel], Interval] | None:
    """How a candidate is timed, where the pass chooses by latency: see `context.Timing`. Its files go into `work`."""
    timing = ctx.timing
    if timing is None:
        return None
    count = 0

    def time(candidate: TorchModel) -> Interval:
        nonlocal count
        count += 1
        out = work / f"candidate{count}"
        out.mkdir()
        write(candidate, out / ENTRY)
        return timing.share(ModelHandle(out, ENTRY, "torch-export", tree_digest(out)))

    return time
