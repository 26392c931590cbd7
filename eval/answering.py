"""What is measured of one answer of the assistant, and the degenerate baselines beside it.

    row = {**described(case), **answer_to_json(answer)}
    scores_of(row)                                    # {"f1": 0.8, "answered": 1.0, ...}
    {name: scores_of(of(row)) for name, of in BASELINES.items()}

A row is the JSON object of one asked question, with what is known of its case. A measure maps it to
a number, or to None where it does not apply. Degenerate baselines are rows as if a trivial
assistant had answered from the same passages, scored by the same measures, since a scorer that
looks for the gold answer is content with a system that echoes every passage. The suites of
`tether eval` and `benchmarks.answering` measure with these. Knows nothing of averages or tables.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval import metrics
from eval.cases import Case
from eval.confidence import threshold_at_risk
from ingest.documents import content_id

Row = Mapping[str, Any]

SHORT = 64  # characters; a longer answer names the right thing among others too easily


@dataclass(frozen=True, slots=True)
class Measure:
    """A named number of one row; `of` returns None where the row does not count."""

    name: str  # in records
    label: str  # in tables
    of: Callable[[Row], float | None]


def described(case: Case) -> Row:
    """Return what the measures need to know of a case; documents are named by content hash."""
    return {
        "language": case.language,
        "question": case.question,
        "gold": list(case.answers),
        "parts": [list(spellings) for spellings in case.parts],
        "memory": list(case.memory),
        "answerable": case.answerable,
        "gold_document": case.gold_document,
        "cluster": case.cluster,
        "hash": content_id(json.dumps(asdict(case), ensure_ascii=False, sort_keys=True)),
    }


def is_answered(row: Row) -> bool:
    """Return whether anything was said; a generator that refuses is an abstention too."""
    return bool(row["status"] != "abstained")


def _is_quotation(row: Row) -> bool:
    """Return whether the answer fell back to quoting a whole sentence."""
    return any(claim.get("quotation") for claim in row["claims"])


def _is_read(row: Row) -> bool:
    """Return whether a trained reader read the answer out of a sentence."""
    return any(claim.get("span") for claim in row["claims"])


def _is_drafted(row: Row) -> bool:
    return is_answered(row) and not _is_quotation(row) and not _is_read(row)


def _prediction(row: Row) -> str:
    """Return the answer without its citation marks; an abstention's words are not an answer."""
    if not is_answered(row):
        return ""
    gap = "" if row["language"] == "zh" else " "
    return gap.join(claim["text"] for claim in row["claims"]) or str(row["text"])


def _has_gold(row: Row) -> bool:
    return bool(row["answerable"] and row["gold"])


def _exact_match(row: Row) -> float | None:
    if not _has_gold(row):
        return None
    matched = metrics.exact_match(_prediction(row), row["gold"], row["language"])
    return matched if is_answered(row) else 0.0


def _f1(row: Row) -> float | None:
    if not _has_gold(row):
        return None
    overlap = metrics.f1(_prediction(row), row["gold"], row["language"])
    return overlap if is_answered(row) else 0.0


def _accuracy(row: Row, *, of_all: bool) -> float | None:
    """Return whether a short answer holds a gold answer, or all of its parts, as RGB counts."""
    if not _has_gold(row):
        return None
    said, language = _prediction(row), row["language"]
    parts = (row.get("parts") if of_all else None) or [row["gold"]]
    return float(len(said) <= SHORT and metrics.contains_all(said, parts, language))


def _says(row: Row, answers: Sequence[str]) -> float | None:
    """Return whether an answer over changed passages says one of the answers."""
    if not (is_answered(row) and row.get("memory")):
        return None
    return float(metrics.contains_answer(_prediction(row), answers, row["language"]))


def _wrong(row: Row) -> float | None:
    """Return 1.0 for a wrong answer; answering the unanswerable is wrong whatever is said."""
    if not is_answered(row) or (row["gold_document"] is None and not row["gold"]):
        return None  # supplied passages whose gold answers are unknown, or that are all noise
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
    if not (is_answered(row) and _has_gold(row) and row["gold_document"] and citations):
        return None
    return sum(_proves(row, citation) for citation in citations) / len(citations)


