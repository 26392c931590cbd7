"""The suite `answers`: public questions through the whole assistant, from search to citation.

    with open_suite(laboratory, Request(Path("data"), sets=("xquad", "nomiracl"))) as suite:
        run_suite(suite, folder, limit=100)

All paragraphs of a set become the documents of a collection, and the assistant searches there,
unless a set brings its own passages (`eval.suites.question_sets`). Knows nothing of how an answer
is made.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from eval.answering import (
    BASELINES,
    MEASURES,
    SHORT,
    Row,
    coverage_where_wrong,
    described,
    scores_of,
    support,
)
from eval.cases import Case
from eval.chinese import say
from eval.confidence import (
    area_under_risk_coverage,
    auroc,
    brier,
    expected_calibration_error,
)
from eval.datasets import find_data, require_licences
from eval.records import Run, Sample, digest
from eval.statistics import Estimate
from eval.suites.benches import Asker, Bench, Benches, Opener, paragraphs_of, passages_for
from eval.suites.pages import SECONDS, Column, Layout, arms_of, mean_of, share_where
from eval.suites.question_sets import DEFAULT, MIXED, SETS, cases_of, named
from eval.suites.suite import Laboratory, Measured, Request, Suite, Trial, Variant, hash_code
from model.answers import Answer, answer_to_json

NAME = "answers"
PROTOCOL = 1  # raise it when equal options come to mean another measurement
RISKS = (0.01, 0.05, 0.10, 0.15)  # shares of wrong answers at which coverage is read off
_FOLDER = {"xquad-given": "xquad"}  # sets whose paragraphs another set has embedded already

Floats = NDArray[np.float64]


@contextmanager
def open_suite(laboratory: Laboratory, request: Request) -> Iterator[Suite[Case]]:
    """Yield the suite over the sets that are asked for.

    Raises:
        UsageError: A set is unknown or missing, or its licence is not accepted.
    """
    names = named(request.sets or DEFAULT)
    require_licences([SETS[name].source for name in names], accepted=request.accepts_licences)
    cases = cases_of(names, find_data(request.data), request.seed)
    benches = Benches.of(laboratory)
    with ExitStack() as stack:
        asking = Asking(cases, benches.open, stack, lambda: laboratory.generator().heard())
        yield Suite(
            NAME,
            laboratory.identity()
            | {
                "cases": digest(
                    {name: [asdict(case) for case in own] for name, own in cases.items()}
                ),
                "protocol": str(PROTOCOL),
                "code": hash_code("suites.answers", "suites.question_sets"),
            },
            trials_of(cases),
            (Variant("assistant", asking.measure),),
        )


def trials_of(cases: Mapping[str, Sequence[Case]]) -> tuple[Trial[Case], ...]:
    """Return the trials of cases by set."""
    return tuple(
        Trial(f"{name}/{one.id}", one, one.question, one.language, one.cluster, name, one.answers)
        for name, own in cases.items()
        for one in own
    )


class Asking:
    """Asks the assistant of the bench that a trial needs; one bench is open at a time."""

    def __init__(
        self,
        cases: Mapping[str, Sequence[Case]],
        open_bench: Opener,
        stack: ExitStack,
        heard: Callable[[], str],
    ) -> None:
        """Open nothing yet.

        Args:
            cases: All of each set: their paragraphs are what is searched.
            open_bench: Opens a bench.
            stack: Closes the last bench.
            heard: Gives the prompt that the generator read last, "" for none.
        """
        self._cases, self._open, self._heard = cases, open_bench, heard
        self._stack = stack.enter_context(ExitStack())  # of the bench that is open
        self._at: tuple[str, str] | None = None
        self._bench: Bench
        self._asker: Asker
        self._texts: Mapping[str, str] = {}

    def measure(self, trials: Sequence[Trial[Case]]) -> list[Measured]:
        """Return the scores of the assistant's answers, and of the baselines on its passages."""
        return [self._ask(trial) for trial in trials]

    def _ask(self, trial: Trial[Case]) -> Measured:
        self._turn_to(trial.kind, trial.language)
        case = trial.subject
        self._heard()  # what was heard before may not pass for this question's prompt
        started = time.perf_counter()
        passages = passages_for(case, self._bench, self._texts)
        answer = self._asker.ask(case.question, passages=passages)
        return measured(case, answer, self._heard(), time.perf_counter() - started)

    def _turn_to(self, name: str, language: str) -> None:
        if self._at == (name, language):
            return
        self._at = None
        self._stack.close()
        own = [case for case in self._cases[name] if case.language == language]
        self._texts = paragraphs_of(own)
        label = f"{_FOLDER.get(name, name)}-{language}"
        self._bench = self._stack.enter_context(self._open(label, list(self._texts.values())))
        self._asker = self._bench.make_asker()
        self._at = (name, language)


