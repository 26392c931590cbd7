"""Attacks on what belongs to somebody else: every route, sessions, guesses, other sites' pages.

Ada and Eve are members, Root is an operator. What Eve is told of Ada's documents must be, letter
for letter, what she is told of documents that never were.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from httpx2 import Response  # what the test client returns
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from app.cli import main
from app.history import History, Turn
from app.http.attempts import FREE
from app.http.guard import Guard, Hosts
from app.http.page_sessions import PageSessions
from app.http.server import build_app
from app.page import routes as page_routes
from app.page.page import mount_page
from app.service import Service
from app.serving import hosts_of
from app.users import LOCAL, Cost, NotAllowed, Person, Users
from ingest.errors import UnknownCollection
from model.feedback import FeedbackStore
from tests.pages import PATIENCE, Opener
from tests.serving_parts import BRIDGE, QUESTION, TEA, make_service
from tests.test_service import upload
from tests.test_serving import log_of, process

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HERE, DOMAIN = "http://127.0.0.1:7860", "127.0.0.1"
CHEAP = Cost(n=2**4, r=1, p=1)  # of the passwords in these tests alone
PASSWORDS = {
    "ada": "the bridge is long",
    "eve": "tea leaves in april",
    "root": "roots go deep down",
}
ADAS, UNKNOWN = "adas papers", "nobodys docs"  # equally long: a page may cut names
OPEN = {("GET", "/health"), ("GET", "/login"), ("HEAD", "/login"), ("POST", "/login")}


@dataclass(frozen=True)
class House:
    """A served service with its people, their tokens, and what Ada has."""

    service: Service
    app: Guard
    people: Mapping[str, Person]
    tokens: Mapping[str, str]
    document: str  # id of Ada's
    conversation: str  # id of Ada's

    def client(self, name: str = "", address: str = "192.0.2.1") -> TestClient:
        """Return a client that sends somebody's token."""
        headers = {"authorization": f"Bearer {self.tokens[name]}"} if name else {}
        return TestClient(self.app, base_url=HERE, headers=headers, client=(address, 1))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house with a page, for tests that change nothing in it."""
    home = tmp_path_factory.mktemp("house")
    with make_service(home, serve__sources="true") as service:
        yield furnished(service, page=True)


@pytest.fixture
def house(home: Path) -> Iterator[House]:
    with make_service(home) as service:
        yield furnished(service)


def furnished(service: Service, *, page: bool = False) -> House:
    """Return a service with people, and Ada's and the operators' documents."""
    users = service.users
    users._cost = CHEAP
    people = {
        name: users.add(name, role="operator" if name == "root" else "member") for name in PASSWORDS
    }
    for name, password in PASSWORDS.items():
        users.set_password(name, password)
    tokens = {name: users.issue_token(name) for name in people}
    upload(service, "tea.md", TEA)  # before anybody logs in: the operators'
    app = build_app(
        service,
        mount=lambda app: (
            mount_page(app, service)
            if page
            else app.include_router(page_routes.routes(service))  # without the slow framework
        ),
    )
    assert isinstance(app, Guard)
    house = House(service, app, people, tokens, "", "")
    with house.client("ada") as ada:
        files = {"files": ("bridge.md", BRIDGE)}
        assert ada.post("/api/ingest", files=files, data={"collection": ADAS}).status_code == 200
        (document,) = ada.get(f"/api/collections/{ADAS}/documents").json()["documents"]
    history = History(service.settings.home, owner=people["ada"].id)
    conversation = history.begin(ADAS, "Who built it?").id
    history.save(conversation, 1, Turn("Who built it?"))
    return House(service, app, people, tokens, document["id"], conversation)


def test_feedback_tells_who_gave_it(house: House) -> None:
    with house.client("ada") as ada:
        answer = ada.post("/api/ask", json={"question": QUESTION, "collection": ADAS}).json()
        assert ada.post("/api/feedback", json=answer | {"thumb": "up"}).status_code == 201

    with FeedbackStore(house.service.settings.home) as store:
        assert [entry.person for entry in store.entries()] == ["ada"]


# --- Every route ---------------------------------------------------------------------------------


def routes_of(routes: "list[BaseRoute]") -> Iterator[tuple[str, str]]:
    """Yield (method, path) of all routes, those of mounted applications, too."""
    for context in iter_route_contexts(routes):
        inner = getattr(context.original_route, "routes", None)
        if inner:
            yield from routes_of(inner)
        elif context.path is not None:
            for method in context.methods or ("GET", "POST", "DELETE"):
                yield method, context.path


def all_routes(house: House) -> set[tuple[str, str]]:
    return set(routes_of(house.app._app.routes))  # type: ignore[attr-defined]


def own_routes(house: House) -> set[tuple[str, str]]:
    """Return the routes of ours, without those of the page's framework."""
    mine = [route for route in house.app._app.routes if not getattr(route, "routes", None)]  # type: ignore[attr-defined]
    return set(routes_of(mine))


