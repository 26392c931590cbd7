"""The bench of scoring runs both sides on a tiny model, and they find the same."""

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks.harness import asked, made_up, main
from tests.tiny_models import build_transformers_model

IS_INSTALLED = importlib.util.find_spec("lm_eval") is not None


def test_questions_take_either_form() -> None:
    row = {"question": "Which?", "choices": ["one", "two"], "answer_index": 1}
    letters, texts = asked(row, "letters"), asked({**row, "context": "Two."}, "texts")
    assert letters.context == "Which?\nA. one\nB. two\nAnswer:"
    assert letters.choices == (" A", " B")
    assert texts.context == "Two.\n\nQuestion: Which?\nAnswer:"
    assert (texts.choices, texts.gold) == ((" one", " two"), 1)
    assert made_up(3, 1) == made_up(3, 1) != made_up(3, 2)


@pytest.mark.skipif(IS_INSTALLED, reason="the peer is installed")
def test_without_the_peer_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    base = build_transformers_model(tmp_path / "base")
    with pytest.raises(SystemExit, match=r"pip install lm_eval$"):
        main(["--base", str(base), "--rows", "2"])


@pytest.mark.skipif(not IS_INSTALLED, reason="needs lm_eval")
@pytest.mark.parametrize("form", ["texts", "letters"])
def test_both_sides_find_the_same(tmp_path: Path, form: str) -> None:
    base, out = build_transformers_model(tmp_path / "base"), tmp_path / "out.jsonl"
    main([
        "--base", str(base), "--rows", "6", "--form", form, "--repeats", "1", "--out", str(out),
    ])  # fmt: skip
    line = json.loads(out.read_text("utf-8"))
    assert (line["questions"], line["continuations"], line["greedy_differs"]) == (6, 18, 0)
    assert line["greatest_difference"] < 1e-3
    assert line["accuracy"]["ours"] == line["accuracy"]["lm_eval"]
    rates = line["questions_per_second"]
    assert line["ratio"] == pytest.approx(rates["ours"] / rates["lm_eval"], rel=0.02)
