"""The noun of retrieval: a `Passage`, one ranked chunk as a question sees it."""

from dataclasses import dataclass

from ingest.documents import Chunk


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk found for a question.

    `number` counts from 1 in rank order and is what `[n]` in an answer refers to. `score` is
    comparable only between passages found by the same search. `relevance` is the cosine between
    question and chunk (-1..1) whatever the ranking, or None if the chunk has no vector.
    """

    number: int
    chunk: Chunk
    title: str
    uri: str
    score: float
    found_by: tuple[str, ...] = ()  # subset of ("dense", "lexical"); ("given",) for supplied text
    relevance: float | None = None
