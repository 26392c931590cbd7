"""What a training command learns from: a file, a collection, or people's feedback.

Knows which one was named, and how to split and keep what is made of it; `app.training.rows` knows
how rows look.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.training.options import Wanted

if TYPE_CHECKING:
    from app.training.rows import Rows
    from model.feedback import PreferencePair


def rows_of(wanted: Wanted) -> "tuple[Rows, Rows]":
    """Return (train, dev) rows from the file or the collection that was named; say their counts.

    Raises:
        UsageError: Not one of the two is named.
        TrainingError: A row is damaged, or there is none.
    """
    from app.training.rows import Rows, own_rows, read_rows
    from ingest.errors import UsageError

    chosen = wanted.options
    sources = [chosen["data"], chosen["collection"], chosen.get("from_feedback") or None]
    if sum(source is not None for source in sources) != 1:
        last = " or --from-feedback" if "from_feedback" in chosen else ""
        raise UsageError(f"give --data FILE, or --collection NAME{last}: exactly one of them")
    if chosen.get("from_feedback"):
        train, dev = _corrections(wanted)
    elif chosen["data"] is not None:
        read = read_rows(chosen["data"], wanted.role)
        train, dev = (read, Rows(())) if chosen["dev"] else _split(read, chosen["seed"])
    else:
        train, dev = _kept(wanted, lambda: own_rows(
            wanted.settings, wanted.role, most=chosen.get("questions", 0), seed=chosen["seed"]
        ))  # fmt: skip
    if chosen["dev"] is not None:
        dev = read_rows(chosen["dev"], wanted.role)
    return train, dev


def _split(rows: "Rows", seed: int) -> "tuple[Rows, Rows]":
    """Return (train, dev) rows."""
    from app.training.rows import Rows, split_dev

    train, dev = split_dev(rows.examples, seed)
    return Rows(tuple(train), rows.without_answer), Rows(tuple(dev))


def _corrections(wanted: Wanted) -> "tuple[Rows, Rows]":
    """Return (train, dev) rows of what people corrected and praised.

    Raises:
        TrainingError: They did neither.
    """
    from app.training.rows import Rows
    from ingest.errors import TrainingError
    from model.feedback import FeedbackStore, supervised_examples

    with FeedbackStore(wanted.settings.home) as store:
        examples = supervised_examples(store.entries())
    if not examples:
        raise TrainingError(
            "there is no correction and no praise to learn from: give some with tether feedback add"
        )
    return _split(Rows(tuple(examples)), wanted.options["seed"])


def _kept(wanted: Wanted, make: "Callable[[], tuple[Rows, Rows]]") -> "tuple[Rows, Rows]":
    """Return rows that were made for this run before, else make and keep them."""
    from app.training.rows import Rows, read_rows, write_rows
    from model.training.checkpoints import write_text

    told = {key: wanted.options.get(key) for key in ("collection", "questions", "seed")}
    label = json.dumps(told | {"role": wanted.role})
    files = [wanted.run / f"{part}.jsonl" for part in ("train", "dev")]
    note = wanted.run / "rows.json"
    if note.is_file() and note.read_text("utf-8") == label:
        train, dev = (
            read_rows(file, wanted.role) if file.stat().st_size else Rows(()) for file in files
        )
        return train, dev
    made = make()
    for file, rows in zip(files, made, strict=True):
        write_rows(file, rows.examples)
    write_text(note, label)  # last: it vouches for the others
    return made


def texts_of(wanted: Wanted) -> list[str]:
    """Return the texts to pretrain on: of a file, or the documents of a collection.

    Raises:
        UsageError: Not one of the two is named.
    """
    from app.training.rows import read_texts
    from ingest.errors import UsageError

    chosen = wanted.options
    if (chosen["data"] is None) == (chosen["collection"] is None):
        raise UsageError("give --data FILE or --collection NAME: exactly one of them")
    if chosen["data"] is not None:
        return read_texts(chosen["data"])
    from app.assembly import open_searcher

    with open_searcher(wanted.settings)[1] as collection:
        found = [collection.document(info.id) for info in collection.documents()]
    return [document.text for document in found if document is not None]


def preference_pairs_of(wanted: Wanted) -> "tuple[list[PreferencePair], list[PreferencePair]]":
    """Return (train, dev) pairs of a better and a worse answer, out of people's feedback.

    Raises:
        TrainingError: There is none.
    """
    from app.training.rows import split_dev
    from ingest.errors import TrainingError
    from model.feedback import FeedbackStore, preference_pairs

    with FeedbackStore(wanted.settings.home) as store:
        pairs = preference_pairs(store.entries())
    if not pairs:
        raise TrainingError(
            "no answer is preferred to another yet: give corrections with tether feedback add"
        )
    return split_dev(pairs, wanted.options["seed"])
