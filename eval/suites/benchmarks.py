"""The suite `benchmarks`: public sets, each asked in the way that fits it.

    with open_suite(laboratory, Request(Path("data"), sets=("simpleqa", "mmlu"))) as suite:
        run_suite(suite, folder, limit=100)

Reading sets are asked with their passages and closed-book sets without any, of the whole assistant;
of choices the likeliest continuation counts, and texts are read for their perplexity, by the
generator's model alone in float32. Knows nothing of how an answer is made.
"""

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np

from eval.answering import MEASURES
from eval.chinese import say
from eval.datasets import LICENCES, find_data, require_licences
from eval.metrics import f1
from eval.outcomes import outcome, outcome_scores
from eval.records import Run, Sample, digest
from eval.statistics import Estimate, bootstrap
from eval.suites.answers import TRUST, measured
from eval.suites.benchmark_sets import (
    NAMES,
    Choice,
    ClosedBook,
    Passage,
    Reading,
    Subject,
    benchmark_names,
    read_benchmarks,
    source_of,
)
from eval.suites.pages import SECONDS, Column, Layout, mean_of, share_where
from eval.suites.suite import Laboratory, Measured, Request, Suite, Trial, Variant, hash_code
from ingest.documents import content_id
from model.answers import Answer
from model.assistant import Assistant
from retrieval.search import given_passages

NAME = "benchmarks"
PROTOCOL = 1  # raise it when equal options come to mean another measurement
BLOCK = 16  # questions or texts scored at once
_RESAMPLES = 1000
_ANSWERS = frozenset(
    "exact_match f1 accuracy accuracy_parts answered wrong over_refused rejected citation_recall"
    " citation_precision citation_valid".split()
)


@contextmanager
def open_suite(laboratory: Laboratory, request: Request) -> Iterator[Suite[Subject]]:
    """Yield the suite over the sets that are asked for, or those that are free for every use.

    Raises:
        UsageError: A set is unknown or missing, or its licence is not accepted.
        SettingsError: A set needs likelihoods, and the generator in force gives none.
    """
    free = [name for name in NAMES if source_of(name) not in LICENCES]
    names = benchmark_names(request.sets or free)
    require_licences(map(source_of, names), accepted=request.accepts_licences)
    rows = read_benchmarks(names, find_data(request.data), request.seed)
    if any(isinstance(own[0], Choice | Passage) for own in rows.values() if own):
        laboratory.causal_model()  # refused now, not after hours of other sets
    asked = _Asked(laboratory)
    yield Suite(
        NAME,
        laboratory.identity()
        | {
            "cases": digest({name: [asdict(row) for row in own] for name, own in rows.items()}),
            "protocol": str(PROTOCOL),
            "code": hash_code(
                "suites.answers",
                "suites.benchmark_sets",
                "suites.benchmarks",
                "suites.question_sets",
            ),
        },
        tuple(_trial(name, row) for name, own in rows.items() for row in own),
        (
            Variant("assistant, given passages", asked.read, takes=_is(Reading)),
            Variant("assistant, from memory", asked.recall, takes=_is(ClosedBook)),
            Variant("model, likeliest choice", asked.choose, BLOCK, takes=_is(Choice)),
            Variant("model, text", asked.follow, BLOCK, takes=_is(Passage)),
        ),
        laboratory.device,
    )


def _is(kind: type[Subject]) -> Callable[[Trial[Subject]], bool]:
    return lambda trial: isinstance(trial.subject, kind)


def _trial(name: str, row: Subject) -> Trial[Subject]:
    if isinstance(row, Reading | ClosedBook):
        case = row.case
        # Questions from memory depend on nothing that they share.
        cluster = case.cluster if isinstance(row, Reading) else case.id
        identity, language, question, expected = case.id, case.language, case.question, case.answers
    elif isinstance(row, Choice):
        identity, language, question = row.id, row.language, row.question
        cluster, expected = content_id(row.cluster), (row.texts[row.gold],)
    else:
        identity, language, question = row.id, row.language, ""
        cluster, expected = content_id(row.cluster), ()
    return Trial(f"{name}/{identity}", row, question, language, cluster, name, expected)


