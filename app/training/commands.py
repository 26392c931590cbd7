"""The commands that learn: `tether train answer`, `verify`, `rerank`, `read`, `knowledge` ...

Each makes rows, a task of `model.training` and its options, trains, and leaves an adapter with its
record and card where settings find it. A run lies in `<home>/training/NAME/` until it is complete,
so the same command goes on where a stopped one was. Knows nothing of how anything is learnt, nor
of how a role's task is made (`app.training.jobs`).
"""

import json
import os
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from app.flags import Flags, pass_flags, shown
from app.training.jobs import Job, causal_job, head_job, pretraining_job, train_preferences
from app.training.options import Wanted, options_of, wanted_by
from app.training.sources import preference_pairs_of, rows_of

if TYPE_CHECKING:
    from app.training.rows import Rows
    from model.training.loop import Task
    from model.training.records import TrainingRecord


@click.group()
def train() -> None:
    """Train adapters on your own rows or documents: to answer, verify, rerank, read, or know.

    A stopped command goes on where it was when it is given again.
    """


@train.command()
@options_of("answer")
@pass_flags
def answer(flags: Flags, /, **options: Any) -> None:  # noqa: ANN401
    """Teach the generator to answer from passages, to cite, and to refuse.

    A row is {"prompt": text, "completion": text}. With --collection, questions about your documents
    are generated, and kept if they are answered the same when asked again. With --from-feedback,
    what you praised and corrected is learnt.
    """
    _learn(flags, "answer", options)


@train.command()
@options_of("knowledge")
@pass_flags
def knowledge(flags: Flags, /, **options: Any) -> None:  # noqa: ANN401
    """Teach the generator what documents say: the next word of their text.

    A row is {"text": text}, or {"prompt": text, "completion": text} to learn the completion only.
    """
    _learn(flags, "knowledge", options)


@train.command()
@options_of("verify")
@pass_flags
def verify(flags: Flags, /, **options: Any) -> None:  # noqa: ANN401
    """Teach a head on the encoder whether a text supports a claim.

    A row is {"claim": text, "evidence": text, "label": 1 or 0}.
    """
    _learn(flags, "verify", options)


@train.command()
@options_of("rerank")
@pass_flags
def rerank(flags: Flags, /, **options: Any) -> None:  # noqa: ANN401
    """Teach a head on the encoder to put the right passage first.

    A row is {"question": text, "positive": text, "negatives": [text, ...]}.
    """
    _learn(flags, "rerank", options)


@train.command(name="read")
@options_of("read")
@pass_flags
def read_(flags: Flags, /, **options: Any) -> None:  # noqa: ANN401
    """Teach a head on the encoder where in a passage the answer stands, or that it does not.

    A row is {"question": text, "passage": text, "answers": [text or [start, end], ...]}.
    """
    _learn(flags, "read", options)


@train.command()
@options_of("pretrain")
@pass_flags
def pretrain(flags: Flags, /, **options: Any) -> None:  # noqa: ANN401
    """Pretrain on plain texts: a language model (gpt), an encoder (bert), or both in one (t5).

    The file holds paragraphs with blank lines between them, or rows {"text": text}.
    """
    if options["width"] % options["heads"]:
        raise click.BadParameter("the width is no multiple of the heads", param_hint="--heads")
    wanted = wanted_by(flags, "pretrain", options | {"full": True})
    job = pretraining_job(wanted)
    told = job.task.describe()  # type: ignore[attr-defined]
    counts = (
        f"{told[part]['documents']} {name} with {told[part]['tokens']:,} tokens"
        for part, name in (("data", "texts"), ("dev", "dev texts"))
    )
    click.echo("; ".join(counts))
    _carry_out(wanted, job)


# --- Training -------------------------------------------------------------------------------------


def _learn(flags: Flags, role: str, options: dict[str, Any]) -> None:
    """Carry out a command that learns from rows."""
    wanted = wanted_by(flags, role, options)
    if options.get("preferences"):
        _prefer(wanted)
        return
    train, dev = rows_of(wanted)
    make = causal_job if role in ("answer", "knowledge") else head_job
    job = make(wanted, train, dev)
    _print_counts(job.task, train, dev)
    _carry_out(wanted, job)


def _prefer(wanted: Wanted) -> None:
    """Carry out DPO on the pairs that people's feedback makes.

    Raises:
        UsageError: Options that do not go with it.
        TrainingError: There is no pair.
    """
    from ingest.errors import UsageError

    if not wanted.options["from_feedback"] or wanted.options["full"]:
        raise UsageError("--preferences needs --from-feedback, and makes an adapter: no --full")
    pairs, dev = preference_pairs_of(wanted)
    click.echo(f"{len(pairs)} pairs; {len(dev)} dev pairs")
    if wanted.options["dry_run"]:
        click.echo("nothing was trained")
        return
    _finish(wanted, *train_preferences(wanted, pairs, dev))


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
    from model.training.estimates import estimate
    from model.training.loop import train

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
