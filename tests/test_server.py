"""Tether's own HTTP interface, its errors, and what the guard keeps out."""

import http.client
import json
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import httpx
import pytest
from fastapi import WebSocket, WebSocketDisconnect
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.http.connections import Impatient
from app.http.guard import FRAMEWORK, JSON_BYTES
from app.http.server import build_app
from app.service import Service
from model.generators import OpenAIGenerator
from tests.serving_parts import (
    BRIDGE,
    DRAFT,
    QUESTION,
    TEA,
    GatedGenerator,
    make_service,
    served,
)

HERE = "http://127.0.0.1:7860"
SECRET = "Xylophonia"  # a word that must not reach the log


class Hasty(Impatient):
    """Closes a connection that brings no request within two seconds."""

    seconds = 2.0


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
_TEXT: st.SearchStrategy[Any] = (
    st.sampled_from([QUESTION, "谁造了这座桥？", " ", "\x00"]) | st.text()
)
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "question": _TEXT,
    "input": _TEXT | st.lists(_TEXT, max_size=3),
    "text": _TEXT,
    "correction": _TEXT,
    "passages": st.lists(_TEXT, max_size=2),
    "top_k": st.integers(-1, 101),
    "model": st.sampled_from(["tether", "tether/default", "tether/..", "hashing", ""]),
    "messages": st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": _TEXT}),
        max_size=3,
    ),
}


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    with make_service(home) as made:
        yield made


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(build_app(service), base_url=HERE) as made:
        upload(made, ("bridge.md", BRIDGE), ("tea.md", TEA))
        yield made


class Reply(Protocol):
    """What is looked at of a response, of either HTTP client."""

    @property
    def status_code(self) -> int: ...

    @property
    def text(self) -> str: ...

    def json(self) -> Any: ...  # noqa: ANN401 - any JSON value


def upload(client: TestClient, *files: tuple[str, bytes], **form: str) -> Reply:
    return client.post("/api/ingest", files=[("files", file) for file in files], data=form)


