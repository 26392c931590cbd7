"""The suite `decoding`: how the next token is chosen, and whether examples stand before a question.

    with open_suite(laboratory, Request()) as suite:
        run = run_suite(suite, Path("runs/decoding"), limit=50)

The generator alone answers the same questions greedily, by beam search where its backend has one,
and by sampling at three temperatures from three seeds each; zero-shot and after three examples;
from memory, and with passages in front. Samples of several seeds are one arm. Knows nothing of
settings.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from eval.chinese import say
from eval.outcomes import degenerate_outputs
from eval.pages import Block, Cell, Table
from eval.records import Run, Sample, digest
from eval.statistics import mean
from eval.suites.gold_questions import (
    FACT_MODULES,
    GoldQuestion,
    answer_scores,
    gold_questions,
    told,
    trial_of,
)
from eval.suites.pages import SECONDS, Layout, arms_of, mean_of
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
from model.generators import Decoding
from model.prompts import PromptOptions, build_prompt

NAME = "decoding"
PROTOCOL = 2  # raise it when equal options come to mean another measurement
TEMPERATURES = (0.3, 0.7, 1.0)
DRAWS = 3  # seeds of each temperature
BEAMS = 4
SHOTS = {"zero-shot": 0, "few-shot": 3}  # examples before the question
PASSAGES = {"from memory": 0, "with passages": 3}  # the gold one stands last, next to the question

_BEAM_BACKENDS = ("transformers", "scripted")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to answer: how tokens are chosen, after how many examples, over how many passages."""

    name: str
    decoding: Decoding
    prompt: PromptOptions
    passages: int


@contextmanager
def open_suite(laboratory: Laboratory, request: Request) -> Iterator[Suite[GoldQuestion]]:
    """Yield the suite over the sets of the request, the invented facts if it names none.

    Raises:
        UsageError: A set is unknown, missing or damaged, or has no gold passages.
        WeightsError: The generator cannot be loaded.
    """
    questions = gold_questions(request, others=max(PASSAGES.values()) - 1)
    identity = laboratory.identity() | {
        "code": hash_code(*FACT_MODULES, "suites.decoding", "suites.gold_questions"),
        "cases": digest([asdict(question) for question in questions]),
        "protocol": str(PROTOCOL),
    }
    variants = tuple(_variant(laboratory, way) for way in ways(laboratory, request.seed))
    yield Suite(NAME, identity, tuple(map(trial_of, questions)), variants)


def ways(laboratory: Laboratory, seed: int) -> list[Way]:
    """Return all ways that the generator in force can go; seeds of sampling follow from `seed`."""
    found = []
    for how, decoding in _decodings(laboratory, seed):
        for shots, examples in SHOTS.items():
            for context, passages in PASSAGES.items():
                prompt = _options(laboratory, examples, from_memory=not passages)
                found.append(Way(f"{how}, {shots}, {context}", decoding, prompt, passages))
    return found


def _options(laboratory: Laboratory, examples: int, *, from_memory: bool) -> PromptOptions:
    """Return what goes into a prompt; from memory, as where retrieval is switched off."""
    if not from_memory:
        return replace(laboratory.prompt, examples=examples)
    # Without examples the built-in instruction would open the prompt, and it is about passages.
    return PromptOptions(examples=examples, instruct=examples > 0)


def _decodings(laboratory: Laboratory, seed: int) -> list[tuple[str, Decoding]]:
    plain = replace(laboratory.decoding, strategy="greedy")
    found = [("greedy", plain)]
    backend = laboratory.generator().identity.backend
    if backend in _BEAM_BACKENDS:
        found.append((f"beam {BEAMS}", replace(plain, strategy="beam", beams=BEAMS)))
    else:
        _log.warning(
            "beam search is left out: %s has none; set generator.backend = transformers", backend
        )
    for temperature in TEMPERATURES:
        drawn = replace(plain, strategy="sample", temperature=temperature)
        found += [
            (f"temperature {temperature}", replace(drawn, seed=seed * DRAWS + number))
            for number in range(DRAWS)
        ]
    return found


def _variant(laboratory: Laboratory, way: Way) -> Variant[GoldQuestion]:
    def measure(trials: Sequence[Trial[GoldQuestion]]) -> list[Measured]:
        return [_measured(laboratory, way, trial.subject) for trial in trials]

    # Seeds of one temperature are one arm, so it is this that tells their samples apart.
    return Variant(way.name, measure, identity={"way": digest(asdict(way))})


