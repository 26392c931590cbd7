"""Hostile files by the hundred: the short form; the long one is in tests/soak."""

from pathlib import Path

from tests.fuzz import make, survive


def test_hostile_files_harm_no_neighbour(tmp_path: Path) -> None:
    folder, good = make(tmp_path, seed=1, count=300)
    report, grown = survive(folder, good)
    assert report.counts["failed"] > 50 and len(good) == 12
    assert grown < 300_000_000
