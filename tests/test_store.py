"""The truth: whole documents in, whole documents out, and errors that name the remedy."""

import itertools
import multiprocessing
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest import pipeline
from ingest.chunking import ChunkingOptions
from ingest.documents import Chunk, Document, Section, chunk_id, content_id
from ingest.errors import (
    DamagedStore,
    EncoderMismatch,
    SourceError,
    StoreBusy,
    StoreError,
    UnknownCollection,
    UsageError,
)
from retrieval.encoders import HashingEncoder
from retrieval.store import Collection, list_collections, open_collection
from retrieval.terms import index_terms, query_expression
from retrieval.writing import indexed_text

BRIDGE = "武汉长江大桥于1957年建成通车。\nIt carries trains and cars across the river."
TEA = "绿茶的冲泡温度是八十度。\nGreen tea is steeped at eighty degrees."


def document(text: str, uri: str = "file:a", title: str = "") -> tuple[Document, list[Chunk]]:
    """Return a document of one chunk per line."""
    identity = content_id(text)
    chunks = []
    start = 0
    for line in text.splitlines(keepends=True):
        end = start + len(line)
        chunks.append(Chunk(chunk_id(identity, start, end), identity, start, end, line, "H", 1))
        start = end
    made = Document(
        identity, uri, title, text, "mixed", "text/plain", {"author": "李"}, (Section(0, "H", 1),)
    )
    return made, chunks


def put(collection: Collection, uri: str, text: str, title: str = "") -> str:
    return collection.add(uri, "hash of " + text, *document(text, uri, title))


def matches(collection: Collection, query: str) -> list[str]:
    rows = collection.match_terms(query_expression(query), top_k=10)
    return [collection.chunks_by_rowid([rowid])[rowid].chunk.text for rowid, _ in rows]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "家 Größe"


@pytest.fixture
def collection(home: Path) -> Iterator[Collection]:
    with open_collection(home, "笔记 notes", HashingEncoder(), create=True) as opened:
        yield opened


def test_a_document_comes_back_as_it_went_in(collection: Collection) -> None:
    made, chunks = document(BRIDGE, "file:a", "桥")
    assert collection.add("file:a", "h1", made, chunks) == "added"
    assert collection.document(made.id) == made
    assert collection.document_of("file:a") == made
    assert collection.file_hash("file:a") == "h1"
    stored = collection.chunks_by_rowid(collection.rowids().tolist())
    assert [one.chunk for one in stored.values()] == chunks
    assert {(one.title, one.uri) for one in stored.values()} == {("桥", "file:a")}


def test_vectors_are_those_of_the_indexed_text(collection: Collection) -> None:
    put(collection, "file:a", BRIDGE, "桥")
    lines = BRIDGE.splitlines(keepends=True)
    expected = HashingEncoder().encode_passages([indexed_text("桥", "H", line) for line in lines])
    stored = collection.vectors(collection.rowids().tolist())
    assert stored.tolist() == expected.tolist()
    backwards = collection.vectors(collection.rowids().tolist()[::-1])
    assert backwards.tolist() == expected[::-1].tolist()


def test_what_is_unknown_is_none(collection: Collection) -> None:
    assert collection.file_hash("file:none") is None
    assert collection.document("0" * 64) is None
    assert collection.document_of("file:none") is None
    assert collection.chunks_by_rowid([7]) == {}
    assert collection.remove("file:none") is False


def test_equal_content_is_stored_once_and_leaves_with_its_last_source(
    collection: Collection,
) -> None:
    assert put(collection, "file:a", TEA) == "added"
    assert put(collection, "file:b", TEA) == "duplicate"
    assert (collection.count_documents(), collection.count_chunks()) == (1, 2)
    (info,) = collection.documents()
    assert info.uris == ("file:a", "file:b")
    assert (info.characters, info.chunks) == (len(TEA), 2)

    assert collection.remove("file:a") is True
    kept = collection.document_of("file:b")
    assert kept is not None
    assert kept.uri == "file:b"
    assert collection.remove("file:b") is True
    assert (collection.count_documents(), collection.count_chunks()) == (0, 0)
    assert matches(collection, "绿茶") == []
    assert len(collection.rowids()) == 0


