"""Committed reports: rendered again from their records, no byte is another."""

from pathlib import Path

import pytest

from app.laboratory.experiment import write_report
from docs.generate import ROOT
from docs.publish import LANGUAGES, restore

PUBLISHED = sorted((ROOT / "docs" / "reports").glob("*/plan.json"))


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for report in folder.glob("report*")
        for path in (report.rglob("*") if report.is_dir() else [report])
    }


def test_a_report_of_the_real_model_is_published() -> None:
    assert PUBLISHED


@pytest.mark.parametrize("plan", PUBLISHED, ids=lambda plan: plan.parent.name)
def test_a_published_report_comes_out_the_same_from_its_records(plan: Path, tmp_path: Path) -> None:
    restore(plan.parent, tmp_path)

    for language in LANGUAGES:
        write_report(tmp_path, language)

    assert _files(tmp_path) == _files(plan.parent)
