"""A page of the laboratory as files: one HTML file, one of Markdown, and the Markdown's pictures.

    FOLDER/report.html  report.md  report-files/*.svg      in Chinese: report.zh.html and so on

Knows nothing of what a page says.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.pages import Page

_REPORT = "report"


def page_file(folder: Path, language: str = "en") -> Path:
    """Return where the HTML file of a folder's page is, or will be."""
    return folder / f"{_name(language)}.html"


def write_page(folder: Path, page: "Page", language: str) -> Path:
    """Write a page in both forms, each file in one step, and return the HTML file."""
    from eval.pages import html, markdown
    from retrieval.store import replace_file

    name = _name(language)
    pictures = folder / f"{name}-files"
    text, drawn = markdown(page, pictures.name)
    for file, svg in drawn.items():
        pictures.mkdir(exist_ok=True)
        replace_file(pictures / file, svg.encode())
    replace_file(folder / f"{name}.md", text.encode())
    target = page_file(folder, language)
    replace_file(target, html(page).encode())
    return target


def _name(language: str) -> str:
    return _REPORT if language == "en" else f"{_REPORT}.{language}"
