"""The tab Documents in a real browser: files come, are shown, and go; collections too."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.page.documents_view import sharing_html, watched_html
from app.service import Service
from app.watching import Watch
from ingest.pipeline import FileOutcome, Report
from tests.pages import HOSTILE, PATIENCE, Opener, ShownPage
from tests.serving_parts import BRIDGE, QUESTION, TEA, make_service
from tests.test_evidence import Reading
from tests.test_page_routes import pdf

browser = pytest.mark.browser


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    with make_service(home) as made:
        yield made


def drop(shown: ShownPage, *files: tuple[str, bytes]) -> None:
    """Upload files, and wait until all of them are done."""
    payloads = [
        {"name": name, "mimeType": "application/octet-stream", "buffer": data}
        for name, data in files
    ]
    shown.page.locator("#tether-files input[type=file]").set_input_files(payloads)  # type: ignore[arg-type]


def outcomes(shown: ShownPage) -> dict[str, str]:
    """Return what became of each file, by its name."""
    rows = shown.page.locator(".tether-progress li").all()
    return {row.locator("b").inner_text(): row.locator("em").inner_text() for row in rows}


def members(**files: bytes) -> bytes:
    """Return a ZIP archive."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{name}.md", content)
    return data.getvalue()


@browser
def test_files_are_uploaded_shown_searched_and_removed(opener: Opener, service: Service) -> None:
    shown = opener.open(opener.serve(service))
    page = shown.page
    shown.choose("Documents")
    page.get_by_text("This collection is empty.").wait_for()
    drop(
        shown,
        ("bridge.md", BRIDGE),
        ("hostile.txt", f"{HOSTILE}\n\nIt says that.".encode()),
        ("broken.pdf", b"no pdf at all"),
        ("tea.zip", members(tea=TEA)),
    )
    page.get_by_text("4 of 4 files").wait_for()
    assert outcomes(shown) == {
        "broken.pdf": "failed",
        "bridge.md": "added",
        "hostile.txt": "added",
        "tea.md": "added",
    }
    failed = page.locator(".tether-progress li.is-failed")
    assert "not a readable PDF; export or download it again" in failed.inner_text()
    page.get_by_text("3 documents").wait_for()
    rows = page.locator(".tether-table tbody tr")
    assert rows.count() == 3
    assert set(page.locator(".tether-table td.is-ready").all_inner_texts()) == {"ready"}
    uploads = sorted(path.name for path in service.uploads().iterdir())
    assert uploads == ["bridge.md", "hostile.txt", "tea.zip"]

    page.locator("#tether-find-document textarea, #tether-find-document input").first.fill("host")
    page.locator(".tether-table tbody tr", has_text="Bridges").wait_for(state="detached")
    rows.first.get_by_role("button", name="Preview").click()
    assert HOSTILE in shown.last(".tether-preview .tether-text").inner_text()

    shown.answer_dialogs()
    rows.first.get_by_role("button", name="Remove").click()
    page.get_by_text("No document has these words").wait_for()
    assert sorted(path.name for path in service.uploads().iterdir()) == ["bridge.md", "tea.zip"]
    assert shown.is_clean()

    shown.choose("Chat")
    shown.ask(QUESTION)
    shown.last(".tether-answer.is-supported")
    assert shown.is_clean()


@browser
def test_ingesting_again_takes_what_changed_and_tells_what_is_gone(
    opener: Opener, service: Service, tmp_path: Path
) -> None:
    hostile = '<img src=x onerror="window.__xss=4">&amp;.md'
    paths = [tmp_path / "bridge.md", tmp_path / "tea.md", tmp_path / hostile]
    for path, content in zip(paths, (BRIDGE, TEA, b"A file with a name."), strict=True):
        path.write_bytes(content)
    assert not service.ingest(paths).failed
    paths[0].write_bytes(BRIDGE.replace(b"1931", b"1932"))
    paths[1].unlink()
    shown = opener.open(opener.serve(service))
    page = shown.page
    shown.choose("Documents")
    page.locator("td.is-gone").wait_for()
    assert page.locator(".tether-table tr", has_text="Tea").locator("td.is-gone").count() == 1
    page.locator(".tether-holds").get_by_role("button", name="Ingest all again").click()
    page.get_by_text("3 of 3 files").wait_for()
    assert outcomes(shown) == {"tea.md": "failed", hostile: "unchanged", "bridge.md": "updated"}
    assert hostile in page.locator(".tether-table").inner_text()
    (bridge,) = (info for info in service.documents() if info.title == "Bridges")
    document = service.document(bridge.id)
    assert document is not None and "1932" in document.text
    assert shown.is_clean()


