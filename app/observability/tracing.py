"""Traces by OpenTelemetry: a request, the job that it queued, the job's attempts and their steps are one trace.

Off unless `BURNISH_TRACING` is true: then spans leave by OTLP over HTTP, as the standard variables
`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER` and so on say. The API package that is used here is always installed, and
does nothing without the SDK, which is in the extra `tracing`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Span

from app import __version__
from app.config import get_settings

Attribute = str | bool | int | float

tracer = trace.get_tracer("burnish", __version__)


@lru_cache
def start(role: str) -> None:
    """Let this process send its spans, as the service `burnish-ROLE`. Once a process; nothing where tracing is off.

    Raises:
        RuntimeError: the extra `tracing` is not installed.
    """
    if not get_settings().tracing:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise RuntimeError(
            "BURNISH_TRACING needs OpenTelemetry's SDK: pip install 'burnish[tracing]'"
        ) from error
    named = {"service.name": f"burnish-{role}", "service.version": __version__}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def current() -> str | None:
    """The `traceparent` (W3C Trace Context) of what this thread does now; None outside of any trace."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def span(name: str, parent: str | None, attributes: Mapping[str, Attribute]) -> Iterator[Span]:
    """A span in which the block runs; `parent` is the `traceparent` that it goes on from, another process's perhaps."""
    context = extract({"traceparent": parent}) if parent else None
    with tracer.start_as_current_span(name, context, attributes=attributes) as begun:
        yield begun