def filled(path: str, **names: str) -> str:
    """Return a path with values for its parameters."""
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda found: quote(names.get(found[1], "1")), path)


def test_no_route_answers_without_credentials_or_with_wrong_ones(shared: House) -> None:
    known = all_routes(shared)
    assert len(known) > 50 and OPEN - {("HEAD", "/login")} <= known
    wrong: list[dict[str, str]] = [
        {},
        {"authorization": "Bearer tether_00000000_wrong"},
        {"authorization": "Basic cm9vdDpyb290"},
        {"authorization": f"Bearer {shared.tokens['root'][:-1]}"},
        {"cookie": "tether-session=wrong"},
    ]
    for number, (method, path) in enumerate(sorted(known - OPEN)):
        for headers in wrong:
            client = shared.client(address=f"198.51.100.{number}")  # nobody has guessed there yet
            response = client.request(method, filled(path), headers=headers, follow_redirects=False)
            assert response.status_code == 401, (method, path, headers, response.text)
            assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/nothing", "/health/", "//health", "/login/", "/HEALTH", "/health;login"):
        assert shared.client().get(path).status_code == 401


# Requests that name a collection, a document or a conversation, by route.
Call = Callable[[TestClient, str, str, str], Response]
CALLS: dict[tuple[str, str], Call] = {
    ("POST", "/api/ask"): lambda client, name, *_: client.post(
        "/api/ask", json={"question": QUESTION, "collection": name}
    ),
    ("POST", "/api/search"): lambda client, name, *_: client.post(
        "/api/search", json={"question": QUESTION, "collection": name}
    ),
    ("POST", "/v1/chat/completions"): lambda client, name, *_: client.post(
        "/v1/chat/completions",
        json={"model": f"tether/{name}", "messages": [{"role": "user", "content": QUESTION}]},
    ),
    ("GET", "/v1/models/{name:path}"): lambda client, name, *_: client.get(
        f"/v1/models/tether/{name}"
    ),
    ("GET", "/api/collections/{name}/documents"): lambda client, name, *_: client.get(
        f"/api/collections/{name}/documents"
    ),
    ("GET", "/api/collections/{name}/documents/{document}"): lambda client, name, document, _: (
        client.get(f"/api/collections/{name}/documents/{document}")
    ),
    ("DELETE", "/api/collections/{name}/documents"): lambda client, name, *_: client.delete(
        f"/api/collections/{name}/documents", params={"uri": "bridge.md"}
    ),
    ("DELETE", "/api/collections/{name}"): lambda client, name, *_: client.delete(
        f"/api/collections/{name}"
    ),
    ("GET", "/api/collections/{name}/readers"): lambda client, name, *_: client.get(
        f"/api/collections/{name}/readers"
    ),
    ("PUT", "/api/collections/{name}/readers/{user}"): lambda client, name, *_: client.put(
        f"/api/collections/{name}/readers/eve"
    ),
    ("DELETE", "/api/collections/{name}/readers/{user}"): lambda client, name, *_: client.delete(
        f"/api/collections/{name}/readers/ada"
    ),
    ("GET", "/source/{collection}/{document_id}"): lambda client, name, document, _: client.get(
        f"/source/{name}/{document}"
    ),
    ("GET", "/source/{collection}/{document_id}/page/{page}.png"): (
        lambda client, name, document, _: client.get(f"/source/{name}/{document}/page/1.png")
    ),
    ("GET", "/conversation/{conversation_id}.{kind}"): (
        lambda client, name, document, conversation: client.get(f"/conversation/{conversation}.md")
    ),
}
# Those that name none; each has a test of its own, or tells nothing of documents.
NAMELESS = {
    ("POST", "/api/ingest"), ("GET", "/api/collections"), ("POST", "/api/feedback"),
    ("GET", "/health"), ("GET", "/metrics"), ("GET", "/v1/models"), ("POST", "/v1/embeddings"),
    ("GET", "/openapi.json"), ("HEAD", "/openapi.json"),
    ("GET", "/login"), ("POST", "/login"), ("POST", "/logout"),
    ("GET", "/laboratory/report"), ("GET", "/mcp"), ("POST", "/mcp"), ("DELETE", "/mcp"),
}  # fmt: skip


