"""Committed reports: rendered again from their records, no byte is another."""

import json
import lzma
from pathlib import Path

import pytest

from app.laboratory.experiment import PLAN
from docs.generate import ROOT
from docs.publish import OURS, render
from eval.records import SAMPLES

PUBLISHED = sorted(path for path in (ROOT / "docs" / "reports").iterdir() if path.is_dir())


def _reports(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in {".md", ".html", ".svg"}
    }


def test_a_report_of_the_real_model_is_published() -> None:
    assert any((folder / PLAN).is_file() for folder in PUBLISHED)


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda folder: folder.name)
def test_published_reports_come_out_the_same_from_their_records(
    published: Path, tmp_path: Path
) -> None:
    render(published, tmp_path)

    assert _reports(tmp_path) == _reports(published)


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda folder: folder.name)
def test_no_text_of_a_public_set_is_published(published: Path) -> None:
    for packed in published.glob(f"*/*/{SAMPLES}.xz"):  # of suites
        for line in lzma.decompress(packed.read_bytes()).decode().splitlines():
            row = json.loads(line)
            texts = [row["question"], row["prompt"], row["output"], *row["expected"]]
            texts += [citation["quote"] for citation in row["citations"]]
            assert row["kind"] in OURS or all(len(text) == 64 for text in texts)
