"""The JSONL file of `benchmarks.answering`: rows are appended as they are done, and kept.

Knows nothing of what a row says beyond what names it: its kind, variant, set and id.
"""

import json
from pathlib import Path
from typing import Any

from eval.answering import Row
from ingest.errors import UsageError


class Record:
    """The JSONL file of a measurement: rows are appended and flushed one by one."""

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        """Open the file; with `resume` keep its rows and drop a last line that was cut off.

        Raises:
            UsageError: The file holds rows already and `resume` is false, or it is not JSONL.
        """
        self.path = path
        if path.exists() and path.stat().st_size and not resume:
            raise UsageError(f"{path} holds rows already: add --resume or choose another --out.")
        self.rows = read_rows(path, repair=True) if path.exists() else []
        self._done = {self._key(row) for row in self.rows}

    def has(self, row: Row) -> bool:
        """Return whether a row of that kind, variant, set and id is there."""
        return self._key(row) in self._done

    def add(self, row: Row) -> None:
        """Append one row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.rows.append(dict(row))
        self._done.add(self._key(row))

    @staticmethod
    def _key(row: Row) -> tuple[object, ...]:
        return tuple(row.get(name) for name in ("kind", "variant", "set", "id"))


def read_rows(path: Path, *, repair: bool = False) -> list[dict[str, Any]]:
    """Return the rows of a record; `repair` cuts off a last line without its line end.

    Raises:
        UsageError: The file is missing, or a whole line of it is not JSON.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: measure first, without --report.") from error
    whole = content[: content.rfind(b"\n") + 1]
    if repair and whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise UsageError(f"{path} is not a record ({error}): choose another --out.") from error
