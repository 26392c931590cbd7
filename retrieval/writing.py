"""How documents become rows of the truth: plan what to keep, embed what is new, write.

    plans = plan(connection, items)                  # reads only
    supply = embed(connection, encoder, plans)       # the slow part, outside any transaction
    write(connection, each plan, supply)             # all within one transaction

The caller holds the write lock throughout, so what the plan saw is what the writing meets. Chunks
whose embedded text is known keep their row and vector. A document too large for one slice of
embedding has its vectors parked in the table `pending`, so that a killed ingest goes on where it
stopped and no more than a slice is in memory. Knows nothing of locks, indexes or ranking.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import Literal

from ingest.chunking import ChunkingOptions
from ingest.documents import TITLE_FROM_NAME, Chunk, Document
from ingest.errors import SettingsError, SourceError
from ingest.pipeline import Item, Kept
from retrieval import duplicates
from retrieval.encoders import Encoder
from retrieval.schema import transaction
from retrieval.terms import index_terms

SLICE = 2048  # texts embedded at a time; more than that are parked in `pending`
# Most characters of a title, and of headings (their end), that are embedded with a text. Whole
# paragraphs styled as headings would fill the encoder's input, and all chunks would be alike to it.
_TITLE, _HEADINGS = 100, 200
_CROWD = 32  # candidates looked at per band: bounds the time where all documents look alike


class NotEmbedded(Exception):
    """Documents of one call took rows from each other: write them one by one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with an item."""

    item: Item
    status: Literal["added", "updated", "moved", "duplicate"]
    former: tuple[str, ...]  # ids of the documents that its sources held
    kept_in: str  # id of the document that will hold its words
    stores: bool  # whether that document is the item's own, to be written
    bands: tuple[int, ...] = ()
    similar_to: str = ""
    similarity: float = 0.0


@dataclass(frozen=True, slots=True)
class Supply:
    """Vectors by digest of the embedded text: in memory, or parked in `pending`."""

    vectors: dict[bytes, bytes]
    parked: bool = False


def indexed_text(title: str, heading: str, text: str) -> str:
    """Return what is indexed for a chunk: its text under its title and headings."""
    return "\n".join(part for part in (title, heading, text) if part)


def embedded_text(document: Document, chunk: Chunk) -> str:
    """Return what is embedded for a chunk: the same, but with bounded title and headings.

    A title that only names the file is left out.
    """
    title = _embedded_title(document.title, document.metadata)
    return _embedded_text(title, chunk.heading, chunk.text)


def _embedded_title(title: str, metadata: Mapping[str, str]) -> str:
    return "" if TITLE_FROM_NAME.items() <= metadata.items() else title


def _embedded_text(title: str, heading: str, text: str) -> str:
    return indexed_text(title[:_TITLE], heading[-_HEADINGS:], text)


# Planning


@dataclass(slots=True)
class _Planned:
    """The documents that earlier items of the same call will store."""

    uris: dict[str, str] = field(default_factory=dict)  # by document id
    texts: dict[str, str] = field(default_factory=dict)
    holders: dict[int, list[str]] = field(default_factory=dict)  # document ids by band

    def add(self, plan: Plan) -> None:
        document = plan.item.document
        self.uris[document.id] = plan.item.uri
        self.texts[document.id] = document.text
        for band in plan.bands:
            self.holders.setdefault(band, []).append(document.id)


def refuse_broken(item: Item) -> None:
    """Raise for what SQLite could not store, before anything is spent on it.

    Raises:
        SourceError: A text of the item is not valid Unicode.
    """
    document = item.document
    texts = [item.uri, item.moved_from, item.file_hash, document.text]
    texts += [document.title, document.language, document.media_type, document.id]
    texts += [text for pair in document.metadata.items() for text in pair]
    texts += [text for one in document.sections for text in (one.heading, one.place)]
    texts += [text for one in item.chunks for text in (one.heading, one.place, one.text)]
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{item.uri!r} is not valid Unicode; save it as UTF-8") from error


def apart(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield the items in groups in which no source occurs twice."""
    group: list[Item] = []
    seen: set[str] = set()
    for item in items:
        names = {item.uri, item.moved_from} - {""}
        if names & seen:
            yield group
            group, seen = [], set()
        group.append(item)
        seen |= names
    if group:
        yield group


