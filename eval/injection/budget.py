"""Which arms of the injection experiment fit a budget of time, and what is left out.

    made = plan(read_budget("60m"), standard_arms("cpu"), work, speeds)
    made.arms  # by name, the most telling ones first
    made.left_out  # (what, why), to be said on the page

Arms come in order of importance; those at the core are the ones that the known claims are about. A
plan gives up facts until all seeds of the core fit, then arms of the core, and last seeds: without
several nobody knows how much is the luck of one draw. What time is left goes to the other arms in
their order, and an arm that does not fit does not keep a smaller one out. Knows how long things
take from measured speeds alone: nothing of models.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from eval.injection.arms import Arm, Level, Training
from eval.injection.facts import FACTS_OF_A_GROUP
from ingest.errors import UsageError

FEWEST_FACTS = 8  # of a half and language: two groups a seed
SPARED = 0.9  # of the budget is planned: speeds drift
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")


@dataclass(frozen=True, slots=True)
class Budget:
    """What a user gives: a size by name, or a time."""

    name: str
    level: Level
    seconds: float | None  # None: as long as it takes
    facts: int  # of each half and language
    seeds: int


def read_budget(text: str) -> Budget:
    """Return the budget of that name.

    Args:
        text: "smoke", "gpu", or a time such as "60m", "90s" or "2h".

    Raises:
        UsageError: It is none of these.
    """
    name = text.strip().lower()
    if name == "smoke":
        return Budget(name, "smoke", None, facts=8, seeds=1)
    if name == "gpu":
        return Budget(name, "gpu", None, facts=500, seeds=3)
    found = _BUDGET.fullmatch(name)
    if found is None or not float(found[1]):
        raise UsageError(f'"{text}" is no budget; give smoke, gpu, or a time such as 60m or 2h.')
    return Budget(name, "cpu", float(found[1]) * _UNITS[found[2]], facts=64, seeds=3)


@dataclass(frozen=True, slots=True)
class Work:
    """How much there is to do for one seed with so many invented facts.

    Only what is about them grows with them: the tokens of their lessons, and their questions.
    """

    facts: int  # of each half and language
    tokens: Mapping[str, int]  # lesson to trained tokens of one epoch
    closed: int  # questions about invented facts, without passages
    reading: int  # the same with passages
    own: int = 0  # questions about facts of the user's documents
    known: int = 0  # questions about real facts
    texts: int = 0  # tokens of general text that is read
    replay: Mapping[str, int] = field(default_factory=dict)  # lesson to tokens mixed in by replay


@dataclass(frozen=True, slots=True)
class Speeds:
    """What this machine does with this model, as measured."""

    full: float  # trained tokens a second, all weights
    lora: float  # the same with a LoRA
    closed: float  # seconds for one question without passages, answered shortly
    reading: float  # seconds for one question with three passages
    single: float = math.nan  # the same with one passage; NaN: no less
    texts: float = 0.0  # seconds for one token of general text
    start: float = 0.0  # seconds before the first question of a seed
    bare: float = math.nan  # as `closed`, of a model that nobody showed a short answer; NaN: equal

    def question(self, arm: Arm) -> float:
        """Return seconds for one question that an arm is asked."""
        if arm.is_closed_book:
            is_bare = arm.training is None and arm.asked == "zero-shot"
            return self.bare if is_bare and not math.isnan(self.bare) else self.closed
        one = self.reading if math.isnan(self.single) else self.single
        return one + (self.reading - one) * (max(1, arm.passages) - 1) / 2


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that the budget has no room for."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class FromDocuments:
    """What became of the user's documents."""

    passages: int  # that questions were made from
    questions: int
    asked: int  # of these: such that the base cannot answer, so that they can be learnt


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be run; `seconds` is the estimate, None where nothing was measured."""

    budget: Budget
    facts: int  # invented, of each half and language
    seeds: int
    arms: tuple[str, ...]
    seconds: float | None = None
    left_out: tuple[LeftOut, ...] = ()
    command: str = ""  # that repeats it
    facts_chance: Mapping[str, float] = field(default_factory=dict)  # kind to accuracy of guessing
    documents: FromDocuments | None = None
    each: Mapping[str, float] = field(default_factory=dict)  # arm to seconds beside those before it

    def lines(self) -> list[str]:
        """Return the plan for a reader: sizes, each arm with its minutes, and what is left out."""
        own = f", {self.documents.asked} facts of the documents" if self.documents else ""
        took = "" if self.seconds is None else f", about {self.seconds / 60:.0f} minutes"
        minutes = {name: f"{seconds / 60:5.1f} min  " for name, seconds in self.each.items()}
        return [
            f"{self.budget.name}: {self.seeds} seeds, {self.facts} invented facts of each language"
            f" and half{own}{took}",
            *(f"  {minutes.get(name, '')}{name}" for name in self.arms),
            *(f"left out: {one.what} ({one.why})" for one in self.left_out),
        ]

    def to_json(self) -> str:
        """Return the plan as text; `read_plan` reads it."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def read_plan(text: str) -> Plan:
    """Return a plan that was written.

    Raises:
        ValueError: It is none.
    """
    try:
        row: dict[str, Any] = json.loads(text)
        row["budget"] = Budget(**row["budget"])
        row["left_out"] = tuple(LeftOut(**one) for one in row["left_out"])
        row["documents"] = FromDocuments(**row["documents"]) if row["documents"] else None
        row["arms"] = tuple(Arm.parse(name).name for name in row["arms"])
        return Plan(**row)
    except (TypeError, KeyError, AttributeError, UsageError) as error:
        raise ValueError(f"no plan: {error}") from error


def whole(budget: Budget, arms: Sequence[Arm], seeds: int | None = None) -> Plan:
    """Return the plan of a budget without a limit: everything."""
    names = tuple(arm.name for arm in arms)
    return Plan(budget, budget.facts, seeds or budget.seeds, names)


