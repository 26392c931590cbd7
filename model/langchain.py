"""The assistant as a LangChain `Runnable`: a question goes in, a verified `Answer` comes out.

    chain = AnswerRunnable(assistant) | RunnableLambda(lambda answer: answer.text)
    chain.invoke("Who built the bridge?")

This is the only module of this folder that imports LangChain, and nothing else imports it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig

from ingest.errors import UsageError
from model.answers import Answer
from model.assistant import Assistant, Event

Question = str | Mapping[str, Any]

_KEYS = ("question", "passages", "retrieval", "top_k")


class AnswerRunnable(Runnable[Question, Answer]):
    """Asks an assistant.

    The input is a question, or a mapping with "question" and any of the other arguments of
    `Assistant.stream`: "passages", "retrieval" and "top_k".
    """

    def __init__(self, assistant: Assistant) -> None:
        """Wrap an assistant."""
        self._assistant = assistant

    def invoke(
        self,
        input: Question,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Answer:
        """Return the verified answer.

        Raises:
            UsageError: The input is no question; `Assistant.stream` names the other errors.
        """
        return self._call_with_config(self._ask, input, config)

    def stream(  # type: ignore[override]
        self,
        input: Question,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Iterator[Event]:
        """Yield the assistant's events as they happen; `astream` yields the answer alone.

        Drafts are unverified, so inside a chain only the answer goes on to the next link.
        """
        yield from self._assistant.stream(**_arguments(input))

    def transform(
        self,
        input: Iterator[Question],  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Iterator[Answer]:
        """Yield the answer to the question that the link before has put together.

        Raises:
            UsageError: Nothing came in.
        """
        parts = list(input)
        if not parts:
            raise UsageError("no question came in; put a question into the chain")
        is_text = all(isinstance(part, str) for part in parts)
        yield self.invoke("".join(map(str, parts)) if is_text else parts[-1], config)

    def _ask(self, question: Question) -> Answer:
        return self._assistant.ask(**_arguments(question))


def _arguments(question: Question) -> dict[str, Any]:
    """Return the assistant's arguments of a Runnable's input."""
    if isinstance(question, str):
        return {"question": question}
    if not (isinstance(question, Mapping) and isinstance(question.get("question"), str)):
        raise UsageError('not a question; pass a text or {"question": TEXT}')
    if unknown := [key for key in question if key not in _KEYS]:
        raise UsageError(f"unknown key {unknown[0]!r}; use only {', '.join(_KEYS)}")
    return dict(question)
