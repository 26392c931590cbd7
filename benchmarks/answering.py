"""Measure retrieval and answering on public question sets, end to end.

    python -m benchmarks.answering --data DATA --limit 200 --seed 0 --out answers.jsonl
    python -m benchmarks.answering --out answers.jsonl --report     # from the rows alone

Every distinct paragraph of a set becomes one document of a real collection (kept under
TETHER_HOME/benchmarks, so a second run embeds nothing); every question goes through
`Assistant.ask`. Sets that supply their own passages are asked over those, and some give the gold
paragraph among distractors; `eval/suites/question_sets.py` lists them. Retrieval is measured
on all questions, answering on at most `--limit` per set and language. Rows are appended to the
JSONL file as they are done, and the report is built from that file alone. A file is resumed only
by the code, calibration, models and settings that began it: old figures never pass for new ones.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
from tqdm import tqdm

from app.laboratory.suites import SettingsLaboratory
from app.settings import load_settings
from benchmarks.answering_records import Record, read_rows
from benchmarks.answering_report import render
from eval.answering import Row, described
from eval.cases import Case, sample
from eval.datasets import find_data
from eval.suites.benches import (
    RETRIEVED,
    Asker,
    Bench,
    Benches,
    Opener,
    paragraphs_of,
    passages_for,
)
from eval.suites.question_sets import DEFAULT, GROUPS, SETS, cases_of
from ingest.errors import SettingsError, TetherError, UsageError
from model.answers import answer_to_json

ROOT = Path(__file__).resolve().parent.parent


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
            paragraphs = list(paragraphs_of(chosen).values())
            home = name.removesuffix("-given")  # the same paragraphs are embedded once
            with open_bench(f"{home}-{language}", paragraphs) as bench:
                _measure_set(plan, name, chosen, bench, record)


def _measure_set(
    plan: Plan, name: str, cases: Sequence[Case], bench: Bench, record: Record
) -> None:
    frame = {"variant": plan.variant, "set": name}
    searched = [c for c in cases if c.gold_context is not None and not c.distractors]
    texts = paragraphs_of(cases)
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
            record.add({**identity, **described(case), **observe(case)})


def _search(case: Case, bench: Bench) -> Row:
    start = time.perf_counter()
    passages = bench.searcher.search(case.question, top_k=RETRIEVED)
    seconds = time.perf_counter() - start
    retrieved = [passage.chunk.document_id for passage in passages]
    return {"retrieved": retrieved, "seconds": round(seconds, 4)}


def _ask(case: Case, bench: Bench, asker: Asker, texts: Mapping[str, str]) -> Row:
    start = time.perf_counter()
    answer = asker.ask(case.question, passages=passages_for(case, bench, texts))
    seconds = time.perf_counter() - start
    return {**answer_to_json(answer), "seconds": round(seconds, 4)}


def make_benches(home: Path | None, changes: Sequence[str]) -> tuple[Benches, dict[str, str]]:
    """Load the encoder that the settings describe, and the generator once, when a bench asks.

    Args:
        home: Instead of the settings' own data root.
        changes: Settings as "name=value", such as "search.mode=dense".

    Returns:
        The benches, and the identity of what is measured: all that changes an answer.

    Raises:
        SettingsError: A change is not "name=value", or the settings refuse it.
    """
    flags = dict(_split_change(change) for change in changes)
    settings = load_settings(flags | ({"home": str(home)} if home else {}))
    laboratory = SettingsLaboratory(settings)
    return Benches.of(laboratory), laboratory.identity()


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
            benches, identity = make_benches(home, changes)
            run = describe_run(plan, identity, command_line(plan, changes))
            require_same(record, run, identity)
            record.add(run)
            measure(plan, benches.open, record)
        print(render(read_rows(out), seed))
    except TetherError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
