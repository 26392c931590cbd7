"""Two runs, or two arms of one run, side by side: what differs, and whether it is real.

Only cases that both sides have are compared, case by case; how many are left out is said. A
difference is called real if its p-value, adjusted for all comparisons made at once (Holm), is at
most .05. Pure over records: knows nothing of files or models.

    print(markdown(compare(read_run(before), read_run(after)), "zh"))
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from eval.chinese import say
from eval.records import Run, Sample
from eval.statistics import Estimate, holm, mcnemar, mean, paired

ALPHA = 0.05  # the chance of one false alarm among all findings of a comparison
_RESAMPLES = 10_000
_RESAMPLES_A_FINDING = 100  # so that the smallest p stays real after correction
_PREFIXES = ("version of ", "hardware: ", "arm ")  # of what differs; the rest is a name


@dataclass(frozen=True, slots=True)
class Finding:
    """One score of one arm on both sides, over the cases that both have."""

    suite: str
    arm: str  # "left against right" where two arms are compared
    score: str
    left: Estimate
    right: Estimate
    difference: Estimate  # right minus left
    test: str  # "McNemar" for 0/1 scores of independent cases, else "bootstrap"
    p: float
    adjusted: float  # p by Holm's correction over all findings
    left_out: int  # cases with this score on one side alone

    @property
    def is_real(self) -> bool:
        """Whether chance is ruled out, at `ALPHA` over all findings together."""
        return self.adjusted <= ALPHA


@dataclass(frozen=True, slots=True)
class Change:
    """Something that the two sides do not share, such as a seed or the hash of an adapter."""

    what: str
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """All findings and changes between two sides."""

    left: str
    right: str
    findings: tuple[Finding, ...]
    changes: tuple[Change, ...]
    only_left: tuple[str, ...] = ()  # arms that the other side lacks
    only_right: tuple[str, ...] = ()


_Case = tuple[str, str, str, tuple[str, ...]]  # suite, id, question, accepted answers


def compare(
    run: Run, other: Run, *, seed: int = 0, scores: Collection[str] | None = None
) -> Comparison:
    """Return how each arm did in one run and in another.

    A case is the same if its suite, id, question and accepted answers are. Cases that failed on a
    side have no scores and are left out. Where an arm has several samples of a case, their mean
    counts.

    Args:
        run: The left side, for instance before a change.
        other: The right side.
        seed: Of the bootstrap.
        scores: Those that are tested, None for all: p is corrected for what is tested alone, so
            choose before looking.
    """
    left, right = _arms(run), _arms(other)
    common = [arm for arm in left if arm in right]
    pairs = [(suite, name, left[suite, name], right[suite, name]) for suite, name in common]
    changes = _run_changes(run, other)
    told = set(changes)  # what all arms have in common is said once
    for (_, name), one, two in ((arm, left[arm], right[arm]) for arm in common):
        own = (change for change in _identity_changes("", one, two) if change not in told)
        changes += [replace(change, what=f"arm {name}: {change.what}") for change in own]
    findings = _findings(pairs, seed, scores)
    return Comparison(
        run.name, other.name, findings, tuple(dict.fromkeys(changes)),
        tuple(_title(arm) for arm in left if arm not in right),
        tuple(_title(arm) for arm in right if arm not in left),
    )  # fmt: skip


def compare_arms(run: Run, pairs: Sequence[tuple[str, str]], *, seed: int = 0) -> Comparison:
    """Return how arms of one run did against others of it, as one family of tests.

    Args:
        run: The run.
        pairs: (left arm, right arm) to be compared, in every suite that has both.
        seed: Of the bootstrap.
    """
    arms = _arms(run)
    chosen = [
        (suite, f"{left} against {right}", arms[suite, left], arms[suite, right])
        for left, right in pairs
        for suite in dict.fromkeys(suite for suite, _ in arms)
        if (suite, left) in arms and (suite, right) in arms
    ]
    changes = [
        change
        for _, name, one, two in chosen
        for change in _identity_changes(f"{name}: ", one, two)
    ]
    findings = _findings(chosen, seed)
    return Comparison("left arm", "right arm", findings, tuple(dict.fromkeys(changes)))


def _arms(run: Run) -> dict[tuple[str, str], list[Sample]]:
    """Return the samples by suite and arm, in their order."""
    arms: dict[tuple[str, str], list[Sample]] = {}
    for sample in run.samples:
        arms.setdefault((sample.suite, sample.arm), []).append(sample)
    return arms


def _title(arm: tuple[str, str]) -> str:
    return f"{arm[1]} ({arm[0]})"


def _findings(
    pairs: Sequence[tuple[str, str, Sequence[Sample], Sequence[Sample]]],
    seed: int,
    scores: Collection[str] | None = None,
) -> tuple[Finding, ...]:
    """Return the findings of (suite, name, left samples, right samples), corrected together."""
    work = [
        (suite, name, score, one, two)
        for suite, name, one, two in pairs
        for score in dict.fromkeys(
            name
            for sample in (*one, *two)
            for name, value in sample.scores.items()
            if value is not None and (scores is None or name in scores)
        )
    ]
    resamples = max(_RESAMPLES, _RESAMPLES_A_FINDING * len(work))
    found = [_finding(*each, seed=seed, resamples=resamples) for each in work]
    adjusted = holm([finding.p for finding in found])
    return tuple(replace(one, adjusted=p) for one, p in zip(found, adjusted, strict=True))


def _finding(
    suite: str,
    name: str,
    score: str,
    left: Sequence[Sample],
    right: Sequence[Sample],
    *,
    seed: int,
    resamples: int,
) -> Finding:
    of_left, of_right = _numbers(left, score), _numbers(right, score)
    common = [case for case in of_left if case in of_right]
    one = [of_left[case] for case in common]  # (n,)
    two = [of_right[case] for case in common]  # (n,)
    known = {_case(sample): sample.cluster for sample in left}
    clusters = [known[case] for case in common]
    test = paired(one, two, clusters, seed=seed, resamples=resamples)
    is_exact = {*one, *two} <= {0, 1} and len(set(clusters)) == len(clusters) > 0
    return Finding(
        suite, name, score,
        mean(one, clusters, seed=seed), mean(two, clusters, seed=seed), test.difference,
        "McNemar" if is_exact else "bootstrap",
        mcnemar(one, two) if is_exact else test.p,
        math.nan,  # adjusted once all are known
        len(of_left.keys() ^ of_right.keys()),
    )  # fmt: skip


def _case(sample: Sample) -> _Case:
    return sample.suite, sample.case_id, sample.question, sample.expected


def _numbers(samples: Sequence[Sample], score: str) -> dict[_Case, float]:
    """Return the score of each case that has it, the mean where an arm took a case repeatedly.

    An arm that was trained several times, say with several seeds, has several samples of a case.
    """
    found: dict[_Case, list[float]] = {}
    for sample in samples:
        number = sample.scores.get(score)
        if number is not None:
            found.setdefault(_case(sample), []).append(number)
    return {case: sum(numbers) / len(numbers) for case, numbers in found.items()}


# --- What differs ---------------------------------------------------------------------------------


def _run_changes(run: Run, other: Run) -> list[Change]:
    one, two = run.description, other.description
    plain = {
        "suite": (one.suite, two.suite),
        "seed": (one.seed, two.seed),
        "commit": (one.commit, two.commit),
    }
    changes = [Change(what, str(a), str(b)) for what, (a, b) in plain.items() if a != b]
    for prefix, mappings in (
        ("", (one.identity, two.identity)),
        ("version of ", (one.versions, two.versions)),
        ("hardware: ", (one.hardware, two.hardware)),
    ):
        changes += _changes(prefix, *mappings)
    return changes


def _changes(prefix: str, left: Mapping[str, object], right: Mapping[str, object]) -> list[Change]:
    return [
        Change(prefix + name, str(left.get(name, "absent")), str(right.get(name, "absent")))
        for name in dict.fromkeys((*left, *right))
        if left.get(name, "absent") != right.get(name, "absent")
    ]


def _identity_changes(prefix: str, left: Sequence[Sample], right: Sequence[Sample]) -> list[Change]:
    return _changes(prefix, _identities(left), _identities(right))


def _identities(samples: Sequence[Sample]) -> dict[str, str]:
    """Return the one value that an arm's samples have of each hash, or how many there are."""
    values: dict[str, set[str]] = {}
    for sample in samples:
        for name, value in sample.identity.items():
            values.setdefault(name, set()).add(value)
    return {
        name: next(iter(one)) if len(one) == 1 else f"{len(one)} values"
        for name, one in values.items()
    }


