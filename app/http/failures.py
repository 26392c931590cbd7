"""Errors over HTTP: one JSON form (OpenAI's), the right status, and a message with the remedy.

    install(app)  # handlers for all that a route can raise

`{"error": {"message": "...; what to do", "type": "question_error", "param": null, "code": null}}`.
No answer holds a traceback: what went wrong inside is for the log.
"""

import logging
import re
import tempfile
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app.http.guard import error_response
from app.users import NotAllowed
from ingest.errors import (
    GeneratorError,
    ServiceBusy,
    StoreBusy,
    StoreError,
    TetherError,
    UnknownCollection,
    UsageError,
)

logger = logging.getLogger(__name__)


class Forbidden(UsageError):
    """The settings forbid what a request asks for."""


class NotFound(UsageError):
    """What a request names is not there."""


# The first class that fits decides.
_STATUS: dict[type[TetherError], int] = {
    Forbidden: 403,
    NotAllowed: 403,
    NotFound: 404,
    UnknownCollection: 404,
    UsageError: 400,
    StoreBusy: 409,
    ServiceBusy: 503,
    GeneratorError: 502,
    TetherError: 500,
}


def install(app: FastAPI) -> None:
    """Let an application answer every error in the one form."""
    app.add_exception_handler(TetherError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unknown)


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error."""
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)


def as_error(error: Exception) -> dict[str, Any]:
    """Return the inner object of the one form; of an unexpected error no more than its kind."""
    if isinstance(error, TetherError):
        message, kind = " ".join(str(error).split()), _snake(type(error).__name__)
    else:
        message = f"something unexpected went wrong ({type(error).__name__}); see the server's log"
        kind = "server_error"
    return {"message": message, "type": kind, "param": None, "code": code_of(error)}


def noted(error: Exception) -> Exception:
    """Log an error that nobody else will log, for its answer is on the way, and return it."""
    if not isinstance(error, TetherError):
        logger.error("a stream failed", exc_info=error)
    return error


def code_of(error: Exception) -> str | None:
    """Return the code that OpenAI gives such an error, None if it gives none."""
    return "model_not_found" if isinstance(error, UnknownCollection) else None


async def _known(request: Request, error: Exception) -> Response:
    del request
    told = as_error(error)
    return error_response(status_of(error), told["message"], told["type"], told["code"])


async def _unknown(request: Request, error: Exception) -> Response:
    return await _known(request, error)


async def _http(request: Request, error: Exception) -> Response:
    """Answer what the framework itself refuses: an unknown path, a wrong method, a bad body."""
    refusal = cast("HTTPException", error)
    cause = refusal.__cause__
    # A large body is put on disk while it arrives. (A body that takes too long is an OSError, too.)
    if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
        return await _known(request, _no_room(cause))
    message = str(refusal.detail)
    if refusal.status_code in (404, 405):
        message = f"{request.method} {request.url.path} is not served; see /openapi.json"
    response = error_response(refusal.status_code, message)
    response.headers.update(refusal.headers or {})
    return response


def _no_room(error: OSError) -> StoreError:
    return StoreError(
        f"the body cannot be kept while it arrives ({error.strerror or error}); free some space in"
        f" {tempfile.gettempdir()} and send it again"
    )


async def _invalid(request: Request, error: Exception) -> Response:
    """Answer a body or parameter that does not fit the schema; what was sent is not repeated."""
    first = cast("RequestValidationError", error).errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    path = request.url.path
    return error_response(422, f"{place}: {first['msg']}; see {path} in /openapi.json")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
