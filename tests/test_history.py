"""Conversations: kept turn by turn, found again, exported as text, deleted to the last byte."""

import json
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from app.history import (
    HISTORY_FILE,
    LONGEST_TITLE,
    Conversation,
    History,
    Turn,
    answer_from_json,
    as_json,
    as_markdown,
)
from ingest.errors import StoreError, UsageError
from model.answers import Answer, Citation, Claim, answer_to_json
from retrieval.passages import Passage
from tests.test_evidence import HOSTILE, cite, passage

LIGHT = passage("The lighthouse was built in 1887.", title="Guide")


def answered(text: str = "It was built in 1887.", source: Passage = LIGHT) -> Answer:
    claim = Claim(text, (cite(source, 0, 14),), 0.93, is_span=True)
    return Answer("When was it built?", f"{text} [1]", (claim,), (source,), "supported", {"s": 1.5})


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path)


def keep(history: History, *questions: str, answer: Answer | None = None) -> Conversation:
    """Keep a conversation of these questions."""
    conversation = history.begin("coast", questions[0])
    for number, question in enumerate(questions, start=1):
        history.save(conversation.id, number, Turn(question, answer=answer))
    return conversation


def test_a_conversation_comes_back_as_it_was(history: History) -> None:
    conversation = history.begin("coast", "When was the\n lighthouse built?")
    said = answered()
    turns = (
        Turn("When was it built?", "When was the lighthouse built?", said.passages, "draft", said),
        Turn("And the bridge?", error="the generator stopped; ask again"),
        Turn("And the pier?", is_stopped=True, draft="It was"),
    )
    for number, turn in enumerate(turns, start=1):
        history.save(conversation.id, number, turn)
    again, kept = History(history.path.parent).open(conversation.id)
    assert again.title == "When was the lighthouse built?"
    assert (again.collection, again.turns) == ("coast", 3)
    (claim,), (source,) = said.claims, said.passages
    chunk = replace(source.chunk, id="d:50-83")  # the id follows from the place
    cited = replace(said, passages=(replace(source, chunk=chunk),), claims=(claim,))
    first = replace(turns[0], answer=cited, passages=cited.passages)
    assert kept == (first, *turns[1:])


def test_an_answer_survives_its_json() -> None:
    said = answer_to_json(answered())
    assert answer_to_json(answer_from_json(json.loads(json.dumps(said)))) == said


