"""Rows to train on: from a JSONL file, or made from the user's own documents.

    rows = read_rows(Path("rows.jsonl"), "verify")
    rows = own_rows(settings, "answer", most=200, seed=0)

`FORMATS` says what a row of each role looks like; rows made from documents are written in the
same format, so that an interrupted run goes on with the very same ones. A row that is damaged is
named by file and line; one without what is to be learnt is left out and counted. Knows nothing
of models in training.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.settings import Settings
from ingest.errors import TrainingError

if TYPE_CHECKING:
    from model.assistant import Assistant
    from model.generators import Generator
    from model.training.questions import QuestionRow, Search
    from model.verifier import Verifier
    from retrieval.passages import Passage
    from retrieval.store import Collection

FORMATS: Mapping[str, str] = {
    "answer": '{"prompt": text, "completion": text}',
    "knowledge": '{"text": text} or {"prompt": text, "completion": text}',
    "verify": '{"claim": text, "evidence": text, "label": 1 or 0}',
    "rerank": '{"question": text, "positive": text, "negatives": [text, ...]}',
    "read": '{"question": text, "passage": text, "answers": [text or [start, end], ...]}',
}
DEV_SHARE = 0.1  # of the rows, where no file of dev rows is given
MOST_DEV = 200
LEAST_FOR_DEV = 10  # of fewer rows, all are learnt from
_NEGATIVES = 4  # other passages beside the right one, for ranking


@dataclass(frozen=True, slots=True)
class Rows:
    """Examples of one role, and how many rows were no examples."""

    examples: tuple[Any, ...]
    without_answer: int = 0


# --- From files -----------------------------------------------------------------------------------


def read_rows(path: Path, role: str) -> Rows:
    """Return the rows of a JSONL file as a role's examples.

    Raises:
        TrainingError: The file cannot be read, a line is no row of that role, or there is none.
    """
    examples, without = [], 0
    for number, row in numbered_lines(path):
        try:
            example = _PARSERS[role](row)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise TrainingError(
                f"{path}:{number} is no row for {role} ({reason}): write {FORMATS[role]}, or"
                " remove that line"
            ) from error
        if example is None:
            without += 1
        else:
            examples.append(example)
    if not examples:
        raise TrainingError(
            f"{path} holds no row to learn from ({without} without an answer): give lines of"
            f" {FORMATS[role]}"
        )
    return Rows(tuple(examples), without)


def numbered_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (line number, object) of a JSONL file, blank lines left out.

    Raises:
        TrainingError: The file cannot be read, or a line is no JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        raise TrainingError(
            f"cannot read {path} ({reason}): give a file of JSON lines in UTF-8"
        ) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"a {type(row).__name__}")
        except ValueError as error:
            raise TrainingError(
                f"{path}:{number} is no JSON object ({error}): mend or remove that line"
            ) from error
        yield number, row


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write examples as `read_rows` reads them.

    Raises:
        TrainingError: The disk is full or not writable.
    """
    from model.training.checkpoints import write_text

    lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    write_text(path, "".join(lines))


def read_texts(path: Path) -> list[str]:
    """Return the texts of a file: of its "text" rows if it is JSONL, else its paragraphs.

    Raises:
        TrainingError: It cannot be read, or holds no text.
    """
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        texts = [str(row.get("text", "")) for _, row in numbered_lines(path)]
    else:
        try:
            texts = path.read_text(encoding="utf-8-sig").split("\n\n")
        except (OSError, UnicodeDecodeError) as error:
            raise TrainingError(f"cannot read {path}: give a text file in UTF-8") from error
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        raise TrainingError(f"{path} holds no text: give paragraphs with blank lines between them")
    return texts


def split_dev(rows: Sequence[Any], seed: int) -> tuple[list[Any], list[Any]]:
    """Return (train, dev): a tenth is drawn for dev, at most 200, none of fewer than ten rows."""
    count = min(MOST_DEV, int(len(rows) * DEV_SHARE))
    drawn = set(random.Random(seed).sample(range(len(rows)), count))
    train = [row for number, row in enumerate(rows) if number not in drawn]
    return train, [rows[number] for number in sorted(drawn)]


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise TypeError(f'"{name}" is no text')
    return value


