"""Faults under a serving process: killed, its disk full, its index gone, its remote generator lost.

Each time: one clear line that ends with the remedy, nothing lost that was reported, and no hand
needed to go on.
"""

import json
import resource
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import httpx
import pytest
from fastapi.testclient import TestClient

from app.history import History, Turn
from app.http.server import build_app
from ingest.errors import StoreError
from model.generators import OpenAIGenerator
from retrieval.maintenance import check
from tests.pages import Opener
from tests.serving_parts import BRIDGE, QUESTION, TEA, make_service
from tests.test_faults import files_up_to
from tests.test_server import error_of
from tests.test_service import upload
from tests.test_serving import process

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HERE = "http://127.0.0.1:7860"


class _Remote(BaseHTTPRequestHandler):
    """A remote generator: it says one word, and then does what `manner` tells."""

    protocol_version = "HTTP/1.1"
    manner: ClassVar[str] = "answers"
    may_go_on: ClassVar[threading.Event] = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._say("Ola")
        if self.manner == "waits":
            self.may_go_on.wait(300)
        if self.manner == "drops":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif self.manner == "ends early":
            self._send(b"")
        elif self.manner == "garbles":
            self._send(b'data: {"choices": [{"del\n\n')
            self._send(b"")
        else:
            self._say(" Fenn [1]", "stop")
            self._send(b"")

    def _say(self, text: str, reason: str | None = None) -> None:
        choice = {"delta": {"content": text}, "finish_reason": reason}
        self._send(b"data: %s\n\n" % json.dumps({"choices": [choice]}).encode())

    def _send(self, data: bytes) -> None:
        with suppress(OSError):  # the server was killed
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def remote() -> Iterator[str]:
    """The address of a remote generator."""
    _Remote.manner = "answers"
    _Remote.may_go_on.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Remote) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        _Remote.may_go_on.set()
        server.shutdown()


@pytest.mark.parametrize("manner", ["drops", "ends early", "garbles"])
def test_a_remote_generator_that_breaks_off_is_told_and_its_draft_is_no_answer(
    home: Path, remote: str, manner: str
) -> None:
    with make_service(home, OpenAIGenerator(remote, model="far")) as service:
        upload(service, "bridge.md", BRIDGE)
        client = TestClient(build_app(service), base_url=HERE)
        _Remote.manner = manner
        message = error_of(client.post("/api/ask", json={"question": QUESTION}), 502)
        assert "; " in message
        body = {"question": QUESTION, "stream": True}
        events = [json.loads(line) for line in client.post("/api/ask", json=body).iter_lines()]
        assert [event["event"] for event in events] == ["retrieved", "drafted", "error"]
        assert events[-1]["error"]["type"] == "generator_error"
        _Remote.manner = "answers"
        assert client.post("/api/ask", json={"question": QUESTION}).json()["status"] == "supported"


