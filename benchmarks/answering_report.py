"""The report of `benchmarks.answering`: Markdown tables from JSONL rows alone, without a model.

Rows are JSON objects of three kinds: "run" (what was measured, one per start), "retrieval" (one
per question and variant) and "answer" (one per asked question and variant). Every mean has a 95%
interval clustered on passages; what is measured of a row, and the degenerate baselines beside it,
are in `eval.answering`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from eval.answering import (
    BASELINES,
    MEASURES,
    RETRIEVAL_MEASURES,
    SHORT,
    Measure,
    Row,
    coverage_where_wrong,
    is_answered,
    support,
    unfounded,
)
from eval.statistics import bootstrap, mean
from eval.suites.question_sets import MIXED

RISKS = (0.15, 0.05)  # shares of wrong answers at which coverage is read off
RESAMPLES = 400  # of the coverage at a risk, which is no mean and takes longer

Groups = Mapping[tuple[str, str], Mapping[str, Sequence[Row]]]  # by (set, language), by variant


def estimate(measure: Measure, rows: Iterable[Row], seed: int) -> str:
    """Return the mean of a measure over the rows it applies to, "–" where there are none."""
    values = [(value, row["cluster"]) for row in rows if (value := measure.of(row)) is not None]
    return str(mean([value for value, _ in values], [cluster for _, cluster in values], seed=seed))


def render(rows: Sequence[Row], seed: int = 0) -> str:
    """Return the whole report as Markdown, rebuilt from the rows of one file."""
    parts = [_head([row for row in rows if row["kind"] == "run"])]
    searched, asked = _grouped(rows, "retrieval"), _grouped(rows, "answer")
    if searched:
        parts.append("### Retrieval\n\n" + _retrieval_table(searched, seed))
    for (name, language), variants in asked.items():
        parts.append(f"### {name}, {language}\n\n" + _answer_table(variants, seed))
    if any(name in MIXED for name, _ in asked):
        parts.append("### Answerable and unanswerable together\n\n" + _mixed_table(asked, seed))
    parts.append(_LEGEND)
    return "\n\n".join(parts) + "\n"


_LEGEND = f"""\
Means with 95% intervals (bootstrap over passages) and the number n of questions counted; \
measures that apply to no row of a set are left out. The last columns are degenerate baselines on \
the same passages.

- An answer is right if it holds a gold answer or its F1 is at least 0.5, and wrong if it answers \
the unanswerable. Accuracy is stricter: it holds a gold answer in at most {SHORT} characters; \
RGB's script wants every part of an answer that has parts.
- A quotation is a whole sentence shown where no draft was supported; a read answer is a span that \
the reader found; a drafted answer is the generator's own words.
- In the counterfactual sets the passages say another answer than they did: gold is what they say \
now.
- A citation is correct if its sentence holds a gold answer and is from the gold paragraph; it is \
valid if its quote stands at its offsets. Citation recall and precision are ALCE's, with a rule in \
place of its entailment model: a passage entails a claim if it is the gold paragraph (where none \
is known: if it holds a gold answer) and holds the claim's words in a row, or a gold answer that \
the claim holds too.
- Together: where no gold answer is known (nomiracl), only answering the unanswerable counts as \
wrong: a lower bound. "At most 15% wrong" is the coverage of the lowest support from which that \
holds; the threshold is chosen on the same rows, so it flatters.
- Recall: a passage of the gold paragraph is among the first k, over answerable questions."""


def _grouped(rows: Sequence[Row], kind: str) -> dict[tuple[str, str], dict[str, list[Row]]]:
    """Return the rows of a kind by (set, language), then by variant, in order of appearance."""
    groups: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        if row["kind"] == kind:
            variants = groups.setdefault((row["set"], row["language"]), {})
            variants.setdefault(row["variant"], []).append(row)
    return groups


def _head(runs: Sequence[Row]) -> str:
    """Return what was measured as an indented block, one per distinct run."""
    blocks = dict.fromkeys(
        "\n".join(
            f"    {key}: {value}" for key, value in run.items() if key not in ("kind", "started")
        )
        for run in runs
    )
    return "\n\n".join(["## Answering", *blocks])


def _retrieval_table(groups: Groups, seed: int) -> str:
    lines = [
        [name, language, variant, *(estimate(m, rows, seed) for m in RETRIEVAL_MEASURES)]
        for (name, language), variants in groups.items()
        for variant, rows in variants.items()
    ]
    return _table(["set", "language", "variant", *(m.label for m in RETRIEVAL_MEASURES)], lines)


def _with_baselines(variants: Mapping[str, Sequence[Row]]) -> dict[str, Sequence[Row]]:
    """Return the variants, then the baselines on the first variant's passages."""
    first = next(iter(variants.values()))
    return {**variants, **{name: [of(row) for row in first] for name, of in BASELINES.items()}}


