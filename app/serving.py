"""`tether serve`: the page and the HTTP interfaces from one process.

Starts, runs and stops a server; what it answers stands in `app.http.server`. Where others can reach
it, at another address than this machine's own or under a name, it starts only with users, who log
in (`app.users`). When it is told to stop, it takes no more questions, lets the running answers
finish, and cancels what takes too long. Its log is one JSON object a line on standard error,
without any text of questions, answers or documents.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.flags import Flags, collection_option, pass_flags, shown
from ingest.errors import UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from app.http.guard import Hosts
    from app.service import Service
    from app.users import Users

logger = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds that running answers may take when the server stops
FLUSH = 0.5  # seconds that their last words may be on the way
MOST_CONNECTIONS = 1000
_EVERYWHERE = frozenset({"", "0.0.0.0", "::"})  # addresses that stand for all of a machine's own

_PAGE = (
    click.option("--host", metavar="ADDRESS", help="Address to listen on (default: 127.0.0.1)."),
    click.option(
        "--port", type=click.IntRange(1, 65535), help="Port to listen on (default: 7860)."
    ),
    click.option(
        "--example",
        "examples",
        multiple=True,
        metavar="QUESTION",
        help="Question to offer on the empty page; repeatable.",
    ),
    collection_option,
)


def page_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of all that serve the page."""
    for option in reversed(_PAGE):  # as a stack of decorators is applied: the last one first
        command = option(command)
    return command


@click.command()
@page_options
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME",
    help="Name under which others reach it, e.g. that of a reverse proxy; repeatable.",
)
@pass_flags
def serve(
    flags: Flags,
    *,
    host: str | None,
    port: int | None,
    names: tuple[str, ...],
    examples: tuple[str, ...],
    collection: str | None,
) -> None:
    """Serve the chat and the HTTP interfaces from one process.

    The chat is at /, OpenAI's interface at /v1, Tether's own at /api, their schema at
    /openapi.json. Without users (tether users) only this machine can reach them; with users,
    everybody logs in.
    """
    settings = flags.settings(chat__host=host, chat__port=port, collection=collection)
    host, port = settings.chat.host, settings.chat.port
    from app.users import Users

    is_public = bool(names) or not _is_loopback(host)
    if is_public:
        require_users(Users(settings.home), host)
    keep_private(settings.home)
    from app.http.server import build_app
    from app.http.tracing import joined, open_service
    from app.page.page import listen, mount_page

    log_as_json()
    with listen(host, port) as listening, _termination_as_exit(), open_service(settings) as service:
        app = build_app(
            service,
            hosts=hosts_of(host, names),
            login_always=is_public,
            mount=lambda inner: mount_page(inner, service, examples=examples),
        )
        if not _is_loopback(host):
            logger.warning(
                "passwords and documents cross the network unencrypted; listen on 127.0.0.1 and"
                " put a reverse proxy with TLS before it"
            )
        run(
            joined(app, service),
            service,
            listening,
            ready=lambda url: click.echo(f"serving; open {url}"),
        )


def keep_private(home: Path) -> None:
    """Let what passes through the page's framework, as uploads do, lie where only we can read it.

    Its own choice is a folder that every account of the machine can read. To be called before it
    is imported.
    """
    folder = home / "temporary"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(folder.resolve())


def require_users(users: "Users", host: str) -> None:
    """Raise unless somebody can log in.

    Raises:
        UsageError: Nobody can: there are no users, or none has a password or token.
    """
    if not any(account.has_password or account.tokens for account in users.accounts()):
        raise UsageError(
            f"cannot serve on {shown(host)}: others could read your documents, and there are no"
            " users to log in; add one with: tether users add NAME --operator, or choose --host"
            " 127.0.0.1 without --name"
        )


def require_loopback(host: str) -> None:
    """Raise unless only this machine can reach an address.

    Raises:
        UsageError: Others can.
    """
    if not _is_loopback(host):
        raise UsageError(
            f"cannot serve on {shown(host)}: the chat alone is for this machine; choose --host"
            " 127.0.0.1, or add users and start: tether serve"
        )


def hosts_of(host: str, names: Sequence[str]) -> "Hosts":
    """Return under which hosts a server is reached that listens at one, and has these names."""
    from app.http.guard import LOOPBACK, Hosts

    host = host.strip("[]").lower()
    known = LOOPBACK | {name.lower() for name in names}
    if host in _EVERYWHERE:
        return Hosts(known | {socket.gethostname().lower()}, any_address=True)
    return Hosts(known | {host})


def _is_loopback(host: str) -> bool:
    from app.http.guard import LOOPBACK

    return host.strip("[]") in LOOPBACK


def run(
    app: "ASGIApp",
    service: "Service",
    listening: socket.socket,
    *,
    ready: Callable[[str], None],
    patience: float = PATIENCE,
) -> None:
    """Serve an application until the process is told to stop; the caller closes the service.

    Args:
        app: What `app.http.server.build_app` returned.
        service: Behind it; it is drained before the connections are closed.
        listening: Where requests come in.
        ready: Called with the server's address once requests are answered.
        patience: Seconds that running answers may take at the end.
    """
    import uvicorn

    from app.http.connections import Impatient

    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    class Server(uvicorn.Server):
        async def startup(self, *arguments: object, **options: object) -> None:
            await super().startup(*arguments, **options)  # type: ignore[arg-type]
            if self.started:
                ready(url)

        def handle_exit(self, *arguments: object) -> None:
            # In a thread, for the line may be locked by the very thread that was interrupted.
            threading.Thread(target=self.drain, daemon=True).start()
            super().handle_exit(*arguments)  # type: ignore[arg-type]

        def drain(self) -> None:
            service.drain(patience)
            time.sleep(FLUSH)
            self.force_exit = True  # an open page holds a connection that never ends by itself

    config = uvicorn.Config(
        app,
        http=Impatient,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=round(2 * patience) + 1,  # should the drain itself be stuck
    )
    Server(config).run(sockets=[listening])


@contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Let SIGTERM end the block in order; uvicorn raises it anew once it has stopped."""

    def leave(number: int, frame: object) -> None:
        del number, frame
        sys.exit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def log_as_json() -> None:
    """Send the log of the whole process to standard error, one JSON object a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("httpx", "httpx2", "mcp"):  # they would log every call to a generator or a tool
        logging.getLogger(name).setLevel(logging.WARNING)


class JsonLines(logging.Formatter):
    """A record as one JSON object: time, level, logger, message, and its `fields` if it has any.

    Of an exception, its kind and where it was raised; not its message, which may quote a document.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            line["at"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(record.exc_info[2])
            ]
        return json.dumps(line, ensure_ascii=False)
