"""The truth: whole documents in, whole documents out, and errors that name the remedy."""

import itertools
import multiprocessing
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ingest import pipeline
from ingest.chunking import ChunkingOptions
from ingest.documents import TITLE_FROM_NAME, Chunk, Document, Section, chunk_id, content_id
from ingest.errors import (
    DamagedStore,
    EncoderMismatch,
    SourceError,
    StoreBusy,
    StoreError,
    UnknownCollection,
    UsageError,
)
from ingest.pipeline import Item, Kept
from retrieval import writing
from retrieval.encoders import HashingEncoder, Vectors
from retrieval.store import Collection, list_collections, open_collection
from retrieval.terms import index_terms, query_expression
from retrieval.writing import embedded_text, indexed_text

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


def test_long_titles_and_headings_leave_room_for_the_text(
    counted: tuple[Collection, list[int]],
) -> None:
    collection, calls = counted
    made, chunks = document(BRIDGE, title="T" * 5000)
    heading = "a paragraph styled as a heading " * 100
    chunks = [replace(chunk, heading=heading) for chunk in chunks]
    collection.add("file:a", "h1", made, chunks)
    embedded = embedded_text(made, chunks[0])
    assert embedded.endswith(chunks[0].text) and len(embedded) < len(chunks[0].text) + 310
    collection.add("file:a", "h2", replace(made, language="zh"), chunks)
    assert calls == [2]  # chunks are known again by what was embedded of them
    check(collection)


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


def test_the_log_of_a_truth_that_was_taken_away_brings_nothing_back(home: Path) -> None:
    with open_collection(home, "c", HashingEncoder(), create=True) as opened:
        put(opened, "file:a", TEA)
        log = opened.directory / "truth.sqlite3-wal"
        committed = log.read_bytes()
        assert committed
    (opened.directory / "truth.sqlite3").unlink()
    log.write_bytes(committed)
    with open_collection(home, "c", HashingEncoder(), create=True) as made:
        assert made.uris() == []
        assert matches(made, "tea") == []


def test_an_unknown_collection_names_the_known_ones(home: Path, collection: Collection) -> None:
    with pytest.raises(
        UnknownCollection, match=r"笔记 notes.*tether ingest PATH --collection none"
    ):
        open_collection(home, "none", HashingEncoder())


def test_another_encoder_is_refused(home: Path, collection: Collection) -> None:
    with pytest.raises(
        EncoderMismatch, match=r"hashing.*tether reindex --collection 笔记 notes --encoder"
    ):
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
    with pytest.raises(
        DamagedStore, match=r"truth\.sqlite3 is damaged.*tether rebuild --collection c"
    ):
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


def test_a_bad_item_is_refused_before_anything_is_embedded(home: Path) -> None:
    encoder = CountingEncoder()
    with open_collection(home, "c", encoder, create=True) as opened:
        generation = opened.generation
        good, bad = (Item(uri, "hash", *document(TEA, uri)) for uri in ("file:a", "file:b"))
        titled = replace(bad, document=replace(bad.document, title="half a pair: \ud800"))
        with pytest.raises(SourceError, match="not valid Unicode"):
            opened.add_all([good, replace(good), titled])  # one source twice: two transactions
        assert opened.generation == generation
        assert encoder.calls == []
        assert [kept.status for kept in opened.add_all([good])] == ["added"]


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
            busy = pytest.raises(StoreBusy, match="another program is writing collection c; wait")
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


class CountingEncoder(HashingEncoder):
    """Counts what it encodes, and fails from a given call on."""

    def __init__(self, fails_at: int = 0) -> None:
        super().__init__()
        self.calls: list[int] = []
        self._fails_at = fails_at

    def encode_passages(self, texts: list[str]) -> Vectors:
        if len(self.calls) + 1 == self._fails_at:
            raise RuntimeError("the power went")
        self.calls.append(len(texts))
        return super().encode_passages(texts)


@pytest.fixture
def counted(home: Path) -> Iterator[tuple[Collection, list[int]]]:
    encoder = CountingEncoder()
    with open_collection(home, "counted", encoder, create=True) as opened:
        yield opened, encoder.calls


def item(uri: str, text: str, title: str = "", moved_from: str = "", **metadata: str) -> Item:
    made, chunks = document(text, uri, title)
    made = replace(made, metadata=metadata)
    return Item(uri, "hash of " + text, made, chunks, moved_from)


def lines(count: int, first: int = 0) -> str:
    """Return lines of which no two are similar."""
    return "\n".join(f"line {number} of {number * number}" for number in range(first, count))


