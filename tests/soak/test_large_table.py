"""A csv of 60 MB: not one row is missing."""

from pathlib import Path

import pytest

from tests.test_pains import ingest_table


@pytest.mark.timeout(1800)
def test_every_row_of_a_table_of_60_mb_is_found(tmp_path: Path) -> None:
    assert ingest_table(tmp_path, rows=620_000) > 60_000_000
