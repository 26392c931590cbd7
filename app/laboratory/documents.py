"""What a user's documents give an experiment: passages, texts to measure on, facts to ask about.

    passages = passages_of([Path("examples/knowledge")])
    rows, asked = made_questions(passages, settings, most=24, seed=0, say=print)
    rows = with_gaps(rows, passages, most=36, seed=0)

Passages are short, about as long as the articles about invented facts, so that these are searched
among their like, and so that training on a fact of a document costs no more than it must. Knows
nothing of arms, plans or reports.
"""

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.settings import Settings
from ingest.errors import UsageError

if TYPE_CHECKING:
    from model.generators import Generator
    from model.training.questions import QuestionRow

_WORDS = 60  # of a passage at most; a Chinese character counts as one
_MEASURED = 0.2  # of the passages are kept aside to measure text on
_LONGEST_ANSWER = {"en": 60, "zh": 24}  # characters; more are not said by heart

Say = Callable[[str], None]


def passages_of(paths: Sequence[Path]) -> list[str]:
    """Return the texts of all passages in documents, in the order of the files.

    Raises:
        UsageError: A path is missing, or there is too little text.
    """
    from ingest.chunking import ChunkingOptions
    from ingest.pipeline import run
    from retrieval.encoders import HashingEncoder
    from retrieval.store import open_collection

    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder; check the path.")
    with (
        tempfile.TemporaryDirectory(prefix="tether-frontier-") as folder,
        open_collection(Path(folder), "documents", HashingEncoder(), create=True) as collection,
    ):
        run(list(paths), collection, ChunkingOptions(max_tokens=_WORDS))
        numbers = [int(number) for number in collection.rowids()]
        stored = collection.chunks_by_rowid(numbers)
        found = [stored[number].chunk.text for number in sorted(stored)]
    texts = list(dict.fromkeys(text for text in found if text.strip()))
    if len(texts) < 2:
        raise UsageError(
            f"{', '.join(map(str, paths))}: {len(texts)} passages of text were found, and at least"
            " 2 are needed; give documents with text, such as examples/knowledge."
        )
    return texts


def parted(texts: Sequence[str], most: int) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return texts to measure on, by language, and the others.

    Every few passages of each language one is kept aside, so that both come from all documents.

    Args:
        texts: All passages.
        most: Texts of each language that are measured.
    """
    from ingest.languages import question_language

    every = round(1 / _MEASURED)
    languages: dict[str, list[str]] = {}
    for text in texts:
        languages.setdefault(question_language(text), []).append(text)
    aside = {
        language: tuple(own[::every][:most])
        for language, own in sorted(languages.items())
        if len(own) > 1
    }
    kept = {text for own in aside.values() for text in own}
    return aside, tuple(text for text in texts if text not in kept)


# --- Questions ------------------------------------------------------------------------------------


def given_questions(file: Path) -> "list[QuestionRow]":
    """Return a user's own questions about passages, in the format of rows for `read`.

    Raises:
        TrainingError: The file cannot be read, or a line is no such row.
    """
    from app.training.rows import read_rows
    from ingest.documents import content_id
    from ingest.languages import question_language
    from model.training.questions import QuestionRow

    return [
        QuestionRow(
            one.question,
            tuple(dict.fromkeys(one.passage[start:end] for start, end in one.answers)),
            one.passage,
            content_id(one.passage),
            question_language(one.question),
        )
        for one in read_rows(file, "read").examples
        if one.answers
    ]


def made_questions(
    passages: Sequence[str], settings: Settings, *, most: int, seed: int, say: Say
) -> "tuple[list[QuestionRow], int]":
    """Return questions about passages that make the round trip, and how many were asked about.

    The assistant that the settings describe asks and answers; see
    `model.training.questions.from_documents`.

    Args:
        passages: Texts.
        settings: Name the generator and the encoder.
        most: Passages that are asked about, and never more than half of all.
        seed: Of the choice of passages.
        say: Is told how it goes.
    """
    from app.assembly import build_assistant, build_encoder, build_generator, build_searcher
    from eval.injection.questions import collected
    from ingest.languages import question_language
    from model.training.questions import from_documents
    from retrieval.passages import Passage

    encoder = build_encoder(settings)
    texts = {text: question_language(text) for text in passages}
    with collected(texts, encoder) as collection:
        generator = build_generator(settings)
        searcher = build_searcher(settings, encoder, collection)
        assistant = build_assistant(
            settings, encoder=encoder, generator=generator, searcher=searcher
        )
        numbers = [int(number) for number in collection.rowids()]
        random.Random(seed).shuffle(numbers)
        stored = collection.chunks_by_rowid(numbers)
        chosen = [
            Passage(1, stored[number].chunk, stored[number].title, stored[number].uri, 1.0)
            for number in numbers[: min(most, _half(passages))]
        ]
        say(f"asking questions about {len(chosen)} passages of the documents")
        rows = from_documents(chosen, _asker(settings, generator), assistant)
        found = [row for row in rows if _can_be_learnt(row)]
    return found, len(chosen)


def with_gaps(
    rows: "Sequence[QuestionRow]", passages: Sequence[str], *, most: int, seed: int
) -> "list[QuestionRow]":
    """Return questions, and sentences with a gap about other passages until there are enough.

    Args:
        rows: Questions that there are.
        passages: Texts.
        most: Questions in all, about half of the passages at most, so that general text is left.
        seed: Of the choice of passages.
    """
    from eval.injection.gaps import gap_questions

    asked = {row.context for row in rows}
    others = [text for text in passages if text not in asked]
    random.Random(f"{seed}:gaps").shuffle(others)
    room = min(most, _half(passages)) - len(rows)
    return [*rows, *gap_questions(others)[: max(0, room)]]


def _half(passages: Sequence[str]) -> int:
    return (len(passages) + 1) // 2


def _asker(settings: Settings, generator: "Generator") -> "Generator":
    """Return the generator without its adapter, which is trained to answer and not to ask."""
    from app.assembly import build_generator, resolve_adapter

    if resolve_adapter(settings) is None:
        return generator
    bare = replace(settings.generator, adapter="none")
    return build_generator(replace(settings, generator=bare))


def _can_be_learnt(row: "QuestionRow") -> bool:
    """Return whether an answer is short, and not given away by its question."""
    answer = row.answers[0]
    return len(answer) <= _LONGEST_ANSWER[row.language] and answer.lower() not in (
        row.question.lower()
    )
