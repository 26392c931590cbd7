"""The batch doors: one line out per row, in order, whatever a row holds."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from app.batch import answering, as_line, judging, needs_store, run
from ingest.errors import GeneratorError
from model.verifier import OverlapVerifier
from retrieval.encoders import HashingEncoder
from tests.test_assistant import QUESTION, assistant
from tests.test_verifier import TEXTS, plain_calibration

Row = dict[str, Any]


def ask_lines(*rows: object) -> list[Row]:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    handle = answering(assistant("Ola Fenn [1]"), HashingEncoder(), retrieval=True, top_k=None)
    return list(run(lines, handle))


def test_rows_are_answered_in_order_and_bad_ones_say_why() -> None:
    rows = ask_lines(
        {"id": "a", "question": QUESTION, "passages": TEXTS},
        "{broken",
        {"id": 7, "question": "  ", "passages": TEXTS},
        '["no object"]',
        {"id": "b", "question": QUESTION, "passages": "no list"},
        {"id": "c", "passages": TEXTS},
        {"id": "d", "question": QUESTION, "passages": []},
        "",
        {"id": "e", "question": "x" * 100_000, "passages": TEXTS},
        {"id": "f", "question": QUESTION, "passages": TEXTS},
    )
    assert [row["id"] for row in rows] == ["a", None, 7, None, "b", "c", "d", "e", "f"]
    assert ["error" in row for row in rows] == [
        False,
        True,
        True,
        True,
        True,
        True,
        False,
        True,
        False,
    ]
    assert all(row["error"]["message"] and row["error"]["type"] for row in rows if "error" in row)
    assert rows[0]["status"] == "supported"
    assert rows[6]["status"] == "abstained"


def test_the_same_row_gets_the_same_answer_anywhere_in_a_batch() -> None:
    first, _, last = ask_lines(
        {"id": 1, "question": QUESTION, "passages": TEXTS},
        {"id": 2, "question": "Where is tea exported?", "passages": TEXTS},
        {"id": 3, "question": QUESTION, "passages": TEXTS},
    )
    assert {k: first[k] for k in ("text", "claims")} == {k: last[k] for k in ("text", "claims")}


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "\\ud800", "question": "Who?", "passages": ["Ola \\ud800 Fenn."]}',
        "[" * 100_000,
        '{"id": 1, "question": "' + "x" * 3000 + '", "passages": []}',
        "\ufeff{}",
        "null",
    ],
)
def test_hostile_lines_give_one_line_each(line: str) -> None:
    (row,) = ask_lines(line)
    assert json.loads(as_line(row)).keys() >= {"id"}
    as_line(row).encode("utf-8")


def test_an_unforeseen_failure_is_an_error_of_its_row() -> None:
    def handle(rows: Sequence[Row]) -> list[Row]:
        return [{"share": 1 / row["id"]} for row in rows]

    results = list(run([json.dumps({"id": i}) for i in (1, 0, 2)], handle, group=3))
    assert [r.get("share") for r in results] == [1.0, None, 0.5]
    assert results[1]["error"]["type"] == "ZeroDivisionError"


def test_a_store_is_needed_only_by_rows_without_passages() -> None:
    own = json.dumps({"id": 1, "question": "q", "passages": ["p"]})
    assert not needs_store([own, "\n"])
    assert not needs_store([own, "broken"])
    assert needs_store([own, json.dumps({"id": 2, "question": "q"})])


def test_judging_in_groups_keeps_the_order_around_bad_rows() -> None:
    rows: list[Row] = [
        {"id": i, "claim": "Ola Fenn built the Zarnith bridge.", "evidence": TEXTS[i % 2]}
        for i in range(5)
    ]
    rows[2] = {"id": 2, "claim": "no evidence"}
    handle = judging(OverlapVerifier(HashingEncoder(), plain_calibration()))
    results = list(run([json.dumps(row) for row in rows], handle, group=3))
    assert [row["id"] for row in results] == [0, 1, 2, 3, 4]
    assert [row.get("supported") for row in results] == [True, False, None, False, True]
    assert results[2]["error"]["type"] == "UsageError"


def test_a_failing_generator_is_an_error_of_its_row() -> None:
    def handle(rows: Sequence[Row]) -> list[Row]:
        if rows[0]["id"] == 1:
            raise GeneratorError("the server is gone; start it")
        return [{"text": "fine"} for _ in rows]

    results = list(run([json.dumps({"id": i}) for i in range(3)], handle))
    assert results[1] == {
        "id": 1, "error": {"type": "GeneratorError", "message": "the server is gone; start it"}
    }  # fmt: skip
    assert [r.get("text") for r in results] == ["fine", None, "fine"]


@pytest.mark.parametrize("group", [1, 4])
def test_no_lines_give_no_rows(group: int) -> None:
    assert list(run([], lambda rows: [], group)) == []
