"""Public question sets as `Case`s and as rows to train on: gzip JSONL, one folder per set.

    require_licences(["xquad"], accepted=False)
    cases = load("xquad", find_data(Path("data")))
    rows = question_rows("squad-train", find_data(Path("data")), without=["xquad", "squad"])

The data folder is given by hand and never part of the project. Knows nothing of models.
"""

import gzip
import json
import math
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from eval.cases import Case
from eval.metrics import contains_answer
from ingest.documents import Chunk, chunk_id, content_id
from ingest.errors import UsageError
from model.training.questions import QuestionRow, Swaps, replaced, shortest_answer
from retrieval.passages import Passage

SETS: Mapping[str, str] = {
    "xquad": "xquad/xquad.dev.jsonl.gz",
    "cmrc2018": "cmrc2018/cmrc2018.dev.jsonl.gz",
    "squad": "squad/squad.dev.jsonl.gz",
    "nomiracl": "nomiracl/nomiracl.dev.jsonl.gz",
    "drcd": "drcd/drcd.dev.jsonl.gz",
}
TRAIN_SETS: Mapping[str, str] = {
    "squad-train": "squad/squad.train.jsonl.gz",
    "cmrc2018-train": "cmrc2018/cmrc2018.train.jsonl.gz",
    "drcd-train": "drcd/drcd.train.jsonl.gz",
}

# What the publishers say of each data set, by its folder; sets of other folders are free to use.
LICENCES: Mapping[str, str] = {
    "c3": "its own licence, for non-commercial research only",
    "cmmlu": "CC BY-NC-SA 4.0",
    "ocnli": "CC BY-NC 2.0",
    "rgb": "CC BY-NC-SA 4.0",
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


def require_licences(sources: Iterable[str], *, accepted: bool) -> None:
    """Refuse data sets that are not for every use, unless the user says that this use is allowed.

    Args:
        sources: Folders of data sets.
        accepted: The user has read and accepts their licences.

    Raises:
        UsageError: A set is not for commercial use; the message has its licence.
    """
    bound = {name: LICENCES[name] for name in sources if name in LICENCES}
    if bound and not accepted:
        told = "; ".join(f"{name} ({licence})" for name, licence in bound.items())
        raise UsageError(
            f"Not for commercial use: {told}. If your use keeps to that, add --accept-licence;"
            " else leave them out with --sets."
        )


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
    cases = []
    for line, row in read_rows(path):
        with fields_of(f"{path}:{line}"):
            cases.append(_case(row))
    return cases


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the object of each line of a gzip JSONL file.

    Raises:
        UsageError: The file is missing or damaged.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, json.loads(line)
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}: {_REMEDY}") from error
    except (OSError, EOFError, ValueError) as error:
        raise UsageError(f"{path} is not gzip JSONL ({error}): fetch the file again.") from error


@contextmanager
def fields_of(place: str) -> Iterator[None]:
    """Turn a field that a row lacks, or a row that is no object, into a user's error."""
    try:
        yield
    except KeyError as error:
        raise UsageError(f"{place} lacks the field {error}: fetch the file again.") from error
    except (AttributeError, TypeError) as error:
        raise UsageError(f"{place} is no such row ({error}): fetch the file again.") from error


def _case(row: Mapping[str, Any]) -> Case:
    return Case(
        id=str(row["id"]),
        language=str(row["lang"]),
        question=str(row["question"]),
        answers=tuple(map(str, row["answers"])),
        answerable=bool(row["answerable"]),
        gold_context=row.get("context"),
        contexts=tuple(map(str, row.get("contexts", ()))),
    )


# --- Questions to train on -----------------------------------------------------------------------

# Sets whose licence lets an adapter trained on them be published; their text is Wikipedia's.
QUESTION_SETS: Mapping[str, str] = {
    "squad-train": "squad/squad.train.jsonl.gz",
    "nq-train": "nq/nq_oracle.train.jsonl.gz",
    "drcd-train": "drcd/drcd.train.jsonl.gz",
}
QUESTION_LICENCES: Mapping[str, str] = {
    "squad-train": "CC BY-SA 4.0",
    "nq-train": "CC BY-SA 3.0",
    "drcd-train": "CC BY-SA 3.0",
}


def question_rows(name: str, data: Path, *, without: Sequence[str] = ()) -> list[QuestionRow]:
    """Return the questions of one of `QUESTION_SETS`, grouped by article.

    Args:
        name: The set.
        data: The folder of the question sets.
        without: Sets of `SETS` whose paragraphs are measured on, so that nothing may learn them.

    Raises:
        UsageError: The set is unknown, or its file is missing or damaged.
    """
    if name not in QUESTION_SETS:
        raise UsageError(
            f"There is no set {name!r} to train on; choose from: {', '.join(QUESTION_SETS)}."
        )
    measured = {case.gold_context for other in without for case in load(other, data)}
    path, rows = data / QUESTION_SETS[name], []
    for line, row in read_rows(path):
        with fields_of(f"{path}:{line}"):
            if row["context"] not in measured:
                rows.append(_question_row(row))
    return rows


def _question_row(row: Mapping[str, Any]) -> QuestionRow:
    return QuestionRow(
        question=row["question"],
        answers=tuple(row["answers"]) if row["answerable"] else (),
        context=row["context"],
        group=f"{row['lang']}:{row.get('title') or content_id(row['context'])}".lower(),
        language=row["lang"],
        answerable=row["answerable"],
    )


