"""Connections that say nothing: closed, so that they take nobody's place.

    uvicorn.Config(app, http=Impatient)

A server takes a bounded number of connections, and its framework waits for the head of a request
without end: whoever opened that many and sent nothing, or single bytes, would shut everybody else
out, without a password. Of a body the time is bounded by `app.http.guard`. Knows nothing of what a
request asks.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 30.0  # from a connection's begin, or its last answer, to the end of the next head


class Impatient(H11Protocol):
    """HTTP/1.1 over one connection, which is closed if no request comes for `seconds`."""

    seconds = HEAD_SECONDS
    _leaving: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        super().connection_lost(exc)
        self._cancel()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._expect_request()

    def _expect_request(self) -> None:
        self._cancel()
        self._leaving = self.loop.call_later(self.seconds, self._leave)

    def _cancel(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()

    def _leave(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if not is_answering and not self.transport.is_closing():
            self.transport.close()
