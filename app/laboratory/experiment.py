"""The experiment behind `tether frontier`: documents, a model and a budget become a report.

    OUT/plan.json    what is run, decided once
        asked.json   questions about the documents, and what the untrained model knows
        model/       of a smoke run: the tiny model that is built for it
        seed-N/      the records of each seed (`eval.records`)
        report.html  and report.md with its pictures, made from the records alone

Facts are invented, so that no model knows them, and taken from the user's documents
(`app.laboratory.documents`). Their passages are what retrieval searches, and the general text that
models are measured on and trained along with. Knows nothing of the screen.
"""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.laboratory.asking import Known, ask, keep, read_kept, scorer_of
from app.laboratory.documents import (
    given_questions,
    made_questions,
    parted,
    passages_of,
    with_gaps,
)
from app.laboratory.reports import write_page
from app.settings import Settings
from ingest.errors import UsageError

if TYPE_CHECKING:
    from eval.injection.arms import Arm, Level
    from eval.injection.budget import Budget, FromDocuments, Plan
    from eval.injection.experiment import Bench, InjectionOptions
    from eval.injection.facts import World
    from eval.records import Run
    from model.training.questions import QuestionRow

PLAN, ASKED, SEED = "plan.json", "asked.json", "seed-"
_ASKING = 12.0  # seconds for each passage that is asked about, supposed before any is
_SPARE = 2  # questions for each one that is wanted, since the model may know some answers
_SMOKE_KNOWN = 4  # real facts that a smoke run asks about, as if they were known

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of the documents an experiment of some level takes."""

    own: int  # facts that are asked
    measured: int  # passages of each language on which general text is measured
    searched: int  # passages among which the articles are searched


SIZES: "dict[Level, Size]" = {
    "smoke": Size(own=8, measured=4, searched=50),
    "cpu": Size(own=24, measured=8, searched=300),
    "gpu": Size(own=200, measured=24, searched=3000),
}


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked for."""

    paths: tuple[Path, ...]
    budget: str
    out: Path
    base: str  # model to train: a folder, a hub id, or the name of the default one
    device: str
    seed: int
    seeds: int | None  # None: what the budget has
    questions: Path | None = None  # of the user, about the documents; None has them made

    @property
    def command(self) -> str:
        """The command that repeats it, but for the device and the place."""
        words = ["tether", "frontier", *map(str, self.paths), "--budget", self.budget]
        words += ["--questions", str(self.questions)] if self.questions else []
        words += ["--base", self.base] if self.base else []
        words += ["--seed", str(self.seed)] if self.seed else []
        words += ["--seeds", str(self.seeds)] if self.seeds else []
        return shlex.join(words)


def carry_out(request: Request, settings: Settings, say: Say) -> Path:
    """Run or go on with an experiment, write its report, and return the HTML file.

    Raises:
        UsageError: A path is missing, the documents hold too little text, the budget is too small,
            or the folder holds another experiment.
    """
    from eval.injection.arms import Arm
    from eval.injection.budget import read_budget
    from eval.injection.experiment import run_seed
    from eval.injection.facts import build_world
    from retrieval.store import replace_file

    begun = time.monotonic()
    budget = read_budget(request.budget)
    kept = _kept_plan(request, budget)
    passages = passages_of(request.paths)
    say(f"{len(passages)} passages in the documents")
    request.out.mkdir(parents=True, exist_ok=True)
    bench, asked = _bench(request, settings, budget, passages, say)
    made = kept or _planned(request, budget, bench, asked, say, begun=begun)
    if kept is None:
        replace_file(request.out / PLAN, made.to_json().encode())
        for one in made.left_out:
            say(f"left out: {one.what} ({one.why})")
    runs: list[Run] = []
    for seed in range(request.seed, request.seed + made.seeds):
        say(f"seed {seed}: {len(made.arms)} arms, {made.facts} facts of each language")
        run = run_seed(
            build_world(made.facts, seed),
            [Arm.parse(name) for name in made.arms],
            bench,
            request.out / f"{SEED}{seed}",
            seed=seed,
            options=_options(budget, request.device),
            command=request.command,
            on_sample=_closings(say),
            earlier=runs,
        )
        runs.append(run)
    return write_report(request.out)


