"""The data of the verifier: what it is built from, and what its manifest says of that."""

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.build_verify_data import HUMAN, inputs, labelled_rows, main, question_rows
from eval.datasets import SETS, TRAIN_SETS
from eval.verification import SETS as LABELLED
from tests.test_training_pairs import rows

CMRC = "cmrc2018-train"


def write(path: Path, content: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in content)


def question(number: int, language: str, text: str, article: str) -> dict[str, Any]:
    return {
        "id": str(number),
        "lang": language,
        "question": text,
        "answers": ["1901"],
        "context": f"{text} 1901",
        "title": article,
        "answerable": True,
    }


def label(name: str, number: int) -> dict[str, Any]:
    return {
        "id": f"{name}-{number}",
        "claim": f"{name} claim {number}",
        "evidence": f"{name} evidence {number}",
        "title": "",
        "label": number % 2,
        "lang": "en",
        "kind": "x",
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """All files that are read; the questions of a set carry its name."""
    made = [
        {
            "id": f"{n}",
            "lang": row.language,
            "question": row.question,
            "answers": list(row.answers),
            "context": row.paragraph,
            "title": row.article,
            "answerable": bool(row.answers),
        }
        for n, row in enumerate(rows(20))
    ]
    sets = {"squad-train": "en", "drcd-train": "zh"}
    for name, language in sets.items():
        write(tmp_path / TRAIN_SETS[name], [row for row in made if row["lang"] == language])
    write(tmp_path / TRAIN_SETS[CMRC], [question(1, "zh", "谁建的？", CMRC)])
    for name in ("xquad", "squad"):
        write(tmp_path / SETS[name], [])
    for name in HUMAN:
        write(tmp_path / LABELLED[name].files["train"], [label(name, n) for n in range(10)])
    return tmp_path


def test_a_set_without_a_licence_is_read_only_if_it_is_named(data: Path) -> None:
    assert CMRC not in {row.article for row in question_rows(data)}
    assert not any("cmrc" in found["file"] for found in inputs(data).values())
    assert {row.article for row in question_rows(data, [CMRC])} == {CMRC}
    assert "not stated" in inputs(data, [CMRC])[CMRC]["licence"]


def test_what_is_measured_on_is_left_out(data: Path) -> None:
    every = list(question_rows(data, [CMRC]))
    write(data / SETS["xquad"], [question(1, "zh", "谁建的？", CMRC)])
    assert (len(every), list(question_rows(data, [CMRC]))) == (1, [])


def test_share_alike_data_and_dev_rows_never_enter(data: Path) -> None:
    begin = [label("begin", n) | {"id": f"begin-topicalchat-{n}"} for n in range(4)]
    write(data / LABELLED["begin"].files["train"], [*begin, label("begin", 5), label("begin", 6)])
    found = labelled_rows("begin", data, seed=0)
    assert sorted(row.claim for row in found) == ["begin claim 5", "begin claim 6"]


def test_two_builds_write_the_same_files(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for run in ("first", "second"):
        out = tmp_path / run
        monkeypatch.setattr(
            sys, "argv", ["build", "--data", str(data), "--out", str(out), "--rows", "80"]
        )
        main()
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert written[0] == written[1]
    manifest = json.loads(written[0]["manifest.json"])
    assert manifest["command"].endswith("--questions squad-train drcd-train")
    parts = [
        [json.loads(line) for line in written[0][f"{part}.jsonl"].splitlines()]
        for part in ("train", "dev")
    ]
    assert sum(map(len, parts)) == 80
    groups = [{row["group"] for row in part} for part in parts]
    assert not groups[0] & groups[1]
    assert {row["label"] for row in parts[0]} == {0, 1}