def test_every_route_is_tried(shared: House) -> None:
    assert own_routes(shared) == set(CALLS) | NAMELESS


@pytest.mark.parametrize("route", CALLS, ids=" ".join)
@pytest.mark.parametrize("who", ["eve", "ada"])
def test_what_is_somebody_elses_is_answered_as_what_never_was(
    shared: House, who: str, route: tuple[str, str]
) -> None:
    """Eve tries Ada's; Ada tries the operators', which she does not even own by being first."""
    theirs = ADAS if who == "eve" else "default"
    client, call = shared.client(who), CALLS[route]
    other = History(shared.service.settings.home, owner=shared.people["root"].id)
    conversation = shared.conversation if who == "eve" else other.begin("default", "Secret?").id
    refused = call(client, theirs, shared.document, conversation)
    unknown = call(client, UNKNOWN, "0" * len(shared.document), "0" * len(conversation))
    assert refused.status_code == unknown.status_code == 404
    assert refused.text.replace(theirs, "*") == unknown.text.replace(UNKNOWN, "*")
    assert set(refused.headers) == set(unknown.headers)
    for secret in ("Ola Fenn", "Orra", "bridge.md", "tea.md"):
        assert secret not in refused.text


def test_its_owner_and_operators_see_it(shared: House) -> None:
    reading = [route for route in CALLS if route[0] in ("GET", "POST") and "png" not in route[1]]
    for route in reading:
        assert (
            CALLS[route](
                shared.client("ada"), ADAS, shared.document, shared.conversation
            ).status_code
            == 200
        ), route
    for route in reading:
        status = CALLS[route](
            shared.client("root"), ADAS, shared.document, shared.conversation
        ).status_code
        assert status == (404 if "conversation" in route[1] else 200), route  # not even operators


def listed(client: TestClient) -> list[dict[str, str]]:
    found: list[dict[str, str]] = client.get("/api/collections").json()["collections"]
    return found


def test_listings_name_only_what_is_ones_own(shared: House) -> None:
    names = {who: {one["name"] for one in listed(shared.client(who))} for who in PASSWORDS}
    assert names == {"ada": {ADAS}, "eve": set(), "root": {ADAS, "default"}}
    for who, expected in names.items():
        models = {one["id"] for one in shared.client(who).get("/v1/models").json()["data"]}
        assert models == {"tether", "hashing"} | {f"tether/{name}" for name in expected}
        page = shared.client(who).get("/config").text + shared.client(who).get("/").text
        assert "papers" not in page


def test_what_concerns_the_process_is_for_operators(shared: House) -> None:
    assert shared.client("root").get("/metrics").status_code == 200
    refused = shared.client("eve").get("/metrics")
    assert refused.status_code == 403 and "operators" in refused.json()["error"]["message"]
    assert shared.client("eve").get("/laboratory/report?run=any").status_code in (403, 404)
    own = shared.service.users.path
    response = shared.client("eve").post("/api/ingest", data={"sources": [str(own)]})
    assert response.status_code == 403


def test_a_door_that_does_not_say_who_asks_is_shut(shared: House) -> None:
    service = shared.service
    assert service.collections() == []
    uses: list[Callable[[], object]] = [
        lambda: service.documents("default"),
        lambda: service.search(QUESTION),
        lambda: next(service.ask(QUESTION)),
        lambda: service.ingest([], collection="new"),
        lambda: service.delete("default"),
        lambda: service.require_operator(LOCAL),
    ]
    for use in uses:
        with pytest.raises((UnknownCollection, NotAllowed)):
            use()


