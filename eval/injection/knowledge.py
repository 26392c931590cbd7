"""Which facts of the injection experiment a model knows before anything is trained.

    known = known_cases(scorer, candidates, Asking(prompts=3, samples=4))
    left = unknown_only(world, knowledge)

Only what is unknown can be learnt, and only what is known can be forgotten (`eval.knowledge`).
Invented facts should all be unknown; asking shows whether they are, guesses included. Knows nothing
of arms or records.
"""

from collections.abc import Collection, Sequence

from eval.cases import Case
from eval.injection.facts import World
from eval.injection.questions import EXAMPLES, STOP, closed_prompt
from eval.knowledge import Answerer, Asking, Knowledge, label
from eval.scoring import Scorer
from ingest.documents import content_id

_TEMPERATURE = 0.5  # of SliCK; its top-k of 40 changes little at this temperature


def knowledge_of(
    scorer: Scorer, cases: Sequence[Case], asking: Asking, *, most_new_tokens: int = 24
) -> list[Knowledge]:
    """Return what a model knows of each case, in their order."""
    return label(cases, _examples(), answerer(scorer, most_new_tokens), asking)


def known_cases(
    scorer: Scorer, candidates: Sequence[Case], asking: Asking, *, most_new_tokens: int = 24
) -> list[Case]:
    """Return the cases that a model answers greedily at least once: what it can forget.

    Raises:
        UsageError: A case has no answer, or two have one id.
    """
    found = knowledge_of(scorer, candidates, asking, most_new_tokens=most_new_tokens)
    kept = ("HighlyKnown", "MaybeKnown")
    return [case for case, one in zip(candidates, found, strict=True) if one.label in kept]


def fact_cases(world: World) -> dict[str, Case]:
    """Return by fact id, of both halves, the first wording of its question."""
    return {
        probe.facts[0]: probe.case
        for half in (world.train, world.control)
        for probe in half.probes
        if probe.kind == "forward-seen" and not probe.wording
    }


def unknown_only(world: World, unknown: Collection[str]) -> World:
    """Return the world with those facts alone, in both halves, which so stay of one kind."""
    return World(world.seed, world.train.only(unknown), world.control.only(unknown))


def answerer(scorer: Scorer, most_new_tokens: int) -> Answerer:
    """Return a model that answers after examples, as `eval.knowledge` asks it."""

    def answer(cases: Sequence[Case], shots: Sequence[Case], seed: int | None) -> list[str]:
        pairs = [(shot.question, shot.answers[0]) for shot in shots]
        prompts = [closed_prompt(case.question, pairs) for case in cases]
        if seed is None:
            found = scorer.answers(prompts, STOP, max_new_tokens=most_new_tokens)
        else:  # what is drawn depends on the case, not on which others are still asked
            seeds = [int(content_id(f"{seed}:{case.id}")[:8], 16) for case in cases]
            found = scorer.sampled(
                prompts, seeds, STOP, temperature=_TEMPERATURE, max_new_tokens=most_new_tokens
            )
        return [one.text.strip() for one in found]

    return answer


def _examples() -> list[Case]:
    return [
        Case(f"example/{language}/{number}", language, question, (answer,), answerable=True)
        for language, pairs in EXAMPLES.items()
        for number, (question, answer) in enumerate(pairs)
    ]