def plan(
    connection: sqlite3.Connection, items: Sequence[Item], *, join_similar: bool
) -> list[Plan]:
    """Decide what becomes of each item; no source occurs twice among them."""
    leaving = {uri for item in items for uri in (item.uri, item.moved_from)}
    planned = _Planned()
    plans = []
    for item in items:
        made = _plan(connection, item, leaving, planned, join_similar=join_similar)
        if made.stores:
            planned.add(made)
        plans.append(made)
    return plans


def _plan(
    connection: sqlite3.Connection,
    item: Item,
    leaving: set[str],
    planned: _Planned,
    *,
    join_similar: bool,
) -> Plan:
    document_id = item.document.id
    rows = connection.execute(
        "SELECT uri, document_id FROM sources WHERE uri IN (?, ?)", (item.uri, item.moved_from)
    ).fetchall()
    sources = dict(rows)
    status: Literal["added", "updated", "moved"] = "added"
    if sources:
        status = "moved" if item.moved_from in sources else "updated"
    former = tuple(dict.fromkeys(sources.values()))
    holder = planned.uris.get(document_id) or _holder(connection, document_id, leaving)
    keeps_cut = document_id in planned.uris or document_id not in former
    if holder and (keeps_cut or _is_cut(connection, item)):
        shown: Literal["moved", "duplicate"] = "moved" if status == "moved" else "duplicate"
        return Plan(item, shown, former, document_id, False, (), holder, 1.0)
    if not join_similar or _is_stored(connection, document_id):
        return Plan(item, status, former, document_id, stores=True)
    bands = tuple(duplicates.bands(item.document.text))
    found = _closest(connection, item, bands, leaving, planned)
    if found is None:
        return Plan(item, status, former, document_id, True, bands)
    similar, uri = found
    if similar.says_all:
        kept_in = similar.document_id
        return Plan(item, "duplicate", former, kept_in, False, (), uri, similar.similarity)
    return Plan(item, status, former, document_id, True, bands, uri, similar.similarity)


def _is_stored(connection: sqlite3.Connection, document_id: str) -> bool:
    row = connection.execute("SELECT 1 FROM documents WHERE id = ?", (document_id,)).fetchone()
    return row is not None


def _holder(connection: sqlite3.Connection, document_id: str, leaving: set[str]) -> str:
    """Return the oldest source that holds this very text and is not about to change, or ""."""
    rows = connection.execute(
        "SELECT uri FROM sources WHERE document_id = ? AND exact ORDER BY number", (document_id,)
    )
    return next((uri for (uri,) in rows if uri not in leaving), "")


def _is_cut(connection: sqlite3.Connection, item: Item) -> bool:
    """Return whether the stored document has just the chunks of the item."""
    stored = connection.execute(
        'SELECT start, "end", heading, page, place FROM chunks '
        "WHERE document_id = ? ORDER BY start, number",
        (item.document.id,),
    )
    wanted = [(one.start, one.end, one.heading, one.page, one.place) for one in item.chunks]
    return stored.fetchall() == wanted


def _closest(
    connection: sqlite3.Connection,
    item: Item,
    bands: Iterable[int],
    leaving: set[str],
    planned: _Planned,
) -> tuple[duplicates.Similar, str] | None:
    """Return the most similar document that will stay, and a source that holds it."""

    def uri_of(document_id: str) -> str:
        return planned.uris.get(document_id) or _holder(connection, document_id, leaving)

    def holders(band: int) -> list[str]:
        rows = connection.execute(
            "SELECT document_id FROM fingerprints WHERE band = ? LIMIT ?", (band, _CROWD)
        )
        stored = [found for (found,) in rows if uri_of(found)]
        return [*planned.holders.get(band, [])[:_CROWD], *stored]

    def text_of(document_id: str) -> str:
        if document_id in planned.texts:
            return planned.texts[document_id]
        query = "SELECT text FROM documents WHERE id = ?"
        return str(connection.execute(query, (document_id,)).fetchone()[0])

    similar = duplicates.closest(item.document.text, bands, holders, text_of)
    return None if similar is None else (similar, uri_of(similar.document_id))


