"""Metrics over rankings on worked examples, and the sets they are computed for."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from eval.rankings import complete, first_reciprocal_rank, load_ranking_sets, ndcg, recall
from ingest.documents import content_id
from ingest.errors import UsageError

RANKED = ["a", "x", "b", "y", "c"]


def test_recall_is_the_share_of_the_relevant() -> None:
    assert recall(RANKED, {"a", "b"}, 1) == 0.5
    assert recall(RANKED, {"a", "b"}, 3) == 1.0
    assert recall(RANKED, {"q"}, 5) == 0.0


def test_complete_asks_for_all_of_them() -> None:
    assert complete(RANKED, {"a", "b"}, 2) == 0.0
    assert complete(RANKED, {"a", "b"}, 3) == 1.0


def test_reciprocal_rank_stops_at_k() -> None:
    assert first_reciprocal_rank(RANKED, {"b", "c"}) == pytest.approx(1 / 3)
    assert first_reciprocal_rank(RANKED, {"c"}, k=4) == 0.0


def test_ndcg_of_a_worked_example() -> None:
    # Relevant at ranks 1 and 3 of an ideal 1 and 2 (and of 1 to 3 with a third one missed).
    gain = 1 + 1 / math.log2(4)
    assert ndcg(RANKED, {"a", "b"}) == pytest.approx(gain / (1 + 1 / math.log2(3)))
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(RANKED, {"a", "b", "q"}) == pytest.approx(gain / ideal)
    assert ndcg(["a"], {"a", "b"}, k=1) == 1.0  # the ideal is cut at k, too


def test_ndcg_equals_scikit_learn() -> None:
    from sklearn.metrics import ndcg_score

    relevant = {"x", "c", "y"}
    truth = [[float(text in relevant) for text in RANKED]]
    scores = [[float(len(RANKED) - place) for place in range(len(RANKED))]]
    assert ndcg(RANKED, relevant) == pytest.approx(ndcg_score(truth, scores, k=10))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_paragraphs_by_language_and_across_scripts(tmp_path: Path) -> None:
    row = {"id": "1", "lang": "zh", "question": "機器學習？", "answers": ["學"], "answerable": True}
    write(tmp_path / "drcd" / "drcd.dev.jsonl.gz", [row | {"context": "機器學習是什麼。"}])
    own, simple = load_ranking_sets(["drcd"], tmp_path)
    assert own.texts == simple.texts == {content_id("機器學習是什麼。"): "機器學習是什麼。"}
    assert [query.text for query in simple.queries] == ["机器学习？"]
    assert own.queries[0].relevant == {content_id("機器學習是什麼。")}
    assert own.queries[0].answers == ("學",)


def test_unanswerable_questions_have_no_relevant_text(tmp_path: Path) -> None:
    row = {"id": "1", "lang": "en", "question": "?", "contexts": ["a", "b"], "answerable": False}
    rows = [row, row | {"id": "2", "contexts": ["b", "c"], "answerable": True}]
    write(tmp_path / "nomiracl" / "nomiracl.dev.jsonl.gz", rows)
    (only,) = load_ranking_sets(["nomiracl"], tmp_path)
    assert sorted(only.texts.values()) == ["a", "b", "c"]
    assert [(q.id, q.relevant) for q in only.queries] == [
        ("2", frozenset(map(content_id, ["b", "c"])))
    ]


def test_candidates_and_judgements(tmp_path: Path) -> None:
    row = {"id": "1", "lang": "en", "question": "?", "positive": ["p"], "negative": ["n"]}
    bare = row | {"id": "2", "positive": []}
    write(tmp_path / "hotpotqa" / "hotpotqa.dev.jsonl.gz", [row, bare])
    folder = tmp_path / "cranfield"
    write(folder / "corpus.jsonl.gz", [{"id": "7", "title": "t", "text": "w"}])
    judged = {"id": "q", "question": "?", "relevant": {"7": 1, "8": 1}}
    missing = {"id": "r", "question": "?", "relevant": {"8": 1}}
    write(folder / "queries.dev.jsonl.gz", [judged, missing])
    pairs, corpus = load_ranking_sets(["hotpotqa", "cranfield"], tmp_path)
    assert set(pairs.texts.values()) == {"p", "n"}
    assert [query.relevant for query in pairs.queries] == [{content_id("p")}]
    assert corpus.texts == {content_id("t\nw"): "t\nw"}
    assert [query.id for query in corpus.queries] == ["q"]  # what is not there cannot be found


def test_sets_that_are_unknown_missing_or_damaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose from: xquad"):
        list(load_ranking_sets(["xqad"], tmp_path))
    with pytest.raises(UsageError, match=r"no file .*corpus\.jsonl\.gz.*--data PATH"):
        list(load_ranking_sets(["cranfield"], tmp_path))
    write(tmp_path / "xquad" / "xquad.dev.jsonl.gz", [{"id": "1", "lang": "en", "question": "?"}])
    with pytest.raises(UsageError, match="'xquad' lacks the field 'context': fetch the file again"):
        list(load_ranking_sets(["xquad"], tmp_path))
