"""Measures one arm of the injection experiment: asks it, lets it read texts, and keeps samples.

    book = Book(writer, identity, MeasuringOptions())
    book.measure(arm, subject, questions, texts)

What is kept already is not measured again. Questions are asked in fixed blocks: if one answer of a
block is missing the whole block is asked, so that a resumed run rounds as an uninterrupted one
does. The last sample of an arm is its cost, or its failure. Knows nothing of training.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

from eval.injection.arms import Arm
from eval.injection.questions import (
    KNOWN,
    OWN,
    STOP,
    ArticleIndex,
    Question,
    asks,
    contexts_of,
    prompt_of,
    scores_of,
    searches,
)
from eval.injection.training import Spent
from eval.records import RunWriter, Sample, sample_key
from eval.scoring import Scorer
from ingest.documents import content_id
from model.prompts import PromptOptions

SUITE = "injection"
COST = "cost"  # kind and case id of the sample that closes an arm

OnSample = Callable[[Sample], None]
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class MeasuringOptions:
    """How arms are asked; the same for all."""

    distractors: int = 3  # passages of the arm of that name
    most_new_tokens: int = 24  # of an answer
    batch_tokens: int = 4096  # padded tokens that are read at once
    block: int = 64  # questions or texts that are measured together


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is measured, and what it is measured with."""

    scorer: Scorer
    base: Any = None  # to compare predictions with; None is the model without its adapter
    spent: Spent = field(default_factory=Spent)
    index: ArticleIndex | None = None  # of arms that search
    prompt: PromptOptions = field(default_factory=PromptOptions)  # of arms that are given passages


@dataclass(frozen=True, slots=True)
class _Said:
    """What a model said to a prompt."""

    output: str
    confidence: float | None
    seconds: float


