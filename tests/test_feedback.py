"""Thumbs and corrections: kept through kills and side by side, and made into data."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ingest.errors import StoreError, UsageError
from model.feedback import (
    FEEDBACK_FILE,
    Feedback,
    FeedbackStore,
    PreferencePair,
    ShownPassage,
    preference_pairs,
    supervised_examples,
    trained_prompt,
)

PASSAGES = (ShownPassage("c1", "The old keeper mends the nets."), ShownPassage("c2", "Tea."))
QUESTION = "Who mends the nets?"
WRONG = Feedback(QUESTION, "The harbour [2]", PASSAGES, "down", generator="g", adapter="a")
RIGHT = Feedback(QUESTION, "The old keeper [1]", PASSAGES, "up")
PROMPT = trained_prompt(QUESTION, [passage.text for passage in PASSAGES])

WRITER = """
import sys
from pathlib import Path
from model.feedback import Feedback, FeedbackStore
with FeedbackStore(Path(sys.argv[1])) as store:
    for number in range(int(sys.argv[3])):
        print(store.add(Feedback("q", f"{sys.argv[2]} {number}", thumb="up")), flush=True)
"""


def writer(folder: Path, name: str, count: int) -> "subprocess.Popen[str]":
    """Start a process that adds entries and prints the id of each."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(count)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip


def test_an_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    entry = replace(WRONG, correction="老守夜人 [1]", time="2026-01-02T03:04:05+00:00")
    with FeedbackStore(tmp_path) as store:
        number = store.add(entry)
    with FeedbackStore(tmp_path) as store:
        assert store.entries() == [replace(entry, id=number)]
        assert json.loads(next(store.export()))["correction"] == "老守夜人 [1]"


def test_a_removed_entry_is_gone_and_its_id_is_not_given_again(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path) as store:
        first = store.add(WRONG)
        assert store.delete(first)
        assert not store.delete(first)
        assert store.add(RIGHT) > first
        assert [entry.answer for entry in store.entries()] == [RIGHT.answer]


@pytest.mark.parametrize(
    "entry",
    [
        replace(WRONG, thumb="none"),
        replace(WRONG, question=" "),
        replace(WRONG, answer=""),
        replace(WRONG, thumb="sideways"),  # type: ignore[arg-type]
    ],
)
def test_an_entry_that_says_nothing_is_refused(tmp_path: Path, entry: Feedback) -> None:
    with FeedbackStore(tmp_path) as store:
        with pytest.raises(UsageError, match="give"):
            store.add(entry)
        assert store.entries() == []


def test_half_a_surrogate_pair_is_kept_as_a_question_mark(tmp_path: Path) -> None:
    half = "why \ud83d"
    passages = (ShownPassage(half, half),)
    with FeedbackStore(tmp_path) as store:
        store.add(Feedback(half, half, passages, "down", half, generator=half, adapter=half))
        (kept,) = store.entries()
        assert replace(kept, id=0, time="") == Feedback(
            "why ?", "why ?", (ShownPassage("why ?", "why ?"),), "down", "why ?", "why ?", "why ?"
        )
        assert "".join(store.export()).encode()  # can be printed


def test_nothing_of_a_removed_entry_stays_in_the_file(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path) as store:
        number = store.add(replace(RIGHT, answer="lighthouse"))
        store.add(WRONG)
        store.delete(number)
    left = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"harbour" in left and b"lighthouse" not in left


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    both = [writer(tmp_path, name, 25) for name in "ab"]
    assert [process.communicate()[0].count("\n") for process in both] == [25, 25]
    with FeedbackStore(tmp_path) as store:
        assert len({entry.answer for entry in store.entries()}) == 50


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_what_was_reported_survives_a_kill(tmp_path: Path) -> None:
    process = writer(tmp_path, "a", 100_000)
    assert process.stdout is not None
    reported = [int(process.stdout.readline()) for _ in range(20)]
    process.kill()
    reported += [int(line) for line in process.stdout.read().splitlines()]
    process.wait()
    with FeedbackStore(tmp_path) as store:
        assert {entry.id for entry in store.entries()} >= set(reported)
        store.add(RIGHT)


def test_a_damaged_or_newer_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / FEEDBACK_FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="move it away"):
        FeedbackStore(tmp_path)
    (tmp_path / FEEDBACK_FILE).unlink()
    with closing(sqlite3.connect(tmp_path / FEEDBACK_FILE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer"):
        FeedbackStore(tmp_path)


def test_a_file_without_people_is_brought_up_to_date(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path) as store:
        store.add(RIGHT)
    with closing(sqlite3.connect(tmp_path / FEEDBACK_FILE)) as connection:  # as version 1 had it
        connection.execute("ALTER TABLE feedback DROP COLUMN person")
        connection.execute("PRAGMA user_version = 1")

    for name in ("ada", "eve"):  # opened again, it is of the new version already
        with FeedbackStore(tmp_path) as store:
            store.add(replace(RIGHT, person=name))

    with FeedbackStore(tmp_path) as store:
        assert [entry.person for entry in store.entries()] == ["", "ada", "eve"]


def test_a_correction_beats_what_it_corrects_and_thumbs_are_compared() -> None:
    corrected = replace(WRONG, correction="The old keeper [1]")
    expected = [PreferencePair(PROMPT, " The old keeper [1]", " The harbour [2]")]
    assert preference_pairs([corrected]) == expected
    assert preference_pairs([RIGHT, WRONG]) == expected
    assert preference_pairs([corrected, RIGHT, WRONG]) == expected
    spaced = replace(RIGHT, thumb="none", correction="The old  keeper [1]\n")  # the same words
    assert preference_pairs([spaced, WRONG]) == expected
    assert PROMPT.endswith("Answer:")


def test_answers_over_other_passages_are_not_compared() -> None:
    assert preference_pairs([RIGHT, replace(WRONG, passages=PASSAGES[1:])]) == []


def test_a_text_that_is_praised_and_blamed_teaches_nothing() -> None:
    torn = replace(RIGHT, thumb="down")
    assert preference_pairs([RIGHT, torn, WRONG]) == []
    assert supervised_examples([RIGHT, torn]) == []


def test_examples_come_from_corrections_and_upvotes_alone() -> None:
    chinese = Feedback("谁修补渔网？", "港口", PASSAGES, "down", correction="老守夜人[1]")
    found = supervised_examples([RIGHT, RIGHT, WRONG, chinese])
    assert [example.completion for example in found] == [" The old keeper [1]", "老守夜人[1]"]
    assert found[0].prompt == PROMPT
