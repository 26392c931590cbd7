"""The command line: `tether ask`, `search`, `judge`, `chat`, `serve`, what is in use, the library.

Every command reads the settings, builds the parts it needs and prints. Heavy imports stay inside
the commands, so that `tether --help` answers at once.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from app.feedback import feedback
from app.flags import Flags, collection_option, json_option, pass_flags, shown
from app.keeping import LIBRARY
from app.laboratory.commands import LABORATORY
from app.mcp_command import mcp
from app.modelling import MODELLING
from app.serving import keep_private, page_options, require_loopback, run, serve
from app.training.commands import train
from app.users_commands import users

if TYPE_CHECKING:
    from model.answers import Answer

LONGEST_LINE = 100  # characters of a passage shown by `tether search`


top_k_option = click.option(
    "--top-k", type=click.IntRange(1, 100), help="Passages to find (default: `search.top_k`)."
)


def batch_option(rows: str) -> Callable[[Any], Any]:
    """Return the --batch option of a command whose rows look like `rows`."""
    return click.option(
        "--batch",
        type=click.File("r", encoding="utf-8-sig", errors="replace"),
        metavar="FILE",
        help=f"JSON lines {rows}; - reads standard input.",
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--home", metavar="DIR", help="Data root (default: TETHER_HOME, else ~/.tether).")
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings file (default: TETHER_SETTINGS, else settings.toml in the data root).",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change one setting, e.g. --set generator.backend=transformers; repeatable.",
)
@click.version_option(package_name="tether", prog_name="tether")
@click.pass_context
def cli(
    context: click.Context,
    home: str | None,
    settings_file: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Ask your own documents, in Chinese and English.

    Answers cite the exact characters they rely on; where the documents do not hold the answer,
    Tether says so.
    """
    flags = Flags(file=settings_file)
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise click.BadParameter(f'"{assignment}" is not NAME=VALUE', param_hint="--set")
        flags.values[name.strip()] = value.strip()
    if home:
        flags.values["home"] = home
    context.obj = flags


for command in [*LIBRARY, *MODELLING, *LABORATORY, train, feedback, serve, mcp, users]:
    cli.add_command(command)


@cli.command()
@click.argument("question", required=False)
@batch_option("{id, question} or {id, question, passages: [text, ...]}")
@json_option
@collection_option
@top_k_option
@click.option("--no-retrieval", is_flag=True, help="Answer from the model's memory: unverified.")
@click.option("--timings", is_flag=True, help="Show where the seconds went.")
@pass_flags
def ask(
    flags: Flags,
    question: str | None,
    batch: TextIO | None,
    as_json: bool,
    collection: str | None,
    top_k: int | None,
    no_retrieval: bool,
    timings: bool,
) -> None:
    """Answer a question from a collection, with citations, or abstain.

    With --batch, prints one JSON line a row, in order; a bad row gives an "error" object.
    """
    _require_one(question, batch)
    settings = flags.settings(collection=collection, search__top_k=top_k)
    from app import batch as doors
    from app.assembly import build_assistant, build_encoder, open_searcher
    from model.answers import answer_to_json
    from model.assistant import checked_question

    lines = batch.readlines() if batch else []
    if question is not None:
        question = checked_question(question)
    searcher = None
    if not no_retrieval and (question is not None or doors.needs_store(lines)):
        encoder, _, searcher = open_searcher(settings)
    else:
        encoder = build_encoder(settings)
    assistant = build_assistant(settings, encoder=encoder, searcher=searcher)
    if question is None:
        handle = doors.answering(assistant, encoder, retrieval=not no_retrieval, top_k=top_k)
        _print_rows(doors.run(lines, handle))
        return
    answer = assistant.ask(question, retrieval=not no_retrieval)
    if as_json:
        click.echo(json.dumps(answer_to_json(answer), ensure_ascii=False))
    else:
        _print_answer(answer)
    if timings:
        _print_timings(answer)


def _require_one(question: str | None, batch: TextIO | None) -> None:
    if (question is None) == (batch is None):
        raise click.UsageError("give a question or --batch FILE, one of the two")


def _print_rows(rows: Iterator[dict[str, Any]]) -> None:
    """Print each row as one JSON line as soon as it is there; count the errors on stderr."""
    count = failed = 0
    from app.batch import as_line

    for row in rows:
        click.echo(as_line(row))
        sys.stdout.flush()
        count += 1
        failed += "error" in row
    if failed:
        click.echo(f'{failed} of {count} rows have an "error"', err=True)


def _print_answer(answer: "Answer") -> None:
    """Print the text, then each citation with its source and the quoted characters."""
    from app.page.evidence import location

    note = {
        "partial": "(parts of the draft were left out: the documents do not support them)",
        "unverified": "(from the model's memory, checked against nothing)",
    }.get(answer.status)
    click.echo(shown(answer.text))
    if note:
        click.echo(note)
    by_number = {passage.number: passage for passage in answer.passages}
    for citation in dict.fromkeys(c for claim in answer.claims for c in claim.citations):
        passage = by_number[citation.passage_number]
        place = location(passage.chunk, "en")
        source = shown(f"{passage.title}{place and ', ' + place}  {passage.uri}")
        click.echo(f"\n[{citation.passage_number}] {source}")
        click.echo(f"    {' '.join(shown(citation.quote).split())}")


