"""The bench of training runs both sides on a tiny model, and they learn alike."""

import json
from pathlib import Path

import pytest

from tests.tiny_models import build_transformers_model
from tests.tiny_training import examples


def test_both_sides_take_the_same_steps_and_learn_alike(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="needs the `train` extra")
    from benchmarks.training import main

    base = build_transformers_model(tmp_path / "base")
    for name, count in (("train", 24), ("dev", 8)):
        rows = [{"prompt": row.prompt, "completion": row.completion} for row in examples(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, "utf-8")
    out = tmp_path / "out.jsonl"
    main([
        "--rows", str(tmp_path), "--base", str(base), "--steps", "6", "--out", str(out),
    ])  # fmt: skip
    trl, ours, ratio = map(json.loads, out.read_text("utf-8").splitlines())
    assert trl["steps"] == 6 and abs(ours["steps"] - 6) <= 1
    assert trl["tokens"] == ours["tokens"]
    assert trl["dev_loss_before"] == ours["dev_loss_before"]
    assert max(trl["dev_loss_after"], ours["dev_loss_after"]) < ours["dev_loss_before"]
    expected = ours["tokens_per_second"] / trl["tokens_per_second"]
    assert ratio["tokens_per_second"] == pytest.approx(expected, abs=0.01)
