"""Kill a process that writes a collection, again and again, and prove that nothing is lost.

A child works on the collection at random from a seed and writes a line before each operation and
one after it has been reported done. It is killed (SIGKILL) at a random moment. What the store
holds afterwards must be the state after the last operation reported done or, if one was under way,
the state after that one: never anything between. Then the next child goes on.

    kill_again_and_again(home, 100)
"""

import json
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from ingest.chunking import ChunkingOptions, split
from ingest.documents import Document, content_id
from ingest.pipeline import Item
from retrieval.encoders import HashingEncoder
from retrieval.index import DenseIndex
from retrieval.maintenance import check, reindex
from retrieval.store import TRUTH, Collection, open_collection
from retrieval.terms import index_terms, query_expression

NAME = "crash"
OPTIONS = ChunkingOptions(max_tokens=16)
OPERATIONS = (
    "add",
    "add",
    "add",
    "update",
    "update",
    "remove",
    "move",
    "save",
    "reindex",
    "compact",
)
URIS = [f"file:{number}" for number in range(12)]
FEW = 3  # documents of one call

index_terms("词典")  # loads the dictionary, once for all children: they are forked from here
split(  # and what cutting needs
    Document(content_id("Warm."), "", "", "Warm.", "mixed", "text/plain"), len, OPTIONS
)

State = dict[str, str]  # text by uri


@dataclass
class Outcome:
    """What was seen over all rounds."""

    kills: int = 0
    in_doubt: int = 0  # kills in the middle of an operation
    went_in: int = 0  # of these, how many were found done all the same
    operations: dict[str, int] = field(default_factory=dict)  # in which kind the kill fell


def text_of(number: int) -> str:
    """Return a text with words that no other has, of one to four chunks."""
    sentences = [
        f"唯一{number:06d} unique{number:06d}w{place} stands in sentence {place} of this text."
        for place in range(1 + number % 4)
    ]
    return " ".join(sentences)


def encoder_of(home: Path) -> HashingEncoder:
    """Return the encoder that the collection has now."""
    with closing(sqlite3.connect(home / "collections" / NAME / TRUTH)) as connection:
        query = "SELECT value FROM meta WHERE key = 'dimension'"
        return HashingEncoder(int(connection.execute(query).fetchone()[0]))


def item(collection: Collection, uri: str, text: str, moved_from: str = "") -> Item:
    """Make what a pipeline would hand over."""
    document = Document(content_id(text), uri, "", text, "mixed", "text/plain")
    chunks = split(document, collection.count_tokens, OPTIONS)
    return Item(uri, content_id(text), document, chunks, moved_from)


# The child


def work(home: Path, seed: int, log: Path) -> None:
    """Change the collection without end."""
    chance = random.Random(seed)
    with log.open("ab", buffering=0) as lines:

        def report(kind: str, put: Mapping[str, str], gone: Sequence[str], *, done: bool) -> None:
            line = {"kind": kind, "put": put, "gone": gone, "done": done}
            lines.write(json.dumps(line).encode() + b"\n")

        number = seed * 10_000
        while True:
            number += 10
            operate(home, chance, number, report)


def operate(home: Path, chance: random.Random, number: int, report: object) -> None:
    """Do one operation, and report it before and after."""
    assert callable(report)
    kind = chance.choice(OPERATIONS)
    encoder = encoder_of(home)
    if kind == "reindex":
        report(kind, {}, [], done=False)
        reindex(home, NAME, HashingEncoder(32 if encoder.identity.dimension == 64 else 64))
        report(kind, {}, [], done=True)
        return
    with open_collection(home, NAME, encoder) as collection:
        held = collection.uris()
        free = [uri for uri in URIS if uri not in held]
        put: State = {}
        gone: list[str] = []
        items: list[Item] = []
        if kind in ("add", "update"):
            pool = free if kind == "add" else held
            uris = chance.sample(pool, min(FEW, len(pool)))
            put = {uri: text_of(number + place) for place, uri in enumerate(uris)}
            items = [item(collection, uri, text) for uri, text in put.items()]
        elif kind == "remove":
            gone = chance.sample(held, min(FEW, len(held)))
        elif kind == "move" and held and free:
            old, new = chance.choice(held), chance.choice(free)
            document = collection.document_of(old)
            assert document is not None
            put, gone = {new: document.text}, [old]
            items = [item(collection, new, document.text, old)]
        report(kind, put, gone, done=False)
        if items:
            collection.add_all(items)
        elif gone:
            collection.remove_all(gone)
        elif kind == "save":
            DenseIndex(collection).save()
        elif kind == "compact":
            collection.compact()
        report(kind, put, gone, done=True)