@browser
def test_a_pdf_opens_at_its_page(opener: Opener, service: Service) -> None:
    shown = opener.open(opener.serve(service))
    shown.choose("Documents")
    drop(shown, ("light.pdf", pdf("The lighthouse was built in 1887.")))
    shown.page.get_by_text("1 documents").wait_for()
    with shown.page.expect_popup() as opened:
        shown.page.locator(".tether-table a.tether-button").click()
    source = opened.value
    with source.expect_response("**/page/1.png", timeout=PATIENCE) as drawn:
        source.locator("summary").click()
    assert drawn.value.status == 200
    height = "async (image) => { await image.decode(); return image.naturalHeight; }"
    assert source.locator("img").evaluate(height) > 1_000  # pixels: sharp enough to read
    assert shown.is_clean()


@browser
def test_collections_are_made_chosen_and_deleted(opener: Opener, service: Service) -> None:
    service.upload([("bridge.md", io.BytesIO(BRIDGE))])
    shown = opener.open(opener.serve(service))
    page = shown.page
    shown.ask(QUESTION)
    shown.last(".tether-answer.is-supported")
    shown.choose("Documents")
    name = page.locator("#tether-collection-name textarea, #tether-collection-name input").first
    name.fill("../evil")
    page.locator("#tether-create").click()
    page.get_by_text("cannot name a collection").wait_for()
    name.fill("海岸")
    name.press("Enter")
    page.get_by_text("This collection is empty.").wait_for()
    shown.wait_for_value(page.locator("#tether-collection input"), "海岸")
    shown.wait_for_none(page.locator(".tether-answer"))  # a conversation belongs to one collection
    drop(shown, ("tea.md", TEA))
    page.get_by_text("1 documents").wait_for()
    assert [info.name for info in service.collections()] == ["default", "海岸"]

    shown.choose("Chat")
    page.locator(".tether-conversations .is-title").first.click()
    shown.last(".tether-answer.is-supported")
    shown.wait_for_value(page.locator("#tether-collection input"), "default")
    page.locator("#tether-collection input").click()
    page.get_by_role("option", name="海岸").click()
    page.locator(".tether-answer").wait_for(state="detached")

    shown.choose("Documents")
    page.locator(".tether-table", has_text="Tea").wait_for()
    shown.answer_dialogs()
    page.get_by_role("button", name="Delete this collection").click()
    page.locator(".tether-table", has_text="Bridges").wait_for()
    assert [info.name for info in service.collections()] == ["default"]
    assert not service.uploads("海岸").exists()
    assert shown.is_clean()


def test_names_folders_and_errors_stay_text() -> None:
    failed = FileOutcome(HOSTILE, "failed", message=HOSTILE)
    watches = [
        Watch(Path(HOSTILE), "following", 1.0, Report((failed, FileOutcome("a", "added")))),
        Watch(Path("/notes"), "failed", message=HOSTILE),
    ]
    for html in (watched_html(watches, "zh"), sharing_html(HOSTILE, [HOSTILE], "en")):
        reading = Reading(html)
        assert {"img", "script"}.isdisjoint(reading.tags)
        assert not [name for name, _ in reading.attributes if name.startswith("on")]
        assert "{{" not in html and "${" not in html
    said = Reading(watched_html(watches, "en")).text
    assert "1 added, 1 failed" in said and "followed until the server stops" in said
    assert "serve.folders" in Reading(watched_html((), "en", tell_how=True)).text
    assert watched_html((), "en") == ""
    assert "the operators" in Reading(sharing_html(None, (), "en")).text


@browser
def test_a_folder_is_followed_and_what_changes_comes_by_itself(
    opener: Opener, home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "handbook"
    folder.mkdir()
    (folder / "bridge.md").write_bytes(BRIDGE)
    with make_service(home, serve__folders=str(folder)) as service:
        shown = opener.open(opener.serve(service))
        page = shown.page
        shown.choose("Documents")
        watched = page.locator("#tether-watched")
        watched.get_by_role("button", name=f"Follow {folder}", exact=True).click()
        page.locator(".tether-table", has_text="Bridges").wait_for()
        watched.get_by_text("1 added").wait_for()
        (folder / "tea.md").write_bytes(TEA)
        page.locator(".tether-table", has_text="Tea").wait_for()  # nobody touched the page
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        watched.get_by_role("button", name=f"Follow {folder} no more").click()
        watched.get_by_text("not followed").wait_for()
        assert service.watches() == (Watch(folder),)
        assert page.locator("#tether-sharing section").count() == 0  # nobody logs in
        assert shown.is_clean()