class _Asked:
    """Measures each kind of row; models are loaded when the first one is asked."""

    def __init__(self, laboratory: Laboratory) -> None:
        self._laboratory = laboratory

    @cached_property
    def _assistant(self) -> Assistant:
        return self._laboratory.assistant()

    @cached_property
    def _scorer(self) -> Any:  # noqa: ANN401 - a Scorer, which loads torch
        from eval.scoring import Scorer

        return Scorer(*self._laboratory.causal_model())

    def read(self, trials: Sequence[Trial[Subject]]) -> list[Measured]:
        """Ask over passages, and score the answers and the baselines on the same passages."""
        return [self._read(one.subject) for one in trials if isinstance(one.subject, Reading)]

    def _read(self, row: Reading) -> Measured:
        case = row.case
        given = given_passages(row.passages, case.question, self._laboratory.encoder())
        answer, prompt, seconds = self._ask(
            lambda assistant: assistant.ask(case.question, passages=given)
        )
        return measured(case, answer, prompt, seconds)

    def _ask(self, ask: Callable[[Assistant], Answer]) -> tuple[Answer, str, float]:
        """Return an answer, the prompt that the generator read for it, and its seconds."""
        generator, assistant = self._laboratory.generator(), self._assistant  # loaded by now
        generator.heard()  # what was heard before may not pass for this question's prompt
        started = time.perf_counter()
        answer = ask(assistant)
        return answer, generator.heard(), time.perf_counter() - started

    def recall(self, trials: Sequence[Trial[Subject]]) -> list[Measured]:
        """Ask without passages, and score what became of the questions."""
        return [self._recall(one.subject) for one in trials if isinstance(one.subject, ClosedBook)]

    def _recall(self, row: ClosedBook) -> Measured:
        answer, prompt, seconds = self._ask(
            lambda assistant: assistant.ask(row.case.question, retrieval=False)
        )
        said = {"always abstain": "", "repeats the question": row.case.question}
        return Measured(
            answer.text,
            recalled(row, answer.text),
            prompt=prompt,
            seconds=seconds,
            baselines={name: Measured(text, recalled(row, text)) for name, text in said.items()},
        )

    def choose(self, trials: Sequence[Trial[Subject]]) -> list[Measured]:
        """Return which choice of each question is the likeliest continuation."""
        rows = [one.subject for one in trials if isinstance(one.subject, Choice)]
        pairs = [(row.context, text) for row in rows for text in row.continuations]
        scores = iter(self._scorer.continuations(pairs))
        found = [[next(scores).log_probability for _ in row.continuations] for row in rows]
        return [chosen(row, own) for row, own in zip(rows, found, strict=True)]

    def follow(self, trials: Sequence[Trial[Subject]]) -> list[Measured]:
        """Return how likely texts are."""
        rows = [one.subject for one in trials if isinstance(one.subject, Passage)]
        scores = self._scorer.perplexity([row.text for row in rows])
        return [
            Measured(
                "",
                {
                    "nats": -one.log_probability,
                    "tokens": float(one.tokens),
                    "bits": -one.log_probability / math.log(2),
                    "bytes": float(one.bytes),
                },
                baselines=compressed(row.text),
            )
            for row, one in zip(rows, scores, strict=True)
        ]


def recalled(row: ClosedBook, said: str) -> dict[str, float | None]:
    """Return the scores of an answer from memory; "" is an abstention.

    They are those of `eval.outcomes`, and whether an answer is nearer, by F1, to what people
    wrongly believe than to what is right, where a set tells.
    """
    case = row.case
    found = outcome(said, case.answers, case.language)
    scores = dict(outcome_scores(found, answerable=True))
    is_nearer = f1(said, row.wrong, case.language) > f1(said, case.answers, case.language)
    scores["misled"] = float(is_nearer) if row.wrong and scores["attempted"] else None
    return scores


def chosen(row: Choice, log_probabilities: Sequence[float]) -> Measured:
    """Return the likeliest choice of a question, and what blind choosers make of it.

    Args:
        row: The question.
        log_probabilities: Of each continuation, in nats.
    """
    from eval.scoring import choice_accuracy, normalised_choice_accuracy

    best = int(np.argmax(log_probabilities))
    shares = np.exp(np.asarray(log_probabilities) - max(log_probabilities))
    scores = {
        "choice": choice_accuracy(log_probabilities, row.gold),
        # A letter is as long as every other: there is nothing to normalise.
        "choice_normalised": None
        if row.is_by_letter
        else normalised_choice_accuracy(log_probabilities, row.texts, row.gold),
    }
    longest = max(range(len(row.texts)), key=lambda at: len(row.texts[at]))
    blind = {
        "guess": 1 / len(row.texts),
        "always the first": float(row.gold == 0),
        "always the longest": float(row.gold == longest),
    }
    return Measured(
        row.texts[best],
        scores,
        prompt=row.context,
        confidence=float(shares[best] / shares.sum()),
        baselines={name: Measured("", {"choice": share}) for name, share in blind.items()},
    )