# Embedding


def embed(connection: sqlite3.Connection, encoder: Encoder, plans: Sequence[Plan]) -> Supply:
    """Embed the texts that no stored chunk has, all in one call or, if many, slice by slice."""
    key = encoder.identity.weights_hash
    waiting = connection.execute("SELECT 1 FROM pending LIMIT 1").fetchone() is not None
    found: list[bytes] = []  # parked by an ingest that was killed

    def is_new(pair: tuple[bytes, str]) -> bool:
        query = "SELECT hash FROM pending WHERE hash = ?"
        found.extend(connection.execute(query, pair[:1]).fetchone() or () if waiting else ())
        return not found or found[-1] != pair[0]

    new: Iterator[tuple[bytes, str]] = filter(is_new, _new_texts(connection, plans, key))
    piece = list(islice(new, SLICE))
    more = list(islice(new, 1))
    if not more:
        return Supply(dict(_encoded(encoder, piece)), parked=bool(found))
    new = chain(more, new)
    while piece:
        rows = list(_encoded(encoder, piece))
        with transaction(connection):
            connection.executemany("INSERT INTO pending VALUES (?, ?)", rows)
        piece = list(islice(new, SLICE))
    return Supply({}, parked=True)


def _encoded(encoder: Encoder, pairs: list[tuple[bytes, str]]) -> Iterator[tuple[bytes, bytes]]:
    if pairs:
        vectors = encoder.encode_passages([text for _, text in pairs])  # (texts, dimension)
        for (digest, _), vector in zip(pairs, vectors, strict=True):
            yield digest, vector.astype("<f4").tobytes()


def _new_texts(
    connection: sqlite3.Connection, plans: Iterable[Plan], key: str
) -> Iterator[tuple[bytes, str]]:
    """Yield the digest and the text of what no row to be reused holds, each once."""
    seen: set[bytes] = set()
    for made in plans:
        if not made.stores:
            continue
        pool = _Pool(connection, key, reused={made.kept_in}, lent=made.former)
        for chunk in made.item.chunks:
            text = embedded_text(made.item.document, chunk)
            digest = _digest(text, key)
            if digest not in pool and digest not in seen:
                seen.add(digest)
                yield digest, text


def _digest(text: str, key: str) -> bytes:
    """Hash an embedded text; the key, the hash of the weights, keeps encoders apart."""
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16, key=key.encode()[:64]).digest()


class _Pool:
    """Stored chunks by digest of their embedded texts: rows to reuse, and vectors to copy."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        key: str,
        *,
        reused: Iterable[str],
        lent: Iterable[str],
    ) -> None:
        """Read the chunks of the documents `reused`, whose rows are free, and of those `lent`."""
        self.titles: set[str] = set()  # of the rows to reuse
        self._rows: dict[bytes, list[int]] = {}  # not taken yet, last in the text first
        self._models: dict[bytes, int] = {}  # rows that stay: their vectors can be copied
        for document_id in sorted(reused):
            for title, digest, number in _stored_digests(connection, document_id, key):
                self._rows.setdefault(digest, []).append(number)
                self.titles.add(title)
        for document_id in lent:
            for _, digest, number in _stored_digests(connection, document_id, key):
                self._models[digest] = number

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._rows or digest in self._models

    def model(self, digest: bytes) -> int | None:
        """Return a row that has this text's vector and stays."""
        return self._models.get(digest)

    def take(self, digest: bytes) -> int | None:
        """Return the number of a row to reuse, None if none is left."""
        numbers = self._rows.get(digest)
        if not numbers:
            return None
        self._models[digest] = numbers.pop()
        return self._models[digest]

    def left(self) -> list[int]:
        """Return the numbers that nothing took."""
        return [number for numbers in self._rows.values() for number in numbers]


