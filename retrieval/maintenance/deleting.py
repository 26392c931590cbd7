"""`clear_traces` and `delete_collection`: what removed documents left behind, or all of it."""

import shutil
from pathlib import Path

from ingest.errors import StoreBusy, StoreError
from retrieval.index import DenseIndex
from retrieval.maintenance.truths import folder_of, writing
from retrieval.store import (
    TRUTH,
    Collection,
    flush,
    require_collection,
)


def clear_traces(collection: Collection) -> str:
    """Clear what removed documents left in a collection's files, and give the space back.

    To be called while writing, once after many removals.

    Returns:
        What is left in a file while a reader is in the way, and until when; "" if nothing is. The
        documents are out all the same.
    """
    DenseIndex(collection).forget_removed()
    try:
        collection.compact()
    except StoreBusy as busy:
        return str(busy)
    return ""


def delete_collection(home: Path, name: str) -> None:
    """Remove a collection with all its documents; programs that have it open still see them.

    Raises:
        UsageError: The name cannot be the name of a collection.
        UnknownCollection: There is none of that name.
        StoreBusy: Another program is writing it.
        StoreError: It cannot be removed.
    """
    require_collection(home, name)
    directory = folder_of(home, name)
    with writing(directory):
        try:
            # First the log, then the truth: a later truth must never find the log of this one.
            for suffix in ("-wal", "-shm", ""):
                (directory / (TRUTH + suffix)).unlink(missing_ok=True)
            flush(directory)
            shutil.rmtree(directory)
        except OSError as error:
            raise StoreError(
                f"collection {name} cannot be removed ({error}); close the programs that use it, "
                f"and make {directory} writable"
            ) from error