def rehearse(request: Request, settings: Settings, say: Say) -> "Plan":
    """Return what would be run, with nothing asked, trained or kept.

    How fast a model is here is measured if there is a limit to time. What the documents give and
    what the model knows shows only when they are asked, so as much as possible is supposed.

    Raises:
        UsageError: As for `carry_out`.
    """
    from eval.injection.budget import FromDocuments, read_budget
    from eval.injection.experiment import Bench
    from eval.injection.known_facts import candidates

    begun = time.monotonic()
    budget = read_budget(request.budget)
    if kept := _kept_plan(request, budget):
        return kept
    passages, size = passages_of(request.paths), SIZES[budget.level]
    aside, rest = parted(passages, size.measured)
    rows = _without_asking(request, size, rest)
    source = "" if budget.seconds is None else _source(request, settings)
    bench = Bench(
        source,
        settings.home,
        known=candidates(),
        texts=aside,
        general=_others(rest, rows),
        passages=tuple(passages),
        documents=tuple(rows) if _can_be_parted(rows, request, budget) else (),
    )
    asked = FromDocuments(len(rows), len(rows), len(bench.documents))
    asking = 0.0 if request.questions or budget.seconds is None else _ASKING * size.own
    return _planned(request, budget, bench, asked, say, begun=begun - asking)


def _closings(say: Say) -> Callable[[Any], None]:
    """Return what tells of each arm that is through."""

    def told(sample: Any) -> None:  # noqa: ANN401 - a Sample, which is heavy to import
        if sample.kind == "cost":
            say(f"  {sample.arm}" + (f": failed, {sample.failure}" if sample.failure else ""))

    return told


# --- What is asked, and of which model -----------------------------------------------------------


