"""The steps of an attempt as spans of its trace."""

from opentelemetry.trace import Span, StatusCode

from app.observability.tracing import tracer


class StepSpans:
    """Begins a span as a step begins, ends it as the step ends; `close` ends those that a dead child left open."""

    def __init__(self) -> None:
        self._open: dict[int, Span] = {}

    def hear(self, index: int, name: str, status: str, cached: bool) -> None:
        """A step began (`running`) or ended (`done`, `failed`)."""
        if status == "running":
            self._open[index] = tracer.start_span(f"step {name}")
            return
        if (span := self._open.pop(index, None)) is not None:
            span.set_attribute("burnish.step.cached", cached)
            if status == "failed":
                span.set_status(StatusCode.ERROR)
            span.end()

    def close(self) -> None:
        """The attempt is over: what is still open was cut short."""
        for span in self._open.values():
            span.set_status(StatusCode.ERROR, "the attempt ended first")
            span.end()
        self._open.clear()
