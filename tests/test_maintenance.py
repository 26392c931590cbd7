"""Check finds every kind of damage, rebuild mends it, and a collection travels in one file."""

import json
import sqlite3
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest

from ingest.chunking import ChunkingOptions, split
from ingest.documents import Document, Section, content_id
from ingest.errors import (
    EncoderMismatch,
    StoreBusy,
    StoreError,
    UnknownCollection,
    UsageError,
)
from ingest.pipeline import run
from retrieval import schema
from retrieval.encoders import Encoder, EncoderIdentity, HashingEncoder, Vectors
from retrieval.index import DenseIndex
from retrieval.maintenance import (
    Finding,
    check,
    export_collection,
    import_collection,
    rebuild,
    reindex,
)
from retrieval.store import TRUTH, Collection, open_collection
from retrieval.terms import query_expression
from retrieval.writing import chunking_of

NAME = "笔记"
OPTIONS = ChunkingOptions(max_tokens=12)
TEXTS = {
    "file:tea": "绿茶的冲泡温度是八十度。第一泡只要一分钟。\nGreen tea is steeped at eighty.",
    "file:bridge": "武汉长江大桥于1957年建成通车。\nIt carries trains and cars across the river.",
    "file:long": " ".join(
        f"Sentence number {number} speaks of item {number}." for number in range(60)
    ),
}
QUESTIONS = ("绿茶 steeped", "大桥 river", "item 41", "trains")


def put(collection: Collection, uri: str, text: str) -> str:
    sections = (Section(0, "标题 > Part", 3, "slide 2"),)
    document = Document(
        content_id(text), uri, "Title", text, "mixed", "text/plain", {"author": "李"}, sections
    )
    chunks = split(document, collection.count_tokens, OPTIONS)
    return collection.add(uri, "hash of " + text, document, chunks)


def fill(home: Path, encoder: Encoder | None = None) -> Path:
    """Make a sound collection with an index; return its directory."""
    with open_collection(home, NAME, encoder or HashingEncoder(), create=True) as opened:
        for uri, text in TEXTS.items():
            put(opened, uri, text)
        DenseIndex(opened).save()
        return opened.directory


def answers(home: Path, encoder: Encoder, name: str = NAME) -> list[object]:
    """Return all that lexical and dense searches find, with all that a citation shows."""
    found: list[object] = []
    with open_collection(home, name, encoder) as opened:
        index = DenseIndex(opened)
        for question in QUESTIONS:
            vector = encoder.encode_queries([question])[0]
            for rows in (
                opened.match_terms(query_expression(question), top_k=9),
                index.search(vector, top_k=9),
            ):
                stored = opened.chunks_by_rowid([row for row, _ in rows])
                found.append([(stored[row], pytest.approx(score)) for row, score in rows])
    return found


def whats(findings: tuple[Finding, ...]) -> str:
    return "\n".join(finding.what for finding in findings)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "家 Größe"


@pytest.fixture
def directory(home: Path) -> Path:
    return fill(home)


