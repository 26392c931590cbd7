"""Publish an experiment of `tether frontier`: its report, and every record that it is made from.

    python -m docs.publish OUT docs/reports/NAME

    NAME/plan.json  seed-N/run.json  as the experiment wrote them
         seed-N/samples.jsonl.xz     its samples
         report.html  report.md  report-files/  and the same in Chinese, .zh

Whoever unpacks the samples can render the report again, byte for byte (`restore`); a test does so.
Knows nothing of what a report says.
"""

import lzma
import shutil
from pathlib import Path

import click

from app.laboratory.experiment import PLAN, SEED, write_report

LANGUAGES = ("en", "zh")
_KEPT = (PLAN, f"{SEED}*/run.json")
_PACKED = f"{SEED}*/samples.jsonl"


def restore(published: Path, folder: Path) -> None:
    """Unpack what `publish` kept, so that `tether report FOLDER` renders it."""
    _copy(published, folder)
    for packed in published.glob(f"{_PACKED}.xz"):
        target = folder / packed.relative_to(published).with_suffix("")
        target.write_bytes(lzma.decompress(packed.read_bytes()))


def publish(experiment: Path, target: Path) -> None:
    """Keep the records of an experiment, and render its report from what was kept."""
    _copy(experiment, target)
    for samples in experiment.glob(_PACKED):
        packed = target / samples.relative_to(experiment).with_name(f"{samples.name}.xz")
        packed.write_bytes(lzma.compress(samples.read_bytes(), preset=9))
    for language in LANGUAGES:
        write_report(experiment, language)
    for report in experiment.glob("report*"):
        place = target / report.name
        if report.is_dir():
            shutil.rmtree(place, ignore_errors=True)  # pictures may have other names now
            shutil.copytree(report, place)
        else:
            shutil.copyfile(report, place)


def _copy(source: Path, target: Path) -> None:
    for kept in (path for pattern in _KEPT for path in source.glob(pattern)):
        place = target / kept.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept, place)


@click.command()
@click.argument("experiment", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
def main(experiment: Path, target: Path) -> None:
    """Write the records and the report of EXPERIMENT into TARGET."""
    publish(experiment, target)
    click.echo(f"published: {target}")


if __name__ == "__main__":
    main()
