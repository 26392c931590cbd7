"""One question from a route to the service: events as they come, the answer, and what is counted.

    async for event in Asking(service, metrics).events(request, Question("...", owner="ada")):
        ...

All interfaces, Tether's own, OpenAI's and MCP, ask through this. Knows nothing of how events look
on the wire.
"""

import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.http.metrics import Metrics
from app.http.streams import threaded
from app.service import Service, Waiting
from app.users import LOCAL, Person
from model.answers import Answer
from model.assistant import Drafted, Event, Finished


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks; the fields are the arguments of `Service.ask`."""

    text: str
    collection: str | None = None
    passages: tuple[str, ...] | None = None  # texts that the question brings
    retrieval: bool = True
    top_k: int | None = None
    owner: str = ""
    person: Person = LOCAL


@dataclass(frozen=True, slots=True)
class Asking:
    """Asks the service for routes."""

    service: Service
    metrics: Metrics

    async def events(
        self, request: Request | None, question: Question
    ) -> AsyncGenerator[Waiting | Event, None]:
        """Yield the events of a question until its client hangs up.

        Args:
            request: Tells whether its client is there; None if a client that leaves closes this.
            question: What it asks.

        Raises:
            TetherError: As `Service.ask`.
        """
        started = time.perf_counter()
        has_draft = False
        async with aclosing(threaded(lambda: self._start(question))) as events:
            async for event in events:
                if request is not None and await request.is_disconnected():
                    return
                seconds = time.perf_counter() - started
                if isinstance(event, Drafted) and not has_draft:
                    has_draft = True
                    self.metrics.observe("tether_first_piece_seconds", seconds)
                if isinstance(event, Finished):
                    self.metrics.observe("tether_answer_seconds", seconds)
                    self.metrics.count("tether_answers_total", status=event.answer.status)
                yield event

    async def answer(self, request: Request, question: Question) -> Answer | None:
        """Return the answer, None if the client hung up before it came."""
        async with aclosing(self.events(request, question)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event.answer
        return None

    def _start(self, question: Question) -> Generator[Waiting | Event, None, None]:
        return self.service.ask(
            question.text,
            collection=question.collection,
            passages=question.passages,
            retrieval=question.retrieval,
            top_k=question.top_k,
            owner=question.owner,
            person=question.person,
        )


async def opened(
    events: AsyncGenerator[Waiting | Event, None],
) -> AsyncGenerator[Waiting | Event, None]:
    """Return the same events once the first one is there: what fails before can have a status."""
    first = await anext(events, None)

    async def all_of_them() -> AsyncGenerator[Waiting | Event, None]:
        if first is not None:
            yield first
        async for event in events:
            yield event

    return all_of_them()


class Streamed(StreamingResponse):
    """A stream whose source is closed when the client has gone, not when memory is cleared."""

    def __init__(
        self,
        content: AsyncGenerator[str, None],
        source: AsyncGenerator[Waiting | Event, None],
        media_type: str,
    ) -> None:
        """Send `content`, which is made of `source`."""
        # Whoever stands between must not gather the pieces.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(content, media_type=media_type, headers=headers)
        self._made_of = (content, source)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            for generator in self._made_of:
                await generator.aclose()
