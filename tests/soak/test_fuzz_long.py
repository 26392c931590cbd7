"""Ten thousand hostile files, 500 MB of one line among them."""

from pathlib import Path

import pytest

from tests.fuzz import make, survive


@pytest.mark.timeout(3600)
def test_ten_thousand_hostile_files(tmp_path: Path) -> None:
    folder, good = make(tmp_path, seed=2, count=10_000, giant_bytes=500_000_000)
    report, grown = survive(folder, good)
    assert report.counts["failed"] > 2000 and len(good) == 400
    assert grown < 600_000_000
