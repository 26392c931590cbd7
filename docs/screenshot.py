"""Photograph a running page, for the pictures in README.md and the guides.

    make chat &
    python -m docs.screenshot                  # all of VIEWS, into docs/
    python -m docs.screenshot chat phone       # only these

Needs Debian's chromium. Knows the page only as a reader does: tabs to choose, boxes to type in,
answers to wait for. It starts no chat. "documents" shows paths, and "compare" seconds: ingest from
a folder that may be seen, and take the pictures on a quiet machine. "lab" opens the newest report
of the laboratory, so have one there.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DOCS = Path(__file__).resolve().parent
PATIENCE = 300_000  # milliseconds for each thing that is waited for


@dataclass(frozen=True, slots=True)
class View:
    """What a picture shows."""

    question: str = ""
    before: tuple[str, ...] = ()  # questions of the chat that are asked first
    tab: str = "chat"
    width: int = 1280  # pixels
    height: int = 800
    locale: str = "en-US"
    colours: Literal["light", "dark"] = "light"


VIEWS: Mapping[str, View] = {
    "chat": View(
        "In which year was the transformer introduced?",
        before=("Who wrote the first novel about a lighthouse?",),
    ),
    "phone": View("什么是灾难性遗忘？", width=390, height=844, locale="zh-CN", colours="dark"),
    "documents": View(tab="documents", height=640),
    "compare": View("In which year was the transformer introduced?", tab="compare"),
    "lab": View(tab="lab", height=900),
}


def photograph(
    browser: "Browser", url: str, question: str, picture: Path, view: View | None = None
) -> None:
    """Bring a fresh page to a view and save what the reader sees as a PNG.

    Args:
        browser: Opens the page.
        url: Of the page.
        question: Asked in the view's tab; a tab that asks nothing heeds none.
        picture: The file to write.
        view: The tab and the size; by default the chat.

    Raises:
        click.ClickException: The page showed an error.
        playwright.sync_api.Error: No page answers at `url`, or not in time.
    """
    view = view or View()
    context = browser.new_context(
        viewport={"width": view.width, "height": view.height},
        locale=view.locale,
        color_scheme=view.colours,
        reduced_motion="reduce",
    )
    try:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(url)
        page.locator("#tether-list .tether-nothing, #tether-list ul").wait_for()  # it speaks
        for asked in (*view.before, question):
            _TABS[view.tab](page, asked)
        page.screenshot(path=picture, animations="disabled")
    finally:
        context.close()


def _chat(page: "Page", question: str) -> None:
    """Ask, and bring the cited words into sight."""
    shown = page.locator(".tether-answer, .tether-error")
    count = shown.count()
    box = page.locator("#tether-question textarea")
    box.fill(question)
    box.press("Enter")
    shown.nth(count).wait_for()
    _refuse_errors(page)
    cited = page.locator("#tether-evidence mark")
    if cited.count() and cited.first.is_visible():
        cited.first.scroll_into_view_if_needed()
        shown.last.scroll_into_view_if_needed()  # both are in one column on a phone


def _documents(page: "Page", _: str) -> None:
    """Wait for the list."""
    _choose(page, "documents")
    page.locator("#tether-documents table").wait_for()


def _compare(page: "Page", question: str) -> None:
    """Wait until every column has its answer."""
    _choose(page, "compare")
    page.locator("#tether-compare-question textarea").fill(question)
    page.locator("#tether-compare-go").click()
    page.locator("#tether-compare-stop").wait_for()
    page.locator("#tether-compare-go").wait_for()
    _refuse_errors(page)


def _lab(page: "Page", _: str) -> None:
    """Open the newest report."""
    _choose(page, "lab")
    page.locator("#tether-lab-runs button").first.click()
    page.frame_locator("#tether-lab-report iframe").locator("h1").first.wait_for()


_TABS: Mapping[str, Callable[["Page", str], None]] = {
    "chat": _chat,
    "documents": _documents,
    "compare": _compare,
    "lab": _lab,
}


def _choose(page: "Page", tab: str) -> None:
    page.locator(f"#tether-tab-{tab}-button").click()


def _refuse_errors(page: "Page") -> None:
    error = page.locator(".tether-error")
    if error.count():
        raise click.ClickException(error.first.inner_text())


@click.command()
@click.argument("views", nargs=-1, type=click.Choice(list(VIEWS)))
@click.option("--url", default="http://127.0.0.1:7860", show_default=True, help="The page.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=DOCS,
    help="Folder of the pictures (default: docs/).",
)
def main(views: tuple[str, ...], url: str, out: Path) -> None:
    """Save VIEWS of the running page as pictures, each as NAME.png."""
    from playwright.sync_api import Error, sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise click.ClickException("no chromium; run: apt-get install chromium")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for name in views or VIEWS:
                view = VIEWS[name]
                photograph(browser, url, view.question, out / f"{name}.png", view)
                click.echo(out / f"{name}.png")
    except Error as error:
        reason = error.message.splitlines()[0]
        raise click.ClickException(f"{reason}; start the chat first: make chat") from error


if __name__ == "__main__":
    main()
