"""What a frontier decides: which known claims held here, and whether to retrieve or to fine-tune.

    found = findings(evidence)
    decision = decide(evidence)  # or decide(evidence, OWN), about the user's documents
    decision.sentence("zh")

A claim is a difference and the least that it would have to be. It held if the difference is larger,
and did not hold if it is smaller, with chance ruled out at .05 over all claims together (Holm); it
did not hold either if the whole interval is too small to matter. Else it cannot be told, and that
is said. A difference is taken over all pairs of arms that differ in nothing else. Pure over
evidence: knows nothing of pages or files.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from eval.frontier.evidence import KNOWN, NEW, OWN, SEEN, Evidence, Group
from eval.frontier.frontier import Keeps, at_matched_acquisition, curves
from eval.frontier.outcomes import acquisition, known_twin, reading_twin, wording_of
from eval.frontier.verdict_words import SENTENCES
from eval.injection.arms import Arm, Training
from eval.resampling import Quantity
from eval.statistics import Estimate, holm

ALPHA = 0.05  # of one false alarm among all claims, and of the verdict
FAR = 0.2  # what "far above" means, in shares of the questions
NEAR = 0.1  # what "near chance" means
SMALL = 0.05  # a difference below this does not matter
LEARNT = 0.3  # acquisition from which a training has learnt its facts
MATCHED = 0.9  # of the highest level that both reach, to compare at
ENOUGH = 20  # facts of the user's documents, from which the verdict is about them

Claim = Literal[
    "retrieval-far-above",
    "paraphrases-needed",
    "reverse-near-chance",
    "full-damages-context",
    "replay-mends-context",
    "lora-retains-more",
    "lora-drifts-less",
]
CLAIMS_OF: tuple[Claim, ...] = get_args(Claim)
State = Literal["held", "did not hold", "cannot be told"]
Choice = Literal["retrieve", "fine-tune", "both", "cannot be told"]
Pair = tuple[Arm, Arm]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one claim."""

    claim: Claim
    difference: Estimate  # the claim says that it is above `least`
    least: float
    pairs: tuple[tuple[str, str], ...]  # (arm, arm that it is compared with) by name
    p: float  # that the difference is `least`
    adjusted: float = math.nan  # by Holm's correction over all claims

    @property
    def state(self) -> State:
        """Whether the claim held."""
        number = self.difference
        if not math.isfinite(number.value) or math.isnan(number.low):
            return "cannot be told"
        if number.low > self.least and self.adjusted <= ALPHA:
            return "held"
        is_less = number.high < self.least and self.adjusted <= ALPHA
        is_small = self.least == 0 and number.high < SMALL
        return "did not hold" if is_less or is_small else "cannot be told"


def findings(evidence: Evidence) -> tuple[Finding, ...]:
    """Return what became of each known claim."""
    tests: tuple[Callable[[Evidence], Finding], ...] = (
        _retrieval_far_above,
        _paraphrases_needed,
        _reverse_near_chance,
        _full_damages_context,
        _replay_mends_context,
        lambda one: _lora_keeps_more(one, "lora-retains-more", "retention"),
        lambda one: _lora_keeps_more(one, "lora-drifts-less", "drift"),
    )
    found = [test(evidence) for test in tests]
    adjusted = holm([one.p for one in found])
    return tuple(replace(one, adjusted=p) for one, p in zip(found, adjusted, strict=True))


def _finding(
    claim: Claim, quantities: Sequence[Quantity], pairs: Sequence[Pair], least: float = 0.0
) -> Finding:
    """Return the finding over several pairs: the mean of their differences."""
    known = [(one, pair) for one, pair in zip(quantities, pairs, strict=True) if one.is_known]
    if not known:
        nothing = Estimate(math.nan, math.nan, math.nan, 0, 0)
        return Finding(claim, nothing, least, (), math.nan)
    mean = average([one for one, _ in known])
    names = tuple((left.name, right.name) for _, (left, right) in known)
    return Finding(claim, mean.estimate, least, names, mean.p(least))


def average(quantities: Sequence[Quantity]) -> Quantity:
    """Return the mean of some quantities, one at least."""
    total = quantities[0]
    for one in quantities[1:]:
        total = total + one
    number = len(quantities)
    return replace(total, value=total.value / number, drawn=total.drawn / number)


def _retrieval_far_above(evidence: Evidence) -> Finding:
    """Compare the best of each side, which flatters the side with more arms: fine-tuning."""
    sides = _sides(evidence, "")
    best = [_best(evidence, sides[name], "") for name in ("retrieve", "fine-tune")]
    if best[0] is None or best[1] is None:
        return _finding("retrieval-far-above", [], [], FAR)
    pair = (best[0], best[1])
    difference = _over(evidence, *pair, "")
    return _finding("retrieval-far-above", [difference], [pair], FAR)


