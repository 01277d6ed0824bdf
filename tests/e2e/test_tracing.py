"""Traces, as a collector receives them: a real service, a real OTLP receiver."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from app.client import Client
from app.embedded import Embedded
from benchmarks.networks import packaged
from tests.e2e.service import Service


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP, as the specification has it: protobuf, POST /v1/traces."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: dict[str, list[Span]] = {}  # by service
        self.raw: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.raw.append(body)
        request = ExportTraceServiceRequest.FromString(body)
        for each in request.resource_spans:
            named = {entry.key: entry.value.string_value for entry in each.resource.attributes}
            spans = self.server.spans.setdefault(named["service.name"], [])
            spans += [span for scope in each.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_request_its_job_and_its_steps_are_one_trace(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRACING", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with Embedded(tmp_path / "data") as embedded, Client(embedded.url, embedded.api_key) as client:
        service = Service(client, tmp_path)
        model = service.model(packaged("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"))
        job = service.optimize(model, [{"pass": "simplify"}], options={"allow_synthetic": True})
        assert job["status"] == "succeeded", job["problem"]
        key = embedded.api_key
    # the processes have ended, and sent what they had
    api, worker = collector.spans["burnish-api"], collector.spans["burnish-worker"]
    (submitted,) = [span for span in api if span.name == "POST /v1/jobs"]
    (attempt,) = [span for span in worker if span.name == "job attempt"]
    assert attempt.trace_id == submitted.trace_id
    assert attempt.parent_span_id in {span.span_id for span in api if span.trace_id == submitted.trace_id}
    assert {entry.key: entry.value.string_value for entry in attempt.attributes}["burnish.job"] == job["id"]
    steps = [span for span in worker if span.parent_span_id == attempt.span_id]
    assert [span.name for span in steps] == [f"step {step['name']}" for step in job["steps"]]
    assert all(span.start_time_unix_nano < span.end_time_unix_nano for span in steps)
    assert not any(key.encode() in body for body in collector.raw)


def test_nothing_is_sent_unless_asked_for(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BURNISH_TRACING", raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with Embedded(tmp_path / "data") as embedded, Client(embedded.url, embedded.api_key) as client:
        assert client.list("models") == []
    assert collector.raw == []
