"""Traces of questions, searches and ingests by OpenTelemetry, where the environment asks for them.

    with open_service(settings) as service:            # plain, or one that traces what it does
        app = joined(build_app(service), service)      # traces go on where a client's began

The environment asks by the standard variables: OTEL_EXPORTER_OTLP_ENDPOINT, or the same for traces
alone, or OTEL_TRACES_EXPORTER=otlp
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables). Without them, or
without the extra `tracing`, nothing is recorded, sent or even imported. A span holds times, counts,
states and kinds of errors: no text of a question, an answer or a document, and no name of a file, a
collection or a person. Knows nothing of how an answer comes about.
"""

import importlib.metadata
import logging
import os
import time
from collections.abc import Generator as Yielding
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.service import Service, Waiting
from app.settings import Settings
from ingest.pipeline import Report
from model.answers import Answer
from model.assistant import Drafted, Event, Finished, Retrieved
from retrieval.passages import Passage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# Stages of `Answer.timings` in their order, and the names of their spans.
STAGES = {
    "search": "search",
    "evidence": "read",
    "prompt": "prompt",
    "generate": "generate",
    "verify": "verify",
}
_NANO = 1_000_000_000  # of them in a second


@contextmanager
def open_service(settings: Settings) -> Iterator[Service]:
    """Yield a service, traced if the environment asks for it; it is closed with the block.

    Raises:
        TetherError: As `Service`.
    """
    provider = _provider() if is_asked_for(os.environ) else None
    if provider is None:
        with Service(settings) as plain:
            yield plain
        return
    tracer = provider.get_tracer("tether", importlib.metadata.version("tether"))
    try:
        with TracedService(settings, tracer) as traced:
            yield traced
    finally:
        provider.shutdown()  # which sends what is left


def is_asked_for(environment: Mapping[str, str]) -> bool:
    """Tell whether an environment's standard variables ask for traces over OTLP."""
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    has_endpoint = any(environment.get(name) for name in ENDPOINTS)
    return exporter == "otlp" or (has_endpoint and not exporter)


def _provider() -> "TracerProvider | None":
    """Return what sends spans to the collector, None without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning(
            "traces are asked for by OTEL_ variables, but cannot be made; install them with"
            " pip install 'tether[tracing]'"
        )
        return None
    # What a resource is given wins over the environment, so it is given no more than is missing.
    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "tether"}
    provider = TracerProvider(resource=Resource.create(name), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class TracedService(Service):
    """A service whose questions, searches and ingests leave spans.

    The methods take what those of `Service` take.
    """

    def __init__(self, settings: Settings, tracer: "Tracer", **parts: Any) -> None:  # noqa: ANN401
        """Load the models; `parts` are those of `Service`."""
        super().__init__(settings, **parts)
        self._tracer = tracer

    def ask(
        self,
        *arguments: Any,  # noqa: ANN401
        **options: Any,  # noqa: ANN401
    ) -> Yielding[Waiting | Event, None, None]:
        """Yield the events of a question, under a span `ask`."""
        question = _Question(self._tracer)
        with question.recorded(), closing(super().ask(*arguments, **options)) as events:
            for event in events:
                question.note(event)
                yield event

    def search(self, *arguments: Any, **options: Any) -> tuple[Passage, ...]:  # noqa: ANN401
        """Return the passages of a search, under a span `search`."""
        with self._span("search") as span:
            found = super().search(*arguments, **options)
            span.set_attribute("tether.passages", len(found))
            return found

    def ingest(self, *arguments: Any, **options: Any) -> Report:  # noqa: ANN401
        """Return the report of an ingest, under a span `ingest`."""
        with self._span("ingest") as span:
            report = super().ingest(*arguments, **options)
            for status, count in report.counts.items():
                if count:
                    span.set_attribute(f"tether.files.{status}", count)
            return report

    def _span(self, name: str) -> "AbstractContextManager[Span]":
        return _recorded(self._tracer.start_span(name))


class _Question:
    """The span of one question, with a child for the line and for each stage."""

    def __init__(self, tracer: "Tracer") -> None:
        self._tracer = tracer
        self._started = time.time_ns()
        self._span = tracer.start_span("ask", start_time=self._started)
        self._has_draft = False

    def recorded(self) -> "AbstractContextManager[Span]":
        """End the span with the block."""
        return _recorded(self._span)

    def note(self, event: Waiting | Event) -> None:
        """Take from an event what the trace shall hold."""
        match event:
            case Retrieved(passages):
                self._span.add_event("retrieved", {"tether.passages": len(passages)})
            case Drafted() if not self._has_draft:
                self._has_draft = True
                self._span.add_event("first piece")
            case Finished(answer):
                self._finish(answer)

    def _finish(self, answer: Answer) -> None:
        self._span.set_attribute("tether.status", answer.status)
        self._span.set_attribute("tether.claims", len(answer.claims))
        for count in ("prompt_tokens", "generated_tokens"):
            if count in answer.timings:
                self._span.set_attribute(f"tether.{count}", int(answer.timings[count]))
        at = max(self._started, time.time_ns() - _nanoseconds(answer.timings["total"]))
        self._child("queue", self._started, at)
        for stage, name in STAGES.items():
            if stage in answer.timings:
                until = at + _nanoseconds(answer.timings[stage])
                self._child(name, at, until)
                at = until

    def _child(self, name: str, start: int, end: int) -> None:
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(self._span)
        self._tracer.start_span(name, context, start_time=start).end(end)


@contextmanager
def _recorded(span: "Span") -> "Iterator[Span]":
    """End a span with the block; of an error it gets the kind, not the message, which may quote."""
    from opentelemetry.trace import StatusCode

    try:
        yield span
    except GeneratorExit:
        span.set_attribute("tether.status", "left")  # whoever asked did not wait for the answer
        raise
    except Exception as error:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(StatusCode.ERROR)
        raise
    finally:
        span.end()


def _nanoseconds(seconds: float) -> int:
    return round(seconds * _NANO)


def joined(app: ASGIApp, service: Service) -> ASGIApp:
    """Return an application whose traces go on where a client's began (header `traceparent`)."""
    if not isinstance(service, TracedService):
        return app

    async def going_on(scope: Scope, receive: Receive, send: Send) -> None:
        from opentelemetry import context, propagate

        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        token = context.attach(propagate.extract(headers))
        try:
            await app(scope, receive, send)
        finally:
            context.detach(token)

    return going_on