def change(directory: Path, *statements: str, foreign_keys: bool = False) -> None:
    with closing(sqlite3.connect(directory / TRUTH, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA foreign_keys = {foreign_keys:d}")
        for statement in statements:
            connection.execute(statement)


# Check and rebuild

DAMAGES = {
    "another text": (
        "UPDATE documents SET text = replace(text, '八十', '九十')",
        "what their id says",
    ),
    "broken sections": ("UPDATE documents SET sections = '[{]'", "what their id says"),
    "a chunk moved": (
        "UPDATE chunks SET start = start + 1 WHERE number = 2",
        "do not stand in their document",
    ),
    "a chunk rewritten": (
        "UPDATE chunks SET text = 'x' || text WHERE number = 1",
        "do not stand in their document",
    ),
    "a chunk gone": ("DELETE FROM chunks WHERE number = 4", "in no chunk"),
    "all chunks gone": ("DELETE FROM chunks", "in no chunk"),
    "a vector gone": ("DELETE FROM vectors WHERE number = 3", "have no vector"),
    "a short vector": (
        "UPDATE vectors SET vector = substr(vector, 5) WHERE number = 2",
        "the wrong length",
    ),
    "a vector of zeros": (
        "UPDATE vectors SET vector = zeroblob(256) WHERE number = 2",
        "not finite unit vectors",
    ),
    "a vector of infinities": (
        f"UPDATE vectors SET vector = x'{(struct.pack('<f', float('inf')) * 64).hex()}'",
        "not finite unit vectors",
    ),
    "a vector without a chunk": (
        "INSERT INTO vectors VALUES (9999, zeroblob(256))",
        "rows of vectors point to no row of chunks",
    ),
    "terms gone": ("DELETE FROM terms WHERE rowid = 2", "terms of chunks are not those"),
    "other terms": (
        "UPDATE terms SET words = 'stranger' WHERE rowid = 2",
        "terms of chunks are not those",
    ),
    "terms without a chunk": (
        "INSERT INTO terms (rowid, words) VALUES (9999, 'ghost')",
        "terms belong to no chunk",
    ),
    "a broken lexical index": (
        "UPDATE terms_data SET block = zeroblob(40) WHERE id > 10",
        "the lexical index is inconsistent",
    ),
    "a source without a document": (
        "UPDATE sources SET document_id = 'none' WHERE uri = 'file:tea'",
        "rows of sources point to no row of documents",
    ),
    "a document without a source": (
        "DELETE FROM sources WHERE uri = 'file:tea'",
        "documents have no source",
    ),
    "a document gone": (
        "DELETE FROM documents WHERE id = (SELECT document_id FROM sources LIMIT 1)",
        "point to no row of documents",
    ),
    "no commits": ("DELETE FROM commits", "log of commits is empty"),
    "a false log": (
        "INSERT INTO changes SELECT max(sequence), 77777, 1 FROM commits",
        "changes do not agree with the chunks",
    ),
    "a stranger's trigger": (
        "CREATE TRIGGER t AFTER INSERT ON chunks BEGIN DELETE FROM documents; END",
        "not those of Tether",
    ),
    "a stranger's view": ("CREATE VIEW v AS SELECT 1", "not those of Tether"),
    "an index gone": ("DROP INDEX chunks_of_document", "not those of Tether"),
    "a trigger gone": ("DROP TRIGGER chunks_go", "not those of Tether"),
    "a table gone": ("DROP TABLE vectors", "not those of Tether"),
    "all terms gone": ("DROP TABLE terms", "not those of Tether"),
    "no dimension": ("DELETE FROM meta WHERE key = 'dimension'", "dimension"),
    "no encoder": ("DELETE FROM meta WHERE key = 'encoder'", "the encoder is not named"),
}


def test_a_sound_store_gives_nothing(home: Path, directory: Path) -> None:
    assert check(home, NAME) == ()
    with open_collection(home, NAME, HashingEncoder()) as opened:
        put(opened, "file:tea", "Something else entirely.")
        put(opened, "file:copy", "Something else entirely.")
        opened.remove("file:bridge")
    assert check(home, NAME) == ()
    assert rebuild(home, NAME, HashingEncoder()).lost == ()


def test_an_empty_store_is_sound(home: Path) -> None:
    open_collection(home, NAME, HashingEncoder(), create=True).close()
    assert check(home, NAME) == ()


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_found_and_mended(home: Path, directory: Path, damage: str) -> None:
    statement, expected = DAMAGES[damage]
    before = answers(home, HashingEncoder())
    change(directory, statement)
    findings = check(home, NAME)
    assert expected in whats(findings)
    assert {finding.severity for finding in findings} == {"error"}
    assert all(f"tether rebuild --collection {NAME}" in one.remedy for one in findings)

    rebuilt = rebuild(home, NAME, HashingEncoder())
    assert check(home, NAME) == ()
    with open_collection(home, NAME, HashingEncoder()) as opened:
        assert {*opened.uris(), *rebuilt.lost} >= set(TEXTS) - {"file:tea"}
        for uri in rebuilt.lost:  # the next ingest reads them again
            assert opened.file_hash(uri) is None
            put(opened, uri, TEXTS[uri])
        if damage == "a document without a source":
            put(opened, "file:tea", TEXTS["file:tea"])
        texts = {uri: opened.document_of(uri) for uri in TEXTS}
    assert {uri: document and document.text for uri, document in texts.items()} == TEXTS
    assert check(home, NAME) == ()
    if not rebuilt.lost and "chunk" not in damage and damage != "a document without a source":
        assert answers(home, HashingEncoder()) == before


def test_pending_vectors_are_told_but_no_error(home: Path, directory: Path) -> None:
    change(directory, "INSERT INTO pending VALUES (x'00', zeroblob(256))")
    (finding,) = check(home, NAME)
    assert finding.severity == "warning"
    assert "interrupted ingest" in finding.what


@pytest.mark.parametrize("page", [2, 5, 9, 14, 20, -1])
def test_pages_of_noise_cost_no_more_than_they_held(home: Path, directory: Path, page: int) -> None:
    change(directory, "PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray((directory / TRUTH).read_bytes())
    start = (page % (len(data) // 4096)) * 4096
    data[start : start + 4096] = np.random.default_rng(page % 99).bytes(4096)
    (directory / TRUTH).write_bytes(data)
    assert check(home, NAME) != ()

    rebuilt = rebuild(home, NAME, HashingEncoder())
    assert check(home, NAME) == ()
    assert rebuilt.damaged_file is not None
    assert rebuilt.damaged_file.read_bytes()[start : start + 4096] == data[start : start + 4096]
    with open_collection(home, NAME, HashingEncoder()) as opened:
        for uri in TEXTS:
            document = opened.document_of(uri)
            assert document is None or document.text == TEXTS[uri]
            put(opened, uri, TEXTS[uri])
        assert {one.uris[0] for one in opened.documents()} == set(TEXTS)
    assert check(home, NAME) == ()


def test_a_lost_row_leaves_its_neighbours(home: Path) -> None:
    """A document on pages of its own is damaged: all other documents are still there."""
    with open_collection(home, NAME, HashingEncoder(), create=True) as opened:
        directory = opened.directory
        for number in range(8):
            put(opened, f"file:{number}", f"Document {number} holds it. " * 400)
    change(directory, "PRAGMA wal_checkpoint(TRUNCATE)")
    data = (directory / TRUTH).read_bytes()
    damaged = data.replace(b"Document 3 holds it. " * 20, b"Document X holds it. " * 20)
    assert damaged != data
    (directory / TRUTH).write_bytes(damaged)
    assert "what their id says" in whats(check(home, NAME))
    assert rebuild(home, NAME, HashingEncoder()).lost == ("file:3",)
    assert check(home, NAME) == ()
    with open_collection(home, NAME, HashingEncoder()) as opened:
        assert opened.uris() == [f"file:{number}" for number in range(8) if number != 3]


@pytest.mark.parametrize("data", [b"", b"no database at all " * 400])
def test_a_truth_that_is_no_database_becomes_an_empty_one(
    home: Path, directory: Path, data: bytes
) -> None:
    for file in directory.glob(TRUTH + "*"):
        file.unlink()
    (directory / TRUTH).write_bytes(data)
    assert check(home, NAME) != ()
    rebuilt = rebuild(home, NAME, HashingEncoder())
    assert (rebuilt.damaged_file.read_bytes() if rebuilt.damaged_file else b"") == data
    assert check(home, NAME) == ()
    with open_collection(home, NAME, HashingEncoder()) as opened:
        assert opened.count_documents() == 0
        assert put(opened, "file:tea", TEXTS["file:tea"]) == "added"


def test_what_is_kept_of_a_damaged_truth_holds_the_last_commits(
    home: Path, directory: Path
) -> None:
    with open_collection(home, NAME, HashingEncoder()) as writer:
        put(writer, "file:large", "It is on pages of its own. " * 400)
    with open_collection(home, NAME, HashingEncoder()) as reader:  # so the log of writes stays
        data = (directory / TRUTH).read_bytes()
        put(reader, "file:new", "Came last.")
        damaged = data.replace(b"pages of its own. It", b"pages of its own! It")
        assert damaged != data
        (directory / TRUTH).write_bytes(damaged)
        rebuilt = rebuild(home, NAME, HashingEncoder())
        assert rebuilt.lost == ("file:large",)
    assert rebuilt.damaged_file is not None
    with closing(sqlite3.connect(rebuilt.damaged_file)) as kept:
        assert ("file:new",) in kept.execute("SELECT uri FROM sources").fetchall()


def test_the_next_run_clears_what_killed_ones_left(
    home: Path, directory: Path, tmp_path: Path
) -> None:
    for folder in (directory / ".rebuild-killed", directory.parent / ".import-killed"):
        folder.mkdir()
        (folder / "fresh.sqlite3").write_bytes(b"half")
    change(directory, "DELETE FROM vectors WHERE number = 3")
    rebuild(home, NAME, HashingEncoder())
    assert [one.name for one in directory.iterdir() if one.is_dir()] == []
    export_collection(home, NAME, tmp_path / "export")
    import_collection(home, tmp_path / "export", "copy")
    assert {one.name for one in directory.parent.iterdir()} == {NAME, "copy"}


def test_a_second_import_waits_or_says_so(home: Path, directory: Path, tmp_path: Path) -> None:
    export_collection(home, NAME, tmp_path / "export")
    with (
        filelock.FileLock(home / "import.lock"),
        ThreadPoolExecutor(1) as other,
        pytest.raises(StoreBusy, match="another import is running; wait"),
    ):
        other.submit(import_collection, home, tmp_path / "export", "copy").result()
    assert not (directory.parent / "copy").exists()


def test_only_what_is_wrong_is_embedded_again(home: Path, directory: Path) -> None:
    change(directory, "DELETE FROM vectors WHERE number = 3")
    encoder = CountingEncoder()
    rebuild(home, NAME, encoder)
    assert encoder.texts == 1


@pytest.mark.parametrize("noted", [True, False])
def test_documents_are_cut_again_by_the_sizes_they_had(
    home: Path, tmp_path: Path, noted: bool
) -> None:
    file = tmp_path / "long.txt"
    file.write_text(TEXTS["file:long"])
    spans = 'SELECT start, "end", text FROM chunks ORDER BY start'
    with open_collection(home, NAME, HashingEncoder(), create=True) as opened:
        run([file], opened, ChunkingOptions(max_tokens=30))
        run([file], opened, OPTIONS)
        with opened.reading() as connection:
            before = connection.execute(spans).fetchall()
    assert len(before) > 20
    change(opened.directory, "DELETE FROM chunks WHERE number = (SELECT max(number) FROM chunks)")
    if not noted:  # as before the sizes were noted
        change(opened.directory, "DELETE FROM meta WHERE key = 'chunking'")
    rebuild(home, NAME, HashingEncoder())
    assert check(home, NAME) == ()
    with open_collection(home, NAME, HashingEncoder()) as opened, opened.reading() as connection:
        after = connection.execute(spans).fetchall()
        assert chunking_of(connection) == (OPTIONS if noted else ChunkingOptions())
    assert after == before if noted else len(after) < len(before)


def test_rebuild_refuses_another_encoder(home: Path, directory: Path) -> None:
    change(directory, "DELETE FROM vectors WHERE number = 3")
    with pytest.raises(EncoderMismatch):
        rebuild(home, NAME, OtherEncoder())
    assert "have no vector" in whats(check(home, NAME))


def test_an_open_reader_sees_the_mended_truth(home: Path, directory: Path) -> None:
    with open_collection(home, NAME, HashingEncoder()) as reader:
        change(directory, "DELETE FROM vectors WHERE number = 3")
        rebuild(home, NAME, HashingEncoder())
        assert 3 in reader.rowids()
        put(reader, "file:new", "Written by the program that was open all the time.")
    assert check(home, NAME) == ()
    with open_collection(home, NAME, HashingEncoder()) as opened:
        assert opened.document_of("file:new") is not None


def test_numbers_are_not_used_twice_after_a_rebuild(home: Path, directory: Path) -> None:
    with open_collection(home, NAME, HashingEncoder()) as opened:
        last = int(opened.rowids()[-1])
        opened.remove("file:long")
        change(directory, "DELETE FROM vectors WHERE number = 1")
        rebuild(home, NAME, HashingEncoder())
        put(opened, "file:long", TEXTS["file:long"])
        assert int(opened.rowids()[-1]) > last


@pytest.mark.parametrize(
    "operation", [check, lambda home, name: rebuild(home, name, HashingEncoder())]
)
def test_operations_wait_for_the_writer_or_say_so(
    home: Path, directory: Path, operation: Callable[..., object]
) -> None:
    with (
        open_collection(home, NAME, HashingEncoder()) as writer,
        writer.writing(),
        pytest.raises(StoreBusy),
    ):
        operation(home, NAME)


def test_there_must_be_such_a_collection(home: Path) -> None:
    with pytest.raises(UnknownCollection):
        check(home, "none")
    with pytest.raises(UnknownCollection):
        rebuild(home, "none", HashingEncoder())
    with pytest.raises(UnknownCollection):
        reindex(home, "none", HashingEncoder())
    with pytest.raises(UnknownCollection):
        export_collection(home, "none", home / "file")
    assert not (home / "collections").exists()


# Export and import


def test_a_collection_travels_in_one_file(home: Path, directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "输出 export.tether"
    export_collection(home, NAME, file)
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == [file.name]
    elsewhere = tmp_path / "别处 ailleurs"
    info = import_collection(elsewhere, file)
    assert (info.name, info.documents, info.encoder, info.problem) == (NAME, 3, "hashing", "")
    assert check(elsewhere, NAME) == ()
    assert answers(elsewhere, HashingEncoder()) == answers(home, HashingEncoder())
    with open_collection(elsewhere, NAME, HashingEncoder()) as opened:
        assert opened.uris() == list(TEXTS)
        put(opened, "file:new", "It can be written to.")
    assert check(elsewhere, NAME) == ()


def test_an_existing_file_or_collection_is_kept(
    home: Path, directory: Path, tmp_path: Path
) -> None:
    file = tmp_path / "export"
    file.write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        export_collection(home, NAME, file)
    assert file.read_text() == "precious"
    export_collection(home, NAME, file, replace=True)
    with open_collection(home, NAME, HashingEncoder()) as reader:
        reader.remove("file:tea")
        with pytest.raises(UsageError, match="already"):
            import_collection(home, file)
        assert reader.uris() == ["file:bridge", "file:long"]
        import_collection(home, file, "other")
        import_collection(home, file, replace=True)
        assert reader.uris() == list(TEXTS)
    assert check(home, NAME) == check(home, "other") == ()


def test_what_waits_for_an_interrupted_run_stays_behind(
    home: Path, directory: Path, tmp_path: Path
) -> None:
    change(directory, "INSERT INTO pending VALUES (x'00', zeroblob(256))")
    export_collection(home, NAME, tmp_path / "export")
    import_collection(tmp_path, tmp_path / "export")
    assert check(tmp_path, NAME) == ()


def test_an_export_is_one_state_while_a_writer_goes_on(
    home: Path, directory: Path, tmp_path: Path
) -> None:
    stop = threading.Event()

    def write() -> None:
        with open_collection(home, NAME, HashingEncoder()) as opened, opened.writing():
            number = 0
            while not stop.is_set():
                put(opened, f"file:{number}", f"Text number {number}. It has two sentences.")
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            export_collection(home, NAME, tmp_path / str(number))
    finally:
        stop.set()
        writer.join()
    for number in range(3):
        import_collection(tmp_path, tmp_path / str(number), f"copy {number}")
        assert check(tmp_path, f"copy {number}") == ()


def repack(file: Path, members: dict[str, bytes], **manifest: object) -> None:
    """Write a zip of these members over the file; keys of the manifest can be replaced."""
    if manifest:
        members["manifest.json"] = json.dumps(
            json.loads(members["manifest.json"]) | manifest
        ).encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def unpack(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def other_name(members: dict[str, bytes]) -> None:
    members["../../escape"] = members.pop(TRUTH)


def one_more(members: dict[str, bytes]) -> None:
    members["../escape"] = b"x"


def other_byte(members: dict[str, bytes]) -> None:
    data = bytearray(members[TRUTH])
    data[5000] ^= 1
    members[TRUTH] = bytes(data)


def no_json(members: dict[str, bytes]) -> None:
    members["manifest.json"] = b"[" * 60_000


def long_manifest(members: dict[str, bytes]) -> None:
    members["manifest.json"] = b" " * (1 << 24)


def bomb(members: dict[str, bytes]) -> None:
    members[TRUTH] = bytes(1 << 26)
    told = json.loads(members["manifest.json"]) | {"bytes": 1 << 26}
    members["manifest.json"] = json.dumps(told).encode()


@pytest.mark.parametrize("alter", [other_name, one_more, other_byte, no_json, long_manifest, bomb])
def test_a_hostile_archive_is_refused(
    home: Path, directory: Path, tmp_path: Path, alter: Callable[[dict[str, bytes]], None]
) -> None:
    file = tmp_path / "export"
    export_collection(home, NAME, file)
    members = unpack(file)
    alter(members)
    repack(file, members)
    refused(tmp_path, file)


def refused(tmp_path: Path, file: Path, error: type[Exception] = StoreError) -> None:
    elsewhere = tmp_path / "deep" / "elsewhere"
    with pytest.raises(error) as raised:
        import_collection(elsewhere, file)
    assert len(str(raised.value).splitlines()) == 1
    assert list((elsewhere / "collections").iterdir()) == []
    assert [one.name for one in tmp_path.rglob("escape*")] == []


@pytest.mark.parametrize(
    "manifest",
    [
        {"bytes": 1 << 60},
        {"bytes": -1},
        {"bytes": "many"},
        {"format": 2},
        {"sha256": "0" * 64},
        {"encoder": "another"},
        {"name": 7},
    ],
)
def test_a_false_manifest_is_refused(
    home: Path, directory: Path, tmp_path: Path, manifest: dict[str, object]
) -> None:
    file = tmp_path / "export"
    export_collection(home, NAME, file)
    repack(file, unpack(file), **manifest)
    refused(tmp_path, file)


@pytest.mark.parametrize("name", ["../escape", "/escape", "a/../../escape", "escape\0"])
def test_a_name_that_leads_elsewhere_is_refused(
    home: Path, directory: Path, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "export"
    export_collection(home, NAME, file)
    repack(file, unpack(file), name=name)
    refused(tmp_path, file, UsageError)


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unsound_truth_is_refused(
    home: Path, directory: Path, tmp_path: Path, damage: str
) -> None:
    """Its hash is right all the same: whoever made the file made the manifest, too."""
    import hashlib

    file = tmp_path / "export"
    export_collection(home, NAME, file)
    members = unpack(file)
    truth = tmp_path / TRUTH
    truth.write_bytes(members[TRUTH])
    change(tmp_path, DAMAGES[damage][0])
    data = members[TRUTH] = truth.read_bytes()
    repack(file, members, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    refused(tmp_path, file)


@pytest.mark.parametrize("size", [0, 1, 100, 3000])
def test_a_cut_file_is_refused(home: Path, directory: Path, tmp_path: Path, size: int) -> None:
    file = tmp_path / "export"
    export_collection(home, NAME, file)
    file.write_bytes(file.read_bytes()[:size])
    refused(tmp_path, file)


def test_a_failed_import_leaves_what_was_there(home: Path, directory: Path, tmp_path: Path) -> None:
    before = answers(home, HashingEncoder())
    (tmp_path / "export").write_text("no archive")
    with pytest.raises(StoreError):
        import_collection(home, tmp_path / "export", NAME, replace=True)
    with pytest.raises(StoreError):
        import_collection(home, tmp_path / "nowhere", NAME, replace=True)
    assert check(home, NAME) == ()
    assert answers(home, HashingEncoder()) == before


# Another encoder


class CountingEncoder(HashingEncoder):
    """Counts the passages it embeds, and can fail after some."""

    def __init__(self, dimension: int = 64, fail_after: int = 1 << 30) -> None:
        super().__init__(dimension)
        self.texts = 0
        self._fail_after = fail_after

    def encode_passages(self, texts: list[str]) -> Vectors:
        if self.texts >= self._fail_after:
            raise KeyboardInterrupt
        self.texts += len(texts)
        return super().encode_passages(texts)

    def encode_queries(self, texts: list[str]) -> Vectors:
        return HashingEncoder.encode_passages(HashingEncoder(self.identity.dimension), texts)


class OtherEncoder(CountingEncoder):
    """Vectors of the same dimension that say something else."""

    @property
    def identity(self) -> EncoderIdentity:
        return replace(super().identity, name="other", weights_hash="f" * 64)

    def encode_passages(self, texts: list[str]) -> Vectors:
        return np.ascontiguousarray(-super().encode_passages(texts)[:, ::-1])

    def encode_queries(self, texts: list[str]) -> Vectors:
        return np.ascontiguousarray(-super().encode_queries(texts)[:, ::-1])


@pytest.mark.parametrize("encoder", [CountingEncoder(32), OtherEncoder()])
def test_a_reindexed_collection_is_as_if_made_with_the_new_encoder(
    home: Path, directory: Path, tmp_path: Path, encoder: CountingEncoder
) -> None:
    seen: list[tuple[int, int]] = []
    total = reindex(home, NAME, encoder, lambda done, of: seen.append((done, of)))
    assert seen[-1] == (total, total)
    assert check(home, NAME) == ()
    with pytest.raises(EncoderMismatch):
        open_collection(home, NAME, HashingEncoder())
    fill(tmp_path / "fresh", encoder)
    assert answers(home, encoder) == answers(tmp_path / "fresh", encoder)
    assert reindex(home, NAME, encoder) == 0
    with open_collection(home, NAME, encoder) as opened:
        put(opened, "file:tea", "Other tea.")
    assert check(home, NAME) == ()


@pytest.fixture
def many(home: Path) -> Iterator[int]:
    """A collection of more than two slices; yields the number of its chunks."""
    with open_collection(home, NAME, HashingEncoder(), create=True) as opened:
        for number in range(4):
            text = " ".join(f"Item {number} of {place} is here." for place in range(800))
            put(opened, f"file:{number}", text)
        count = opened.count_chunks()
    assert count > 1200
    yield count


def test_an_interrupted_reindex_goes_on(home: Path, many: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        reindex(home, NAME, OtherEncoder(fail_after=600))
    (finding,) = check(home, NAME)
    assert finding.severity == "warning"
    with open_collection(home, NAME, HashingEncoder()) as opened:  # the old encoder still serves
        lines = opened.rowids()
        opened.remove("file:0")
        put(opened, "file:new", "Came in between.")
        assert len(opened.rowids()) < len(lines)
        left = opened.count_chunks()
    encoder = OtherEncoder()
    assert reindex(home, NAME, encoder) == encoder.texts < left
    assert check(home, NAME) == ()
    with open_collection(home, NAME, encoder) as opened:
        row, _ = DenseIndex(opened).search(encoder.encode_queries(["came between"])[0], top_k=1)[0]
        assert opened.chunks_by_rowid([row])[row].uri == "file:new"


def test_a_third_encoder_starts_over(home: Path, many: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        reindex(home, NAME, OtherEncoder(fail_after=600))
    assert reindex(home, NAME, CountingEncoder(32)) == many
    assert check(home, NAME) == ()


def test_giving_up_a_reindex_clears_what_it_made(home: Path, many: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        reindex(home, NAME, OtherEncoder(fail_after=600))
    assert reindex(home, NAME, HashingEncoder()) == 0
    assert check(home, NAME) == ()


def test_readers_keep_the_old_vectors_until_the_switch(home: Path, directory: Path) -> None:
    seen = [answers(home, HashingEncoder())]
    reindex(
        home, NAME, OtherEncoder(), lambda done, of: seen.append(answers(home, HashingEncoder()))
    )
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_an_open_reader_never_mixes_encoders(home: Path, directory: Path) -> None:
    with open_collection(home, NAME, HashingEncoder()) as reader:
        index = DenseIndex(reader)
        vector = HashingEncoder().encode_queries(["绿茶"])[0]
        assert index.search(vector, top_k=3)
        reindex(home, NAME, OtherEncoder())
        with pytest.raises(EncoderMismatch):
            index.search(vector, top_k=3)


def test_a_version_1_truth_is_brought_up_to_date(home: Path, directory: Path) -> None:
    downgrade(directory)
    rebuild(home, NAME, HashingEncoder())
    assert check(home, NAME) == ()


def test_a_version_1_truth_is_sound_and_travels(
    home: Path, directory: Path, tmp_path: Path
) -> None:
    downgrade(directory)
    export_collection(home, NAME, tmp_path / "export")  # leaves the truth as it is
    import_collection(tmp_path, tmp_path / "export")
    assert check(tmp_path, NAME) == ()
    assert check(home, NAME) == ()  # brought up to date
    assert answers(tmp_path, HashingEncoder()) == answers(home, HashingEncoder())


def test_the_truth_of_a_newer_version_is_left_alone(
    home: Path, directory: Path, tmp_path: Path
) -> None:
    change(directory, "CREATE TABLE novel (x)", "UPDATE meta SET value = '10' WHERE key = 'schema'")
    truth = directory / "truth.sqlite3"
    before = truth.read_bytes()
    for operation in (
        lambda: check(home, NAME),
        lambda: rebuild(home, NAME, HashingEncoder()),
        lambda: reindex(home, NAME, OtherEncoder()),
        lambda: export_collection(home, NAME, tmp_path / "export"),
    ):
        with pytest.raises(StoreError, match="by a newer Tether, and stays as it is; use that one"):
            operation()
    assert truth.read_bytes() == before
    assert not (tmp_path / "export").exists()


def downgrade(directory: Path) -> None:
    """Take from a truth what version 2 of the schema added."""
    change(
        directory,
        *("DROP TRIGGER chunks_come", "DROP TRIGGER chunks_go", "DROP TABLE commits"),
        *("DROP TABLE changes", "DROP TABLE pending", "DROP TABLE fingerprints"),
        "ALTER TABLE chunks DROP COLUMN place",
        "ALTER TABLE sources DROP COLUMN exact",
        "UPDATE meta SET value = '1' WHERE key = 'schema'",
        "INSERT INTO meta VALUES ('generation', 'old')",
    )
    assert schema.SCHEMA_VERSION == "2"


def test_checking_needs_neither_torch_nor_an_encoder() -> None:
    script = "import sys, retrieval.maintenance; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 0
