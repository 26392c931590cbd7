"""Photograph a running chat after one question, for the picture in README.md.

    tether chat &
    python -m docs.screenshot chat.png --question "What is catastrophic forgetting?"

Needs Debian's chromium. Knows the page only as a reader does: a box to type in, an answer to wait
for. It starts no chat.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WIDTH, HEIGHT = 1280, 800  # pixels of the picture
PATIENCE = 120_000  # milliseconds for the page, and again for the answer


def photograph(browser: "Browser", url: str, question: str, picture: Path) -> None:
    """Ask a chat one question in a fresh page and save what the reader sees as a PNG.

    Raises:
        click.ClickException: The chat answered with an error.
        playwright.sync_api.Error: No chat answers at `url`, or not in time.
    """
    context = browser.new_context(
        viewport={"width": WIDTH, "height": HEIGHT}, locale="en-US", reduced_motion="reduce"
    )
    try:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(url)
        box = page.locator("#tether-question textarea")
        box.fill(question)
        box.press("Enter")
        page.locator(".tether-answer, .tether-error").wait_for()
        error = page.locator(".tether-error")
        if error.count():
            raise click.ClickException(error.inner_text())
        cited = page.locator("#tether-evidence mark")
        if cited.count():
            cited.first.scroll_into_view_if_needed()
        page.screenshot(path=picture, animations="disabled")
    finally:
        context.close()


@click.command()
@click.argument("picture", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--url", default="http://127.0.0.1:7860", show_default=True, help="The chat's page.")
@click.option("--question", default="What is catastrophic forgetting?", show_default=True)
def main(picture: Path, url: str, question: str) -> None:
    """Ask the running chat a question and save a picture of the page as PICTURE."""
    from playwright.sync_api import Error, sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise click.ClickException("no chromium; run: apt-get install chromium")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            photograph(browser, url, question, picture)
    except Error as error:
        reason = error.message.splitlines()[0]
        raise click.ClickException(f"{reason}; start the chat first: tether chat") from error


if __name__ == "__main__":
    main()
