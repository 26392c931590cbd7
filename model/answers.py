"""The nouns of answering: `Citation`, `Claim` and `Answer`, and their JSON form.

Knows nothing of how an answer came about. `Citation.start/end` are character offsets in the cited
document's text; `quote` is exactly what stands there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from retrieval.passages import Passage

Status = Literal["supported", "partial", "abstained", "unverified"]


@dataclass(frozen=True, slots=True)
class Citation:
    """The exact characters of a passage on which a claim relies."""

    passage_number: int
    document_id: str
    start: int
    end: int
    quote: str


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement of an answer; `support` is the verifier's probability (0..1)."""

    text: str
    citations: tuple[Citation, ...] = ()
    support: float = 0.0
    is_quotation: bool = False  # a whole sentence of a document
    is_span: bool = False  # a document's own words, read out of a sentence by the trained reader


@dataclass(frozen=True, slots=True)
class Answer:
    """What the assistant says.

    `supported`: every claim of the draft passed the verifier. `partial`: some were rejected and
    are not in `text`. `abstained`: the passages do not hold the answer; `claims` is empty.
    `unverified`: from the model's memory, only when retrieval was switched off.
    `timings` maps stage names to seconds, and "prompt_tokens" / "generated_tokens" to counts.
    """

    question: str
    text: str
    claims: tuple[Claim, ...]
    passages: tuple[Passage, ...]
    status: Status
    timings: Mapping[str, float] = field(default_factory=dict)


def passage_to_json(passage: Passage) -> dict[str, Any]:
    """Return the public JSON form; `text[c.start - start : c.end - start]` is a quote."""
    chunk = passage.chunk
    return {
        "number": passage.number,
        "document": chunk.document_id,
        "uri": passage.uri,
        "title": passage.title,
        "heading": chunk.heading,
        "page": chunk.page,
        "place": chunk.place,
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
        "score": round(passage.score, 6),
        "found_by": list(passage.found_by),
    }


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """Return the public JSON form of an answer, without an id."""
    return {
        "question": answer.question,
        "status": answer.status,
        "text": answer.text,
        "claims": [
            {
                "text": claim.text,
                "support": round(claim.support, 4),
                "quotation": claim.is_quotation,
                "span": claim.is_span,
                "citations": [
                    {
                        "passage_number": citation.passage_number,
                        "document": citation.document_id,
                        "start": citation.start,
                        "end": citation.end,
                        "quote": citation.quote,
                    }
                    for citation in claim.citations
                ],
            }
            for claim in answer.claims
        ],
        "passages": [passage_to_json(passage) for passage in answer.passages],
        "timings": {name: round(value, 4) for name, value in answer.timings.items()},
    }
