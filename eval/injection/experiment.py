"""The injection experiment: every arm learns the same new facts and is asked the same questions.

    run = run_seed(world, standard_arms("cpu"), bench, Path("runs/injection-1"), seed=1)

One seed is one run folder of `eval.records`: a sample for each question and text of each arm, and
one of kind "cost" when the arm is through, or when its training failed. Samples are appended as
they finish. Giving the same call again goes on where it was stopped: no sample is repeated, and no
training that was over; weights lie in the run folder until all arms that need them are through.
Two runs give the same samples but for their seconds (on a CPU to the bit).

Facts are of two groups: invented ones, and those of the user's documents, if the bench has
questions about them. A course teaches one of the two, and its arms are asked about that one. All
passages are searched together.

A question's answer is greedy, in float32, and asked in fixed blocks, whatever was there before.
Knows nothing of budgets, verdicts or the screen.
"""

import copy
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.cases import Case
from eval.injection.arms import Arm, Training
from eval.injection.facts import World, facts_of_documents
from eval.injection.knowledge import fact_cases, knowledge_of, unknown_only
from eval.injection.lessons import lesson_rows
from eval.injection.measuring import SUITE, Book, MeasuringOptions, OnSample, Subject
from eval.injection.questions import (
    KNOWN,
    OWN,
    RECOVERED,
    ArticleIndex,
    Question,
    indexed,
    known_questions,
    searches,
    world_questions,
)
from eval.injection.recovery import halves, relearnt
from eval.injection.training import (
    Course,
    Spent,
    TeachingOptions,
    forget_weights,
    is_kept,
    taught,
    teach,
)
from eval.knowledge import Asking
from eval.records import Run, RunWriter, Sample, describe, digest, open_run, read_run
from eval.scoring import Scorer
from ingest.errors import TrainingError, UsageError
from model.adapters import Adapter, prompt_in_force, read_adapter, require_base
from model.prompts import PromptOptions
from model.training.loop import pick_device
from model.training.questions import QuestionRow
from model.training.tasks import load_base
from model.weights import base_hash
from retrieval.encoders import Encoder
from retrieval.weights import local_folder

PROTOCOL = 3  # raise it when the same options come to mean another measurement
_WEIGHTS = "weights"  # in the run folder


@dataclass(frozen=True, slots=True)
class Bench:
    """What an experiment is made with; the same for all of its seeds."""

    source: str | Path  # transformers folder or hub id of the base
    home: Path  # Tether's home folder, which remembers the hashes of large files
    encoder: Encoder | None = None  # finds passages
    known: tuple[Case, ...] = ()  # real facts that the base knows: `eval.injection.knowledge`
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by language, to measure on
    general: tuple[str, ...] = ()  # texts to train on: the lesson "general", and mitigations
    passages: tuple[str, ...] = ()  # of the user's documents: articles are searched among them
    documents: tuple[QuestionRow, ...] = ()  # questions about them that the base cannot answer
    adapter: Path | None = None  # folder of the answer adapter of the arms rag-K-answer


@dataclass(frozen=True, slots=True)
class InjectionOptions:
    """What is asked, taught and measured; the same for all arms."""

    wordings: int = 1  # of each kind of question, of up to three
    versions: int = 5  # times a fact is said in an epoch
    recovery: int = 0  # epochs in which some of what was forgotten is taught again; 0: not probed
    asking: Asking | None = None  # keep only facts that the base does not know; None asks nothing
    measuring: MeasuringOptions = field(default_factory=MeasuringOptions)
    teaching: TeachingOptions = field(default_factory=TeachingOptions)


def run_seed(
    world: World,
    arms: Sequence[Arm],
    bench: Bench,
    folder: Path,
    *,
    seed: int,
    options: InjectionOptions | None = None,
    command: str = "",
    on_sample: OnSample | None = None,
    earlier: Sequence[Run] = (),
) -> Run:
    """Measure all arms on one world, or go on measuring them, and return the run.

    Args:
        world: The facts.
        arms: Untrained ones are measured first, then one course after the other.
        bench: Model, encoder and texts.
        folder: Of this run alone.
        seed: Of the order of training, of fresh adapters and of wordings.
        options: What is asked, taught and measured.
        command: What was typed, for the record.
        on_sample: Is told each sample when it is durable.
        earlier: Runs of other seeds: what the untrained model said there is not asked again, if
            all but the world was the same. So give the same ones when the run goes on.

    Raises:
        UsageError: An arm needs what the bench does not have, the questions about documents cannot
            be parted, or the folder holds another run.
        TrainingError: A checkpoint cannot be written or read; a training that fails by itself is a
            failed sample of its arms, and the other arms go on.
        StoreError: The disk is full or not writable.
        WeightsError: The model or the adapter cannot be loaded.
    """
    options = options or InjectionOptions()
    device = pick_device(options.teaching.device).type
    options = replace(options, teaching=replace(options.teaching, device=device))
    _require(arms, bench)
    own = facts_of_documents(bench.documents, seed=seed) if bench.documents else None
    adapter = _adapter(bench)
    identity = _identity(world, bench, options, adapter) | {"seed": str(seed)}
    description = describe(SUITE, command, seed=seed, identity=identity, device=device)
    with open_run(folder, description) as writer, ExitStack() as stack:
        before = _samples_of(earlier, identity)
        book = Book(writer, identity, options.measuring, on_sample, before)
        _Seed(world, own, bench, seed, options, adapter, writer, book, stack).carry_out(arms)
    return read_run(folder)


