"""Data sets of a few invented rows, in the files and schemas of the public ones."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

YEARS = {"Brenn": "1901", "Orra": "1908", "Vell": "1915", "Tarn": "1922"}
Row = Mapping[str, Any]


def write_set(data: Path, name: str, rows: Sequence[Row]) -> None:
    """Write one file, such as "xquad/xquad", of the developers' part."""
    path = data / f"{name}.dev.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()))


def asked(town: str) -> dict[str, Any]:
    """Return a question with the paragraph that answers it."""
    return {
        "id": f"en-{town}",
        "lang": "en",
        "question": f"When was the bridge of {town} opened?",
        "answers": [YEARS[town]],
        "context": f"The bridge of {town} was opened in {YEARS[town]}. Ferries left {town} daily.",
        "answerable": True,
    }


def questions() -> list[dict[str, Any]]:
    """Return questions in both languages, of which the last cannot be answered."""
    chinese = {
        "id": "zh-1",
        "lang": "zh",
        "question": "青石桥是谁设计的？",
        "answers": ["林望舒"],
        "context": "青石桥建成于1897年，由工程师林望舒设计，全长41米。",
        "answerable": True,
    }
    nobody = asked("Tarn") | {
        "id": "en-nobody",
        "question": "Who painted the bridge of Tarn?",
        "answers": [],
        "answerable": False,
    }
    return [*map(asked, YEARS), chinese, nobody]


def closed(number: int, language: str = "en", **more: object) -> dict[str, Any]:
    """Return a question without a passage."""
    asking = {"en": "Which town has bridge", "zh": "哪座城有桥"}[language]
    return {
        "id": f"{language}-{number}",
        "lang": language,
        "question": f"{asking} {number}?",
        "answers": ["Brenn"],
        **more,
    }


def choices(number: int, language: str = "en", **more: object) -> dict[str, Any]:
    """Return a question with three choices."""
    return {
        "id": f"{language}-{number}",
        "lang": language,
        "question": f"Bridge {number} stands in",
        "choices": ["Brenn", "Orra by the sea", "Vell"],
        "answer_index": number % 3,
        "category": "towns",
        **more,
    }


def claims() -> list[dict[str, Any]]:
    """Return claims with evidence that people labelled, many enough for both parts of a split."""
    return [
        {
            "id": f"c{number}",
            "lang": "en",
            "claim": f"Bridge {number} was opened in {1900 + number}.",
            "evidence": f"Bridge {number} was opened in {1900 + number + (number % 2)}.",
            "label": 1 - number % 2,
            "kind": "made",
        }
        for number in range(20)
    ]


def write_all(data: Path) -> Path:
    """Write a file of each kind of set, and return the folder."""
    write_set(data, "xquad/xquad", questions())
    write_set(data, "simpleqa/simpleqa", [closed(n) for n in range(3)])
    wrong: dict[str, Any] = {"wrong": ["Orra", "Vell"], "best_answer": "Brenn"}
    write_set(data, "truthfulqa/truthfulqa", [closed(n, **wrong) for n in range(3)])
    write_set(data, "mmlu/mmlu", [choices(n) for n in range(4)])
    write_set(data, "c3/c3", [choices(n, "zh", context="桥在城里。") for n in range(3)])
    texts = [
        {"id": f"t{n}", "lang": "en", "text": f"Bridge {n} stands in Brenn."} for n in range(3)
    ]
    write_set(data, "plain_text/wikitext2", texts)
    write_set(data, "fm2/fm2", claims())
    return data
