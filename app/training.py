"""The commands that learn: `tether train answer`, `verify`, `rerank`, `read`, `knowledge` ...

Each makes rows, a task of `model.training` and its options, trains, and leaves an adapter with its
record and card where settings find it. A run lies in `<home>/training/NAME/` until it is complete,
so the same command goes on where a stopped one was. Knows nothing of how anything is learnt.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from app.flags import Flags, json_option, pass_flags, shown

if TYPE_CHECKING:
    from app.rows import Rows
    from app.settings import Settings
    from model.adapters import Adapter
    from model.training.forgetting import ForgettingOptions
    from model.training.loop import Task, TrainingOptions
    from model.training.records import TrainingRecord

_FILE = click.Path(dir_okay=False, path_type=Path)

# --- Options --------------------------------------------------------------------------------------

Decorator = Callable[[Any], Any]

SOURCES: tuple[Decorator, ...] = (
    click.option("--data", type=_FILE, metavar="FILE", help="Rows to learn from, as JSON lines."),
    click.option("--dev", type=_FILE, metavar="FILE", help="Rows to watch (default: a tenth)."),
    click.option("--collection", metavar="NAME", help="Learn from your own documents instead."),
)
QUESTIONS = click.option(
    "--questions",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Passages of the collection to ask about.",
)
FEEDBACK: tuple[Decorator, ...] = (
    click.option(
        "--from-feedback", is_flag=True, help="Learn from thumbs and corrections instead."
    ),
    click.option(
        "--preferences", is_flag=True, help="Of the feedback: better answers over worse ones (DPO)."
    ),
)
COMMON: tuple[Decorator, ...] = (
    click.option("--out", required=True, metavar="NAME", help="Name for what is trained."),
    click.option("--force", is_flag=True, help="Replace what has that name."),
    click.option("--base", metavar="MODEL", help="Model to start from (default: the one in use)."),
    click.option(
        "--epochs", type=float, default=1.0, show_default=True, help="Times over all rows."
    ),
    click.option("--steps", type=click.IntRange(1), help="Stop after so many steps."),
    click.option("--minutes", type=float, help="Stop after so many minutes."),
    click.option("--learning-rate", type=float, help="Highest learning rate (default: by task)."),
    click.option(
        "--batch-tokens",
        type=click.IntRange(1),
        default=2048,
        show_default=True,
        help="Padded tokens of a batch.",
    ),
    click.option(
        "--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Batches a step."
    ),
    click.option(
        "--most-tokens", type=click.IntRange(8), help="Longest row; longer ones are left out."
    ),
    click.option(
        "--evaluate-every",
        type=click.IntRange(0),
        default=100,
        show_default=True,
        help="Steps between looks at the dev rows; 0: before and after.",
    ),
    click.option(
        "--patience",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Looks without improvement before it stops; 0: never.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn."),
    click.option("--device", metavar="NAME", default="auto", help="cpu, cuda, or auto."),
    click.option("--dry-run", is_flag=True, help="Count rows, estimate time and memory; no more."),
)
LORA: tuple[Decorator, ...] = (
    click.option(
        "--rank", type=click.IntRange(1), default=16, show_default=True, help="Of the LoRA."
    ),
    click.option("--alpha", type=float, help="Scale of the LoRA (default: twice the rank)."),
)
FORGETTING: tuple[Decorator, ...] = (
    click.option(
        "--from-adapter",
        metavar="NAME",
        help="Adapter to go on with (default: none; for feedback, the one in use).",
    ),
    click.option("--full", is_flag=True, help="Train all weights; makes a model, no adapter."),
    click.option(
        "--replay", type=float, default=0.0, metavar="SHARE", help="Share of general text mixed in."
    ),
    click.option("--replay-text", type=_FILE, metavar="FILE", help="General text, by paragraphs."),
    click.option("--kl", type=float, default=0.0, help="Weight of staying near the base's words."),
    click.option("--l2sp", type=float, default=0.0, help="Weight of staying near its weights."),
    click.option("--ewc", type=float, default=0.0, help="The same, by what general text needs."),
    click.option(
        "--freeze-layers", type=click.IntRange(0), default=0, help="Lowest layers left as they are."
    ),
    click.option(
        "--interpolate",
        type=float,
        default=1.0,
        show_default=True,
        metavar="SHARE",
        help="Share of the change that is kept at the end.",
    ),
)


_OBJECTIVES: Mapping[str, Any] = {"gpt": "next", "bert": "masked", "t5": "spans"}
PRETRAINING: tuple[Decorator, ...] = (
    click.option(
        "--objective",
        type=click.Choice(list(_OBJECTIVES)),
        default="gpt",
        show_default=True,
        help="The next token, masked tokens, or removed spans.",
    ),
    click.option("--from-scratch", is_flag=True, help="A new model with a tokenizer of its own."),
    click.option(
        "--vocabulary", type=click.IntRange(1), default=8000, show_default=True, help="Its tokens."
    ),
    click.option(
        "--width", type=click.IntRange(8), default=256, show_default=True, help="Its width."
    ),
    click.option(
        "--layers", type=click.IntRange(1), default=4, show_default=True, help="Its layers."
    ),
    click.option(
        "--heads", type=click.IntRange(1), default=4, show_default=True, help="Its heads."
    ),
    click.option("--freeze-embeddings", is_flag=True, help="Leave the embeddings as they are."),
)


def with_options(*groups: Sequence[Decorator]) -> Decorator:
    """Return a decorator that adds groups of options in their order."""

    def add(command: Any) -> Any:  # noqa: ANN401 - what click decorates
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return add


@dataclass(frozen=True, slots=True)
class Wanted:
    """A command's role and options, and the settings in force."""

    role: str
    settings: "Settings"
    options: Mapping[str, Any]
    command: str  # as it would be typed again

    @property
    def run(self) -> Path:
        """The folder of the run while it lasts."""
        return self.settings.home / "training" / str(self.options["out"])

    @property
    def target(self) -> Path:
        """The folder of what is trained."""
        kind = "models" if self.options.get("full") else "adapters"
        return self.settings.home / kind / str(self.options["out"])

    def training_options(self, rate: float) -> "TrainingOptions":
        """Return the loop's options; `rate` is the learning rate if none was chosen."""
        from model.training.loop import TrainingOptions

        chosen = self.options
        return TrainingOptions(
            seed=chosen["seed"],
            epochs=chosen["epochs"],
            most_steps=chosen["steps"],
            minutes=chosen["minutes"],
            batch_tokens=chosen["batch_tokens"],
            accumulate=chosen["accumulate"],
            learning_rate=chosen["learning_rate"] or rate,
            evaluate_every=chosen["evaluate_every"],
            patience=chosen["patience"],
            checkpoint_every=300.0 if chosen.get("full") else 60.0,
            device=chosen["device"],
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A task ready to be trained, and what to do with the result."""

    task: "Task"
    options: "TrainingOptions"
    save: "Callable[[Path, TrainingRecord], None]"  # into a folder
    use: str  # how to, in a few words


def _wanted(flags: Flags, role: str, options: dict[str, Any]) -> Wanted:
    """Return what a command was asked for, its name checked.

    Raises:
        UsageError: The name cannot be that of an adapter, or it is taken.
    """
    from ingest.errors import UsageError
    from retrieval.store import checked_name

    name = checked_name(options["out"])
    if name in ("auto", "none"):
        raise UsageError(f'"{name}" means something else in the settings; choose another --out')
    settings = flags.settings(collection=options.get("collection"))
    context = click.get_current_context()
    wanted = Wanted(role, settings, options | {"out": name}, _typed(context))
    if wanted.target.exists() and not options["force"]:
        raise UsageError(
            f"{wanted.target} exists; give another --out, or --force to replace it when the"
            " training is done"
        )
    return wanted


def _typed(context: click.Context) -> str:
    """Return the command with the options that were given, for the card."""
    group = context.parent.info_name if context.parent else ""
    words = [f"tether {group} {context.info_name}"]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        source = context.get_parameter_source(parameter.name or "")
        if source is not click.core.ParameterSource.COMMANDLINE:
            continue
        text = str(value)
        words += [parameter.opts[0]] if value is True else [parameter.opts[0], text]
    return " ".join(f'"{word}"' if " " in word and word != words[0] else word for word in words)


# --- Rows -----------------------------------------------------------------------------------------


def _rows(wanted: Wanted) -> "tuple[Rows, Rows]":
    """Return (train, dev) rows from the file or the collection that was named; say their counts.

    Raises:
        UsageError: Not one of the two is named.
        TrainingError: A row is damaged, or there is none.
    """
    from app.rows import Rows, own_rows, read_rows
    from ingest.errors import UsageError

    chosen = wanted.options
    sources = [chosen["data"], chosen["collection"], chosen.get("from_feedback") or None]
    if sum(source is not None for source in sources) != 1:
        last = " or --from-feedback" if "from_feedback" in chosen else ""
        raise UsageError(f"give --data FILE, or --collection NAME{last}: exactly one of them")
    if chosen.get("from_feedback"):
        train, dev = _corrections(wanted)
    elif chosen["data"] is not None:
        read = read_rows(chosen["data"], wanted.role)
        train, dev = (read, Rows(())) if chosen["dev"] else _split(read, chosen["seed"])
    else:
        train, dev = _kept(wanted, lambda: own_rows(
            wanted.settings, wanted.role, most=chosen.get("questions", 0), seed=chosen["seed"]
        ))  # fmt: skip
    if chosen["dev"] is not None:
        dev = read_rows(chosen["dev"], wanted.role)
    return train, dev


def _split(rows: "Rows", seed: int) -> "tuple[Rows, Rows]":
    """Return (train, dev) rows."""
    from app.rows import Rows, split_dev

    train, dev = split_dev(rows.examples, seed)
    return Rows(tuple(train), rows.without_answer), Rows(tuple(dev))


def _corrections(wanted: Wanted) -> "tuple[Rows, Rows]":
    """Return (train, dev) rows of what people corrected and praised.

    Raises:
        TrainingError: They did neither.
    """
    from app.rows import Rows
    from ingest.errors import TrainingError
    from model.feedback import FeedbackStore, supervised_examples

    with FeedbackStore(wanted.settings.home) as store:
        examples = supervised_examples(store.entries())
    if not examples:
        raise TrainingError(
            "there is no correction and no praise to learn from: give some with tether feedback add"
        )
    return _split(Rows(tuple(examples)), wanted.options["seed"])


def _kept(wanted: Wanted, make: "Callable[[], tuple[Rows, Rows]]") -> "tuple[Rows, Rows]":
    """Return rows that were made for this run before, else make and keep them."""
    from app.rows import Rows, read_rows, write_rows
    from model.training.checkpoints import write_text

    told = {key: wanted.options.get(key) for key in ("collection", "questions", "seed")}
    label = json.dumps(told | {"role": wanted.role})
    files = [wanted.run / f"{part}.jsonl" for part in ("train", "dev")]
    note = wanted.run / "rows.json"
    if note.is_file() and note.read_text("utf-8") == label:
        train, dev = (
            read_rows(file, wanted.role) if file.stat().st_size else Rows(()) for file in files
        )
        return train, dev
    made = make()
    for file, rows in zip(files, made, strict=True):
        write_rows(file, rows.examples)
    write_text(note, label)  # last: it vouches for the others
    return made


# --- Tasks ----------------------------------------------------------------------------------------


def _generator_base(wanted: Wanted) -> tuple[str, str, str]:
    """Return name, place and hash of the language model to start from.

    Raises:
        UsageError: It is a GGUF file, which cannot be trained.
    """
    from ingest.errors import UsageError
    from model.weights import DEFAULT_GENERATOR, base_hash, prepare_gemma_folder
    from retrieval.weights import local_folder

    settings = wanted.settings
    model = wanted.options["base"] or settings.generator.model
    if model.lower().endswith(".gguf"):
        raise UsageError(
            f"{model} is a GGUF file, which cannot be trained; name a transformers folder, a hub"
            f" id or {DEFAULT_GENERATOR} with --base"
        )
    if model == DEFAULT_GENERATOR:
        folder = prepare_gemma_folder(settings.home)
        return model, str(folder), base_hash(folder, settings.home)
    place = local_folder(model)
    if place is None:
        return model, model, ""
    return place.resolve().name, str(place), base_hash(place, settings.home)


def _forgetting(options: Mapping[str, Any]) -> "tuple[ForgettingOptions, list[str], list[str]]":
    """Return what holds the model near its base, general text for it, and some to watch."""
    from app.rows import read_texts
    from model.training.forgetting import ForgettingOptions

    chosen = ForgettingOptions(
        replay=options["replay"],
        kl=options["kl"],
        l2_sp=options["l2sp"],
        ewc=options["ewc"],
        frozen_layers=options["freeze_layers"],
        interpolation=options["interpolate"],
    )
    texts = read_texts(options["replay_text"]) if options["replay_text"] else []
    aside = min(50, len(texts) // 10)
    return chosen, texts[aside:], texts[:aside]


def _causal_job(wanted: Wanted, train: "Rows", dev: "Rows") -> Job:
    """Return the task of a language model, with a fresh LoRA or all weights."""
    from model.training.lora import LoraOptions, add_lora, save_adapter, save_model
    from model.training.tasks import CausalTask, load_base

    chosen = wanted.options
    forgetting, general, general_dev = _forgetting(chosen)
    name, place, sha256 = _generator_base(wanted)
    model, tokenizer = load_base(place)
    base = {"name": name, "sha256": sha256}
    started = _adapter_to_go_on_with(wanted, base)
    rank = chosen["rank"]
    if started is not None:
        model = load_adapter(model, started.folder)
    elif not chosen["full"]:
        lora = LoraOptions(rank=rank, alpha=chosen["alpha"] or 2.0 * rank)
        model = add_lora(model, lora, seed=chosen["seed"])
    task = CausalTask(
        model,
        tokenizer,
        train.examples,
        dev.examples,
        most_tokens=chosen["most_tokens"] or 640,
        forgetting=forgetting,
        general=general,
        general_dev=general_dev,
        base=base,
        seed=chosen["seed"],
    )
    facts = _facts(wanted, base, started)

    def save(folder: Path, record: "TrainingRecord") -> None:
        task.finish()
        if chosen["full"]:
            save_model(task.module, tokenizer, folder, record=record, facts=facts)
        else:
            save_adapter(task.module, folder, base_name=name, record=record, facts=facts)

    switch = f"generator.model={wanted.target}" if chosen["full"] else _adapter_switch(wanted, name)
    rate = 2e-5 if chosen["full"] else 5e-4
    return Job(task, wanted.training_options(rate), save, f"switch it on with --set {switch}")


def _facts(wanted: Wanted, base: Mapping[str, str], started: "Adapter | None") -> dict[str, Any]:
    """Return what the record of a language model says beside the run."""
    from dataclasses import asdict

    from model.prompts import TRAINED

    facts: dict[str, Any] = {"role": "answer", "base": base, "command": wanted.command}
    if wanted.role == "answer":
        facts["prompt"] = asdict(TRAINED)
    elif started is not None:
        facts["prompt"] = dict(started.prompt)
    if started is not None:
        facts["started_from"] = {"name": started.name, "sha256": started.sha256}
    return facts


def _adapter_to_go_on_with(wanted: Wanted, base: Mapping[str, str]) -> "Adapter | None":
    """Return the adapter whose training goes on; people's feedback is about the one in use.

    Raises:
        UsageError: Other options need a fresh one.
        WeightsError: There is no such adapter, or it belongs to another base.
    """
    from app.assembly import resolve_adapter
    from ingest.errors import UsageError
    from model.adapters import find_adapter, require_base

    chosen = wanted.options
    name = chosen["from_adapter"]
    if name == "none" or (name is None and not chosen.get("from_feedback")):
        return None
    if name is not None:
        adapter: Adapter | None = find_adapter(name, wanted.settings.home, "answer")
    else:
        adapter = None if chosen["base"] or chosen["full"] else resolve_adapter(wanted.settings)
    if adapter is None:
        return None
    if chosen["full"] or chosen["interpolate"] < 1:
        raise UsageError(
            f"the adapter {adapter.name} goes on learning, which --full and --interpolate cannot;"
            " leave them out, or give --from-adapter none"
        )
    require_base(adapter, base["name"], base["sha256"] or None)
    return adapter


def load_adapter(model: Any, folder: Path) -> Any:  # noqa: ANN401 - peft ships no types
    """Return a model with a LoRA on it that goes on learning."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder), is_trainable=True)


def _adapter_switch(wanted: Wanted, base: str) -> str:
    """Return the settings under which an adapter on this base runs."""
    adapter = f"generator.adapter={wanted.options['out']}"
    chosen = wanted.options["base"]
    if not chosen or chosen == wanted.settings.generator.model:
        return adapter
    return f"{adapter} --set generator.model={chosen}"


def _head_job(wanted: Wanted, train: "Rows", dev: "Rows") -> Job:
    """Return the task of a head on the encoder."""
    from model.adapters import label_adapter
    from model.training import heads
    from retrieval.weights import hash_folder

    chosen, role = wanted.options, wanted.role
    name, folder = _encoder_base(wanted)
    sha256 = hash_folder(folder, wanted.settings.home)
    options = heads.HeadOptions(
        rank=chosen["rank"],
        alpha=chosen["alpha"] or 2.0 * chosen["rank"],
        window=chosen["most_tokens"] or heads.HeadOptions().window,
        seed=chosen["seed"],
    )
    model = heads.HeadModel(folder, role, options)  # type: ignore[arg-type]
    kinds: Mapping[str, Any] = {
        "verify": heads.VerifyTask, "rerank": heads.RankTask, "read": heads.ReadTask,
    }  # fmt: skip
    task = kinds[role](model, train.examples, dev.examples)

    def save(target: Path, record: "TrainingRecord") -> None:
        heads.save_head(model, target, base=name, base_sha256=sha256)
        record.save(target)
        label_adapter(target, role, name, sha256)

    return Job(task, wanted.training_options(1e-3), save, "tether models lists it")


def _encoder_base(wanted: Wanted) -> tuple[str, Path]:
    """Return name and folder of the sentence encoder to start from.

    Raises:
        WeightsError: There is no such folder.
    """
    from ingest.errors import WeightsError
    from retrieval.e5 import prepare_e5_small
    from retrieval.encoders import DEFAULT_ENCODER
    from retrieval.weights import local_folder

    model = wanted.options["base"] or wanted.settings.encoder.model
    if model == DEFAULT_ENCODER:
        return model, prepare_e5_small(wanted.settings.home)
    folder = local_folder(model)
    if folder is None:
        raise WeightsError(
            f"{model} is no folder of a sentence encoder; name one with --base, or"
            f" {DEFAULT_ENCODER}"
        )
    return folder.resolve().name, folder


def _pretraining_job(wanted: Wanted) -> Job:
    """Return the task of an objective on texts, from scratch or continued."""
    from model.training import pretraining
    from model.training.lora import save_model
    from model.training.tasks import load_base

    chosen = wanted.options
    objective = _OBJECTIVES[chosen["objective"]]
    corpus = pretraining.split_documents(_texts(wanted), seed=chosen["seed"])
    source: Path | None = None
    if chosen["from_scratch"]:
        base: dict[str, str] = {}
        tokenizer = pretraining.train_tokenizer(corpus.train, vocabulary=chosen["vocabulary"])
        size = pretraining.ModelSize(chosen["width"], chosen["layers"], chosen["heads"])
        model = pretraining.new_model(objective, tokenizer, size, seed=chosen["seed"])
    else:
        name, place, sha256 = _pretraining_base(wanted)
        base = {"name": name, "sha256": sha256}
        model, tokenizer = load_base(place, objective)
        source = Path(place)
    if chosen["freeze_embeddings"]:
        pretraining.freeze_embeddings(model)
    packing = pretraining.PackingOptions(block=chosen["most_tokens"] or 256, seed=chosen["seed"])
    task = pretraining.TASKS[objective](model, tokenizer, corpus, packing, base=base)
    is_encoder = source is not None and (source / "modules.json").is_file()

    def save(folder: Path, record: "TrainingRecord") -> None:
        if is_encoder and source is not None and objective == "masked":
            pretraining.save_encoder(model, source, folder, record=record)
        else:
            save_model(model, tokenizer, folder, record=record, facts={"command": wanted.command})

    use = "it is a folder that transformers reads"
    if is_encoder:
        use = f"use it with tether reindex --encoder {wanted.target}"
    elif objective == "next":
        use = f"switch it on with --set generator.model={wanted.target}"
    return Job(task, wanted.training_options(1e-3 if chosen["from_scratch"] else 5e-5), save, use)


def _pretraining_base(wanted: Wanted) -> tuple[str, str, str]:
    """Return name, place and hash of the model that goes on learning."""
    from ingest.errors import UsageError
    from model.weights import base_hash
    from retrieval.weights import local_folder

    chosen = wanted.options
    if chosen["objective"] == "gpt":
        return _generator_base(wanted)
    if chosen["objective"] == "bert" and (not chosen["base"] or local_folder(chosen["base"])):
        name, folder = _encoder_base(wanted)
        return name, str(folder), base_hash(folder, wanted.settings.home)
    if not chosen["base"]:
        raise UsageError("there is no T5 in use: name a folder with --base, or --from-scratch")
    place = local_folder(chosen["base"])
    sha256 = base_hash(place, wanted.settings.home) if place else ""
    return (place.resolve().name, str(place), sha256) if place else (chosen["base"],) * 2 + ("",)


def _texts(wanted: Wanted) -> list[str]:
    """Return the texts to pretrain on: of a file, or the documents of a collection.

    Raises:
        UsageError: Not one of the two is named.
    """
    from app.rows import read_texts
    from ingest.errors import UsageError

    chosen = wanted.options
    if (chosen["data"] is None) == (chosen["collection"] is None):
        raise UsageError("give --data FILE or --collection NAME: exactly one of them")
    if chosen["data"] is not None:
        return read_texts(chosen["data"])
    from app.assembly import open_searcher

    with open_searcher(wanted.settings)[1] as collection:
        found = [collection.document(info.id) for info in collection.documents()]
    return [document.text for document in found if document is not None]


# --- Training -------------------------------------------------------------------------------------


def _prefer(wanted: Wanted) -> None:
    """Carry out DPO on the pairs that people's feedback makes.

    Raises:
        UsageError: Options that do not go with it.
        TrainingError: There is no pair.
    """
    from app.rows import split_dev
    from ingest.errors import TrainingError, UsageError
    from model.feedback import FeedbackStore, preference_pairs

    chosen = wanted.options
    if not chosen["from_feedback"] or chosen["full"]:
        raise UsageError("--preferences needs --from-feedback, and makes an adapter: no --full")
    with FeedbackStore(wanted.settings.home) as store:
        pairs = preference_pairs(store.entries())
    if not pairs:
        raise TrainingError(
            "no answer is preferred to another yet: give corrections with tether feedback add"
        )
    kept, aside = split_dev(pairs, chosen["seed"])
    click.echo(f"{len(kept)} pairs; {len(aside)} dev pairs")
    if chosen["dry_run"]:
        click.echo("nothing was trained")
        return
    from model.training.preferences import PreferenceOptions, train_dpo
    from model.training.tasks import load_base

    name, place, sha256 = _generator_base(wanted)
    base = {"name": name, "sha256": sha256}
    model, tokenizer = load_base(place)
    started = _adapter_to_go_on_with(wanted, base)
    options = PreferenceOptions(
        seed=chosen["seed"],
        epochs=chosen["epochs"],
        most_steps=chosen["steps"],
        learning_rate=chosen["learning_rate"] or 5e-5,
        most_tokens=chosen["most_tokens"] or 640,
        lora_rank=chosen["rank"],
        lora_alpha=chosen["alpha"] or 2.0 * chosen["rank"],
        device=chosen["device"],
    )
    record = train_dpo(
        load_adapter(model, started.folder) if started else model,
        tokenizer,
        kept,
        options,
        wanted.target,
        base_name=name,
        dev=aside,
        facts=_facts(wanted, base, started),
    )
    _finish(wanted, record, f"switch it on with --set {_adapter_switch(wanted, name)}")


def _learn(flags: Flags, role: str, options: dict[str, Any]) -> None:
    """Carry out a command that learns from rows."""
    wanted = _wanted(flags, role, options)
    if options.get("preferences"):
        _prefer(wanted)
        return
    train, dev = _rows(wanted)
    make = _causal_job if role in ("answer", "knowledge") else _head_job
    job = make(wanted, train, dev)
    _print_counts(job.task, train, dev)
    _carry_out(wanted, job)


def _print_counts(task: "Task", train: "Rows", dev: "Rows") -> None:
    """Print how many rows are used, and why others are not."""
    said: Mapping[str, Any] = getattr(task, "describe", dict)()
    data = said.get("data", {})
    too_long = data.get("too_long", said.get("too_long", 0))
    used = data.get("used", len(train.examples) - too_long)
    click.echo(
        f"{used} rows used, {too_long} too long, {train.without_answer} without an answer;"
        f" {len(dev.examples)} dev rows"
    )


def _carry_out(wanted: Wanted, job: Job) -> None:
    """Estimate only, or train, save, and say where the result lies and how it did."""
    from model.training.loop import estimate, train

    if wanted.options["dry_run"]:
        guess = estimate(job.task, job.options)
        click.echo(
            f"{guess.trainable:,} weights to train in {guess.steps} steps over {guess.tokens:,}"
            f" tokens: about {_duration(guess.seconds)} and {guess.bytes / 1e9:.1f} GB of memory;"
            " nothing was trained"
        )
        return
    try:
        record = train(job.task, job.options, wanted.run)
    except KeyboardInterrupt:
        _print_how_to_go_on(wanted)
        raise
    if os.environ.get("RANK", "0") == "0":  # of several processes one writes
        job.save(wanted.target, record)
        _finish(wanted, record, job.use)


def _finish(wanted: Wanted, record: "TrainingRecord", use: str) -> None:
    """Leave the card, clear the run away, and say where the result lies and how it did."""
    _leave_card(wanted, record)
    shutil.rmtree(wanted.run, ignore_errors=True)
    figures = _figures(record.first, record.best) or "no dev rows"
    spent = f"{record.steps} steps in {_duration(record.seconds)}"
    click.echo(shown(f"{wanted.target} ({spent}; {figures}); {use}"))


def _print_how_to_go_on(wanted: Wanted) -> None:
    from model.training.checkpoints import latest_checkpoint

    kept = latest_checkpoint(wanted.run, "checkpoint")
    step = int(kept.name.rpartition("-")[2]) if kept else 0
    told = f"the checkpoint of step {step} is kept" if kept else "nothing was learnt yet"
    click.echo(shown(f"{told}; to go on: {wanted.command}"), err=True)


def _duration(seconds: float) -> str:
    """Return seconds in the unit that suits them."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _figures(first: Mapping[str, float], best: Mapping[str, float]) -> str:
    """Return each dev figure before and after."""
    parts = [
        f"dev {name} {first[name]:.3f} -> {value:.3f}"
        if name in first
        else f"dev {name} {value:.3f}"
        for name, value in best.items()
    ]
    return ", ".join(parts)


def _leave_card(wanted: Wanted, record: "TrainingRecord") -> None:
    """Write the card, the log and the curve beside the weights."""
    from model.training.checkpoints import write_text

    for name in ("log.jsonl", "curve.svg"):
        if (wanted.run / name).is_file():
            write_text(wanted.target / name, (wanted.run / name).read_text("utf-8"))
    task = record.task
    base = task.get("base") or {}
    machine = record.hardware
    rows = [
        ("role", wanted.role),
        (
            "base",
            f"{base.get('name', '')} `{base.get('sha256', '')[:12]}`" if base else "see record",
        ),
        ("command", f"`{wanted.command}`"),
        ("data", f"`{json.dumps(task.get('data') or _plain(task), ensure_ascii=False)}`"),
        ("seed", record.seed),
        ("hardware", f"{machine.get('gpu') or machine.get('processor')} ({machine.get('device')})"),
        ("time", f"{_duration(record.seconds)}, {record.steps} steps, {record.tokens:,} tokens"),
        ("stopped", f"{record.stopped}; weights of step {record.best_step}"),
        ("figures", _figures(record.first, record.best) or "no dev rows"),
    ]
    curve = "\n![curve](curve.svg)\n" if (wanted.target / "curve.svg").is_file() else ""
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    write_text(
        wanted.target / "README.md",
        f"# {wanted.options['out']}\n\nTrained with `tether train`; every option and the curve"
        f" stand in `record.json`.\n\n| | |\n|---|---|\n{table}{curve}",
    )


def _plain(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a task's description that tell of its data."""
    return {key: task[key] for key in ("examples", "too_long", "data_sha256") if key in task}


# --- Commands -------------------------------------------------------------------------------------


@click.group()
def train() -> None:
    """Train adapters on your own rows or documents: to answer, verify, rerank, read, or know.

    A stopped command goes on where it was when it is given again.
    """


@train.command()
@with_options(SOURCES, (QUESTIONS,), FEEDBACK, COMMON, LORA, FORGETTING)
@pass_flags
def answer(flags: Flags, /, **options: Any) -> None:  # noqa: ANN401
    """Teach the generator to answer from passages, to cite, and to refuse.

    A row is {"prompt": text, "completion": text}. With --collection, questions about your documents
    are generated, and kept if they are answered the same when asked again. With --from-feedback,
    what you praised and corrected is learnt.
    """
    _learn(flags, "answer", options)


@train.command()
@with_options(SOURCES, COMMON, LORA, FORGETTING)
@pass_flags
def knowledge(flags: Flags, /, **options: Any) -> None:  # noqa: ANN401
    """Teach the generator what documents say: the next word of their text.

    A row is {"text": text}, or {"prompt": text, "completion": text} to learn the completion only.
    """
    _learn(flags, "knowledge", options)


@train.command()
@with_options(SOURCES, (QUESTIONS,), COMMON, LORA)
@pass_flags
def verify(flags: Flags, /, **options: Any) -> None:  # noqa: ANN401
    """Teach a head on the encoder whether a text supports a claim.

    A row is {"claim": text, "evidence": text, "label": 1 or 0}.
    """
    _learn(flags, "verify", options)


@train.command()
@with_options(SOURCES, (QUESTIONS,), COMMON, LORA)
@pass_flags
def rerank(flags: Flags, /, **options: Any) -> None:  # noqa: ANN401
    """Teach a head on the encoder to put the right passage first.

    A row is {"question": text, "positive": text, "negatives": [text, ...]}.
    """
    _learn(flags, "rerank", options)


@train.command(name="read")
@with_options(SOURCES, (QUESTIONS,), COMMON, LORA)
@pass_flags
def read_(flags: Flags, /, **options: Any) -> None:  # noqa: ANN401
    """Teach a head on the encoder where in a passage the answer stands, or that it does not.

    A row is {"question": text, "passage": text, "answers": [text or [start, end], ...]}.
    """
    _learn(flags, "read", options)


@train.command()
@with_options((SOURCES[0], SOURCES[2]), PRETRAINING, COMMON)
@pass_flags
def pretrain(flags: Flags, /, **options: Any) -> None:  # noqa: ANN401
    """Pretrain on plain texts: a language model (gpt), an encoder (bert), or both in one (t5).

    The file holds paragraphs with blank lines between them, or rows {"text": text}.
    """
    if options["width"] % options["heads"]:
        raise click.BadParameter("the width is no multiple of the heads", param_hint="--heads")
    wanted = _wanted(flags, "pretrain", options | {"full": True})
    job = _pretraining_job(wanted)
    told = job.task.describe()  # type: ignore[attr-defined]
    counts = (
        f"{told[part]['documents']} {name} with {told[part]['tokens']:,} tokens"
        for part, name in (("data", "texts"), ("dev", "dev texts"))
    )
    click.echo("; ".join(counts))
    _carry_out(wanted, job)


# --- Feedback -------------------------------------------------------------------------------------


@click.group()
def feedback() -> None:
    """Keep what you think of answers: thumbs and corrections, to learn from."""


@feedback.command(name="add")
@click.argument("file", type=click.File("r", encoding="utf-8-sig"))
@click.option("--thumb", type=click.Choice(["up", "down", "none"]), default="none", help="Verdict.")
@click.option("--correction", metavar="TEXT", help="What the answer should have been, with [n].")
@pass_flags
def add_feedback(flags: Flags, file: TextIO, thumb: str, correction: str | None) -> None:
    """Keep a verdict on an answer: FILE is what `tether ask --json` printed, - standard input."""
    settings = flags.settings()
    from ingest.documents import chunk_id
    from ingest.errors import UsageError
    from model.feedback import Feedback, FeedbackStore, ShownPassage

    try:
        row = json.load(file)
        passages = tuple(
            ShownPassage(chunk_id(one["document"], one["start"], one["end"]), one["text"])
            for one in row["passages"]
        )
        entry = Feedback(
            question=row["question"],
            answer=row["text"],
            passages=passages,
            thumb=thumb,  # type: ignore[arg-type]
            correction=correction,
            generator=settings.generator.model,
            adapter=settings.generator.adapter,
        )
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"{file.name} holds no answer ({error}); write one with: tether ask QUESTION --json"
        ) from error
    with FeedbackStore(settings.home) as store:
        click.echo(f"kept as {store.add(entry)}")


