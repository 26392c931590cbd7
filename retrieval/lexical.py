"""Lexical search: BM25 over the terms of a collection."""

from dataclasses import dataclass

from retrieval.store import Collection
from retrieval.terms import query_expression


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk by its row number; scores are comparable within one ranking only."""

    rowid: int
    score: float


class LexicalSearch:
    """BM25 over the terms of a collection: chunks that share a term with the query."""

    def __init__(self, collection: Collection) -> None:
        """Search this collection."""
        self._collection = collection

    def __call__(self, query: str, *, top_k: int) -> list[Hit]:
        """Return at most `top_k` hits by BM25, best first, ties by row number."""
        expression = query_expression(query)
        if not expression or top_k <= 0:
            return []
        return [Hit(*found) for found in self._collection.match_terms(expression, top_k=top_k)]