def _texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = row[name]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f'"{name}" is no list of texts')
    return tuple(values)


def _answer(row: Mapping[str, Any]) -> Any:  # noqa: ANN401 - an example of any role
    from model.training.tasks import Example

    prompt, completion = _text(row, "prompt"), _text(row, "completion")
    return Example(prompt, completion) if completion.strip() else None


def _knowledge(row: Mapping[str, Any]) -> Any:  # noqa: ANN401
    from model.training.tasks import Example

    if "text" not in row:
        return _answer(row)
    text = _text(row, "text")
    return Example("", text) if text.strip() else None


def _verify(row: Mapping[str, Any]) -> Any:  # noqa: ANN401
    from model.training.heads import VerifyExample

    label = row.get("label", row.get("supported"))
    if label is None:
        return None
    if label not in (0, 1):
        raise ValueError(f'"label" is {label!r}')
    return VerifyExample(_text(row, "claim"), _text(row, "evidence"), bool(label))


def _rerank(row: Mapping[str, Any]) -> Any:  # noqa: ANN401
    from model.training.heads import RankExample

    positive, negatives = _text(row, "positive"), _texts(row, "negatives")
    if not positive.strip() or not negatives:
        return None
    return RankExample(_text(row, "question"), positive, negatives)


def _read(row: Mapping[str, Any]) -> Any:  # noqa: ANN401
    from model.training.heads import ReadExample

    passage = _text(row, "passage")
    places = [place for given in row["answers"] for place in _places(passage, given)]
    return ReadExample(_text(row, "question"), passage, tuple(dict.fromkeys(places)))


def _places(passage: str, given: Any) -> list[tuple[int, int]]:  # noqa: ANN401 - what a row holds
    """Return where an answer stands: every place of a text, or the place that is given."""
    if isinstance(given, str):
        found = occurrences(passage, given)
        if not found:
            raise ValueError("an answer does not stand in the passage")
        return found
    start, end = given
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(passage)):
        raise ValueError(f"no characters {start}:{end} in the passage")
    return [(start, end)]


def occurrences(text: str, part: str) -> list[tuple[int, int]]:
    """Return every place where a part stands in a text."""
    places, start = [], text.find(part) if part.strip() else -1
    while start >= 0:
        places.append((start, start + len(part)))
        start = text.find(part, start + 1)
    return places


_PARSERS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "answer": _answer,
    "knowledge": _knowledge,
    "verify": _verify,
    "rerank": _rerank,
    "read": _read,
}


# --- From the user's own documents ----------------------------------------------------------------


def own_rows(settings: Settings, role: str, *, most: int, seed: int) -> tuple[Rows, Rows]:
    """Return (train, dev) examples of a role, made from the collection in force.

    Questions are generated and kept only if they make the round trip; `knowledge` takes the texts
    as they are. All that comes from one document stays on one side.

    Args:
        settings: Name the collection, and the generator that asks.
        role: A key of `FORMATS`.
        most: Passages to ask about.
        seed: Of the choice of passages.

    Raises:
        UnknownCollection: There is no such collection.
        TrainingError: No question made the round trip.
    """
    from app.assembly import build_assistant, build_generator, build_verifier, open_searcher
    from model.training.questions import split_rows

    encoder, collection, searcher = open_searcher(settings)
    with collection:
        if role == "knowledge":
            return _own_texts(collection, seed)
        generator = build_generator(settings)
        assistant = build_assistant(
            settings, encoder=encoder, generator=generator, searcher=searcher
        )
        found = _round_trips(settings, generator, assistant, _passages(collection, most, seed))
        halves = split_rows(found, DEV_SHARE, seed) if len(found) >= LEAST_FOR_DEV else (found, [])
        train, dev = (
            _answers(part, searcher.search, build_verifier(settings, encoder), generator, seed)
            if role == "answer"
            else examples_of(role, part, searcher.search, seed)
            for part in halves
        )
    return Rows(tuple(train)), Rows(tuple(dev))


