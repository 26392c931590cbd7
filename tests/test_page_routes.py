"""What the page links to: sources at a place, pages of PDFs, exports; and what they keep closed."""

import io
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from reportlab.pdfgen.canvas import Canvas

from app.history import History, Turn
from app.http.server import build_app
from app.page.image import AT_ONCE, WAITING, page_image
from app.page.routes import AROUND, routes, source_url
from app.service import Service
from ingest.errors import SourceError
from retrieval.store import DocumentInfo
from tests.serving_parts import BRIDGE, make_service
from tests.test_evidence import HOSTILE, Reading, passage

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    with make_service(home) as made:
        yield made


@pytest.fixture
def client(service: Service) -> TestClient:
    app = build_app(service, mount=lambda app: app.include_router(routes(service)))
    return TestClient(app, base_url="http://127.0.0.1")


def upload(service: Service, name: str, data: bytes, collection: str = "default") -> DocumentInfo:
    """Upload one file and return its document."""
    assert not service.upload([(name, io.BytesIO(data))], collection=collection).failed
    return service.documents(collection)[-1]


def pdf(*pages: str) -> bytes:
    """Return a PDF with one line a page."""
    file = io.BytesIO()
    canvas = Canvas(file)
    for text in pages:
        canvas.drawString(72, 720, text)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


def test_a_source_marks_exactly_the_characters_that_are_asked_for(
    service: Service, client: TestClient
) -> None:
    info = upload(service, "bridge.md", BRIDGE, "海岸 co")
    document = service.document(info.id, collection="海岸 co")
    assert document is not None
    start = document.text.index("Ola Fenn")
    address = source_url("海岸 co", passage(document.text), start, start + 8, "en")
    address = address.replace("/d?", f"/{info.id}?").partition("#")[0]
    reply = client.get(address)
    assert reply.status_code == 200
    assert re.findall(r'<mark id="cited">(.*?)</mark>', reply.text) == ["Ola Fenn"]
    reading = Reading(reply.text)
    assert document.text in reading.text
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["cache-control"] == "no-store"


def test_a_hostile_source_is_only_text(service: Service, client: TestClient) -> None:
    info = upload(service, "a.txt", f"{HOSTILE}\n\nMore of it.".encode())
    reading = Reading(client.get(f"/source/default/{info.id}?end=20&language=zh").text)
    assert set(reading.tags) <= {"meta", "title", "style", "header", "h1", "p", "main", "mark"}
    assert "onerror" not in {name for name, _ in reading.attributes}
    assert HOSTILE in reading.text


def test_a_long_source_is_shown_in_parts(service: Service, client: TestClient) -> None:
    text = " ".join(f"Line {number} ends here." for number in range(4_000))
    info = upload(service, "long.txt", text.encode())
    place = f"/source/default/{info.id}"
    middle = client.get(f"{place}?start=40000&end=40010").text
    assert len(middle) < 4 * AROUND * 3
    earlier, later = (link for link in Reading(middle).all("href") if link)
    assert "Line 0 ends" in Reading(client.get(earlier).text).text or "start=" in earlier
    assert Reading(client.get(later).text).text != Reading(middle).text
    whole = client.get(f"{place}?start=99999999&end=3").text  # beyond its end, and reversed
    assert "Line 3999 ends here." in Reading(whole).text


@pytest.mark.parametrize(
    "path",
    [
        "/source/default/unknown",
        "/source/nowhere/unknown",
        "/source/..%2F..%2Fsecret/unknown",
        "/source/default/..%2F..%2Ftruth.sqlite3",
        "/source/default/%2Fetc%2Fpasswd",
        "/source/default/unknown/page/1.png",
        "/conversation/unknown.md",
        "/conversation/..%2Fhistory.sqlite.json",
    ],
)
def test_what_is_not_there_is_not_found(service: Service, client: TestClient, path: str) -> None:
    upload(service, "bridge.md", BRIDGE)
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("query", ["start=-1", "end=x", "language=fr"])
def test_what_no_link_says_is_refused(service: Service, client: TestClient, query: str) -> None:
    info = upload(service, "bridge.md", BRIDGE)
    assert client.get(f"/source/default/{info.id}?{query}").status_code == 422


