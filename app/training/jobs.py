"""How each role's training is prepared: a task, its options, and how the result is saved.

Knows which parts of `model.training` serve a role, and nothing of how they learn nor of the screen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.training.bases import (
    Base,
    adapter_switch,
    adapter_to_go_on_with,
    encoder_base,
    generator_base,
    load_adapter,
    pretraining_base,
)
from app.training.options import OBJECTIVES, Wanted
from app.training.sources import texts_of

if TYPE_CHECKING:
    from app.training.rows import Rows
    from model.adapters import Adapter
    from model.feedback import PreferencePair
    from model.training.forgetting import ForgettingOptions
    from model.training.loop import Task, TrainingOptions
    from model.training.records import TrainingRecord


@dataclass(frozen=True, slots=True)
class Job:
    """A task ready to be trained, and what to do with the result."""

    task: "Task"
    options: "TrainingOptions"
    save: "Callable[[Path, TrainingRecord], None]"  # into a folder
    use: str  # how to, in a few words


def causal_job(wanted: Wanted, train: "Rows", dev: "Rows") -> Job:
    """Return the task of a language model, with a fresh LoRA or all weights."""
    from model.training.lora import LoraOptions, add_lora, save_adapter, save_model
    from model.training.tasks import CausalTask, load_base

    chosen = wanted.options
    forgetting, general, general_dev = _forgetting(chosen)
    base = generator_base(wanted)
    model, tokenizer = load_base(base.place)
    started = adapter_to_go_on_with(wanted, base)
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
        base=base.told,
        seed=chosen["seed"],
    )
    facts = _facts(wanted, base, started)

    def save(folder: Path, record: "TrainingRecord") -> None:
        task.finish()
        if chosen["full"]:
            save_model(task.module, tokenizer, folder, record=record, facts=facts)
        else:
            save_adapter(task.module, folder, base_name=base.name, record=record, facts=facts)

    switch = f"generator.model={wanted.target}" if chosen["full"] else adapter_switch(wanted)
    rate = 2e-5 if chosen["full"] else 5e-4
    return Job(task, wanted.training_options(rate), save, f"switch it on with --set {switch}")


def _forgetting(options: Mapping[str, Any]) -> "tuple[ForgettingOptions, list[str], list[str]]":
    """Return what holds the model near its base, general text for it, and some to watch."""
    from app.training.rows import read_texts
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


def _facts(wanted: Wanted, base: Base, started: "Adapter | None") -> dict[str, Any]:
    """Return what the record of a language model says beside the run."""
    from dataclasses import asdict

    from model.prompts import TRAINED

    facts: dict[str, Any] = {"role": "answer", "base": base.told, "command": wanted.command}
    if wanted.role == "answer":
        facts["prompt"] = asdict(TRAINED)
    elif started is not None:
        facts["prompt"] = dict(started.prompt)
    if started is not None:
        facts["started_from"] = {"name": started.name, "sha256": started.sha256}
    return facts


def head_job(wanted: Wanted, train: "Rows", dev: "Rows") -> Job:
    """Return the task of a head on the encoder."""
    from model.adapters import label_adapter
    from model.training import heads
    from retrieval.weights import hash_folder

    chosen, role = wanted.options, wanted.role
    name, folder = encoder_base(wanted)
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


def pretraining_job(wanted: Wanted) -> Job:
    """Return the task of an objective on texts, from scratch or continued."""
    from model.training import pretraining
    from model.training.lora import save_model
    from model.training.tasks import load_base

    chosen = wanted.options
    objective = OBJECTIVES[chosen["objective"]]
    corpus = pretraining.split_documents(texts_of(wanted), seed=chosen["seed"])
    source: Path | None = None
    if chosen["from_scratch"]:
        told: dict[str, str] = {}
        tokenizer = pretraining.train_tokenizer(corpus.train, vocabulary=chosen["vocabulary"])
        size = pretraining.ModelSize(chosen["width"], chosen["layers"], chosen["heads"])
        model = pretraining.new_model(objective, tokenizer, size, seed=chosen["seed"])
    else:
        base = pretraining_base(wanted)
        told, source = base.told, Path(base.place)
        model, tokenizer = load_base(base.place, objective)
    if chosen["freeze_embeddings"]:
        pretraining.freeze_embeddings(model)
    packing = pretraining.PackingOptions(block=chosen["most_tokens"] or 256, seed=chosen["seed"])
    task = pretraining.TASKS[objective](model, tokenizer, corpus, packing, base=told)
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


def train_preferences(
    wanted: Wanted, pairs: "Sequence[PreferencePair]", dev: "Sequence[PreferencePair]"
) -> "tuple[TrainingRecord, str]":
    """Train an adapter to prefer the better answers (DPO), and save it.

    Returns:
        The record, and how to use the adapter.
    """
    from model.training.preferences import PreferenceOptions, train_dpo
    from model.training.tasks import load_base

    chosen = wanted.options
    base = generator_base(wanted)
    model, tokenizer = load_base(base.place)
    started = adapter_to_go_on_with(wanted, base)
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
        pairs,
        options,
        wanted.target,
        base_name=base.name,
        dev=dev,
        facts=_facts(wanted, base, started),
    )
    return record, f"switch it on with --set {adapter_switch(wanted)}"
