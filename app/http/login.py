"""Logging in and out with a browser: one plain form, without a script, in Chinese and English.

    GET /login, POST /login     the form, and a session for the right name and password
    POST /logout                ends the session

A login always opens a new session and ends the one that came with it, so that nobody can prepare
one for somebody else. An unknown name and a wrong password get the same answer, which takes as
long. The session's cookie is out of reach of scripts and of other sites' pages. Knows nothing of
what a session permits.
"""

import base64
import hashlib
import threading
from html import escape
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Form, Request, Response
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.types import Scope

from app.http.attempts import Attempts, address_key, wait_of
from app.users import SESSION_SECONDS, Person, Users, folded
from ingest.errors import ServiceBusy

LONGEST_FIELD = 2000  # characters; nothing that anybody types is longer
MOST_AT_ONCE = 8  # logins: each that waits holds a thread, and passwords are tried one by one

WORDS = {
    "en": {
        "title": "Log in",
        "name": "Name",
        "password": "Password",
        "wrong": "Name or password is wrong.",
        "wait": "Too many wrong attempts. Try again in {seconds} seconds.",
    },
    "zh": {
        "title": "登录",
        "name": "用户名",
        "password": "密码",
        "wrong": "用户名或密码不正确。",
        "wait": "错误次数过多，请在 {seconds} 秒后重试。",
    },
}

_STYLE = """
:root { color-scheme: light dark; }
body { max-width: 20rem; margin: 18vh auto 0; padding: 0 1rem; line-height: 1.6;
  font-family: system-ui, -apple-system, "Segoe UI", "PingFang SC", "Microsoft YaHei",
    "Noto Sans CJK SC", sans-serif; }
label { display: block; margin: 1rem 0; }
input, button { box-sizing: border-box; width: 100%; padding: .55rem .7rem; font: inherit;
  border: 1px solid #8888; border-radius: 8px; }
button { background: #0f766e; color: #fff; border: 0; cursor: pointer; }
p { color: #c2410c; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}

Field = Annotated[str, Form(max_length=LONGEST_FIELD)]


def routes(users: Users, attempts: Attempts) -> APIRouter:
    """Return the routes.

    Args:
        users: Who may log in.
        attempts: Where wrong passwords are counted, by address and by name.
    """
    router, places = APIRouter(include_in_schema=False), threading.BoundedSemaphore(MOST_AT_ONCE)

    @router.get("/login")
    def form(request: Request) -> Response:
        return login_page(request.scope) if users.any() else RedirectResponse("/", 303)

    @router.post("/login")
    def log_in(
        request: Request, name: Field = "", password: Field = "", then: Field = "/"
    ) -> Response:
        address, user = address_key(client_of(request.scope)), f"user {folded(name)[:100]}"
        seconds = attempts.begin(address, user)
        if seconds:
            return _with_wait(request.scope, seconds, then)
        person = _tried(users, name, password, places)
        if person is None:
            return login_page(request.scope, "wrong", status=401, then=then)
        attempts.undo(address)
        attempts.forget(user)
        users.close_session(session_of(request.scope))
        reply = RedirectResponse(_own_path(then), 303)
        _set_cookie(reply, request.scope, users.open_session(person), round(SESSION_SECONDS))
        return reply

    @router.post("/logout")
    def log_out(request: Request) -> Response:
        users.close_session(session_of(request.scope))
        reply = RedirectResponse("/login", 303)
        _set_cookie(reply, request.scope, "", 0)
        return reply

    return router


def _tried(
    users: Users, name: str, password: str, places: threading.BoundedSemaphore
) -> Person | None:
    if not places.acquire(blocking=False):
        raise ServiceBusy("too many people log in at this moment; try again")
    try:
        return users.person_of_password(name, password)
    finally:
        places.release()


def login_page(
    scope: Scope, problem: str = "", *, status: int = 200, then: str | None = None, seconds: int = 0
) -> Response:
    """Return the form in the browser's language.

    Args:
        scope: Of the request that it answers.
        problem: Which of `WORDS` to say above the form, "" for nothing.
        status: Of the answer.
        then: Where the browser goes afterwards, None for where it wanted to.
        seconds: To be named in the problem.
    """
    chinese = Headers(scope=scope).get("accept-language", "").lower().startswith("zh")
    language = "zh" if chinese else "en"
    words = WORDS[language]
    told = f'<p role="alert">{words[problem].format(seconds=seconds)}</p>' if problem else ""
    target = escape(_wanted(scope) if then is None else _own_path(then))
    page = (
        f'<!doctype html><html lang="{language}"><meta charset="utf-8"><title>Tether</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f'<h1>Tether</h1>{told}<form method="post" action="/login">'
        f'<input type="hidden" name="then" value="{target}">'
        f'<label>{words["name"]}<input name="name" required autofocus autocomplete="username"'
        ' autocapitalize="none"></label>'
        f'<label>{words["password"]}<input name="password" type="password" required'
        ' autocomplete="current-password"></label>'
        f"<button>{words['title']}</button></form></html>"
    )
    return HTMLResponse(page, status, _HEADERS)


def session_of(scope: Scope) -> str:
    """Return the secret of the session that a request names, "" if none."""
    return HTTPConnection(scope).cookies.get(_cookie_name(scope), "")


def client_of(scope: Scope) -> str:
    """Return the address of a client, "" if it is not known."""
    return str(scope["client"][0]) if scope.get("client") else ""


def _with_wait(scope: Scope, seconds: float, then: str) -> Response:
    whole = wait_of(seconds)
    reply = login_page(scope, "wait", status=429, then=then, seconds=whole)
    reply.headers["Retry-After"] = str(whole)
    return reply


def _wanted(scope: Scope) -> str:
    """Return where a request that was answered with the form wanted to go."""
    query = scope["query_string"].decode("latin-1")
    if scope["path"] == "/login":
        return _own_path(parse_qs(query).get("then", ["/"])[0])
    path = scope.get("raw_path", b"/").decode("latin-1").partition("?")[0]
    return _own_path(f"{path}?{query}" if query else path)


def _own_path(path: str) -> str:
    """Return a path of this server, "/" for whatever would lead a browser elsewhere."""
    leads_away = path[:1] != "/" or path[1:2] in ("/", "\\") or not path.isprintable()
    return "/" if leads_away or path == "/logout" else path


def _set_cookie(reply: Response, scope: Scope, secret: str, seconds: int) -> None:
    is_secure = scope["scheme"] == "https"
    reply.set_cookie(
        _cookie_name(scope), secret, max_age=seconds, path="/", secure=is_secure, httponly=True,
        samesite="strict",
    )  # fmt: skip


def _cookie_name(scope: Scope) -> str:
    """Return the session's cookie; over TLS one that no neighbouring host could have set."""
    return "__Host-tether-session" if scope["scheme"] == "https" else "tether-session"
