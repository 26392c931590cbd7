"""The suite `reversal`: is a fact that is known in one direction known in the other?

    with open_suite(laboratory, Request(sets=("facts", "fictitious", "parents"))) as suite:
        run = run_suite(suite, Path("runs/reversal"), limit=200)

A causal model is asked for the object of a fact and for its subject. It chooses among the right
continuation and nine of other facts, asked for in the same words, by their mean log-probability of
a character (so long ones are not at a loss); and it writes, greedily. The prompts come bare, and
after the text that states the fact in one direction, which shows that what is missing is not the
skill to turn a sentence round.

"facts" are the one-to-one relations of `eval.injection.facts`. "fictitious" and "parents" are the
data of Berglund et al. 2024, "The Reversal Curse", in its folder under the data folder: invented
people with a description, which no untrained model knows, and celebrities with their parents. In
all but the last an untrained model is at chance from memory: train one, and name it. Knows nothing
of settings.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval.chinese import say
from eval.datasets import find_data, read_rows
from eval.injection.facts import Fact, World, build_world
from eval.injection.questions import EXAMPLES, SHOTS, STOP, closed_prompt
from eval.injection.wordings import RELATIONS
from eval.metrics import contains_answer
from eval.pages import Block, Cell, Table
from eval.records import Run, Sample, digest
from eval.scoring import Completion, ContinuationScore, Scorer, normalised_choice_accuracy
from eval.suites.gold_questions import FACT_MODULES, FACTS
from eval.suites.pages import Layout, arms_of, mean_of
from eval.suites.suite import (
    Laboratory,
    Measured,
    Request,
    Suite,
    Trial,
    Variant,
    hash_code,
    is_baseline,
)
from ingest.errors import UsageError
from model.prompts import PromptOptions, build_prompt

NAME = "reversal"
PROTOCOL = 1  # raise it when equal options come to mean another measurement
CHOICES = 10  # the right one and others
FILES: Mapping[str, str] = {
    "fictitious": "reversal_curse/fictitious.dev.jsonl.gz",
    "parents": "reversal_curse/parents.dev.jsonl.gz",
}
SETS = (FACTS, *FILES)

_WORLD = 128  # facts of each half and language: enough of each relation to choose from
_BLOCK = 32  # trials in a batch
_NEW_TOKENS = 32  # of a greedy continuation


@dataclass(frozen=True, slots=True)
class Ask:
    """One direction of one fact, put to a model that continues text."""

    id: str
    kind: str  # set and direction, such as "facts, in reverse"
    language: str
    cluster: str  # the fact or person
    question: str  # for the record
    prompt: str
    right: tuple[str, ...]  # accepted answers; the first is the continuation
    form: str  # asks of one kind, language and form have choices in common
    informed: str = ""  # the prompt after the text that states the fact; "" if no text does
    choices: tuple[str, ...] = ()  # the right continuation first, then others

    @property
    def gap(self) -> str:
        """What stands between the prompt and a continuation."""
        return "" if self.language == "zh" else " "


# --- What is asked --------------------------------------------------------------------------------


def asks_of(request: Request) -> list[Ask]:
    """Return what the sets of a request ask, "facts" if it names none.

    Raises:
        UsageError: There is no such set, or its file is missing or damaged.
    """
    found: list[Ask] = []
    for name in request.sets or (FACTS,):
        if name == FACTS:
            found += fact_asks(build_world(_WORLD, request.seed))
        elif name in FILES:
            path = find_data(request.data) / FILES[name]
            if not path.is_file():
                raise UsageError(
                    f"The set {name!r} needs the file {path}: point at the folder of the question"
                    " sets with --data PATH or TETHER_DATA."
                )
            found += fictitious_asks(path) if name == "fictitious" else parent_asks(path)
        else:
            raise UsageError(
                f"There is no set {name!r} to turn round; choose from: {', '.join(SETS)}."
            )
    return [one for one in with_choices(found, request.seed) if len(one.choices) > 1]


def fact_asks(world: World) -> list[Ask]:
    """Return both directions of every one-to-one fact, each asked in one wording.

    The text is the article about the subject, in the prompt that answers use.
    """
    halves = (world.train, world.control)
    facts: dict[str, Fact] = {fact.id: fact for half in halves for fact in half.facts}
    found = []
    for probe in (probe for half in halves for probe in half.probes):
        fact = facts[probe.facts[0]]
        if probe.wording or not RELATIONS[fact.relation].one_to_one:
            continue
        direction = {"forward-seen": "as stated", "reverse": "in reverse"}.get(probe.kind)
        if direction:
            case = probe.case
            shots = EXAMPLES[case.language][:SHOTS]
            article = [(1, case.gold_context or "")]
            found.append(Ask(
                id=f"facts/{case.id}", kind=f"facts, {direction}", language=case.language,
                cluster=fact.id, question=case.question,
                prompt=closed_prompt(case.question, shots), right=case.answers,
                form=fact.relation,
                informed=build_prompt(case.question, article, PromptOptions()).as_text(),
            ))  # fmt: skip
    return found


def fictitious_asks(path: Path) -> list[Ask]:
    """Return the test prompts of the invented people, in both directions.

    The text is a statement of the training part, so it has the direction that a model trained there
    has read. People who are stated in both directions are left out: nothing is turned round.

    Raises:
        UsageError: The file is missing or damaged.
    """
    needed = ("id", "name", "subset", "use", "direction", "prompt", "completion")
    rows = list(_rows(path, needed))
    statements: dict[str, str] = {}
    for row in rows:
        if row["use"] == "train":
            statements.setdefault(row["name"], row["prompt"] + row["completion"])
    found = []
    for row in rows:
        direction = {"test": "as stated", "reverse_test": "in reverse"}.get(row["use"])
        if direction and row["subset"] != "both":
            name, prompt = row["name"], row["prompt"]
            wanted = "descriptions" if row["direction"] == "name_first" else "names"
            found.append(Ask(
                id=f"fictitious/{row['id']}", kind=f"fictitious {wanted}, {direction}",
                language="en", cluster=name, question=prompt, prompt=prompt,
                right=(row["completion"].strip(),),
                # A name fits after any description; a description fits after some words only.
                form=prompt.replace(name, "") if wanted == "descriptions" else "",
                informed=f"{statements[name]}\n{prompt}" if name in statements else "",
            ))  # fmt: skip
    return found


def parent_asks(path: Path) -> list[Ask]:
    """Return the questions for celebrities' parents, and for a child of each parent.

    Raises:
        UsageError: The file is missing or damaged.
    """
    needed = ("id", "question", "answers", "reverse_question", "reverse_answer")
    rows = list(_rows(path, needed))
    children: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        children[row["reverse_question"]].append(row["reverse_answer"])
    found = []
    for row in rows:
        child, parents, back = row["reverse_answer"], row["answers"], row["reverse_question"]
        asked = {
            "child to parent": (row["question"], parents),
            "parent to child": (back, [child, *children[back]]),
        }
        for direction, (question, right) in asked.items():
            form = question.replace(child, "").replace(parents[0], "")
            found.append(Ask(
                id=f"parents/{row['id']}, {direction}", kind=f"parents, {direction}",
                language="en", cluster=child, question=question,
                prompt=closed_prompt(question, EXAMPLES["en"][:SHOTS]),
                right=tuple(dict.fromkeys(right)), form=form,
            ))  # fmt: skip
    return found


def _rows(path: Path, needed: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file, each with the fields that are needed."""
    for number, row in read_rows(path):
        missing = [name for name in needed if not isinstance(row, dict) or name not in row]
        if missing:
            raise UsageError(
                f"{path}:{number} lacks the field {missing[0]!r}: fetch the file again."
            )
        yield row


