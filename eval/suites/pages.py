"""The report of a suite: from its records to one page of tables, without a model.

    LAYOUT = Layout("Answers", "What the assistant says ...", (mean_of("f1", "F1"), ...))
    text = html(suite_page(read_run(folder), LAYOUT, "zh"))

A table for each kind of trial and language: every figure is an `Estimate` with its interval, by a
bootstrap over clusters, and its count; arms that know nothing stand last. Measures that apply to no
sample of a table are left out. Equal records give equal bytes. Knows nothing of files or models.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from eval.chinese import ABOUT, LEGEND, say
from eval.pages import Block, Cell, Commands, Page, Said, SideBySide, Table, Text
from eval.pages import Sample as Shown
from eval.records import Run, Sample
from eval.statistics import Estimate, bootstrap, mean, wilson
from eval.suites.suite import BASELINE, failures, is_baseline

_NAMED = 3  # reasons of failures that are told of an arm


@dataclass(frozen=True, slots=True)
class Column:
    """A named figure of one arm's samples on one kind of trial."""

    label: str
    of: Callable[[Sequence[Sample], int], Estimate]  # samples (none failed), seed of the bootstrap


def mean_of(score: str, label: str = "") -> Column:
    """Return the mean of a score over the samples that it applies to."""

    def of(samples: Sequence[Sample], seed: int) -> Estimate:
        return mean_where(samples, lambda sample: sample.scores.get(score), seed)

    return Column(label or score, of)


def mean_where(
    samples: Sequence[Sample], value: Callable[[Sample], float | None], seed: int
) -> Estimate:
    """Return the mean of what is no None, with an interval over clusters."""
    pairs = [(found, one.cluster) for one in samples if (found := value(one)) is not None]
    return mean([found for found, _ in pairs], [cluster for _, cluster in pairs], seed=seed)


def share_where(
    statistic: Callable[[NDArray[np.intp]], float],
    clusters: Sequence[str],
    seed: int,
    resamples: int = 400,
) -> Estimate:
    """Return a statistic within 0..1 that is no mean, with an interval over clusters.

    Where it is 0 or 1 in every resample the bootstrap would claim certainty: there the bounds are
    Wilson's with one trial a cluster, as in `eval.statistics.mean`.

    Args:
        statistic: Maps the places of rows, shape (m,), repeats included, to a number.
        clusters: The cluster of each row, shape (n,).
        seed: Of the resampling.
        resamples: Number of bootstrap resamples.
    """
    found = bootstrap(statistic, clusters, seed=seed, resamples=resamples)
    if found.low == found.high == found.value in (0.0, 1.0):
        bounds = wilson(round(found.value) * found.clusters, found.clusters)
        return replace(found, low=bounds.low, high=bounds.high)
    return found


def _seconds(samples: Sequence[Sample], seed: int) -> Estimate:
    return mean_where(
        [one for one in samples if not is_baseline(one.arm)], lambda s: s.seconds, seed
    )