LONG = "".join(
    f"Sentence {number} says that {number * 7} of {number**2} things went to box {number + 3}.\n"
    for number in range(30)
)


def check(collection: Collection) -> None:
    """Every chunk has the right text, vector and terms, and every document a source."""
    with collection.reading() as connection:
        for rowid in collection.rowids().tolist():
            stored = collection.chunks_by_rowid([rowid])[rowid]
            source = collection.document(stored.chunk.document_id)
            assert source is not None
            assert source.text[stored.chunk.start : stored.chunk.end] == stored.chunk.text
            text = embedded_text(source, stored.chunk)
            expected = collection.encoder.encode_passages([text])
            assert collection.vectors([rowid]).tolist() == expected.tolist()
            words = connection.execute("SELECT words FROM terms WHERE rowid = ?", (rowid,))
            indexed = indexed_text(stored.title, stored.chunk.heading, stored.chunk.text)
            assert words.fetchone() == (index_terms(indexed),)
            assert stored.uri
        assert collection.count_chunks() == len(collection.rowids())
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_items_go_in_together_and_are_embedded_in_one_call(
    counted: tuple[Collection, list[int]],
) -> None:
    collection, calls = counted
    before = collection.generation
    items = [item(f"file:{number}", lines(20 * number + 20, 20 * number)) for number in range(5)]
    assert [kept.status for kept in collection.add_all(items)] == ["added"] * 5
    assert calls == [100]
    with collection.reading() as connection:
        commits = connection.execute("SELECT count(*) FROM commits").fetchone()
    assert commits == (2,)
    changes = collection.changes_since(before)
    assert changes is not None
    assert changes.added.tolist() == collection.rowids().tolist()
    check(collection)


def test_only_changed_chunks_are_embedded(counted: tuple[Collection, list[int]]) -> None:
    collection, calls = counted
    collection.add_all([item("file:a", lines(50))])
    kept_rows = collection.rowids().tolist()
    before = collection.generation
    changed = "a new line\n" + lines(50).replace("line 20 ", "line twenty ")
    (kept,) = collection.add_all([item("file:a", changed)])
    assert (kept.status, kept.embedded) == ("updated", 2)
    assert calls == [50, 2]
    changes = collection.changes_since(before)
    assert changes is not None
    assert changes.removed.tolist() == [kept_rows[20]]
    assert len(changes.added) == 2
    assert matches(collection, "twenty") == ["line twenty of 400\n"]
    check(collection)


def test_a_renamed_file_is_not_embedded_again(counted: tuple[Collection, list[int]]) -> None:
    collection, calls = counted
    collection.add_all([item("file:old", BRIDGE, "old name", **TITLE_FROM_NAME)])
    moved = item("file:new", BRIDGE, "shiny name", moved_from="file:old", **TITLE_FROM_NAME)
    assert collection.add_all([moved]) == [Kept("moved")]
    assert calls == [2]
    assert collection.uris() == ["file:new"]
    assert collection.documents()[0].title == "shiny name"
    assert len(matches(collection, "shiny")) == 2
    assert matches(collection, "old") == []
    check(collection)


def test_a_new_title_of_the_content_is_embedded(counted: tuple[Collection, list[int]]) -> None:
    collection, _ = counted
    collection.add_all([item("file:a", BRIDGE, "old")])
    assert collection.add_all([item("file:a", BRIDGE, "new")])[0].embedded == 2
    check(collection)


def test_items_of_one_call_may_trade_texts(collection: Collection) -> None:
    first, second = lines(20), lines(40, 20)
    collection.add_all([item("file:a", first), item("file:b", second)])
    traded = [item("file:a", second), item("file:b", first), item("file:c", first)]
    collection.add_all(traded)
    assert collection.uris_of(content_id(first)) == ["file:b", "file:c"]
    assert collection.uris_of(content_id(second)) == ["file:a"]
    check(collection)
    collection.add_all([item("file:a", first + "\nmore"), item("file:a", first + "\nmost")])
    assert matches(collection, "more") == []
    check(collection)