class Book:
    """The samples of one seed."""

    def __init__(
        self,
        writer: RunWriter,
        identity: Mapping[str, str],
        options: MeasuringOptions,
        on_sample: OnSample | None = None,
        earlier: Sequence[Sample] = (),
    ) -> None:
        """Add samples to a run.

        Args:
            writer: Of the run.
            identity: Of its samples.
            options: How arms are asked.
            on_sample: Is told each sample when it is durable.
            earlier: Samples of other seeds with the same model and options.
        """
        self._writer, self._identity, self._options = writer, dict(identity), options
        self._on_sample, self._earlier = on_sample, tuple(earlier)

    def has(self, arm: Arm, case_id: str) -> bool:
        """Return whether an arm's sample of a case is there."""
        return self._writer.done(sample_key(SUITE, arm.name, case_id, self._identity))

    def is_closed(self, arm: Arm) -> bool:
        """Return whether an arm is through: wholly measured, or failed."""
        return self.has(arm, COST)

    def measure(
        self,
        arm: Arm,
        subject: Subject,
        questions: Sequence[Question],
        texts: Mapping[str, Sequence[str]],
        last: Callable[[], None] | None = None,
    ) -> None:
        """Add what is missing of an arm.

        Args:
            arm: What is measured.
            subject: Its model.
            questions: Of all kinds; the arm is asked those that it can be asked.
            texts: By language, read by one arm of each model.
            last: Measures something more before the arm is closed.
        """
        self.ask(arm, subject, [one for one in questions if asks(arm, one.kind)])
        for language, own in texts.items() if arm.reads_texts else ():
            ids = {_text_id(language, text): text for text in own if text.strip()}
            for names in _blocks(list(ids), self._options.block):
                if any(not self.has(arm, name) for name in names):
                    self._read(arm, subject, language, {name: ids[name] for name in names})
        if last:
            last()
        self.add(arm, COST, COST, scores=self._costs(arm, subject))

    def right(self, arm: Arm, kind: str) -> set[str]:
        """Return the ids of the cases of a kind that an arm has right."""
        return {
            sample.case_id
            for sample in self._writer.samples
            if (sample.arm, sample.kind) == (arm.name, kind) and sample.scores.get("right")
        }

    def ask(self, arm: Arm, subject: Subject, questions: Sequence[Question]) -> None:
        """Add what an arm says to some questions, in blocks.

        Real facts and those of documents stand in blocks of their own, so that no batch of the
        others looks different where the untrained model has answered them before.
        """
        before = self._said_before(arm)
        for _, own in groupby(questions, key=lambda question: _part(question.kind)):
            for block in _blocks(list(own), self._options.block):
                if any(not self.has(arm, question.case.id) for question in block):
                    self._ask(arm, subject, block, before)

    def add(self, arm: Arm, case_id: str, kind: str, **known: Any) -> None:  # noqa: ANN401
        """Add a sample unless it is there; what is not said of it is empty.

        A figure that is no number makes it a failure, since a model that gives none has failed.
        """
        if self.has(arm, case_id):
            return
        told: dict[str, Any] = {
            "cluster": case_id, "language": "", "question": "", "prompt": "", "output": "",
            "expected": (), "scores": {}, "seconds": 0.0, "confidence": None, "failure": None,
            **known,
        }  # fmt: skip
        figures = [*told["scores"].values(), told["confidence"]]
        if not all(figure is None or math.isfinite(figure) for figure in figures):
            told |= {
                "scores": {},
                "confidence": None,
                "failure": "the model gives no finite number",
            }
        sample = Sample(SUITE, arm.name, case_id, kind=kind, identity=self._identity, **told)
        self._writer.add(sample)
        if self._on_sample:
            self._on_sample(sample)

    def fail(self, arm: Arm, reason: str) -> None:
        """Close an arm that could not be trained."""
        self.add(arm, COST, COST, failure=reason)

    def _said_before(self, arm: Arm) -> dict[str, _Said]:
        """Return by prompt what the untrained model answers alike in all arms and seeds.

        Those are questions without passages about real facts, and about facts of documents.
        """
        if not _is_bare(arm):
            return {}
        others = (one for one in self._writer.samples if one.arm != arm.name)
        return {
            one.prompt: _Said(one.output, one.confidence, one.seconds)
            for one in (*self._earlier, *others)
            if _part(one.kind) and one.failure is None and _is_bare(Arm.parse(one.arm))
        }

    def _ask(
        self,
        arm: Arm,
        subject: Subject,
        block: Sequence[Question],
        before: Mapping[str, _Said],
    ) -> None:
        index = subject.index if searches(arm) else None
        given = [contexts_of(one, arm, index, self._options.distractors) for one in block]
        prompts = [
            prompt_of(one, arm, [context.text for context in contexts], subject.prompt)
            for one, contexts in zip(block, given, strict=True)
        ]
        said = {**before, **self._answers(subject, [one for one in prompts if one not in before])}
        for question, contexts, prompt in zip(block, given, prompts, strict=True):
            case, one = question.case, said[prompt]
            self.add(
                arm, case.id, question.kind,
                cluster=question.cluster,
                language=case.language,
                question=case.question,
                prompt=prompt,
                output=one.output,
                expected=case.answers,
                scores=scores_of(question, one.output),
                seconds=one.seconds,
                passages=tuple((context.id, context.score) for context in contexts),
                confidence=one.confidence,
            )  # fmt: skip

    def _answers(self, subject: Subject, prompts: Sequence[str]) -> dict[str, _Said]:
        """Return by prompt what a model says."""
        begun = time.monotonic()
        most = self._options.most_new_tokens
        found = subject.scorer.answers(prompts, STOP, max_new_tokens=most)
        seconds = (time.monotonic() - begun) / max(1, len(prompts))
        return {
            prompt: _Said(one.text.strip(), math.exp(one.log_probability), seconds)
            for prompt, one in zip(prompts, found, strict=True)
        }

    def _read(self, arm: Arm, subject: Subject, language: str, texts: Mapping[str, str]) -> None:
        """Measure how likely texts are, and how far the predictions are from the base's."""
        begun = time.monotonic()
        own = list(texts.values())
        if arm.training is None:
            read = [(one.nats_per_token, 0.0) for one in subject.scorer.perplexity(own)]
        else:
            drifts = subject.scorer.drift(own, subject.base)
            read = [(one.nats_per_token, one.mean) for one in drifts]
        seconds = (time.monotonic() - begun) / len(own)
        for name, (nats, kl) in zip(texts, read, strict=True):
            scores = {"nats": nats, "kl": kl}
            self.add(
                arm, name, f"text/{language}", language=language, scores=scores, seconds=seconds
            )

    def _costs(self, arm: Arm, subject: Subject) -> dict[str, float]:
        """Return what an arm took, whenever its samples were made."""
        seconds = [
            sample.seconds
            for sample in self._writer.samples
            if sample.arm == arm.name and sample.prompt
        ]
        index = subject.index if searches(arm) else None
        return {
            "train_seconds": subject.spent.seconds,
            "index_seconds": index.seconds if index else 0.0,
            "trained_tokens": float(subject.spent.tokens),
            "parameters": float(subject.spent.parameters),
            "seconds_per_question": math.fsum(seconds) / len(seconds) if seconds else 0.0,
        }


def _is_bare(arm: Arm) -> bool:
    """Return whether it is the model as it came that is asked, without passages."""
    return arm.training is None and arm.is_closed_book


def _part(kind: str) -> str:
    """Return what a question is about: a real fact, one of the documents, or "", one of a seed."""
    return next((part for part in (KNOWN, OWN) if kind.startswith(part)), "")


def _blocks(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _text_id(language: str, text: str) -> str:
    return f"text/{language}/{content_id(text)[:16]}"