def test_a_page_of_a_pdf_is_drawn_while_the_file_is_what_was_ingested(
    service: Service, client: TestClient
) -> None:
    info = upload(service, "light.pdf", pdf("The lighthouse was built in 1887.", "It is tall."))
    document = service.document(info.id)
    assert document is not None
    place = f"/source/default/{info.id}"
    reading = Reading(client.get(f"{place}?start={document.text.index('tall')}").text)
    assert reading.all("src") == [f"{place}/page/2.png"]
    reply = client.get(f"{place}/page/2.png")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png")
    assert reply.content.startswith(PNG)
    assert client.get(f"{place}/page/3.png").status_code == 404
    assert client.get(f"{place}/page/0.png").status_code == 422
    Path(document.uri).write_bytes(pdf("Something else."))
    assert client.get(f"{place}/page/1.png").status_code == 404
    Path(document.uri).unlink()
    assert client.get(f"{place}/page/1.png").status_code == 404


def test_few_pages_are_drawn_at_a_time_few_wait_and_the_rest_is_refused(
    service: Service, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = upload(service, "light.pdf", pdf("The lighthouse was built in 1887."))
    lock, go_on, inside, most = threading.Lock(), threading.Event(), 0, 0

    def drawn(*_: object) -> bytes:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        assert go_on.wait(60)
        with lock:
            inside -= 1
        return PNG

    monkeypatch.setattr("app.page.routes.page_image", drawn)
    asked = AT_ONCE + WAITING + 3
    with ThreadPoolExecutor(asked) as pool:
        path = f"/source/default/{info.id}/page/1.png"
        replies = [pool.submit(client.get, path) for _ in range(asked)]
        first = islice(as_completed(replies, timeout=60), 3)  # the others cannot have ended
        refused = [reply.result() for reply in first]
        go_on.set()
        answered = [reply.result().status_code for reply in replies]
    assert {(one.status_code, one.headers["retry-after"]) for one in refused} == {(503, "2")}
    assert sorted(answered) == [200] * (AT_ONCE + WAITING) + [503] * 3
    assert most == AT_ONCE
    assert client.get(path).status_code == 200  # all turns were given back


def test_no_other_file_is_taken_for_a_pdf(service: Service, client: TestClient) -> None:
    info = upload(service, "bridge.md", BRIDGE)
    assert client.get(f"/source/default/{info.id}/page/1.png").status_code == 404
    assert Reading(client.get(f"/source/default/{info.id}").text).all("src") == []


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7\n%%EOF", b"\0" * 100_000])
def test_a_hostile_pdf_breaks_only_its_own_process(data: bytes) -> None:
    with pytest.raises(SourceError, match="page 1 cannot be drawn; open the PDF itself"):
        page_image(data, 1)


def test_a_conversation_is_saved_as_a_file(service: Service, client: TestClient) -> None:
    history = History(service.settings.home)
    conversation = history.begin("default", '灯塔 "x"\n<b>')
    history.save(conversation.id, 1, Turn("灯塔有多高？"))
    reply = client.get(f"/conversation/{conversation.id}.md")
    assert reply.text.endswith("## 灯塔有多高？\n")
    assert reply.headers["content-type"] == "text/markdown; charset=utf-8"
    disposition = reply.headers["content-disposition"]
    assert re.fullmatch(r"attachment; filename\*=UTF-8''[\w%]+\.md", disposition)
    assert client.get(f"/conversation/{conversation.id}.json").json()["collection"] == "default"
    assert client.get(f"/conversation/{conversation.id}.html").status_code == 422