@feedback.command(name="list")
@json_option
@pass_flags
def list_feedback(flags: Flags, as_json: bool) -> None:
    """List what was kept, oldest first."""
    settings = flags.settings()
    from model.feedback import FeedbackStore

    with FeedbackStore(settings.home) as store:
        if as_json:
            click.echo(f"[{', '.join(store.export())}]")
            return
        for entry in store.entries():
            click.echo(shown(f"{entry.id}  {entry.time}  {entry.thumb:4}  {entry.question}"))
            click.echo(shown(f"    {entry.answer}"))
            if entry.correction:
                click.echo(shown(f"    -> {entry.correction}"))


@feedback.command(name="export")
@click.argument("file", type=click.File("w", encoding="utf-8", lazy=True))
@click.option("--rows", is_flag=True, help="As rows for `tether train answer --data`.")
@pass_flags
def export_feedback(flags: Flags, file: TextIO, rows: bool) -> None:
    """Write what was kept as JSON lines to FILE, - for standard output."""
    settings = flags.settings()
    from model.feedback import FeedbackStore, supervised_examples

    with FeedbackStore(settings.home) as store:
        lines = list(store.export())
        if rows:
            examples = supervised_examples(store.entries())
            lines = [
                json.dumps({"prompt": one.prompt, "completion": one.completion}, ensure_ascii=False)
                for one in examples
            ]
    file.write("".join(f"{line}\n" for line in lines))


@feedback.command(name="remove")
@click.argument("ids", nargs=-1, required=True, type=int)
@pass_flags
def remove_feedback(flags: Flags, ids: tuple[int, ...]) -> None:
    """Forget entries by the numbers that `tether feedback list` shows."""
    settings = flags.settings()
    from ingest.errors import UsageError
    from model.feedback import FeedbackStore

    with FeedbackStore(settings.home) as store:
        missing = [number for number in ids if not store.delete(number)]
    if missing:
        raise UsageError(f"there is no entry {missing[0]}; tether feedback list shows them all")
    click.echo(f"removed {len(ids)}")


TRAINING = [train, feedback]
