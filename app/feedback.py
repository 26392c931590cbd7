"""`tether feedback`: keep what people think of answers, to learn from it."""

import json
from typing import TextIO

import click

from app.flags import Flags, json_option, pass_flags, shown


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
            who = f"{entry.person}  " if entry.person else ""
            click.echo(shown(f"{entry.id}  {entry.time}  {who}{entry.thumb:4}  {entry.question}"))
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
