"""Operating a collection: prove it sound, mend it, carry it elsewhere, give it another encoder.

    check              what is wrong with the truth and its index; () if nothing is
    rebuild            mends what can be mended from what is left, and names what is lost
    export_collection  one consistent file of a collection, while writers go on
    import_collection  puts such a file in place; it comes from a stranger until it is proven sound
    reindex            new vectors of another encoder beside the old ones, then one switch
    clear_traces       what documents that were removed left in the files
    delete_collection  all of it, for good

Each holds the write lock, an export excepted; readers go on meanwhile. A truth is only ever
replaced in one step, so that a kill leaves the old one or the new one, whole. Knows nothing of
ranking, files to ingest, or commands.
"""

from retrieval.maintenance.deleting import clear_traces, delete_collection
from retrieval.maintenance.examining import Finding, check
from retrieval.maintenance.mending import Rebuilt, rebuild
from retrieval.maintenance.moving import (
    EXPORT_FORMAT,
    MANIFEST,
    export_collection,
    import_collection,
)
from retrieval.maintenance.reindexing import reindex

__all__ = [
    "EXPORT_FORMAT",
    "MANIFEST",
    "Finding",
    "Rebuilt",
    "check",
    "clear_traces",
    "delete_collection",
    "export_collection",
    "import_collection",
    "rebuild",
    "reindex",
]