SECONDS = Column("seconds per sample", _seconds)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the records of a suite read. All words are English; `eval.chinese` has the Chinese."""

    title: str
    about: str  # what is measured, for someone who is no expert
    columns: tuple[Column, ...]
    legend: str = ""  # what the measures mean
    headline: str = ""  # label of the column that the verdict tells, over all trials together
    # Kinds whose trials are also shown together, such as sets with and without answers.
    pools: tuple[tuple[str, ...], ...] = ()
    pooled: tuple[Column, ...] = ()  # the columns of those tables; empty: `columns`
    # Further blocks that stand before the tables, such as a figure: of a run, seed and language.
    extra: Callable[[Run, int, str], Sequence[Block]] | None = None
    # Instead of one made from the headline, likewise.
    verdict: Callable[[Run, int, str], str] | None = None
    # A 0/1 score: where it is 0 for an arm, questions are shown side by side. Not for public sets,
    # whose text must not stand in a report that may be published.
    shows: str = ""
    shown: int = 4  # how many


def suite_page(run: Run, layout: Layout, language: str = "en", *, seed: int = 0) -> Page:
    """Return the report of a run.

    Args:
        run: Finished or not.
        layout: That of the run's suite.
        language: Of the page, "en" or "zh"; questions and answers stay in their own.
        seed: Of the resampling.
    """
    about, legend = layout.about, layout.legend
    if language == "zh":
        about, legend = ABOUT.get(layout.title, about), LEGEND.get(layout.title, legend)
    tables = [
        _table(say(title, language), samples, layout.columns, language, seed)
        for title, samples in _groups(run)
    ]
    tables += [
        _table(say(title, language), samples, layout.pooled or layout.columns, language, seed)
        for title, samples in _pools(run, layout.pools)
    ]
    blocks: list[Block] = [Text(about)]
    blocks += layout.extra(run, seed, language) if layout.extra else ()
    blocks += tables
    blocks += [Text(legend, say("How to read it", language))] if legend else []
    blocks += _examples(run, layout, language) + _failures(run, language)
    blocks.append(Commands((run.description.command,)))
    verdict = (layout.verdict or partial(_verdict, layout))(run, seed, language)
    title = say(layout.title, language)
    return Page(title, language, verdict, tuple(blocks), _footer(run, language))


def arms_of(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Return the samples that did not fail by arm, those that know nothing last."""
    arms: dict[str, list[Sample]] = {}
    for one in sorted(samples, key=lambda sample: is_baseline(sample.arm)):
        own = arms.setdefault(one.arm, [])
        if one.failure is None:
            own.append(one)
    return arms


