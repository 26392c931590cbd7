"""A full disk and failing writes: one clear error, the store still sound, the next run mends.

`RLIMIT_FSIZE` makes the system refuse real writes beyond a byte position, in whatever file.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ingest.errors import StoreError
from retrieval.encoders import HashingEncoder
from retrieval.index import DenseIndex
from retrieval.maintenance import (
    check,
    export_collection,
    import_collection,
    rebuild,
    reindex,
)
from retrieval.store import TRUTH, open_collection
from tests.crash import NAME, State, item, prove_found, text_of

resource = pytest.importorskip("resource", reason="needs limits on the size of files")


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes of a file fail (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(home: Path, documents: int = 12) -> State:
    state = {f"file:{number}": text_of(number) for number in range(documents)}
    with open_collection(home, NAME, HashingEncoder(), create=True) as collection:
        collection.add_all([item(collection, uri, text) for uri, text in state.items()])
        DenseIndex(collection).save()
    return state


def prove(home: Path, state: State, encoder: HashingEncoder | None = None) -> None:
    """The store is sound and answers with just these documents."""
    assert [found for found in check(home, NAME) if found.severity == "error"] == []
    with open_collection(home, NAME, encoder or HashingEncoder()) as collection:
        assert set(collection.uris()) == set(state)
        prove_found(collection, state, {*state.values(), *map(text_of, range(40, 60))})


def size_of(home: Path) -> int:
    return (home / "collections" / NAME / TRUTH).stat().st_size


def one_clear_line(error: BaseException) -> None:
    assert len(str(error).splitlines()) == 1
    assert ";" in str(error), "no remedy"


def test_a_full_disk_keeps_what_was_there(home: Path) -> None:
    state = fill(home)
    with open_collection(home, NAME, HashingEncoder()) as collection:
        added = {f"file:{number}": text_of(number) for number in range(40, 60)}
        items = [item(collection, uri, text) for uri, text in added.items()]
        with collection.writing() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
            with pytest.raises(StoreError, match="disk is full") as raised:
                collection.add_all(items)
            one_clear_line(raised.value)
            prove_found(collection, state, {*state.values(), *added.values()})
            connection.execute("PRAGMA max_page_count = 1000000")
            collection.add_all(items)
    prove(home, state | added)


@pytest.mark.parametrize("seed", range(8))
def test_writes_that_fail_anywhere_leave_each_call_in_or_out(home: Path, seed: int) -> None:
    state = fill(home)
    chance = random.Random(seed)
    failures = 0
    for place in range(20):
        with open_collection(home, NAME, HashingEncoder()) as collection:
            added = {
                f"file:{uri}": text_of(60 + seed * 1000 + place * 10 + uri) for uri in range(3)
            }
            items = [item(collection, uri, text) for uri, text in added.items()]
            try:
                with files_up_to(chance.randrange(1, 2 * size_of(home))):
                    collection.add_all(items)
                state |= added
            except StoreError as error:
                one_clear_line(error)
                failures += 1
            # the connection that met the failure still answers
            assert {uri: text_in(collection, uri) for uri in state} == state
    assert failures > 0
    prove(home, state)


def text_in(collection: object, uri: str) -> str:
    document = collection.document_of(uri)  # type: ignore[attr-defined]
    return str(document.text)


@pytest.mark.parametrize("seed", range(6))
def test_a_snapshot_that_cannot_be_written_harms_no_search(home: Path, seed: int) -> None:
    state = fill(home)
    chance = random.Random(seed)
    with open_collection(home, NAME, HashingEncoder()) as collection:
        collection.remove("file:3")
        del state["file:3"]
        with files_up_to(chance.randrange(1, 20_000)):
            try:
                DenseIndex(collection).save()
            except StoreError as error:
                one_clear_line(error)
    prove(home, state)
    with open_collection(home, NAME, HashingEncoder()) as collection:
        DenseIndex(collection).rebuild()
    assert check(home, NAME) == ()


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.new"])
def test_a_manifest_that_cannot_be_replaced_harms_no_search(home: Path, name: str) -> None:
    state = fill(home)
    directory = home / "collections" / NAME
    with open_collection(home, NAME, HashingEncoder()) as collection:
        (directory / name).unlink(missing_ok=True)
        (directory / name).mkdir()
        collection.remove("file:3")
        del state["file:3"]
        index = DenseIndex(collection)
        index.save()
        assert index.search(HashingEncoder().encode_queries(["unique"])[0], top_k=3)
        (directory / name).rmdir()
        index.rebuild()
    prove(home, state)
    assert check(home, NAME) == ()


OPERATIONS: dict[str, Callable[[Path], object]] = {
    "reindex": lambda home: reindex(home, NAME, HashingEncoder(32)),
    "rebuild": lambda home: rebuild(home, NAME, HashingEncoder()),
    "export": lambda home: export_collection(home, NAME, home / "exported", replace=True),
    "import": lambda home: import_collection(home, home / "export", NAME, replace=True),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_that_fails_leaves_the_store_as_it_was(
    home: Path, operation: str, seed: int
) -> None:
    state = fill(home)
    export_collection(home, NAME, home / "export")
    chance = random.Random(seed)
    try:
        with files_up_to(chance.randrange(1, size_of(home) // 2)):
            OPERATIONS[operation](home)
    except StoreError as error:
        one_clear_line(error)
        prove(home, state)
        assert not (home / "exported").exists()
    OPERATIONS[operation](home)
    prove(home, state, HashingEncoder(32) if operation == "reindex" else None)