# --- Collections ---------------------------------------------------------------------------------


def sent(client: TestClient, data: bytes, collection: str | None = None) -> Response:
    form = {"collection": collection} if collection else {}
    return client.post("/api/ingest", files={"files": ("bridge.md", data)}, data=form)


def test_nobody_fills_or_overwrites_what_is_somebody_elses(house: House) -> None:
    kept = house.service.uploads(ADAS) / "bridge.md"
    for name in (ADAS, "default"):
        refused = sent(house.client("eve"), b"# Evil", name)
        assert refused.status_code == 404 and "choose another" in refused.text
    assert kept.read_bytes() == BRIDGE
    (info,) = house.service.collections(person=house.people["ada"])
    assert (info.name, info.documents) == (ADAS, 1)


def test_who_names_no_collection_means_their_own(house: House) -> None:
    assert sent(house.client("eve"), TEA).json()["collection"] == "eve"
    asked = house.client("eve").post("/api/search", json={"question": "Tea from Orra?"}).json()
    assert [one["title"] for one in asked["passages"]] == ["Tea"]
    house.service.users.share("default", "ada")
    assert house.client("ada").post("/api/search", json={"question": QUESTION}).status_code == 200
    assert sent(house.client("ada"), BRIDGE).status_code == 403  # shared to read
    assert sent(house.client("root"), BRIDGE).json()["collection"] == "default"


def test_a_reader_reads_until_it_is_no_longer_shared(house: House) -> None:
    ada, eve = house.client("ada"), house.client("eve")
    share = f"/api/collections/{ADAS}/readers/eve"
    assert ada.put(share).status_code == 204
    assert eve.get(f"/api/collections/{ADAS}/documents").status_code == 200
    assert "Ola Fenn" in eve.get(f"/source/{ADAS}/{house.document}").text
    assert ada.get(f"/api/collections/{ADAS}/readers").json() == {
        "owner": "ada",
        "readers": ["eve"],
    }
    for response in (
        eve.get(f"/api/collections/{ADAS}/readers"),
        eve.delete(f"/api/collections/{ADAS}"),
        eve.delete(f"/api/collections/{ADAS}/documents", params={"uri": "x"}),
        eve.put(f"/api/collections/{ADAS}/readers/eve"),
        eve.delete(f"/api/collections/{ADAS}/readers/ada"),
        sent(eve, TEA, ADAS),
    ):
        assert response.status_code == 403, response.text
    assert ada.delete(share).status_code == 204
    assert ada.delete(share).status_code == 404
    assert eve.get(f"/api/collections/{ADAS}/documents").status_code == 404


def test_a_name_that_is_free_again_brings_no_rights(house: House) -> None:
    house.client("ada").put(f"/api/collections/{ADAS}/readers/eve")
    assert house.client("root").delete(f"/api/collections/{ADAS}").status_code == 204
    assert house.service.users.who_may(ADAS) == (None, ())
    assert sent(house.client("root"), TEA, ADAS).status_code == 200
    for who in ("ada", "eve"):
        assert house.client(who).get(f"/api/collections/{ADAS}/documents").status_code == 404


def test_who_was_removed_is_out_at_once(house: House) -> None:
    house.service.users.remove("ada")
    assert house.client("ada").get("/api/collections").status_code == 401
    assert house.client("root").get(f"/api/collections/{ADAS}/documents").status_code == 200


# --- Sessions ------------------------------------------------------------------------------------


def log_in(client: TestClient, name: str, password: str | None = None, **more: str) -> Response:
    data = {"name": name, "password": PASSWORDS[name] if password is None else password} | more
    headers = {"origin": str(client.base_url).rstrip("/")}
    return client.post("/login", data=data, headers=headers, follow_redirects=False)