def with_choices(asks: Sequence[Ask], seed: int) -> list[Ask]:
    """Return each with continuations of others of its form to choose from.

    None of them is an accepted answer, or of the same cluster, so that only one is right.

    Args:
        asks: Of any kinds.
        seed: Of the draw; each draws by itself.
    """
    groups: dict[tuple[str, str, str], list[Ask]] = defaultdict(list)
    for one in asks:
        groups[one.kind, one.language, one.form].append(one)
    return [_chosen(one, groups[one.kind, one.language, one.form], seed) for one in asks]


def _chosen(one: Ask, group: Sequence[Ask], seed: int) -> Ask:
    others = dict.fromkeys(
        other.right[0]
        for other in group
        if other.cluster != one.cluster and not set(other.right) & set(one.right)
    )
    rng = random.Random(f"{seed}:{one.id}")
    drawn = rng.sample(list(others), min(CHOICES - 1, len(others)))
    return replace(one, choices=(one.right[0], *drawn))


# --- Measuring ------------------------------------------------------------------------------------


@contextmanager
def open_suite(laboratory: Laboratory, request: Request) -> Iterator[Suite[Ask]]:
    """Yield the suite over the sets of a request.

    Raises:
        UsageError: There is no such set, or its file is missing or damaged.
        SettingsError: The generator in force gives no likelihoods.
        WeightsError: It cannot be loaded.
    """
    asks = asks_of(request)
    identity = laboratory.identity() | {
        "code": hash_code(*FACT_MODULES, "injection.questions", "suites.reversal"),
        "cases": digest([asdict(one) for one in asks]),
        "protocol": str(PROTOCOL),
    }
    scorer = Scorer(*laboratory.causal_model())
    memory = Variant("from memory", _measure(scorer, _bare), _BLOCK)
    passage = Variant("after the text", _measure(scorer, _informed), _BLOCK, takes=_has_text)
    yield Suite(NAME, identity, tuple(map(_trial, asks)), (memory, passage))