def test_a_question_is_kept_before_its_answer_when_the_process_is_killed(tmp_path: Path) -> None:
    code = """
        import os, signal, sys
        from pathlib import Path
        from app.history import History, Turn
        history = History(Path(sys.argv[1]))
        history.save(history.begin("coast", "Who?").id, 1, Turn("Who built the light?"))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], check=False
    )
    assert killed.returncode < 0
    history = History(tmp_path)
    (conversation,) = history.conversations()
    (turn,) = history.open(conversation.id)[1]
    assert (turn.question, turn.is_open) == ("Who built the light?", True)


def test_an_edited_question_takes_the_place_of_all_that_came_after(history: History) -> None:
    conversation = keep(history, "one", "two", "three")
    history.save(conversation.id, 2, Turn("another two"))
    assert [turn.question for turn in history.open(conversation.id)[1]] == ["one", "another two"]


def test_the_last_changed_comes_first_and_all_words_are_looked_for(history: History) -> None:
    light = keep(history, "When was the lighthouse built?", answer=answered("In 1887."))
    tower = keep(history, "鐘樓有多高？", "那灯塔呢？")
    assert [one.id for one in history.conversations()] == [tower.id, light.id]
    history.save(light.id, 2, Turn("And the ferry?"))
    assert [one.id for one in history.conversations()] == [light.id, tower.id]
    assert [one.id for one in history.conversations("FERRY 1887")] == [light.id]
    assert [one.id for one in history.conversations("钟楼 灯塔")] == [tower.id]
    assert history.conversations("ferry 钟楼") == history.conversations("100% _nothing_") == []
    history.rename(tower.id, "Heights\n of towers")
    assert [one.title for one in history.conversations("heights")] == ["Heights of towers"]
    assert len(history.conversations(limit=1)) == 1


def test_a_deleted_conversation_leaves_no_byte_behind(history: History) -> None:
    secret = "rumpelstiltskin" * 400  # over several pages
    other = keep(history, "kept")
    gone = keep(history, "first", secret, answer=answered(secret, passage(secret)))
    history.save(gone.id, 2, Turn(f"edited {secret}"))
    folder = history.path.parent
    assert any(b"rumpel" in file.read_bytes() for file in folder.iterdir())
    assert history.delete(gone.id)
    assert not any(b"rumpel" in file.read_bytes() for file in folder.iterdir())
    assert not history.delete(gone.id)
    assert [one.id for one in history.conversations()] == [other.id]


def test_what_is_gone_or_anothers_cannot_be_touched(history: History) -> None:
    mine = keep(history, "mine")
    other = History(history.path.parent, owner="ada")
    assert other.conversations() == []
    assert not other.delete(mine.id)
    for act in (
        lambda: other.open(mine.id),
        lambda: other.rename(mine.id, "hers"),
        lambda: other.save(mine.id, 1, Turn("hers")),
        lambda: history.open("nothing"),
    ):
        with pytest.raises(UsageError, match="no longer there; choose another"):
            act()
    assert [turn.question for turn in history.open(mine.id)[1]] == ["mine"]
    with pytest.raises(UsageError, match="needs a title; write one"):
        history.rename(mine.id, " \n")


def test_titles_and_odd_characters_are_stored(history: History) -> None:
    conversation = keep(history, "x" * 200 + "\ud800", "\ud800\0'; DROP TABLE turns; --")
    (listed,) = history.conversations()
    assert len(listed.title) == LONGEST_TITLE
    assert history.open(conversation.id)[1][1].question == "?\0'; DROP TABLE turns; --"


def test_a_damaged_or_newer_file_names_the_remedy(history: History) -> None:
    assert history.conversations() == []
    assert not history.path.exists()  # looking makes no file
    keep(history, "one")
    connection = sqlite3.connect(history.path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="newer Tether: update Tether"):
        history.conversations()
    for file in history.path.parent.iterdir():
        file.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="if it is damaged, move it away"):
        history.conversations()
    assert history.path.name == HISTORY_FILE


def test_json_export_holds_everything() -> None:
    conversation = Conversation("1", "Title", "coast", "2026-01-01T00:00:00+00:00", 1)
    turns = (Turn("And it?", "And the light?", answer=answered()), Turn("x", is_stopped=True))
    whole = json.loads(as_json(conversation, turns))
    assert (whole["title"], whole["collection"]) == ("Title", "coast")
    first, second = whole["turns"]
    assert (first["question"], first["asked"]) == ("And it?", "And the light?")
    assert first["answer"] == answer_to_json(answered())
    assert (second["answer"], second["stopped"]) == (None, True)


def test_markdown_export_is_only_text_whatever_was_said() -> None:
    source = passage(HOSTILE, title=HOSTILE)
    claim = Claim(HOSTILE, (Citation(1, "d", 50, 50 + len(HOSTILE), HOSTILE),), 0.9)
    said = Answer(HOSTILE, HOSTILE, (claim,), (source,), "supported")
    conversation = Conversation("1", HOSTILE, "coast", "")
    written = as_markdown(conversation, (Turn(HOSTILE, "x", answer=said), Turn("y", error=HOSTILE)))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(written)
    for tag in ("<img", "<script", "<a ", "<em>", "<strong>", "</details>"):
        assert tag not in html
    assert html.count("<h1>") == 1 and html.count("<h2>") == 2 and "<blockquote>" in html
    assert html.count("&lt;img src=x") == 6