def plan(
    budget: Budget,
    arms: Sequence[Arm],
    work: Work,
    speeds: Speeds,
    *,
    core: Sequence[Arm] = (),
    seeds: int | None = None,
    spent: float = 0.0,
) -> Plan:
    """Return what fits the budget.

    Args:
        budget: Of time; without a limit everything fits.
        arms: In order of importance.
        work: What there is to do for one seed.
        speeds: Of this machine.
        core: Arms for which facts are given up; those that a verdict needs are always among them.
        seeds: How many are wanted; None for what the budget's size usually has.
        spent: Seconds of the budget that are gone, on questions and measuring.

    Raises:
        UsageError: Not even the smallest comparison fits; the message says what would.
    """
    wanted = seeds or budget.seeds
    if budget.seconds is None:
        return whole(budget, arms, wanted)
    room = SPARED * budget.seconds - spent
    needed = essential(arms)
    wished = [arm for arm in arms if arm in core or arm in needed]
    sizes = _sizes(budget.facts)
    options = [
        *((wished, facts, wanted) for facts in sizes),
        *((needed, sizes[-1], count) for count in range(wanted, 0, -1)),
    ]
    for own, facts, count in options:
        if seconds_of(own, work, speeds, facts, count) <= room:
            break
    else:
        least = (seconds_of(needed, work, speeds, sizes[-1], 1) + spent) / SPARED
        raise UsageError(
            f"A budget of {budget.name} has no room for one trained arm beside retrieval on this"
            f" machine; give --budget {-int(-least // 60)}m or more, or a smaller model."
        )
    chosen = list(own)
    for arm in arms:
        if arm not in chosen and seconds_of([*chosen, arm], work, speeds, facts, count) <= room:
            chosen.append(arm)
    ordered = [arm for arm in arms if arm in chosen]
    left_out = [*_fewer(budget.facts, facts, wanted, count)]
    for arm in arms:
        if arm not in chosen:
            more = seconds_of([*ordered, arm], work, speeds, facts, count)
            more -= seconds_of(ordered, work, speeds, facts, count)
            left_out.append(LeftOut(arm.name, f"it would take {more / 60:.0f} minutes more"))
    return Plan(
        budget,
        facts,
        count,
        tuple(arm.name for arm in ordered),
        seconds_of(ordered, work, speeds, facts, count) + spent,
        tuple(left_out),
        each=_each(ordered, lambda own: seconds_of(own, work, speeds, facts, count)),
    )


def _each(arms: Sequence[Arm], seconds: Callable[[Sequence[Arm]], float]) -> dict[str, float]:
    """Return how many seconds each arm adds to those before it."""
    sums = [seconds(arms[:number]) for number in range(1, len(arms) + 1)]
    before = [0.0, *sums]
    return {arm.name: sums[at] - before[at] for at, arm in enumerate(arms)}


def essential(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Return the arms that a verdict needs: the model as it is, retrieval, and the first training.

    They are the first of their sort, with the untrained arm that is asked like the trained one.
    """
    sorts: tuple[Callable[[Arm], bool], ...] = (
        lambda arm: arm.training is None and arm.asked == "zero-shot",
        lambda arm: arm.training is None and arm.asked == "few-shot",
        lambda arm: arm.training is None and arm.asked == "retrieved",
        lambda arm: arm.training is not None and arm.is_closed_book,
    )
    found = [next((arm for arm in arms if sort(arm)), None) for sort in sorts]
    return tuple(arm for arm in found if arm is not None)


def _sizes(facts: int) -> list[int]:
    """Return numbers of facts to try: as many as wanted, then a group less and so on."""
    return [facts, *range(facts - FACTS_OF_A_GROUP, FEWEST_FACTS - 1, -FACTS_OF_A_GROUP)]


def _fewer(wanted: int, facts: int, seeds: int, count: int) -> Iterable[LeftOut]:
    why = "the budget has room for no more; intervals are wider"
    if facts < wanted:
        yield LeftOut(f"{wanted - facts} of {wanted} facts of each language", why)
    if count < seeds:
        yield LeftOut(f"{seeds - count} of {seeds} seeds", why)


def seconds_of(arms: Sequence[Arm], work: Work, speeds: Speeds, facts: int, seeds: int) -> float:
    """Return about how long some arms take.

    Arms of one course share its training, which lasts as long as the most epochs among them. What
    an untrained arm is asked in all seeds alike takes its time once.
    """
    scale = facts / work.facts
    courses: dict[str, Training] = {}
    for arm in arms:
        if arm.training is not None:
            longest = courses.get(arm.training.course)
            if longest is None or longest.epochs < arm.training.epochs:
                courses[arm.training.course] = arm.training
    seconds, once = speeds.start, 0.0
    for training in courses.values():
        rate = speeds.full if training.rank is None else speeds.lora
        tokens = work.tokens.get(training.lesson, 0)
        if training.mitigation in ("replay", "kl"):
            tokens += work.replay.get(training.lesson, 0)
        grows = 1.0 if training.lesson == "documents" else scale
        seconds += grows * training.epochs * tokens / rate
    for arm in arms:
        closed = arm.is_closed_book
        invented = work.closed if closed else work.reading
        asked = 0.0 if arm.learns == "documents" else scale * invented
        alike = work.own if arm.training is None or arm.learns == "documents" else 0
        alike += work.known if closed else 0
        if arm.training is None and closed:
            once += alike * speeds.question(arm)
        else:  # other seeds find other passages, and train other weights
            asked += alike
        seconds += asked * speeds.question(arm)
        if arm.reads_texts:
            seconds += work.texts * speeds.texts
    return once + seeds * seconds