@contextmanager
def full_disk(pid: int, size: int = 4096) -> Iterator[None]:
    """Refuse a process every write beyond `size` bytes of whatever file."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def added(client: httpx.Client, *files: tuple[str, bytes]) -> httpx.Response:
    return client.post("/api/ingest", files=[("files", file) for file in files])


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_a_full_disk_and_an_index_that_vanishes_under_the_server(home: Path) -> None:
    with process(home) as (running, url), httpx.Client(base_url=url, timeout=120) as client:

        def ask() -> Any:  # noqa: ANN401 - any JSON value
            return client.post("/api/ask", json={"question": QUESTION}).json()

        added(client, ("bridge.md", BRIDGE))
        before = ask()
        assert "Ola Fenn" in before["text"]
        with full_disk(running.pid):
            for size, remedy in (
                (2_000, "check its permissions and its disk"),  # is kept, but not its document
                (10_000, "free some space"),
                (2_000_000, "free some space"),  # cannot even arrive
            ):
                text = b"Tea is grown. " * (size // 14)
                assert remedy in error_of(added(client, ("large.txt", text)), 500)
            thumb = client.post("/api/feedback", json=before | {"thumb": "up"})
            assert "free space" in error_of(thumb, 500)
            assert ask()["text"] == before["text"]
        assert added(client, ("tea.md", TEA)).json()["counts"]["added"] == 1
        kept = (home / "uploads" / "default").iterdir()
        assert {path.name for path in kept} == {"bridge.md", "tea.md"}

        folder = home / "collections" / "default"
        index = [*folder.glob("*.faiss"), folder / "manifest.json"]
        for path in index:
            path.unlink()
        assert ask()["text"] == before["text"]
        shutil.rmtree(folder)
        gone = client.post("/api/ask", json={"question": QUESTION})
        assert "make it with: tether ingest" in error_of(gone, 404)
        added(client, ("bridge.md", BRIDGE))
        assert ask()["text"] == before["text"]


def test_a_full_disk_loses_no_turn_of_the_history(home: Path) -> None:
    history = History(home)
    conversation = history.begin("coast", "Who?")
    history.save(conversation.id, 1, Turn("Who built the light?"))
    failures = 0
    for size in range(0, 40_000, 2_500):
        kept = history.open(conversation.id)[1]
        new = Turn(f"And how many is {size}? " + "x" * 3000)
        try:
            with files_up_to(size):
                history.save(conversation.id, 2, new)
            kept = (kept[0], new)
        except StoreError as error:
            assert "free space" in str(error) and "\n" not in str(error)
            failures += 1
        assert history.open(conversation.id)[1] == kept
    assert 0 < failures < 16


def test_killed_while_it_answers_and_takes_documents_in(home: Path, remote: str) -> None:
    settings = {"generator__backend": "openai", "generator__url": remote}
    many = [(f"{number}.md", f"# Ferry {number}\n\nIt has {number} seats.".encode())
            for number in range(150)]  # fmt: skip
    with (
        process(home, **settings) as (running, url),
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        added(client, ("bridge.md", BRIDGE))
        _Remote.manner = "waits"
        body = {"question": QUESTION, "stream": True}
        with client.stream("POST", "/api/ask", json=body) as answering:
            events = (json.loads(line)["event"] for line in answering.iter_lines())
            assert [next(events), next(events)] == ["retrieved", "drafted"]
            filling = threading.Thread(target=_added_or_cut_off, args=(url, many))
            filling.start()
            uploads = home / "uploads" / "default"
            while len(list(uploads.iterdir())) < 50 and filling.is_alive():
                client.get("/health")  # while it writes files, and then ingests them
            running.kill()
            running.wait(60)
            filling.join(60)
    assert [found for found in check(home, "default") if found.severity == "error"] == []
    _Remote.manner = "answers"
    with process(home, **settings) as (_, url), httpx.Client(base_url=url, timeout=120) as client:
        assert client.post("/api/ask", json={"question": QUESTION}).json()["status"] == "supported"
        counts = added(client, *many).json()["counts"]
        assert counts["added"] + counts["unchanged"] == len(many)
        (info,) = client.get("/api/collections").json()["collections"]
        assert (info["documents"], info["problem"]) == (len(many) + 1, "")


def _added_or_cut_off(url: str, files: list[tuple[str, bytes]]) -> None:
    with suppress(httpx.HTTPError), httpx.Client(base_url=url, timeout=120) as client:
        added(client, *files)


@pytest.mark.slow
@pytest.mark.browser
def test_a_conversation_goes_on_after_its_server_was_killed(
    browser: "Browser", home: Path, remote: str
) -> None:
    settings = {"generator__backend": "openai", "generator__url": remote}
    with Opener(browser) as opener:
        with process(home, **settings) as (running, url):
            added(httpx.Client(base_url=url, timeout=120), ("bridge.md", BRIDGE))
            _Remote.manner = "waits"
            chat = opener.open(url)
            chat.ask(QUESTION)
            chat.page.get_by_text("Draft, being checked").wait_for()
            running.kill()
            running.wait(60)
        _Remote.manner = "answers"
        with process(home, **settings) as (_, url):
            chat = opener.open(url)
            chat.page.locator(".tether-conversations .is-title").first.click()
            chat.page.get_by_text("Stopped, never checked").wait_for()
            chat.page.locator("#tether-again").click()
            chat.page.locator(".tether-passage mark").first.wait_for()
            assert "Ola Fenn" in chat.last(".tether-answer").inner_text()
