"""The smallest example of forgetting: a line that learns one new point and loses two old ones.

    for method in METHODS:
        print(refit(method))

A model is the line y = slope * x + intercept, so its whole memory is two numbers. It was fitted to
(2, 6) and (3, 7), which gives y = x + 4 exactly. Now it shall learn (4, 13), where it says 8. Small
steps downhill on the error of that point alone end at a line that says 13 at x = 4, and is wrong
at 2 and 3: nobody asked it to forget, but the new point and the old ones are answered by the same
two numbers. This is what happens in a large model too, with more numbers.

The remedies have the same names there:

    plain             only the new point: learnt wholly, and the old ones are wrong
    replay            the old points are trained along: all three are a little wrong, since no line
                      goes through them
    l2-sp             each step is also pulled back to where the line was: half learnt, and half
                      as much is forgotten
    frozen-slope      only the intercept may move: learnt, and the old points are off by 5 each
    frozen-intercept  only the slope may move: learnt, and less is forgotten, by luck of the numbers

No remedy gives both, because two numbers cannot hold three points that lie on no line: what can be
kept depends on the room a model has. Comparing after equally many steps would praise the remedy
that has merely learnt less, so `Refit` holds the error of new and old at every step, to compare
where equally much was learnt. Knows nothing of language models.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Method = Literal["plain", "replay", "l2-sp", "frozen-slope", "frozen-intercept"]
METHODS: tuple[Method, ...] = get_args(Method)

OLD = ((2.0, 6.0), (3.0, 7.0))  # points (x, y) the line was fitted to
NEW = ((4.0, 13.0),)  # the point it learns now
START = (1.0, 4.0)  # slope and intercept of the line through the old points


@dataclass(frozen=True, slots=True)
class Refit:
    """What became of the line.

    The errors have one entry before the first step and one after each, steps + 1 in all.
    """

    method: Method
    slope: float
    intercept: float
    old_errors: tuple[float, ...]  # mean distance |line - y| over the old points
    new_errors: tuple[float, ...]  # the same at the new point

    def __str__(self) -> str:
        """Return for instance "plain: y = 2.18x + 4.29, old off by 3.24, new off by 0.00"."""
        return (
            (
                f"{self.method}: y = {self.slope:.2f}x {self.intercept:+.2f}, old off by"
                f" {self.old_errors[-1]:.2f}, new off by {self.new_errors[-1]:.2f}"
            )
            .replace("x +", "x + ")
            .replace("x -", "x - ")
        )


def refit(
    method: Method, *, steps: int = 2000, rate: float = 0.05, strength: float = 17.0
) -> Refit:
    """Return how the line changes by gradient descent on half the summed squared error.

    Args:
        method: Which remedy is used.
        steps: Gradient steps; 2000 bring every method to its end within 1e-6.
        rate: Step size; above 2 / 31.8 `replay` diverges (31.8 is its largest curvature).
        strength: Of `l2-sp`, the lambda in lambda / 2 * |parameters - start|^2 (Li et al. 2018).
            17 is the curvature of the new point, so that half of it is learnt.
    """
    start = np.array(START)
    inputs, targets = _points(OLD + NEW if method == "replay" else NEW)
    pull = strength if method == "l2-sp" else 0.0
    free = np.array([method != "frozen-slope", method != "frozen-intercept"], dtype=np.float64)
    parameters = start.copy()
    path = [parameters]
    for _ in range(steps):
        gradient = inputs.T @ (inputs @ parameters - targets) + pull * (parameters - start)
        parameters = parameters - rate * free * gradient
        path.append(parameters)
    return Refit(
        method,
        float(parameters[0]),
        float(parameters[1]),
        _errors(path, OLD),
        _errors(path, NEW),
    )


def _points(points: tuple[tuple[float, float], ...]) -> tuple[NDArray[np.float64], ...]:
    """Return inputs with a column of ones for the intercept, shape (n, 2), and targets (n,)."""
    x, y = np.array(points).T
    return np.stack([x, np.ones_like(x)], axis=1), y


def _errors(
    path: list[NDArray[np.float64]], points: tuple[tuple[float, float], ...]
) -> tuple[float, ...]:
    inputs, targets = _points(points)
    distances = np.abs(np.stack(path) @ inputs.T - targets)  # (steps + 1, n)
    return tuple(distances.mean(axis=1).tolist())