def compressed(text: str) -> dict[str, Measured]:
    """Return the bits of a text to what knows no language: a compressor, and nothing at all."""
    size = len(text.encode("utf-8", "replace"))
    bits = {
        "zlib": 8.0 * len(zlib.compress(text.encode("utf-8", "replace"), 9)),
        "bytes": 8.0 * size,
    }
    return {
        name: Measured("", {"bits": found, "bytes": float(size)}) for name, found in bits.items()
    }


# --- The report -----------------------------------------------------------------------------------


def _ratio(label: str, top: str, bottom: str, scale: Callable[[float], float] = float) -> Column:
    """Return the quotient of two sums of scores, scaled: every token counts the same."""

    def of(samples: Sequence[Sample], seed: int) -> Estimate:
        own = [(one, _two(one.scores, top, bottom)) for one in samples]
        pairs = [(one.cluster, both) for one, both in own if both is not None]
        values = np.array([both for _, both in pairs]).reshape(-1, 2)  # (n, 2)

        def statistic(rows: Any) -> float:  # noqa: ANN401 - an array of places
            sums = values[rows].sum(axis=0)
            return scale(float(sums[0] / sums[1])) if sums[1] else math.nan

        clusters = [cluster for cluster, _ in pairs]
        return bootstrap(statistic, clusters, seed=seed, resamples=_RESAMPLES)

    return Column(label, of)


def _two(scores: Mapping[str, float | None], one: str, two: str) -> tuple[float, float] | None:
    left, right = scores.get(one), scores.get(two)
    return None if left is None or right is None else (left, right)


def _f_score(samples: Sequence[Sample], seed: int) -> Estimate:
    """Return SimpleQA's F: the harmonic mean of right and right given attempted."""
    own = [one for one in samples if "attempted" in one.scores]
    right = np.array([one.scores["correct"] or 0.0 for one in own])  # (n,)
    tried = np.array([one.scores["attempted"] or 0.0 for one in own])  # (n,)
    return share_where(
        lambda rows: float(2 * right[rows].sum() / (len(rows) + tried[rows].sum())),
        [one.cluster for one in own],
        seed,
    )


def _verdict(run: Run, seed: int, language: str) -> str:
    """Return how much was measured: figures of such different sets have no common mean."""
    sets = list(dict.fromkeys(sample.kind for sample in run.samples))
    if not sets:
        return say("Nothing was measured.", language)
    names = say(", ", language).join(sets)
    return say("{count} sets: {sets}.", language).format(count=len(sets), sets=names)


LAYOUT = Layout(
    "Benchmarks",
    "Public sets: questions with their passages and questions from memory, asked of the whole"
    " assistant; choices and texts, of its language model alone.",
    (
        *(mean_of(one.name, one.label) for one in MEASURES if one.name in _ANSWERS),
        *TRUST,
        mean_of("correct", "correct, C/N"),
        mean_of("attempted", "attempted"),
        mean_of("hallucinated", "hallucinated, W/N"),
        mean_of("wrong_if_attempted", "wrong if attempted, W/(C+W)"),
        Column("F (SimpleQA)", _f_score),
        mean_of("misled", "nearer to a common falsehood (attempted)"),
        mean_of("choice", "accuracy of the likeliest choice"),
        mean_of("choice_normalised", "accuracy of the likeliest choice a character"),
        _ratio("perplexity a token", "nats", "tokens", math.exp),
        _ratio("bits a byte", "bits", "bytes"),
        SECONDS,
    ),
    legend="C, W, N: right, wrong and all answers from memory, counted by a rule in place of"
    " SimpleQA's judging model: an answer is right if it holds an accepted one or has an F1 of at"
    " least 0.5 with it. Where answers are whole sentences (truthfulqa, halluqa) the rule is"
    " coarse; the sets of choices made of them are exact.\n\n"
    "From memory the base answers; of choices and texts the model is measured with the answer"
    " adapter, if one is in force.\n\n"
    "Choices are scored without examples, in the words of lm-evaluation-harness less its opening"
    " line: by the letter in mmlu and cmmlu, else by the text of the choice. Texts are paragraphs,"
    " each read by itself, so their perplexity is above that of whole articles.",
    verdict=_verdict,
)
