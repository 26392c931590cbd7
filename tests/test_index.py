"""The FAISS snapshot: never trusted, always replaceable, always equal to the truth."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ingest.documents import Chunk, Document, chunk_id, content_id
from retrieval.encoders import HashingEncoder
from retrieval.index import DenseIndex
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


def _flip_byte(directory: Path) -> None:
    data = bytearray((directory / "index.faiss").read_bytes())
    data[-9] ^= 0xFF
    (directory / "index.faiss").write_bytes(data)


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
    "index gone": lambda directory: (directory / "index.faiss").unlink(),
    "index empty": _overwrite("index.faiss", b""),
    "index truncated": _overwrite("index.faiss", b"IxM2"),
    "one byte flipped": _flip_byte,
    "manifest gone": lambda directory: (directory / "manifest.json").unlink(),
    "manifest no JSON": _overwrite("manifest.json", b"\xff{"),
    "manifest a list": _overwrite("manifest.json", b"[]"),
    "other generation": _claim("generation", "0" * 32),
    "other weights": _claim("weights_hash", "0" * 64),
    "other dimension": _claim("dimension", 32),
    "other row count": _claim("rows", 3),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_anything_else_is_rebuilt_with_equal_results(
    collection: Collection, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    sound = nearest(DenseIndex(collection))
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
        for name in ("index.faiss", "manifest.json"):
            (other.directory / name).write_bytes((collection.directory / name).read_bytes())
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
    (collection.directory / "index.faiss.new").mkdir()  # in the way of the temporary file
    assert len(nearest(DenseIndex(collection))) == len(TEXTS)
    assert "was not saved" in caplog.text


def test_a_crash_between_the_two_files_is_noticed(collection: Collection) -> None:
    index = DenseIndex(collection)
    manifest = (collection.directory / "manifest.json").read_bytes()
    put(collection, "file:new", "green tea 绿茶")
    index.save()
    (collection.directory / "manifest.json").write_bytes(manifest)  # the new one never came
    assert nearest(DenseIndex(collection)) == nearest(index)


def test_hashing_encoder_is_deterministic_and_unit_length() -> None:
    encoder = HashingEncoder()
    vectors = encoder.encode_passages(["绿茶 tea", "", "？！"])
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors[:1] == HashingEncoder().encode_queries(["绿茶 TEA"])).all()
    assert encoder.count_tokens("绿茶 green tea") == 4
    assert HashingEncoder(32).identity != encoder.identity
