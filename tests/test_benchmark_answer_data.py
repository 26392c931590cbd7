"""The build of the answer data, from files of the public schema to JSONL and a manifest."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import build_answer_data
from benchmarks.build_answer_data import CachingEncoder, main, sampled
from eval.datasets import QUESTION_SETS, SETS
from retrieval.encoders import Encoder, HashingEncoder
from tests.test_training_questions import ROWS


def write_sets(data: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = {"squad-train": [], "nq-train": [], "drcd-train": []}
    for number, row in enumerate(ROWS):
        rows["squad-train" if row.language == "en" else "drcd-train"].append(
            {
                "id": str(number),
                "lang": row.language,
                "question": row.question,
                "answers": list(row.answers),
                "context": row.context,
                "title": row.group,
                "answerable": row.answerable,
            }
        )
    for name in (*rows, "xquad", "squad"):
        path = data / {**SETS, **QUESTION_SETS}[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows.get(name, []))


@pytest.mark.weights
def test_two_builds_write_the_same_files(
    tmp_path: Path,
    e5_encoder: Encoder,
    gemma_gguf: Path,
    weights_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_sets(tmp_path / "data")
    aside = {f"{row.language}:{row.group}" for row in ROWS[:5]}
    monkeypatch.setattr(build_answer_data, "is_dev", {row.group for row in ROWS[:5]}.__contains__)
    for run in ("first", "second"):
        options = ["--data", tmp_path / "data", "--out", tmp_path / run, "--home", weights_home]
        arguments = [*map(str, options), "--rows", "16", "--dev", "4", "--refusals", "0.25"]
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert result.exit_code == 0
    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text("utf-8"))
    sides = {}
    for side in ("train", "dev"):
        written = (tmp_path / "first" / f"{side}.jsonl").read_bytes()
        assert written == (tmp_path / "second" / f"{side}.jsonl").read_bytes()
        assert manifest[side]["sha256"] == hashlib.sha256(written).hexdigest()
        sides[side] = [json.loads(line) for line in written.decode().splitlines()]
        assert manifest[side]["examples"] == len(sides[side])
    assert len(sides["train"]) == 16
    assert manifest["options"]["mixture"]["gold"] > 0.5  # more answers than by default
    groups = [{row["group"] for row in rows} for rows in sides.values()]
    assert not groups[0] & groups[1]
    assert groups[1] <= {group.lower() for group in aside}
    assert manifest["prompt"]["instruct"] is False
    assert manifest["licences"].keys() == QUESTION_SETS.keys()


def test_vectors_are_kept(tmp_path: Path) -> None:
    class Counting(HashingEncoder):
        texts = 0

        def encode_passages(self, texts: list[str]) -> Any:  # noqa: ANN401
            self.texts += len(texts)
            return super().encode_passages(texts)

    path = tmp_path / "vectors.safetensors"
    first = CachingEncoder(Counting(), path)
    first.prepare(["One.", "Two.", "One."])
    inner = Counting()
    again = CachingEncoder(inner, path)
    vectors = again.encode_passages(["Two.", "One.", "Two."])
    assert inner.texts == 0
    assert np.array_equal(vectors, HashingEncoder().encode_passages(["Two.", "One.", "Two."]))


def test_a_sample_of_paragraphs_keeps_all_their_questions() -> None:
    few = sampled(ROWS, 2, seed=0)
    assert len({row.context for row in few}) == 4
    assert all(row in few for row in ROWS if row.context == few[0].context)
    assert few != sampled(ROWS, 2, seed=1)
    assert sampled(ROWS, None, seed=0) == ROWS
