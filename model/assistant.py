"""The one route from a question to an `Answer`: search, generate, read claims, judge.

`Assistant.ask` and its streaming twin share the same four calls. Knows nothing of the screen or
the shell.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.answers import Answer
from retrieval.passages import Passage


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The passages that were found, before anything is generated."""

    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Drafted:
    """A piece of the draft. Unverified: a door must show it as a draft, never as an answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The verified answer, which replaces the draft."""

    answer: Answer


Event = Retrieved | Drafted | Finished


class Assistant:
    """Answers questions from passages, with citations, or abstains."""

    def ask(
        self,
        question: str,
        *,
        passages: Sequence[Passage] | None = None,
        retrieval: bool = True,
        top_k: int | None = None,
    ) -> Answer:
        """Return the verified answer."""
        raise NotImplementedError

    def stream(
        self,
        question: str,
        *,
        passages: Sequence[Passage] | None = None,
        retrieval: bool = True,
        top_k: int | None = None,
    ) -> Iterator[Event]:
        """Yield `Retrieved`, then `Drafted` pieces, then one `Finished`."""
        raise NotImplementedError
