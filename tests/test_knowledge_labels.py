"""SliCK's labels: worked counts, scripted models, and the default model on real and new facts."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from eval.cases import Case
from eval.injection.facts import build_world
from eval.knowledge import Asking, Counts, Knowledge, classify, label
from ingest.errors import UsageError


def _case(name: str, answer: str = "blue", language: str = "en") -> Case:
    return Case(name, language, f"Of what colour is {name}?", (answer,), answerable=True)


EXAMPLES = [_case(f"example {number}") for number in range(8)]
Reply = Callable[[str, int | None], str]  # (id of the case, seed)


class _Scripted:
    """Answers by a rule and keeps what it was asked."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.asked: list[tuple[str, int | None]] = []
        self.shots: list[tuple[str, ...]] = []

    def __call__(
        self, cases: Sequence[Case], shots: Sequence[Case], seed: int | None
    ) -> Sequence[str]:
        self.asked += [(case.id, seed) for case in cases]
        self.shots.append(tuple(case.id for case in shots))
        return [self.reply(case.id, seed) for case in cases]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (Counts(10, 10), "HighlyKnown"),
        (Counts(10, 10, 160, 0), "HighlyKnown"),
        (Counts(10, 9, 160, 160), "MaybeKnown"),
        (Counts(10, 1), "MaybeKnown"),
        (Counts(10, 0, 160, 1), "WeaklyKnown"),
        (Counts(10, 0, 160, 0), "Unknown"),
        (Counts(1, 0), "Unknown"),
    ],
)
def test_the_four_categories(counts: Counts, expected: str) -> None:
    assert classify(counts) == expected
    assert Knowledge("c", counts).label == expected


@pytest.mark.parametrize("counts", [Counts(), Counts(2, 3), Counts(2, 1, 1, 2), Counts(2, -1)])
def test_counts_that_cannot_be_are_refused(counts: Counts) -> None:
    with pytest.raises(ValueError, match="right of"):
        classify(counts)


def test_each_category_comes_from_a_model_that_answers_so() -> None:
    greedy = iter(["blue", "red", "red"])  # of the case that is known now and then

    def reply(name: str, seed: int | None) -> str:
        if name == "always":
            return "It is Blue."
        if name == "sometimes" and seed is None:
            return next(greedy)
        return "blue" if name == "by luck" and seed == 4 else "red"

    model = _Scripted(reply)
    cases = [_case(name) for name in ("always", "by luck", "never", "sometimes")]
    labels = label(cases, EXAMPLES, model, Asking(prompts=3, shots=2, samples=2))
    assert [(known.case_id, known.label) for known in labels] == [
        ("always", "HighlyKnown"),
        ("by luck", "WeaklyKnown"),
        ("never", "Unknown"),
        ("sometimes", "MaybeKnown"),
    ]
    assert labels[1].counts == Counts(3, 0, 5, 1)
    assert labels[2].counts == Counts(3, 0, 6, 0)
    sampled = [name for name, seed in model.asked if seed is not None]
    assert sampled.count("always") == sampled.count("sometimes") == 0
    assert sampled.count("by luck") == 5, "asking stops when one sample is right"
    assert [seed for name, seed in model.asked if name == "never" and seed is not None] == [
        *range(6)
    ]


def test_examples_are_of_the_language_and_never_what_is_asked() -> None:
    model = _Scripted(lambda name, seed: "blue")
    chinese = [_case(f"例{number}", language="zh") for number in range(5)]
    cases = [EXAMPLES[0], _case("天", language="zh"), EXAMPLES[1]]
    known = label(cases, [*EXAMPLES, *chinese], model, Asking(prompts=6, shots=4))
    assert [one.case_id for one in known] == [case.id for case in cases]
    english = {shot for shots in model.shots[:6] for shot in shots}
    assert english <= {one.id for one in EXAMPLES[2:]}
    assert {shot for shots in model.shots[6:] for shot in shots} <= {one.id for one in chinese}
    assert all(len(set(shots)) == 4 for shots in model.shots)
    assert len(set(model.shots[:6])) > 1


def test_a_seed_fixes_the_prompts_and_the_samples() -> None:
    runs = []
    for seed in (1, 1, 2):
        model = _Scripted(lambda name, seed: "red")
        label([_case("sky")], EXAMPLES, model, Asking(prompts=2, samples=3, seed=seed))
        runs.append((model.asked, model.shots))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert {seed for _, seed in runs[0][0]} & {seed for _, seed in runs[2][0]} == {None}


def test_a_name_that_shares_a_word_is_not_known() -> None:
    ship = Case("s", "en", "Which ship?", ("Silver Heron",), answerable=True)
    near = _Scripted(lambda name, seed: "Silver Otter")
    (known,) = label([ship], EXAMPLES, near, Asking(prompts=1, samples=1))
    assert known.label == "Unknown"


def test_what_cannot_be_labelled_is_a_user_error() -> None:
    model = _Scripted(lambda name, seed: "")
    twin = Case("t", "en", "Who?", (), answerable=False)
    with pytest.raises(UsageError, match="leave it out"):
        label([twin], EXAMPLES, model)
    with pytest.raises(UsageError, match="fewer shots"):
        label([_case("a")], EXAMPLES[:3], model)
    with pytest.raises(UsageError, match="the same id"):
        label([_case("a"), _case("a")], EXAMPLES, model)
    with pytest.raises(UsageError, match="at least 1"):
        label([_case("a")], EXAMPLES, model, Asking(prompts=0))
    assert label([], EXAMPLES, model) == []
    assert not model.asked


@pytest.mark.weights
def test_the_default_model_knows_capitals_and_no_invented_person(
    gemma_gguf: Path, weights_home: Path
) -> None:
    del gemma_gguf  # only there to be prepared, or to skip
    from app.assembly import build_generator
    from app.settings import load_settings
    from model.generators import Decoding
    from model.prompts import Prompt

    # The base alone: the adapter that answers from passages has forgotten how to answer without.
    one_thread = {"generator.threads": "1"}  # as `real_settings` has it
    chosen = {"home": str(weights_home), "generator.adapter": "none"} | one_thread
    generator = build_generator(load_settings(chosen, {}))

    def answer(cases: Sequence[Case], shots: Sequence[Case], seed: int | None) -> list[str]:
        turns = tuple((f"Question: {one.question}", one.answers[0]) for one in shots)
        decoding = Decoding(
            strategy="greedy" if seed is None else "sample",
            temperature=0.5,
            seed=seed or 0,
            max_new_tokens=12,
        )
        return [
            "".join(
                generator.stream(
                    Prompt("", turns, f"Question: {case.question}", "Answer:", ("\n",)), decoding
                )
            )
            for case in cases
        ]

    def capital(country: str, town: str) -> Case:
        question = f"What is the capital of {country}?"
        return Case(country, "en", question, (town,), answerable=True)

    examples = [
        capital(*pair)
        for pair in (("Poland", "Warsaw"), ("Egypt", "Cairo"), ("Peru", "Lima"), ("Iran", "Tehran"))
    ]
    real = [capital("France", "Paris"), capital("Japan", "Tokyo")]
    new = [
        probe.case
        for probe in build_world(8, 1, ["en"]).train.probes
        if probe.facts[0].endswith(("founder", "architect"))
        and (probe.kind, probe.wording) == ("forward-seen", 0)
    ]
    assert len(new) == 2
    known = label([*real, *new], examples, answer, Asking(prompts=1, shots=3, samples=2))
    assert {one.label for one in known[:2]} == {"HighlyKnown"}
    assert {one.label for one in known[2:]} == {"Unknown"}
