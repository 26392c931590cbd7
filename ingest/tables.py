"""Tables and records: csv, tsv, json, jsonl; and how a row of any table becomes a line of text.

A row keeps its header: "Name: Ann | City: Paris", empty cells left out, so that a chunk explains
itself and a citation of one line can be understood. Rows are numbered as a spreadsheet numbers
them; about a chunk's worth of rows shares one place, "rows 12-19". A record of a json file is one
line per value, "address.city: Paris", at the place "entry 12". Knows nothing of office formats.
"""

import csv
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

from ingest.encodings import decode
from ingest.errors import SourceError
from ingest.parsed import Parsed, Parser, TextBuilder, one_line

Row = tuple[int, list[str]]  # the number that a spreadsheet shows, the texts of the cells

MAX_CHARACTERS = 300_000_000  # of one file's text: labels are repeated and must not run away
_GROUP_CHARACTERS = 600  # rows that share a place: about a chunk
_SAMPLE = 12  # rows looked at to find a header
_LABEL_CHARACTERS = 60
_HEADER_CHARACTERS = 120  # no cell of a header is longer
_FIELD_CHARACTERS = 1 << 20  # a longer csv field is a quotation mark that was never closed

_LONG_CHARACTERS = 100_000  # of a cell
_BREAKS = dict.fromkeys(map(ord, "\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"), " ")

_VALUE = re.compile(r"[\d\s.,:/%+\-−()$€£¥￥年月日eET]+")  # with a digit: a number, date or time
_YEAR = re.compile(r"(19|20)\d\d年?")
_ADDRESS = re.compile(r"@\S|://")


# --- Rows with their header ----------------------------------------------------------------------


def add_rows(
    uri: str, builder: TextBuilder, rows: Iterable[Row], place: str = "", heading: str = ""
) -> None:
    """Append a table, grouping rows under places such as "rows 12-19".

    Args:
        uri: For messages only.
        builder: Takes the lines.
        rows: In order of their numbers; numbers may be left out where rows are empty.
        place: Goes before "rows 12-19", such as "sheet Sales".
        heading: Goes before the first row, if there is any.

    Raises:
        SourceError: The text becomes too large.
    """
    group: list[str] = []
    size = total = first = last = 0
    for number, line in table_lines(rows, records=True):
        if group and size + len(line) > _GROUP_CHARACTERS:
            _add_group(builder, group, f"{place} {_span(first, last)}".strip(), heading)
            group, size, heading = [], 0, ""
        first = first if group else number
        group.append(line)
        last = number
        size += len(line) + 1
        total += len(line) + 1
        require_bounded_text(uri, total)
    _add_group(builder, group, f"{place} {_span(first, last)}".strip(), heading)


def _add_group(builder: TextBuilder, lines: list[str], place: str, heading: str) -> None:
    if lines:
        builder.at(place=place)
        builder.add(heading, level=1)
        builder.add("\n".join(lines), "row")


def _span(first: int, last: int) -> str:
    return f"row {first}" if first == last else f"rows {first}-{last}"


def require_bounded_text(uri: str, characters: int) -> None:
    """Pass if the text of one file is not too large to be held.

    Raises:
        SourceError: It is.
    """
    if characters > MAX_CHARACTERS:
        limit = MAX_CHARACTERS // 1_000_000
        raise SourceError(f"{uri}: over {limit} million characters; split it into smaller files")