def _trial(one: Ask) -> Trial[Ask]:
    return Trial(one.id, one, one.question, one.language, one.cluster, one.kind, one.right)


def _has_text(trial: Trial[Ask]) -> bool:
    return bool(trial.subject.informed)


def _bare(one: Ask) -> str:
    return one.prompt


def _informed(one: Ask) -> str:
    return one.informed


def _measure(
    scorer: Scorer, prompt_of: Callable[[Ask], str]
) -> Callable[[Sequence[Trial[Ask]]], list[Measured]]:
    """Return what scores and continues a block of prompts at once."""

    def measure(trials: Sequence[Trial[Ask]]) -> list[Measured]:
        asks = [trial.subject for trial in trials]
        prompts = [prompt_of(one) for one in asks]
        pairs = [
            (prompt, one.gap + choice)
            for prompt, one in zip(prompts, asks, strict=True)
            for choice in one.choices
        ]
        found = iter(scorer.continuations(pairs))
        scores = [[next(found) for _ in one.choices] for one in asks]
        said = scorer.answers(prompts, STOP, max_new_tokens=_NEW_TOKENS)
        return [_measured(*row) for row in zip(asks, prompts, scores, said, strict=True)]

    return measure


def _measured(
    one: Ask, prompt: str, scores: Sequence[ContinuationScore], said: Completion
) -> Measured:
    """Return what a model made of one ask: `scores` are of its choices, the right one first."""
    likely = [score.log_probability for score in scores]
    rates = [value / len(text) for value, text in zip(likely, one.choices, strict=True)]
    output = said.text.strip()
    return Measured(
        output,
        {
            "chosen": normalised_choice_accuracy(likely, one.choices, 0),
            "margin": rates[0] - sum(rates[1:]) / len(rates[1:]),
            "said": float(contains_answer(output, one.right, one.language)),
        },
        prompt,
        baselines={"a choice at random": Measured("", {"chosen": 1 / len(one.choices)})},
    )


# --- The report -----------------------------------------------------------------------------------

_CHOSEN = mean_of("chosen", "right one chosen of ten")
_SAID = mean_of("said", "right one written")
_MARGIN = mean_of("margin", "margin, nats a character")


def _directions(run: Run, seed: int, language: str) -> list[Block]:
    """Return both directions side by side for each arm, set and language."""
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for one in run.samples:
        groups[one.kind, one.language].append(one)
    asked = say("{kind} ({language})", language)
    columns = ("asked", "arm", _CHOSEN.label, _SAID.label)
    rows: list[tuple[Cell, ...]] = [
        (
            asked.format(kind=say(kind, language), language=say(spoken, language)),
            say(arm, language),
            _CHOSEN.of(own, seed),
            _SAID.of(own, seed),
        )
        for (kind, spoken), samples in groups.items()
        for arm, own in arms_of(samples).items()
        if not is_baseline(arm) and own
    ]
    names = tuple(say(name, language) for name in columns)
    return [Table(say("Both directions", language), names, tuple(rows))]


def _verdict(run: Run, seed: int, language: str) -> str:
    """Return what is chosen rightly in each direction, from memory."""
    found: dict[str, list[Sample]] = defaultdict(list)
    for one in run.samples:
        if one.arm == "from memory" and one.failure is None:
            found[one.kind].append(one)
    told = [f"{say(kind, language)} {_CHOSEN.of(own, seed)}" for kind, own in found.items()]
    return say("Right one chosen of ten, from memory: {told}.", language).format(
        told=say("; ", language).join(told) or say("nothing was measured", language)
    )


LAYOUT = Layout(
    "Facts turned round",
    'A model that learnt "A is B" may not know who or what B is. Each fact is asked for in both'
    " directions, from memory and after the text that states it.",
    (_CHOSEN, _SAID, _MARGIN),
    legend=(
        "Chosen: of ten continuations the right one is the likeliest a character; chance is one in"
        " ten. Margin: how much likelier the right one is than the mean of the others. A model that"
        " was never trained on invented facts is at chance from memory; what it does after the text"
        " is what it could do. An answer adapter that is in force is on in both."
    ),
    extra=_directions,
    verdict=_verdict,
)
