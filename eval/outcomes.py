"""What became of a question: answered rightly, answered wrongly, or left alone.

The rates are those of SimpleQA, and of hallucination and refusal, as scores of single samples and
as counts of many. Beside them stand the baselines that no scorer may be content with. A score of
None does not apply and counts in no mean. Knows nothing of models, files or intervals.

    found = [outcome("1973", ["1973"], "en"), outcome("", ["Oan"], "en")]
    tally(found).f_score  # 0.667
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.metrics import first_sentence, is_right

Outcome = Literal["correct", "incorrect", "not attempted"]


def outcome(prediction: str, answers: Sequence[str], language: str) -> Outcome:
    """Return how an answer counts, by rule; "" stands for an abstention.

    It is `is_right` in place of SimpleQA's judging model. Without accepted answers, as for an
    unanswerable question, whatever is said is incorrect.
    """
    if not prediction.strip():
        return "not attempted"
    return "correct" if is_right(prediction, answers, language) else "incorrect"


def outcome_scores(found: Outcome, *, answerable: bool) -> dict[str, float | None]:
    """Return the scores of one sample whose means are the rates of `Outcomes`, and two more.

    `hallucinated` has the mean W/N and `wrong_if_attempted` W/(C+W). `rejected` is for what cannot
    be answered, `over_refused` for what can (Chen et al. 2024, RGB, for the first).
    """
    attempted = found != "not attempted"
    wrong = float(found == "incorrect")
    return {
        "correct": float(found == "correct"),
        "attempted": float(attempted),
        "hallucinated": wrong,
        "wrong_if_attempted": wrong if attempted else None,
        "rejected": None if answerable else float(not attempted),
        "over_refused": float(not attempted) if answerable else None,
    }


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Counts of outcomes, and the rates of OpenAI's simple-evals (Wei et al. 2024, SimpleQA).

    As there, a rate without anything to divide by is 0; the rate of wrong ones is NaN.
    """

    correct: int
    incorrect: int
    not_attempted: int

    @property
    def count(self) -> int:
        """N, all questions."""
        return self.correct + self.incorrect + self.not_attempted

    @property
    def attempted(self) -> int:
        """C + W, the questions that were answered."""
        return self.correct + self.incorrect

    @property
    def accuracy(self) -> float:
        """C / N, which SimpleQA calls "correct"."""
        return self.correct / self.count if self.count else 0.0

    @property
    def accuracy_given_attempted(self) -> float:
        """C / (C + W)."""
        return self.correct / self.attempted if self.attempted else 0.0

    @property
    def f_score(self) -> float:
        """The harmonic mean of `accuracy` and `accuracy_given_attempted`."""
        return 2 * self.correct / (self.count + self.attempted) if self.correct else 0.0

    @property
    def hallucination_rate(self) -> float:
        """W / N: an answer is wrong and was given anyway."""
        return self.incorrect / self.count if self.count else float("nan")

    @property
    def wrong_if_attempted(self) -> float:
        """W / (C + W), the risk of believing an answer."""
        return self.incorrect / self.attempted if self.attempted else float("nan")


def tally(found: Iterable[Outcome]) -> Outcomes:
    """Return the counts of outcomes."""
    counts = Counter(found)
    return Outcomes(counts["correct"], counts["incorrect"], counts["not attempted"])


def degenerate_outputs(passages: Sequence[str]) -> dict[str, str]:
    """Return what assistants without any sense say to a question with these passages, best first.

    A scorer that looks for the gold answer is content with an echo, and one that counts errors
    with silence, so these stand in every table.
    """
    return {
        "always abstain": "",
        "echo all passages": "\n".join(passages),
        "first sentence": first_sentence(passages[0]) if passages else "",
    }


def baseline_scores(
    passages: Sequence[str], score: Callable[[str], Mapping[str, float | None]]
) -> dict[str, Mapping[str, float | None]]:
    """Return the scores of each degenerate baseline on one case.

    Args:
        passages: Texts of the case's passages, best first.
        score: Gives the scores of an output on this case, as it does for any arm.
    """
    return {name: score(output) for name, output in degenerate_outputs(passages).items()}
