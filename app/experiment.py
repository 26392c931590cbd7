"""The experiment behind `tether frontier`: documents, a model and a budget become a report.

    OUT/plan.json    what is run, decided once
        model/       of a smoke run: the tiny model that is built for it
        seed-N/      the records of each seed (`eval.records`)
        report.html  and report.md with its pictures, made from the records alone

The facts are invented, so that no model knows them; the user's documents are the general text that
models are measured on and trained along with. Knows nothing of the screen.
"""

import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.settings import Settings
from ingest.errors import UsageError

if TYPE_CHECKING:
    from eval.budget import Budget, Plan
    from eval.facts import World
    from eval.injection import Bench, InjectionOptions
    from eval.records import Run

PLAN, REPORT, SEED = "plan.json", "report", "seed-"
_MEASURED = 0.2  # of the passages are kept aside to measure text on
_MOST_MEASURED = 24  # of each language
_PROBES_KNOWN = 4  # greedy askings, after other examples, that tell what a model knows

Say = Callable[[str], None]


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

    @property
    def command(self) -> str:
        """The command that repeats it, but for the device and the place."""
        words = ["tether", "frontier", *map(str, self.paths), "--budget", self.budget]
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
    from eval.arms import Arm, standard_arms
    from eval.budget import read_budget
    from eval.facts import build_world
    from eval.injection import run_seed

    budget = read_budget(request.budget)
    texts = passages_of(request.paths)
    say(f"{len(texts)} passages in the documents")
    request.out.mkdir(parents=True, exist_ok=True)
    bench = _bench(request, settings, budget, texts, say)
    options = _options(budget, request.device)
    arms = standard_arms(budget.level)
    made = _planned(request, budget, bench, options, arms=arms, say=say)
    chosen = [Arm.parse(name) for name in made.arms]
    for number in range(made.seeds):
        seed = request.seed + number
        say(f"seed {seed}: {len(chosen)} arms, {made.facts} facts of each language")
        world = build_world(made.facts, seed)
        folder = request.out / f"{SEED}{seed}"
        run_seed(
            world, chosen, bench, folder,
            seed=seed, options=options, command=request.command, on_sample=_closings(say),
        )  # fmt: skip
    return write_report(request.out)


def _closings(say: Say) -> Callable[[Any], None]:
    """Return what tells of each arm that is through."""

    def told(sample: Any) -> None:  # noqa: ANN401 - a Sample, which is heavy to import
        if sample.kind == "cost":
            say(f"  {sample.arm}" + (f": failed, {sample.failure}" if sample.failure else ""))

    return told


# --- Documents ------------------------------------------------------------------------------------


def passages_of(paths: Sequence[Path]) -> list[str]:
    """Return the texts of all passages in documents, in the order of the files.

    Raises:
        UsageError: A path is missing, or there is too little text.
    """
    from ingest.chunking import ChunkingOptions
    from ingest.pipeline import run
    from retrieval.encoders import HashingEncoder
    from retrieval.store import open_collection

    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder; check the path.")
    with (
        tempfile.TemporaryDirectory(prefix="tether-frontier-") as folder,
        open_collection(Path(folder), "documents", HashingEncoder(), create=True) as collection,
    ):
        run(list(paths), collection, ChunkingOptions())
        numbers = [int(number) for number in collection.rowids()]
        stored = collection.chunks_by_rowid(numbers)
        found = [stored[number].chunk.text for number in sorted(stored)]
    texts = list(dict.fromkeys(text for text in found if text.strip()))
    if len(texts) < 2:
        raise UsageError(
            f"{', '.join(map(str, paths))}: {len(texts)} passages of text were found, and at least"
            " 2 are needed; give documents with text, such as examples/knowledge."
        )
    return texts


