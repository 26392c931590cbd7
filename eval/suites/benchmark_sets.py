"""Public benchmarks by name: what is read, asked from memory, chosen or continued.

    names = benchmark_names(["rgb", "simpleqa", "mmlu", "wikitext"])
    subjects = read_benchmarks(names, Path("data"), seed=0)   # by set

Four kinds, each measured in its own way: questions with the passages to answer them from
(`Reading`), questions asked from memory (`ClosedBook`), questions with choices (`Choice`), and
texts (`Passage`). Files are gzip JSONL, one row a line. Knows nothing of models.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.cases import Case
from eval.datasets import fields_of, read_rows
from eval.suites.question_sets import GROUPS, resolved
from eval.suites.question_sets import SETS as QUESTION_SETS
from ingest.errors import UsageError

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True)
class Reading:
    """A question that is asked over its own passages: the gold one, or those that a set brings."""

    case: Case

    @property
    def passages(self) -> tuple[str, ...]:
        """What the question is asked over."""
        case = self.case
        return case.contexts or (() if case.gold_context is None else (case.gold_context,))


@dataclass(frozen=True, slots=True)
class ClosedBook:
    """A question that is asked without any passage; `wrong` are answers that people believe."""

    case: Case
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """A question whose likeliest continuation is the answer."""

    id: str
    language: str
    question: str
    context: str  # what the continuations follow
    continuations: tuple[str, ...]  # what is scored: letters, or the choices themselves
    texts: tuple[str, ...]  # the choices
    gold: int
    cluster: str

    @property
    def is_by_letter(self) -> bool:
        """Whether letters stand for the choices."""
        return self.continuations[0].strip() != self.texts[0].strip()


@dataclass(frozen=True, slots=True)
class Passage:
    """A text whose likelihood is measured."""

    id: str
    language: str
    text: str
    cluster: str  # of one article


Subject = Reading | ClosedBook | Choice | Passage
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set: the data set that it is made of, which has a licence, its file, and its rows."""

    source: str
    file: str
    make: Callable[[Row], Subject]


def _file(source: str, part: str = "") -> str:
    return f"{source}/{part or source}.dev.jsonl.gz"


def _closed(row: Row) -> ClosedBook:
    answers = tuple(map(str, row["answers"]))
    case = Case(str(row["id"]), str(row["lang"]), str(row["question"]), answers, answerable=True)
    return ClosedBook(case, tuple(map(str, row.get("wrong", ()))))


def _letters(row: Row) -> Choice:
    """Ask for the letter of a choice, in the words of lm-evaluation-harness's MMLU and CMMLU."""
    choices = tuple(map(str, row["choices"]))
    marks = LETTERS[: len(choices)]
    lines = "\n".join(f"{mark}. {text}" for mark, text in zip(marks, choices, strict=True))
    cue = "答案：" if row["lang"] == "zh" else "Answer:"
    context = f"{str(row['question']).strip()}\n{lines}\n{cue}"
    return _choice(row, context, tuple(f" {mark}" for mark in marks), choices, row["answer_index"])


def _texts(row: Row) -> Choice:
    """Ask for a choice itself, after the passage if there is one."""
    choices = tuple(map(str, row["choices"]))
    return _choice(row, _asked(row), _spaced(row, choices), choices, row["answer_index"])


def _believed(row: Row) -> Choice:
    """Set the best answer against the wrong ones that people believe, in an order of the row's."""
    best = str(row["best_answer"])
    choices = [best, *map(str, row["wrong"])]
    random.Random(str(row["id"])).shuffle(choices)
    texts = tuple(choices)
    return _choice(row, _asked(row), _spaced(row, texts), texts, choices.index(best))


def _asked(row: Row) -> str:
    opening = f"{row['context']}\n\n" if row.get("context") else ""
    if row["lang"] == "zh":
        return f"{opening}问题：{row['question']}\n答案："
    return f"{opening}Question: {row['question']}\nAnswer:"


def _spaced(row: Row, choices: Sequence[str]) -> tuple[str, ...]:
    return tuple(choices if row["lang"] == "zh" else (f" {text}" for text in choices))


def _choice(
    row: Row, context: str, continuations: tuple[str, ...], texts: tuple[str, ...], gold: int
) -> Choice:
    cluster = str(row.get("context") or row["id"])
    return Choice(
        str(row["id"]), str(row["lang"]), str(row["question"]), context, continuations, texts,
        int(gold), cluster,
    )  # fmt: skip


def _passage(row: Row) -> Passage:
    cluster = str(row.get("title") or row["id"])
    return Passage(str(row["id"]), str(row["lang"]), str(row["text"]), cluster)


READING = (
    "squad", "xquad", "cmrc2018", "drcd", "nomiracl", "hotpotqa",
    *GROUPS["rgb"], *GROUPS["rgb-en"],
)  # fmt: skip
BENCHMARKS: Mapping[str, Benchmark] = {
    "simpleqa": Benchmark("simpleqa", _file("simpleqa"), _closed),
    "chinese_simpleqa": Benchmark("chinese_simpleqa", _file("chinese_simpleqa"), _closed),
    "popqa": Benchmark("entity_qa", _file("entity_qa", "popqa"), _closed),
    "triviaqa": Benchmark("entity_qa", _file("entity_qa", "triviaqa"), _closed),
    "truthfulqa": Benchmark("truthfulqa", _file("truthfulqa"), _closed),
    "halluqa": Benchmark("halluqa", _file("halluqa"), _closed),
    "truthfulqa-choice": Benchmark("truthfulqa", _file("truthfulqa"), _believed),
    "halluqa-choice": Benchmark("halluqa", _file("halluqa"), _texts),
    "mmlu": Benchmark("mmlu", _file("mmlu"), _letters),
    "cmmlu": Benchmark("cmmlu", _file("cmmlu"), _letters),
    "c3": Benchmark("c3", _file("c3"), _texts),
    "wikitext": Benchmark("plain_text", _file("plain_text", "wikitext2"), _passage),
    "gsdsimp": Benchmark("plain_text", _file("plain_text", "zh_gsdsimp"), _passage),
}
NAMES = (*READING, *BENCHMARKS)


def benchmark_names(names: Sequence[str]) -> list[str]:
    """Return the names of sets that those of sets and groups ("rgb", "rgb-en") stand for.

    Raises:
        UsageError: A name is unknown.
    """
    groups = {name: GROUPS[name] for name in ("rgb", "rgb-en")}
    return resolved(names, NAMES, groups, "benchmark")


def source_of(name: str) -> str:
    """Return the data set that a set is made of, which has the licence."""
    return QUESTION_SETS[name].source if name in READING else BENCHMARKS[name].source


def read_benchmarks(names: Sequence[str], data: Path, seed: int) -> dict[str, list[Subject]]:
    """Return the rows of sets, by set.

    Args:
        names: Of `NAMES`.
        data: The folder of the question sets.
        seed: Of what is drawn: RGB's and HotpotQA's passages.

    Raises:
        UsageError: A file is missing or damaged.
    """
    return {name: _read(name, data, seed) for name in names}


def _read(name: str, data: Path, seed: int) -> list[Subject]:
    if name in READING:
        return [Reading(case) for case in QUESTION_SETS[name].make(data, seed)]
    chosen = BENCHMARKS[name]
    path = data / chosen.file
    if not path.is_file():
        raise UsageError(
            f"The benchmark {name!r} needs the file {path}: point at the folder of the sets with"
            " --data PATH or TETHER_DATA, or leave it out with --sets."
        )
    found = []
    for line, row in read_rows(path):
        with fields_of(f"{path}:{line}"):
            found.append(chosen.make(row))
    return found
