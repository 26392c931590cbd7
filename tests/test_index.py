"""The FAISS snapshot: never trusted, always replaceable, always equal to the truth."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from ingest.documents import Chunk, Document, chunk_id, content_id
from retrieval import index as index_module
from retrieval.encoders import HashingEncoder, Vectors
from retrieval.index import CLUSTERED, DenseIndex, read_manifest, verify
from retrieval.store import Collection, open_collection

TEXTS = ["绿茶的冲泡温度", "武汉长江大桥", "steeping green tea", "a bridge over the river", "火车"]


def put(collection: Collection, uri: str, text: str) -> None:
    identity = content_id(text)
    chunk = Chunk(chunk_id(identity, 0, len(text)), identity, 0, len(text), text)
    made = Document(identity, uri, "", text, "und", "text/plain")
    collection.add(uri, identity, made, [chunk])


def nearest(index: DenseIndex, query: str = "green tea 绿茶") -> list[tuple[int, float]]:
    return index.search(HashingEncoder().encode_queries([query])[0], top_k=10)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "家"


@pytest.fixture
def collection(home: Path) -> Iterator[Collection]:
    with open_collection(home, "笔记", HashingEncoder(), create=True) as opened:
        for number, text in enumerate(TEXTS):
            put(opened, f"file:{number}", text)
        yield opened


def test_it_finds_the_cosines_of_brute_force(collection: Collection) -> None:
    query = HashingEncoder().encode_queries(["green tea"])[0]
    rowids = collection.rowids().tolist()
    cosines = collection.vectors(rowids) @ query
    expected = dict(zip(rowids, cosines.tolist(), strict=True))
    found = DenseIndex(collection).search(query, top_k=3)
    assert dict(found) == pytest.approx({rowid: expected[rowid] for rowid, _ in found}, abs=1e-6)
    best = sorted(expected.values(), reverse=True)[:3]
    assert [score for _, score in found] == pytest.approx(best, abs=1e-6)


def test_an_empty_collection_finds_nothing(home: Path) -> None:
    with open_collection(home, "empty", HashingEncoder(), create=True) as opened:
        assert nearest(DenseIndex(opened)) == []
        assert nearest(DenseIndex(opened)) == []  # from its snapshot


def test_a_sound_snapshot_is_loaded_and_not_rebuilt(
    collection: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    first = nearest(DenseIndex(collection))
    caplog.set_level(logging.INFO, "retrieval.index")
    caplog.clear()
    assert nearest(DenseIndex(collection)) == first
    assert caplog.messages == []
    manifest = json.loads((collection.directory / "manifest.json").read_text())
    assert manifest["rows"] == len(TEXTS)
    assert manifest["generation"] == collection.generation
    assert manifest["encoder"] == "hashing"


def snapshot(directory: Path) -> Path:
    """Return the one snapshot there is."""
    (path,) = directory.glob("index-*.faiss")
    return path


def _flip_byte(directory: Path) -> None:
    data = bytearray(snapshot(directory).read_bytes())
    data[-9] ^= 0xFF
    snapshot(directory).write_bytes(data)


def _claim(key: str, value: object) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        manifest = json.loads((directory / "manifest.json").read_text())
        manifest[key] = value
        (directory / "manifest.json").write_text(json.dumps(manifest))

    return change


def _overwrite(name: str, data: bytes) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        (directory / name).write_bytes(data)

    return change


DAMAGES: dict[str, Callable[[Path], None]] = {
    "index gone": lambda directory: snapshot(directory).unlink(),
    "index empty": lambda directory: os.truncate(snapshot(directory), 0),
    "index truncated": lambda directory: os.truncate(snapshot(directory), 100),
    "one byte flipped": _flip_byte,
    "manifest gone": lambda directory: (directory / "manifest.json").unlink(),
    "manifest no JSON": _overwrite("manifest.json", b"\xff{"),
    "manifest a list": _overwrite("manifest.json", b"[]"),
    "other generation": _claim("generation", "0" * 32),
    "other weights": _claim("weights_hash", "0" * 64),
    "other dimension": _claim("dimension", 32),
    "other row count": _claim("rows", 3),
    "rows a text": _claim("rows", "5"),
    "codes of an older version": _claim("kind", "clustered"),
    "a file elsewhere": _claim("file", "../index-" + "0" * 32 + ".faiss"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_anything_else_is_rebuilt_with_equal_results(
    collection: Collection, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    sound = nearest(DenseIndex(collection))
    assert verify(collection.directory) == []
    DAMAGES[damage](collection.directory)
    caplog.set_level(logging.INFO, "retrieval.index")
    assert nearest(DenseIndex(collection)) == sound
    assert "rebuilt" in caplog.text
    caplog.clear()
    assert nearest(DenseIndex(collection)) == sound  # and the rebuilt one was saved
    assert caplog.messages == []


def test_the_snapshot_of_another_collection_is_not_taken(
    home: Path, collection: Collection
) -> None:
    """Same encoder, same number of rows, same row numbers: only the generation differs."""
    DenseIndex(collection)
    with open_collection(home, "other", HashingEncoder(), create=True) as other:
        for number, text in enumerate(reversed(TEXTS)):
            put(other, f"file:{number}", text)
        sound = nearest(DenseIndex(other))
        for path in (snapshot(collection.directory), collection.directory / "manifest.json"):
            (other.directory / path.name).write_bytes(path.read_bytes())
        assert nearest(DenseIndex(other)) == sound


def test_a_long_lived_index_follows_another_writer(home: Path, collection: Collection) -> None:
    index = DenseIndex(collection)
    before = nearest(index)
    with open_collection(home, "笔记", HashingEncoder()) as writer:
        put(writer, "file:0", "乌龙茶")  # a changed source
        put(writer, "file:new", "green tea 绿茶")
        writer.remove("file:4")
    after = nearest(index)
    assert after[0][1] == pytest.approx(1.0)
    assert len(after) == len(before)
    gone = {rowid for rowid, _ in before} - {rowid for rowid, _ in after}
    assert len(gone) == 2
    assert after == nearest(DenseIndex(collection))  # equal to a rebuild


def test_equal_vectors_rank_by_row_number(home: Path) -> None:
    with open_collection(home, "ties", HashingEncoder(), create=True) as opened:
        for number in range(5):
            put(opened, f"file:{number}", "tea " + "。" * number)  # one vector, five texts
        found = nearest(DenseIndex(opened), "tea")
        assert [rowid for rowid, _ in found] == sorted(rowid for rowid, _ in found)
        assert len({score for _, score in found}) == 1


def test_an_index_that_cannot_be_saved_still_works(
    collection: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    (collection.directory / "manifest.json.new").mkdir()  # in the way of the temporary file
    assert len(nearest(DenseIndex(collection))) == len(TEXTS)
    assert "was not saved" in caplog.text


def test_a_crash_between_the_two_files_is_noticed(collection: Collection) -> None:
    index = DenseIndex(collection)
    manifest = (collection.directory / "manifest.json").read_bytes()
    put(collection, "file:new", "green tea 绿茶")
    index.rebuild()
    (collection.directory / "manifest.json").write_bytes(manifest)  # the new one never came
    assert nearest(DenseIndex(collection)) == nearest(index)


@pytest.fixture
def follows_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a snapshot of few rows be behind the truth after four changes."""
    monkeypatch.setattr(index_module, "CHANGED_ROWS", 3)


