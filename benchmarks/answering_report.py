"""The report of `benchmarks.answering`: Markdown tables from JSONL rows alone, without a model.

Rows are JSON objects of three kinds: "run" (what was measured, one per start), "retrieval" (one
per question and variant) and "answer" (one per asked question and variant). A measure maps one row
to a number, or to None where it does not apply; every mean has a 95% interval clustered on
passages.

Degenerate baselines are derived from the same answer rows and scored by the same measures, since
a scorer that looks for the gold answer is content with a system that echoes every passage.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval import metrics
from eval.statistics import mean

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measure:
    """A named number of one row; `of` returns None where the row does not count."""

    label: str
    of: Callable[[Row], float | None]


def _answered(row: Row) -> bool:
    return bool(row["status"] != "abstained")


def _is_quotation(row: Row) -> bool:
    """Return whether the answer fell back to quoting a whole sentence."""
    return any(claim.get("quotation") for claim in row["claims"])


def _is_drafted(row: Row) -> bool:
    return _answered(row) and not _is_quotation(row)


def _prediction(row: Row) -> str:
    """Return the answer without its citation marks; an abstention's words are not an answer."""
    if not _answered(row):
        return ""
    gap = "" if row["language"] == "zh" else " "
    return gap.join(claim["text"] for claim in row["claims"]) or str(row["text"])


def _has_gold(row: Row) -> bool:
    return bool(row["answerable"] and row["gold"])


def _exact_match(row: Row) -> float | None:
    if not _has_gold(row):
        return None
    matched = metrics.exact_match(_prediction(row), row["gold"], row["language"])
    return matched if _answered(row) else 0.0


def _f1(row: Row) -> float | None:
    if not _has_gold(row):
        return None
    overlap = metrics.f1(_prediction(row), row["gold"], row["language"])
    return overlap if _answered(row) else 0.0


def _wrong(row: Row) -> float | None:
    """Return 1.0 for a wrong answer; answering the unanswerable is wrong whatever is said."""
    if not _answered(row) or row["gold_document"] is None:
        return None  # with supplied passages the gold answers are unknown
    return 1.0 - float(
        row["answerable"] and metrics.is_right(_prediction(row), row["gold"], row["language"])
    )


def _citations(row: Row) -> list[Row]:
    return [citation for claim in row["claims"] for citation in claim["citations"]]


def _cited_passage(row: Row, citation: Row) -> Row | None:
    number = citation["passage_number"]
    return next((passage for passage in row["passages"] if passage["number"] == number), None)


def _is_exact(row: Row, citation: Row) -> bool:
    """Return whether the quote is not empty and stands at its offsets in its passage."""
    passage = _cited_passage(row, citation)
    if passage is None or passage["document"] != citation["document"] or not citation["quote"]:
        return False
    start, end = citation["start"] - passage["start"], citation["end"] - passage["start"]
    return start >= 0 and bool(passage["text"][start:end] == citation["quote"])


def _proves(row: Row, citation: Row) -> bool:
    passage = _cited_passage(row, citation)
    if passage is None:
        return False
    start, end = citation["start"] - passage["start"], citation["end"] - passage["start"]
    return metrics.citation_is_correct(
        metrics.sentence_around(passage["text"], start, end),
        citation["document"],
        row["gold_document"],
        row["gold"],
        row["language"],
    )


def _citation_correct(row: Row) -> float | None:
    citations = _citations(row)
    if not (_answered(row) and _has_gold(row) and citations):
        return None
    return sum(_proves(row, citation) for citation in citations) / len(citations)


def _citation_valid(row: Row) -> float | None:
    if not _answered(row):
        return None
    citations = _citations(row)
    return float(bool(citations) and all(_is_exact(row, citation) for citation in citations))


def _among(
    counts: Callable[[Row], bool], of: Callable[[Row], float | None]
) -> Callable[[Row], float | None]:
    """Return a measure narrowed to the rows that count."""
    return lambda row: of(row) if counts(row) else None


def _abstained(row: Row, *, generated: bool) -> float:
    return float(not _answered(row) and ("generate" in row["timings"]) == generated)


MEASURES = (
    Measure("exact match (answerable; abstained = 0)", _exact_match),
    Measure("F1 (answerable; abstained = 0)", _f1),
    Measure("F1 (answerable; drafted answers alone)", _among(_is_drafted, _f1)),
    Measure("coverage (all questions)", lambda row: float(_answered(row))),
    Measure("wrong among answered", _wrong),
    Measure("wrong among drafted answers", _among(_is_drafted, _wrong)),
    Measure("wrong among quotations", _among(_is_quotation, _wrong)),
    Measure("quotations (answers)", _among(_answered, lambda row: float(_is_quotation(row)))),
    Measure(
        "over-refusal (answerable)",
        lambda row: float(not _answered(row)) if row["answerable"] else None,
    ),
    Measure(
        "abstention (unanswerable)",
        lambda row: None if row["answerable"] else float(not _answered(row)),
    ),
    Measure(
        "abstained before generating (all questions)", lambda row: _abstained(row, generated=False)
    ),
    Measure(
        "abstained after generating (all questions)", lambda row: _abstained(row, generated=True)
    ),
    Measure("citation correct (cited answers)", _citation_correct),
    Measure("valid citation (answers)", _citation_valid),
    Measure("answer length, characters", _among(_answered, lambda row: len(_prediction(row)))),
    Measure("seconds per question", lambda row: row.get("seconds")),
    Measure("prompt tokens", lambda row: row["timings"].get("prompt_tokens")),
)


