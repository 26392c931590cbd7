"""Conversations that last: one SQLite file under the data root, searched, exported, really deleted.

    history = History(home)
    conversation = history.begin("handbook", "When was it built?")
    history.save(conversation.id, 1, Turn("When was it built?", answer=answer))

A question is kept before it is answered, and each change is one durable transaction (WAL), so that
a killed process loses nothing that was on the screen but the draft in the making. What is deleted
is overwritten in the file and cut from its log. Each owner sees their own conversations only. Every
method opens the file anew and may be called from any thread or process. Knows nothing of pages.
"""

import json
import sqlite3
import unicodedata
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingest.documents import Chunk, chunk_id
from ingest.errors import StoreError, UsageError
from ingest.languages import simplified
from model.answers import Answer, Citation, Claim, answer_to_json
from retrieval.passages import Passage

HISTORY_FILE = "history.sqlite"
LONGEST_TITLE = 80  # characters

_VERSION = 1
_WAIT = 30.0  # seconds for another process to finish its change
_SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,  -- random, so that it cannot be guessed
    owner TEXT NOT NULL,
    collection TEXT NOT NULL,
    title TEXT NOT NULL,
    changed TEXT NOT NULL  -- ISO 8601 in UTC
) STRICT;
CREATE INDEX IF NOT EXISTS conversations_of_owner ON conversations (owner, changed);
CREATE TABLE IF NOT EXISTS turns (
    conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,  -- from 1
    time TEXT NOT NULL,
    question TEXT NOT NULL,
    standalone TEXT NOT NULL,
    draft TEXT NOT NULL,
    answer TEXT,  -- JSON, as `tether ask --json` prints it
    error TEXT NOT NULL,
    is_stopped INTEGER NOT NULL,
    words TEXT NOT NULL,  -- what a search looks through
    PRIMARY KEY (conversation, number)
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and how far it has come."""

    question: str  # as it was typed
    standalone: str = ""  # as it was asked, if it was rewritten
    passages: tuple[Passage, ...] | None = None  # what was found, while there is no answer
    draft: str = ""
    answer: Answer | None = None
    error: str = ""  # one line
    is_stopped: bool = False

    @property
    def asked(self) -> str:
        """The question as it stands alone."""
        return self.standalone or self.question

    @property
    def is_open(self) -> bool:
        """True while an answer may still come."""
        return self.answer is None and not self.error and not self.is_stopped


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as a listing shows it."""

    id: str
    title: str
    collection: str
    changed: str  # ISO 8601 in UTC
    turns: int = 0


class History:
    """The conversations of one owner in one home folder."""

    def __init__(self, home: Path, owner: str = "") -> None:
        """Name the file; it is made with the first conversation."""
        self.path = home / HISTORY_FILE
        self.owner = owner

    def begin(self, collection: str, title: str) -> Conversation:
        """Make a conversation, titled by its first question.

        Raises:
            StoreError: The file cannot be written.
        """
        new = Conversation(uuid.uuid4().hex, _title(title), collection, _now())
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO conversations (id, owner, collection, title, changed) "
                "VALUES (?, ?, ?, ?, ?)",
                (new.id, self.owner, collection, new.title, new.changed),
            )
        return new

    def save(self, conversation: str, number: int, turn: Turn) -> None:
        """Keep a turn under its number, from 1, in place of what stood there and after it.

        Raises:
            UsageError: The conversation was deleted, or is another owner's.
            StoreError: The file cannot be written.
        """
        answer = json.dumps(answer_to_json(turn.answer)) if turn.answer else None
        texts = (turn.question, turn.standalone, turn.draft)
        words = "\n".join([turn.question, turn.asked, turn.answer.text if turn.answer else ""])
        with self._writing() as connection:
            self._touch(connection, conversation)
            connection.execute(
                "DELETE FROM turns WHERE conversation = ? AND number >= ?", (conversation, number)
            )
            connection.execute(
                "INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (conversation, number, _now(), *map(_storable, texts), answer,
                 _storable(turn.error), int(turn.is_stopped), _searchable(words)),
            )  # fmt: skip

    def conversations(self, search: str = "", *, limit: int = 200) -> list[Conversation]:
        """Return conversations, the last changed first.

        Args:
            search: Words that must all occur in the title or the turns, in either Chinese script;
                "" finds all.
            limit: At most so many.

        Raises:
            StoreError: The file cannot be read.
        """
        terms = _searchable(search).split()
        found = """EXISTS (SELECT 1 FROM turns WHERE conversation = c.id AND instr(words, ?))
                   OR instr(lower(title), ?)"""
        condition = "".join(f" AND ({found})" for _ in terms)
        if not self.path.exists():
            return []
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT id, title, collection, changed, "
                "(SELECT count(*) FROM turns WHERE conversation = c.id) "
                f"FROM conversations AS c WHERE owner = ?{condition} "
                "ORDER BY changed DESC, c.number DESC LIMIT ?",
                (self.owner, *(term for term in terms for _ in range(2)), limit),
            ).fetchall()
        return [Conversation(*row) for row in rows]

    def open(self, conversation: str) -> tuple[Conversation, tuple[Turn, ...]]:
        """Return a conversation with its turns.

        Raises:
            UsageError: It was deleted, or is another owner's.
            StoreError: The file cannot be read.
        """
        with self._reading() as connection:
            row = connection.execute(
                "SELECT id, title, collection, changed FROM conversations "
                "WHERE id = ? AND owner = ?",
                (conversation, self.owner),
            ).fetchone()
            turns = connection.execute(
                "SELECT question, standalone, draft, answer, error, is_stopped FROM turns "
                "WHERE conversation = ? ORDER BY number",
                (conversation,),
            ).fetchall()
            if row is None:
                raise _gone()
            return replace(Conversation(*row), turns=len(turns)), tuple(map(_turn, turns))

    def rename(self, conversation: str, title: str) -> None:
        """Give a conversation another title.

        Raises:
            UsageError: The title is empty; or the conversation was deleted, or is another owner's.
            StoreError: The file cannot be written.
        """
        if not title.strip():
            raise UsageError("a conversation needs a title; write one")
        with self._writing() as connection:
            done = connection.execute(
                "UPDATE conversations SET title = ? WHERE id = ? AND owner = ?",
                (_title(title), conversation, self.owner),
            )
            if not done.rowcount:
                raise _gone()

    def delete(self, conversation: str) -> bool:
        """Remove a conversation, and its bytes from the file; tell whether there was one.

        Raises:
            StoreError: The file cannot be written.
        """
        with self._writing() as connection:
            done = connection.execute(
                "DELETE FROM conversations WHERE id = ? AND owner = ?", (conversation, self.owner)
            )
            count = done.rowcount
        with self._reading() as connection:  # the log still held the old pages
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count > 0

    def _touch(self, connection: sqlite3.Connection, conversation: str) -> None:
        done = connection.execute(
            "UPDATE conversations SET changed = ? WHERE id = ? AND owner = ?",
            (_now(), conversation, self.owner),
        )
        if not done.rowcount:
            raise _gone()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction, which is durable when the block ends."""
        with self._reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(
                sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
            ) as connection:
                _prepare(connection, self.path)
                yield connection
        except (OSError, sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"the conversations in {self.path} cannot be used ({error}): free space or make it"
                " writable; if it is damaged, move it away"
            ) from error


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA synchronous = FULL")  # a turn survives a power cut
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA foreign_keys = ON")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise StoreError(
            f"{path} was written by a newer Tether: update Tether, or move the file away"
        )
    if version < _VERSION:
        connection.execute("PRAGMA journal_mode = WAL")  # the file remembers it
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION};")
        connection.execute("COMMIT")


def _gone() -> UsageError:
    return UsageError("that conversation is no longer there; choose another, or begin a new one")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _title(text: str) -> str:
    title = " ".join(_storable(text).split())
    return title if len(title) <= LONGEST_TITLE else title[: LONGEST_TITLE - 1] + "…"


def _storable(text: str) -> str:
    """Return a text that SQLite can hold: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _searchable(text: str) -> str:
    """Return a text in the form in which it is looked for."""
    return simplified(unicodedata.normalize("NFKC", _storable(text)).lower())