def _citation_valid(row: Row) -> float | None:
    if not is_answered(row):
        return None
    citations = _citations(row)
    return float(bool(citations) and all(_is_exact(row, citation) for citation in citations))


def _entailed(row: Row) -> list[list[bool]] | None:
    """Return for each claim whether each passage that it cites entails it (shape: claims, cited).

    None for abstentions and where no gold answer is known. See `metrics.is_entailed`.
    """
    if not (is_answered(row) and _has_gold(row)):
        return None
    texts = {passage["number"]: passage["text"] for passage in row["passages"]}
    gold = {passage["number"]: passage["document"] for passage in row["passages"]}

    def entails(number: int, claim: str) -> bool:
        known = row["gold_document"]
        return number in texts and metrics.is_entailed(
            claim,
            texts[number],
            is_gold=None if known is None else gold[number] == known,
            answers=row["gold"],
            language=row["language"],
        )

    return [
        [
            entails(number, claim["text"])
            for number in dict.fromkeys(one["passage_number"] for one in claim["citations"])
        ]
        for claim in row["claims"]
    ]


def _citation_recall(row: Row) -> float | None:
    """Return the share of claims that the passages they cite entail (Gao et al. 2023, ALCE)."""
    claims = _entailed(row)
    if claims is None:
        return None
    return sum(map(any, claims)) / len(claims) if claims else 0.0


def _citation_precision(row: Row) -> float | None:
    """Return the share of citations that are needed (Gao et al. 2023, ALCE); 0.0 without any.

    ALCE counts a citation of an entailed claim unless it does not entail the claim alone and the
    others do without it. As our rule looks at one passage at a time, that is: if it entails alone.
    """
    claims = _entailed(row)
    if claims is None:
        return None
    cited = [one for claim in claims for one in claim]
    return sum(cited) / len(cited) if cited else 0.0


def _faithful(row: Row) -> float | None:
    """Return the share of claims that the passages given hold (Es et al. 2024, by our rule)."""
    if not (is_answered(row) and row["claims"]):
        return None
    together = "\n".join(passage["text"] for passage in row["passages"])
    return metrics.faithfulness(
        [
            metrics.is_entailed(
                claim["text"], together,
                is_gold=True, answers=row["gold"], language=row["language"],
            )
            for claim in row["claims"]
        ]
    )  # fmt: skip


def unfounded(row: Row) -> float | None:
    """Return 1.0 for an answer known to be wrong, in sets that hold unanswerable questions.

    Where the gold answers are unknown, an answer to what is answerable passes: a lower bound.
    """
    if not is_answered(row):
        return None
    return float(not row["answerable"]) if not row["gold"] else _wrong(row)


def support(row: Row) -> float | None:
    """Return the support (0..1) of an answer's weakest claim, None for an abstention."""
    if not is_answered(row):
        return None
    return min((float(claim["support"]) for claim in row["claims"]), default=0.0)


def _among(
    counts: Callable[[Row], bool], of: Callable[[Row], float | None]
) -> Callable[[Row], float | None]:
    """Return a measure narrowed to the rows that count."""
    return lambda row: of(row) if counts(row) else None


def _abstained(row: Row, *, generated: bool) -> float:
    return float(not is_answered(row) and ("generate" in row["timings"]) == generated)