def test_a_browser_gets_a_form_that_runs_nothing(shared: House) -> None:
    headers = {"accept": "text/html,*/*", "accept-language": "zh-CN"}
    response = shared.client().get('/source/a/b?x="><script>', headers=headers)
    assert response.status_code == 401 and "密码" in response.text
    assert "<script" not in response.text
    assert 'value="/source/a/b?x=%22%3E%3Cscript%3E"' in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["cache-control"] == "no-store"


def test_a_login_opens_a_session_out_of_reach_of_scripts(house: House) -> None:
    client = house.client()
    response = log_in(client, "ada", then="/source/a?b=1")
    assert (response.status_code, response.headers["location"]) == (303, "/source/a?b=1")
    cookie = response.headers["set-cookie"]
    for part in ("HttpOnly", "Path=/", "SameSite=strict"):
        assert part in cookie
    assert "Secure" not in cookie and "Domain" not in cookie
    assert client.get(f"/api/collections/{ADAS}/documents").status_code == 200
    safe = TestClient(house.app, base_url="https://127.0.0.1")
    cookie = log_in(safe, "ada").headers["set-cookie"]
    assert cookie.startswith("__Host-") and "Secure" in cookie
    assert safe.get("/api/collections").status_code == 200


@pytest.mark.parametrize(
    "target",
    ["https://a.example", "//a.example", "/\\a.example", "evil", "", "/\r\nX: y", "/logout"],
)
def test_a_login_leads_nowhere_else(shared: House, target: str) -> None:
    assert log_in(shared.client(), "eve", then=target).headers["location"] == "/"


def test_a_session_that_was_prepared_is_not_taken_over(house: House) -> None:
    client = house.client()
    client.cookies.set("tether-session", "prepared by eve", domain=DOMAIN)
    log_in(client, "ada")
    given = client.cookies["tether-session"]
    assert given != "prepared by eve"
    eve = house.client()
    eve.cookies.set("tether-session", "prepared by eve", domain=DOMAIN)
    assert eve.get("/api/collections").status_code == 401
    # Nor does a session of Eve's own, put into Ada's browser, live on after Ada has logged in.
    log_in(eve, "eve")
    planted = eve.cookies["tether-session"]
    ada = house.client()
    ada.cookies.set("tether-session", planted, domain=DOMAIN)
    log_in(ada, "ada")
    assert eve.get("/api/collections").status_code == 401


def test_logging_out_ends_the_session(house: House) -> None:
    client = house.client()
    log_in(client, "ada")
    secret = client.cookies["tether-session"]
    response = client.post("/logout", headers={"origin": HERE}, follow_redirects=False)
    assert response.headers["location"] == "/login"
    assert "Max-Age=0" in response.headers["set-cookie"]
    stolen = house.client()
    stolen.cookies.set("tether-session", secret)
    assert stolen.get("/api/collections").status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),  # a form of an old browser would say nothing
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": HERE, "sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"origin": HERE}, 204),
        ({"sec-fetch-site": "same-origin"}, 204),
    ],
)
def test_another_sites_page_cannot_use_a_session(
    house: House, headers: dict[str, str], status: int
) -> None:
    client = house.client()
    log_in(client, "ada")
    assert client.get(f"/api/collections/{ADAS}/documents").status_code == 200
    response = client.delete(f"/api/collections/{ADAS}", headers=headers)
    assert response.status_code == status
    assert len(house.service.collections(person=house.people["ada"])) == (status == 403)


def test_another_sites_page_can_log_nobody_in_or_out(house: House) -> None:
    client = house.client()
    evil = {"origin": "https://evil.example"}
    data = {"name": "eve", "password": PASSWORDS["eve"]}
    assert client.post("/login", data=data, headers=evil).status_code == 403
    log_in(client, "ada")
    assert client.post("/logout", headers=evil).status_code == 403
    assert client.get("/api/collections").status_code == 200


# --- Guesses -------------------------------------------------------------------------------------


def test_a_wrong_name_and_a_wrong_password_are_told_alike(house: House) -> None:
    told = {
        (response.status_code, response.text, tuple(sorted(response.headers)))
        for name in ("ada", "nobody", "", "ada' --", "<b>")
        for response in [log_in(house.client(address=f"192.0.2.{len(name)}"), name, "wrong")]
    }
    assert len(told) == 1
    ((status, text, _),) = told
    assert status == 401 and "Name or password is wrong." in text


