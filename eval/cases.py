"""The noun of measuring: a `Case`, one question with its gold answers.

Knows nothing of files or models.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ingest.documents import content_id


@dataclass(frozen=True, slots=True)
class Case:
    """A question and what is known of its answer.

    `gold_context` is the paragraph that the question was asked about; `contexts` are passages
    supplied with the question, for sets that come with their own retrieval. A case has the one
    or the other. `answers` is empty where the question is unanswerable or its answer unknown.

    With `distractors`, the gold paragraph is given among that many others, as the retriever
    ranks them. `parts` are answers that are all needed, each with its spellings. `memory` are the
    answers that the passages gave before they were changed to say otherwise.
    """

    id: str
    language: str  # "zh" or "en"
    question: str
    answers: tuple[str, ...]
    answerable: bool
    gold_context: str | None = None
    contexts: tuple[str, ...] = ()
    distractors: int = 0
    parts: tuple[tuple[str, ...], ...] = ()
    memory: tuple[str, ...] = ()

    @property
    def gold_document(self) -> str | None:
        """The document id of the gold paragraph, which is its content's hash."""
        return None if self.gold_context is None else content_id(self.gold_context)

    @property
    def cluster(self) -> str:
        """What makes cases dependent: the same gold paragraph, or the same supplied passages."""
        return self.gold_document or content_id("\n".join(self.contexts))


class Clustered(Protocol):
    """Anything that is drawn together with what it depends on."""

    @property
    def cluster(self) -> str:
        """What makes it dependent on others."""
        ...


_Drawn = TypeVar("_Drawn", bound=Clustered)


def sample(cases: Sequence[_Drawn], limit: int | None, seed: int) -> list[_Drawn]:
    """Return at most `limit` cases (None: all), whole clusters at a time, in a seeded order.

    The clusters (such as passages) are shuffled, never the cases within one, so a sample holds all
    questions of a passage except where the limit cuts the last one. A smaller limit gives a prefix
    of a larger.
    """
    clusters: dict[str, list[_Drawn]] = {}
    for case in cases:
        clusters.setdefault(case.cluster, []).append(case)
    order = list(clusters)
    random.Random(seed).shuffle(order)
    return [case for cluster in order for case in clusters[cluster]][:limit]
