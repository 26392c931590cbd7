"""Who sends a request: found out before any route sees it, so that no route can forget to ask.

    refusal = identity.admit(scope)      # None: the request may pass, and says who asks
    person_of(request)                   # in a route: that person

While there are no users, whoever reaches this machine's own address is `LOCAL`. Once there are, or
where others can reach the server, a request brings a token (`Authorization: Bearer`, for programs)
or the cookie of a session (for the page), or is answered with 401. Browsers get the form to log in
with that answer. A cookie is sent by the browser, whoever made it send the request: what changes
something must then also say that it comes from this server's own page. Knows nothing of routes.
"""

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

from app.http.attempts import Attempts, address_key, wait_of
from app.http.failures import as_error, status_of
from app.http.guard import error_response
from app.http.login import client_of, login_page, session_of
from app.service import Service
from app.users import LOCAL, NotAllowed, Person, prefix_of
from ingest.errors import TetherError

OPEN = frozenset({"/health", "/login"})  # paths that nobody has to log in for
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Identity:
    """Tells who asks the server of one service."""

    def __init__(self, service: Service, attempts: Attempts, *, always: bool) -> None:
        """Remember whom to ask.

        Args:
            service: Its users are the ones that may come in.
            attempts: Where wrong tokens are counted.
            always: Let nobody in without users, either: others can reach the server.
        """
        self._service = service
        self._users = service.users
        self._attempts = attempts
        self._is_needed = False
        if always:
            self._need()

    def is_needed(self) -> bool:
        """Tell whether people must log in; once they must, that stays until the process ends."""
        if not self._is_needed and self._users.any():
            self._need()
        return self._is_needed

    def admit(self, scope: Scope) -> Response | None:
        """Write who asks into a request, or return the answer to one that must not pass."""
        try:
            who = self._who(scope)
        except TetherError as error:
            told = as_error(error)
            return error_response(status_of(error), told["message"], told["type"])
        if isinstance(who, Person):
            scope.setdefault("state", {})["person"] = who
            return None
        return who

    def _who(self, scope: Scope) -> Person | Response | None:
        """Return who asks, None if nobody needs to be known; or what refuses the request."""
        if not self.is_needed():
            return LOCAL
        if scope["path"] in OPEN:
            return None
        headers = Headers(scope=scope)
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._who_by_token(scope, token.strip())
        return self._who_by_session(scope, headers)

    def _need(self) -> None:
        self._is_needed = True
        self._service.require_people()

    def _who_by_token(self, scope: Scope, token: str) -> Person | Response:
        # Who holds a token is not kept waiting for the guesses of others at the same address.
        is_known = self._users.knows_prefix(prefix_of(token))
        key = address_key(client_of(scope)) + (f" {prefix_of(token)}" if is_known else "")
        wait = self._attempts.begin(key)
        if wait:
            return _wait(wait_of(wait))
        person = self._users.person_of_token(token)
        if person is None:
            return _refusal("the token is wrong, revoked or expired; ask an operator for a new one")
        self._attempts.forget(key)
        return person

    def _who_by_session(self, scope: Scope, headers: Headers) -> Person | Response:
        secret = session_of(scope)
        person = self._users.person_of_session(secret) if secret else None
        if person is None:
            if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
                return login_page(scope, status=401)
            return _refusal("log in first, or send a token as: Authorization: Bearer TOKEN")
        says_from_where = "origin" in headers or headers.get("sec-fetch-site") == "same-origin"
        if scope["method"] not in _READING and not says_from_where:
            # The guard has refused all other origins.
            return error_response(
                403, "a request with a session must name its origin; send a token instead"
            )
        return person


def person_of(request: HTTPConnection) -> Person:
    """Return who sends a request.

    Raises:
        NotAllowed: The guard did not say.
    """
    person = getattr(request.state, "person", None)
    if not isinstance(person, Person):
        raise NotAllowed("log in first")
    return person


def _wait(seconds: int) -> Response:
    refusal = error_response(429, f"too many wrong tokens; try again in {seconds} seconds")
    refusal.headers["Retry-After"] = str(seconds)
    return refusal


def _refusal(message: str) -> Response:
    refusal = error_response(401, message)
    refusal.headers["WWW-Authenticate"] = "Bearer"
    return refusal
