"""Lexical search: BM25 over the terms of a collection, at a cost that does not grow with it.

SQLite scores every chunk that holds any term of a query, so common terms cost more the larger a
collection grows. Here the rare terms choose the chunks, as many as a budget allows, and all terms
score them: within the budget the ranking is the full one, beyond it a chunk without any of the
rarer terms is found only if those are too few. Knows nothing of vectors or of SQL.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from retrieval.store import Collection
from retrieval.terms import query_expression

BUDGET = 10_000  # chunks that may be scored for a query: about 25 ms


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk by its row number; scores are comparable within one ranking only."""

    rowid: int
    score: float


class LexicalSearch:
    """BM25 over the terms of a collection: chunks that share a term with the query."""

    def __init__(self, collection: Collection, *, budget: int = BUDGET) -> None:
        """Search this collection, scoring about `budget` chunks a query at most.

        The rarest term of a query is always heeded, however many chunks hold it.
        """
        self._collection = collection
        self._budget = budget
        self._common: dict[str, int] = {}  # full counts beyond the budget, which take long

    def __call__(self, query: str, *, top_k: int) -> list[Hit]:
        """Return at most `top_k` hits by BM25, best first, ties by row number."""
        expression = query_expression(query)
        if not expression or top_k <= 0:
            return []
        terms = expression.split(" OR ")
        with self._collection.reading():
            rare, common = self._parted(terms) if len(terms) > 1 else (terms, [])
            scores = self._scores(rare, common, top_k)
            while common and len(scores) < top_k:  # all chunks with the terms before are found
                next_rarest, *common = self._rarest_first(common)
                scores = self._scores([next_rarest], common, top_k) | scores
        ranked = sorted(scores.items(), key=lambda found: (-found[1], found[0]))
        return [Hit(*found) for found in ranked[:top_k]]

    def _parted(self, terms: Sequence[str]) -> tuple[list[str], list[str]]:
        """Part terms into those that fit the budget together and the others."""
        counts = {term: self._count_up_to_budget(term) for term in terms}
        by_count = sorted(terms, key=counts.__getitem__)
        totals = accumulate(counts[term] for term in by_count)
        fitting = sum(total <= self._budget for total in totals)
        rare, common = by_count[:fitting], by_count[fitting:]
        if common and not any(counts[term] for term in rare):
            rarest, *common = self._rarest_first(common)
            rare.append(rarest)
        # In the query's order, for sums of floats depend on it.
        return [term for term in terms if term in rare], common

    def _count_up_to_budget(self, expression: str) -> int:
        """Return how many chunks match, or one more than the budget if more than that do."""
        return self._collection.count_matches(expression, limit=self._budget + 1)

    def _rarest_first(self, terms: Sequence[str]) -> list[str]:
        """Order terms by their full counts."""
        return sorted(terms, key=self._count) if len(terms) > 1 else list(terms)

    def _count(self, term: str) -> int:
        """Return how many chunks hold the term; a common one stays common, so is counted once."""
        if term in self._common:
            return self._common[term]
        count = self._collection.count_matches(term)
        if count > self._budget:
            self._common[term] = count
        return count

    def _scores(self, rare: Sequence[str], common: Sequence[str], top_k: int) -> dict[int, float]:
        """Return the BM25 scores, by all terms, of the best chunks that hold a rare term.

        BM25 is a sum over terms. The first query scores chunks that hold common terms, too; the
        second all that hold a rare one, which is the whole score of those without common terms. It
        is left out if even the rarest term is common and the first has found enough.
        """
        match = self._collection.match_terms
        scores: dict[int, float] = {}
        if common:
            both = f"({' OR '.join(rare)}) AND ({' OR '.join(common)})"
            scores = dict(match(both, top_k=top_k))
        if len(scores) == top_k and self._count_up_to_budget(" OR ".join(rare)) > self._budget:
            return scores
        return dict(match(" OR ".join(rare), top_k=top_k)) | scores
