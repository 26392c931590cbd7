"""Spans of questions and ingests: what they hold, what they never hold, and where they are sent."""

import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.http.server import build_app
from app.http.tracing import STAGES, TracedService, is_asked_for, joined, open_service
from app.service import Service
from app.settings import Settings, load_settings
from ingest.errors import GeneratorError, UnknownCollection
from model.generators import Generator, OpenAIGenerator, ScriptedGenerator
from model.verifier import OverlapVerifier
from retrieval.encoders import HashingEncoder
from tests.serving_parts import BRIDGE, DRAFT, QUESTION
from tests.test_service import upload
from tests.test_verifier import plain_calibration

pytest.importorskip("opentelemetry.sdk", reason="needs the `tracing` extra")
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
    InMemorySpanExporter,
)

WORDS = ("Zarnith", "Fenn", "bridge", "default")  # of the question, answer, file and collection


def chosen(home: Path) -> Settings:
    flags = {"home": str(home), "encoder.model": "hashing", "generator.backend": "none"}
    return load_settings(flags, {})


@pytest.fixture
def kept() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def traced(home: Path, kept: InMemorySpanExporter, generator: Generator) -> TracedService:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    encoder = HashingEncoder()
    return TracedService(
        chosen(home),
        provider.get_tracer("test"),
        encoder=encoder,
        generator=generator,
        verifier=OverlapVerifier(encoder, plain_calibration()),
    )


@pytest.fixture
def service(home: Path, kept: InMemorySpanExporter) -> Iterator[TracedService]:
    with traced(home, kept, ScriptedGenerator(default=DRAFT)) as made:
        yield made


def by_name(kept: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """Return the finished spans, after checking that they say nothing of anybody's."""
    spans = {span.name: span for span in kept.get_finished_spans()}
    told = "".join(span.to_json() for span in spans.values())
    assert not any(word in told for word in WORDS)
    return spans


def times(span: ReadableSpan) -> tuple[int, int]:
    """Return start and end in nanoseconds."""
    assert span.start_time is not None and span.end_time is not None
    return span.start_time, span.end_time


def test_a_question_and_an_ingest_leave_spans_without_text(
    service: TracedService, kept: InMemorySpanExporter
) -> None:
    upload(service, "bridge.md", BRIDGE)
    list(service.ask(QUESTION))
    service.search(QUESTION)
    spans = by_name(kept)
    assert set(spans) == {"ingest", "ask", "queue", *STAGES.values()}
    assert spans["ingest"].attributes == {"tether.files.added": 1}
    ask = spans["ask"]
    assert ask.attributes is not None and ask.attributes["tether.status"] == "supported"
    assert [event.name for event in ask.events] == ["retrieved", "first piece"]
    stages = [span for span in kept.get_finished_spans() if span.parent]
    assert all(span.parent == ask.context for span in stages)
    ends = [times(ask)[0]]
    for span in stages:  # one after the other, within the question
        start, end = times(span)
        assert ends[-1] == start <= end
        ends.append(end)
    assert ends[-1] <= times(ask)[1] + 1_000_000
    alone = kept.get_finished_spans()[-1]
    assert (alone.name, alone.attributes) == ("search", {"tether.passages": 1})


def test_errors_leave_their_kind_and_a_client_that_leaves_is_told(
    home: Path, kept: InMemorySpanExporter
) -> None:
    with traced(home, kept, OpenAIGenerator("http://127.0.0.1:1/v1", model="none")) as service:
        upload(service, "bridge.md", BRIDGE)
        with closing(service.ask(QUESTION)) as events:
            next(events)
        left = by_name(kept)["ask"]
        assert left.attributes == {"tether.status": "left"} and left.status.is_unset
        with pytest.raises(UnknownCollection):
            list(service.ask(QUESTION, collection="nowhere"))
        with pytest.raises(GeneratorError):
            list(service.ask(QUESTION))
        with pytest.raises(UnknownCollection):
            service.search(QUESTION, collection="nowhere")
    spans = kept.get_finished_spans()[-3:]
    kinds = [(span.name, (span.attributes or {})["error.type"]) for span in spans]
    assert kinds == [
        ("ask", "UnknownCollection"), ("ask", "GeneratorError"), ("search", "UnknownCollection"),
    ]  # fmt: skip
    failed = by_name(kept)["ask"]
    assert not failed.status.is_unset and failed.status.description is None
    assert [event.name for event in failed.events] == ["retrieved"]  # how far it came


def test_a_trace_goes_on_where_the_client_began_it(
    service: TracedService, kept: InMemorySpanExporter
) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    app = joined(build_app(service), service)
    with TestClient(app, base_url="http://127.0.0.1", headers=headers) as client:
        client.post("/api/ingest", files={"files": ("bridge.md", BRIDGE)})
        assert client.post("/api/ask", json={"question": QUESTION}).status_code == 200
    spans = by_name(kept)
    assert {f"{span.context.trace_id:032x}" for span in spans.values() if span.context} == {trace}
    assert spans["ask"].parent is not None and spans["ask"].parent.span_id == 0xB7AD6B7169203331


class _Collector(BaseHTTPRequestHandler):
    """Keeps what is sent to /v1/traces."""

    bodies: list[bytes] = []  # noqa: RUF012 - one server, one test

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces":
            self.bodies.append(body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


def test_the_environment_sends_spans_to_a_collector(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        with open_service(chosen(home)) as service:
            upload(service, "bridge.md", BRIDGE)
        collector.shutdown()
    sent = b"".join(_Collector.bodies)
    assert b"ingest" in sent and b"tether.files.added" in sent and b"Zarnith" not in sent


def test_without_the_variables_or_the_extra_a_service_is_plain(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    assert is_asked_for(asked) and is_asked_for({"OTEL_TRACES_EXPORTER": "otlp"})
    assert not is_asked_for({})
    assert not is_asked_for(asked | {"OTEL_TRACES_EXPORTER": "none"})
    assert not is_asked_for(asked | {"OTEL_SDK_DISABLED": "true"})
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with open_service(chosen(home)) as service:
        assert type(service) is Service
        app = build_app(service)
        assert joined(app, service) is app
    assert "pip install 'tether[tracing]'" in caplog.text
