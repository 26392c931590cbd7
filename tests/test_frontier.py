"""From records to a verdict: what was learnt, what was forgotten, which claims held, the page."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from eval.frontier.evidence import OWN, RECOVERED, Evidence
from eval.frontier.frontier import at_matched_acquisition, crossing, curves
from eval.frontier.outcomes import (
    COVERAGE,
    acquisition,
    made_up,
    measure,
    measure_own,
    spent,
)
from eval.frontier.page import frontier_page
from eval.frontier.verdict import CLAIMS_OF, ENOUGH, Finding, decide, findings, groups_needed
from eval.frontier.verdict_words import CLAIMS, SENTENCES, WORDS
from eval.injection.arms import Arm
from eval.injection.budget import FromDocuments, LeftOut, Plan, read_budget, whole
from eval.pages import Costs, Figure, Page, SideBySide, Table, Text, html, markdown
from eval.records import Description, Run, Sample
from eval.resampling import Draws
from eval.statistics import mean, paired
from ingest.errors import UsageError

GROUPS = 24  # of facts, in each language and half
Rates = Mapping[str, float]  # kind to the share of groups that is right

BASE: Rates = {"known/forward": 0.9}
RETRIEVAL: Rates = {
    **{f"{half}/forward-{part}": 0.9 for half in ("train", "control") for part in ("seen", "new")},
    "train/stale": 0.9,
    "train/unanswerable": 0.5,
}


def trained(
    learnt: float, kept: float, *, new: float | None = None, reverse: float = 0.0
) -> dict[str, float]:
    """Return the rates of a training that learnt and kept so much."""
    return {
        "train/forward-seen": learnt,
        "train/forward-new": learnt if new is None else new,
        "train/reverse": reverse,
        "known/forward": kept,
    }


KINDS = [
    *(
        f"{half}/{kind}"
        for half in ("train", "control")
        for kind in ("forward-seen", "forward-new", "reverse", "two-hop", "unanswerable")
    ),
    "known/forward",
]


def make_run(
    arms: Mapping[str, Rates], *, seed: int = 1, groups: int = GROUPS, kl: float = 0.1
) -> Run:
    """Return a run in which each arm has the first so many groups of each kind right."""
    samples = [
        sample
        for name, rates in arms.items()
        for sample in _samples(Arm.parse(name), rates, seed, groups, kl)
    ]
    identity = {"weights": "a" * 64, "seed": str(seed)}
    description = Description("injection", f"tether frontier --seed {seed}", seed, identity)
    return Run(f"seed-{seed}", description, tuple(samples))


def _samples(arm: Arm, rates: Rates, seed: int, groups: int, kl: float) -> list[Sample]:
    found = []
    kinds = [*KINDS, "train/stale"] if arm.passages else KINDS
    for kind in kinds:
        half, _, probe = kind.partition("/")
        for language in ("en", "zh"):
            for group in range(groups):
                right = group < round(rates.get(kind, 0.0) * groups)
                is_known = kind == "known/forward"
                cluster = f"{'known' if is_known else f'{language}-{seed}-{half}'}-{group}"
                found.append(
                    Sample(
                        "injection", arm.name, f"{cluster}-{language}/{probe}", cluster, language,
                        f"{probe} {group}?", "", f"{'yes' if right else 'no'} <blink>", ("yes",),
                        {"right": float(right), "f1": float(right), "refused": 0.0},
                        0.5, {"weights": "a" * 64}, kind=kind,
                        confidence=0.9 if right else 0.4 + 0.01 * group,
                    )
                )  # fmt: skip
    moved = kl if arm.training else 0.0
    for language in ("en", "zh"):
        for number in range(4 if arm.reads_texts else 0):
            scores = {"nats": 2.0 + moved + number / 10, "kl": moved * (1 + number / 10)}
            found.append(
                Sample(
                    "injection", arm.name, f"text-{language}-{number}", f"text-{number}", language,
                    "", "", "", (), scores, 0.1, {}, kind=f"text/{language}",
                )
            )  # fmt: skip
    cost = {"train_seconds": 60.0 if arm.training else None, "index_seconds": 2.0}
    found.append(
        Sample("injection", arm.name, "cost", "cost", "en", "", "", "", (), cost, 60.0, {}, "cost")
    )
    return found


USUAL: Mapping[str, Rates] = {
    "base": BASE,
    "few-shot": BASE,
    "rag-3": RETRIEVAL,
    "full-qa-e2": trained(0.4, 0.6),
    "full-qa-e4": trained(0.8, 0.3),
    "full-qa-e4+rag-3": {**RETRIEVAL, "control/forward-seen": 0.3, "control/forward-new": 0.3},
    "full-qa-gentle-e4": trained(0.4, 0.8),
    "full-qa-replay-e4": trained(0.8, 0.8),
    "full-qa-replay-e4+rag-3": RETRIEVAL,
    "lora16-qa-e4": trained(0.8, 0.8),
    "lora16-text-e4": trained(0.8, 0.8, new=0.1),
    "lora16-paraphrases-e4": trained(0.8, 0.8, new=0.6),
    "lora16-general-e4": trained(0.0, 0.9),
}
PLAN = replace(
    whole(read_budget("gpu"), [Arm.parse(name) for name in USUAL]),
    facts=96,
    left_out=(LeftOut("lora64-qa-e4", "it would take 9 minutes more"),),
    facts_chance={"forward-new": 0.02},
)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return Evidence([make_run(USUAL, seed=1), make_run(USUAL, seed=2)])


# --- Numbers that are resampled together ----------------------------------------------------------


def test_a_mean_and_a_difference_agree_with_the_plain_bootstrap() -> None:
    random = np.random.default_rng(5)
    clusters = [f"g{number // 2}" for number in range(80)]
    left = [float(random.random() < 0.3) for _ in range(80)]
    right = [max(one, float(random.random() < 0.4)) for one in left]
    draws = Draws(resamples=20_000)
    one, two = (draws.mean(list(zip(values, clusters, strict=True))) for values in (left, right))
    plain, both = mean(left, clusters), paired(left, right, clusters)
    assert one.estimate.value == plain.value
    assert one.estimate.low == pytest.approx(plain.low, abs=0.015)
    assert one.estimate.high == pytest.approx(plain.high, abs=0.015)
    assert (two - one).estimate.value == pytest.approx(both.difference.value)
    assert (two - one).estimate.low == pytest.approx(both.difference.low, abs=0.015)
    assert (two - one).estimate.high == pytest.approx(both.difference.high, abs=0.015)
    assert (one - one).drawn.max() == 0  # what two have in common cancels


def test_what_was_never_seen_is_not_certain() -> None:
    draws = Draws()
    never = draws.mean([(0.0, i) for i in range(16)], "a")
    assert never.estimate.value == never.estimate.low == 0
    assert 0.1 < never.estimate.high < 0.25  # Wilson's says .19
    other = draws.mean([(0.0, i) for i in range(16)], "b")
    assert (other - never).estimate.low < -0.05 < 0.05 < (other - never).estimate.high
    still = draws.mean([(0.0, i) for i in range(16)], "c", is_share=False)
    assert still.estimate.high == 0  # a base's distance from itself is no share


def test_equal_seeds_give_equal_draws_in_any_order() -> None:
    rows = [(float(i % 3), f"g{i}") for i in range(12)]
    turned = rows[::-1]
    one = Draws(7).mean(rows, is_share=False)
    other = Draws(7).mean(turned, is_share=False)
    assert np.allclose(one.drawn, other.drawn, equal_nan=True)
    assert not np.allclose(one.drawn, Draws(8).mean(rows, is_share=False).drawn, equal_nan=True)


def test_p_is_small_where_the_interval_leaves_the_least_out() -> None:
    draws = Draws()
    half = draws.mean([(float(i % 2), i) for i in range(60)])
    assert half.p(0.5) > 0.5
    assert half.p(0.35) < half.p(0.4) < 0.5
    assert 0 < half.p(0.1) < 2 / 2001  # 2000 resamples alone could not tell
    few = draws.mean([(float(i > 0), i) for i in range(3)])
    assert few.p(-1.0) == 0.25  # three clusters prove no more by their signs
    assert math.isnan(draws.nothing().p())
    assert draws.nothing().estimate.count == 0


# --- What an arm did ------------------------------------------------------------------------------


def test_learnt_is_what_goes_beyond_facts_that_were_never_trained(evidence: Evidence) -> None:
    guessing = {**trained(0.5, 0.9), "control/forward-new": 0.25}
    found = measure(
        Evidence([make_run({"base": BASE, "full-qa-e4": guessing})]), Arm.parse("full-qa-e4")
    )
    assert (found.right.value, found.guessed.value) == (0.5, 0.25)
    assert found.new.value == 0.25
    assert found.seen.value == 0.5
    assert found.new.low < 0.25 < found.new.high
    reading = measure(evidence, Arm.parse("rag-3"))
    # both halves stand in the passages, so they are compared with the model without passages
    assert reading.new.value == pytest.approx(22 / 24)
    assert reading.new.count == 96  # 24 groups, 2 languages, 2 seeds


def test_what_was_known_is_compared_with_the_model_asked_alike(evidence: Evidence) -> None:
    arms = {**USUAL, "base": {"known/forward": 0.1}}
    found = measure(Evidence([make_run(arms)]), Arm.parse("full-qa-e4"))
    assert found.retention.value == pytest.approx((7 - 22) / 24)  # few-shot, not base
    assert measure(evidence, Arm.parse("rag-3")).retention.count == 0
    assert measure(evidence, Arm.parse("full-qa-e4")).drift.value == pytest.approx(0.115)
    assert measure(evidence, Arm.parse("full-qa-e4")).text.value == pytest.approx(0.1)


def test_what_comes_back_is_a_share_of_what_was_asked_again(evidence: Evidence) -> None:
    run, arm = make_run(USUAL, groups=8), Arm.parse("full-qa-e4")
    known = [one for one in run.samples if (one.arm, one.kind) == (arm.name, "known/forward")]
    again = tuple(
        replace(one, kind=RECOVERED, case_id=f"{one.case_id}/recovered", scores={"right": right})
        for one, right in zip(known, (1.0, 1.0, 0.0, 1.0), strict=False)
    )
    probed = replace(run, samples=(*run.samples, *again))
    assert measure(Evidence([probed]), arm).recovered.value == 0.75
    assert measure(evidence, arm).recovered.count == 0
    for runs, is_shown in (([probed], True), ([run], False)):
        page = frontier_page(runs, PLAN, resamples=100)
        tables = {one.title: one for one in page.blocks if isinstance(one, Table)}
        columns = tables[WORDS["en"]["forgets"]].columns
        assert (WORDS["en"]["recovered"] in columns) == is_shown


def test_whether_passages_are_used_is_asked_of_facts_that_were_not_trained(
    evidence: Evidence,
) -> None:
    found = measure(evidence, Arm.parse("full-qa-e4+rag-3"))
    assert found.reads.value == pytest.approx((7 - 22) / 24)
    assert found.reads.high < 0
    assert found.uses.value == found.heeds.value == 0
    assert measure(evidence, Arm.parse("full-qa-e4")).reads.count == 0


def with_documents(runs: Sequence[Run], rates: Mapping[str, Rates], facts: int) -> list[Run]:
    """Return the runs with so many facts of documents in each half, each arm right on a share."""
    return [
        replace(run, samples=(*run.samples, *_own_samples(rates, run.description.seed, facts)))
        for run in runs
    ]


def _own_samples(rates: Mapping[str, Rates], seed: int, facts: int) -> list[Sample]:
    found = []
    for arm, own in rates.items():
        for half in ("train", "control"):
            for number in range(facts):
                right = float(number < round(own.get(half, 0.0) * facts))
                # Of one half in one seed is of the other in the next, as when they are drawn anew.
                name = 2 * number + (half == "control") ^ (seed % 2)
                found.append(
                    Sample(
                        "injection", arm, f"own-{name}/forward-seen/0", f"passage-{name}", "en",
                        f"Own {name}?", "", "yes" if right else "no", ("yes",),
                        {"right": right, "f1": right, "refused": 0.0}, 0.5,
                        {"weights": "a" * 64}, kind=f"own/{half}/forward-seen", confidence=0.5,
                    )
                )  # fmt: skip
    return found


OWN_RATES: Mapping[str, Rates] = {
    "few-shot": {},
    "rag-3": {"train": 0.9, "control": 0.9},
    "lora16-documents-e4": {"train": 0.3, "control": 0.1},
}


def test_facts_of_documents_are_a_group_of_their_own(evidence: Evidence) -> None:
    runs = with_documents([make_run(USUAL, seed=1), make_run(USUAL, seed=2)], OWN_RATES, 20)
    own = Evidence(runs)
    assert (own.own_facts, evidence.own_facts) == (40, 0)
    trained, read = (measure_own(own, Arm.parse(name)) for name in ("lora16-documents-e4", "rag-3"))
    assert (trained.right.value, trained.guessed.value) == (0.3, 0.1)
    assert trained.learnt.value == pytest.approx(0.2)
    assert read.learnt.value == pytest.approx(0.9)  # beyond the untrained model without passages
    assert measure_own(own, Arm.parse("full-qa-e4")).right.count == 0
    decision = decide(own, OWN)
    assert (decision.choice, decision.arm, decision.other) == (
        "retrieve", "rag-3", "lora16-documents-e4",
    )  # fmt: skip
    assert decide(own) == decide(evidence)  # what is asked of documents changes nothing else
    assert not decide(evidence, OWN).arm
    assert spent(own, Arm.parse("lora16-documents-e4")).per_right == pytest.approx(0.5 * 40 / 12)


def test_languages_are_kept_apart() -> None:
    run = make_run(USUAL)
    deaf = [
        replace(one, scores={**one.scores, "right": 0.0})
        if one.language == "zh" and "right" in one.scores
        else one
        for one in run.samples
    ]
    evidence = Evidence([replace(run, samples=tuple(deaf))])
    arm = Arm.parse("full-qa-e4")
    assert evidence.languages == ("en", "zh")
    parts = [measure(evidence, arm, language).right.value for language in ("en", "zh", "")]
    assert parts == pytest.approx([19 / 24, 0, 9.5 / 24])


def test_made_up_answers_are_compared_at_one_coverage() -> None:
    """Two arms with one order of confidences make up equally much, however sure they sound."""
    run = make_run({"base": BASE, "full-qa-e4": trained(0.5, 0.9)})
    arm = Arm.parse("full-qa-e4")

    def sure(one: Sample, times: float, *, refused: bool = False) -> Sample:
        level = (one.confidence or 0) * times
        scores = {**one.scores, "refused": float(refused)} if one.scores else {}
        return replace(one, confidence=level, scores=scores)

    loud = made_up(Evidence([run]), arm)
    soft = made_up(
        Evidence([replace(run, samples=tuple(sure(one, 0.1) for one in run.samples))]), arm
    )
    assert loud.value == soft.value
    # the sure half of the answerable ones is right at .9, no unanswerable one reaches that
    assert loud.value == 0
    assert 0 < loud.estimate.high < 0.2
    silent = replace(run, samples=tuple(sure(one, 1, refused=True) for one in run.samples))
    assert not made_up(Evidence([silent]), arm).is_known  # it never answers `COVERAGE`
    assert COVERAGE == 0.5
    unsure = replace(run, samples=tuple(replace(one, confidence=None) for one in run.samples))
    assert not made_up(Evidence([unsure]), arm).is_known


def test_a_tie_of_confidences_is_answered_together() -> None:
    run = make_run({"full-qa-e4": trained(0.5, 0.9)})
    flat = replace(run, samples=tuple(replace(one, confidence=0.5) for one in run.samples))
    assert made_up(Evidence([flat]), Arm.parse("full-qa-e4")).value == 1


def test_costs_are_for_right_answers(evidence: Evidence) -> None:
    found = spent(evidence, Arm.parse("full-qa-e4"))
    asked, right = 2 * 2 * 2 * GROUPS, 2 * 2 * 2 * 19
    assert (found.training, found.indexing, found.answering) == (60, 2, 0.5)
    assert found.per_right == pytest.approx((2 * 62 + 0.5 * asked) / right)
    assert spent(evidence, Arm.parse("base")).per_right == math.inf
    assert spent(evidence, Arm.parse("base")).training is None


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([], "give the folders"),
        ([make_run(USUAL), make_run(USUAL)], "one seed"),
        (
            [replace(make_run({}), description=Description("answers", "", 0, {}))],
            "a run of answers, not of injection",
        ),
        (
            [
                make_run({}),
                Run("", Description("injection", "", 2, {"weights": "b"}), ()),
            ],
            "of another model",
        ),
        (
            [
                make_run({}),
                Run("", Description("injection", "", 2, {"weights": "a" * 64, "options": "b"}), ()),
            ],
            "seed and its facts: options; give runs of one experiment",
        ),
    ],
)  # fmt: skip
def test_runs_that_do_not_belong_together_are_refused(runs: Sequence[Run], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Evidence(runs)


# --- The frontier ---------------------------------------------------------------------------------


def test_a_curve_is_read_off_where_it_first_reaches_the_level() -> None:
    x = np.array([[0, 0, 0], [0.4, 0.2, 0.5], [0.2, 0.4, 0.8]])
    y = np.array([[0, 0, 0], [-0.2, -0.1, -0.5], [-0.9, -0.3, -0.2]])
    found = crossing(x, y, 0.3)
    assert found == pytest.approx([-0.15, -0.2, -0.3])
    assert np.isnan(crossing(x, y, 0.9)).all()
    assert crossing(x, y, 0.4)[0] == pytest.approx(-0.2)  # exactly at a point
    missing = crossing(np.array([[0.0], [math.nan]]), np.zeros((2, 1)), 0.1)
    assert np.isnan(missing).all()


def test_trainings_are_compared_where_equally_much_was_learnt(evidence: Evidence) -> None:
    names = [curve.name for curve in curves(evidence, "retention")]
    assert names == [
        "full-qa", "full-qa-gentle", "full-qa-replay", "lora16-qa", "lora16-text",
        "lora16-paraphrases",
    ]  # fmt: skip
    found = at_matched_acquisition(evidence, 0.6)
    # full: 10/24 learnt after 2 epochs for 14/24 - 22/24, 19/24 after 4 for 7/24 - 22/24
    part = (0.6 - 10 / 24) / (9 / 24)
    assert found["full-qa"].kept.value == pytest.approx(-8 / 24 - part * 7 / 24)
    assert found["full-qa"].reached > 0.9
    # one point: straight from the untrained model
    assert found["lora16-qa"].kept.value == pytest.approx(0.6 / (19 / 24) * -3 / 24)
    assert math.isnan(found["lora16-text"].kept.value)
    gap = (found["lora16-qa"].kept - found["full-qa"].kept).estimate
    assert 0 < gap.low < gap.value < gap.high
    drift = at_matched_acquisition(evidence, 0.6, keeps="drift")
    assert drift["full-qa"].kept.value < 0
    with pytest.raises(UsageError, match="above 0"):
        at_matched_acquisition(evidence, 0)


# --- Claims and the verdict -----------------------------------------------------------------------


def state_of(arms: Mapping[str, Rates], claim: str, *, groups: int = GROUPS) -> Finding:
    runs = [make_run(arms, seed=seed, groups=groups) for seed in (1, 2)]
    return next(one for one in findings(Evidence(runs)) if one.claim == claim)


def test_every_claim_is_told_where_it_can_be(evidence: Evidence) -> None:
    found = {one.claim: one for one in findings(evidence)}
    states = {claim: one.state for claim, one in found.items()}
    # retrieval is ahead by 12 points, where 20 are claimed; both move equally far on text
    assert states.pop("retrieval-far-above") != "held"
    assert states.pop("lora-drifts-less") != "held"
    assert set(states.values()) == {"held"}
    assert found["paraphrases-needed"].pairs == (("lora16-paraphrases-e4", "lora16-text-e4"),)
    assert found["paraphrases-needed"].difference.value == pytest.approx(12 / 24)
    assert found["full-damages-context"].difference.value == pytest.approx(15 / 24)
    assert all(one.p <= one.adjusted for one in found.values() if not math.isnan(one.p))


@pytest.mark.parametrize(
    ("arm", "rates", "claim", "state"),
    [
        ("lora16-qa-e4", trained(0.5, 0.8), "retrieval-far-above", "held"),
        ("lora16-text-e4", trained(0.8, 0.8, new=0.9), "paraphrases-needed", "did not hold"),
        ("full-qa-e4", trained(0.8, 0.3, reverse=0.7), "reverse-near-chance", "did not hold"),
        ("full-qa-e4+rag-3", RETRIEVAL, "full-damages-context", "did not hold"),
        ("lora16-qa-e4", trained(0.8, 0.1), "lora-retains-more", "did not hold"),
    ],
)
def test_a_claim_can_fail_as_well(arm: str, rates: Rates, claim: str, state: str) -> None:
    arms = {**USUAL, arm: rates}
    if claim == "retrieval-far-above":
        arms = {name: arms[name] for name in ("base", "few-shot", "rag-3", arm)}
    if claim == "reverse-near-chance":
        arms = {name: arms[name] for name in ("base", "few-shot", arm)}
    assert state_of(arms, claim).state == state


def test_too_little_cannot_be_told() -> None:
    arms = {name: USUAL[name] for name in ("base", "few-shot", "rag-3", "lora16-qa-e4")}
    for claim in CLAIMS["en"]:
        found = state_of(arms, claim, groups=2)
        assert found.state == "cannot be told", claim
    without = state_of({"base": BASE}, "replay-mends-context")
    assert (without.pairs, math.isnan(without.p)) == ((), True)


@pytest.mark.parametrize(
    ("changed", "choice"),
    [
        ({"lora16-qa-e4": trained(0.3, 0.5)}, "retrieve"),
        ({"lora16-qa-e4": trained(1.0, 0.5), "rag-3": trained(0.3, 0.9)}, "fine-tune"),
        (
            {
                "lora16-qa-e4": trained(0.3, 0.5),
                "rag-3": trained(0.4, 0.9),
                "lora16-qa-e4+rag-3": trained(0.9, 0.8),
            },
            "both",
        ),
        ({"lora16-qa-e4": trained(0.88, 0.5)}, "cannot be told"),
    ],
)
def test_the_verdict(changed: Mapping[str, Rates], choice: str) -> None:
    names = ("base", "few-shot", "rag-3", "lora16-qa-e4")
    arms = {name: USUAL[name] for name in names} | dict(changed)
    seeds = (1,) if choice == "cannot be told" else (1, 2, 3)
    decision = decide(Evidence([make_run(arms, seed=seed) for seed in seeds]))
    assert decision.choice == choice
    for language in ("en", "zh"):
        said = decision.sentence(language)
        assert decision.arm in said and decision.other in said
        assert "nan" not in said and "{" not in said
        assert f"{100 * decision.difference.low:.0f}" in said
    assert (decision.needed > 0) == (choice == "cannot be told")
    assert "forgotten" in decision.sentence("en")  # whichever wins, training has its price


def test_without_both_sides_there_is_no_verdict() -> None:
    decision = decide(Evidence([make_run({"base": BASE, "rag-3": RETRIEVAL})]))
    assert decision.choice == "cannot be told"
    assert "measure both" in decision.sentence("en")
    assert "尚无定论" in decision.sentence("zh")


def test_how_much_would_tell() -> None:
    known = mean([0.0, 0.2] * 10, list(range(20)))
    wide = replace(known, value=0.1, low=-0.1, high=0.3)
    assert groups_needed(wide) == 80  # twice as narrow takes four times as many
    assert groups_needed(replace(wide, value=0.0)) == 0


# --- The page -------------------------------------------------------------------------------------


class Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_is_whole_and_comes_out_the_same(language: str) -> None:
    runs = [make_run(USUAL, groups=12, seed=1), make_run(USUAL, groups=12, seed=2)]
    page = frontier_page(runs, PLAN, language, resamples=200)
    words, text = WORDS[language], html(page)
    again = frontier_page(runs, PLAN, language, resamples=200)
    assert (text, markdown(page)) == (html(again), markdown(again))
    assert page.verdict == decide(Evidence(runs, resamples=200)).sentence(language)
    figures = [block for block in page.blocks if isinstance(block, Figure)]
    assert [one.title for one in figures] == [words["frontier"], words["drift_frontier"]]
    tables = {block.title: block for block in page.blocks if isinstance(block, Table)}
    assert list(tables) == [
        words[name] for name in ("arms", "language", "claims", "forgets", "matched", "context")
    ]
    names = [row[0] for row in tables[words["arms"]].rows]
    assert names == [*USUAL, words["refuse"], words["frequent"]]
    told = {block.title: block.text for block in page.blocks if isinstance(block, Text)}
    assert told[words["names"]] == words["names_said"] + words["gentle_said"]
    assert tables[words["arms"]].rows[-1][1] == 0.02
    (shown,) = (block for block in page.blocks if isinstance(block, SideBySide))
    assert len(shown.rows) == 12
    (costs,) = (block for block in page.blocks if isinstance(block, Costs))
    assert [row.name for row in costs.rows] == list(USUAL)
    read = Words()
    read.feed(text)
    assert "<blink>" in read.text and "blink" not in read.tags  # what a model says is text
    assert "lora64-qa-e4" in read.text and "tether frontier --seed 2" in read.text
    assert not re.search(r"\bnan\b", read.text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_verdict_is_about_the_documents_where_they_have_enough_facts(language: str) -> None:
    words, runs = WORDS[language], [make_run(USUAL, groups=8, seed=seed) for seed in (1, 2)]
    plan = replace(PLAN, documents=FromDocuments(48, 30, 24))

    def page(facts: int, rates: Mapping[str, Rates] = OWN_RATES) -> Page:
        own = with_documents(runs, rates, facts) if facts else runs
        return frontier_page(own, plan, language, resamples=200)

    invented = page(0).verdict
    enough = page(ENOUGH // 2)
    assert enough.verdict.endswith(words["own_verdict"].format(facts=ENOUGH))
    assert "lora16-documents-e4" in enough.verdict
    assert enough.blocks[0] == Text(words["invented_verdict"] + invented)
    few = page(ENOUGH // 2 - 1)
    said = words["own_few"].format(facts=ENOUGH - 2, enough=ENOUGH)
    assert few.verdict == invented + said
    untrained = page(ENOUGH, {"few-shot": {}, "rag-3": OWN_RATES["rag-3"]})
    assert untrained.verdict == invented
    assert untrained.blocks[0] == Text(words["own_untrained"].format(facts=2 * ENOUGH))


def test_what_became_of_the_documents_is_said() -> None:
    words, runs = WORDS["en"], [make_run(USUAL, groups=8)]
    plan = replace(PLAN, documents=FromDocuments(48, 30, 24))
    page = frontier_page(with_documents(runs, OWN_RATES, 12), plan, resamples=200)
    (table,) = (one for one in page.blocks if isinstance(one, Table) and one.title == words["own"])
    assert [row[0] for row in table.rows] == list(OWN_RATES)
    assert "30 questions were made from 48 passages" in table.note
    asked = next(
        one for one in page.blocks if isinstance(one, Table) and one.title == words["arms"]
    )
    assert "lora16-documents-e4" not in [row[0] for row in asked.rows]
    worst = [one.title for one in page.blocks if isinstance(one, SideBySide)]
    assert worst == [words["worst"], words["own_worst"]]
    nothing = frontier_page(runs, replace(PLAN, documents=FromDocuments(48, 1, 0)), resamples=200)
    (said,) = (one for one in nothing.blocks if isinstance(one, Text) and one.title == words["own"])
    assert "of 1 questions that were made from 48 passages too few" in said.text


def test_a_smoke_run_says_that_it_means_nothing() -> None:
    plan = replace(PLAN, budget=read_budget("smoke"))
    run = make_run({name: USUAL[name] for name in ("base", "rag-3", "full-qa-e4")}, groups=4)
    for language in ("en", "zh"):
        page = frontier_page([run], plan, language, resamples=50)
        assert page.verdict == WORDS[language]["smoke"]
        assert isinstance(page.blocks[0], Text)


def test_what_is_missing_is_said() -> None:
    run = make_run({name: USUAL[name] for name in ("base", "rag-3", "full-qa-e4")})
    failed = replace(
        run.samples[0],
        arm="full-qa-e2",
        case_id="cost",
        kind="cost",
        scores={},
        failure="no number",
    )
    lonely = replace(run, samples=(*run.samples, failed))
    page = frontier_page([lonely], PLAN, resamples=100)
    words = WORDS["en"]
    left, names = (
        next(block for block in page.blocks if isinstance(block, Text) and block.title == title)
        for title in (words["left_out"], words["names"])
    )
    assert names.text == words["names_said"]  # of a rate that no arm has, nothing is said
    assert "full-qa-e2 failed: no number" in left.text
    assert "lora16-qa-e4 was planned and is not measured yet" in left.text
    assert "full-qa-e2 was planned" not in left.text
    bare = frontier_page([make_run({"base": BASE})], Plan(PLAN.budget, 4, 1, ("base",)), "zh")
    assert "尚无定论" in html(bare)


def test_both_languages_say_the_same_things() -> None:
    for words in (WORDS, CLAIMS, SENTENCES):
        one, other = words["en"], words["zh"]
        assert one.keys() == other.keys()
        for key in one:
            places = [sorted(set(_places(text[key]))) for text in (one, other)]
            assert places[0] == places[1], key
    assert set(CLAIMS["en"]) == set(CLAIMS_OF)


def _places(text: str) -> list[str]:
    return [part.partition("}")[0] for part in text.split("{")[1:]]


def test_measures_are_frozen(evidence: Evidence) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        measure(evidence, Arm.parse("base")).right = None  # type: ignore[misc,assignment]
    assert acquisition(evidence, Arm.parse("base"), "forward-new").value == 0
