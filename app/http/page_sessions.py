"""Whose an open page is: nobody reads or steers a page of somebody else, whoever knows its name.

The page's framework keeps what a page shows, and what is on the way to it, under a short random
name that the page chooses and sends, in an address or in a body, and would serve whoever sends the
same. Here the person's id is put before that name, out of the sender's reach, so that two people
never mean the same page. Knows nothing of what pages show.
"""

import json
from urllib.parse import parse_qsl, urlencode

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.guard import FRAMEWORK, UPLOADS

FIELD = "session_hash"  # as the framework calls a page's name in queries and bodies
_NAMED_BY_PATH = f"{FRAMEWORK}heartbeat/"


class PageSessions:
    """ASGI middleware behind the guard, which has found out who asks."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with the page's name made its person's own."""
        if scope["type"] == "http" and scope["path"].startswith(FRAMEWORK):
            person = scope["state"]["person"]
            if person.id:  # before a machine's own page, there is nobody else
                scope, receive = _owned(scope, receive, f"{person.id}.")
        await self._app(scope, receive, send)


def _owned(scope: Scope, receive: Receive, owner: str) -> tuple[Scope, Receive]:
    scope = {**scope, "query_string": _owned_query(scope["query_string"], owner)}
    if scope["path"].startswith(_NAMED_BY_PATH):
        scope["path"] = _NAMED_BY_PATH + owner + scope["path"].removeprefix(_NAMED_BY_PATH)
        scope["raw_path"] = scope["path"].encode("utf-8")
    if scope["method"] != "POST" or scope["path"].rstrip("/") in UPLOADS:
        return scope, receive
    # The body's length is another one; it is told by its end.
    scope["headers"] = [one for one in scope["headers"] if one[0].lower() != b"content-length"]
    return scope, _OwnedBody(receive, owner)


def _owned_query(query: bytes, owner: str) -> bytes:
    fields = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    owned = [(name, owner + value if name == FIELD else value) for name, value in fields]
    return urlencode(owned).encode("ascii") if owned != fields else query


class _OwnedBody:
    """`receive` that reads a whole body and passes it on with the page's name made its owner's."""

    def __init__(self, receive: Receive, owner: str) -> None:
        self._receive = receive
        self._owner = owner
        self._is_read = False

    async def __call__(self) -> Message:
        if self._is_read:
            return await self._receive()
        body, has_more = bytearray(), True  # the guard bounds it
        while has_more:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            body += message.get("body", b"")
            has_more = message.get("more_body", False)
        self._is_read = True
        return {"type": "http.request", "body": self._owned(bytes(body)), "more_body": False}

    def _owned(self, body: bytes) -> bytes:
        if not body:
            return body
        try:
            read = json.loads(body)
        except (ValueError, RecursionError) as error:  # no JSON, or nested too deep
            raise HTTPException(
                400, "the body is no JSON that can be read; send what the page sends"
            ) from error
        if not isinstance(read, dict) or not isinstance(read.get(FIELD), str):
            return body
        return json.dumps(read | {FIELD: self._owner + read[FIELD]}).encode("ascii")
