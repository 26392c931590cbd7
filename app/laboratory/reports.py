"""Reports as files, and runs compared by their folders.

    FOLDER/report.html  report.md  report-files/*.svg      in Chinese: report.zh.html and so on

Knows nothing of what a page says.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.errors import UsageError

if TYPE_CHECKING:
    from eval.comparison import Comparison
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


def compare_folders(
    left: Path, right: Path, seed: int = 0, scores: Sequence[str] = ()
) -> "Comparison":
    """Compare two runs by their records, baselines left out.

    Args:
        left: Folder of a run.
        right: Folder of another. If both are called alike, they are told by their parents, too.
        seed: Of the bootstrap.
        scores: Those that are tested; () for all.

    Raises:
        UsageError: A folder holds no run, or no sample has one of the scores.
    """
    from eval.comparison import compare
    from eval.records import read_run
    from eval.suites.suite import without_baselines

    folders = left.resolve(), right.resolve()
    runs = [without_baselines(read_run(folder)) for folder in folders]
    if runs[0].name == runs[1].name and folders[0] != folders[1]:
        runs = [
            replace(run, name=f"{folder.parent.name}/{run.name}")
            for run, folder in zip(runs, folders, strict=True)
        ]
    known = dict.fromkeys(name for run in runs for one in run.samples for name in one.scores)
    for name in scores:
        if name not in known:
            raise UsageError(f"no sample has the score {name!r}; choose from: {', '.join(known)}")
    return compare(*runs, seed=seed, scores=scores or None)


def _name(language: str) -> str:
    return _REPORT if language == "en" else f"{_REPORT}.{language}"
