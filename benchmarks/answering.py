"""Measure retrieval and answering on public question sets, end to end.

    python -m benchmarks.answering --data DATA --limit 200 --seed 0 --out answers.jsonl
    python -m benchmarks.answering --out answers.jsonl --report     # from the rows alone

Every distinct paragraph of a set becomes one document of a real collection (kept under
TETHER_HOME/benchmarks, so a second run embeds nothing); every question goes through
`Assistant.ask`. Sets that supply their own passages are asked over those, and some give the gold
paragraph among distractors; `benchmarks/answering_sets.py` lists them. Retrieval is measured
on all questions, answering on at most `--limit` per set and language. Rows are appended to the
JSONL file as they are done, and the report is built from that file alone. A file is resumed only
by the code, calibration, models and settings that began it: old figures never pass for new ones.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Protocol

import click
from tqdm import tqdm

from app.assembly import (
    build_assistant,
    build_encoder,
    build_generator,
    build_verifier,
    describe_adapters,
    resolve_backend,
)
from app.settings import flatten, load_settings
from benchmarks.answering_measures import Row
from benchmarks.answering_records import Record, read_rows
from benchmarks.answering_report import render
from benchmarks.answering_sets import DEFAULT, GROUPS, SETS, cases_of
from eval.cases import Case, sample
from eval.datasets import find_data
from ingest.chunking import ChunkingOptions, split
from ingest.documents import Document, content_id
from ingest.errors import SettingsError, TetherError, UsageError
from ingest.languages import detect_language
from model.answers import Answer, answer_to_json
from retrieval.encoders import Encoder
from retrieval.passages import Passage
from retrieval.search import CollectionSearcher, Searcher, SearchOptions, given_passages
from retrieval.store import Collection, open_collection

RETRIEVED = 10  # passages of a "retrieval" row, whatever number the assistant reads
ROOT = Path(__file__).resolve().parent.parent
MEASURED = ("ingest", "retrieval", "model")  # the folders whose code decides what is found and said


class Asker(Protocol):
    """The part of `model.assistant.Assistant` that is measured."""

    def ask(self, question: str, *, passages: Sequence[Passage] | None = None) -> Answer:
        """Return the verified answer, from the passages given or from its own search."""
        ...


@dataclass(frozen=True, slots=True)
class Bench:
    """What one set in one language is measured with."""

    make_asker: Callable[[], Asker]  # called only if something is to be asked
    searcher: Searcher
    given: Callable[[Sequence[str], str], Sequence[Passage]]  # texts, question


# Opens the bench of a set and language for its distinct paragraphs.
Opener = Callable[[str, Sequence[str]], AbstractContextManager[Bench]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: the sets, how many answers per set and language, and under which name."""

    cases: Mapping[str, Sequence[Case]]  # by set
    limit: int | None = None
    seed: int = 0
    variant: str = "default"
    retrieval_only: bool = False


def measure(plan: Plan, open_bench: Opener, record: Record) -> None:
    """Add the missing rows of a plan to the record, one set and language after the other."""
    for name, cases in plan.cases.items():
        for language in sorted({case.language for case in cases}):
            chosen = [case for case in cases if case.language == language]
            paragraphs = [case.gold_context for case in chosen if case.gold_context is not None]
            home = name.removesuffix("-given")  # the same paragraphs are embedded once
            with open_bench(f"{home}-{language}", list(dict.fromkeys(paragraphs))) as bench:
                _measure_set(plan, name, chosen, bench, record)


def _measure_set(
    plan: Plan, name: str, cases: Sequence[Case], bench: Bench, record: Record
) -> None:
    frame = {"variant": plan.variant, "set": name}
    searched = [c for c in cases if c.gold_context is not None and not c.distractors]
    texts = {c.gold_document: c.gold_context for c in cases if c.gold_document and c.gold_context}
    _fill(record, {"kind": "retrieval", **frame}, searched, lambda case: _search(case, bench))
    if not plan.retrieval_only:
        asked, asker = sample(cases, plan.limit, plan.seed), bench.make_asker()
        _fill(
            record,
            {"kind": "answer", **frame},
            asked,
            lambda case: _ask(case, bench, asker, texts),
        )


def _fill(
    record: Record, frame: Row, cases: Sequence[Case], observe: Callable[[Case], Row]
) -> None:
    """Add a row for each case that has none of this kind, variant and set yet."""
    for case in tqdm(cases, desc=f"{frame['set']} {frame['kind']}", mininterval=5):
        identity = {**frame, "id": case.id}
        if not record.has(identity):
            record.add({**identity, **_described(case), **observe(case)})