def _groups(run: Run) -> list[tuple[str, list[Sample]]]:
    """Return the samples by kind and language, with a title, in their order."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for one in run.samples:
        groups.setdefault((one.kind, one.language), []).append(one)
    return [(", ".join(filter(None, names)), own) for names, own in groups.items()]


def _pools(run: Run, pools: Sequence[Sequence[str]]) -> list[tuple[str, list[Sample]]]:
    """Return the samples of several kinds together, by language, where all those kinds are."""
    found = []
    for kinds in pools:
        for language in sorted({one.language for one in run.samples}):
            own = [one for one in run.samples if one.language == language and one.kind in kinds]
            if {one.kind for one in own} == set(kinds):
                found.append((f"{' + '.join(kinds)}, {language}", own))
    return found


def _table(
    title: str, samples: Sequence[Sample], columns: Sequence[Column], language: str, seed: int
) -> Table:
    """Return arms by measures, or measures by arms where there are more of them than of arms."""
    arms = arms_of(samples)
    cells: dict[str, list[Cell]] = {
        say(column.label, language): [column.of(own, seed) for own in arms.values()]
        for column in columns
    }
    measured = {label: own for label, own in cells.items() if any(map(_is_there, own))}
    names = [say(name.removeprefix(BASELINE), language) for name in arms]
    note = _note(arms, language)
    if len(measured) > len(names):
        rows = tuple((label, *own) for label, own in measured.items())
        return Table(title, (say("measure", language), *names), rows, note)
    turned = zip(*measured.values(), strict=True) if measured else iter([()] * len(names))
    rows = tuple((name, *own) for name, own in zip(names, turned, strict=True))
    return Table(title, (say("arm", language), *measured), rows, note)


def _is_there(cell: Cell) -> bool:
    return isinstance(cell, Estimate) and cell.count > 0


def _note(arms: Mapping[str, Sequence[Sample]], language: str) -> str:
    """Return which arms know nothing: they stand in the same table as the others."""
    names = [say(name.removeprefix(BASELINE), language) for name in arms if is_baseline(name)]
    said = say("For comparison, what knows nothing: {names}.", language)
    return said.format(names=say(", ", language).join(names)) if names else ""


def _verdict(layout: Layout, run: Run, seed: int, language: str) -> str:
    """Return the headline of every arm, and of the best one that knows nothing."""
    column = next((one for one in layout.columns if one.label == layout.headline), None)
    if column is None or not run.samples:
        return say("{count} samples.", language).format(count=len(run.samples))
    found = {arm: column.of(own, seed) for arm, own in arms_of(run.samples).items()}
    told = [
        f"{say(arm, language)} {one}"
        for arm, one in found.items()
        if one.count and not is_baseline(arm)
    ]
    dull = {arm: one for arm, one in found.items() if one.count and is_baseline(arm)}
    sentence = say("{label}: {told}.", language).format(
        label=say(column.label, language),
        told=say("; ", language).join(told) or say("nothing was measured", language),
    )
    if dull:
        best = max(dull, key=lambda arm: dull[arm].value)
        sentence += say(" The best that knows nothing ({name}): {figure}.", language).format(
            name=say(best.removeprefix(BASELINE), language), figure=dull[best]
        )
    return sentence


def _examples(run: Run, layout: Layout, language: str) -> list[Block]:
    """Return trials that some arm got wrong, with what every arm said."""
    if not layout.shows:
        return []
    arms = [arm for arm in arms_of(run.samples) if not is_baseline(arm)]
    trials: dict[str, dict[str, Sample]] = {}
    for one in run.samples:
        if one.failure is None and one.arm in arms:
            trials.setdefault(one.case_id, {})[one.arm] = one
    wrong = [
        own for own in trials.values()
        if any(one.scores.get(layout.shows) == 0 for one in own.values())
    ]  # fmt: skip
    rows = tuple(_shown([own.get(arm) for arm in arms], layout.shows) for own in wrong)
    if not rows:
        return []
    note = say("{shown} of {count} that some arm got wrong.", language).format(
        shown=min(len(rows), layout.shown), count=len(rows)
    )
    names = tuple(say(arm, language) for arm in arms)
    return [SideBySide(say("Side by side", language), names, rows[: layout.shown], note)]


def _shown(samples: Sequence[Sample | None], score: str) -> Shown:
    first = next(one for one in samples if one is not None)
    said = [None if one is None else Said(one.output, _judged(one, score)) for one in samples]
    expected = first.expected[0] if first.expected else ""
    return Shown(first.question, expected, tuple(said), first.language)


def _judged(sample: Sample, score: str) -> bool | None:
    found = sample.scores.get(score)
    return None if found is None else found > 0


def _failures(run: Run, language: str) -> list[Block]:
    """Return what could not be measured: the means are of the others."""
    lines = []
    for arm, own in failures(run.samples).items():
        reasons = list(dict.fromkeys(one.failure or "" for one in own))
        told = " ".join(reasons[:_NAMED])
        if len(reasons) > _NAMED:
            more = say(" and {count} other reasons", language)
            told += more.format(count=len(reasons) - _NAMED)
        line = say("{arm}: {count} samples. {reasons}", language)
        lines.append(line.format(arm=say(arm, language), count=len(own), reasons=told))
    remedy = say(
        "They are not tried again in this folder: mend the cause, and begin anew with --fresh.",
        language,
    )
    title = say("Failed, and in no mean", language)
    return [Text("\n\n".join([*lines, remedy]), title)] if lines else []


def _footer(run: Run, language: str) -> str:
    """Return what the figures rest on."""
    description = run.description
    told = {**description.identity, "commit": description.commit or "", **description.versions}
    said = say(
        "{samples} samples in {clusters} clusters, seed {seed}. Brackets: 95% intervals by a"
        " bootstrap over clusters; n: samples that a figure is of.",
        language,
    ).format(
        samples=len(run.samples),
        clusters=len({one.cluster for one in run.samples}),
        seed=description.seed,
    )
    names = "; ".join(f"{name} {str(value)[:16]}" for name, value in told.items() if value)
    return f"{said}\n\n{names}"
