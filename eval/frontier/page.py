"""The report of an experiment: from its records and its plan to one page.

    page = frontier_page([read_run(folder) for folder in folders], plan, "zh")
    text = html(page)

The verdict comes first, then the picture, then the numbers, with baselines that know nothing beside
them. Equal records give equal bytes: nothing of this machine or this moment is on the page. Knows
nothing of models or files.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from eval.frontier.evidence import KNOWN, OWN, SEEN, Evidence
from eval.frontier.frontier import Curve, Keeps, at_matched_acquisition, curves
from eval.frontier.outcomes import (
    Measures,
    acquisition,
    measure,
    measure_own,
    spent,
    wording_of,
)
from eval.frontier.verdict import ENOUGH, LEARNT, MATCHED, Decision, decide, findings
from eval.frontier.verdict_words import CLAIMS, WORDS
from eval.injection.arms import Arm
from eval.injection.budget import Plan
from eval.pages import (
    Block,
    Cell,
    Commands,
    Cost,
    Costs,
    Figure,
    Page,
    Said,
    SideBySide,
    Table,
    Text,
)
from eval.pages import Sample as Shown
from eval.plots import Axis, Plot, Point, Series, frontier
from eval.records import Run, Sample
from eval.statistics import Estimate

LANGUAGES = {"en": "English", "zh": "中文"}
_EACH = 4  # samples of one sort that are shown


def frontier_page(
    runs: Sequence[Run], plan: Plan, language: str = "en", *, seed: int = 0, resamples: int = 2000
) -> Page:
    """Return the report.

    Args:
        runs: One of each seed, finished or not.
        plan: What was to be run.
        language: Of the page, "en" or "zh"; questions stay in their own.
        seed: Of the resampling.
        resamples: Number of bootstrap resamples.

    Raises:
        UsageError: The runs do not belong together, or hold no experiment.
    """
    return _Report(Evidence(runs, seed=seed, resamples=resamples), plan, language).page()


class _Report:
    """One page in the making."""

    def __init__(self, evidence: Evidence, plan: Plan, language: str) -> None:
        self.evidence, self.plan, self.language = evidence, plan, language
        self.words: Mapping[str, str] = WORDS["zh" if language == "zh" else "en"]
        self.decision = decide(evidence)
        self.own = decide(evidence, OWN)
        self.measures = [measure(evidence, arm) for arm in evidence.arms]
        self.undrawn: list[str] = []

    def page(self) -> Page:
        verdict, *others = self.verdicts()
        if self.plan.budget.level == "smoke":
            verdict, others = self.words["smoke"], [verdict, *others]
        blocks: list[Block] = [Text(one) for one in others]
        figures = [self.figure("retention"), self.figure("drift")]
        blocks += [figure for figure in figures if figure is not None]
        blocks.append(self.names())
        blocks += [*self.documents(), self.arms(), *self.by_language(), self.claims()]
        blocks += [table for table in (self.forgets(), self.matched(), self.context()) if table]
        blocks += [*self.worst(), *self.own_worst()]
        blocks += [self.costs(), self.left_out()]
        commands = dict.fromkeys(run.description.command for run in self.evidence.runs)
        blocks.append(Commands(tuple(commands)))
        return Page(self.words["title"], self.language, verdict, tuple(blocks), self.footer())

    def names(self) -> Text:
        """Return how names are read; an older report, without gentle arms, keeps its words."""
        said = self.words["names_said"]
        if any(arm.training and arm.training.mitigation == "gentle" for arm in self.evidence.arms):
            said += self.words["gentle_said"]
        return Text(said, self.words["names"])

    def verdicts(self) -> list[str]:
        """Return the verdict, about the user's documents if they have enough facts, then others."""
        said, facts = self.decision.sentence(self.language), self.evidence.own_facts
        if not facts:
            return [said]
        if facts < ENOUGH:
            return [said + self.words["own_few"].format(facts=facts, enough=ENOUGH)]
        if not self.own.arm:
            return [said, self.words["own_untrained"].format(facts=facts)]
        own = self.own.sentence(self.language) + self.words["own_verdict"].format(facts=facts)
        return [own, self.words["invented_verdict"] + said]

    # --- Pictures ---------------------------------------------------------------------------------

    def figure(self, keeps: Keeps) -> Figure | None:
        """Return the frontier in each language, or None if nothing could be drawn."""
        panels = {
            LANGUAGES.get(language, language): self.series(keeps, language)
            for language in self.evidence.languages
        }
        if not any(_has_points(series) for own in panels.values() for series in own):
            return None
        plot: Plot = frontier(
            panels,
            Axis(self.words["x"]),
            Axis(self.words[keeps], better="higher" if keeps == "retention" else "lower"),
            front_name=self.words["front"],
        )
        self.undrawn += plot.left_out
        title = self.words["frontier" if keeps == "retention" else "drift_frontier"]
        return Figure(title, plot.svg, self.words["caption"], self.alternative(), plot.left_out)

    def series(self, keeps: Keeps, language: str) -> list[Series]:
        """Return the curves, and each untrained arm with passages as one point."""
        sign = 1.0 if keeps == "retention" else -1.0
        drawn = [self.joined(curve, sign) for curve in curves(self.evidence, keeps, language)]
        for arm in self.evidence.arms:
            if arm.training is None and arm.asked == "retrieved":
                learnt = acquisition(self.evidence, arm, wording_of(self.evidence), language)
                drawn.append(Series(arm.name, (Point(learnt.estimate, 0.0, arm.name),)))
        return drawn

    def joined(self, curve: Curve, sign: float) -> Series:
        points = tuple(
            Point(
                stage.learnt.estimate,
                (stage.kept if sign > 0 else -stage.kept).estimate,
                self.words["epochs"].format(n=stage.epochs),
            )
            for stage in curve.stages
        )
        return Series(curve.name, points)

    def alternative(self) -> str:
        """Return what the picture says, for those who cannot see it."""
        trained = [one for one in self.measures if one.arm.training and one.arm.is_closed_book]
        untrained = [one for one in self.measures if one.arm.asked == "retrieved"]
        untrained = [one for one in untrained if one.arm.training is None]
        return self.words["alternative"].format(
            most=self.most(trained), untrained=self.most(untrained)
        )

    def most(self, measures: Sequence[Measures]) -> str:
        known = [one for one in measures if math.isfinite(self.learnt(one).value)]
        if not known:
            return self.words["nobody"]
        best = max(known, key=lambda one: self.learnt(one).value)
        return f"{best.arm.name}, {self.learnt(best)}"

    def learnt(self, one: Measures) -> Estimate:
        return one.new if one.new.count else one.seen

    # --- Tables -----------------------------------------------------------------------------------

    def documents(self) -> list[Block]:
        """Return what became of the facts of the user's documents, if they were looked for."""
        asked = self.plan.documents
        if asked is None:
            return []
        told = {"passages": asked.passages, "questions": asked.questions, "asked": asked.asked}
        if not self.evidence.own_facts:
            said = self.words["own_none"].format(passages=asked.passages, questions=asked.questions)
            return [Text(said, self.words["own"])]
        rows: list[tuple[Cell, ...]] = [
            (one.arm.name, one.right, one.guessed, one.learnt)
            for one in (measure_own(self.evidence, arm) for arm in self.evidence.arms)
            if one.right.count
        ]
        table = self.table("own", ("arm", "right", "guessed", "learnt"), rows)
        note = self.words["own_note"].format(**told)
        return [Table(table.title, table.columns, table.rows, note)]

    def arms(self) -> Table:
        """Return what each arm learnt, with baselines that know nothing."""
        names = ("right", "guessed", "seen", "new", "reverse", "two_hop")
        rows: list[tuple[Cell, ...]] = [
            (one.arm.name, *(getattr(one, name) for name in names))
            for one in self.measures
            if one.arm.learns != "documents"
        ]
        chance = self.plan.facts_chance.get(wording_of(self.evidence))
        blank: tuple[Cell, ...] = (None,) * (len(names) - 1)
        rows.append((self.words["refuse"], 0.0, *blank))
        if chance is not None:
            rows.append((self.words["frequent"], float(chance), *blank))
        return self.table("arms", ("arm", *names), rows, "arms_note")

    def by_language(self) -> Iterator[Table]:
        """Yield a table beside the one of all, where there are two languages."""
        languages = self.evidence.languages
        if len(languages) < 2:
            return
        parts = [
            [measure(self.evidence, arm, one) for one in languages]
            for arm in self.evidence.arms
            if arm.learns != "documents"
        ]
        columns = tuple(
            f"{LANGUAGES.get(language, language)}{self.words['join']}{self.words[name]}"
            for language in languages
            for name in ("right", "new", "known")
        )
        rows: tuple[tuple[Cell, ...], ...] = tuple(
            (
                own[0].arm.name,
                *(cell for one in own for cell in (one.right, one.new, one.retention)),
            )
            for own in parts
        )
        yield Table(self.words["language"], (self.words["arm"], *columns), rows)

    def forgets(self) -> Table | None:
        rows: list[tuple[Cell, ...]] = [
            (one.arm.name, one.retention, one.recovered, one.text, one.drift, one.made_up)
            for one in self.measures
            if one.arm.is_closed_book
        ]
        columns = ("arm", "known", "recovered", "text", "kl", "made_up")
        return self.table("forgets", columns, rows, "forgets_note") if rows else None

    def matched(self) -> Table | None:
        """Return what is kept at one level that all trainings which learnt their facts reach."""
        most = [
            max((stage.learnt.value for stage in curve.stages), default=math.nan)
            for curve in curves(self.evidence, "retention")
        ]
        able = [value for value in most if value >= LEARNT]
        if len(able) < 2:
            return None
        level = round(MATCHED * min(able), 3)
        retention, drift = (
            at_matched_acquisition(self.evidence, level, keeps=keeps)
            for keeps in ("retention", "drift")
        )
        rows: list[tuple[Cell, ...]] = [
            (name, one.kept.estimate, (-drift[name].kept).estimate, drift[name].reached)
            for name, one in retention.items()
        ]
        table = self.table("matched", ("training", "known", "kl", "reached"), rows)
        note = self.words["matched_note"].format(level=level)
        return Table(table.title, table.columns, table.rows, note)

    def context(self) -> Table | None:
        rows: list[tuple[Cell, ...]] = [
            (one.arm.name, one.reads, one.uses, one.heeds)
            for one in self.measures
            if one.arm.training and one.arm.passages
        ]
        columns = ("arm", "reads", "uses", "heeds")
        return self.table("context", columns, rows, "context_note") if rows else None

    def claims(self) -> Table:
        claims = CLAIMS["zh" if self.language == "zh" else "en"]
        rows: list[tuple[Cell, ...]] = [
            (
                claims[one.claim],
                self.words[one.state],
                one.difference,
                one.least,
                None if math.isnan(one.adjusted) else one.adjusted,
                len(one.pairs),
            )
            for one in findings(self.evidence)
        ]
        columns = ("claim", "state", "difference", "least", "p", "pairs")
        return self.table("claims", columns, rows, "claims_note")

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[tuple[Cell, ...]], note: str = ""
    ) -> Table:
        """Return a table without the columns in which nothing was measured."""
        used = [
            place
            for place in range(len(columns))
            if place == 0 or any(not _is_empty(row[place]) for row in rows)
        ]
        return Table(
            self.words[title],
            tuple(self.words[columns[place]] for place in used),
            tuple(tuple(row[place] for place in used) for row in rows),
            self.words[note] if note else "",
        )

    # --- Samples, costs, and the rest -------------------------------------------------------------

    def worst(self) -> list[Block]:
        arms = self.shown_arms(self.decision, "facts")
        rows = [row for sort in self.sorts(arms) for row in sort]
        if not rows:
            return []
        names = tuple(arm.name for arm in arms)
        return [SideBySide(self.words["worst"], names, tuple(rows), self.words["worst_note"])]

    def shown_arms(self, decision: Decision, learnt: str) -> list[Arm]:
        """Return the untrained model, the arms of a verdict, and the first that does both."""
        arms = [arm for arm in self.evidence.arms if arm.training is None and arm.is_closed_book]
        chosen = arms[-1:]
        for name in (decision.arm, decision.other):
            chosen += [Arm.parse(name)] if name else []
        both = [arm for arm in self.evidence.arms if arm.learns == learnt and arm.passages]
        return list(dict.fromkeys([*chosen, *both[:1]]))

    def sorts(self, arms: Sequence[Arm]) -> Iterator[list[Shown]]:
        """Yield forgotten facts, passages that were not heeded, and new facts that were missed."""
        closed = [arm for arm in arms if arm.training and arm.is_closed_book]
        reading = [arm for arm in arms if arm.passages]
        trained = [arm for arm in reading if arm.training]
        wording = f"train/{wording_of(self.evidence)}"
        stale = "train/stale"
        for kind, wrong in ((KNOWN, closed), (stale, trained), (wording, reading)):
            note = self.words["heeds"] if kind == stale else ""
            asked = {arm: _by_case(self.evidence, arm, kind) for arm in arms}
            cases = [
                key
                for arm in wrong
                for key, one in asked[arm].items()
                if not one.scores.get("right")
            ]
            found = [
                _shown([asked[arm].get(key) for arm in arms], note)
                for key in dict.fromkeys(cases)
                if kind != KNOWN or any(_is_right(own.get(key)) for own in asked.values())
            ]
            yield found[:_EACH]

    def own_worst(self) -> list[Block]:
        """Return questions about the user's documents that an arm of their verdict missed."""
        arms = self.shown_arms(self.own, "documents")
        asked = [_by_case(self.evidence, arm, f"{OWN}train/{SEEN}") for arm in arms]
        missed = [key for own in asked[1:] for key, one in own.items() if not _is_right(one)]
        rows = [_shown([own.get(key) for own in asked]) for key in dict.fromkeys(missed)]
        if not rows:
            return []
        names = tuple(arm.name for arm in arms)
        return [SideBySide(self.words["own_worst"], names, tuple(rows[:_EACH]))]

    def costs(self) -> Costs:
        rows = []
        for arm in self.evidence.arms:
            one = spent(self.evidence, arm)
            rows.append(Cost(arm.name, one.training, one.indexing, one.answering, one.per_right))
        return Costs(tuple(rows), note=self.words["costs_note"])

    def left_out(self) -> Text:
        join = self.words["join"]
        said = [f"{one.what}{join}{one.why}" for one in self.plan.left_out]
        failures = self.evidence.failures
        said += [self.words["failed"].format(arm=arm, why=why) for arm, why in failures.items()]
        measured = {arm.name for arm in self.evidence.arms}
        said += [
            self.words["unmeasured"].format(arm=name)
            for name in self.plan.arms
            if name not in measured and name not in failures
        ]
        if self.undrawn:
            names = "; ".join(dict.fromkeys(self.undrawn))
            said.append(self.words["undrawn"].format(names=names))
        return Text("\n\n".join(said) or self.words["nothing"], self.words["left_out"])

    def footer(self) -> str:
        runs = self.evidence.runs
        seeds = [run.description.seed for run in runs]
        lines = [
            self.words["footer"].format(
                seeds=len(seeds),
                numbers=", ".join(map(str, seeds)),
                facts=self.plan.facts,
                samples=sum(len(run.samples) for run in runs),
            )
        ]
        first = runs[0].description
        told = {**first.identity, "commit": first.commit or "", **first.versions}
        lines.append("; ".join(f"{name} {value[:16]}" for name, value in told.items() if value))
        return "\n\n".join(lines)


def _has_points(series: Series) -> bool:
    """Return whether a trained arm has a place; a picture of retrieval alone shows no frontier."""
    return any(
        not isinstance(point.y, float) and math.isfinite(point.y.value) for point in series.points
    )


def _is_empty(cell: Cell) -> bool:
    return cell is None or (not isinstance(cell, str | float | int) and not cell.count)


def _by_case(evidence: Evidence, arm: Arm, kind: str) -> dict[tuple[int, str], Sample]:
    return {(seed, one.case_id): one for seed, one in evidence.samples(arm, kind)}


def _is_right(sample: Sample | None) -> bool:
    return sample is not None and bool(sample.scores.get("right"))


def _shown(samples: Sequence[Sample | None], note: str = "") -> Shown:
    """Return one question with what each arm said; one arm at least was asked."""
    first = next(one for one in samples if one is not None)
    return Shown(
        f"{first.question} ({note})" if note else first.question,
        first.expected[0] if first.expected else "",
        tuple(None if one is None else Said(one.output, _is_right(one)) for one in samples),
        first.language,
    )
