"""A report for TensorBoard: an event file for each side, so that the sides lie over one another. Needs `burnish[export]`."""

from collections.abc import Iterable
from datetime import datetime
from itertools import groupby
from pathlib import Path

from app.reports.scalars import scalars
from app.reports.schemas import Report

TEXT_RUN = "report"


def write(report: Report, markdown: str, folder: Path) -> list[Path]:
    """Write event files below `folder`, named after job and side; their folders.

    Raises:
        ImportError: TensorBoard is not installed.
    """
    from tensorboard.summary import Writer

    when = datetime.fromisoformat(report.created_at).timestamp()
    written = []
    for side, numbers in groupby(sorted(scalars(report), key=lambda one: one.side), lambda one: one.side):
        target = folder / f"{report.job}-{side}"
        writer = Writer(str(target))
        for one in numbers:
            writer.add_scalar(one.name, one.value, one.step, wall_time=when)
        writer.close()
        written.append(target)
    _write_text(markdown, folder / f"{report.job}-{TEXT_RUN}", when)
    return [*written, folder / f"{report.job}-{TEXT_RUN}"]


def _write_text(markdown: str, target: Path, when: float) -> None:
    """The report itself, for the text plugin; TensorBoard's own writer knows scalars alone."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    def tensor(texts: Iterable[str]) -> TensorProto:
        values = [text.encode() for text in texts]
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(values))])
        return TensorProto(dtype=DT_STRING, string_val=values, tensor_shape=shape)

    target.mkdir(parents=True, exist_ok=True)
    value = Summary.Value(
        tag="report",
        metadata=create_summary_metadata("report", "The job's report."),
        tensor=tensor([markdown]),
    )
    writer = EventFileWriter(str(target))
    writer.add_event(Event(wall_time=when, step=0, summary=Summary(value=[value])))
    writer.close()