# --- Turns as they are stored --------------------------------------------------------------------


def _turn(row: tuple[Any, ...]) -> Turn:
    question, standalone, draft, answer, error, is_stopped = row
    known = answer_from_json(json.loads(answer)) if answer else None
    passages = known.passages if known else None
    return Turn(question, standalone, passages, draft, known, error, bool(is_stopped))


def answer_from_json(row: Mapping[str, Any]) -> Answer:
    """Return the answer that `model.answers.answer_to_json` wrote; scores are rounded there.

    Raises:
        KeyError: A part is missing.
    """
    claims = tuple(
        Claim(
            claim["text"],
            tuple(_citation(citation) for citation in claim["citations"]),
            claim["support"],
            claim["quotation"],
            claim["span"],
        )
        for claim in row["claims"]
    )
    passages = tuple(map(_passage, row["passages"]))
    return Answer(row["question"], row["text"], claims, passages, row["status"], row["timings"])


def _citation(row: Mapping[str, Any]) -> Citation:
    return Citation(row["passage_number"], row["document"], row["start"], row["end"], row["quote"])


def _passage(row: Mapping[str, Any]) -> Passage:
    place = (row["document"], row["start"], row["end"])
    chunk = Chunk(chunk_id(*place), *place, row["text"], row["heading"], row["page"], row["place"])
    found_by = tuple(row["found_by"])
    return Passage(row["number"], chunk, row["title"], row["uri"], row["score"], found_by)


