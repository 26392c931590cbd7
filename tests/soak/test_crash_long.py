"""The long form of tests/test_crash.py: more kills, from other seeds."""

from pathlib import Path

import pytest

from tests.crash import kill_again_and_again


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_hundreds_of_kills_lose_nothing(home: Path, seed: int) -> None:
    outcome = kill_again_and_again(home, 250, seed=seed, longest=0.2 * seed)
    assert outcome.kills == 250