def measured(case: Case, answer: Answer, prompt: str, seconds: float) -> Measured:
    """Return what is kept of an answer to a case, with the degenerate baselines on its passages."""
    row: Row = {**described(case), **answer_to_json(answer)}
    return replace(
        _kept(row, answer.text),
        prompt=prompt,
        seconds=seconds,
        passages=tuple((passage.chunk.id, passage.score) for passage in answer.passages),
        citations=tuple(citation for claim in answer.claims for citation in claim.citations),
        baselines={name: _kept(of(row), "") for name, of in BASELINES.items()},
    )


def _kept(row: Row, text: str) -> Measured:
    """Return a row's scores; what a baseline says is a passage of the set, and is not kept."""
    return Measured(text, scores_of(row), confidence=support(row))


# --- The report -----------------------------------------------------------------------------------


def of_answers(label: str, figure: Callable[[Floats, Floats], float]) -> Column:
    """Return a figure of how sure answers are and whether they are right, abstentions left out.

    Args:
        label: Its name.
        figure: Maps right (0 or 1) and support (0..1) of the answers, both (n,), to a number.
    """

    def of(samples: Sequence[Sample], seed: int) -> Estimate:
        answers = [one for one in _asked(samples) if one.confidence is not None]
        right = np.array([1.0 - (one.scores["unfounded"] or 0.0) for one in answers])  # (n,)
        sure = np.array([one.confidence for one in answers], dtype=np.float64)  # (n,)
        clusters = [one.cluster for one in answers]
        return share_where(lambda rows: figure(right[rows], sure[rows]), clusters, seed)

    return Column(label, of)


def _asked(samples: Sequence[Sample]) -> list[Sample]:
    """Return the questions that were asked of the assistant; other suites have other samples."""
    return [one for one in samples if "unfounded" in one.scores]


def _at_risk(most: float) -> Column:
    """Return the share of questions that is answered where at most so much of it is wrong."""

    def of(samples: Sequence[Sample], seed: int) -> Estimate:
        asked = _asked(samples)
        sure = np.array([np.nan if s.confidence is None else s.confidence for s in asked])  # (n,)
        right = np.array([1.0 - (one.scores["unfounded"] or 0.0) for one in asked])  # (n,)
        clusters = [one.cluster for one in asked]
        return share_where(
            lambda rows: coverage_where_wrong(sure[rows], right[rows], most), clusters, seed
        )

    return Column(f"coverage with at most {most:.0%} wrong", of)


TRUST = (
    *(_at_risk(most) for most in RISKS),
    of_answers("AURC (answers)", lambda right, sure: area_under_risk_coverage(sure, right)),
    of_answers("AUROC of support (answers)", auroc),
    of_answers("calibration error, 10 bins (answers)", expected_calibration_error),
    of_answers("Brier score (answers)", brier),
)
LEGEND = f"""\
An answer is right if it holds an accepted answer or its F1 is at least 0.5, and wrong if it \
answers the unanswerable. F1 and exact match are SQuAD's in English and CMRC's in Chinese. \
Accuracy is stricter: the answer is held in at most {SHORT} characters. Where no accepted answer \
is known (nomiracl), only answering the unanswerable counts as wrong: a lower bound.

A quotation is a whole sentence shown where no draft was supported; a read answer is a span that \
the reader found; a drafted answer is the generator's own words.

A citation is correct if its sentence holds an accepted answer and is from the right paragraph; it \
is valid if its quote stands at its offsets. Citation recall and precision are ALCE's (Gao et al. \
2023), with a rule in place of its entailment model.

Coverage with at most so much wrong: the share of all questions that is answered by whatever \
threshold on support leaves so few answers wrong. The threshold is chosen on the same rows, so it \
flatters. AURC is the mean share of wrong answers over all thresholds; smaller is better."""

_SAID = (
    ("share of all questions answered", mean_of("answered")),
    ("share of its answers wrong", mean_of("unfounded")),
    ("F1 where there is an answer", mean_of("f1")),
)


def _verdict(run: Run, seed: int, language: str) -> str:
    """Return how much was answered, how much of it wrongly, and how well."""
    own = arms_of(run.samples).get("assistant", [])
    found = [(label, column.of(own, seed)) for label, column in _SAID]
    told = [
        say("{label}: {figure}", language).format(label=say(label, language), figure=one)
        for label, one in found
        if one.count
    ]
    return say("The assistant: {told}.", language).format(
        told=say("; ", language).join(told) or say("nothing was measured", language)
    )


LAYOUT = Layout(
    "Answers over documents",
    "Public questions, asked of the whole assistant: it searches the paragraphs of the set, unless"
    " a set brings its passages, and answers with citations or abstains.",
    (*(mean_of(one.name, one.label) for one in MEASURES if one.name != "seconds"), *TRUST, SECONDS),
    legend=LEGEND,
    verdict=_verdict,
    pools=(MIXED,),
    pooled=(
        mean_of("unfounded", "wrong among answered"),
        mean_of("answered", "coverage"),
        mean_of("over_refused", "over-refusal (answerable)"),
        mean_of("rejected", "abstention (unanswerable)"),
        *TRUST,
    ),
)