# --- Exports -------------------------------------------------------------------------------------


def as_json(conversation: Conversation, turns: Sequence[Turn]) -> str:
    """Return a conversation as indented JSON, answers as `tether ask --json` prints them."""
    rows = [
        {
            "question": turn.question,
            "asked": turn.asked,
            "answer": answer_to_json(turn.answer) if turn.answer else None,
            "error": turn.error,
            "stopped": turn.is_stopped,
        }
        for turn in turns
    ]
    whole = {
        "title": conversation.title,
        "collection": conversation.collection,
        "changed": conversation.changed,
        "turns": rows,
    }
    return json.dumps(whole, ensure_ascii=False, indent=2) + "\n"


def as_markdown(conversation: Conversation, turns: Sequence[Turn]) -> str:
    """Return a conversation as Markdown in which all text from outside is only text."""
    blocks = [f"# {_plain(conversation.title)}"]
    for turn in turns:
        blocks.append(f"## {_plain(turn.question)}")
        if turn.asked != turn.question:
            blocks.append(f"({_plain(turn.asked)})")
        if turn.answer is not None:
            blocks.append(_plain(turn.answer.text))
            blocks += _sources(turn.answer)
        elif turn.error:
            blocks.append(_plain(turn.error))
    return "\n\n".join(blocks) + "\n"


def _sources(answer: Answer) -> list[str]:
    """Return each cited quotation with its number, title and address."""
    passages = {passage.number: passage for passage in answer.passages}
    cited = dict.fromkeys(citation for claim in answer.claims for citation in claim.citations)
    return [
        f"> {_plain(citation.quote)}\n>\n> \\[{citation.passage_number}\\] "
        f"{_plain(passages[citation.passage_number].title)}, "
        f"{_plain(passages[citation.passage_number].uri)}"
        for citation in cited
        if citation.passage_number in passages
    ]


def _plain(text: str) -> str:
    """Return text on one line in which every sign that Markdown reads is taken literally."""
    escaped = "".join(f"\\{sign}" if sign in "\\`*_[]<>#|&~$!(){}+-.:" else sign for sign in text)
    return " ".join(escaped.split())
