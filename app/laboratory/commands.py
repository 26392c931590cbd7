"""The commands of the laboratory: `tether frontier`, `report`, `compare`, `eval`.

Each reads its arguments, calls one function, and prints where the result lies. Knows nothing of
how anything is measured.
"""

import shlex
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.flags import Flags, pass_flags, shown

if TYPE_CHECKING:
    from eval.suites.suite import Request

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
@click.option(
    "--questions",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help='Your own questions about the documents, as lines of {"question", "passage", "answers"}'
    " (default: made from the documents).",
)
@click.option("--dry-run", is_flag=True, help="Say what would be run and how long, and stop.")
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
    questions: Path | None,
    dry_run: bool,
    language: str,
) -> None:
    """Measure whether to retrieve or to fine-tune, and what fine-tuning makes a model forget.

    The model learns facts in several ways, and answers from memory and from passages: facts of your
    documents that it does not know, and invented ones. What the budget has no room for is left out
    and said. A command that was stopped goes on when it is given again.
    """
    settings = flags.settings()
    from app.laboratory.experiment import Request, carry_out, rehearse, write_report

    name = "-".join("".join(c if c.isalnum() else " " for c in budget).split()) or "run"
    place = out or settings.home / "laboratory" / name
    request = Request(paths, budget, place, base, device, seed, seeds, questions)

    def say(line: str) -> None:
        click.echo(shown(line), err=True)

    if dry_run:
        for line in rehearse(request, settings, say).lines():
            click.echo(shown(line))
        return
    page = carry_out(request, settings, say)
    if language != "en":
        page = write_report(place, language)
    click.echo(f"report: {page}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@language_option
def report(folder: Path, language: str) -> None:
    """Write the report of an experiment or a suite again, from its records alone.

    FOLDER is what `tether frontier` wrote, or the folder of a suite that `tether eval` wrote. Equal
    records give equal bytes.
    """
    from app.laboratory import experiment, suites

    if suites.holds_suite(folder):
        click.echo(f"report: {suites.write_report(folder, language)}")
    else:
        click.echo(f"report: {experiment.write_report(folder, language)}")


@click.command()
@click.argument("left", type=click.Path(path_type=Path))
@click.argument("right", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
@click.option("--scores", default="", metavar="A,B", help="Scores to test (default: all).")
@language_option
def compare(left: Path, right: Path, seed: int, scores: str, language: str) -> None:
    """Compare two runs case by case: what differs, and whether it is real. Prints Markdown.

    A run is a folder with run.json, such as seed-0 of an experiment, or the folder of a suite. The
    more scores are tested, the more it takes to call one real: name those that you care about
    before you look.
    """
    from app.laboratory.reports import compare_folders
    from eval.comparison import markdown

    chosen = [name.strip() for name in scores.split(",") if name.strip()]
    click.echo(markdown(compare_folders(left, right, seed, chosen), language), nl=False)


@click.command(name="eval")
@click.argument("suites", nargs=-1, required=True, metavar="SUITE...")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the question sets.")
@click.option("--sets", default="", metavar="A,B", help="Sets to take (default: the suite's own).")
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Questions of each set and language; 0 takes all.",
)
@click.option("--seed", default=0, show_default=True, help="Of what is drawn.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Holds a folder for each suite (default: laboratory in the data root).",
)
@click.option("--fresh", is_flag=True, help="Begin anew; records that are there are put aside.")
@click.option("--accept-licence", is_flag=True, help="Also sets that are not for commercial use.")
@language_option
@pass_flags
def evaluate(  # noqa: PLR0917 - a click command has a parameter an option
    flags: Flags,
    /,
    suites: tuple[str, ...],
    data: Path | None,
    sets: str,
    limit: int,
    seed: int,
    out: Path | None,
    fresh: bool,
    accept_licence: bool,
    language: str,
) -> None:
    """Measure the assistant in force by suites, and write a report of each.

    Suites are answers (questions through search, answer and citation), retrieval (which passages
    are found), verifier (claims told from unsupported ones), benchmarks (reading, facts from
    memory, choices, perplexity), position (where among the passages the right one stands), decoding
    (greedy, beam, sampling), injection-attack (documents that carry instructions), reversal (facts
    asked the other way round), and line (forgetting at its smallest: a line that learns a point).

    A command that was stopped goes on when it is given again, and repeats no sample.
    """
    from app.laboratory.suites import (
        Order,
        SettingsLaboratory,
        carry_out,
        require_suites,
        write_report,
    )
    from eval.suites.suite import Request

    measured = [name for name in suites if name != "line"]
    require_suites(measured)
    if "line" in suites:
        _show_line()
    names = tuple(name.strip() for name in sets.split(",") if name.strip())
    request = Request(data, names, seed, accept_licence)
    with closing(SettingsLaboratory(flags.settings())) as laboratory:  # models are loaded once
        for name in measured:
            command = _repeated(flags, name, request, limit)
            order = Order(out, limit or None, fresh, command)
            page = carry_out(name, request, order, laboratory)
            if language != "en":
                page = write_report(page.parent, language)
            click.echo(f"report: {page}")


def _repeated(flags: Flags, name: str, request: "Request", limit: int) -> str:
    """Return the command that repeats a suite; DATA stands for this machine's folder."""
    changes = {k: v for k, v in flags.values.items() if k not in ("home", "generator.api_key")}
    words = ["tether", *(word for one in changes.items() for word in ("--set", "=".join(one)))]
    words += ["eval", name, *(["--data", "DATA"] if request.data else [])]
    words += ["--sets", ",".join(request.sets)] if request.sets else []
    words += ["--limit", str(limit), "--seed", str(request.seed)]
    words += ["--accept-licence"] if request.accepts_licences else []
    return shlex.join(words)


def _show_line() -> None:
    """Print forgetting at its smallest."""
    from eval.line import METHODS, refit

    for method in METHODS:
        click.echo(str(refit(method)))


LABORATORY = [frontier, report, compare, evaluate]
