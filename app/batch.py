"""The batch doors: JSON lines in, one JSON line out per row, in order.

A row that cannot be answered gives an object with "error" in place of its result, and the next
row goes on. Knows how rows look, not how to answer.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ingest.errors import TetherError, UsageError
from model.answers import answer_to_json, passage_to_json
from model.assistant import Assistant, checked_question
from model.verifier import Verifier
from retrieval.encoders import Encoder
from retrieval.search import Searcher, given_passages

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Handle = Callable[[Sequence[Row]], Sequence[Row]]


def run(lines: Iterable[str], handle: Handle, group: int = 1) -> Iterator[Row]:
    """Yield one object a line: what `handle` returns for it, with its "id", or an "error".

    Args:
        lines: JSON lines; blank ones are skipped.
        handle: Turns rows into results, one each.
        group: Rows handled together; if a group fails, its rows are tried one by one.
    """
    waiting: list[Row] = []
    for line in lines:
        if line.strip():
            waiting.append(_parse(line))
        if len(waiting) == group:
            yield from _handle(waiting, handle)
            waiting = []
    yield from _handle(waiting, handle)


def needs_store(lines: Iterable[str]) -> bool:
    """Tell whether a row of an ask batch brings no passages of its own."""
    rows = [_parse(line) for line in lines if line.strip()]
    return any("passages" not in row for row in rows if "error" not in row)


def _parse(line: str) -> Row:
    """Return the row, or an object that already holds its error."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _failure(None, UsageError(f"not a line of JSON: {error}; write one object a line"))
    if not isinstance(row, dict):
        return _failure(None, UsageError("not a JSON object; write one object a line"))
    row.pop("error", None)
    return row


def _failure(row_id: object, error: Exception) -> Row:
    return {"id": row_id, "error": {"type": type(error).__name__, "message": str(error)}}


def _handle(rows: Sequence[Row], handle: Handle) -> Iterator[Row]:
    """Yield the results of rows in order, errors in their places."""
    sound = [row for row in rows if "error" not in row]
    try:
        results = iter(handle(sound) if sound else [])
        handled = [row if "error" in row else {"id": row.get("id")} | next(results) for row in rows]
    except Exception as error:  # one row of thousands must never end the batch
        if len(rows) > 1:
            for row in rows:
                yield from _handle([row], handle)
            return
        if not isinstance(error, TetherError):
            logger.exception("a batch row failed")
        handled = [_failure(rows[0].get("id"), error)]
    yield from handled


def as_line(row: Row) -> str:
    """Return a row as one line of JSON; half characters, which UTF-8 cannot hold, become "?"."""
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")


def answering(
    assistant: Assistant, encoder: Encoder, *, retrieval: bool, top_k: int | None
) -> Handle:
    """Return the handle of `ask`: rows {id, question} or {id, question, passages: [text, ...]}."""

    def handle(rows: Sequence[Row]) -> list[Row]:
        return [_ask(row) for row in rows]

    def _ask(row: Row) -> Row:
        question = checked_question(_text(row, "question"))
        passages = None
        if "passages" in row:
            texts = row["passages"]
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise UsageError('"passages" is no list of texts; write ["...", "..."]')
            passages = given_passages(texts, question, encoder)
        answer = assistant.ask(question, passages=passages, retrieval=retrieval, top_k=top_k)
        return answer_to_json(answer)

    return handle


def searching(searcher: Searcher, *, top_k: int) -> Handle:
    """Return the handle of `search`: rows {id, question}."""

    def handle(rows: Sequence[Row]) -> list[Row]:
        questions = [checked_question(_text(row, "question")) for row in rows]
        return [
            {"passages": [passage_to_json(p) for p in searcher.search(question, top_k=top_k)]}
            for question in questions
        ]

    return handle


def judging(verifier: Verifier) -> Handle:
    """Return the handle of `judge`: rows {id, claim, evidence}."""

    def handle(rows: Sequence[Row]) -> list[Row]:
        pairs = [(_text(row, "claim"), _text(row, "evidence")) for row in rows]
        return [
            {"support": round(judgement.support, 4), "supported": judgement.supported}
            for judgement in verifier.judge(pairs)
        ]

    return handle


def _text(row: Row, field: str) -> str:
    """Return a row's text field.

    Raises:
        UsageError: The field is missing, no text, or blank.
    """
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f'the row has no text in "{field}"; give it one')
    return value