def _retrieval_at(k: int) -> Callable[[Row], float | None]:
    def of(row: Row) -> float | None:
        if not row["answerable"]:
            return None
        return metrics.recall_at_k(row["retrieved"], row["gold_document"], k)

    return of


RETRIEVAL_MEASURES = (
    Measure("recall@1", _retrieval_at(1)),
    Measure("recall@5", _retrieval_at(5)),
    Measure(
        "reciprocal rank@10",
        lambda row: (
            metrics.reciprocal_rank(row["retrieved"], row["gold_document"])
            if row["answerable"]
            else None
        ),
    ),
    Measure("seconds per question", lambda row: row["seconds"]),
)


# Degenerate baselines: rows as if a trivial assistant had answered from the same passages.


def _said(row: Row, cited: Sequence[tuple[Row, str]]) -> Row:
    """Return the row with an answer that quotes (passage, quote) pairs and nothing else."""
    citations = []
    for passage, quote in cited:
        start = passage["start"] + passage["text"].index(quote)
        place = {"start": start, "end": start + len(quote), "quote": quote}
        citations.append(
            {"passage_number": passage["number"], "document": passage["document"], **place}
        )
    text = "\n".join(quote for _, quote in cited)
    claim = {"text": text, "citations": citations, "quotation": True}
    answer = {"text": text, "claims": [claim] if cited else []}
    status = "supported" if cited else "abstained"
    return {**row, **answer, "status": status, "timings": {}, "seconds": None}


def echo(row: Row) -> Row:
    """Answer with all retrieved passages, one after the other."""
    return _said(row, [(passage, passage["text"]) for passage in row["passages"]])


def always_abstain(row: Row) -> Row:
    """Never answer."""
    return _said(row, [])


def first_sentence(row: Row) -> Row:
    """Answer with the first sentence of the top passage."""
    quoted = [(top, metrics.first_sentence(top["text"])) for top in row["passages"][:1]]
    return _said(row, [(top, quote) for top, quote in quoted if quote])


BASELINES: Mapping[str, Callable[[Row], Row]] = {
    "echo all passages": echo,
    "always abstain": always_abstain,
    "first sentence": first_sentence,
}


def estimate(measure: Measure, rows: Iterable[Row], seed: int) -> str:
    """Return the mean of a measure over the rows it applies to, "–" where there are none."""
    values = [(value, row["cluster"]) for row in rows if (value := measure.of(row)) is not None]
    return str(mean([value for value, _ in values], [cluster for _, cluster in values], seed=seed))


def render(rows: Sequence[Row], seed: int = 0) -> str:
    """Return the whole report as Markdown, rebuilt from the rows of one file."""
    parts = [_head([row for row in rows if row["kind"] == "run"])]
    searched = _grouped(rows, "retrieval")
    if searched:
        parts.append("### Retrieval\n\n" + _retrieval_table(searched, seed))
    for (name, language), variants in _grouped(rows, "answer").items():
        parts.append(f"### {name}, {language}\n\n" + _answer_table(variants, seed))
    parts.append(_LEGEND)
    return "\n\n".join(parts) + "\n"


_LEGEND = (
    "Means with 95% intervals (bootstrap over passages) and the number n of questions counted. "
    "An answer is right if it holds a gold answer or its F1 is at least 0.5, and wrong if it "
    "answers the unanswerable. A quotation is a whole sentence shown where no draft was supported; "
    "a drafted answer is the generator's own words. A citation is correct if its sentence holds a "
    "gold answer and is from the gold paragraph; it is valid if its quote stands at its offsets. "
    "Recall: a passage of the gold paragraph is among the first k, over answerable questions. The "
    "last three columns are degenerate baselines on the same passages."
)


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


def _retrieval_table(
    groups: Mapping[tuple[str, str], Mapping[str, Sequence[Row]]], seed: int
) -> str:
    lines = [
        [name, language, variant, *(estimate(m, rows, seed) for m in RETRIEVAL_MEASURES)]
        for (name, language), variants in groups.items()
        for variant, rows in variants.items()
    ]
    return _table(["set", "language", "variant", *(m.label for m in RETRIEVAL_MEASURES)], lines)


def _answer_table(variants: Mapping[str, Sequence[Row]], seed: int) -> str:
    first = next(iter(variants.values()))  # the baselines stand on the first variant's passages
    columns: dict[str, Sequence[Row]] = dict(variants)
    columns |= {name: [answer(row) for row in first] for name, answer in BASELINES.items()}
    lines = [
        [measure.label, *(estimate(measure, rows, seed) for rows in columns.values())]
        for measure in MEASURES
    ]
    return _table(["measure", *columns], lines)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