def test_guessing_passwords_is_slowed_by_name_and_by_address(house: House) -> None:
    for number in range(FREE):  # from everywhere, for one name
        address = f"192.0.2.{number}"
        assert log_in(house.client(address=address), "ada", "wrong").status_code == 401
    slowed = log_in(house.client(address="192.0.2.99"), "ADA ", PASSWORDS["ada"])
    assert slowed.status_code == 429 and int(slowed.headers["retry-after"]) >= 1
    assert "Too many" in slowed.text
    assert log_in(house.client(address="192.0.2.99"), "eve").status_code == 303
    for number in range(FREE):  # from one address, for many names
        log_in(house.client(address="203.0.113.1"), f"user{number}", "wrong")
    assert log_in(house.client(address="203.0.113.1"), "eve").status_code == 429
    assert house.client("eve", address="203.0.113.1").get("/api/collections").status_code == 200


def test_guessing_tokens_is_slowed_and_hinders_no_holder(house: House) -> None:
    guesser = house.client(address="203.0.113.2")

    def guess(token: str) -> Response:
        return guesser.get("/api/collections", headers={"authorization": f"Bearer {token}"})

    statuses = [guess(f"tether_{number:08x}_{'A' * 43}").status_code for number in range(FREE + 3)]
    assert statuses == [401] * FREE + [429] * 3
    slowed = guess("tether_00000000_A")
    assert int(slowed.headers["retry-after"]) >= 1
    assert "try again in" in slowed.json()["error"]["message"]
    assert house.client("ada", address="203.0.113.2").get("/api/collections").status_code == 200
    begun = house.tokens["eve"][:-1]
    statuses = [guess(begun).status_code for _ in range(FREE + 1)]
    assert statuses == [401] * FREE + [429]
    assert guess(house.tokens["eve"]).status_code == 429  # or a right guess would slip through
    assert house.client("eve", address="203.0.113.3").get("/api/collections").status_code == 200


def test_no_secret_reaches_the_log(house: House, caplog: pytest.LogCaptureFixture) -> None:
    client = house.client()
    with caplog.at_level(logging.DEBUG):
        log_in(client, "ada")
        log_in(client, "ada", "a wrong password")
        client.get("/api/collections")
        house.client("eve").get("/metrics")
        house.client().get("/metrics", headers={"authorization": "Bearer tether_1_guess"})
    assert any(record.name == "app.http.guard" for record in caplog.records)
    logged = [
        json.dumps(record.__dict__, default=str)
        for record in caplog.records
        if not record.name.startswith(("httpx", "httpcore"))  # the client in this test
    ]
    secrets = [PASSWORDS["ada"], "a wrong password", house.tokens["eve"], "tether_1_guess"]
    for secret in [*secrets, client.cookies["tether-session"]]:
        assert not any(secret in line for line in logged)


# --- Who may reach the server --------------------------------------------------------------------


def test_without_users_this_machine_needs_no_login_until_there_are(home: Path) -> None:
    with make_service(home) as service:
        client = TestClient(build_app(service), base_url=HERE)
        assert client.get("/api/collections").status_code == 200
        assert client.get("/login", follow_redirects=False).headers["location"] == "/"
        service.users.add("ada")
        assert client.get("/api/collections").status_code == 401
        service.users.remove("ada")  # a server that has asked goes on asking
        assert client.get("/api/collections").status_code == 401


def test_where_others_reach_it_nobody_gets_in_without_users(home: Path) -> None:
    with make_service(home) as service:
        app = build_app(service, hosts=hosts_of("0.0.0.0", ["Tether.example"]), login_always=True)
        for host in ("127.0.0.1", "192.0.2.7:7860", "tether.example", "[2001:db8::1]:80"):
            client = TestClient(app, base_url=f"http://{host}")
            assert client.get("/health").status_code == 200
            assert client.get("/api/collections").status_code == 401
            assert log_in(client, "ada", "").status_code == 401
        rebound = TestClient(app, base_url="http://evil.example")
        assert rebound.get("/health").status_code == 403
        with pytest.raises(UnknownCollection):
            service.documents()