def _print_timings(answer: "Answer") -> None:
    """Print seconds by stage and token counts to stderr."""
    for name, value in answer.timings.items():
        measure = f"{value:.0f}" if name.endswith("_tokens") else f"{value:.2f} s"
        click.echo(f"{name:>18} {measure}", err=True)


@cli.command()
@click.argument("question", required=False)
@batch_option("{id, question}")
@json_option
@collection_option
@top_k_option
@pass_flags
def search(
    flags: Flags,
    question: str | None,
    batch: TextIO | None,
    as_json: bool,
    collection: str | None,
    top_k: int | None,
) -> None:
    """Find the passages nearest to a question."""
    _require_one(question, batch)
    settings = flags.settings(collection=collection, search__top_k=top_k)
    from app import batch as doors
    from app.assembly import open_searcher
    from app.page.evidence import location
    from model.answers import passage_to_json
    from model.assistant import checked_question

    if question is not None:
        question = checked_question(question)
    searcher = open_searcher(settings)[2]
    if batch is not None:
        handle = doors.searching(searcher, top_k=settings.search.top_k)
        _print_rows(doors.run(batch, handle))
        return
    passages = searcher.search(question or "", top_k=settings.search.top_k)
    if as_json:
        found = [passage_to_json(passage) for passage in passages]
        click.echo(json.dumps({"passages": found}, ensure_ascii=False))
        return
    for passage in passages:
        place = location(passage.chunk, "en")
        title = shown(f"{passage.title}{place and ', ' + place}")
        found_by = "+".join(passage.found_by)
        click.echo(f"[{passage.number}] {title}  {passage.score:.4f} {found_by}")
        text = " ".join(shown(passage.chunk.text).split())
        click.echo(f"    {text[:LONGEST_LINE]}{'…' if len(text) > LONGEST_LINE else ''}")


@cli.command()
@click.argument("claim", required=False)
@click.argument("evidence", required=False)
@batch_option("{id, claim, evidence}")
@pass_flags
def judge(flags: Flags, claim: str | None, evidence: str | None, batch: TextIO | None) -> None:
    """Judge whether EVIDENCE supports CLAIM; prints {"support": probability, "supported": bool}."""
    _require_one(claim, batch)
    if batch is None and not (claim and claim.strip() and evidence and evidence.strip()):
        raise click.UsageError("give a claim and its evidence, both with text")
    settings = flags.settings()
    from app import batch as doors
    from app.assembly import build_encoder, build_verifier

    verifier = build_verifier(settings, build_encoder(settings))
    if batch is not None:
        _print_rows(doors.run(batch, doors.judging(verifier), group=16))
        return
    (row,) = doors.judging(verifier)([{"claim": claim, "evidence": evidence}])
    click.echo(json.dumps(row))


@cli.command()
@page_options
@pass_flags
def chat(
    flags: Flags,
    host: str | None,
    port: int | None,
    examples: tuple[str, ...],
    collection: str | None,
) -> None:
    """Serve the chat in the browser."""
    settings = flags.settings(chat__host=host, chat__port=port, collection=collection)
    require_loopback(settings.chat.host)
    keep_private(settings.home)
    from app.http.server import build_app
    from app.page.page import listen, mount_page
    from app.service import Service
    from retrieval.store import list_collections, require_collection

    if collection is not None:
        require_collection(settings.home, settings.collection)
    with listen(settings.chat.host, settings.chat.port) as listening, Service(settings) as service:
        known = {info.name: info.documents for info in list_collections(settings.home)}
        documents = known.get(settings.collection, 0)
        run(
            build_app(service, mount=lambda app: mount_page(app, service, examples=examples)),
            service,
            listening,
            ready=lambda url: click.echo(
                f"{documents} documents in collection {settings.collection}; open {url}"
            ),
        )


@cli.command()
@json_option
@pass_flags
def settings(flags: Flags, as_json: bool) -> None:
    """Show every setting with its value in force."""
    from app.settings import flatten

    values = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in flatten(flags.settings()).items()
    }
    if values["generator.api_key"]:
        values["generator.api_key"] = "(set)"
    if as_json:
        click.echo(json.dumps(values, ensure_ascii=False))
        return
    for name, value in values.items():
        click.echo(f"{name} = {json.dumps(value, ensure_ascii=False)}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's error is one line on stderr and a non-zero exit."""
    from ingest.errors import TetherError

    try:
        cli.main(arguments, standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has left
        sys.stderr.close()
        sys.exit(0)
    except TetherError as error:
        click.echo(shown(f"error: {error}"), err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a missing permission: ours to name, not to mend
        place = f" ({error.filename})" if error.filename else ""
        reason = f"{error.strerror or error}{place}"
        click.echo(shown(f"error: {reason}; mend that and try again"), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