# --- As text --------------------------------------------------------------------------------------


def markdown(comparison: Comparison, language: str = "en") -> str:
    """Return a comparison as Markdown: findings, what is left out, what differs.

    Args:
        comparison: Of two runs, or of arms.
        language: "en" or "zh"; a name that has no Chinese stays as the records have it.
    """
    left, right = comparison.left, comparison.right
    title = say("{left} against {right}", language)
    lines = [f"# {title.format(left=_cell(left), right=_cell(right))}", ""]
    lines += _findings_table(comparison, language)
    only = say("Only in {side}: {arms}.", language)
    for side, arms in ((left, comparison.only_left), (right, comparison.only_right)):
        names = say(", ", language).join(_titled(arm, language) for arm in arms)
        lines += [f"\n{only.format(side=_cell(side), arms=_cell(names))}"] if arms else []
    lines += ["", f"## {say('What differs', language)}", ""]
    if comparison.changes:
        rows = [
            [_named(change.what, language), say(change.left, language), say(change.right, language)]
            for change in comparison.changes
        ]
        lines += _table([say("what", language), left, right], rows)
    else:
        lines.append(say("Nothing that the records know of.", language))
    return "\n".join(lines) + "\n"


def _titled(title: str, language: str) -> str:
    """Return an arm with its suite, as `_title` has it."""
    arm, _, suite = title.removesuffix(")").rpartition(" (")
    return say("{arm} ({suite})", language).format(arm=say(arm, language), suite=suite)