def _answer_table(variants: Mapping[str, Sequence[Row]], seed: int) -> str:
    columns = _with_baselines(variants)
    lines = [
        [measure.label, *(estimate(measure, rows, seed) for rows in columns.values())]
        for measure in MEASURES
    ]
    return _table(["measure", *columns], [line for line in lines if set(line[1:]) != {"–"}])


# Answerable and unanswerable questions together: how much is answered, and how much of it wrongly.

_MIXED_MEASURES = (
    Measure("unfounded", "wrong among answered", unfounded),
    Measure("answered", "coverage, all", lambda row: float(is_answered(row))),
    Measure(
        "answered",
        "coverage, answerable",
        lambda row: float(is_answered(row)) if row["answerable"] else None,
    ),
)


def _mixed_table(asked: Groups, seed: int) -> str:
    risks = [(most, kind) for most in RISKS for kind in ("all", "answerable")]
    lines = [
        [
            *(sets, language, name),
            *(estimate(measure, rows, seed) for measure in _MIXED_MEASURES),
            *(coverage_at(rows, most, seed, of_all=kind == "all") for most, kind in risks),
        ]
        for sets, language, variants in _pools(asked)
        for name, rows in _with_baselines(variants).items()
    ]
    at_risks = [f"at most {most:.0%} wrong, {kind}" for most, kind in risks]
    header = ["sets", "language", "who", *(m.label for m in _MIXED_MEASURES), *at_risks]
    return _table(header, lines)


def _pools(asked: Groups) -> Iterator[tuple[str, str, dict[str, list[Row]]]]:
    """Yield the name, language and variants of each mixed set, then of all of a language."""
    for language in sorted({language for name, language in asked if name in MIXED}):
        present = [name for name in MIXED if (name, language) in asked]
        pools = [[name] for name in present] + ([present] if len(present) > 1 else [])
        for pool in pools:
            groups = [asked[name, language] for name in pool]
            variants = [one for one in groups[0] if all(one in group for group in groups)]
            joined = {one: [row for group in groups for row in group[one]] for one in variants}
            if joined:
                yield " + ".join(pool), language, joined


def coverage_at(rows: Sequence[Row], most_wrong: float, seed: int, *, of_all: bool) -> str:
    """Return the coverage where a threshold on support leaves at most that share wrong.

    Args:
        rows: Answers and abstentions.
        most_wrong: Share of the answers shown that may be wrong (0..1).
        seed: Of the resampling.
        of_all: The share of all questions, else of the answerable ones.
    """
    found_supports = [support(row) for row in rows]
    supports = np.array([np.nan if one is None else one for one in found_supports])  # (n,)
    right = np.array([1.0 - (unfounded(row) or 0.0) for row in rows])
    counted = np.array([of_all or bool(row["answerable"]) for row in rows])

    def coverage(places: NDArray[np.intp]) -> float:
        return coverage_where_wrong(supports[places], right[places], most_wrong, counted[places])

    clusters = [row["cluster"] for row in rows]
    found = bootstrap(coverage, clusters, seed=seed, resamples=RESAMPLES)
    return str(replace(found, count=int(counted.sum())))


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