def test_an_index_far_behind_is_saved_and_the_log_forgotten(
    home: Path, collection: Collection, follows_soon: None
) -> None:
    index = DenseIndex(collection)
    other = DenseIndex(collection)
    old = snapshot(collection.directory)
    put(collection, "file:a", "green tea 绿茶")
    index.save()
    assert snapshot(collection.directory) == old  # one row is no reason
    for number in range(5):
        put(collection, f"file:more {number}", f"more tea {number}")
    first = read_manifest(collection.directory)
    index.save()
    assert not old.exists()
    manifest = read_manifest(collection.directory)
    assert first is not None and manifest is not None
    assert manifest.rows == len(TEXTS) + 6 == len(index)
    assert collection.changes_since(first.generation) is None
    assert nearest(other) == nearest(index)  # from the new file, for the log has lost the old one
    assert nearest(DenseIndex(collection)) == nearest(index)


def test_a_snapshot_too_far_behind_is_replaced_and_not_followed(
    collection: Collection, follows_soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "retrieval.index")
    reader = DenseIndex(collection)
    caplog.clear()
    for number in range(12):
        put(collection, f"file:more {number}", f"more tea {number}")
    assert nearest(reader) and "rebuilt" not in caplog.text  # they are still few enough
    put(collection, "file:last", "green tea 绿茶")
    assert nearest(reader)[0][1] == pytest.approx(1.0)
    assert "rebuilt" in caplog.text
    manifest = read_manifest(collection.directory)
    assert manifest is not None and manifest.rows == len(TEXTS) + 13
    assert nearest(DenseIndex(collection)) == nearest(reader)


