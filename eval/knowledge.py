"""What a model already knows: one of four labels for each question, by asking it.

    labels = label(cases, examples, answer)
    new = [case for case, known in zip(cases, labels) if known.label == "Unknown"]

After SliCK (Gekhman et al. 2024, "Does Fine-Tuning LLMs on New Knowledge Encourage
Hallucinations?", section 3). Each question is asked under several few-shot prompts, once greedily
and several times by sampling:

    HighlyKnown   every greedy answer is right
    MaybeKnown    some greedy answers are right
    WeaklyKnown   no greedy answer is right, some sampled one is
    Unknown       none is right

For injection keep what is Unknown: what was known cannot be learnt. To measure retention keep real
facts that are HighlyKnown or MaybeKnown: what was not known cannot be forgotten. A label says what
was seen in so many tries: a lucky guess makes a fact WeaklyKnown, so the more samples, the fewer
are Unknown. Knows nothing of how a model is asked.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from eval.cases import Case
from eval.metrics import contains_answer
from ingest.errors import UsageError

Label = Literal["HighlyKnown", "MaybeKnown", "WeaklyKnown", "Unknown"]
Judge = Callable[[str, Sequence[str], str], bool]  # (prediction, answers, language)


@dataclass(frozen=True, slots=True)
class Counts:
    """How often one question was asked and answered rightly."""

    greedy: int = 0
    greedy_right: int = 0
    sampled: int = 0
    sampled_right: int = 0

    def plus(self, right: bool, *, sampled: bool) -> "Counts":
        """Return the counts with one answer more."""
        if sampled:
            return replace(
                self, sampled=self.sampled + 1, sampled_right=self.sampled_right + int(right)
            )
        return replace(self, greedy=self.greedy + 1, greedy_right=self.greedy_right + int(right))


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a model knows of one case."""

    case_id: str
    counts: Counts

    @property
    def label(self) -> Label:
        """The category of the counts."""
        return classify(self.counts)


class Answerer(Protocol):
    """A model that answers questions after examples."""

    def __call__(
        self, cases: Sequence[Case], shots: Sequence[Case], seed: int | None
    ) -> Sequence[str]:
        """Return one answer for each case, in order.

        Args:
            cases: Whose questions are asked, all in one language, each in a prompt of its own.
            shots: Examples that stand before the question, with their first answers.
            seed: None for greedy decoding, else of sampling (SliCK: temperature 0.5, top-k 40).
        """
        ...


@dataclass(frozen=True, slots=True)
class Asking:
    """How often to ask; the defaults are SliCK's."""

    prompts: int = 10  # sets of examples, each asked greedily once
    shots: int = 4  # examples in a prompt
    samples: int = 16  # sampled answers for each prompt
    seed: int = 0


def classify(counts: Counts) -> Label:
    """Return SliCK's category for the counts.

    Raises:
        ValueError: There is no greedy answer, or more right ones than answers.
    """
    if not 0 <= counts.greedy_right <= counts.greedy or not counts.greedy:
        raise ValueError(f"{counts.greedy_right} right of {counts.greedy} greedy answers")
    if not 0 <= counts.sampled_right <= counts.sampled:
        raise ValueError(f"{counts.sampled_right} right of {counts.sampled} sampled answers")
    if counts.greedy_right == counts.greedy:
        return "HighlyKnown"
    if counts.greedy_right:
        return "MaybeKnown"
    return "WeaklyKnown" if counts.sampled_right else "Unknown"


def label(
    cases: Sequence[Case],
    examples: Sequence[Case],
    answer: Answerer,
    asking: Asking | None = None,
    *,
    judge: Judge = contains_answer,
) -> list[Knowledge]:
    """Return what the model knows of each case, in the order of the cases.

    Sampling only tells WeaklyKnown from Unknown, so only cases without a right greedy answer are
    sampled, and only until one sample is right. The labels are those that asking on would give.

    Args:
        cases: Answerable questions with their answers; ids are unique.
        examples: Answerable cases to draw few-shot examples from, less those that are asked.
        answer: The model.
        asking: How often to ask; None for SliCK's numbers, 10 greedy and up to 160 sampled answers.
        judge: Tells whether an answer is right. The default is stricter than `is_right`, whose
            F1 calls "Silver Otter" right for "Silver Heron".

    Raises:
        UsageError: A case has no answer, two have one id, or a language has too few examples.
    """
    asking = asking or Asking()
    counts = _uncounted(cases, asking)

    def ask(asked: Sequence[Case], shots: Sequence[Case], seed: int | None) -> None:
        if not asked:
            return
        for case, said in zip(asked, answer(asked, shots, seed), strict=True):
            right = judge(said, case.answers, case.language)
            counts[case.id] = counts[case.id].plus(right, sampled=seed is not None)

    for language in dict.fromkeys(case.language for case in cases):
        same = [case for case in cases if case.language == language]
        prompts = _prompts(same, examples, asking)
        for shots in prompts:
            ask(same, shots, None)
        for number, shots in enumerate(prompts):
            for sample in range(asking.samples):
                left = [case for case in same if classify(counts[case.id]) == "Unknown"]
                seed = (asking.seed * len(prompts) + number) * asking.samples + sample
                ask(left, shots, seed)
    return [Knowledge(case.id, counts[case.id]) for case in cases]


def _uncounted(cases: Sequence[Case], asking: Asking) -> dict[str, Counts]:
    """Return empty counts by the id of a case."""
    if asking.prompts < 1:
        raise UsageError(f"Nothing is known after {asking.prompts} prompts; ask with at least 1.")
    for case in cases:
        if not case.answers:
            raise UsageError(f"Case {case.id} has no answer to compare with; leave it out.")
    counts = {case.id: Counts() for case in cases}
    if len(counts) != len(cases):
        raise UsageError("Two cases have the same id; give each its own.")
    return counts


def _prompts(
    cases: Sequence[Case], examples: Sequence[Case], asking: Asking
) -> list[tuple[Case, ...]]:
    """Return the examples of each prompt, drawn anew for each."""
    language = cases[0].language
    asked = {case.question for case in cases}
    fit = [
        one
        for one in examples
        if one.language == language and one.answers and one.question not in asked
    ]
    if len(fit) < asking.shots:
        raise UsageError(
            f"{len(fit)} examples in {language} cannot fill a prompt of {asking.shots}; give more"
            " examples or ask with fewer shots."
        )
    rng = random.Random(f"{asking.seed}:{language}")
    return [tuple(rng.sample(fit, asking.shots)) for _ in range(asking.prompts)]