# The parent


def kill_again_and_again(home: Path, kills: int, *, seed: int = 1, longest: float = 0.1) -> Outcome:
    """Run and kill children until `kills` of them died in the middle of their work.

    Args:
        home: An empty home folder.
        kills: How many to kill.
        seed: Of all chance, but for the moments that the machine itself makes different.
        longest: Seconds after which a child is killed at the latest.

    Raises:
        AssertionError: Something was lost, or half there, or found wrong.
    """
    chance = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.crash"])
    open_collection(home, NAME, HashingEncoder(), create=True).close()
    outcome, state = Outcome(), State()
    while outcome.kills < kills:
        log = home / f"log-{outcome.kills}"
        log.touch()
        child = context.Process(target=work, args=(home, seed * 1000 + outcome.kills, log))
        child.start()
        while not log.stat().st_size and child.is_alive():
            time.sleep(0.001)
        time.sleep(chance.uniform(0, longest))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL, f"the child ended by itself: {child.exitcode}"
        state = judge(home, state, log.read_bytes(), outcome)
        outcome.kills += 1
    return outcome


def judge(home: Path, state: State, log: bytes, outcome: Outcome) -> State:
    """Compare the store with what was reported, prove it sound, and return its state."""
    open_end: dict[str, object] | None = None
    met = set(state.values())  # the texts that may be there: all others went before, and were met
    after = state
    for line in log.splitlines():
        entry = json.loads(line)
        met.update(entry["put"].values())
        if entry["done"]:
            state, open_end = after, None
            continue
        open_end = entry
        after = {uri: text for uri, text in state.items() if uri not in entry["gone"]}
        after |= entry["put"]
    errors = [found for found in check(home, NAME) if found.severity == "error"]
    assert not errors, errors
    with open_collection(home, NAME, encoder_of(home)) as collection:
        found = {uri: collection.document_of(uri) for uri in collection.uris()}
        held = {uri: document.text for uri, document in found.items() if document is not None}
        assert held in (state, after), (open_end, state, held)
        prove_found(collection, held, met)
    if open_end is not None:
        kind = str(open_end["kind"])
        outcome.in_doubt += 1
        outcome.went_in += held == after != state
        outcome.operations[kind] = outcome.operations.get(kind, 0) + 1
    return held


def prove_found(collection: Collection, held: State, met: set[str]) -> None:
    """Every chunk of every document is found by its words and by its vector; no other is."""
    index = DenseIndex(collection)
    wanted = {
        (uri, chunk.start, chunk.end): chunk.text
        for uri, text in held.items()
        for chunk in item(collection, uri, text).chunks
    }
    assert collection.count_chunks() == len(wanted)
    stored = collection.chunks_by_rowid(collection.rowids().tolist())
    assert {(one.uri, one.chunk.start, one.chunk.end) for one in stored.values()} == set(wanted)
    rows = sorted(stored)
    vectors = collection.encoder.encode_queries([stored[row].chunk.text for row in rows])
    for row, vector in zip(rows, vectors, strict=True):
        best = dict(index.search(vector, top_k=len(rows)))
        assert best[row] >= max(best.values()) - 1e-5
    for text in met:
        words = [word for word in text.split() if word.startswith("unique")]
        matched = collection.match_terms(query_expression(words[0]), top_k=3)
        assert bool(matched) == (text in held.values()), text