def _named(what: str, language: str) -> str:
    """Return what differs: the name of a hash or a package stays as it is."""
    prefix = next((one for one in _PREFIXES if what.startswith(one)), "")
    name = what.removeprefix(prefix)
    return say(prefix, language) + name if prefix else say(name, language)


def _findings_table(comparison: Comparison, language: str) -> list[str]:
    if not comparison.findings:
        return [say("The two sides have no arm in common.", language)]
    before = ("suite", "arm", "score")
    after = ("difference", "test", "p", "p, Holm", "real", "left out")
    header = [
        *(say(name, language) for name in before),
        *(comparison.left, comparison.right),
        *(say(name, language) for name in after),
    ]
    rows = [
        [
            *(one.suite, say(one.arm, language), say(one.score, language)),
            *(str(one.left), str(one.right), str(one.difference)),
            say(one.test, language),
            *(say(_probability(p), language) for p in (one.p, one.adjusted)),
            *(say("yes" if one.is_real else "no", language), str(one.left_out)),
        ]
        for one in comparison.findings
    ]
    note = say(
        "A row is over all sets and languages of an arm together."
        " Difference: the second minus the first, on the cases that both have; left out: cases with"
        " this score on one side alone. Brackets: 95% intervals by a bootstrap over clusters. Real:"
        " p, corrected for {comparisons}, is at most {alpha}.",
        language,
    )
    count = say(f"{len(rows)} comparison{'s' * (len(rows) > 1)}", language)
    return [*_table(header, rows), "", note.format(comparisons=count, alpha=ALPHA)]


def _probability(p: float) -> str:
    return "–" if math.isnan(p) else "under 0.001" if p < 0.001 else f"{p:.3f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(map(_cell, row))} |" for row in (header, ["---"] * len(header), *rows)]


def _cell(text: str) -> str:
    """Return text as one line that cannot leave its cell."""
    escapes = {"\\": "\\\\", "|": "\\|", "<": "&lt;", "](": "]\\("}
    text = " ".join(text.split())
    for mark, harmless in escapes.items():
        text = text.replace(mark, harmless)
    return text