def test_a_search_takes_up_the_snapshot_of_another_process(
    home: Path, collection: Collection, follows_soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    reader = DenseIndex(collection)
    with open_collection(home, "笔记", HashingEncoder()) as writer:
        writing = DenseIndex(writer)
        for number in range(6):
            put(writer, f"file:more {number}", f"more tea {number}")
        writer.remove("file:0")
        writing.save()
        expected = nearest(writing)
    caplog.set_level(logging.INFO, "retrieval.index")
    assert nearest(reader) == expected
    assert "rebuilt" not in caplog.text


@pytest.mark.parametrize("clear", [DenseIndex.rebuild, DenseIndex.forget_removed])
def test_what_was_removed_leaves_the_files(
    collection: Collection, clear: Callable[[DenseIndex], None]
) -> None:
    secret = HashingEncoder().encode_passages(["武汉长江大桥"])[0].astype("<f4").tobytes()
    index = DenseIndex(collection)
    assert secret in snapshot(collection.directory).read_bytes()
    collection.remove("file:1")
    found = [rowid for rowid, _ in nearest(index, "武汉长江大桥")]
    assert len(found) == len(TEXTS) - 1
    clear(index)
    assert secret not in snapshot(collection.directory).read_bytes()
    assert [rowid for rowid, _ in nearest(index, "武汉长江大桥")] == found


def test_what_a_killed_writer_left_is_removed(collection: Collection) -> None:
    for name in ("index.faiss", "index-1.faiss.new"):  # the first is of an older version
        (collection.directory / name).write_bytes(b"half")
    DenseIndex(collection)
    snapshot(collection.directory)
    assert not list(collection.directory.glob("*.new"))
    assert not (collection.directory / "index.faiss").exists()


def test_verify_names_each_damage(collection: Collection) -> None:
    assert verify(collection.directory) == []  # none yet: the next search makes one
    DenseIndex(collection)
    assert verify(collection.directory) == []
    sound = snapshot(collection.directory).read_bytes()
    _flip_byte(collection.directory)
    assert "was changed or cut" in verify(collection.directory)[0]
    snapshot(collection.directory).write_bytes(sound)
    assert verify(collection.directory) == []
    snapshot(collection.directory).unlink()
    assert "cannot be read" in verify(collection.directory)[0]
    (collection.directory / "manifest.json").write_bytes(b"{")
    assert verify(collection.directory) == ["manifest.json cannot be read"]


class Topics(HashingEncoder):
    """A stub whose vectors are clustered: a text "topic number" lies near the topic's centre."""

    def encode_passages(self, texts: list[str]) -> Vectors:
        vectors = []
        for text in texts:
            topic, number = (int(part) for part in text.split())
            centre = np.random.default_rng(topic).normal(size=64)
            vectors.append(centre + 0.7 * np.random.default_rng([topic, number]).normal(size=64))
        made = np.array(vectors)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return made.astype(np.float32)

    encode_queries = encode_passages


@pytest.fixture
def topics(home: Path) -> Iterator[Collection]:
    """Return 3,000 chunks in one document, of 60 topics."""
    with open_collection(home, "topics", Topics(), create=True) as opened:
        texts = [f"{number % 60} {number}" for number in range(3000)]
        identity, start, chunks = content_id("\n".join(texts)), 0, []
        for text in texts:
            end = start + len(text)
            chunks.append(Chunk(chunk_id(identity, start, end), identity, start, end, text))
            start = end + 1
        made = Document(identity, "", "", "\n".join(texts), "und", "text/plain")
        opened.add("file:topics", identity, made, chunks)
        yield opened


def test_a_clustered_index_finds_what_exact_search_finds(topics: Collection) -> None:
    exact, clustered = DenseIndex(topics), DenseIndex(topics, exact_rows=100)
    clustered.rebuild()  # it had opened the exact one
    manifest = read_manifest(topics.directory)
    assert manifest is not None and manifest.kind == CLUSTERED
    assert manifest.size < 64 * 3000  # less than a byte a dimension
    reopened = DenseIndex(topics)
    overlap = []
    for number in range(100):
        query = topics.encoder.encode_queries([f"{number % 60} {10_000 + number}"])[0]
        expected = dict(exact.search(query, top_k=10))
        found = dict(reopened.search(query, top_k=10))
        assert found == dict(clustered.search(query, top_k=10))
        both = found.keys() & expected.keys()
        assert all(found[rowid] == expected[rowid] for rowid in both)  # cosines are exact
        overlap.append(len(both) / 10)
    assert np.mean(overlap) >= 0.98


def test_a_clustered_index_follows_what_comes_and_goes(topics: Collection) -> None:
    DenseIndex(topics, exact_rows=100).rebuild()
    index = DenseIndex(topics, exact_rows=100)
    put(topics, "file:new", "7 7000")
    query = topics.encoder.encode_queries(["7 7000"])[0]
    before = index.search(query, top_k=5)
    assert before[0][1] == pytest.approx(1.0)
    topics.remove("file:topics")
    assert index.search(query, top_k=5) == before[:1]


def test_removed_rows_leave_a_clustered_snapshot_without_new_clusters(
    topics: Collection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(topics, "file:gone", "9 9000")
    gone = int(topics.rowids()[-1])
    DenseIndex(topics, exact_rows=100).rebuild()
    put(topics, "file:new", "7 7000")
    topics.remove("file:gone")
    caplog.set_level(logging.INFO, "retrieval.index")
    index = DenseIndex(topics, exact_rows=100)
    index.forget_removed()
    manifest = read_manifest(topics.directory)
    assert manifest is not None
    assert (manifest.generation, manifest.rows) == (topics.generation, 3001)
    assert (manifest.kind, manifest.patched) == (CLUSTERED, 2)
    assert gone not in faiss_numbers(topics.directory / manifest.file)
    query = topics.encoder.encode_queries(["7 7000"])[0]
    assert index.search(query, top_k=5) == DenseIndex(topics).search(query, top_k=5)
    assert index.search(query, top_k=1)[0][1] == pytest.approx(1.0)
    assert verify(topics.directory) == []
    index.forget_removed()  # nothing has gone since: the file stays
    assert read_manifest(topics.directory) == manifest
    assert "rebuilt" not in caplog.text
    monkeypatch.setattr(index_module, "CHANGED_ROWS", 2)
    monkeypatch.setattr(index_module, "CHANGED_SHARE", 0.0)
    topics.remove("file:new")  # the third change: many small ones make new clusters, too
    index.forget_removed()
    manifest = read_manifest(topics.directory)
    assert manifest is not None and (manifest.rows, manifest.patched) == (3000, 0)


def faiss_numbers(path: Path) -> set[int]:
    """Return the row numbers that stand in a clustered index file."""
    index: Any = faiss.read_index(str(path))  # it owns its lists
    lists = index.invlists
    parts = [
        faiss.rev_swig_ptr(lists.get_ids(one), lists.list_size(one)).tolist()
        for one in range(lists.nlist)
        if lists.list_size(one)
    ]
    return {number for part in parts for number in part}


def test_hashing_encoder_is_deterministic_and_unit_length() -> None:
    encoder = HashingEncoder()
    vectors = encoder.encode_passages(["绿茶 tea", "", "？！"])
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors[:1] == HashingEncoder().encode_queries(["绿茶 TEA"])).all()
    assert encoder.count_tokens("绿茶 green tea") == 4
    assert HashingEncoder(32).identity != encoder.identity
