"""Loading question sets from tiny files of the same schema, and drawing samples from them."""

import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eval.cases import Case, sample
from eval.datasets import (
    QUESTION_LICENCES,
    QUESTION_SETS,
    SETS,
    counterfactual_cases,
    find_data,
    hotpot_cases,
    load,
    question_rows,
    rgb_cases,
)
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


SUPPLIED_SETS = {
    "zh_refine": "rgb/zh_refine.dev.jsonl.gz",
    "en_fact": "rgb/en_fact.dev.jsonl.gz",
    "hotpotqa": "hotpotqa/hotpotqa.dev.jsonl.gz",
}


def write(data: Path, name: str, rows: list[dict[str, Any]]) -> None:
    path = data / {**SETS, **QUESTION_SETS, **SUPPLIED_SETS}[name]
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
    for make in (hotpot_cases, partial(rgb_cases, "en_fact", noise=0.0)):
        with pytest.raises(UsageError, match=r"no file .*jsonl\.gz.*--data PATH or TETHER_DATA"):
            make(data=tmp_path)
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


def test_questions_to_train_on_leave_out_measured_paragraphs(tmp_path: Path) -> None:
    other = BRIDGE | {"id": "en-3", "context": "Oan sold the bridge.", "title": "Zarnith"}
    write(tmp_path, "squad-train", [BRIDGE, NOBODY, other])
    write(tmp_path, "xquad", [BRIDGE])
    everything = question_rows("squad-train", tmp_path)
    assert [row.answers for row in everything] == [("Mara Oan", "Oan"), (), ("Mara Oan", "Oan")]
    assert everything[0].group == everything[1].group == f"en:{everything[0].group[3:]}"
    assert [row.answerable for row in everything] == [True, False, True]
    (row,) = question_rows("squad-train", tmp_path, without=["xquad"])
    assert row.context == "Oan sold the bridge."
    assert row.group == "en:zarnith"
    assert QUESTION_SETS.keys() == QUESTION_LICENCES.keys()
    with pytest.raises(UsageError, match="choose from: squad-train"):
        question_rows("cmrc2018-train", tmp_path)


def test_rows_of_another_form_are_user_errors(tmp_path: Path) -> None:
    write(tmp_path, "squad-train", [BRIDGE, {"id": "x"}])
    with pytest.raises(UsageError, match=r":2 lacks the field 'context'"):
        question_rows("squad-train", tmp_path)
    write(tmp_path, "zh_refine", [{"id": "x"}])
    with pytest.raises(UsageError, match=r":1 lacks the field 'positive'"):
        rgb_cases("zh_refine", tmp_path, noise=0.4)
    write(tmp_path, "hotpotqa", [[1, 2]])  # type: ignore[list-item]
    with pytest.raises(UsageError, match=":1 is no such row"):
        hotpot_cases(tmp_path)


RGB: dict[str, Any] = {
    "id": "zh-1",
    "lang": "zh",
    "question": "谁？",
    "answers": ["玛拉", ["一", "1"]],
    "positive": ["好1", "好2", "好3"],
    "negative": [f"噪{i}" for i in range(9)],
    "wrong": ["错1", "错2", "错3"],
    "fake_answer": "假",
}


@pytest.mark.parametrize(("noise", "good"), [(0.0, 3), (0.4, 3), (0.5, 2), (0.8, 1), (1.0, 0)])
def test_rgb_at_a_share_of_noise(tmp_path: Path, noise: float, good: int) -> None:
    write(tmp_path, "zh_refine", [RGB])
    (case,) = rgb_cases("zh_refine", tmp_path, noise=noise)
    assert len(set(case.contexts)) == 5
    assert sum(context.startswith("好") for context in case.contexts) == good
    assert case.answerable == bool(good)
    assert case.answers == (("玛拉", "一", "1") if good else ())
    assert case.parts == ((("玛拉",), ("一", "1")) if good else ())
    assert case.memory == ()
    assert rgb_cases("zh_refine", tmp_path, noise=noise) == [case]


def test_rgb_with_false_passages_expects_what_they_say(tmp_path: Path) -> None:
    write(tmp_path, "en_fact", [RGB])
    (case,) = rgb_cases("en_fact", tmp_path, noise=0.4, wrong=True)
    assert case.answers == ("假",)
    assert case.memory == ("玛拉", "一", "1")
    assert sum(context.startswith("错") for context in case.contexts) == 3


def bridge(town: str, year: str) -> list[dict[str, Any]]:
    text = f"{town} bridge was opened in {year}. In {year} no ferry left {town}."
    row = BRIDGE | {"lang": "en", "context": text}
    return [
        row | {"id": f"when-{town}", "question": f"When was {town} opened?", "answers": [year]},
        row | {"id": f"what-{town}", "question": f"What left {town}?", "answers": ["no ferry"]},
    ]


def test_counterfactual_paragraphs_say_another_answer(tmp_path: Path) -> None:
    years = {"Brenn": "1901", "Orra": "1908", "Vell": "1915", "Tarn": "1922", "Quill": "1929"}
    nothing = [row for row in bridge("Kelm", "1936") if row["id"] == "what-Kelm"]
    rows = [row for town, year in years.items() for row in bridge(town, year)] + nothing
    write(tmp_path, "xquad", rows)
    changed = counterfactual_cases("xquad", tmp_path, seed=3)
    assert [case.id for case in changed] == [f"when-{town}" for town in years]  # one a paragraph
    for case in changed:
        town = case.id.removeprefix("when-")
        (told,) = case.answers
        assert case.memory == (years[town],)
        assert told in years.values()
        assert case.gold_context == bridge(town, told)[0]["context"]  # wherever it stood
        assert told != years[town]
    assert counterfactual_cases("xquad", tmp_path, seed=3) == changed
    told_by_seed = {
        tuple(case.answers for case in counterfactual_cases("xquad", tmp_path, seed=seed))
        for seed in range(8)
    }
    assert len(told_by_seed) > 1


def test_hotpot_passages_are_shuffled_by_seed(tmp_path: Path) -> None:
    write(tmp_path, "hotpotqa", [RGB])
    (case,) = hotpot_cases(tmp_path, seed=1)
    assert sorted(case.contexts) == sorted(["好1", "好2", "好3", *(f"噪{i}" for i in range(9))])
    assert case.contexts[:3] != ("好1", "好2", "好3")
    assert hotpot_cases(tmp_path, seed=1) == [case]