def test_a_killed_ingest_of_a_large_document_goes_on_where_it_stopped(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SLICE", 10)
    dying = CountingEncoder(fails_at=4)
    with open_collection(home, "c", dying, create=True) as opened:
        with pytest.raises(RuntimeError):
            opened.add_all([item("file:a", lines(55))])
        assert (opened.count_documents(), opened.count_chunks()) == (0, 0)
    encoder = CountingEncoder()
    with open_collection(home, "c", encoder) as opened:
        opened.add_all([item("file:other", BRIDGE)])  # must not cost what was done
        assert opened.add_all([item("file:a", lines(55))])[0].status == "added"
        assert encoder.calls == [2, 10, 10, 5]
        with opened.reading() as connection:
            assert connection.execute("SELECT count(*) FROM pending").fetchone() == (0,)
        check(opened)


def test_a_failing_encoder_leaves_nothing_half_done(home: Path) -> None:
    with open_collection(home, "c", CountingEncoder(fails_at=2), create=True) as opened:
        opened.add_all([item("file:a", BRIDGE)])
        before = opened.generation
        with pytest.raises(RuntimeError):
            opened.add_all([item("file:a", TEA), item("file:b", LONG)])
        assert opened.generation == before
        assert opened.uris() == ["file:a"]
        assert opened.document_of("file:a") == item("file:a", BRIDGE).document


def test_a_text_that_says_nothing_new_is_not_stored_twice(collection: Collection) -> None:
    shorter = LONG.replace("Sentence 12 says that 84 of 144 things went to box 15.\n", "").upper()
    collection.add_all([item("file:a", LONG)])
    (kept,) = collection.add_all([item("file:b", shorter)])
    assert (kept.status, kept.similar_to, kept.embedded) == ("duplicate", "file:a", 0)
    assert 0.9 <= kept.similarity < 1
    assert collection.count_documents() == 1
    assert collection.file_hash("file:b") == "hash of " + shorter
    assert collection.uris_of(content_id(LONG)) == ["file:a"]
    assert collection.documents()[0].uris == ("file:a", "file:b")


def test_a_similar_text_that_says_something_new_is_stored(collection: Collection) -> None:
    other = LONG.replace("things went to box 15", "things went to box 16")
    kept = collection.add_all([item("file:a", LONG), item("file:b", other)])
    assert [one.status for one in kept] == ["added", "added"]
    assert kept[1].similar_to == "file:a"
    assert kept[1].similarity > 0.9
    assert collection.count_documents() == 2
    check(collection)


@pytest.mark.parametrize("how", ["removed", "changed"])
def test_the_words_of_a_joined_text_are_never_lost(collection: Collection, how: str) -> None:
    shorter = LONG[: LONG.index("Sentence 29")]
    kept = collection.add_all([item("file:a", LONG), item("file:b", shorter)])
    assert kept[1].status == "duplicate"
    if how == "removed":
        collection.remove("file:a")
    else:
        collection.add_all([item("file:a", TEA)])
    assert matches(collection, "sentence 17 box 20")
    assert collection.file_hash("file:b") == ""  # the next ingest reads it again ...
    (again,) = collection.add_all([item("file:b", shorter)])
    assert (again.status, again.embedded) == ("updated", 0)
    stored = collection.document_of("file:b")
    assert stored is not None
    assert stored.text == shorter  # ... and what only the other source said is gone
    check(collection)


@pytest.mark.parametrize("how", ["removed", "changed"])
def test_what_only_a_gone_file_said_is_gone_with_the_same_ingest(
    collection: Collection, tmp_path: Path, how: str
) -> None:
    secret = "The merger partner is Quetzal Holdings."
    longer, shorter = tmp_path / "a.txt", tmp_path / "b.txt"
    longer.write_text(LONG + secret)
    shorter.write_text(LONG)
    pruning = pipeline.PipelineOptions(prune=True)
    options = ChunkingOptions(max_tokens=60)
    first = pipeline.run([tmp_path], collection, options, pipeline=pruning)
    assert [outcome.status for outcome in first.outcomes] == ["added", "duplicate"]
    assert secret in " ".join(matches(collection, "merger partner Quetzal"))
    if how == "removed":
        longer.unlink()
    else:
        longer.write_text(TEA)
    report = pipeline.run([tmp_path], collection, options, pipeline=pruning)
    statuses = [outcome.status for outcome in report.outcomes]
    assert statuses == ["updated", "removed" if how == "removed" else "updated"]
    assert matches(collection, "merger partner Quetzal") == []
    stored = collection.document_of(shorter.as_posix())
    assert stored is not None and stored.text == LONG
    assert pipeline.run([tmp_path], collection, options).counts["updated"] == 0
    check(collection)


def test_a_shortened_file_is_no_duplicate_of_itself(collection: Collection) -> None:
    shorter = LONG[: LONG.index("Sentence 29")]
    collection.add_all([item("file:a", LONG)])
    assert collection.add_all([item("file:a", shorter)])[0].status == "updated"
    assert [info.characters for info in collection.documents()] == [len(shorter)]


def test_nothing_of_a_removed_document_stays_on_disk(collection: Collection) -> None:
    secret = "\n".join(f"Xylophonist{number:04} met Quetzalcoatl." for number in range(500))
    collection.add_all([item("file:a", lines(50)), item("file:secret", secret, "Zirconium")])
    collection.add_all([item("file:b", "Another one.")])
    before = sum(file.stat().st_size for file in collection.directory.iterdir())
    assert collection.remove_all(["file:secret", "file:none", "file:secret"]) == 1
    collection.compact()
    files = [file for file in collection.directory.iterdir() if file.is_file()]
    for file in files:
        data = file.read_bytes().lower()
        for word in (b"xylophonist", b"quetzalcoatl", b"zirconium", b"file:secret"):
            assert word not in data, file.name
    assert sum(file.stat().st_size for file in files) < before / 2
    assert collection.count_documents() == 2
    check(collection)


def test_compacting_says_when_a_reader_is_in_the_way(home: Path, collection: Collection) -> None:
    put(collection, "file:a", TEA)
    with open_collection(home, collection.name, HashingEncoder()) as other, other.reading():
        assert other.count_documents() == 1
        put(collection, "file:b", BRIDGE)
        with pytest.raises(StoreBusy, match=r"being read.*when that program ends; close it"):
            collection.compact(patience=0.01)
        assert other.count_documents() == 1
    collection.compact(patience=0.01)
    assert (collection.directory / "truth.sqlite3-wal").stat().st_size == 0


def test_the_log_tells_what_came_and_went(collection: Collection) -> None:
    start = collection.generation
    collection.add_all([item("file:a", "one"), item("file:b", "two")])
    middle = collection.generation
    first, second = collection.rowids().tolist()
    collection.remove("file:a")
    collection.add_all([item("file:c", "three")])
    third = collection.rowids().tolist()[-1]

    def since(generation: str) -> tuple[list[int], list[int]] | None:
        changes = collection.changes_since(generation)
        return None if changes is None else (changes.added.tolist(), changes.removed.tolist())

    assert since(start) == ([second, third], [])
    assert since(middle) == ([third], [first])
    assert since(collection.generation) == ([], [])
    assert since("unknown") is None
    collection.forget_changes(middle)
    assert since(start) is None
    assert since(middle) == ([third], [first])


def test_vectors_stream_in_order(collection: Collection) -> None:
    collection.add_all([item("file:a", lines(25))])
    batches = list(collection.iterate_vectors(10))
    assert [len(numbers) for numbers, _ in batches] == [10, 10, 5]
    numbers = [int(number) for part, _ in batches for number in part]
    assert numbers == collection.rowids().tolist()
    joined = [row for _, part in batches for row in part.tolist()]
    assert joined == collection.vectors(numbers).tolist()


def test_a_changed_encoder_is_noticed(home: Path, collection: Collection) -> None:
    put(collection, "file:a", TEA)
    with open_collection(home, collection.name, HashingEncoder()) as other:
        with other.changing() as connection:
            connection.execute("UPDATE meta SET value = 'other' WHERE key = 'weights_hash'")
        for use in (collection.count_documents, lambda: put(collection, "file:b", BRIDGE)):
            with pytest.raises(
                EncoderMismatch, match=r"another encoder meanwhile \(hashing\); open it again"
            ):
                use()


def test_readers_do_not_wait_for_a_writer_in_the_same_process(collection: Collection) -> None:
    put(collection, "file:a", TEA)
    with collection.changing() as connection:
        connection.execute("DELETE FROM documents")
        assert collection.count_documents() == 1
        connection.execute("DELETE FROM sources")
    assert collection.count_documents() == 0


def test_matches_are_counted(collection: Collection) -> None:
    collection.add_all([item("file:a", lines(30))])
    assert collection.count_matches(query_expression("line")) == 30
    assert collection.count_matches(query_expression("line 3")) == 30
    assert collection.count_matches(query_expression("841")) == 1
    assert collection.count_matches(query_expression("line"), limit=7) == 7
    assert collection.count_matches(query_expression("line"), limit=31) == 30


def test_a_chunk_without_a_vector_is_damage(collection: Collection) -> None:
    put(collection, "file:a", TEA)
    rowids = collection.rowids().tolist()
    with pytest.raises(DamagedStore, match=r"a vector is missing.*tether rebuild"):
        collection.vectors([*rowids, rowids[-1] + 1])