def test_hosts(home: Path) -> None:
    assert hosts_of("127.0.0.1", []) == Hosts()
    assert hosts_of("[::1]", ["a.example"]).include("a.example")
    assert hosts_of("192.0.2.7", []).include("192.0.2.7")
    assert not hosts_of("192.0.2.7", []).include("192.0.2.8")
    assert not hosts_of("0.0.0.0", []).include("a.example")


def test_a_name_needs_users_who_can_log_in(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for prepare in (lambda: None, lambda: Users(home).add("ada")):
        prepare()
        with pytest.raises(SystemExit) as stop:
            main(["serve", "--name", "tether.example"])
        assert stop.value.code == 2
        assert "tether users add NAME" in capsys.readouterr().err


def test_a_process_that_others_can_reach(home: Path) -> None:
    users = Users(home, cost=CHEAP)
    users.add("ada")
    token = users.issue_token("ada")
    with process(home, host="0.0.0.0") as (running, url):
        assert httpx.get(f"{url}/health", timeout=60).status_code == 200
        assert httpx.get(f"{url}/api/collections", timeout=60).status_code == 401
        headers = {"authorization": f"Bearer {token}"}
        found = httpx.get(f"{url}/api/collections", headers=headers, timeout=60)
        assert found.json() == {"collections": []}
        running.terminate()
        assert running.wait(60) == 0
    log = "\n".join(log_of(home))
    assert "reverse proxy with TLS" in log and token not in log


# --- The page ------------------------------------------------------------------------------------


def test_who_learns_what_anothers_page_is_called_does_not_see_it(shared: House) -> None:
    with shared.client("ada") as ada, shared.client("eve") as eve:
        config = ada.get("/config").json()
        ids = {one["props"].get("elem_id"): one["id"] for one in config["components"]}
        events = {
            tuple(target): one
            for one in config["dependencies"]
            for target in one["targets"]
            if one["backend_fn"]  # the others only cancel
        }

        def send(client: TestClient, name: str, opened: str = "") -> str:
            event = events[ids[name], "click"]
            inputs = [None, ""] if opened else [None] * len(event["inputs"])
            body = {"fn_index": event["id"], "session_hash": "page", "data": inputs}
            body["event_data"] = {"action": "open", "id": opened}
            reply = client.post("/gradio_api/run/predict", json=body)
            assert reply.status_code == 200
            return reply.text

        assert "Who built it" in send(ada, "tether-list", shared.conversation)
        assert "Who built it" not in send(eve, "tether-edit")
        assert "Who built it" in send(ada, "tether-edit")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize(
    "path",
    ["/api/ask", "/api/search", "/v1/chat/completions", "/v1/embeddings", "/mcp",
     "/gradio_api/queue/join", "/gradio_api/run/predict"],
)  # fmt: skip
def test_a_body_nested_deeper_than_it_can_be_read_is_refused(
    shared: House, path: str, opening: str
) -> None:
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
    }
    with shared.client("ada") as ada:
        reply = ada.post(path, content=opening * 100_000, headers=headers)
        assert reply.status_code in (400, 422), reply.text
        told = reply.json()
        assert "error" in told or "can be read" in told["detail"], told
        assert ada.get("/health").status_code == 200


@pytest.mark.parametrize(("person", "owner"), [(Person("7", "eve"), "7."), (LOCAL, "")])
def test_a_page_is_its_persons_wherever_a_request_names_it(person: Person, owner: str) -> None:
    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        await JSONResponse([request.url.path, request.url.query, body.decode()])(
            scope, receive, send
        )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PageSessions(told)({**scope, "state": {"person": person}}, receive, send)

    client, name = TestClient(app), f"{owner}7.x"
    stream = client.get("/gradio_api/queue/data?a=1&session_hash=7.x").json()
    assert stream[1] == f"a=1&session_hash={name}"
    assert client.get("/gradio_api/heartbeat/7.x").json()[0] == f"/gradio_api/heartbeat/{name}"
    joined = client.post("/gradio_api/queue/join", json={"data": ["é"], "session_hash": "7.x"})
    assert json.loads(joined.json()[2]) == {"data": ["é"], "session_hash": name}
    for path in ("/api/ask?session_hash=7.x", "/gradio_api/upload"):
        left = client.post(path, json={"session_hash": "7.x"}).json()
        assert "".join(left).endswith('{"session_hash":"7.x"}') and "7.7.x" not in "".join(left)


