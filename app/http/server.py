"""The HTTP server as one application: both interfaces, the page, and the guard around them.

    app = build_app(service)
    uvicorn.run(app, host="127.0.0.1", port=7860)

Routes stand in `app.http.api` (Tether's own) and `app.http.openai_api`; the schema of both is at
/openapi.json. MCP (`app.mcp_server`) is at /mcp while the application's lifespan runs. A page is
mounted behind them, so that their paths win. Nothing is loaded from the internet, hence no Swagger
page. Knows nothing of how an answer comes about.
"""

from collections.abc import Callable

from fastapi import FastAPI
from starlette.types import ASGIApp

from app.http import api, login, openai_api
from app.http.answering import Asking
from app.http.attempts import Attempts
from app.http.failures import install
from app.http.guard import Guard, Hosts, Limits
from app.http.identity import Identity
from app.http.metrics import Metrics
from app.http.page_sessions import PageSessions
from app.mcp_server import McpDoor, build_mcp_server
from app.service import Service

Mount = Callable[[FastAPI], object]


def build_app(
    service: Service,
    *,
    hosts: Hosts | None = None,
    login_always: bool = False,
    mount: Mount | None = None,
) -> ASGIApp:
    """Return the application.

    Args:
        service: Answers, finds and keeps; the caller closes it.
        hosts: Under which the server is reached, None for those of this machine alone; requests
            for others are refused.
        login_always: Let nobody in without logging in, though there be no users.
        mount: Adds a page to the application, if there shall be one.
    """
    metrics = Metrics()
    asking = Asking(service, metrics)
    mcp = McpDoor(build_mcp_server(asking))
    inner = FastAPI(
        title="Tether",
        summary="Answers from your documents, with citations, in Chinese and English",
        docs_url=None,
        redoc_url=None,
        lifespan=mcp.running,
    )
    inner.include_router(api.routes(asking))
    inner.include_router(openai_api.routes(asking))
    attempts = Attempts()
    inner.include_router(login.routes(service.users, attempts))
    identity = Identity(service, attempts, always=login_always)
    inner.router.routes.append(mcp.route)
    install(inner)
    if mount is not None:
        inner.add_middleware(PageSessions)
        mount(inner)
    chosen = service.settings.serve
    limits = Limits(chosen.upload_bytes, chosen.upload_seconds)
    return Guard(
        inner, hosts=hosts or Hosts(), admit=identity.admit, limits=limits, metrics=metrics
    )
