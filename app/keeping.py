"""The commands that fill and keep collections: `tether ingest`, `remove`, `check`, `export` ...

Each reads the settings, calls one function of `ingest` or `retrieval`, and prints what it did.
"""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.flags import Flags, collection_option, json_option, pass_flags, shown

if TYPE_CHECKING:
    from app.settings import Settings
    from ingest.pipeline import FileOutcome, Report
    from ingest.sources import Source
    from ingest.web import WebOptions
    from retrieval.store import Collection


WITHOUT_END = -1.0  # patience with another writer

# --- Filling -------------------------------------------------------------------------------------

private_option = click.option(
    "--allow-private",
    is_flag=True,
    help="Fetch pages from this machine and private networks, and from any port, too.",
)


@click.command()
@click.argument("sources", nargs=-1, required=True)
@collection_option
@click.option("--prune", is_flag=True, help="Forget files that are gone from the given folders.")
@click.option(
    "--name", metavar="NAME", default="stdin.txt", help="File name for - (standard input)."
)
@private_option
@pass_flags
def ingest(
    flags: Flags,
    sources: tuple[str, ...],
    collection: str | None,
    prune: bool,
    name: str,
    allow_private: bool,
) -> None:
    """Read files, folders, archives and web pages into a collection.

    A source is a path, a web address (that of a sitemap stands for its pages), or - for standard
    input. Unchanged files are skipped, changed ones replaced, and only their changed parts are
    embedded again. Exits with 1 if any file failed; the others are ingested all the same.
    """
    settings = flags.settings(collection=collection)
    from ingest.loaders import MAX_BYTES
    from ingest.sources import Piped
    from ingest.web import WebOptions

    given: list[Source] = [
        Piped(name, sys.stdin.buffer.read(MAX_BYTES + 1)) if source == "-" else source
        for source in sources
    ]
    web = WebOptions(allow_private=allow_private)
    with _heeding_termination(), _writing(settings) as store:
        report = _ingest(settings, store, given, web, prune=prune)
    if report.failed:
        sys.exit(1)


@click.command()
@click.argument(
    "folders",
    nargs=-1,
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
)
@collection_option
@pass_flags
def watch(flags: Flags, folders: tuple[Path, ...], collection: str | None) -> None:
    """Follow folders: ingest what is new or changed, forget what is gone, until interrupted."""
    settings = flags.settings(collection=collection)

    from threading import Event

    from ingest.errors import SourceError
    from ingest.watch import watch as follow
    from ingest.web import WebOptions

    for folder in folders:
        if not folder.is_dir():
            raise SourceError(f"{folder}: no such folder; make it first, or check the name")

    def catch_up() -> None:
        with store.writing(patience=WITHOUT_END):  # another ingest is no reason to stop watching
            _ingest(settings, store, list(folders), WebOptions(), prune=True)

    with _heeding_termination(), _writing(settings, hold=False) as store:
        click.echo(f"watching for collection {settings.collection}; stop with Ctrl-C")
        follow(folders, catch_up, Event())