def _paraphrases_needed(evidence: Evidence) -> Finding:
    pairs = _pairs(evidence, lambda one: one.lesson == "paraphrases", lesson="text")
    pairs = [pair for pair in pairs if pair[0].is_closed_book]
    wording = wording_of(evidence)
    differences = [
        acquisition(evidence, one, wording) - acquisition(evidence, other, wording)
        for one, other in pairs
    ]
    return _finding("paraphrases-needed", differences, pairs)


def _reverse_near_chance(evidence: Evidence) -> Finding:
    """Take the trainings that did learn their facts forwards; none has seen them turned round."""
    wording = wording_of(evidence)
    arms = [
        arm
        for arm in evidence.arms
        if arm.is_closed_book and arm.learns == "facts"
        if acquisition(evidence, arm, wording).value >= LEARNT
    ]
    missing = [-acquisition(evidence, arm, "reverse") for arm in arms]
    return _finding("reverse-near-chance", missing, [(arm, arm) for arm in arms], -NEAR)


def _full_damages_context(evidence: Evidence) -> Finding:
    """Ask what only the passages say: facts that nothing was trained on."""
    pairs = [
        (twin, arm)
        for arm in evidence.arms
        if arm.training is not None
        and (arm.training.recipe, arm.training.mitigation) == ("full", "none")
        if (twin := reading_twin(evidence, arm)) is not None
    ]
    kinds = [f"control/{SEEN}", f"control/{NEW}"]
    lost = [evidence.difference(*pair, kinds) for pair in pairs]
    return _finding("full-damages-context", lost, pairs)


def _replay_mends_context(evidence: Evidence) -> Finding:
    pairs = _pairs(
        evidence,
        lambda one: (one.recipe, one.mitigation) == ("full", "replay"),
        mitigation="none",
    )
    pairs = [pair for pair in pairs if pair[0].passages]
    kinds = [f"control/{SEEN}", f"control/{NEW}"]
    gained = [evidence.difference(*pair, kinds) for pair in pairs]
    return _finding("replay-mends-context", gained, pairs)


def _pairs(
    evidence: Evidence, chosen: Callable[[Training], bool], **other: str
) -> list[tuple[Arm, Arm]]:
    """Return (arm, its twin): the same but for what `other` says, both measured."""
    found = []
    for arm in evidence.arms:
        if arm.training is None or not chosen(arm.training):
            continue
        training = replace(arm.training, **other)  # type: ignore[arg-type]
        twin = replace(arm, training=training)
        if evidence.has(twin):
            found.append((arm, twin))
    return found


def _lora_keeps_more(evidence: Evidence, claim: Claim, keeps: Keeps) -> Finding:
    """Compare each LoRA with full training on the same lesson where both have learnt equally much.

    The level is a little below the highest that both reach, and each pair has its own.
    """
    most = {
        one.name: max((stage.learnt.value for stage in one.stages), default=math.nan)
        for one in curves(evidence, keeps)
    }
    gained, pairs = [], []
    for name, reached in most.items():
        recipe, _, lesson = name.partition("-")
        twin = f"full-{lesson}"
        if recipe == "full" or twin not in most:
            continue
        level = MATCHED * min(reached, most[twin])
        if not LEARNT * MATCHED <= level <= 1:
            continue
        matched = at_matched_acquisition(evidence, level, keeps=keeps)
        gained.append(matched[name].kept - matched[twin].kept)
        pairs.append((_last(evidence, name), _last(evidence, twin)))
    return _finding(claim, gained, pairs)


def _last(evidence: Evidence, name: str) -> Arm:
    """Return the arm of a training with the most epochs."""
    own = [
        arm
        for arm in evidence.arms
        if arm.is_closed_book
        and arm.training is not None
        and arm.training.name.rpartition("-e")[0] == name
    ]
    return max(own, key=lambda arm: arm.training.epochs if arm.training else 0)


# --- Retrieve or fine-tune ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and how sure that is."""

    choice: Choice
    arm: str  # the better one, "" where nothing could be compared
    other: str  # the best one of the other side
    right: Estimate  # share right, of `arm`
    other_right: Estimate
    difference: Estimate  # `arm` minus `other` on the same questions
    needed: int  # groups of facts that would tell; 0 where it is told, or nothing was compared
    forgotten: Estimate  # retention of known facts by the one of both that is trained

    def sentence(self, language: str) -> str:
        """Return the verdict for a reader who is no expert, in "zh" or else in English."""
        words = SENTENCES["zh" if language == "zh" else "en"]
        if not self.arm:
            return words["missing"]
        said = words[self.choice].format(
            arm=self.arm,
            other=self.other,
            right=_percent(self.right.value),
            other_right=_percent(self.other_right.value),
            difference=f"{100 * self.difference.value:.0f}",
            low=_points(self.difference.low),
            high=_points(self.difference.high),
            count=self.difference.count,
            clusters=self.difference.clusters,
        )
        if self.needed:
            said += words["needed"].format(needed=self.needed)
        lost = self.forgotten
        if lost.count and lost.high < 0:
            said += words["forgets"].format(lost=f"{-100 * lost.value:.0f}", arm=self.arm)
        return said