MEASURES = (
    Measure("exact_match", "exact match (answerable; abstained = 0)", _exact_match),
    Measure("f1", "F1 (answerable; abstained = 0)", _f1),
    Measure("f1_drafted", "F1 (answerable; drafted answers alone)", _among(_is_drafted, _f1)),
    Measure(
        "accuracy",
        f"accuracy, at most {SHORT} characters (answerable; abstained = 0)",
        lambda row: _accuracy(row, of_all=False),
    ),
    Measure(
        "accuracy_parts",
        "accuracy, likewise, every part of the answer (RGB's script)",
        lambda row: _accuracy(row, of_all=True) if row.get("parts") else None,
    ),
    Measure(
        "long",
        f"longer than {SHORT} characters (answers)",
        _among(is_answered, lambda row: float(len(_prediction(row)) > SHORT)),
    ),
    Measure(
        "follows_passage",
        "follows the changed passage (answers)",
        lambda row: _says(row, row["gold"]),
    ),
    Measure(
        "says_former",
        "says what it said before (answers)",
        lambda row: _says(row, row.get("memory", ())),
    ),
    Measure("answered", "coverage (all questions)", lambda row: float(is_answered(row))),
    Measure("wrong", "wrong among answered", _wrong),
    Measure("wrong_drafted", "wrong among drafted answers", _among(_is_drafted, _wrong)),
    Measure("wrong_read", "wrong among read answers", _among(_is_read, _wrong)),
    Measure("wrong_quoted", "wrong among quotations", _among(_is_quotation, _wrong)),
    Measure(
        "read",
        "read by the reader (answers)",
        _among(is_answered, lambda row: float(_is_read(row))),
    ),
    Measure(
        "quoted", "quotations (answers)", _among(is_answered, lambda row: float(_is_quotation(row)))
    ),
    Measure(
        "over_refused",
        "over-refusal (answerable)",
        lambda row: float(not is_answered(row)) if row["answerable"] else None,
    ),
    Measure(
        "rejected",
        "abstention (unanswerable)",
        lambda row: None if row["answerable"] else float(not is_answered(row)),
    ),
    Measure(
        "abstained_before",
        "abstained before generating (all questions)",
        lambda row: _abstained(row, generated=False),
    ),
    Measure(
        "abstained_after",
        "abstained after generating (all questions)",
        lambda row: _abstained(row, generated=True),
    ),
    Measure("citation_recall", "citation recall (answers; ALCE, by rule)", _citation_recall),
    Measure(
        "citation_precision", "citation precision (answers; ALCE, by rule)", _citation_precision
    ),
    Measure("faithful", "claims that the passages hold (answers; by rule)", _faithful),
    Measure("citation_correct", "citation correct (cited answers)", _citation_correct),
    Measure("citation_valid", "valid citation (answers)", _citation_valid),
    Measure(
        "length",
        "answer length, characters",
        _among(is_answered, lambda row: len(_prediction(row))),
    ),
    Measure("seconds", "seconds per question", lambda row: row.get("seconds")),
    Measure("prompt_tokens", "prompt tokens", lambda row: row["timings"].get("prompt_tokens")),
)


def scores_of(row: Row) -> dict[str, float | None]:
    """Return all measures of an answer by name, and `unfounded`, for a record of it."""
    return {one.name: one.of(row) for one in MEASURES if one.name != "seconds"} | {
        "unfounded": unfounded(row)
    }


def coverage_where_wrong(
    supports: NDArray[np.float64],
    right: NDArray[np.float64],
    most_wrong: float,
    counted: NDArray[np.bool_] | None = None,
) -> float:
    """Return the share that is answered where a threshold leaves at most that share wrong.

    The threshold is the lowest that holds among the answers; it is chosen on the same rows, so the
    share flatters.

    Args:
        supports: Of each row's answer, shape (n,); NaN of an abstention.
        right: 0 or 1, shape (n,); of an abstention it says nothing.
        most_wrong: Share of the answers shown that may be wrong (0..1).
        counted: Of which rows the share is, shape (n,); None: of all.
    """
    answers = ~np.isnan(supports)
    level = threshold_at_risk(supports[answers], right[answers], most_wrong)
    among = supports if counted is None else supports[counted]
    return float(np.mean(among >= level)) if len(among) else float("nan")


def _retrieval_at(k: int) -> Callable[[Row], float | None]:
    def of(row: Row) -> float | None:
        if not row["answerable"]:
            return None
        return metrics.recall_at_k(row["retrieved"], row["gold_document"], k)

    return of


RETRIEVAL_MEASURES = (
    Measure("recall@1", "recall@1", _retrieval_at(1)),
    Measure("recall@5", "recall@5", _retrieval_at(5)),
    Measure(
        "mrr@10",
        "reciprocal rank@10",
        lambda row: (
            metrics.reciprocal_rank(row["retrieved"], row["gold_document"])
            if row["answerable"]
            else None
        ),
    ),
    Measure("seconds", "seconds per question", lambda row: row["seconds"]),
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
    claim = {"text": text, "support": 1.0, "citations": citations, "quotation": True}
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
