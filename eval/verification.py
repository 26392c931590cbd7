"""Labelled (claim, evidence) sets by path, and the split that keeps their figures honest.

    pairs = load("wice", "dev", find_data(Path("data")))

Several sets with a free licence exist only as one file. Training on all of it would leave nothing
to measure on, so its rows are parted here, once and for all: rows that share a claim, a title or a
long sentence of evidence form a group, and a hash of the group sends it to `train` (60%) or `dev`
(40%). Figures are computed on `dev` only. Twin claims (fm2, fever_symmetric) share their evidence,
so a twin never stands on the other side. Knows nothing of models.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eval.datasets import fields_of, read_rows
from ingest.errors import UsageError
from ingest.languages import split_sentences

Part = Literal["train", "dev"]

TRAIN_PERCENT = 60  # of the groups of a set that comes as one file
LONG_SENTENCE = 80  # characters from which a common sentence is no coincidence


@dataclass(frozen=True, slots=True)
class VerificationSet:
    """Where a set lies under the data folder, and whether an adapter we ship may learn from it."""

    files: Mapping[Part, str]  # one and the same file under both parts is split by group
    licence: str

    @property
    def is_split(self) -> bool:
        """Whether both parts come from one file."""
        return len(self.files) > len(set(self.files.values()))


def _halves(path: str, licence: str) -> VerificationSet:
    return VerificationSet({"train": path, "dev": path}, licence)


SETS: Mapping[str, VerificationSet] = {
    "wice": _halves("wice/wice.dev.jsonl.gz", "ODC-BY, CC BY-SA 4.0"),
    "fm2": _halves("fm2/fm2.dev.jsonl.gz", "Apache-2.0, CC BY-SA"),
    "fever_symmetric": _halves("fever_symmetric/fever_symmetric.dev.jsonl.gz", "MIT, CC BY-SA"),
    "nomiracl": _halves("nomiracl/nomiracl.dev.jsonl.gz", "Apache-2.0"),
    "begin": VerificationSet(
        {"train": "begin/begin.train.jsonl.gz", "dev": "begin/begin.dev.jsonl.gz"},
        "CC BY 4.0, CDLA-Sharing 1.0",
    ),
    "halueval": VerificationSet(
        {
            "train": "halueval/halueval_qa.train.jsonl.gz",
            "dev": "halueval/halueval_qa.dev.jsonl.gz",
        },
        "MIT",
    ),
    # Not for commercial use: measured on, never trained on.
    "ocnli": VerificationSet({"dev": "ocnli/ocnli.dev.jsonl.gz"}, "CC BY-NC 2.0"),
}


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """A claim, the texts it may rest on, and what people say of it.

    The claim is supported if any one of `evidence` supports it: most sets give one text, a set of
    questions with retrieved passages gives all of them, and its claim is the question.
    """

    id: str
    claim: str
    evidence: tuple[str, ...]
    label: int  # 1: supported (or answered), 0: not
    language: str  # "zh" or "en"
    kind: str  # the set's own name for the label
    group: str  # rows of one group are not independent


def load(name: str, part: Part, data: Path) -> list[LabelledPair]:
    """Return one part of a set in the file's order.

    Raises:
        UsageError: The set or its part does not exist, or its file is missing or damaged.
    """
    found = SETS.get(name)
    if found is None or part not in found.files:
        known = ", ".join(n for n, s in SETS.items() if part in s.files)
        raise UsageError(f"There is no {part} part of a set {name!r}; choose from: {known}.")
    path = data / found.files[part]
    if not path.is_file():
        raise UsageError(f"The set {name!r} needs the file {path}: give its folder with --data.")
    rows = [row for _, row in read_rows(path)]
    with fields_of(str(path)):
        groups = connected([list(_keys(row)) for row in rows])
        pairs = [_pair(row, group) for row, group in zip(rows, groups, strict=True)]
    return [pair for pair in pairs if not found.is_split or part_of(pair.group) == part]


def part_of(group: str) -> Part:
    """Return the part that a group belongs to, by its hash, for ever the same."""
    share = int(hashlib.sha256(f"tether/{group}".encode()).hexdigest(), 16) % 100
    return "train" if share < TRAIN_PERCENT else "dev"


def connected(keys: Sequence[Sequence[str]]) -> list[str]:
    """Return the group of each row: rows with a common key, also by way of others, share one.

    A group's name is its smallest key, so it does not depend on the order of rows.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    for row in keys:
        for key in row[1:]:
            low, high = sorted((root(row[0]), root(key)))
            parent[high] = low
    return [root(row[0]) for row in keys]


def _keys(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield what links a row to others; texts that are alike would teach their twin's label."""
    if "contexts" in row:  # a question with its passages
        yield f"claim {row['question']}"
        for context in row["contexts"]:
            yield f"evidence {context}"
        return
    yield f"claim {row['claim']}"
    yield f"evidence {row['evidence']}"
    if row.get("title"):
        yield f"title {row['title']}"
    for start, end in split_sentences(row["evidence"]):
        if end - start >= LONG_SENTENCE:
            yield f"evidence {row['evidence'][start:end]}"


def _pair(row: Mapping[str, Any], group: str) -> LabelledPair:
    if "contexts" in row:
        return LabelledPair(
            id=str(row["id"]),
            claim=str(row["question"]),
            evidence=tuple(map(str, row["contexts"])),
            label=int(row["answerable"]),
            language=str(row["lang"]),
            kind="answerable" if row["answerable"] else "unanswerable",
            group=group,
        )
    # An answer alone ("Posadism.") states nothing: here it follows its question.
    is_answer = str(row["kind"]).startswith("qa:")
    return LabelledPair(
        id=str(row["id"]),
        claim=f"{row['question']} {row['claim']}" if is_answer else str(row["claim"]),
        evidence=(str(row["evidence"]),),
        label=int(row["label"]),
        language=str(row["lang"]),
        kind=str(row["kind"]),
        group=group,
    )