def _bench(
    request: Request, settings: Settings, budget: "Budget", passages: Sequence[str], say: Say
) -> "tuple[Bench, FromDocuments]":
    """Return what the experiment is made with, and what became of the documents."""
    from app.assembly import build_encoder
    from eval.injection.budget import FromDocuments
    from eval.injection.experiment import Bench
    from eval.injection.known_facts import candidates
    from retrieval.encoders import HashingEncoder

    size = SIZES[budget.level]
    aside, rest = parted(passages, size.measured)
    is_smoke = budget.level == "smoke"
    if is_smoke:
        found = _supposed(_without_asking(request, size, rest))
    else:
        found = _known(request, settings, size, rest, say)
    rows = found.new[: size.own]
    rows = rows if _can_be_parted(rows, request, budget) else []
    say(_said(found, rows))
    every = max(1, len(passages) // size.searched)
    bench = Bench(
        _tiny_model(request, budget, passages) if is_smoke else _source(request, settings),
        settings.home,
        HashingEncoder() if is_smoke else build_encoder(settings),
        tuple(case for case in candidates() if case.id in found.facts),
        aside,
        _others(rest, rows),
        tuple(passages[::every][: size.searched]),
        tuple(rows),
    )
    return bench, FromDocuments(found.passages, len(found.questions), len(rows))


def _others(texts: Sequence[str], rows: "Sequence[QuestionRow]") -> tuple[str, ...]:
    """Return the texts that no question is about: general text must not teach what is asked."""
    stated = {row.context for row in rows}
    return tuple(text for text in texts if text not in stated)


def _source(request: Request, settings: Settings) -> str:
    """Return the folder or hub id of the model to train."""
    from model.weights import DEFAULT_GENERATOR, prepare_gemma_folder

    name = request.base or settings.generator.model
    return str(prepare_gemma_folder(settings.home)) if name == DEFAULT_GENERATOR else name


def _known(
    request: Request, settings: Settings, size: Size, rest: Sequence[str], say: Say
) -> Known:
    """Return what the untrained model knows, which is asked once."""
    if kept := read_kept(request.out / ASKED, request.command):
        return kept
    if request.questions:
        rows = given_questions(request.questions)
        passages = len({row.context for row in rows})
    else:
        made, tried = made_questions(rest, settings, most=size.own, seed=request.seed, say=say)
        rows = with_gaps(made, rest, most=_SPARE * size.own, seed=request.seed)
        passages = tried + len(rows) - len(made)
    found = ask(scorer_of(_source(request, settings), request.device), rows, passages)
    say(f"{len(found.facts)} real facts are known to the model, and can be forgotten")
    keep(found, request.out / ASKED, request.command)
    return found


def _without_asking(request: Request, size: Size, rest: Sequence[str]) -> "list[QuestionRow]":
    """Return questions that are there without a model: the user's own, or sentences with a gap."""
    if request.questions:
        return given_questions(request.questions)[: size.own]
    return with_gaps([], rest, most=size.own, seed=request.seed)


def _supposed(rows: "Sequence[QuestionRow]") -> Known:
    """Return what a smoke run takes for known and unknown, whatever its tiny model says."""
    from eval.injection.known_facts import candidates

    facts = tuple(case.id for case in candidates()[:_SMOKE_KNOWN])
    return Known(len({row.context for row in rows}), tuple(rows), (True,) * len(rows), facts)


def _said(found: Known, rows: "Sequence[QuestionRow]") -> str:
    told = f"{len(found.questions)} questions came of {found.passages} passages of the documents"
    if rows:
        return f"{told}; {len(rows)} that the model cannot answer are asked"
    return (
        f"{told}, and the model cannot answer {len(found.new)}: too few, so invented facts alone"
        " are asked; give more documents, or your own questions with --questions"
    )


def _can_be_parted(rows: "Sequence[QuestionRow]", request: Request, budget: "Budget") -> bool:
    """Return whether every seed finds facts to train on and others to compare with."""
    from eval.injection.facts import facts_of_documents

    seeds = range(request.seed, request.seed + (request.seeds or budget.seeds))
    try:
        return bool(rows) and all(facts_of_documents(rows, seed=seed) for seed in seeds)
    except UsageError:
        return False


def _tiny_model(request: Request, budget: "Budget", texts: Sequence[str]) -> Path:
    """Return the folder of a two-layer model with random weights, built unless it is there."""
    from eval.injection.facts import articles, build_world
    from model.training.lora import save_model
    from model.training.pretraining import ModelSize, new_model, train_tokenizer
    from retrieval.weights import quiet_loading

    folder = request.out / "model"
    if not (folder / "config.json").is_file():
        told = articles(build_world(budget.facts, request.seed).train.facts, seed=request.seed)
        said = [article.text for one in told for article in one]
        tokenizer = train_tokenizer([*said, *texts], vocabulary=1500)
        size = ModelSize(width=32, layers=2, heads=4, positions=2048)
        with quiet_loading():
            save_model(new_model("next", tokenizer, size, seed=request.seed), tokenizer, folder)
    return folder


def _options(budget: "Budget", device: str) -> "InjectionOptions":
    from eval.injection.experiment import InjectionOptions
    from eval.injection.measuring import MeasuringOptions
    from eval.injection.training import TeachingOptions
    from eval.knowledge import Asking

    if budget.level == "smoke":  # a tiny model learns from steps that would ruin a real one
        teaching = TeachingOptions(full_rate=5e-3, lora_rate=1e-2, batch_tokens=1024, device=device)
        measuring = MeasuringOptions(most_new_tokens=8)
        return InjectionOptions(versions=2, measuring=measuring, teaching=teaching)
    if budget.level == "cpu":  # few facts make few steps, so steps are smaller and larger strides
        teaching = TeachingOptions(
            full_rate=1e-4, warmup_steps=5, batch_tokens=256, replay_tokens=32, device=device
        )
        return InjectionOptions(versions=3, teaching=teaching)
    asking = Asking(prompts=3, samples=2)
    teaching = TeachingOptions(device=device)
    return InjectionOptions(asking=asking, recovery=3, teaching=teaching)


# --- The plan -------------------------------------------------------------------------------------


def _kept_plan(request: Request, budget: "Budget") -> "Plan | None":
    """Return the plan of the folder, which was decided once, or None.

    Raises:
        UsageError: It is of another experiment, or damaged.
    """
    if not (request.out / PLAN).exists():
        return None
    made = read_plan_of(request.out)
    if made.budget != budget or made.command != request.command:
        raise UsageError(
            f"{request.out} holds another experiment ({made.command}); choose another --out, or"
            " repeat that command."
        )
    return made


def _planned(
    request: Request,
    budget: "Budget",
    bench: "Bench",
    asked: "FromDocuments",
    say: Say,
    *,
    begun: float,
) -> "Plan":
    """Return what fits the budget, of which the time since `begun` is gone."""
    from eval.injection.arms import core_arms, standard_arms
    from eval.injection.budget import plan, whole
    from eval.injection.facts import build_world

    world = build_world(budget.facts, request.seed)
    arms = [arm for arm in standard_arms(budget.level) if _is_possible(arm, bench)]
    if budget.seconds is None:
        made = whole(budget, arms, request.seeds)
    else:
        say("measuring how fast this machine is")
        pace = _pace(world, budget, bench, request.device)
        spent = time.monotonic() - begun
        made = plan(budget, arms, *pace, core=core_arms(), seeds=request.seeds, spent=spent)
    chance = _chance(request.seed)
    return replace(made, facts_chance=chance, command=request.command, documents=asked)


def _is_possible(arm: "Arm", bench: "Bench") -> bool:
    """Return whether the documents give what an arm is trained on."""
    if arm.learns == "documents":
        return bool(bench.documents)
    one = arm.training
    needs_text = one and (one.lesson == "general" or one.mitigation in ("replay", "kl", "ewc"))
    return bool(bench.general) or not needs_text


def _pace(world: "World", budget: "Budget", bench: "Bench", device: str) -> tuple[Any, Any]:
    """Return how much there is to do, and how fast it goes."""
    from eval.injection.speeds import head_share, measure, work_of

    scorer, options = scorer_of(str(bench.source), device), _options(budget, device)
    model, tokenizer = scorer.model, scorer.tokenizer
    work = work_of(world, budget.facts, tokenizer, bench, options, head=head_share(model))
    return work, measure(model, tokenizer, world, bench, options)


def _chance(seed: int) -> dict[str, float]:
    """Return what guessing gets, in a world so large that no answer is frequent by luck."""
    from eval.injection.facts import MOST, build_world, chance

    world = build_world(MOST, seed)
    return {
        str(kind): share
        for kind, share in chance(
            [probe for probe in world.train.probes if not probe.wording]
        ).items()
    }


# --- The report -----------------------------------------------------------------------------------


def read_plan_of(folder: Path) -> "Plan":
    """Return the plan of an experiment.

    Raises:
        UsageError: The folder holds none, or a damaged one.
    """
    from eval.injection.budget import read_plan

    try:
        return read_plan((folder / PLAN).read_text("utf-8"))
    except OSError as error:
        raise UsageError(
            f"{folder} holds no {PLAN}; give a folder that tether frontier wrote."
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{folder / PLAN} is damaged or of another version; restore it from a copy, or measure"
            " again with another --out."
        ) from error


def runs_of(folder: Path) -> "list[Run]":
    """Return the runs of an experiment that have samples, by seed."""
    from eval.records import read_run

    runs = [read_run(one.parent) for one in folder.glob(f"{SEED}*/run.json")]
    return sorted((run for run in runs if run.samples), key=lambda run: run.description.seed)


def write_report(folder: Path, language: str = "en") -> Path:
    """Write the report of an experiment from its records alone, and return the HTML file.

    Raises:
        UsageError: The folder holds no experiment.
    """
    from eval.frontier.page import frontier_page

    return write_page(
        folder, frontier_page(runs_of(folder), read_plan_of(folder), language), language
    )