def _require(arms: Sequence[Arm], bench: Bench) -> None:
    """Refuse arms that the bench has too little for, before anything is measured."""
    names = [arm.name for arm in arms]
    wanting = {
        "an encoder": [arm.name for arm in arms if searches(arm) and not bench.encoder],
        "general texts": [arm.name for arm in arms if _learns_texts(arm) and not bench.general],
        "questions about documents": [
            arm.name for arm in arms if arm.learns == "documents" and not bench.documents
        ],
        "an answer adapter": [arm.name for arm in arms if arm.adapted and not bench.adapter],
    }
    if len(set(names)) != len(names):
        raise UsageError("An arm is named twice; name each once.")
    for what, needed in wanting.items():
        if needed:
            raise UsageError(
                f"{', '.join(needed)}: not without {what}; give it, or leave them out."
            )


def _learns_texts(arm: Arm) -> bool:
    """Return whether an arm is trained on texts that say nothing of the facts."""
    one = arm.training
    return one is not None and (
        one.lesson == "general" or one.mitigation in ("replay", "kl", "ewc")
    )


def _adapter(bench: Bench) -> Adapter | None:
    """Return the answer adapter, if one is given."""
    if bench.adapter is None:
        return None
    adapter = read_adapter(bench.adapter)
    require_base(adapter, str(bench.source), _base_hash(bench))
    return adapter


def _base_hash(bench: Bench) -> str:
    """Return the hash of the base, or its name on a hub."""
    folder = local_folder(str(bench.source))
    return base_hash(folder, bench.home) if folder else str(bench.source)


def _identity(
    world: World, bench: Bench, options: InjectionOptions, adapter: Adapter | None
) -> dict[str, str]:
    """Return hashes of all that shapes a sample, but for the seed."""
    told = asdict(options)
    del told["teaching"]["checkpoint_every"]  # changes nothing that is measured
    return {
        "weights": _base_hash(bench),
        "adapter": adapter.sha256 if adapter else "none",
        "encoder": bench.encoder.identity.weights_hash if bench.encoder else "none",
        "world": digest(asdict(world)),
        "known": digest([asdict(case) for case in bench.known]),
        "texts": digest({language: list(own) for language, own in bench.texts.items()}),
        "general": digest(list(bench.general)),
        "passages": digest(list(bench.passages)),
        "documents": digest([asdict(row) for row in bench.documents]),
        "options": digest([PROTOCOL, told]),
    }


def _samples_of(runs: Sequence[Run], identity: Mapping[str, str]) -> list[Sample]:
    """Return the samples of runs that differ in nothing but their facts."""
    alike = {name: told for name, told in identity.items() if name not in ("seed", "world")}
    return [
        sample
        for run in runs
        if alike.items() <= run.description.identity.items()
        for sample in run.samples
    ]


