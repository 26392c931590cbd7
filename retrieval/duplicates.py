"""Near-duplicates: which stored document says what a new one says.

A text is the set of its shingles: runs of 5 words, or of 8 ideographs where these prevail, folded
in width, case, spaces and punctuation. MinHash (Broder 1997: 128 permutations from a fixed seed)
turns the set into 16 bands; two texts whose sets overlap by .9 share one with a probability above
.999. What shares a band is only a candidate: its similarity is the exact Jaccard coefficient of the
sets, and whether the new text says something new is decided sentence by sentence. Texts below 200
characters are too short for shingles: they are the same or they are not. Time is linear in the
text, memory about 12 bytes a word. Knows nothing of SQLite.
"""

import hashlib
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.languages import IDEOGRAPHS, split_sentences

SIMILAR = 0.9  # Jaccard coefficient from which texts count as similar
SHORT = 200  # characters

_PERMUTATIONS, _BANDS = 128, 16
_CANDIDATES = 3  # how many are compared in full: bounds the time where all documents look alike
_SLICE = 1 << 20  # characters folded at a time
_BLOCK = 256  # shingles permuted at a time: what fits into a processor's cache

_TOKEN = re.compile(rf"[{IDEOGRAPHS}]|[^\W_{IDEOGRAPHS}]+")
_IDEOGRAPH = re.compile(f"[{IDEOGRAPHS}]")
# Signs that say nothing; those between letters or before digits may ("3.5", ".5", "-5" and "5%").
_SILENT = re.compile(r"[.,;:!。、…]+(?!\w)")
_QUOTES = re.compile(r"(?<!\d)[\"'“”‘’]")  # after a digit they are feet and inches
_SPACE = re.compile(rf"(?<=[{IDEOGRAPHS}])\s+|\s+(?=[{IDEOGRAPHS}])")

_Hashes = NDArray[np.uint64]

_generator = np.random.Generator(np.random.PCG64(20260101))  # stored bands depend on it
_FACTORS = _generator.integers(2**63, size=(_PERMUTATIONS, 1), dtype=np.uint64) * 2 + 1
_TERMS = _generator.integers(2**63, size=(_PERMUTATIONS, 1), dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Similar:
    """A stored document that is similar to a new text."""

    document_id: str
    similarity: float  # Jaccard coefficient of the shingles, SIMILAR to 1
    says_all: bool  # every sentence of the new text stands in it, in the same order


def bands(text: str) -> list[int]:
    """Return the keys by which texts similar to this one are found, as signed 64-bit integers."""
    if len(text) < SHORT:
        folded = "\n".join(_sentences(text))
        return [_key(b"short", folded.encode("utf-8", "replace"))] if folded else []
    shingles = _shingles(text)
    if not len(shingles):
        return []
    smallest = np.full(_PERMUTATIONS, np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, len(shingles), _BLOCK):
        permuted = _FACTORS * shingles[start : start + _BLOCK]  # (permutations, block)
        permuted += _TERMS
        np.minimum(smallest, permuted.min(axis=1), out=smallest)
    rows = smallest.reshape(_BANDS, -1)  # (bands, 8)
    return [_key(b"%d" % number, row.astype("<u8").tobytes()) for number, row in enumerate(rows)]


def closest(
    text: str,
    keys: Iterable[int],
    holders: Callable[[int], Iterable[str]],
    text_of: Callable[[str], str],
) -> Similar | None:
    """Return the stored document most similar to a text, one that says all of it first, or None.

    Args:
        text: The new text.
        keys: Its `bands`.
        holders: Gives the ids of stored documents that have a band.
        text_of: Gives the text of one of these.
    """
    shared = Counter(found for key in keys for found in holders(key))
    found = []
    for document_id, _ in shared.most_common(_CANDIDATES):
        kept = text_of(document_id)
        measured = similarity(text, kept)
        if measured >= SIMILAR:
            found.append(Similar(document_id, measured, says_all(kept, text)))
            if found[-1].says_all:
                break
    return max(found, key=lambda one: (one.says_all, one.similarity), default=None)


def similarity(first: str, second: str) -> float:
    """Return the Jaccard coefficient of the shingles of two texts; 0 or 1 if one is short."""
    if min(len(first), len(second)) < SHORT:
        return float(list(_sentences(first)) == list(_sentences(second)))
    one, other = np.unique(_shingles(first)), np.unique(_shingles(second))
    common = len(np.intersect1d(one, other, assume_unique=True))
    union = len(one) + len(other) - common
    return common / union if union else 0.0


def says_all(kept: str, new: str) -> bool:
    """Return whether all sentences of `new` stand in `kept` in this order: nothing new is said.

    Only width, case, spaces, quotation marks and closing punctuation may differ. The order counts
    because lines such as "Ann", "5", "Bob", "7" say something else in another one.
    """
    sentences = _sentences(kept)
    return all(sentence in sentences for sentence in _sentences(new))  # goes on where it stopped


def _sentences(text: str) -> Iterator[str]:
    for start, end in split_sentences(text):
        folded = unicodedata.normalize("NFKC", text[start:end]).casefold()
        folded = _SPACE.sub("", " ".join(_SILENT.sub("", _QUOTES.sub("", folded)).split()))
        if folded:
            yield folded


def _shingles(text: str) -> _Hashes:
    """Return the hashes of all runs of 5 words or 8 ideographs, in their order."""
    parts, ideographs = [], 0
    for start in range(0, len(text), _SLICE):
        folded = unicodedata.normalize("NFKC", text[start : start + _SLICE]).casefold()
        tokens = _TOKEN.findall(folded)
        ideographs += sum(map(bool, map(_IDEOGRAPH.match, tokens)))
        encoded = (token.encode("utf-8", "replace") for token in tokens)
        parts.append(np.fromiter(map(zlib.crc32, encoded), dtype=np.uint32, count=len(tokens)))
    codes = np.concatenate(parts)
    width = min(8 if 2 * ideographs > len(codes) else 5, len(codes))
    hashes = np.zeros(max(len(codes) - width + 1, 0) if width else 0, dtype=np.uint64)
    for place in range(width):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[place : place + len(hashes)]
    return _mixed(hashes)


def _mixed(hashes: _Hashes) -> _Hashes:
    """Spread the hashes evenly over 64 bits (the finaliser of splitmix64)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _key(name: bytes, data: bytes) -> int:
    digest = hashlib.blake2b(data, digest_size=8, person=name).digest()
    return int.from_bytes(digest, "little", signed=True)