def _stored_digests(
    connection: sqlite3.Connection, document_id: str, key: str
) -> Iterator[tuple[str, bytes, int]]:
    """Yield the title, the digest and the number of each chunk of a document, last one first."""
    found = connection.execute(
        "SELECT title, metadata FROM documents WHERE id = ?", (document_id,)
    ).fetchone()
    if found is None:
        return
    title = _embedded_title(found[0], json.loads(found[1]))
    rows = connection.execute(
        "SELECT number, heading, text FROM chunks WHERE document_id = ? "
        "ORDER BY start DESC, number DESC",
        (document_id,),
    )
    for number, heading, text in rows:
        yield found[0], _digest(_embedded_text(title, heading, text), key), number


# Writing


def write(connection: sqlite3.Connection, made: Plan, supply: Supply, key: str) -> Kept:
    """Carry out a plan within the caller's transaction.

    Raises:
        NotEmbedded: A vector is missing from the supply.
    """
    _write_source(connection, made)
    if made.item.cut_by is not None:
        _write_chunking(connection, made.item.cut_by)
    orphans = {found for found in made.former if not _has_sources(connection, found)}
    embedded = 0
    if made.stores:
        lent = set(made.former) - orphans - {made.kept_in}
        pool = _Pool(connection, key, reused={made.kept_in, *orphans}, lent=lent)
        embedded = _write_document(connection, made, pool, supply, key)
    for document_id in made.former:
        settle(connection, document_id)
    return Kept(made.status, embedded, made.similar_to, made.similarity)


def _write_source(connection: sqlite3.Connection, made: Plan) -> None:
    """Let the item's source hold its document; its place in the order stays if the text does."""
    rows = connection.execute(
        "DELETE FROM sources WHERE uri IN (?, ?) RETURNING number, document_id",
        (made.item.uri, made.item.moved_from),
    ).fetchall()
    number = min((number for number, held in rows if held == made.kept_in), default=None)
    exact = made.kept_in == made.item.document.id
    connection.execute(
        "INSERT INTO sources (number, uri, file_hash, document_id, exact) VALUES (?, ?, ?, ?, ?)",
        (number, made.item.uri, made.item.file_hash, made.kept_in, exact),
    )


def _write_chunking(connection: sqlite3.Connection, options: ChunkingOptions) -> None:
    """Note the sizes by which the collection's documents were cut last, for `chunking_of`."""
    connection.execute(
        "INSERT INTO meta VALUES ('chunking', ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE value <> excluded.value",
        (f"{options.max_tokens}/{options.overlap_tokens}",),
    )


