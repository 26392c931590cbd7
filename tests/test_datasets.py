"""Loading question sets from tiny files of the same schema, and drawing samples from them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from eval.cases import Case, sample
from eval.datasets import SETS, find_data, load
from ingest.documents import content_id
from ingest.errors import UsageError

BRIDGE = {
    "id": "en-1",
    "lang": "en",
    "question": "Who built the Zarnith bridge?",
    "answers": ["Mara Oan", "Oan"],
    "context": "Mara Oan built the Zarnith bridge.",
    "answerable": True,
    "source": "invented",
}
NOBODY = BRIDGE | {"id": "en-2", "question": "Who sold it?", "answers": [], "answerable": False}
SUPPLIED = {
    "id": "zh-1",
    "lang": "zh",
    "question": "谁建造了大桥？",
    "answers": [],
    "contexts": ["扎尼斯大桥: 玛拉建造了它。", "别的: 无关。"],
    "answerable": True,
}


def write(data: Path, name: str, rows: list[dict[str, Any]]) -> None:
    path = data / SETS[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_rows_become_cases(tmp_path: Path) -> None:
    write(tmp_path, "squad", [BRIDGE, NOBODY])
    bridge, nobody = load("squad", tmp_path)
    assert bridge.answers == ("Mara Oan", "Oan")
    assert bridge.answerable
    assert not nobody.answerable
    assert bridge.gold_document == content_id("Mara Oan built the Zarnith bridge.")
    assert bridge.cluster == nobody.cluster


def test_supplied_passages(tmp_path: Path) -> None:
    write(tmp_path, "nomiracl", [SUPPLIED])
    (case,) = load("nomiracl", tmp_path)
    assert case.contexts == ("扎尼斯大桥: 玛拉建造了它。", "别的: 无关。")
    assert case.gold_context is None
    assert case.gold_document is None
    assert case.language == "zh"


def test_missing_data_name_the_file_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"xquad\.dev\.jsonl\.gz.*--data PATH or TETHER_DATA"):
        load("xquad", tmp_path)
    with pytest.raises(UsageError, match="choose from: xquad"):
        load("nosuch", tmp_path)
    with pytest.raises(UsageError, match=r"no folder.*--data"):
        find_data(tmp_path / "absent")
    monkeypatch.delenv("TETHER_DATA", raising=False)
    with pytest.raises(UsageError, match="TETHER_DATA"):
        find_data()
    monkeypatch.setenv("TETHER_DATA", str(tmp_path))
    assert find_data() == tmp_path


def test_damaged_files_are_user_errors(tmp_path: Path) -> None:
    write(tmp_path, "squad", [{"id": "x", "lang": "en"}])
    with pytest.raises(UsageError, match=r":1 lacks the field 'question'"):
        load("squad", tmp_path)
    (tmp_path / SETS["squad"]).write_bytes(b"plain text")
    with pytest.raises(UsageError, match="not gzip JSONL"):
        load("squad", tmp_path)


def cases(passages: int, questions: int) -> list[Case]:
    return [
        Case(f"{p}-{q}", "en", "?", ("a",), True, gold_context=f"passage {p}")
        for p in range(passages)
        for q in range(questions)
    ]


def test_a_sample_keeps_passages_whole_and_shuffles_them() -> None:
    everything = cases(30, 4)
    drawn = sample(everything, 20, seed=0)
    passages = {case.gold_context for case in drawn}
    assert len(drawn) == 20
    assert len(passages) == 5
    assert passages != {case.gold_context for case in everything[:20]}
    assert [case.id.split("-")[1] for case in drawn] == ["0", "1", "2", "3"] * 5


def test_a_sample_is_seeded_and_grows_by_appending() -> None:
    everything = cases(30, 4)
    assert sample(everything, 20, seed=5) == sample(everything, 20, seed=5)
    assert sample(everything, 20, seed=5) != sample(everything, 20, seed=6)
    assert sample(everything, 33, seed=5)[:20] == sample(everything, 20, seed=5)
    assert sorted(c.id for c in sample(everything, None, seed=1)) == sorted(
        c.id for c in everything
    )