def test_a_changed_source_replaces_its_document(collection: Collection) -> None:
    put(collection, "file:a", TEA)
    old_rows = set(collection.rowids().tolist())
    assert put(collection, "file:a", BRIDGE) == "updated"
    assert collection.document(content_id(TEA)) is None
    assert matches(collection, "绿茶 steeped") == []
    assert matches(collection, "大桥") == [BRIDGE.splitlines(keepends=True)[0]]
    assert old_rows.isdisjoint(collection.rowids().tolist())


def test_a_changed_source_leaves_the_document_to_its_other_source(collection: Collection) -> None:
    put(collection, "file:a", TEA)
    put(collection, "file:b", TEA)
    assert put(collection, "file:a", BRIDGE) == "updated"
    assert collection.count_documents() == 2
    assert put(collection, "file:a", TEA) == "duplicate"
    assert collection.count_documents() == 1


def test_a_shared_document_can_be_cut_anew(collection: Collection) -> None:
    """Other chunk sizes ingest all files again; equal files must not keep each other's chunks."""
    put(collection, "file:a", TEA)
    put(collection, "file:b", TEA)
    made, _ = document(TEA)
    whole = [Chunk(chunk_id(made.id, 0, len(TEA)), made.id, 0, len(TEA), TEA)]
    assert collection.add("file:c", "h2", made, whole) == "duplicate"
    assert collection.count_chunks() == 2
    assert collection.add("file:a", "h2", made, whole) == "updated"
    assert collection.add("file:b", "h2", made, whole) == "duplicate"
    assert matches(collection, "绿茶") == [TEA]
    assert collection.count_chunks() == len(collection.rowids()) == 1
    assert set(collection.documents()[0].uris) == {"file:a", "file:b", "file:c"}


def test_adding_the_same_again_keeps_one(collection: Collection) -> None:
    put(collection, "file:a", TEA, "old title")
    assert put(collection, "file:a", TEA, "new title") == "updated"
    (info,) = collection.documents()
    assert (info.title, info.chunks) == ("new title", 2)


def test_every_commit_has_a_generation_of_its_own(collection: Collection) -> None:
    seen = [collection.generation]
    put(collection, "file:a", TEA)
    seen.append(collection.generation)
    collection.remove("file:a")
    seen.append(collection.generation)
    assert collection.generation == seen[-1]
    assert len(set(seen)) == 3