def _described(case: Case) -> Row:
    """Return what the report needs to know of a case; documents are named by content hash."""
    return {
        "language": case.language,
        "question": case.question,
        "gold": list(case.answers),
        "parts": [list(spellings) for spellings in case.parts],
        "memory": list(case.memory),
        "answerable": case.answerable,
        "gold_document": case.gold_document,
        "cluster": case.cluster,
        "hash": content_id(json.dumps(asdict(case), ensure_ascii=False, sort_keys=True)),
    }


def _search(case: Case, bench: Bench) -> Row:
    start = time.perf_counter()
    passages = bench.searcher.search(case.question, top_k=RETRIEVED)
    seconds = time.perf_counter() - start
    retrieved = [passage.chunk.document_id for passage in passages]
    return {"retrieved": retrieved, "seconds": round(seconds, 4)}


def _ask(case: Case, bench: Bench, asker: Asker, texts: Mapping[str, str]) -> Row:
    start = time.perf_counter()
    answer = asker.ask(case.question, passages=_passages(case, bench, texts))
    seconds = time.perf_counter() - start
    return {**answer_to_json(answer), "seconds": round(seconds, 4)}


def _passages(case: Case, bench: Bench, texts: Mapping[str, str]) -> Sequence[Passage] | None:
    """Return the passages that the case brings, None if the assistant is to search.

    Among distractors the gold paragraph stands at its rank, or last if it was not found.

    Args:
        case: The question.
        bench: Searches, and makes passages of texts.
        texts: The paragraphs of the set by document id.
    """
    gold = case.gold_document
    if gold is None:
        return bench.given(case.contexts, case.question)
    if not case.distractors:
        return None
    found = bench.searcher.search(case.question, top_k=RETRIEVED)
    ranked = list(dict.fromkeys([*(passage.chunk.document_id for passage in found), gold]))
    others = [document for document in ranked if document != gold][: case.distractors]
    kept = [document for document in ranked if document == gold or document in others]
    return bench.given([texts[document] for document in kept], case.question)


# A real collection, whatever answers over it.


@dataclass(frozen=True, slots=True)
class Laboratory:
    """Opens benches over real collections kept under `home`/benchmarks."""

    home: Path
    encoder: Encoder
    make_asker: Callable[[Searcher], Asker]
    search: SearchOptions = field(default_factory=SearchOptions)
    chunking: ChunkingOptions = field(default_factory=ChunkingOptions)

    @contextmanager
    def open(self, name: str, paragraphs: Sequence[str]) -> Iterator[Bench]:
        """Open the bench of a set; its paragraphs are embedded on the first run only."""
        key = [paragraphs, asdict(self.encoder.identity), asdict(self.chunking)]
        digest = content_id(json.dumps(key, ensure_ascii=False))[:12]
        home = self.home / "benchmarks"
        with open_collection(home, f"{name}-{digest}", self.encoder, create=True) as collection:
            self._fill(name, collection, paragraphs)
            searcher = CollectionSearcher(collection, self.search)
            yield Bench(
                make_asker=lambda: self.make_asker(searcher),
                searcher=searcher,
                given=lambda texts, question: given_passages(texts, question, self.encoder),
            )

    def _fill(self, name: str, collection: Collection, paragraphs: Sequence[str]) -> None:
        """Add the paragraphs that an earlier run has not added, each as one document."""
        with collection.writing():
            for text in tqdm(paragraphs, desc=f"{name} paragraphs", mininterval=5):
                identity = content_id(text)
                uri = f"paragraph:{identity}"
                if collection.file_hash(uri) is None:
                    language = detect_language(text)
                    document = Document(identity, uri, "", text, language, "text/plain")
                    chunks = split(document, collection.count_tokens, self.chunking)
                    collection.add(uri, identity, document, chunks)


def make_laboratory(home: Path | None, changes: Sequence[str]) -> tuple[Laboratory, dict[str, str]]:
    """Load the encoder that the settings describe, and the generator once, when a bench asks.

    The one place that knows how an assistant is assembled.

    Args:
        home: Instead of the settings' own data root.
        changes: Settings as "name=value", such as "search.mode=dense".

    Returns:
        The laboratory, and the identity of what is measured: all that changes an answer.

    Raises:
        SettingsError: A change is not "name=value", or the settings refuse it.
    """
    flags = dict(_split_change(change) for change in changes)
    settings = load_settings(flags | ({"home": str(home)} if home else {}))
    encoder = build_encoder(settings)
    generator = cache(lambda: build_generator(settings))
    laboratory = Laboratory(
        home=settings.home,
        encoder=encoder,
        make_asker=lambda searcher: build_assistant(
            settings, encoder=encoder, generator=generator(), searcher=searcher
        ),
        search=settings.search,
        chunking=settings.ingest,
    )
    identity = encoder.identity
    calibration = build_verifier(settings, encoder).calibration
    adapters = {
        row["role"]: row["sha256"][:12] for row in describe_adapters(settings) if row["in_force"]
    }
    measured = {
        name: value
        for name, value in flatten(settings).items()
        if not name.startswith(("home", "collection", "chat.", "generator.api_key"))
    }
    return laboratory, {
        "generator": f"{settings.generator.model} ({resolve_backend(settings)})",
        "encoder": f"{identity.name} ({identity.dimension}, {identity.weights_hash[:12]})",
        "settings": content_id(json.dumps(measured, sort_keys=True))[:12],
        "adapters": ", ".join(f"{role} {sha256}" for role, sha256 in adapters.items()) or "none",
        "calibration": content_id(json.dumps(asdict(calibration), sort_keys=True))[:12],
        "code": hash_code(ROOT),
    }