def _measured(laboratory: Laboratory, way: Way, question: GoldQuestion) -> Measured:
    case = question.case
    count = min(way.passages, 1 + len(question.others))
    texts = question.passages(count, count - 1) if count else []
    prompt = build_prompt(case.question, list(enumerate(texts, start=1)), way.prompt)
    # An adapter that learnt to answer from passages refuses without any: the base remembers.
    prompt = replace(prompt, is_for_base=not texts)
    scores: list[float] = []
    generator = laboratory.generator()
    said = "".join(generator.stream(prompt, way.decoding, scores)).strip()
    dull = degenerate_outputs(texts) if texts else {}
    return Measured(
        said,
        answer_scores(case, said),
        generator.heard(),
        confidence=math.exp(math.fsum(scores) / len(scores)) if scores else None,
        baselines={name: told(case, output) for name, output in dull.items()},
    )


# --- The report -----------------------------------------------------------------------------------

_RIGHT = mean_of("right", "right")


def _agreement(run: Run, seed: int, language: str) -> list[Block]:
    """Return how far the seeds of one arm agree, for each set and language."""
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for one in run.samples:
        if one.arm.startswith("temperature"):
            groups[one.kind, one.language].append(one)
    columns = ("arm", "the same words", "right from any seed", "right from every seed")
    note = say(
        "Of questions with a sample from each seed. A guess is seldom right from every seed.",
        language,
    )
    blocks: list[Block] = []
    for (kind, spoken), samples in groups.items():
        title = say("Seeds compared: {what}", language)
        rows = tuple(
            (say(arm, language), *_agreeing(own, seed)) for arm, own in arms_of(samples).items()
        )
        blocks.append(
            Table(
                title.format(what=say(f"{kind}, {spoken}", language)),
                tuple(say(name, language) for name in columns),
                rows,
                note,
            )
        )
    return blocks


def _agreeing(samples: Sequence[Sample], seed: int) -> list[Cell]:
    cases: dict[str, list[Sample]] = defaultdict(list)
    for one in samples:
        cases[one.case_id].append(one)
    whole = [own for own in cases.values() if len(own) == DRAWS]
    clusters = [own[0].cluster for own in whole]
    right = [[one.scores["right"] for one in own] for own in whole]
    return [
        mean([float(len({one.output for one in own}) == 1) for own in whole], clusters, seed=seed),
        mean([float(any(own)) for own in right], clusters, seed=seed),
        mean([float(all(own)) for own in right], clusters, seed=seed),
    ]


def _verdict(run: Run, seed: int, language: str) -> str:
    """Return the best arm with passages and the best from memory, beside greedy decoding."""
    arms: Mapping[str, list[Sample]] = {
        arm: own for arm, own in arms_of(run.samples).items() if own and not is_baseline(arm)
    }
    sentences = []
    for context in reversed(PASSAGES):
        found = {
            arm.removesuffix(f", {context}"): _RIGHT.of(own, seed)
            for arm, own in arms.items()
            if arm.endswith(context)
        }
        if found:
            best = max(found, key=lambda arm: found[arm].value)
            greedy = {arm: one for arm, one in found.items() if arm.startswith("greedy")}
            told_of = [
                f"{say(arm, language)} {one}" for arm, one in ({best: found[best]} | greedy).items()
            ]
            said = say("Right {context}: {told}.", language)
            sentences.append(
                said.format(context=say(context, language), told=say("; ", language).join(told_of))
            )
    return say(" ", language).join(sentences) or say("No samples.", language)


LAYOUT = Layout(
    "How tokens are chosen",
    "The generator alone answers the same questions with different decoding: the likeliest token,"
    " the likeliest of several beams, or draws at a temperature; with and without examples, from"
    " memory and with passages.",
    (_RIGHT, mean_of("f1", "F1"), mean_of("answered"), SECONDS),
    legend=(
        "Right: an accepted answer stands in what is said. From memory the base answers, without an"
        " answer adapter. An arm that draws has a sample of each"
        " seed. The first arm of a sentence above is the best of all, found on these questions, so"
        " it looks better than it is."
    ),
    extra=_agreement,
    verdict=_verdict,
)