def decide(evidence: Evidence, group: Group = "") -> Decision:
    """Return whether to retrieve, to fine-tune, or to do both.

    The best arm of each side is taken, by its share right, and compared on the same questions; a
    p-value counts as often as the better side had arms to choose from (Bonferroni), since the best
    of many is partly lucky. Both is only worth it if it is better than the better one alone.

    Args:
        evidence: All samples.
        group: Which facts it is about: invented ones, or those of the user's documents.
    """
    sides = _sides(evidence, group)
    best = {name: _best(evidence, arms, group) for name, arms in sides.items()}
    single = [arm for name in ("retrieve", "fine-tune") if (arm := best[name]) is not None]
    if len(single) < 2:
        nothing = Estimate(math.nan, math.nan, math.nan, 0, 0)
        return Decision("cannot be told", "", "", nothing, nothing, nothing, 0, nothing)
    single.sort(key=lambda arm: -_right(evidence, arm, group).value)
    better, worse = single
    both = best["both"]
    if both is not None:
        gained = _over(evidence, both, better, group)
        if gained.value > 0 and gained.p() * len(sides["both"]) <= ALPHA:
            return _decision(evidence, "both", (both, better), gained, group)
    gained = _over(evidence, better, worse, group)
    choice: Choice = "retrieve" if better == best["retrieve"] else "fine-tune"
    if not (gained.value > 0 and gained.p() * len(sides[choice]) <= ALPHA):
        choice = "cannot be told"
    return _decision(evidence, choice, (better, worse), gained, group)


def _sides(evidence: Evidence, group: Group) -> dict[str, list[Arm]]:
    """Return the arms by what a user would have to do for them."""
    sides: dict[str, list[Arm]] = {"retrieve": [], "fine-tune": [], "both": []}
    taught = "documents" if group == OWN else "facts"
    for arm in evidence.arms:
        if arm.training is None and arm.asked == "retrieved":
            sides["retrieve"].append(arm)
        elif arm.learns == taught:
            sides["both" if arm.passages else "fine-tune"].append(arm)
    return sides


def _kind(evidence: Evidence, group: Group) -> str:
    """Return the kind of question by which arms are compared."""
    return f"{group}train/{wording_of(evidence, group)}"


def _right(evidence: Evidence, arm: Arm, group: Group) -> Quantity:
    return evidence.mean(arm, [_kind(evidence, group)])


def _best(evidence: Evidence, arms: Sequence[Arm], group: Group) -> Arm | None:
    known = [arm for arm in arms if _right(evidence, arm, group).is_known]
    return max(known, key=lambda arm: _right(evidence, arm, group).value, default=None)


def _over(evidence: Evidence, arm: Arm, other: Arm, group: Group) -> Quantity:
    return evidence.difference(arm, other, [_kind(evidence, group)])


def _decision(
    evidence: Evidence, choice: Choice, pair: Pair, gained: Quantity, group: Group
) -> Decision:
    arm, other = pair
    trained = next((one for one in pair if one.training is not None), arm)
    alone = _without_passages(trained)
    base = known_twin(evidence, alone)
    forgotten = (
        evidence.difference(alone, base, [KNOWN])
        if trained.training is not None and base is not None and evidence.has(alone)
        else evidence.draws.nothing()
    )
    number = gained.estimate
    return Decision(
        choice,
        arm.name,
        other.name,
        _right(evidence, arm, group).estimate,
        _right(evidence, other, group).estimate,
        number,
        groups_needed(number) if choice == "cannot be told" else 0,
        forgotten.estimate,
    )


def _without_passages(arm: Arm) -> Arm:
    """Return a trained arm that is asked from its weights alone; any other as it is."""
    return Arm.parse(arm.training.name) if arm.training else arm


def groups_needed(difference: Estimate) -> int:
    """Return about how many groups would show a difference of that size, 0 where nobody can say.

    The half width of an interval shrinks with the root of the number of groups.
    """
    half = (difference.high - difference.low) / 2
    if not math.isfinite(half) or abs(difference.value) < 0.01:
        return 0
    return max(
        difference.clusters + 1, math.ceil(difference.clusters * (half / difference.value) ** 2)
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if math.isfinite(share) else "?"


def _points(share: float) -> str:
    return f"{100 * share:.0f}" if math.isfinite(share) else "?"
