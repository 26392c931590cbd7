"""Public question sets as `Case`s: gzip JSONL files in one folder per set.

    cases = load("xquad", find_data(Path("data")))

The data folder is given by hand and never part of the project. Knows nothing of models.
"""

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.cases import Case
from ingest.errors import UsageError

SETS: Mapping[str, str] = {
    "xquad": "xquad/xquad.dev.jsonl.gz",
    "cmrc2018": "cmrc2018/cmrc2018.dev.jsonl.gz",
    "squad": "squad/squad.dev.jsonl.gz",
    "nomiracl": "nomiracl/nomiracl.dev.jsonl.gz",
}
TRAIN_SETS: Mapping[str, str] = {
    "squad-train": "squad/squad.train.jsonl.gz",
    "cmrc2018-train": "cmrc2018/cmrc2018.train.jsonl.gz",
    "drcd-train": "drcd/drcd.train.jsonl.gz",
}
_REMEDY = "point at the folder of the question sets with --data PATH or TETHER_DATA."


def find_data(path: Path | None = None) -> Path:
    """Return the folder of the question sets: the path given, else TETHER_DATA.

    Raises:
        UsageError: Neither is given, or it is not a folder.
    """
    given = path or (Path(os.environ["TETHER_DATA"]) if os.environ.get("TETHER_DATA") else None)
    if given is None:
        raise UsageError(f"No question sets: {_REMEDY}")
    if not given.is_dir():
        raise UsageError(f"There is no folder {given}: {_REMEDY}")
    return given


def load(name: str, data: Path) -> list[Case]:
    """Return all cases of one set of `SETS`, in the file's order.

    Raises:
        UsageError: The set is unknown, or its file is missing or damaged.
    """
    files = {**SETS, **TRAIN_SETS}
    if name not in files:
        raise UsageError(f"There is no question set {name!r}; choose from: {', '.join(SETS)}.")
    path = data / files[name]
    if not path.is_file():
        raise UsageError(f"The question set {name!r} needs the file {path}: {_REMEDY}")
    return [_case(row, f"{path}:{line}") for line, row in read_rows(path)]


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the object of each line of a gzip JSONL file.

    Raises:
        UsageError: The file is missing or damaged.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, json.loads(line)
    except (OSError, EOFError, ValueError) as error:
        raise UsageError(f"{path} is not gzip JSONL ({error}): fetch the file again.") from error


def _case(row: Mapping[str, Any], place: str) -> Case:
    try:
        return Case(
            id=str(row["id"]),
            language=str(row["lang"]),
            question=str(row["question"]),
            answers=tuple(map(str, row["answers"])),
            answerable=bool(row["answerable"]),
            gold_context=row.get("context"),
            contexts=tuple(map(str, row.get("contexts", ()))),
        )
    except KeyError as error:
        raise UsageError(f"{place} lacks the field {error}: fetch the file again.") from error