def parted(texts: Sequence[str]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return texts to measure on, by language, and the others, to train along with.

    Every few passages of each language one is kept aside, so that both come from all documents.
    """
    from ingest.languages import question_language

    every = round(1 / _MEASURED)
    languages: dict[str, list[str]] = {}
    for text in texts:
        languages.setdefault(question_language(text), []).append(text)
    aside = {
        language: tuple(own[::every][:_MOST_MEASURED])
        for language, own in sorted(languages.items())
        if len(own) > 1
    }
    kept = {text for own in aside.values() for text in own}
    return aside, tuple(text for text in texts if text not in kept)


# --- Model, options and plan ----------------------------------------------------------------------


def _bench(
    request: Request, settings: Settings, budget: "Budget", texts: Sequence[str], say: Say
) -> "Bench":
    """Return what the experiment is made with."""
    from eval.injection import Bench
    from eval.known_facts import candidates

    aside, general = parted(texts)
    if budget.level == "smoke":
        from retrieval.encoders import HashingEncoder

        model = _tiny_model(request, budget, texts)
        return Bench(model, settings.home, HashingEncoder(), candidates()[:4], aside, general)
    from app.assembly import build_encoder
    from model.weights import DEFAULT_GENERATOR, prepare_gemma_folder

    name = request.base or settings.generator.model
    source = str(prepare_gemma_folder(settings.home)) if name == DEFAULT_GENERATOR else name
    bench = Bench(source, settings.home, build_encoder(settings), (), aside, general)
    known = _known(source, request.device)
    say(f"{len(known)} of {len(candidates())} known facts are answered, and can be forgotten")
    return replace(bench, known=tuple(known))


def _known(source: str, device: str) -> list[Any]:
    from eval.injection_knowledge import known_cases
    from eval.knowledge import Asking
    from eval.known_facts import candidates
    from eval.scoring import Scorer
    from model.training.loop import pick_device
    from model.training.tasks import load_base

    model, tokenizer = load_base(source, device=pick_device(device).type)
    scorer = Scorer(model.eval(), tokenizer)
    return known_cases(scorer, candidates(), Asking(prompts=_PROBES_KNOWN, samples=0))


def _tiny_model(request: Request, budget: "Budget", texts: Sequence[str]) -> Path:
    """Return the folder of a two-layer model with random weights, built unless it is there."""
    from eval.facts import articles, build_world
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
    from eval.injection import InjectionOptions
    from eval.injection_measuring import MeasuringOptions
    from eval.injection_training import TeachingOptions

    if budget.level == "smoke":  # a tiny model learns from steps that would ruin a real one
        teaching = TeachingOptions(full_rate=5e-3, lora_rate=1e-2, batch_tokens=1024, device=device)
        measuring = MeasuringOptions(most_new_tokens=8)
        return InjectionOptions(versions=2, measuring=measuring, teaching=teaching)
    return InjectionOptions(teaching=TeachingOptions(device=device))


def _planned(
    request: Request,
    budget: "Budget",
    bench: "Bench",
    options: "InjectionOptions",
    *,
    arms: Sequence[Any],
    say: Say,
) -> "Plan":
    """Return the plan of the folder, or make one and keep it: it is decided once."""
    from eval.budget import plan, whole
    from eval.facts import build_world
    from retrieval.store import replace_file

    path = request.out / PLAN
    if path.exists():
        made = read_plan_of(request.out)
        if made.budget != budget or made.command != request.command:
            raise UsageError(
                f"{request.out} holds another experiment ({made.command}); choose another --out,"
                " or repeat that command."
            )
        return made
    world = build_world(budget.facts, request.seed)
    if budget.seconds is None:
        made = whole(budget, arms, request.seeds)
    else:
        say("measuring how fast this machine is")
        made = plan(budget, arms, *_pace(world, budget, bench, options), seeds=request.seeds)
    made = replace(made, facts_chance=_chance(world), command=request.command)
    replace_file(path, made.to_json().encode())
    for one in made.left_out:
        say(f"left out: {one.what} ({one.why})")
    return made


def _pace(
    world: "World", budget: "Budget", bench: "Bench", options: "InjectionOptions"
) -> tuple[Any, Any]:
    """Return how much there is to do, and how fast it goes."""
    from eval.speeds import measure, work_of
    from model.training.loop import pick_device
    from model.training.tasks import load_base

    device = pick_device(options.teaching.device).type
    model, tokenizer = load_base(bench.source, device=device)
    texts = [text for own in bench.texts.values() for text in own]
    work = work_of(
        world, budget.facts, tokenizer, general=bench.general, texts=texts, options=options
    )
    work = replace(
        work, closed=work.closed + len(bench.known), reading=work.reading + len(bench.known)
    )
    return work, measure(model.eval(), tokenizer, world, texts, options)


def _chance(world: "World") -> dict[str, float]:
    from eval.facts import chance

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
    from eval.budget import read_plan

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
    from eval.frontier_page import frontier_page
    from eval.pages import html, markdown
    from retrieval.store import replace_file

    page = frontier_page(runs_of(folder), read_plan_of(folder), language)
    suffix = "" if language == "en" else f".{language}"
    pictures = f"{REPORT}{suffix}-files"
    text, drawn = markdown(page, pictures)
    (folder / pictures).mkdir(exist_ok=True)
    for name, svg in drawn.items():
        replace_file(folder / pictures / name, svg.encode())
    replace_file(folder / f"{REPORT}{suffix}.md", text.encode())
    target = folder / f"{REPORT}{suffix}.html"
    replace_file(target, html(page).encode())
    return target
