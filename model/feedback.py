"""What people say of answers: thumbs and corrections, kept on this machine and made into data.

    with FeedbackStore(home) as store:
        store.add(Feedback("Who mends the nets?", "The harbour [1]", passages, "down",
                           correction="The old keeper [1]"))
        pairs = preference_pairs(store.entries())

One SQLite file in WAL mode, `home/feedback.sqlite`: each entry is one transaction, so it is wholly
there or not at all whatever is killed, and several processes may write (one waits for the other).
Entries are texts as they were shown; a prompt is made of them only when something is learnt. Knows
nothing of doors, retrieval or training.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from ingest.errors import StoreError, UsageError
from model.prompts import TRAINED, build_prompt, completion

if TYPE_CHECKING:
    from model.training.tasks import Example  # it needs torch, which keeping feedback does not

FEEDBACK_FILE = "feedback.sqlite"
Thumb = Literal["up", "down", "none"]

_VERSION = 2
_WAIT = 30.0  # seconds for another process to finish its entry
_COLUMNS = ("id", "time", "question", "answer", "passages", "thumb", "correction", "generator",
            "adapter", "person")  # fmt: skip
_SCHEMA = """
CREATE TABLE IF NOT EXISTS feedback (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice, so a removed one stays removed
    time TEXT NOT NULL,
    question TEXT NOT NULL,
    answer TEXT NOT NULL,
    passages TEXT NOT NULL,  -- JSON: [{"id": ..., "text": ...}]
    thumb TEXT NOT NULL CHECK (thumb IN ('up', 'down', 'none')),
    correction TEXT,
    generator TEXT NOT NULL,
    adapter TEXT NOT NULL,
    person TEXT NOT NULL DEFAULT ''
) STRICT
"""
# What each version lacks of the next one.
_MIGRATIONS = {1: "ALTER TABLE feedback ADD COLUMN person TEXT NOT NULL DEFAULT ''"}


@dataclass(frozen=True, slots=True)
class ShownPassage:
    """A passage as it stood before the reader; its number is its place, from 1."""

    id: str  # of the chunk
    text: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody said of one answer."""

    question: str
    answer: str
    passages: tuple[ShownPassage, ...] = ()
    thumb: Thumb = "none"
    correction: str | None = None  # what the answer should have been
    generator: str = ""  # name or hash of the model that answered
    adapter: str = ""  # the same of its adapter
    person: str = ""  # name of the user who said it; empty where nobody logs in
    time: str = ""  # ISO 8601 in UTC; empty is now
    id: int = 0  # given by the store


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt with a better and a worse completion."""

    prompt: str
    chosen: str
    rejected: str


WritePrompt = Callable[[str, Sequence[str]], str]  # (question, texts of the passages) -> prompt


class FeedbackStore:
    """The feedback of one home folder; close it, or use it in a `with`."""

    def __init__(self, home: Path) -> None:
        """Open the store, and make it if it is absent.

        Raises:
            StoreError: The file is damaged, of a newer version, or cannot be written.
        """
        self.path = home / FEEDBACK_FILE
        with self._explained():
            home.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        self._connection.execute(f"PRAGMA busy_timeout = {round(_WAIT * 1000)}")
        self._switch_to_wal()
        self._connection.execute("PRAGMA synchronous = FULL")  # an entry survives a power cut
        self._connection.execute("PRAGMA secure_delete = ON")  # a removed one leaves no bytes
        with self._transaction():
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise StoreError(
                    f"{self.path} was written by a newer Tether: update Tether, or move it away"
                )
            self._connection.execute(_SCHEMA)
            for old in range(version or _VERSION, _VERSION):
                self._connection.execute(_MIGRATIONS[old])
            self._connection.execute(f"PRAGMA user_version = {_VERSION}")

    def _switch_to_wal(self) -> None:
        """Switch a new file over; SQLite does not wait when two processes do this at once."""
        until = time.monotonic() + _WAIT
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add(self, entry: Feedback) -> int:
        """Keep an entry durably and return its id; `id` of the entry itself is ignored.

        Raises:
            UsageError: It says nothing, or has no question.
            StoreError: The disk is full or the file cannot be written.
        """
        _require_content(entry)
        passages = [
            {"id": _storable(passage.id), "text": _storable(passage.text)}
            for passage in entry.passages
        ]
        values = (
            entry.time or datetime.now(UTC).isoformat(timespec="seconds"),
            _storable(entry.question), _storable(entry.answer), json.dumps(passages), entry.thumb,
            _storable(entry.correction or "") or None, _storable(entry.generator),
            _storable(entry.adapter), _storable(entry.person),
        )  # fmt: skip
        command = f"INSERT INTO feedback ({', '.join(_COLUMNS[1:])}) VALUES (?,?,?,?,?,?,?,?,?)"
        with self._explained(), self._transaction():
            return int(self._connection.execute(command, values).lastrowid or 0)

    def entries(self) -> list[Feedback]:
        """Return all entries, oldest first.

        Raises:
            StoreError: The file cannot be read.
        """
        with self._explained():
            rows = self._connection.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM feedback ORDER BY id"
            ).fetchall()
            return [_entry(dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def delete(self, entry_id: int) -> bool:
        """Remove an entry for good; tell whether there was one.

        Raises:
            StoreError: The file cannot be written.
        """
        with self._explained(), self._transaction():
            done = self._connection.execute("DELETE FROM feedback WHERE id = ?", (entry_id,))
            return done.rowcount > 0

    def export(self) -> Iterator[str]:
        """Yield each entry as a line of JSON, without a line end.

        Raises:
            StoreError: The file cannot be read.
        """
        for entry in self.entries():
            yield json.dumps(asdict(entry), ensure_ascii=False)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Write as one: the lock is taken first, so no writer fails half-way for want of it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"the feedback in {self.path} cannot be used ({error}): free space or make it"
                " writable; if it is damaged, move it away"
            ) from error


def preference_pairs(
    entries: Iterable[Feedback], write_prompt: WritePrompt | None = None
) -> list[PreferencePair]:
    """Return what people prefer, for each prompt: corrections and upvotes over the rest.

    A correction is better than the answer it corrects, and an answer with a thumb up than one with
    a thumb down. Only answers to the same question over the same passages are compared: over
    others, a text that was wrong may be right. A text that is praised and blamed is no evidence.

    Args:
        entries: From `FeedbackStore.entries`.
        write_prompt: Makes a prompt; None writes what an `answer` adapter reads.
    """
    pairs = []
    for prompt, (good, bad) in _judged(entries, write_prompt or trained_prompt).items():
        pairs += [
            PreferencePair(prompt, chosen, rejected)
            for chosen in good if chosen not in bad
            for rejected in bad if rejected not in good
        ]  # fmt: skip
    return pairs


def supervised_examples(
    entries: Iterable[Feedback], write_prompt: WritePrompt | None = None
) -> "list[Example]":
    """Return corrections and upvoted answers as examples, each once; blamed texts are left out.

    Args:
        entries: From `FeedbackStore.entries`.
        write_prompt: Makes a prompt; None writes what an `answer` adapter reads.
    """
    from model.training.tasks import Example

    judged = _judged(entries, write_prompt or trained_prompt)
    return [
        Example(prompt, text)
        for prompt, (good, bad) in judged.items() for text in good if text not in bad
    ]  # fmt: skip


def trained_prompt(question: str, passages: Sequence[str]) -> str:
    """Return the prompt that an `answer` adapter was trained to read."""
    return build_prompt(question, list(enumerate(passages, start=1)), TRAINED).as_text()


def _judged(
    entries: Iterable[Feedback], write_prompt: WritePrompt
) -> dict[str, tuple[dict[str, None], dict[str, None]]]:
    """Return for each prompt the good and the bad completions, in order and once each."""
    judged: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for entry in entries:
        prompt = write_prompt(entry.question, [passage.text for passage in entry.passages])
        good, bad = judged.setdefault(prompt, ({}, {}))
        said = _completion(entry.question, entry.answer)
        if entry.correction:
            better = _completion(entry.question, entry.correction)
            good[better] = None
            if better != said:  # not even in its spaces: then it praises the answer
                bad[said] = None
        elif entry.thumb != "none":
            (good if entry.thumb == "up" else bad)[said] = None
    return judged


def _completion(question: str, text: str) -> str:
    """Return a text as the generator writes it: after a space, where its language has one."""
    refusal = completion(question, [])
    return refusal[: len(refusal) - len(refusal.lstrip())] + " ".join(text.split())


def _require_content(entry: Feedback) -> None:
    if not entry.question.strip() or not entry.answer.strip():
        raise UsageError("feedback needs a question and the answer to it: give both")
    if entry.thumb not in get_args(Thumb):
        raise UsageError(f'a thumb is "up", "down" or "none", not {entry.thumb!r}: give one')
    if entry.thumb == "none" and not (entry.correction or "").strip():
        raise UsageError("feedback says nothing: give a thumb or a correction")


def _storable(text: str) -> str:
    """Return a text without spaces around it; half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8").strip()


def _entry(row: dict[str, Any]) -> Feedback:
    passages = tuple(ShownPassage(**passage) for passage in json.loads(row["passages"]))
    return Feedback(**{**row, "passages": passages})