def hash_code(root: Path) -> str:
    """Return 12 hex digits over the Python sources of `MEASURED`, whether committed or not."""
    sources = sorted(path for folder in MEASURED for path in (root / folder).rglob("*.py"))
    named = [(path.relative_to(root).as_posix(), path.read_text("utf-8")) for path in sources]
    return content_id(json.dumps(named))[:12]


def _split_change(change: str) -> tuple[str, str]:
    name, equals, value = change.partition("=")
    if not equals or name in ("home", "generator.api_key"):
        raise SettingsError(f'--set "{change}" cannot be recorded; write search.mode=dense')
    return name, value


# The command.


def _commit() -> str:
    git = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(
            git, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def command_line(plan: Plan, changes: Sequence[str]) -> str:
    """Return the command that repeats the plan, without this machine's paths."""
    words = ["python", "-m", "benchmarks.answering", "--data", "DATA", "--out", "FILE"]
    words += ["--sets", ",".join(plan.cases), "--seed", str(plan.seed)]
    words += ["--limit", str(plan.limit)] if plan.limit else []
    words += ["--variant", plan.variant] if plan.variant != "default" else []
    words += ["--retrieval-only"] if plan.retrieval_only else []
    return shlex.join([*words, *(word for change in changes for word in ("--set", change))])


def describe_run(plan: Plan, identity: Mapping[str, str], command: str) -> Row:
    """Return the "run" row: what is measured, how, and by which commit."""
    return {
        "kind": "run",
        "command": command,
        "commit": _commit(),
        "variant": plan.variant,
        "seed": plan.seed,
        **identity,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def require_same(record: Record, run: Row, identity: Mapping[str, str]) -> None:
    """Refuse to mix rows of different code, calibration, models or settings in one variant.

    Raises:
        UsageError: An earlier run of this variant differs in its identity or seed.
    """
    for earlier in record.rows:
        if earlier["kind"] == "run" and earlier["variant"] == run["variant"]:
            changed = [key for key in (*identity, "seed") if earlier.get(key) != run[key]]
            if changed:
                raise UsageError(
                    f"Variant {run['variant']!r} in {record.path} was measured with another "
                    f"{', '.join(changed)}: choose another --out, delete that file, or give this "
                    "variant its own name with --variant."
                )


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the question sets.")
@click.option("--home", type=click.Path(path_type=Path), help="Instead of TETHER_HOME.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option(
    "--sets",
    default=",".join(DEFAULT),
    show_default=True,
    help=f"Comma-separated: {', '.join(SETS)}; or together: {', '.join(GROUPS)}.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Questions asked per set and language.")
@click.option("--seed", default=0, show_default=True, help="Of the sample and the intervals.")
@click.option("--variant", default="default", show_default=True, help="Name of these settings.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting.")
@click.option("--resume", is_flag=True, help="Go on with --out, if nothing changed.")
@click.option("--retrieval-only", is_flag=True, help="Search, but ask nothing.")
@click.option("--report", is_flag=True, help="Only print the report of --out.")
def main(
    *,
    data: Path | None,
    home: Path | None,
    out: Path,
    sets: str,
    limit: int | None,
    seed: int,
    variant: str,
    changes: tuple[str, ...],
    resume: bool,
    retrieval_only: bool,
    report: bool,
) -> None:
    """Measure, then print the report; `--help` shows the module's docstring."""
    try:
        if not report:
            cases = cases_of(sets.split(","), find_data(data), seed)
            plan = Plan(cases, limit, seed, variant, retrieval_only)
            record = Record(out, resume=resume)
            laboratory, identity = make_laboratory(home, changes)
            run = describe_run(plan, identity, command_line(plan, changes))
            require_same(record, run, identity)
            record.add(run)
            measure(plan, laboratory.open, record)
        print(render(read_rows(out), seed))
    except TetherError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