@pytest.mark.parametrize("name", ["笔记", "My notes-1.2_b", "Größe", "数" * 85])
def test_good_names_are_listed(home: Path, name: str) -> None:
    with open_collection(home, name, HashingEncoder(), create=True) as opened:
        put(opened, "file:a", TEA)
    (info,) = list_collections(home)
    assert (info.name, info.documents, info.chunks, info.encoder) == (name, 1, 2, "hashing")
    assert info.bytes > 0
    assert info.problem == ""


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0", " a", "a.", "a\n", "a" * 101, "数" * 86],
)
def test_bad_names_are_refused(home: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a collection"):
        open_collection(home, name, HashingEncoder(), create=True)
    assert not home.exists()


def test_both_unicode_forms_of_a_name_are_one_collection(home: Path) -> None:
    open_collection(home, "Größe", HashingEncoder(), create=True).close()
    open_collection(home, "Gro\u0308ße", HashingEncoder()).close()


def test_an_unknown_collection_names_the_known_ones(home: Path, collection: Collection) -> None:
    with pytest.raises(
        UnknownCollection, match=r"笔记 notes.*tether ingest PATH --collection none"
    ):
        open_collection(home, "none", HashingEncoder())


def test_another_encoder_is_refused(home: Path, collection: Collection) -> None:
    with pytest.raises(EncoderMismatch, match=r"hashing.*new collection"):
        open_collection(home, "笔记 notes", HashingEncoder(dimension=32), create=True)


@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty", "no tables"])
def test_a_damaged_truth_is_named_and_listed(home: Path, damage: str) -> None:
    with open_collection(home, "c", HashingEncoder(), create=True) as opened:
        for number in range(30):
            put(opened, f"file:{number}", TEA * (number + 1))
    path = home / "collections" / "c" / "truth.sqlite3"
    whole = path.read_bytes()
    if damage == "no tables":
        path.unlink()
        sqlite3.connect(path).execute("CREATE TABLE other (x)").connection.close()
    else:
        kept = {"garbage": b"\xa5" * len(whole), "truncated": whole[:9000], "empty": b""}
        path.write_bytes(kept[damage])
    with pytest.raises(DamagedStore, match=r"truth\.sqlite3 is damaged.*move it away"):
        open_collection(home, "c", HashingEncoder(), create=True)
    (info,) = list_collections(home)
    assert "is damaged" in info.problem


def test_damage_met_later_is_named_too(home: Path) -> None:
    with open_collection(home, "c", HashingEncoder(), create=True) as opened:
        for number in range(200):
            put(opened, f"file:{number}", TEA + str(number))
    path = home / "collections" / "c" / "truth.sqlite3"
    whole = path.read_bytes()
    page = 4096
    path.write_bytes(whole[: 20 * page] + b"\xa5" * (len(whole) - 20 * page))
    with open_collection(home, "c", HashingEncoder()) as opened, pytest.raises(DamagedStore):
        opened.documents()
        opened.vectors(opened.rowids().tolist())


def test_a_full_disk_loses_nothing(collection: Collection) -> None:
    put(collection, "file:a", BRIDGE)
    generation = collection.generation
    with collection.writing() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match=r"disk is full.*free some space"):
        put(collection, "file:a", TEA * 1000)
    assert collection.document_of("file:a") == document(BRIDGE)[0]
    assert collection.generation == generation
    with collection.writing() as connection:
        connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
    assert put(collection, "file:a", TEA * 1000) == "updated"


def test_text_that_is_not_unicode_is_refused_whole(collection: Collection) -> None:
    put(collection, "file:a", BRIDGE)
    with pytest.raises(SourceError, match="not valid Unicode"):
        put(collection, "file:a", "half a pair: \ud800")
    assert collection.document_of("file:a") == document(BRIDGE)[0]


def _write_until_killed(home: Path, held: "multiprocessing.synchronize.Event") -> None:
    with open_collection(home, "c", HashingEncoder()) as opened, opened.writing():
        for number in itertools.count():
            put(opened, f"file:{number}", f"{BRIDGE} {number}")
            held.set()


