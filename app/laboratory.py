"""The commands of the laboratory: `tether frontier`, `report`, `compare`, `eval`.

Each reads its arguments, calls one function, and prints where the result lies. Knows nothing of
how anything is measured.
"""

from pathlib import Path

import click

from app.flags import Flags, pass_flags, shown

language_option = click.option(
    "--language", type=click.Choice(["en", "zh"]), default="en", help="Language of the report."
)


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--budget",
    default="60m",
    show_default=True,
    metavar="TIME",
    help="A time such as 60m or 2h; smoke (a tiny model, to see the way); or gpu (500 facts).",
)
@click.option("--base", default="", metavar="MODEL", help="Model to train: a folder or hub id.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where records and report go (default: laboratory/BUDGET in the data root).",
)
@click.option("--seed", default=0, show_default=True, help="Of facts, orders and weights.")
@click.option(
    "--seeds", type=click.IntRange(1), help="Experiments with other facts (default: the budget's)."
)
@language_option
@pass_flags
def frontier(  # noqa: PLR0917 - a click command has a parameter an option
    flags: Flags,
    /,
    paths: tuple[Path, ...],
    budget: str,
    base: str,
    device: str,
    out: Path | None,
    seed: int,
    seeds: int | None,
    language: str,
) -> None:
    """Measure whether to retrieve or to fine-tune, and what fine-tuning makes a model forget.

    The model learns invented facts in several ways, and answers from memory and from passages;
    your documents are the text on which it is seen to drift. What the budget has no room for is
    left out and said. A command that was stopped goes on when it is given again.
    """
    settings = flags.settings()
    from app.experiment import Request, carry_out, write_report

    name = "-".join("".join(c if c.isalnum() else " " for c in budget).split()) or "run"
    place = out or settings.home / "laboratory" / name
    request = Request(paths, budget, place, base, device, seed, seeds)
    page = carry_out(request, settings, lambda line: click.echo(shown(line), err=True))
    if language != "en":
        page = write_report(place, language)
    click.echo(f"report: {page}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@language_option
def report(folder: Path, language: str) -> None:
    """Write the report of an experiment again, from its records alone.

    FOLDER is what `tether frontier` wrote. Equal records give equal bytes.
    """
    from app.experiment import write_report

    click.echo(f"report: {write_report(folder, language)}")


@click.command()
@click.argument("left", type=click.Path(path_type=Path))
@click.argument("right", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
def compare(left: Path, right: Path, seed: int) -> None:
    """Compare two runs case by case: what differs, and whether it is real. Prints Markdown.

    A run is a folder with run.json, such as seed-0 of an experiment.
    """
    from eval.comparison import compare as compare_runs
    from eval.comparison import markdown
    from eval.records import read_run

    click.echo(markdown(compare_runs(read_run(left), read_run(right), seed=seed)), nl=False)


@click.group(name="eval")
def evaluate() -> None:
    """Measure one thing by itself: a suite."""


@evaluate.command()
def line() -> None:
    """Show forgetting at its smallest: a line that learns one point and loses two."""
    from eval.line import METHODS, refit

    for method in METHODS:
        click.echo(str(refit(method)))


LABORATORY = [frontier, report, compare, evaluate]