def chunking_of(connection: sqlite3.Connection) -> ChunkingOptions:
    """Return the sizes by which documents were cut last; the usual ones if it was never noted."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'chunking'").fetchone()
    try:
        return ChunkingOptions(*map(int, row[0].split("/")))
    except (TypeError, ValueError, SettingsError):  # of an older Tether, or damaged
        return ChunkingOptions()


def _has_sources(connection: sqlite3.Connection, document_id: str) -> bool:
    query = "SELECT 1 FROM sources WHERE document_id = ? LIMIT 1"
    return connection.execute(query, (document_id,)).fetchone() is not None


def settle(connection: sqlite3.Connection, document_id: str) -> None:
    """After a source went: let its document go with the last one, chunks, vectors and terms too.

    If only sources with a similar text are left, the document stays for them, but their hashes go:
    the next ingest reads them again and stores what they really say.
    """
    if not _has_sources(connection, document_id):
        connection.execute("DELETE FROM documents WHERE id = ?", (document_id,))
        return
    connection.execute(
        "UPDATE sources SET file_hash = '' WHERE document_id = ?1 AND NOT EXISTS "
        "(SELECT 1 FROM sources WHERE document_id = ?1 AND exact)",
        (document_id,),
    )


def _write_document(
    connection: sqlite3.Connection, made: Plan, pool: _Pool, supply: Supply, key: str
) -> int:
    """Write a document and its chunks; return how many of these were not known."""
    document = made.item.document
    _write_text(connection, document, made.bands)
    kept: list[tuple[int, Chunk]] = []
    fresh: list[tuple[int, Chunk, bytes]] = []
    number = _next_number(connection)
    for chunk in made.item.chunks:
        digest = _digest(embedded_text(document, chunk), key)
        known = pool.take(digest)
        if known is not None:
            kept.append((known, chunk))
        else:
            fresh.append((number + len(fresh), chunk, digest))
    connection.executemany(
        'UPDATE chunks SET document_id = ?, start = ?, "end" = ?, heading = ?, page = ?, '
        "text = ?, place = ? WHERE number = ?",
        ((*_columns(document, chunk), known) for known, chunk in kept),
    )
    if pool.titles - {document.title}:
        connection.executemany(
            "UPDATE terms SET words = ? WHERE rowid = ?",
            ((_terms(document, chunk), known) for known, chunk in kept),
        )
    connection.executemany(
        'INSERT INTO chunks (document_id, start, "end", heading, page, text, place, number) '
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        ((*_columns(document, chunk), new) for new, chunk, _ in fresh),
    )
    connection.executemany(
        "INSERT INTO terms (words, rowid) VALUES (?, ?)",
        ((_terms(document, chunk), new) for new, chunk, _ in fresh),
    )
    embedded = _write_vectors(connection, fresh, pool, supply)
    left = ((one,) for one in pool.left())
    connection.executemany("DELETE FROM chunks WHERE number = ?", left)
    return embedded


def _write_text(connection: sqlite3.Connection, document: Document, bands: Iterable[int]) -> None:
    connection.execute(
        "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
        "title = excluded.title, language = excluded.language, media_type = excluded.media_type, "
        "metadata = excluded.metadata, sections = excluded.sections",
        (
            document.id,
            document.title,
            document.language,
            document.media_type,
            json.dumps(dict(document.metadata), ensure_ascii=False),
            json.dumps([asdict(section) for section in document.sections], ensure_ascii=False),
            document.text,
        ),
    )
    connection.executemany(
        "INSERT OR IGNORE INTO fingerprints (document_id, band) VALUES (?, ?)",
        ((document.id, band) for band in bands),
    )


def _write_vectors(
    connection: sqlite3.Connection,
    fresh: Iterable[tuple[int, Chunk, bytes]],
    pool: _Pool,
    supply: Supply,
) -> int:
    """Give new chunks their vectors; return how many do not come from stored chunks."""
    embedded = 0
    for number, _, digest in fresh:
        model = pool.model(digest)
        if model is not None:  # the text stands in this document twice, or in a former one
            query = "INSERT INTO vectors SELECT ?, vector FROM vectors WHERE number = ?"
            done = connection.execute(query, (number, model)).rowcount
        elif digest in supply.vectors:
            values = (number, supply.vectors[digest])
            done = connection.execute("INSERT INTO vectors VALUES (?, ?)", values).rowcount
            embedded += 1
        else:
            query = "INSERT INTO vectors SELECT ?, vector FROM pending WHERE hash = ?"
            done = connection.execute(query, (number, digest)).rowcount
            embedded += 1
        if not done:
            raise NotEmbedded
    return embedded


def _next_number(connection: sqlite3.Connection) -> int:
    """Return a chunk number that was never used: AUTOINCREMENT's own memory knows."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'").fetchone()
    return 1 if row is None else int(row[0]) + 1


def _columns(document: Document, chunk: Chunk) -> tuple[object, ...]:
    return (
        document.id,
        chunk.start,
        chunk.end,
        chunk.heading,
        chunk.page,
        chunk.text,
        chunk.place,
    )


def _terms(document: Document, chunk: Chunk) -> str:
    return index_terms(indexed_text(document.title, chunk.heading, chunk.text))