def error_of(response: Reply, status: int) -> str:
    """Return the message of an error, after checking its status and form."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return str(error["message"])


class TestAsking:
    def test_an_answer_with_exact_citations(self, client: TestClient) -> None:
        answer = client.post("/api/ask", json={"question": QUESTION}).json()
        assert (answer["status"], answer["text"]) == ("supported", DRAFT)
        citation = answer["claims"][0]["citations"][0]
        passage = answer["passages"][citation["passage_number"] - 1]
        start = passage["start"]
        quote = passage["text"][citation["start"] - start : citation["end"] - start]
        assert quote == citation["quote"]

    @pytest.mark.parametrize(
        ("accept", "media_type", "start"),
        [
            ("*/*", "application/x-ndjson", ""),
            ("text/event-stream", "text/event-stream; charset=utf-8", "data: "),
        ],
    )
    def test_a_stream_of_events(
        self, client: TestClient, accept: str, media_type: str, start: str
    ) -> None:
        body = {"question": QUESTION, "stream": True}
        with client.stream("POST", "/api/ask", json=body, headers={"accept": accept}) as response:
            assert response.headers["content-type"] == media_type
            lines = [line for line in response.iter_lines() if line]
        assert all(line.startswith(start) for line in lines)
        events = [json.loads(line.removeprefix(start)) for line in lines]
        assert [event["event"] for event in events] == [
            "retrieved", *["drafted"] * (len(events) - 2), "finished",
        ]  # fmt: skip
        assert "".join(event.get("text", "") for event in events) == DRAFT
        assert events[-1]["answer"]["text"] == DRAFT

    def test_given_passages_and_memory(self, client: TestClient) -> None:
        body: dict[str, Any] = {"question": QUESTION, "collection": "nowhere"}
        body["passages"] = [BRIDGE.decode()]
        assert client.post("/api/ask", json=body).json()["status"] == "supported"
        body = {"question": QUESTION, "retrieval": False}
        assert client.post("/api/ask", json=body).json()["status"] == "unverified"

    def test_search(self, client: TestClient) -> None:
        found = client.post("/api/search", json={"question": QUESTION, "top_k": 1}).json()
        (passage,) = found["passages"]
        assert "Ola Fenn" in passage["text"]

    def test_feedback(self, client: TestClient) -> None:
        answer = client.post("/api/ask", json={"question": QUESTION}).json()
        response = client.post("/api/feedback", json=answer | {"thumb": "down"})
        assert (response.status_code, response.json()) == (201, {"id": 1})
        error_of(client.post("/api/feedback", json=answer), 400)  # it says nothing

    def test_a_generator_that_is_gone(self, home: Path) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # bound but not listening: refuses
            url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
            with make_service(home, OpenAIGenerator(url, model="m")) as service:
                client = TestClient(build_app(service), base_url=HERE)
                for _ in range(2):
                    body = {"question": QUESTION, "retrieval": False}
                    response = client.post("/api/ask", json=body)
                    assert "start the server" in error_of(response, 502)
                assert client.get("/health").json()["running"] == 0

    def test_an_error_before_the_stream_has_a_status_and_one_within_is_its_last_event(
        self, home: Path
    ) -> None:
        gated = GatedGenerator()
        with (
            make_service(home, gated, generator__slots="1") as service,
            served(build_app(service)) as url,
            httpx.Client(base_url=url, timeout=60) as client,
        ):
            body = {"question": QUESTION, "stream": True, "collection": "nowhere"}
            assert "nowhere" in error_of(client.post("/api/ask", json=body), 404)
            body = {"question": QUESTION, "stream": True, "passages": [BRIDGE.decode()]}
            with client.stream("POST", "/api/ask", json=body) as response:
                lines = response.iter_lines()
                assert json.loads(next(lines))["event"] == "retrieved"
                assert service.load() == (1, 0)
                service._cancelled.set()
                last = json.loads(list(lines)[-1])
            assert last["event"] == "error"
            assert last["error"]["type"] == "service_busy"


class TestLibrary:
    def test_from_upload_to_deletion(self, client: TestClient) -> None:
        report = upload(client, ("笔记.md", BRIDGE), ("bad.pdf", b"no"), collection="zh").json()
        assert report["collection"] == "zh"
        assert (report["counts"]["added"], report["counts"]["failed"]) == (1, 1)
        assert [file["status"] for file in report["files"]] == ["added", "failed"]
        assert report["files"][1]["message"]
        listed = client.get("/api/collections").json()["collections"]
        assert [(one["name"], one["documents"]) for one in listed] == [("default", 2), ("zh", 1)]
        (document,) = client.get("/api/collections/zh/documents").json()["documents"]
        path = f"/api/collections/zh/documents/{document['id']}"
        assert client.get(path).json()["text"] == BRIDGE.decode()
        where = {"uri": document["uris"]}
        removed = client.delete("/api/collections/zh/documents", params=where)
        assert removed.json() == {"removed": 1}
        error_of(client.delete("/api/collections/zh/documents", params=where), 404)
        error_of(client.get(path), 404)
        assert client.delete("/api/collections/zh").status_code == 204
        error_of(client.delete("/api/collections/zh"), 404)

    @pytest.mark.parametrize("name", ["../../../../etc/evil.md", "..\\evil.md", "/abs/evil.md"])
    def test_file_names_lead_nowhere_else(self, client: TestClient, home: Path, name: str) -> None:
        assert upload(client, (name, TEA), collection="names").json()["counts"]["added"] == 1
        assert [path.name for path in (home / "uploads" / "names").iterdir()] == ["evil.md"]
        assert len(list(home.rglob("evil.md"))) == 1

    @pytest.mark.parametrize("name", ["..", "../default", "a/b", ".hidden", "a\x00b", "x" * 101])
    def test_collection_names_lead_nowhere_else(
        self, client: TestClient, home: Path, name: str
    ) -> None:
        before = sorted(home.rglob("*"))
        assert upload(client, ("a.md", TEA), collection=name).status_code in (400, 422)
        for response in (
            client.post("/api/ask", json={"question": QUESTION, "collection": name}),
            client.delete(f"/api/collections/{name}".replace("\x00", "%00")),
        ):
            assert response.status_code in (400, 404, 405, 422)
        assert sorted(home.rglob("*")) == before

    def test_paths_and_addresses_only_where_the_settings_allow_them(
        self, client: TestClient, home: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "own.md"
        file.write_bytes(TEA)
        for source in (str(file), "http://127.0.0.1:1/page"):
            response = client.post("/api/ingest", data={"sources": [source]})
            assert "serve.sources=true" in error_of(response, 403)
        assert "files" in error_of(client.post("/api/ingest"), 400)
        with make_service(home, serve__sources="true") as service:
            allowed = TestClient(build_app(service), base_url=HERE)
            form = {"sources": [str(file)], "collection": "paths"}
            assert allowed.post("/api/ingest", data=form).json()["counts"]["added"] == 1
            # Addresses of this machine stay closed: a page could name them to read what is here.
            form = {"sources": ["http://127.0.0.1:1/page"], "collection": "paths"}
            (failed,) = allowed.post("/api/ingest", data=form).json()["files"]
            assert failed["status"] == "failed"

    def test_uploads_that_wait_are_bounded(self, client: TestClient, service: Service) -> None:
        while service._ingests.acquire(blocking=False):
            pass
        assert "try again" in error_of(upload(client, ("a.md", TEA)), 503)


class TestOperating:
    def test_health_and_metrics(self, client: TestClient) -> None:
        health = client.get("/health").json()
        assert health["status"] == "ok" and health["running"] == 0
        client.post("/api/ask", json={"question": QUESTION})
        text = client.get("/metrics").text
        assert '\ntether_answers_total{status="supported"} 1\n' in text
        assert '\ntether_requests_total{route="/api/ingest",status="200"} 1\n' in text
        assert '\ntether_answer_seconds_bucket{le="+Inf"} 1\n' in text
        assert "\ntether_questions_waiting 0\n" in text
        for line in text.splitlines():
            assert re.fullmatch(r"# (HELP|TYPE) .+|\w+(\{[^}]*\})? \S+", line), line

    def test_the_log_names_no_text(
        self, client: TestClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            client.post("/api/ask", json={"question": f"{SECRET}?"})
            client.post("/v1/chat/completions", json={"messages": [{"content": SECRET}]})
            client.get(f"/api/collections/{SECRET}/documents?uri={SECRET}")
            upload(client, (f"{SECRET}.md", SECRET.encode()))
        requests = [record for record in caplog.records if record.name == "app.http.guard"]
        assert [record.__dict__["fields"]["status"] for record in requests] == [200, 422, 404, 200]
        logged = [
            json.dumps(record.__dict__, default=str)
            for record in caplog.records
            if not record.name.startswith("httpx")  # the client in this test
        ]
        assert not any(SECRET in line for line in logged)

    def test_a_bug_is_told_as_one_line_and_without_a_traceback(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError(SECRET)

        monkeypatch.setattr(service, "search", broken)
        client = TestClient(build_app(service), base_url=HERE, raise_server_exceptions=False)
        response = client.post("/api/search", json={"question": QUESTION})
        assert "ZeroDivisionError" in error_of(response, 500)
        assert SECRET not in response.text and "Traceback" not in response.text

    def test_unknown_paths_wrong_methods_and_bodies(self, client: TestClient) -> None:
        assert "/openapi.json" in error_of(client.get("/api/nothing"), 404)
        assert "/openapi.json" in error_of(client.get("/api/ask"), 405)
        assert "question" in error_of(client.post("/api/ask", json={}), 422)
        for body in (b"{", b"\xff\xfe", b'{"question": "\\ud83d"}', b"[" * 100_000):
            response = client.post("/api/ask", content=body)
            assert response.status_code in (400, 422)
            assert "error" in response.json()
        assert "empty" in error_of(client.post("/api/ask", json={"question": " "}), 400)
        too_many = {"question": QUESTION, "top_k": 1000}
        assert "top_k" in error_of(client.post("/api/ask", json=too_many), 422)


class TestSchema:
    def test_it_describes_every_route_and_its_references_lead_somewhere(
        self, client: TestClient
    ) -> None:
        schema = client.get("/openapi.json").json()
        names = set(schema["components"]["schemas"])
        used = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(schema)))
        assert used <= names
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                assert operation["summary"] and operation["description"], path
                assert "422" in operation["responses"] or path in ("/health", "/metrics")
        assert set(schema["paths"]) >= {
            "/api/ask", "/api/search", "/api/ingest", "/api/collections", "/api/feedback",
            "/health", "/metrics", "/v1/chat/completions", "/v1/embeddings", "/v1/models",
        }  # fmt: skip

    def test_nothing_points_to_the_internet(self, client: TestClient) -> None:
        assert "http" not in client.get("/openapi.json").text
        assert client.get("/docs").status_code == 404

    @pytest.mark.parametrize(
        "path",
        ["/api/ask", "/api/search", "/api/feedback", "/v1/chat/completions", "/v1/embeddings"],
    )
    @settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(data=st.data())
    def test_any_body_gets_an_answer_that_the_schema_describes(
        self, client: TestClient, path: str, data: st.DataObject
    ) -> None:
        schema = client.get("/openapi.json").json()
        operation = schema["paths"][path]["post"]
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        shape = schema["components"]["schemas"][reference.rpartition("/")[2]]
        fields = {name: PLAUSIBLE.get(name, ANY_JSON) | ANY_JSON for name in shape["properties"]}
        body = data.draw(st.fixed_dictionaries({}, optional=fields) | ANY_JSON)
        response = client.post(path, json=body)
        assert str(response.status_code) in operation["responses"], response.text
        assert response.status_code < 500
        if response.status_code >= 400:
            error_of(response, response.status_code)

    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(name=st.text(), document=st.text())
    def test_any_name_in_a_path_is_found_or_refused(
        self, client: TestClient, name: str, document: str
    ) -> None:
        collection = f"/api/collections/{quote(name, safe='')}/documents"
        for response in (
            client.get(collection),
            client.get(f"{collection}/{quote(document, safe='')}"),
            client.delete(collection, params={"uri": document}),
        ):
            assert response.status_code in (400, 404, 405), response.text


class TestGuard:
    @pytest.mark.parametrize(
        "host", ["127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860", "127.0.0.1"]
    )
    def test_its_own_names(self, client: TestClient, host: str) -> None:
        assert client.get("/health", headers={"host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil", "",
         "10.0.0.5", "[", "evil@127.0.0.1.nip.io", "::1:7860:"],
    )  # fmt: skip
    def test_a_name_that_was_rebound_to_this_machine(self, client: TestClient, host: str) -> None:
        assert "address it as" in error_of(client.get("/health", headers={"host": host}), 403)

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "http://127.0.0.1:8000"},
            {"origin": "http://localhost:7860"},  # another origin than 127.0.0.1 to a browser
            {"origin": "http://127.0.0.1:7860.evil.example"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
        ],
    )
    def test_another_site_can_change_and_read_nothing(
        self, client: TestClient, service: Service, headers: dict[str, str]
    ) -> None:
        refused = [
            client.request("DELETE", "/api/collections/default", headers=headers),
            client.post("/api/ask", json={"question": QUESTION}, headers=headers),
            client.post("/api/ingest", files={"files": ("a.md", TEA)}, headers=headers),
            client.get("/api/collections", headers=headers),
            client.options("/api/ask", headers=headers),
        ]
        for response in refused:
            assert "another site" in error_of(response, 403)
            assert "access-control-allow-origin" not in response.headers
        assert len(service.documents()) == 2

    def test_its_own_page_and_programs_may(self, client: TestClient) -> None:
        own = {"origin": HERE, "sec-fetch-site": "same-origin"}
        body = {"question": QUESTION}
        assert client.post("/api/ask", json=body, headers=own).status_code == 200
        followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert client.get("/health", headers=followed).status_code == 200
        posted = client.post("/api/ask", json=body, headers=followed)
        assert posted.status_code == 403

    def test_every_answer_forbids_to_be_framed_or_guessed_at(self, client: TestClient) -> None:
        for response in (client.get("/health"), client.get("/nothing"), client.post("/api/ask")):
            assert response.headers["x-frame-options"] == "DENY"
            assert response.headers["x-content-type-options"] == "nosniff"

    def test_a_body_that_is_too_large(self, home: Path) -> None:
        with make_service(home, serve__upload_bytes="10000") as service:
            client = TestClient(build_app(service), base_url=HERE)
            assert "10,000 bytes" in error_of(upload(client, ("a.md", b"x" * 20_000)), 413)

            def pieces() -> Iterator[bytes]:  # sent without saying how much it will be
                head = (
                    b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.md"\r\n\r\n'
                )
                yield head + b"x" * 6000
                yield b"x" * 6000 + b"\r\n--b--\r\n"

            headers = {"content-type": "multipart/form-data; boundary=b"}
            response = client.post("/api/ingest", content=pieces(), headers=headers)
            assert "10,000 bytes" in error_of(response, 413)
            assert not (home / "uploads").exists()
            for length in ("-1", "1e9", "99999999999"):
                response = client.post("/api/ask", headers={"content-length": length})
                error_of(response, 413)

    @pytest.mark.parametrize("path", ["/api/ask", "/mcp", "/gradio_api/queue/join", "/nothing"])
    def test_what_is_no_upload_must_fit_into_memory(self, client: TestClient, path: str) -> None:
        body = b" " * (JSON_BYTES + 1)
        error_of(client.post(path, content=body), 413)

    def test_a_body_that_never_ends(self, home: Path) -> None:
        with (
            make_service(home, serve__upload_seconds="1") as service,
            served(build_app(service)) as url,
            socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as connection,
        ):
            connection.settimeout(60)
            connection.sendall(
                b"POST /api/ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n"
                b"Content-Type: application/json\r\n\r\n{"
            )
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.status == 408
            assert "took too long" in json.loads(response.read())["error"]["message"]

    def test_a_connection_that_brings_no_request_is_closed_and_an_answer_is_not(
        self, home: Path
    ) -> None:
        gated = GatedGenerator()
        body = {"question": QUESTION, "passages": [BRIDGE.decode()], "stream": True}
        with (
            make_service(home, gated) as service,
            served(build_app(service), Hasty) as url,
            socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as silent,
            httpx.stream("POST", f"{url}/api/ask", json=body, timeout=60) as answering,
        ):
            assert gated.wait_until_inside(1)
            silent.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0")  # half of a head
            silent.settimeout(60)
            assert silent.recv(1) == b""  # closed
            gated.gate.set()  # the answer began before that, and took longer
            assert json.loads(list(answering.iter_lines())[-1])["event"] == "finished"

    def test_of_the_pages_framework_only_what_the_page_calls_is_served(
        self, service: Service
    ) -> None:
        def found() -> None:
            """Answer any request."""

        path = f"{FRAMEWORK}{{rest:path}}"
        app = build_app(service, mount=lambda app: app.add_api_route(path, found))
        client = TestClient(app, base_url=HERE)
        for path in ("theme.css", "queue/data", "heartbeat/a"):
            assert client.get(FRAMEWORK + path).status_code == 200
        for path in (
            "file=https://example.org/a", "file=/etc/passwd", "file/a", "proxy=https://a.example",
            "deep_link?session_hash=a", "component_server", "call/a", "queue/status", "heartbeat",
        ):  # fmt: skip
            assert "not served" in error_of(client.get(FRAMEWORK + path), 404)

    def test_web_sockets_are_closed(self, service: Service) -> None:
        async def echo(socket: WebSocket) -> None:
            await socket.accept()

        app = build_app(service, mount=lambda app: app.add_api_websocket_route("/socket", echo))
        client = TestClient(app, base_url=HERE)
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/socket"):
            pass


class TestHangingUp:
    @pytest.mark.parametrize("streams", [True, False])
    def test_a_client_that_is_killed_frees_its_place(self, home: Path, streams: bool) -> None:
        gated = GatedGenerator()
        with (
            make_service(home, gated, generator__slots="1") as service,
            served(build_app(service)) as url,
        ):
            body = {"question": QUESTION, "passages": [BRIDGE.decode()], "stream": streams}
            content = json.dumps(body).encode()
            head = (
                b"POST /api/ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n"
            )
            with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as running:
                running.sendall(head % len(content) + content)
                assert gated.wait_until_inside(1)
                with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as waiting:
                    waiting.sendall(head % len(content) + content)
                    with service._line._changed:
                        has_joined = service._line._changed.wait_for(
                            lambda: service._line.counts() == (1, 1), timeout=30
                        )
                    assert has_joined
            assert gated.wait_until_inside(0)
            with service._line._changed:
                assert service._line._changed.wait_for(
                    lambda: service._line.counts() == (0, 0), timeout=30
                )
            gated.gate.set()
            answered = httpx.post(f"{url}/api/ask", json=body | {"stream": False}, timeout=60)
            assert answered.json()["status"] == "supported"
