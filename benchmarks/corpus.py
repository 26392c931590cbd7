"""Folders of text files to ingest: passages of the public sets, or generated text of any size.

    corpus = write_passages(find_data(Path("../shared/data")), Path("build/corpus"), chunks=20_000)
    changed = change_files(corpus.files, share=0.01, seed=0)

Everything follows from a seed, so that a corpus can be thrown away and made again.
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.datasets import read_rows

FIELDS = ("context", "contexts", "text", "positive", "negative")  # of a row, that hold passages
BYTES_PER_CHUNK = 770  # of UTF-8, measured: a chunk of at most 200 tokens of these passages
CHUNKS_PER_FILE = 10
_SHORTEST = 150  # bytes; anything below is a sentence, not a passage


@dataclass(frozen=True, slots=True)
class Corpus:
    """Text files below one folder."""

    files: tuple[Path, ...]
    characters: int


def passages(data: Path) -> list[str]:
    """Return the distinct passages of all sets of a data folder, in the order of their files."""
    found: dict[str, None] = {}
    for path in sorted(data.glob("*/*.jsonl.gz")):
        for _, row in read_rows(path):
            found.update(dict.fromkeys(_passages_of(row)))
    return list(found)


def write_passages(data: Path, folder: Path, *, chunks: int, seed: int = 0) -> Corpus:
    """Write about so many chunks of passages, shuffled, several to a file, into a new folder.

    The estimate of chunks is from sizes alone; if the data hold less, everything is written.
    """
    texts = passages(data)
    random.Random(seed).shuffle(texts)
    _empty(folder)
    files: list[Path] = []
    characters = written = 0
    for number, members in enumerate(_groups(texts, CHUNKS_PER_FILE * BYTES_PER_CHUNK)):
        if written >= chunks * BYTES_PER_CHUNK:
            break
        text = "\n\n".join(members) + "\n"
        path = folder / f"{number // 100:03}" / f"{number:06}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        files.append(path)
        characters += len(text)
        written += len(text.encode())
    return Corpus(tuple(files), characters)


def change_files(files: Sequence[Path], *, share: float, seed: int = 0) -> list[Path]:
    """Add one sentence to the middle paragraph of a share of the files (at least one file)."""
    chosen = random.Random(seed).sample(list(files), max(1, round(share * len(files))))
    for number, path in enumerate(chosen):
        paragraphs = path.read_text(encoding="utf-8").split("\n\n")
        paragraphs[len(paragraphs) // 2] += f" Amended on day {number + 1}."
        path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return chosen


def write_generated(folder: Path, *, size: int, file_size: int = 1 << 20, seed: int = 0) -> Corpus:
    """Write at least `size` bytes of made-up words and ideographs, in files of `file_size`."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, length)) for length in rng.integers(2, 11, 20_000)]
    words += [chr(code) for code in range(0x4E00, 0x5E00)]
    _empty(folder)
    files: list[Path] = []
    characters = written = 0
    while written < size:
        sentences: list[str] = []
        room = min(file_size, size - written)
        while room > 0:
            chosen = rng.integers(0, len(words), 12)
            sentences.append(" ".join(map(words.__getitem__, chosen.tolist())) + ".")
            room -= len(sentences[-1].encode()) + 1
        text = "\n".join(sentences)
        path = folder / f"{len(files):06}.txt"
        path.write_text(text, encoding="utf-8")
        files.append(path)
        characters += len(text)
        written += len(text.encode()) + 1
    return Corpus(tuple(files), characters)


def _passages_of(row: dict[str, Any]) -> Iterator[str]:
    for name in FIELDS:
        value = row.get(name)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and len(text.encode("utf-8", "replace")) >= _SHORTEST:
                yield " ".join(text.encode("utf-8", "replace").decode().split())


def _groups(texts: Sequence[str], size: int) -> Iterator[list[str]]:
    """Yield neighbours that together have at least `size` bytes; the last ones may have less."""
    group: list[str] = []
    weight = 0
    for text in texts:
        group.append(text)
        weight += len(text.encode())
        if weight >= size:
            yield group
            group, weight = [], 0
    if group:
        yield group


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