@contextmanager
def _heeding_termination() -> "Iterator[None]":
    """Let SIGTERM end the block as Ctrl-C does: parsers are ended and the store is closed."""
    terminations: list[int] = []

    def stop(number: int, _: object) -> None:
        terminations.append(number)
        raise KeyboardInterrupt  # the one exception that foreign loops let pass

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        if not terminations:
            raise
        sys.exit(128 + signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _writing(settings: "Settings", *, hold: bool = True) -> "Iterator[Collection]":
    """Open the collection in force, made if need be; with `hold`, no other ingest gets between."""
    from contextlib import nullcontext

    from app.assembly import build_encoder
    from retrieval.store import open_collection

    encoder = build_encoder(settings)
    with (
        open_collection(settings.home, settings.collection, encoder, create=True) as store,
        store.writing() if hold else nullcontext(),
    ):
        yield store


def _ingest(
    settings: "Settings",
    store: "Collection",
    sources: "list[Source]",
    web: "WebOptions",
    *,
    prune: bool,
) -> "Report":
    """Run one ingest and print a line a file and a summary."""
    from ingest.pipeline import PipelineOptions, run
    from retrieval.index import DenseIndex

    pipeline = PipelineOptions(prune=prune, parsers=settings.parsing)

    with store.writing():
        with _file_progress() as show:
            report = run(sources, store, settings.ingest, pipeline=pipeline, web=web, on_file=show)
        if report.counts["removed"]:
            _clear_traces(store)
        else:
            DenseIndex(store).save()  # so that the first question need not wait
        documents, chunks = store.count_documents(), store.count_chunks()
    summary = ", ".join(f"{count} {status}" for status, count in report.counts.items() if count)
    click.echo(
        f"{summary or 'nothing to do'}; collection {settings.collection} now holds {documents}"
        f" documents in {chunks} chunks"
    )
    return report


def _clear_traces(store: "Collection") -> None:
    from retrieval.maintenance import clear_traces

    if busy := clear_traces(store):
        click.echo(shown(f"note: {busy}"), err=True)


@contextmanager
def _file_progress() -> "Iterator[Callable[[FileOutcome, int, int], None]]":
    """Yield what prints one line a file, above a progress bar if someone is watching."""
    from tqdm import tqdm

    with tqdm(
        desc="ingest", unit="file", disable=not sys.stderr.isatty(), leave=False, file=sys.stderr
    ) as bar:

        def show(outcome: "FileOutcome", done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()
            detail = ""
            if outcome.chunks:
                detail = f" ({outcome.chunks} chunks, {outcome.embedded} embedded)"
            message = outcome.message.removeprefix(f"{outcome.uri}: ")
            detail += f": {message}" if message else ""
            line = shown(f"{outcome.status:<9} {outcome.uri}{detail}")
            stream = sys.stderr if outcome.status == "failed" else sys.stdout
            bar.write(line, file=stream)
            stream.flush()  # a log that someone follows tells what is done

        yield show


@click.command()
@click.argument("sources", nargs=-1, required=True)
@collection_option
@pass_flags
def remove(flags: Flags, sources: tuple[str, ...], collection: str | None) -> None:
    """Forget documents: files, whole folders, archives, or addresses that were ingested.

    Their text leaves the collection's files, too.
    """
    settings = flags.settings(collection=collection)
    from app.assembly import build_encoder
    from ingest.errors import UsageError
    from retrieval.store import open_collection, require_collection

    require_collection(settings.home, settings.collection)
    encoder = build_encoder(settings)
    with (
        open_collection(settings.home, settings.collection, encoder) as store,
        store.writing(),
    ):
        known = store.uris()
        chosen: dict[str, None] = {}
        for source in sources:
            under = _uris_under(source, known)
            if not under:
                raise UsageError(
                    f"{shown(source) or 'nothing'} is not in collection {settings.collection}, so"
                    " nothing was removed; tether documents lists what is"
                )
            chosen.update(dict.fromkeys(under))
        store.remove_all(list(chosen))
        _clear_traces(store)
    for uri in chosen:
        click.echo(shown(f"removed   {uri}"))


def _uris_under(source: str, known: "Sequence[str]") -> list[str]:
    """Return the known uris that a path or an address names, or that lie under it."""
    if not source:  # an empty variable of a script must not stand for the current folder
        return []
    path = Path(os.path.abspath(source)).as_posix()
    inside = (path.rstrip("/") + "/", path + "!/", source + "!/")
    return [uri for uri in known if uri in (source, path) or uri.startswith(inside)]


@click.command()
@collection_option
@json_option
@pass_flags
def documents(flags: Flags, collection: str | None, as_json: bool) -> None:
    """List the documents of a collection with their sources."""
    settings = flags.settings(collection=collection)
    from app.assembly import build_encoder
    from retrieval.store import open_collection, require_collection

    require_collection(settings.home, settings.collection)
    with open_collection(settings.home, settings.collection, build_encoder(settings)) as store:
        found = store.documents()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(info) for info in found], ensure_ascii=False))
        return
    for info in found:
        click.echo(shown(f"{info.title}  ({info.language}, {info.chunks} chunks)"))
        for uri in info.uris:
            click.echo(shown(f"    {uri}"))


# --- Keeping -------------------------------------------------------------------------------------


@click.command()
@json_option
@pass_flags
def collections(flags: Flags, as_json: bool) -> None:
    """List the collections."""
    settings = flags.settings()
    from retrieval.store import list_collections

    found = list_collections(settings.home)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(info) for info in found], ensure_ascii=False))
        return
    for info in found:
        if info.problem:
            click.echo(shown(f"{info.name}: {info.problem}"))
            continue
        size = f"{info.bytes / 1e6:.1f} MB"
        holds = f"{info.documents} documents, {info.chunks} chunks, {size}"
        click.echo(shown(f"{info.name}: {holds}, encoder {info.encoder}"))
    if not found:
        click.echo("no collections yet; make one with: tether ingest PATH --collection NAME")