# --- Passages supplied with the question ---------------------------------------------------------


RGB_FACTS: tuple[Literal["zh_fact", "en_fact"], ...] = ("zh_fact", "en_fact")


def rgb_cases(
    name: Literal["zh_refine", "zh_fact", "en_fact"],
    data: Path,
    *,
    noise: float,
    passages: int = 5,
    seed: int = 0,
    wrong: bool = False,
) -> list[Case]:
    """Return cases of RGB at a share of noise.

    Chen et al., "Benchmarking Large Language Models in Retrieval-Augmented Generation", AAAI 2024.

    Args:
        name: The part of RGB.
        data: The folder of the question sets.
        noise: Share of passages that do not hold the answer (0..1), rounded up in passages; at 1
            nothing answers and the case is unanswerable.
        passages: Passages a case; a question with fewer good ones gets more noise, as published,
            and one with fewer noisy ones has fewer passages.
        seed: Of the choice and order of the passages.
        wrong: In the *_fact parts: the good passages say the false answer, which is then expected,
            and the true one is what a model may remember.

    Raises:
        UsageError: The file is missing or damaged.
    """
    path, cases = data / f"rgb/{name}.dev.jsonl.gz", []
    for line, row in read_rows(path):
        with fields_of(f"{path}:{line}"):
            rng = random.Random(f"{seed}:{row['id']}")
            good, noisy = list(row["wrong" if wrong else "positive"]), list(row["negative"])
            rng.shuffle(good)
            rng.shuffle(noisy)
            few = min(len(good), passages - math.ceil(passages * noise))
            chosen = good[:few] + noisy[: passages - few]
            rng.shuffle(chosen)
            answers = [row["fake_answer"]] if wrong else row["answers"]
            case = _supplied(row, chosen, _flat(answers) if few else (), is_held=few > 0)
            parts = tuple(_flat([part]) for part in answers) if few else ()
            memory = _flat(row["answers"]) if wrong else ()
            cases.append(replace(case, parts=parts, memory=memory))
    return cases


def counterfactual_cases(name: str, data: Path, *, seed: int = 0) -> list[Case]:
    """Return cases whose paragraph gives another answer of the same kind in the right one's place.

    At most one a paragraph, so that no paragraph stands beside another version of itself, and none
    for a paragraph whose answers no other can replace.

    Args:
        name: A set of `SETS` whose cases have a gold paragraph.
        data: The folder of the question sets.
        seed: Of the question of a paragraph and of its new answer.

    Raises:
        UsageError: The set is unknown, or its file is missing or damaged.
    """
    asked = [(case, _as_row(case)) for case in load(name, data) if case.answerable]
    swaps = Swaps([row for _, row in asked])
    paragraphs: dict[str, list[tuple[Case, QuestionRow]]] = {}
    for case, row in asked:
        paragraphs.setdefault(row.context, []).append((case, row))
    changed = []
    for paragraph, questions in paragraphs.items():
        rng = random.Random(f"{seed}:{content_id(paragraph)}")
        rng.shuffle(questions)
        made = (_changed(case, row, swaps, rng) for case, row in questions)
        changed += [case for case in made if case is not None][:1]
    return changed


def _as_row(case: Case) -> QuestionRow:
    language: Literal["zh", "en"] = "zh" if case.language == "zh" else "en"
    paragraph = case.gold_context or ""
    return QuestionRow(case.question, case.answers, paragraph, case.cluster, language)


def _changed(case: Case, row: QuestionRow, swaps: Swaps, rng: random.Random) -> Case | None:
    """Return the case with another answer wherever its own stood, None if none fits."""
    text, answer = row.context, shortest_answer(row)
    if answer is None:
        return None
    identity = content_id(text)
    chunk = Chunk(chunk_id(identity, 0, len(text)), identity, 0, len(text), text)
    other = swaps.other(row, answer, [Passage(1, chunk, "", "", 0.0)], rng)
    if other is None:
        return None
    told = replaced(text, answer, other)
    if contains_answer(told, case.answers, case.language):
        return None  # it still says so in another spelling
    return replace(case, gold_context=told, answers=(other,), memory=case.answers)


def hotpot_cases(data: Path, *, seed: int = 0) -> list[Case]:
    """Return HotpotQA's cases, each over its ten shuffled passages, of which two are needed.

    Raises:
        UsageError: The file is missing or damaged.
    """
    path, cases = data / "hotpotqa/hotpotqa.dev.jsonl.gz", []
    for line, row in read_rows(path):
        with fields_of(f"{path}:{line}"):
            chosen = [*row["positive"], *row["negative"]]
            random.Random(f"{seed}:{row['id']}").shuffle(chosen)
            cases.append(_supplied(row, chosen, _flat(row["answers"]), is_held=True))
    return cases


def _supplied(
    row: Mapping[str, Any], contexts: Sequence[str], answers: Sequence[str], *, is_held: bool
) -> Case:
    return Case(
        id=str(row["id"]),
        language=str(row["lang"]),
        question=str(row["question"]),
        answers=tuple(answers),
        answerable=is_held,
        contexts=tuple(contexts),
    )


def _flat(answers: Sequence[Any]) -> tuple[str, ...]:
    """Return all spellings of an answer; some are given as lists of alternatives."""
    return tuple(
        str(one) for part in answers for one in (part if isinstance(part, list) else [part])
    )