def _passages(collection: "Collection", most: int | None, seed: int) -> "list[Passage]":
    """Return chunks of a collection as passages, in a random order."""
    from retrieval.passages import Passage

    numbers = [int(number) for number in collection.rowids()]
    random.Random(seed).shuffle(numbers)
    chosen = numbers[:most]
    stored = collection.chunks_by_rowid(chosen)
    return [
        Passage(1, stored[number].chunk, stored[number].title, stored[number].uri, 1.0)
        for number in chosen
        if number in stored
    ]


def _own_texts(collection: "Collection", seed: int) -> tuple[Rows, Rows]:
    """Return the texts of all chunks; those of a tenth of the documents are for dev."""
    from model.training.tasks import Example

    passages = _passages(collection, None, seed)
    documents = sorted({passage.chunk.document_id for passage in passages})
    for_dev = set(split_dev(documents, seed)[1])
    sides: tuple[list[Any], list[Any]] = ([], [])
    for passage in passages:
        if passage.chunk.text.strip():
            sides[passage.chunk.document_id in for_dev].append(Example("", passage.chunk.text))
    if not sides[0]:
        raise TrainingError("the collection holds no text: ingest some documents first")
    return Rows(tuple(sides[0])), Rows(tuple(sides[1]))


def _round_trips(
    settings: Settings, generator: "Generator", assistant: "Assistant", passages: "list[Passage]"
) -> "list[QuestionRow]":
    """Return the questions about passages that are answered alike when asked again."""
    from app.assembly import build_generator, resolve_adapter
    from model.training.questions import from_documents

    asker = generator
    if resolve_adapter(settings):  # it is trained to answer, not to ask
        bare = replace(settings.generator, adapter="none")
        asker = build_generator(replace(settings, generator=bare))
    found = list(from_documents(passages, asker, assistant))
    if not found:
        raise TrainingError(
            f"no question about the {len(passages)} passages was answered the same way twice:"
            " ingest more, raise --questions, or give rows of your own with --data"
        )
    return found


def _answers(
    questions: "Sequence[QuestionRow]",
    search: "Search",
    verifier: "Verifier",
    generator: "Generator",
    seed: int,
) -> list[Any]:
    """Return prompts over searched passages with the answers that they support, or refusals."""
    if not questions:
        return []
    from model.training.questions import BuildOptions, build
    from model.training.tasks import Example

    made = build(
        questions,
        search=search,
        verifier=verifier,
        count_tokens=generator.count_tokens,
        most=3 * len(questions),
        options=BuildOptions(seed=seed),
    )
    return [Example(one.prompt, one.completion) for one in made]


def examples_of(
    role: str, questions: "Sequence[QuestionRow]", search: "Search", seed: int
) -> list[Any]:
    """Return the examples that questions with their passages give a head.

    Args:
        role: "verify", "rerank" or "read".
        questions: With the passage that answers each.
        search: Finds other passages for a question.
        seed: Of what is drawn.
    """
    if role == "verify":
        return _verify_pairs(questions, seed)
    from model.training.heads import RankExample, ReadExample

    examples: list[Any] = []
    for row in questions:
        found = search(row.question, top_k=2 * _NEGATIVES)
        others = [one.chunk.text for one in found if one.chunk.text != row.context]
        others = [text for text in others if not any(answer in text for answer in row.answers)]
        if role == "rerank":
            if others:
                negatives = tuple(others[:_NEGATIVES])
                examples.append(RankExample(row.question, row.context, negatives))
            continue
        places = [place for answer in row.answers for place in occurrences(row.context, answer)]
        if places:
            examples.append(ReadExample(row.question, row.context, tuple(places)))
        if others:  # a passage that looks right and does not say it
            examples.append(ReadExample(row.question, others[0], ()))
    return examples


def _verify_pairs(questions: "Sequence[QuestionRow]", seed: int) -> list[Any]:
    """Return as many supported as unsupported claims, about six pairs a question at most."""
    from itertools import islice

    from model.training import pairs
    from model.training.heads import VerifyExample

    rows = [
        pairs.QuestionRow(row.question, row.answers, row.context, row.language, row.group)
        for row in questions
    ]
    made = islice(pairs.build(rows, pairs.PairOptions(), seed), 6 * len(rows))
    return [VerifyExample(one.claim, one.evidence, bool(one.label)) for one in made]
