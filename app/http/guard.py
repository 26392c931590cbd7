"""What every request must pass before any route sees it, and what it leaves in the log.

- **Host**: a page of a stranger can make a browser resolve the stranger's own name to this machine
  (DNS rebinding); such a request names the stranger's host and is refused.
- **Origin**: a request that a browser sends for another site's page is refused, whatever its
  method: no site may ask, ingest or delete here on its visitor's behalf (CSRF).
- **Who asks**: found out here (`app.http.identity`), for every path that there is.
- **Size and time of the body**: counted while it arrives, so neither a lie about its length nor a
  trickle of single bytes holds more memory or a connection for longer than allowed.
- **What the page does not use**: its framework would also fetch any web address for whoever asks,
  hand out files and the state of a session; of its interface, only what the page calls is served.

One line a request goes to the log: method, route, status, seconds, and no text of anybody's. Knows
nothing of what routes do.
"""

import asyncio
import ipaddress
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.metrics import Metrics

logger = logging.getLogger(__name__)

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
JSON_BYTES = 4 << 20  # largest body that is no upload: it is read into memory as a whole
UPLOADS = frozenset({"/api/ingest", "/gradio_api/upload"})  # paths whose bodies go to the disk
FRAMEWORK = "/gradio_api/"  # where the interface of the page's framework begins ...
# ... and what of it the page calls, whole paths and beginnings of paths.
CALLED = frozenset({
    "app_id", "cancel", "info", "queue/data", "queue/join", "reset", "startup-events", "theme.css",
    "upload", "upload_progress",
})  # fmt: skip
CALLED_BELOW = ("heartbeat/", "run/")
FORM_BYTES = 16 << 10  # largest body from somebody who has yet to log in
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with "no-referrer" forms would hide their origin from us
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Of the page, and of all that has no stricter one. Its framework writes scripts and styles into the
# page and makes functions of texts; but wherever they come from, they reach this server alone.
PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "media-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may bring."""

    upload_bytes: int  # body of an upload, from the page or to /api/ingest
    seconds: float  # until its body has arrived


@dataclass(frozen=True, slots=True)
class Hosts:
    """Under which hosts a server is reached."""

    names: frozenset[str] = LOOPBACK  # lower case, without ports
    any_address: bool = False  # also by its IP addresses: none can be rebound to another machine

    def include(self, name: str) -> bool:
        """Tell whether a request for this host is meant for the server."""
        return name in self.names or (self.any_address and _is_address(name))


class Guard:
    """ASGI middleware around a whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Hosts,
        admit: Callable[[Scope], Response | None],
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        """Guard an application.

        Args:
            app: What to guard.
            hosts: Under which it is reached.
            admit: Writes who asks into a request, or returns the answer that refuses it.
            limits: What a request may bring.
            metrics: Where requests are counted.
        """
        self._app = app
        self._hosts = hosts
        self._admit = admit
        self._limits = limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._guarded(scope, receive, send)
        else:  # no route of ours is a WebSocket
            await send({"type": "websocket.close", "code": 1008})

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status = 499  # the client hung up before any answer

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(SAFE_HEADERS)
                headers.setdefault("Content-Security-Policy", PAGE_POLICY)
                headers.setdefault("Cache-Control", "private, no-cache")  # it is for one person
            await send(message)

        try:
            refusal = self._refusal(scope) or self._admit(scope) or _unused(scope)
            if refusal is None:
                bounded = _Body(receive, _most_bytes(scope, self._limits), self._limits.seconds)
                await self._app(scope, bounded, answer)
            else:
                await refusal(scope, receive, answer)
        except BaseException:
            status = 500 if status == 499 else status
            raise
        finally:
            self._note(scope, status, time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that must not pass, None if it may."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._hosts.include(_name_of(f"//{host}")):
            known = ", ".join(sorted(self._hosts.names))
            return error_response(
                403, f"this server is not {host[:100] or 'nameless'}; address it as one of: {known}"
            )
        is_foreign = origin is not None and origin not in (f"http://{host}", f"https://{host}")
        if is_foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            if origin is None and _is_navigation(scope, headers):
                return None  # a link on another site leads here: harmless
            return error_response(
                403, "requests from pages of another site are refused; ask from this server's page"
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _most_bytes(scope, self._limits):
            return _too_large(_most_bytes(scope, self._limits))
        return None

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        path = str(getattr(scope.get("route"), "path", "")) or "page"
        self._metrics.count("tether_requests_total", route=path, status=str(status))
        fields = {
            "method": scope["method"], "route": path, "status": status,
            "seconds": round(seconds, 4),
        }  # fmt: skip
        logger.info("request", extra={"fields": fields})


class _Body:
    """`receive` that counts the bytes of a body and the seconds that it takes to arrive."""

    def __init__(self, receive: Receive, most_bytes: int, seconds: float) -> None:
        self._receive = receive
        self._most_bytes = most_bytes
        self._until = time.monotonic() + seconds
        self._bytes = 0
        self._has_arrived = False

    async def __call__(self) -> Message:
        if self._has_arrived:  # all that can come now is the end of the connection
            return await self._receive()
        try:
            left = max(0.0, self._until - time.monotonic())
            message = await asyncio.wait_for(self._receive(), left)
        except TimeoutError as error:
            raise HTTPException(
                408, "the body took too long to arrive; send less, or over a faster connection"
            ) from error
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._most_bytes:
            raise HTTPException(413, _too_large_text(self._most_bytes))
        self._has_arrived = not message.get("more_body", False)
        return message


def error_response(status: int, message: str, kind: str = "", code: str | None = None) -> Response:
    """Return the one form of every error: OpenAI's, with the remedy in the message."""
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    error = {"message": message, "type": kind, "param": None, "code": code}
    content = json.dumps({"error": error})
    headers = {"Retry-After": "2"} if status == 503 else None
    return Response(content, status, headers, media_type="application/json")


def _unused(scope: Scope) -> Response | None:
    """Return the answer to a request for what the page's framework has and the page never uses."""
    begin, _, called = scope["path"].partition(FRAMEWORK)
    if begin or not called or called in CALLED or called.startswith(CALLED_BELOW):
        return None
    return error_response(404, "that is not served; see /openapi.json for what is")


def _most_bytes(scope: Scope, limits: Limits) -> int:
    path = scope["path"].rstrip("/")
    if path in UPLOADS:
        return limits.upload_bytes
    is_form = path in ("/login", "/logout")
    return min(FORM_BYTES if is_form else JSON_BYTES, limits.upload_bytes)


def _too_large(most_bytes: int) -> Response:
    return error_response(413, _too_large_text(most_bytes))


def _too_large_text(most_bytes: int) -> str:
    return f"the body is larger than {most_bytes:,} bytes; send less at once"


def _name_of(url: str) -> str:
    """Return the host of a URL in lower case, "" if there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_navigation(scope: Scope, headers: Headers) -> bool:
    """Tell whether a browser opens a page for its user: that reads nothing for another site."""
    return scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