def test_a_second_writer_is_refused_until_the_first_is_killed(home: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    with open_collection(home, "c", HashingEncoder(), create=True) as opened:
        other = context.Process(target=_write_until_killed, args=(home, held))
        other.start()
        try:
            assert held.wait(60)
            busy = pytest.raises(StoreBusy, match="another ingest is writing collection c; wait")
            with busy, opened.writing(patience=0.1):
                pass
            seen = opened.count_documents()  # reading is free
            assert seen >= 1
        finally:
            other.kill()
            other.join()
        assert put(opened, "file:a", TEA) == "added"  # a killed writer leaves no lock,
        assert opened.count_documents() > seen  # what it committed is there,
        assert {info.chunks for info in opened.documents()} == {2}  # and whole
        rowids = opened.rowids().tolist()
        assert len(opened.vectors(rowids)) == len(opened.chunks_by_rowid(rowids))
        found = opened.match_terms(query_expression("长江大桥 绿茶"), top_k=10_000)
        assert len(found) == opened.count_documents()


def test_a_reader_sees_whole_documents_only(home: Path, collection: Collection) -> None:
    put(collection, "file:a", TEA)
    with open_collection(home, "笔记 notes", HashingEncoder()) as reader:
        with collection.reading() as connection:  # one open transaction of the writer
            connection.execute("DELETE FROM sources")
            connection.execute("DELETE FROM documents")
            assert collection.count_chunks() == 0
            assert reader.count_chunks() == 2
            assert len(matches(reader, "绿茶 tea")) == 2
        assert reader.count_chunks() == 0


def test_one_state_stays_in_view_while_another_writes(home: Path, collection: Collection) -> None:
    put(collection, "file:a", TEA)
    with open_collection(home, "笔记 notes", HashingEncoder()) as reader:
        with reader.reading():
            before = reader.rowids().tolist()
            put(collection, "file:a", BRIDGE)
            assert reader.rowids().tolist() == before
            assert len(reader.chunks_by_rowid(before)) == 2
        assert reader.chunks_by_rowid(before) == {}


def test_threads_share_a_collection(collection: Collection) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                put(collection, f"file:{number}", f"{TEA}\n{number} {turn}")
                assert collection.document_of(f"file:{number}") is not None
                assert matches(collection, "绿茶")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert collection.count_documents() == 4


def test_it_is_the_sink_of_an_ingest(collection: Collection, tmp_path: Path) -> None:
    folder = tmp_path / "文件"
    folder.mkdir()
    (folder / "茶.txt").write_text(TEA, encoding="utf-8")
    (folder / "copy.txt").write_text(TEA, encoding="utf-8")
    options = ChunkingOptions()
    assert pipeline.run([folder], collection, options).counts["duplicate"] == 1
    assert pipeline.run([folder], collection, options).counts["unchanged"] == 2
    (folder / "茶.txt").write_text(BRIDGE, encoding="utf-8")
    assert pipeline.run([folder], collection, options).counts["updated"] == 1
    for rowid, stored in collection.chunks_by_rowid(collection.rowids().tolist()).items():
        source = collection.document(stored.chunk.document_id)
        assert source is not None
        assert source.text[stored.chunk.start : stored.chunk.end] == stored.chunk.text
        assert stored.rowid == rowid
    assert collection.count_documents() == 2


def test_terms_segment_chinese_and_keep_numbers() -> None:
    terms = index_terms(
        "武汉长江大桥 costs 1,000,000 yuan；Müller's version 3.14 ＡＢＣ don't"
    ).split()
    assert {"武汉", "长江", "大桥", "costs", "1000000", "yuan", "müller", "3.14"} <= set(terms)
    assert {"abc", "don"} <= set(terms)
    assert not {"s", "t"} & set(terms)


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("the bridge", '"bridge"'),
        ("大桥的长度", '"大桥" OR "长度"'),
        ("what is the", '"what" OR "is" OR "the"'),
        ("bridge Bridge", '"bridge"'),
        ("?! “”", ""),
        ('" OR NEAR(a b, 2) * ^ -', '"near" OR "b" OR "2"'),
    ],
)
def test_query_expressions(text: str, expression: str) -> None:
    assert query_expression(text) == expression


def test_english_is_stemmed_and_accents_do_not_matter(collection: Collection) -> None:
    put(collection, "file:a", "The trains were running to Zürich.")
    assert matches(collection, "run ZURICH") == ["The trains were running to Zürich."]
    assert matches(collection, "train") == ["The trains were running to Zürich."]


@pytest.mark.parametrize(
    "text",
    ['" OR NEAR( * ^', "terms:a", "a AND NOT b", "'); DROP TABLE chunks; --", "word " * 9000],
)
def test_no_query_text_breaks_the_search(collection: Collection, text: str) -> None:
    put(collection, "file:a", TEA)
    many = text + " ".join(f"w{number}" for number in range(3000))
    for query in (text, many, text + " 绿茶"):
        expression = query_expression(query)
        found = collection.match_terms(expression, top_k=5)
        assert len(found) == ("绿茶" in query)
    assert collection.count_chunks() == 2