@pytest.mark.browser
def test_two_people_at_one_browser_see_nothing_of_each_other(
    home: Path, browser: "Browser"
) -> None:
    from playwright.sync_api import expect

    with make_service(home) as service, Opener(browser) as opener:
        house = furnished(service)
        ada = house.people["ada"]
        assert sent(house.client("ada"), BRIDGE).json()["collection"] == "ada"
        (document,) = service.documents("ada", person=ada)
        url = opener.serve(service)
        context = browser.new_context(locale="en-US")
        context.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        page, errors = context.new_page(), list[str]()
        page.on("pageerror", lambda error: errors.append(str(error)))

        def enter(name: str) -> None:
            page.get_by_label("Name").fill(name)
            page.get_by_label("Password").fill(PASSWORDS[name])
            page.get_by_role("button", name="Log in").click()
            expect(page.locator(".tether-person b")).to_have_text(name)
            expect(page.locator("#tether-collection input")).to_have_value(name)
            # All of the page is drawn, part by part: a question that comes before would be lost.
            page.locator("#tether-list .tether-nothing, #tether-list ul").first.wait_for()
            page.locator("#tether-question [data-testid=stop-button]").wait_for(state="hidden")

        def ask() -> None:
            page.locator("#tether-question textarea").fill(QUESTION)
            page.locator("#tether-question textarea").press("Enter")

        try:
            page.goto(url)
            page.get_by_label("Name").fill("ada")
            page.get_by_label("Password").fill("a wrong password")
            page.get_by_role("button", name="Log in").click()
            page.get_by_text("Name or password is wrong.").wait_for()
            enter("ada")
            ask()
            page.locator(".tether-answer").get_by_text("Ola Fenn").first.wait_for()
            expect(page.locator("#tether-list li")).to_have_count(2)  # one is the house's
            page.get_by_role("tab", name="Documents").click()
            sharing = page.locator("#tether-sharing")
            expect(sharing).to_contain_text("Owner: ada")
            answers = ["nobody", "eve"]
            page.on("dialog", lambda dialog: dialog.accept(answers.pop(0)))
            sharing.get_by_role("button", name="Let somebody read it").click()
            page.get_by_text("there is no user nobody").wait_for()
            sharing.get_by_role("button", name="Let somebody read it").click()
            expect(sharing.locator("li b")).to_have_text("eve")
            assert service.users.who_may("ada") == ("ada", ("eve",))
            sharing.get_by_role("button", name="Take back from eve").click()
            expect(sharing.locator("li")).to_have_count(0)
            assert service.users.who_may("ada") == ("ada", ())
            source = f"{url}/source/ada/{document.id}"
            assert "Ola Fenn" in (page.request.get(source).text())
            page.locator("#tether-leave").click()
            page.get_by_label("Password").wait_for()
            assert page.request.get(source).status == 401
            page.goto(source)  # an old link leads to the form
            page.get_by_label("Password").wait_for()

            page.goto(url)
            enter("eve")
            page.locator("#tether-list .tether-nothing").wait_for()
            ask()
            expect(page.locator(".tether-error")).to_contain_text("no collection eve for you")
            for secret in ("Ola Fenn", "bridge.md", ADAS, house.conversation):
                assert secret not in page.content()
            for path in (source, f"{url}/conversation/{house.conversation}.md"):
                assert page.request.get(path).status == 404

            service.share("ada", "eve", person=ada)
            page.goto(url)
            expect(page.locator("#tether-collection input")).to_have_value("eve")
            page.locator("#tether-collection input").click()
            page.get_by_role("option", name="ada").click()
            page.get_by_role("tab", name="Documents").click()
            expect(sharing).to_have_text("Shared with you: you may read it, its owner changes it.")
            expect(page.get_by_role("button", name="Preview")).to_have_count(1)
            for name in ("Remove", "Ingest again", "Delete this collection", "Take back"):
                expect(page.get_by_role("button", name=name)).to_have_count(0)
            assert errors == []
        finally:
            context.close()