@click.command()
@collection_option
@json_option
@pass_flags
def check(flags: Flags, collection: str | None, as_json: bool) -> None:
    """Prove a collection sound: its texts, chunks, vectors, terms and index, and its files.

    Exits with 1 if anything is wrong.
    """
    settings = flags.settings(collection=collection)
    from retrieval.maintenance import check as examine

    findings = examine(settings.home, settings.collection)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(f) for f in findings], ensure_ascii=False))
    else:
        for finding in findings:
            click.echo(shown(f"{finding.severity}: {finding.what}; {finding.remedy}"))
        if not findings:
            click.echo(f"collection {settings.collection} is sound")
    if any(finding.severity == "error" for finding in findings):
        sys.exit(1)


@click.command()
@collection_option
@pass_flags
def rebuild(flags: Flags, collection: str | None) -> None:
    """Mend a collection from what is left of it, and make its index anew."""
    settings = flags.settings(collection=collection)
    from app.assembly import build_encoder
    from retrieval.maintenance import rebuild as mend
    from retrieval.store import require_collection

    require_collection(settings.home, settings.collection)
    done = mend(settings.home, settings.collection, build_encoder(settings))
    for line in done.mended:
        click.echo(shown(f"mended    {line}"))
    for uri in done.lost:
        click.echo(shown(f"lost      {uri}: ingest it again"), err=True)
    if done.damaged_file:
        click.echo(shown(f"kept      {done.damaged_file}: the database as it was"))
    if done.lost:
        sys.exit(1)


@click.command(name="export")
@click.argument("target", metavar="FILE|FOLDER/", type=click.Path())
@collection_option
@click.option("--model", "as_model", is_flag=True, help="Write the model, into a folder.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@pass_flags
def export_(flags: Flags, target: str, collection: str | None, as_model: bool, force: bool) -> None:
    """Write a collection to one file, or the model to a folder.

    A file holds a collection, with which another machine can import it. A folder (one that exists,
    or a name that ends in "/") gets the generator in force as two files: model.gguf with its
    adapter merged in, and answer.py, which answers with it and needs nothing else of Tether.
    """
    settings = flags.settings(collection=collection)
    if as_model or (
        collection is None and (target.endswith(("/", os.sep)) or Path(target).is_dir())
    ):
        _export_model(settings, Path(target), force=force)
        return
    from ingest.errors import UsageError
    from retrieval.maintenance import export_collection

    file = Path(target)
    if file.is_dir():
        raise UsageError(f"{file} is a folder; name a file to write the collection to")

    export_collection(settings.home, settings.collection, file, replace=force)
    size = file.stat().st_size / 1e6
    click.echo(shown(f"collection {settings.collection} is in {file} ({size:.1f} MB)"))


def _export_model(settings: "Settings", folder: Path, *, force: bool) -> None:
    """Write the two-file model of the generator in force, and say so."""
    from app.assembly import export_generator

    written = export_generator(settings, folder, replace=force)
    for path in written:
        click.echo(shown(f"{path} ({path.stat().st_size / 1e6:.1f} MB)"))
    click.echo(shown(f"ask it with: python {written[-1]} QUESTION FILE ..."))


@click.command(name="import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--collection", metavar="NAME", help="Name for it here (default: its old name).")
@click.option("--force", is_flag=True, help="Replace a collection of that name.")
@pass_flags
def import_(flags: Flags, file: Path, collection: str | None, force: bool) -> None:
    """Put an exported collection in place, after proving it sound."""
    settings = flags.settings()
    from retrieval.maintenance import import_collection

    info = import_collection(settings.home, file, collection, replace=force)
    holds = f"{info.documents} documents in {info.chunks} chunks"
    click.echo(shown(f"collection {info.name}: {holds}, encoder {info.encoder}"))


@click.command()
@click.option(
    "--encoder", "model", required=True, metavar="MODEL", help="As the setting encoder.model."
)
@collection_option
@pass_flags
def reindex(flags: Flags, model: str, collection: str | None) -> None:
    """Embed a collection anew with another encoder, beside the old vectors, and switch at once.

    Questions are answered meanwhile. If it is interrupted, the same command goes on.
    """
    settings = flags.settings(collection=collection, encoder__model=model)
    from tqdm import tqdm

    from app.assembly import build_encoder
    from retrieval.maintenance import reindex as embed_anew
    from retrieval.store import require_collection

    require_collection(settings.home, settings.collection)
    encoder = build_encoder(settings)
    with tqdm(
        desc="reindex", unit="chunk", disable=not sys.stderr.isatty(), leave=False, file=sys.stderr
    ) as bar:

        def show(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        count = embed_anew(settings.home, settings.collection, encoder, show)
    done = f"{count} chunks embedded with {encoder.identity.name}"
    click.echo(
        shown(f"{done}; ask with --set encoder.model={model}, or write it into the settings")
    )


LIBRARY = [
    ingest,
    watch,
    remove,
    documents,
    collections,
    check,
    rebuild,
    export_,
    import_,
    reindex,
]
