"""Fitting the verifier: thresholds that keep their promise, rows that nothing was trained on."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.calibrate import (
    QUESTIONS,
    choose_cases,
    fit,
    risk_threshold,
    statements,
    with_passages,
)
from benchmarks.train_heads import is_dev
from eval.cases import Case
from eval.datasets import SETS as QUESTION_SETS
from eval.verification import SETS as LABELLED
from retrieval.encoders import HashingEncoder

scores = st.integers(0, 20).map(lambda n: n / 21)  # few, so that some are equal


@given(st.lists(st.tuples(scores, st.booleans()), max_size=60), st.sampled_from([0.05, 0.15, 0.5]))
def test_above_a_threshold_at_most_that_share_is_wrong(
    scored: list[tuple[float, bool]], wrong: float
) -> None:
    threshold = risk_threshold(scored, wrong)
    above = [right for score, right in scored if score >= threshold]
    assert sum(not right for right in above) <= wrong * len(above)
    for score, _ in scored:  # and no lower threshold would have done
        if score < threshold:
            more = [right for other, right in scored if other >= score]
            assert sum(not right for right in more) > wrong * len(more)


def test_rows_of_one_label_support_nothing() -> None:
    never = fit([({"x": value}, 1, "a") for value in (0.1, 0.9)], ["x"])
    assert never.probability({"x": 5.0}) < 1e-6


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def questions(count: int, *, kind: str) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{kind}-{n}", "lang": "en", "question": f"What is {kind} {n}?",
            "answers": [str(n)], "answerable": True, "title": f"{kind} article {n // 2}",
            "context": f"{kind} {n // 2} is {n}.",
        }
        for n in range(count)
    ]  # fmt: skip


def test_cases_are_of_articles_that_no_head_learns(tmp_path: Path) -> None:
    train, other = QUESTIONS["en"]
    write(tmp_path / train, questions(400, kind="train"))
    write(tmp_path / other, questions(40, kind="dev"))
    for name in ("xquad", "squad"):
        write(tmp_path / QUESTION_SETS[name], questions(4, kind="dev"))
    cases = choose_cases(tmp_path, "en", 20, seed=0)
    learnt = {row["context"] for row in questions(400, kind="train") if not is_dev(row["title"])}
    measured = {row["context"] for row in questions(4, kind="dev")}
    assert {case.id.split("-")[0] for case in cases} == {"train", "dev"}
    assert not {case.gold_context for case in cases} & (learnt | measured)
    assert cases == choose_cases(tmp_path, "en", 20, seed=0)

    for asked in with_passages(cases, HashingEncoder(), seed=0):
        assert len(set(asked.texts)) == len(asked.texts)
        assert (asked.case.gold_context in asked.texts) == asked.answerable


def test_what_cannot_be_answered_is_told_by_no_neighbour(tmp_path: Path) -> None:
    texts = ["Orrin is 1.", "Orrin says 1 too.", *(f"Velm {n} is {n}." for n in range(2, 9))]
    cases = [Case(str(n), "en", f"What? {n}", ("1",), True, text) for n, text in enumerate(texts)]
    asked = with_passages(cases, HashingEncoder(), seed=0)
    unanswerable = [one for one in asked if not one.answerable]
    assert unanswerable
    assert not any("1" in text for one in unanswerable for text in one.texts)


def test_claims_are_of_the_half_that_no_head_learns(tmp_path: Path) -> None:
    for name in ("wice", "fm2", "fever_symmetric", "begin", "nomiracl"):
        rows = [
            {
                "id": f"{name}-{n}", "lang": "en", "claim": f"{name} claim {n}.",
                "evidence": f"{name} evidence {n}.", "label": n % 2, "kind": "made",
            }
            for n in range(40)
        ]  # fmt: skip
        write(tmp_path / LABELLED[name].files["dev"], rows)
    built = [
        {"claim": "c", "evidence": "e", "label": 1, "language": "zh", "kind": "date",
         "group": "g", "source": source}
        for source in ("questions-zh", "wice")
    ]  # fmt: skip
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in built))
    found = statements(tmp_path, tmp_path, limit=10, seed=0)
    assert {name: len(rows) for name, rows in found.items()} == {
        "wice": 10, "fm2": 10, "fever_symmetric": 10, "begin": 10, "nomiracl": 10,
        "questions-zh": 1,
    }  # fmt: skip
    from eval.verification import part_of

    assert all(part_of(row.group) == "dev" for row in found["wice"])
    assert np.mean([row.label for row in found["fm2"]]) not in (0.0, 1.0)