@dataclass
class _Seed:
    """One call of `run_seed`."""

    given: World  # invented
    own: World | None  # of the user's documents
    bench: Bench
    seed: int
    options: InjectionOptions
    adapter: Adapter | None
    writer: RunWriter
    book: Book
    stack: ExitStack  # closes the index

    def carry_out(self, arms: Sequence[Arm]) -> None:
        """Measure what is not measured yet."""
        courses: dict[str, list[tuple[Arm, Training]]] = defaultdict(list)
        for arm in arms:
            if arm.training is not None:
                courses[arm.training.course].append((arm, arm.training))
            elif not self.book.is_closed(arm):
                self.measure(arm, self.untrained(arm), Spent())
        for own in courses.values():
            self.course(own)
        shutil.rmtree(self.writer.folder / _WEIGHTS, ignore_errors=True)

    # --- what all arms share, made when the first one needs it

    @cached_property
    def base(self) -> tuple[Any, Any]:
        """The base and its tokenizer."""
        model, tokenizer = load_base(self.bench.source, device=self.options.teaching.device)
        return model.eval().requires_grad_(False), tokenizer

    @cached_property
    def index(self) -> ArticleIndex:
        """The articles of all facts, known or not, among the user's own passages."""
        if self.bench.encoder is None:
            raise ValueError("no encoder: see _require")
        stated = [row.context for row in self.bench.documents]
        passages = [*stated, *self.bench.passages]
        return self.stack.enter_context(indexed(self.given, self.bench.encoder, passages))

    @cached_property
    def questions(self) -> list[Question]:
        """What every arm is asked, as far as it can be."""
        invented = world_questions(self.world, self.options.wordings)
        own = world_questions(self.own, self.options.wordings, OWN) if self.own else []
        return invented + own + known_questions(self.bench.known)

    @cached_property
    def world(self) -> World:
        """The facts to learn: all, or those that the base does not know."""
        asking, arm = self.options.asking, Arm("few-shot")
        if asking is None:
            return self.given
        cases = {f"knowledge/{fact}": case for fact, case in fact_cases(self.given).items()}
        if not all(self.book.has(arm, name) for name in cases):
            most = self.options.measuring.most_new_tokens
            scorer = self.scorer(self.base[0])
            found = knowledge_of(scorer, list(cases.values()), asking, most_new_tokens=most)
            for (name, case), one in zip(cases.items(), found, strict=True):
                self.book.add(
                    arm, name, "knowledge",
                    language=case.language, question=case.question, expected=case.answers,
                    output=one.label, scores={"unknown": float(one.label == "Unknown")},
                )  # fmt: skip
        labels = {one.case_id: one.output for one in self.writer.samples}
        unknown = [name for name in cases if labels[name] == "Unknown"]
        return unknown_only(self.given, {name.removeprefix("knowledge/") for name in unknown})

    def scorer(self, model: Any) -> Scorer:  # noqa: ANN401
        """Return what lets a model answer."""
        return Scorer(model, self.base[1], batch_tokens=self.options.measuring.batch_tokens)

    # --- arms

    def untrained(self, arm: Arm) -> Any:  # noqa: ANN401
        """Return the base, with the answer adapter on it if the arm says so."""
        if not arm.adapted or self.adapter is None:
            return self.base[0]
        from peft import PeftModel

        return PeftModel.from_pretrained(copy.deepcopy(self.base[0]), str(self.adapter.folder))

    def measure(self, arm: Arm, model: Any, spent: Spent) -> None:  # noqa: ANN401
        """Ask an arm, probe what it forgot if that is wanted, and close it."""
        subject = Subject(
            self.scorer(model),
            None if hasattr(model, "disable_adapter") else self.base[0],
            spent,
            self.index if searches(arm) else None,
            prompt_in_force(self.adapter if arm.adapted else None, PromptOptions(), ()),
        )
        is_probed = self.options.recovery and arm.training and arm.is_closed_book
        last = (lambda: self.recover(arm, model)) if is_probed else None
        self.book.measure(arm, subject, self.questions, self.bench.texts, last)

    def recover(self, arm: Arm, model: Any) -> None:  # noqa: ANN401
        """Teach one half of what an arm forgot again, and ask the other."""
        knew = self.book.right(Arm("few-shot"), KNOWN) | self.book.right(Arm("zero-shot"), KNOWN)
        lost = knew - self.book.right(arm, KNOWN)
        learn, left = halves(known_questions(self.bench.known), lost, self.seed)
        asked = [
            Question(replace(one.case, id=f"{one.case.id}/recovered"), RECOVERED, one.cluster)
            for one in left
        ]
        if all(self.book.has(arm, one.case.id) for one in asked):
            return
        folder = self.writer.folder / _WEIGHTS / f"recovery-{arm.name}"
        try:
            again = relearnt(
                model, self.base[1], learn, folder,
                epochs=self.options.recovery, seed=self.seed, options=self.options.teaching,
            )  # fmt: skip
        except TrainingError as error:
            if error.__cause__ is not None:  # a fault of the disk, not of the training
                raise
            self.book.add(arm, RECOVERED, RECOVERED, failure=f"teaching again: {error}")
            return
        self.book.ask(arm, Subject(self.scorer(again)), asked)

    def course(self, arms: Sequence[tuple[Arm, Training]]) -> None:
        """Train once, and measure all arms that come of it, the fewest epochs first."""
        left = [(arm, own) for arm, own in arms if not self.book.is_closed(arm)]
        if not left:
            return
        epochs = tuple(sorted({own.epochs for _, own in left}))
        training = left[0][1]
        most = max(own.epochs for _, own in arms)
        folder = self.writer.folder / _WEIGHTS / f"{training.course}-e{most}"
        rows = lesson_rows(
            self.own if self.own and training.lesson == "documents" else self.world,
            training.lesson,
            versions=self.options.versions, seed=self.seed, general=self.bench.general,
        )  # fmt: skip
        course = Course(training, epochs, rows, self.bench.general, self.seed)
        failure = teach(*self.base, course, folder, self.options.teaching)
        for arm, own in left:
            if failure and not is_kept(folder, own.epochs):
                self.book.fail(arm, failure)
        for epoch in epochs:
            if is_kept(folder, epoch):
                self.epoch([one for one in left if one[1].epochs == epoch], folder)
                forget_weights(folder, epoch)

    def epoch(self, arms: Sequence[tuple[Arm, Training]], folder: Path) -> None:
        """Measure the arms that have the weights of one epoch, whole or half."""
        for training in dict.fromkeys(own for _, own in arms):
            model, spent = taught(self.base[0], folder, training, seed=self.seed)
            for arm, own in arms:
                if own == training:
                    self.measure(arm, model, spent)
