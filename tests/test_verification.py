"""The labelled sets: groups stay whole, parts stay apart, files are checked."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from eval.verification import SETS, connected, load, part_of
from ingest.errors import UsageError


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def twins(number: int) -> list[dict[str, Any]]:
    """Two claims over one text, and a third that shares only its title."""
    common = {"lang": "en", "title": f"Bridge {number}", "kind": "fm2"}
    return [
        {**common, "id": f"{number}a", "claim": f"Bridge {number} is old.", "evidence": "Old.",
         "label": 1},
        {**common, "id": f"{number}b", "claim": f"Bridge {number} is new.", "evidence": "Old.",
         "label": 0},
        {**common, "id": f"{number}c", "claim": f"Bridge {number} is red.",
         "evidence": f"The bridge {number} is red.", "label": 1},
    ]  # fmt: skip


def test_rows_are_linked_by_way_of_others() -> None:
    groups = connected([["b"], ["c", "b"], ["d", "c"], ["x", "y"], ["y"]])
    assert groups == ["b", "b", "b", "x", "x"]
    assert connected([["d", "c"], ["c", "b"], ["b"]]) == ["b", "b", "b"]


def test_parts_share_no_group_and_lose_no_row(tmp_path: Path) -> None:
    rows = [row for number in range(60) for row in twins(number)]
    for row in rows:
        row["evidence"] += f" So says the note on bridge {row['title']}."
    write(tmp_path / SETS["fm2"].files["dev"], rows)
    train, dev = load("fm2", "train", tmp_path), load("fm2", "dev", tmp_path)
    assert not {pair.group for pair in train} & {pair.group for pair in dev}
    assert {pair.id for pair in train + dev} == {row["id"] for row in rows}
    assert len(train) > len(dev) > 0
    by_title = {pair.id[:-1]: pair.group for pair in train + dev}
    assert all(pair.group == by_title[pair.id[:-1]] for pair in train + dev)


def test_common_sentences_link_texts_only_if_they_are_long(tmp_path: Path) -> None:
    long = (
        "The same long sentence about a bridge stands in two chunks of one and the same page here."
    )
    common = {"lang": "en", "kind": "supported", "label": 1}
    rows = [
        {**common, "id": "1", "claim": "One.", "evidence": f"First. {long}"},
        {**common, "id": "2", "claim": "Two.", "evidence": f"{long} Second."},
        {**common, "id": "3", "claim": "Three.", "evidence": "First. Third."},
    ]
    write(tmp_path / SETS["wice"].files["dev"], rows)
    pairs = {pair.id: pair for part in ("train", "dev") for pair in load("wice", part, tmp_path)}
    assert pairs["1"].group == pairs["2"].group != pairs["3"].group


def test_the_split_is_for_ever() -> None:
    parts = [part_of(f"group {number}") for number in range(12)]
    assert "".join(part[0] for part in parts) == "dtddtttttddd"


def test_questions_bring_all_their_passages_and_answers_their_question(tmp_path: Path) -> None:
    question = {
        "id": "q",
        "lang": "zh",
        "question": "谁？",
        "contexts": ["甲", "乙"],
        "answerable": True,
    }
    write(tmp_path / SETS["nomiracl"].files["dev"], [question])
    (pair,) = [p for part in ("train", "dev") for p in load("nomiracl", part, tmp_path)]
    assert (pair.claim, pair.evidence, pair.label) == ("谁？", ("甲", "乙"), 1)
    answer = {"id": "a", "lang": "en", "question": "Who?", "claim": "Ola.", "evidence": "Ola did.",
              "label": 1, "kind": "qa:right"}  # fmt: skip
    write(tmp_path / SETS["halueval"].files["train"], [answer])
    assert load("halueval", "train", tmp_path)[0].claim == "Who? Ola."


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose from: wice"):
        load("ocnli", "train", tmp_path)  # non-commercial: there is no train part
    with pytest.raises(UsageError, match="needs the file"):
        load("wice", "dev", tmp_path)
    write(tmp_path / SETS["wice"].files["dev"], [{"id": "1", "claim": "One."}])
    with pytest.raises(UsageError, match="lacks the field 'evidence'"):
        load("wice", "dev", tmp_path)
