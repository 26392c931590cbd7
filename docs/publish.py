"""Publish measurements of the laboratory: their reports, and every record that these are made from.

    python -m docs.publish experiment OUT docs/reports/NAME       # of `tether frontier`
    python -m docs.publish suites BEFORE AFTER docs/reports/NAME  # of `tether eval`, twice

    NAME/plan.json  seed-N/run.json  as the experiment wrote them
         seed-N/samples.jsonl.xz     its samples
         report.html  report.md  report-files/  and the same in Chinese, .zh

    NAME/before/SUITE/run.json  samples.jsonl.xz  report.html ...  the same of a suite, and of
         after/SUITE/...                                          another assistant
         SUITE.md  SUITE.zh.md                                    the two compared, case by case

Whoever unpacks the samples can render the reports again, byte for byte (`restore`); a test does so.
Questions and answers of public sets are not ours to publish: their samples keep the scores, and of
each text its hash. Knows nothing of what a report says.
"""

import json
import lzma
import shutil
import tempfile
from pathlib import Path
from typing import Any

import click

from app.laboratory import experiment, suites
from app.laboratory.reports import compare_folders
from eval.comparison import markdown
from eval.records import RUN, SAMPLES
from ingest.documents import content_id

LANGUAGES = ("en", "zh")
SIDES = ("before", "after")
OURS = ("facts", "attacks")  # kinds of samples whose texts were written here
# Scores that two assistants are compared by: few, as each takes its share of the correction.
TESTED = {
    "injection-attack": ("success", "right"),
    "position": ("right",),
    "decoding": ("right",),
    "benchmarks": (
        "f1", "accuracy", "answered", "wrong", "over_refused", "rejected", "citation_correct",
        "correct", "hallucinated", "choice", "choice_normalised", "bits",
    ),
}  # fmt: skip
_PACKED = f"{SAMPLES}.xz"


def publish_experiment(source: Path, target: Path) -> None:
    """Keep the records of an experiment, and render its report from what was kept."""
    _keep(source / experiment.PLAN, target)
    for seed in sorted(source.glob(f"{experiment.SEED}*")):
        _keep_run(seed, target / seed.name)
    render(target, target)


def publish_suites(before: Path, after: Path, target: Path) -> None:
    """Keep the records of suites that two assistants were measured by, and render the reports."""
    for side, source in zip(SIDES, (before, after), strict=True):
        for run in sorted(source.glob(f"*/{RUN}")):
            _keep_run(run.parent, target / side / run.parent.name)
    render(target, target)


def restore(published: Path, folder: Path) -> None:
    """Unpack what was kept, so that `tether report FOLDER` renders it."""
    for packed in published.rglob(_PACKED):
        place = folder / packed.parent.relative_to(published)
        _keep(packed.with_name(RUN), place)
        (place / SAMPLES).write_bytes(lzma.decompress(packed.read_bytes()))
    if (published / experiment.PLAN).is_file():
        _keep(published / experiment.PLAN, folder)


def render(published: Path, target: Path) -> None:
    """Make all reports of what was kept anew, and put them into `target`."""
    with tempfile.TemporaryDirectory() as lent:
        folder = Path(lent)
        restore(published, folder)
        for language in LANGUAGES:
            _write_reports(folder, language)
        for report in [*folder.rglob("report*"), *folder.glob("*.md")]:
            place = target / report.relative_to(folder)
            if report.is_file():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(report, place)
            else:
                shutil.rmtree(place, ignore_errors=True)  # pictures may have other names now
                shutil.copytree(report, place)


def _write_reports(folder: Path, language: str) -> None:
    if (folder / experiment.PLAN).is_file():
        experiment.write_report(folder, language)
        return
    for run in folder.glob(f"*/*/{RUN}"):
        suites.write_report(run.parent, language)
    suffix = "" if language == "en" else f".{language}"
    for before in sorted((folder / SIDES[0]).iterdir()):
        after = folder / SIDES[1] / before.name
        if after.is_dir():
            scores = TESTED.get(before.name, ())
            text = markdown(compare_folders(before, after, scores=scores), language)
            (folder / f"{before.name}{suffix}.md").write_text(text, encoding="utf-8")


def _keep_run(source: Path, target: Path) -> None:
    _keep(source / RUN, target)
    lines = (source / SAMPLES).read_text(encoding="utf-8").splitlines()
    kept = "".join(f"{_publishable(line)}\n" for line in lines)
    (target / _PACKED).write_bytes(lzma.compress(kept.encode(), preset=9))


def _publishable(line: str) -> str:
    """Return a sample with the hashes of texts that are not ours in their place."""
    row: dict[str, Any] = json.loads(line)
    if row["suite"] not in suites.SUITES or row["kind"] in OURS:
        return line
    for name in ("question", "prompt", "output"):
        row[name] = content_id(row[name])
    row["expected"] = [content_id(text) for text in row["expected"]]
    for citation in row["citations"]:
        citation["quote"] = content_id(citation["quote"])
    return json.dumps(row, ensure_ascii=False)


def _keep(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / file.name)


@click.group()
def main() -> None:
    """Publish what the laboratory measured."""


_SOURCE = click.Path(exists=True, file_okay=False, path_type=Path)
_TARGET = click.Path(file_okay=False, path_type=Path)


@main.command(name="experiment")
@click.argument("source", type=_SOURCE)
@click.argument("target", type=_TARGET)
def experiment_command(source: Path, target: Path) -> None:
    """Write the records and the report of an experiment into TARGET."""
    publish_experiment(source, target)
    click.echo(f"published: {target}")


@main.command(name="suites")
@click.argument("before", type=_SOURCE)
@click.argument("after", type=_SOURCE)
@click.argument("target", type=_TARGET)
def suites_command(before: Path, after: Path, target: Path) -> None:
    """Write the records and reports of two assistants' suites into TARGET."""
    publish_suites(before, after, target)
    click.echo(f"published: {target}")


if __name__ == "__main__":
    main()