def table_lines(rows: Iterable[Row], *, records: bool) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of each row that is not empty, with the header's labels once known.

    Args:
        rows: In order; a gap in the numbers may start another table with a header of its own.
        records: Whether the first row is most likely a header (csv, sheets), so that two columns
            of words need no further evidence.
    """
    source = ((number, cells) for number, cells in rows if any(cells))
    sample = deque(islice(source, _SAMPLE))
    labels: list[str] = []
    follows, bare = -1, 0  # the number after the last row; rows left up to the header's end
    while sample:
        number, cells = sample[0]
        if number != follows:
            block = [cells for place, (row, cells) in enumerate(sample) if row == number + place]
            likely = 1 if records else 3  # columns from which on no evidence is needed
            found = _find_header(block, None if labels else likely)
            bare, labels = found or (0, labels)
        yield number, row_line([] if bare > 0 else labels, cells)
        bare, follows = bare - 1, number + 1
        sample.popleft()
        sample.extend(islice(source, 1))


def cell_text(text: str) -> str:
    """Return the text of a cell on one line, all white space as single spaces.

    In a text of megabytes only line breaks become spaces: its words would fill the memory.
    """
    if len(text) < _LONG_CHARACTERS:
        return " ".join(text.split())
    return text.translate(_BREAKS).strip()


def row_line(labels: Sequence[str], cells: Sequence[str]) -> str:
    """Return "label: cell | label: cell" without the empty cells; labels may be fewer."""
    parts = []
    for column, cell in enumerate(cells):
        if cell:
            label = labels[column] if column < len(labels) else ""
            parts.append(f"{label}: {cell}" if label else cell)
    return " | ".join(parts)


def _find_header(block: list[list[str]], likely: int | None) -> tuple[int, list[str]] | None:
    """Return (rows up to the header's end, labels), or None where rows have no header.

    Args:
        block: The first rows of a table; titles may stand above its header.
        likely: Columns from which on a header needs no evidence, None if it always does.
    """
    width = max(sum(map(bool, cells)) for cells in block)
    for index, cells in enumerate(block[:-1]):  # the last has no row under it
        filled = [cell for cell in cells if cell]
        if width > 1 and (len(filled) < 0.6 * width or len(set(filled)) < 2):
            continue  # a title
        body = block[index + 1 :]
        in_groups = len(body) > 1 and _spans_columns(cells)
        if not _is_header(cells, body[1:] if in_groups else body):
            return None
        if in_groups and _is_header(body[0], body[1:]):
            pairs = zip(_padded(cells, len(body[0])), _padded(body[0], len(cells)), strict=True)
            labels = [upper if upper == lower else f"{upper} {lower}" for upper, lower in pairs]
            return index + 2, [_label(label) for label in labels]
        if (likely and width > 1 and width >= likely) or _differs(cells, body):
            return index + 1, [_label(cell) for cell in cells]
        return None
    return None


def _is_header(cells: list[str], body: list[list[str]]) -> bool:
    """Return whether all cells are short names that do not come again as values below them."""
    filled = [cell for cell in cells if cell]
    years = sum(_YEAR.fullmatch(cell) is not None for cell in filled)
    return (
        2 * len(set(filled)) >= len(filled) > years
        and all(len(cell) <= _HEADER_CHARACTERS for cell in filled)
        and not any(_is_value(cell) and not _YEAR.fullmatch(cell) for cell in filled)
        and not any(_ADDRESS.search(cell) for cell in filled)
        and not any(cell and cell in _column(body, place) for place, cell in enumerate(cells))
    )


def _differs(cells: list[str], body: list[list[str]]) -> bool:
    """Return whether some column holds numbers, or much longer texts, under a name."""
    for place, cell in enumerate(cells):
        values = [value for value in _column(body, place) if value]
        if not cell or not values or _is_value(cell):
            continue
        numbers = sum(map(_is_value, values))
        if 2 * numbers > len(values) or sum(map(len, values)) >= 3 * len(cell) * len(values):
            return True
    return False


def _column(rows: list[list[str]], place: int) -> list[str]:
    return [cells[place] for cells in rows if place < len(cells)]


def _is_value(cell: str) -> bool:
    return len(cell) <= 40 and _VALUE.fullmatch(cell) is not None and any(map(str.isdigit, cell))


def _spans_columns(cells: list[str]) -> bool:
    return any(cell and cell == after for cell, after in pairwise(cells))


def _padded(cells: list[str], length: int) -> list[str]:
    return cells + [""] * (length - len(cells))


def _label(cell: str) -> str:
    cell = cell.strip().rstrip(":：").rstrip()
    return cell if len(cell) <= _LABEL_CHARACTERS else cell[: _LABEL_CHARACTERS - 1] + "…"


# --- Separated values ----------------------------------------------------------------------------


def parse_csv(uri: str, data: bytes) -> Parsed:
    """Return the rows of a file of values separated by comma, semicolon, tab or bar.

    Raises:
        SourceError: The encoding is unknown or the text becomes too large.
    """
    return _parse_separated(uri, data, ",;\t|")


def parse_tsv(uri: str, data: bytes) -> Parsed:
    """Return the rows of a file of values separated by tabs, or by what it uses instead.

    Raises:
        SourceError: The encoding is unknown or the text becomes too large.
    """
    return _parse_separated(uri, data, "\t,;|")


def _parse_separated(uri: str, data: bytes, delimiters: str) -> Parsed:
    text, encoding = decode(uri, data)
    start = 0
    if declared := re.match(r"sep=(.)\r?\n", text):  # Excel's own hint
        delimiter, start = declared[1], declared.end()
    else:
        delimiter = _sniff(text, delimiters)
    csv.field_size_limit(_FIELD_CHARACTERS)
    lines, first = _lines(text, start), 2 if start else 1
    try:
        builder = TextBuilder()
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        add_rows(uri, builder, _numbered(reader, first))
    except csv.Error:  # some quotation mark is a mere character, and must not swallow rows
        builder = TextBuilder()
        rows = (_cells(line, delimiter) for line in _lines(text, start))
        add_rows(uri, builder, _numbered(rows, first))
    return builder.parsed("", {"encoding": encoding})


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return line.split(delimiter)


def _numbered(rows: Iterable[list[str]], first: int) -> Iterator[Row]:
    for number, cells in enumerate(rows, start=first):
        yield number, [cell_text(cell) for cell in cells]


def _lines(text: str, start: int = 0) -> Iterator[str]:
    """Yield the lines with their ends, without a second copy of the whole text."""
    end = "\n" if "\n" in text else "\r"
    while start < len(text):
        stop = text.find(end, start) + 1 or len(text)
        yield text[start:stop]
        start = stop


def _sniff(text: str, delimiters: str) -> str:
    """Return the delimiter by which most of the first rows have the same number of cells."""
    best, best_score = delimiters[0], (0.0, 0)
    head = list(islice(_lines(text[: 1 << 16]), 100))
    for delimiter in delimiters:
        rows = csv.reader(head, delimiter=delimiter)
        try:
            widths = [len(cells) for cells in rows if cells]
        except csv.Error:
            continue
        usual = max(set(widths), key=widths.count, default=1)
        score = (widths.count(usual) / max(1, len(widths)), usual) if usual > 1 else (0.0, 0)
        if score > best_score:
            best, best_score = delimiter, score
    return best


# --- Records -------------------------------------------------------------------------------------


def parse_json(uri: str, data: bytes) -> Parsed:
    """Return the records of a json file: entries of a list, or of the lists of an object.

    Numbers stay as they are written. The elements of a list are read one by one.

    Raises:
        SourceError: It is no json, nested too deeply, or its text becomes too large.
    """
    text, encoding = decode(uri, data)
    records = _Records(uri)
    try:
        if text.lstrip()[:1] == "[":
            records.add_list(_elements(text))
        else:
            records.add_object(_DECODER.decode(text))
    except RecursionError:
        raise SourceError(f"{uri}: nested too deeply; flatten it") from None
    except ValueError as error:
        raise SourceError(f"{uri}: not valid json ({error}); correct it") from None
    return replace(records.builder.parsed("", {"encoding": encoding}), title="")


def parse_jsonl(uri: str, data: bytes) -> Parsed:
    """Return the records of a file with one json value a line; entries are numbered by lines.

    A line that is no json is kept as it stands and listed in the metadata under "bad_lines".

    Raises:
        SourceError: Most lines are no json, or the text becomes too large.
    """
    text, encoding = decode(uri, data)
    records, bad, lines = _Records(uri), [], 0
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        lines += 1
        try:
            value = _DECODER.decode(line.strip())
            block = "\n".join(_leaves(value))
        except (ValueError, RecursionError):
            bad.append(number)
            block = line
        records.add_entry(number, block)
    if 2 * len(bad) > lines:
        raise SourceError(
            f"{uri}: {len(bad)} of {lines} lines are no json, the first is line {bad[0]}; "
            "give one json value a line"
        )
    metadata = {"encoding": encoding}
    if bad:
        more = " ..." if len(bad) > 20 else ""
        metadata["bad_lines"] = f"{len(bad)} of {lines}: {' '.join(map(str, bad[:20]))}{more}"
    return records.builder.parsed("", metadata)


# Numbers stay texts: 12.50 is not 12.5, and a number of a million digits costs nothing.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
_SPACE = re.compile(r"[ \t\r\n]*")


def _space_end(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _elements(text: str) -> Iterator[Any]:
    """Yield the elements of a json list one by one, so that only one is in memory."""
    position = _space_end(text, text.index("[") + 1)
    if text[position : position + 1] != "]":
        while True:
            element, position = _DECODER.raw_decode(text, _space_end(text, position))
            yield element
            position = _space_end(text, position)
            if text[position : position + 1] != ",":
                break
            position += 1
    if text[position : position + 1] != "]":
        raise ValueError(f"a comma or ] is missing at character {position}")
    if _space_end(text, position + 1) != len(text):
        raise ValueError(f"extra data at character {position + 1}")


class _Records:
    """Builds the text of records: an entry a block, its place "entry N"."""

    def __init__(self, uri: str) -> None:
        self.builder = TextBuilder()
        self._uri = uri
        self._characters = 0

    def add_entry(self, number: int, block: str, level: int | None = None) -> None:
        self._characters += len(block) + 2
        require_bounded_text(self._uri, self._characters)
        self.builder.at(place=f"entry {number}" if number else "")
        self.builder.add(block, level=level)

    def add_list(self, elements: Iterable[Any]) -> None:
        """Append the records of a list; scalars in a row share a block."""
        for number, element in enumerate(elements, start=1):
            self.add_entry(number, "\n".join(_leaves(element)))

    def add_object(self, value: Any) -> None:  # noqa: ANN401 - whatever json holds
        """Append an object: lists of records under their key as heading, all else by paths."""
        if not isinstance(value, dict):
            self.add_entry(0, "\n".join(_leaves(value)))
            return
        lists = {key: inner for key, inner in value.items() if _is_records(inner)}
        others = {key: inner for key, inner in value.items() if key not in lists}
        self.add_entry(0, "\n".join(_leaves(others)))
        for key, inner in lists.items():
            self.add_entry(0, one_line(key) or "-", level=1)
            self.add_list(inner)


def _is_records(value: Any) -> bool:  # noqa: ANN401 - whatever json holds
    return isinstance(value, list) and any(isinstance(element, dict) for element in value)


def _leaves(value: Any, path: str = "") -> Iterator[str]:  # noqa: ANN401 - whatever json holds
    """Yield "path.to.key: value" for each value; a list of plain values is one line."""
    if isinstance(value, dict):
        pairs = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list) and any(isinstance(element, (dict, list)) for element in value):
        pairs = [(str(number), inner) for number, inner in enumerate(value, start=1)]
    else:
        values = value if isinstance(value, list) else [value]
        text = ", ".join(shown for element in values if (shown := _scalar(element)))
        if text:
            yield f"{path}: {text}" if path else text
        return
    for key, inner in pairs:
        yield from _leaves(inner, f"{path}.{key}" if path else key)


def _scalar(value: Any) -> str:  # noqa: ANN401 - a string, boolean or null
    if isinstance(value, str):
        return value.strip()
    return "" if value is None else str(value).lower()


FORMATS: dict[str, tuple[str, Parser]] = {
    ".csv": ("text/csv", parse_csv),
    ".tsv": ("text/tab-separated-values", parse_tsv),
    ".tab": ("text/tab-separated-values", parse_tsv),
    ".json": ("application/json", parse_json),
    ".jsonl": ("application/x-ndjson", parse_jsonl),
    ".ndjson": ("application/x-ndjson", parse_jsonl),
}
