"""Questions with the passage that answers them, and passages of the same kind that do not.

    questions = gold_questions(request, others=9)
    trials = [trial_of(question) for question in questions]

A set is "facts", the invented articles of `eval.injection.facts`, which needs no data and which no
model has read, or a public set by its name, as far as its questions have a gold passage. The other
passages are drawn from the same set and language, and none of them holds an accepted answer; in
"facts" they say the same things of other subjects. Knows nothing of models.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from eval.cases import Case
from eval.datasets import find_data, load, require_licences
from eval.injection.facts import build_world
from eval.metrics import contains_answer, f1
from eval.suites.suite import Measured, Request, Trial
from ingest.errors import UsageError
from model.claims import is_refusal, unmarked

FACTS = "facts"
# Whose code decides what "facts" holds.
FACT_MODULES = ("injection.facts", "injection.names", "injection.wordings")
_FACTS = 32  # of each half of the world and language
_DRAWS = 20  # tries for each passage that is wanted


@dataclass(frozen=True, slots=True)
class GoldQuestion:
    """A case with its gold passage in `case.gold_context`; `others` come in a drawn order."""

    set: str
    case: Case
    others: tuple[str, ...]

    @property
    def gold(self) -> str:
        """The passage that holds the answer."""
        return self.case.gold_context or ""

    def passages(self, count: int, place: int) -> list[str]:
        """Return so many passages, the gold one at a place (from 0)."""
        others = list(self.others[: count - 1])
        return [*others[:place], self.gold, *others[place:]]


def gold_questions(request: Request, others: int) -> list[GoldQuestion]:
    """Return the questions of the sets that are asked for, "facts" if none is.

    Args:
        request: Names the sets; its seed decides the facts and the passages drawn.
        others: Passages to draw for each question; a small set may have fewer.

    Raises:
        UsageError: A set is unknown, missing, damaged or not for this use, or has no gold
            passages.
    """
    found = []
    for name in request.sets or (FACTS,):
        cases = _cases(name, request)
        passages: dict[str, list[str]] = defaultdict(list)
        for case in cases:
            passages[case.language].append(case.gold_context or "")
        pools = {language: list(dict.fromkeys(own)) for language, own in passages.items()}
        for case in cases:
            drawn = _others(case, pools[case.language], others, request.seed)
            found.append(GoldQuestion(name, case, drawn))
    return found


def _cases(name: str, request: Request) -> list[Case]:
    if name == FACTS:
        world = build_world(_FACTS, request.seed)
        probes = [*world.train.probes, *world.control.probes]
        return [
            probe.case for probe in probes if probe.kind == "forward-seen" and not probe.wording
        ]
    require_licences([name], accepted=request.accepts_licences)
    cases = load(name, find_data(request.data))
    asked = [case for case in cases if case.answerable and case.answers and case.gold_context]
    if not asked:
        raise UsageError(
            f"The questions of {name} have no gold passage to be placed: choose {FACTS}, or a set"
            " of reading comprehension such as xquad."
        )
    return asked


def _others(case: Case, pool: Sequence[str], count: int, seed: int) -> tuple[str, ...]:
    """Return distinct passages that hold no answer; fewer if the pool has no more."""
    rng = random.Random(f"{seed}:{case.id}")
    found: dict[str, None] = {}
    for _ in range(count * _DRAWS):
        if len(found) == count:
            break
        text = rng.choice(pool)
        if text != case.gold_context and not contains_answer(text, case.answers, case.language):
            found[text] = None
    return tuple(found)


def trial_of(question: GoldQuestion) -> Trial[GoldQuestion]:
    """Return the trial of a question; its kind is its set."""
    case = question.case
    return Trial(
        f"{question.set}/{case.id}", question, case.question, case.language, case.cluster,
        question.set, case.answers,
    )  # fmt: skip


def answer_scores(case: Case, output: str) -> dict[str, float | None]:
    """Return "right", "f1" and "answered" of an output; a refusal is no answer."""
    said = unmarked(output)
    answered = bool(said) and not is_refusal(said)
    return {
        "right": float(answered and contains_answer(said, case.answers, case.language)),
        "f1": f1(said, case.answers, case.language) if answered else 0.0,
        "answered": float(answered),
    }


def told(case: Case, output: str) -> Measured:
    """Return an output with its scores, as that of a baseline."""
    return Measured(output, answer_scores(case, output))
