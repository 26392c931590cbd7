"""The line that forgets: gradient steps end where the closed form says, for every remedy."""

import numpy as np
import pytest
from numpy.typing import NDArray

from eval.line import METHODS, NEW, OLD, START, Method, refit

_ROW = np.array([4.0, 1.0])  # the new point as a row: x and 1
_MISS = 13.0 - 8.0  # how far the start is from it


def _closed_form(method: Method, strength: float) -> NDArray[np.float64]:
    start: NDArray[np.float64] = np.array(START)
    if method == "plain":  # the nearest line that holds the point
        return np.asarray(start + _MISS * _ROW / 17)
    if method == "l2-sp":  # ridge regression around the start
        moved = np.linalg.solve(np.outer(_ROW, _ROW) + strength * np.eye(2), _MISS * _ROW)
        return np.asarray(start + moved)
    if method == "replay":
        x, y = np.array(OLD + NEW).T
        return np.asarray(np.polyfit(x, y, 1))
    return np.asarray(
        start + (np.array([0.0, 5.0]) if method == "frozen-slope" else np.array([1.25, 0.0]))
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strength", [1.0, 17.0])
def test_descent_ends_at_the_closed_form(method: Method, strength: float) -> None:
    found = refit(method, strength=strength)
    expected = _closed_form(method, strength)
    assert [found.slope, found.intercept] == pytest.approx(expected, abs=1e-6)
    for errors, points in ((found.old_errors, OLD), (found.new_errors, NEW)):
        distances = [abs(expected[0] * x + expected[1] - y) for x, y in points]
        assert errors[-1] == pytest.approx(np.mean(distances), abs=1e-5)


def test_the_start_holds_the_old_points_and_plain_refitting_loses_them() -> None:
    found = refit("plain")
    assert (found.old_errors[0], found.new_errors[0]) == (0.0, _MISS)
    assert found.new_errors[-1] == pytest.approx(0.0, abs=1e-9)
    assert found.old_errors[-1] == pytest.approx((45 / 17 + 65 / 17) / 2)
    assert str(found) == "plain: y = 2.18x + 4.29, old off by 3.24, new off by 0.00"
    assert "y = 3.50x - 1.83" in str(refit("replay"))


def test_no_remedy_gives_both() -> None:
    for method in METHODS:
        found = refit(method)
        assert found.old_errors[-1] + found.new_errors[-1] > 1.0, method
        assert found.new_errors[-1] < found.new_errors[0], method


def test_l2_sp_trades_one_for_the_other_as_its_strength_grows() -> None:
    runs = [refit("l2-sp", strength=strength, rate=0.01) for strength in (0.0, 1.0, 17.0, 80.0)]
    old = [run.old_errors[-1] for run in runs]
    new = [run.new_errors[-1] for run in runs]
    assert old == sorted(old, reverse=True)
    assert new == sorted(new)
    assert old[0] == pytest.approx(refit("plain").old_errors[-1])


def test_errors_are_counted_from_before_the_first_step_and_runs_are_equal() -> None:
    assert refit("replay", steps=3) == refit("replay", steps=3)
    assert len(refit("replay", steps=3).old_errors) == 4
    assert refit("replay", steps=3).new_errors == refit("replay").new_errors[:4]
