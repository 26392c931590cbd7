"""`tether serve` as a process: page and interfaces from one port, its log, its end by signal."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from app.cli import main
from tests.serving_parts import BRIDGE, QUESTION, make_service
from tests.test_service import upload

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def process(
    home: Path, *, host: str = "127.0.0.1", **settings: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start `tether serve` without models; yield the process and its address on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    chosen = {"encoder.model": "hashing", "generator.backend": "none"} | {
        name.replace("__", "."): value for name, value in settings.items()
    }
    assignments = [word for one in chosen.items() for word in ("--set", "=".join(one))]
    command = [
        sys.executable,
        "-m",
        "app.cli",
        *assignments,
        "serve",
        "--host",
        host,
        "--port",
        str(port),
    ]
    with (
        (home / "log").open("w") as log,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True,
            env=os.environ | {"TETHER_HOME": str(home)},
        ) as running,
    ):  # fmt: skip
        try:
            assert running.stdout is not None
            said = running.stdout.readline()  # "" if it ended
            assert said == f"serving; open http://{host}:{port}/\n", log_of(home)
            yield running, f"http://127.0.0.1:{port}"
        finally:
            running.kill()


def log_of(home: Path) -> list[str]:
    return (home / "log").read_text("utf-8").splitlines()


def test_one_process_serves_page_and_interfaces_and_ends_in_order(home: Path) -> None:
    with process(home) as (running, url), httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/health").json()["status"] == "ok"
        page = client.get("/")
        assert page.status_code == 200 and "gradio_config" in page.text
        (kept,) = client.post("/gradio_api/upload", files={"files": ("a.md", BRIDGE)}).json()
        assert Path(kept).read_bytes() == BRIDGE and Path(kept).is_relative_to(home / "temporary")
        assert stat.S_IMODE((home / "temporary").stat().st_mode) == 0o700
        assert client.get("/v1/models").json()["data"][0]["id"] == "tether"
        files = {"files": ("bridge.md", BRIDGE)}
        assert client.post("/api/ingest", files=files).json()["counts"]["added"] == 1
        answer = client.post("/api/ask", json={"question": QUESTION}).json()
        assert "Ola Fenn" in answer["passages"][0]["text"]
        for path in ("/", "/config", "/gradio_api/queue/join", "/gradio_api/upload"):
            foreign = client.post(path, headers={"origin": "https://evil.example"})
            rebound = client.get(path, headers={"host": "evil.example"})
            assert (foreign.status_code, rebound.status_code) == (403, 403)
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
    lines = [json.loads(line) for line in log_of(home)]
    routes = [line["route"] for line in lines if line["message"] == "request"]
    assert {"/api/ask", "/api/ingest", "page"} <= set(routes)
    assert not any("Ola Fenn" in line or "Zarnith" in line for line in log_of(home))


class _Slow(BaseHTTPRequestHandler):
    """A generator that says one word, and the other one when it is told to."""

    may_go_on = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self._say("slowly")
        self.may_go_on.wait(60)
        self._say(" finished", "stop")

    def _say(self, text: str, reason: str | None = None) -> None:
        choice = {"delta": {"content": text}, "finish_reason": reason}
        self.wfile.write(b"data: %s\n\n" % json.dumps({"choices": [choice]}).encode())

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


def test_the_running_answer_is_finished_and_the_waiting_one_refused(home: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as generator:
        threading.Thread(target=generator.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{generator.server_port}/v1"
        settings = {"generator__backend": "openai", "generator__url": address}
        body = {"question": QUESTION, "retrieval": False, "stream": True}
        with (
            process(home, generator__slots="1", **settings) as (server, url),
            httpx.Client(base_url=url, timeout=60) as client,
            client.stream("POST", "/api/ask", json=body) as running,
            client.stream("POST", "/api/ask", json=body) as waiting,
        ):
            answered, refused = running.iter_lines(), waiting.iter_lines()
            assert json.loads(next(answered)) == {"event": "drafted", "text": "slowly"}
            assert json.loads(next(refused)) == {"event": "waiting", "position": 1}
            server.send_signal(signal.SIGTERM)
            assert json.loads(list(refused)[-1])["error"]["type"] == "service_busy"
            _Slow.may_go_on.set()
            assert json.loads(list(answered)[-1])["answer"]["text"] == "slowly finished"
            assert server.wait(60) == 0
        generator.shutdown()


def test_a_process_killed_in_an_upload_loses_nothing(home: Path) -> None:
    with make_service(home) as service:
        upload(service, "bridge.md", BRIDGE)
    with process(home) as (running, url):
        port = urlsplit(url).port or 0
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                b"POST /api/ingest HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
                b'Content-Disposition: form-data; name="files"; filename="bridge.md"\r\n\r\nhalf'
            )
            assert httpx.get(f"{url}/health", timeout=60).status_code == 200
            running.kill()
            running.wait(60)
    with make_service(home) as service:
        (info,) = service.documents()
        document = service.document(info.id)
        assert document is not None and document.text == BRIDGE.decode()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org", ""])
def test_no_other_machine_is_served(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--set", f"chat.host={host}", "serve"]
    assert refused(arguments, capsys).startswith(f"error: cannot serve on {host}: ")


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port} is in use" in refused(["serve", "--port", port], capsys)


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a command fails with."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line
