"""Office documents: Word, PowerPoint, Excel and OpenDocument; all are zip containers of XML.

Slides become the place "slide 3", rows of sheets "sheet Sales rows 2-40". Each container is
unpacked once and counted before a library opens it, and XML that defines entities is refused.
Knows how documents are stored; how a table's row becomes a line, `ingest.tables` knows.
"""

import datetime
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

from ingest.archives import MAX_UNPACKED_BYTES, open_zip, pieces
from ingest.errors import SourceError
from ingest.parsed import Parsed, Parser, TextBuilder, one_line
from ingest.rtf import parse_rtf
from ingest.tables import Row, add_rows, cell_text, row_line, table_lines

_MAX_TREE_BYTES = 100 * 1024 * 1024  # of one XML part that becomes a tree in memory
_MAX_SHEET_BYTES = 512 * 1024 * 1024  # of one XML part that is read row by row

# --- Containers ----------------------------------------------------------------------------------


def require_bounded_zip(
    uri: str, data: bytes, limit: int = MAX_UNPACKED_BYTES, part_limit: int = MAX_UNPACKED_BYTES
) -> None:
    """Pass if a zip container is whole and unpacks to a bounded size; the bytes are counted.

    Args:
        uri: For messages only.
        data: The container.
        limit: Most unpacked bytes in all.
        part_limit: Most unpacked bytes of one XML part: a tree of it takes a multiple in memory.

    Raises:
        SourceError: It is no zip archive, damaged, protected by a password, or a bomb.
    """
    left = limit
    with open_zip(uri, data) as archive:
        for info in archive.infolist():
            is_xml = info.filename.lower().endswith((".xml", ".rels"))
            bound = min(left, part_limit) if is_xml else left
            left -= sum(map(len, pieces(uri, archive, info, bound)))


def _parser(suffix: str, read: Any, part_limit: int = _MAX_TREE_BYTES) -> Parser:  # noqa: ANN401
    """Return a parser that refuses unsafe containers, then has `read(uri, data)` read them."""

    def parse(uri: str, data: bytes) -> Parsed:
        if data.startswith(b"\xd0\xcf\x11\xe0"):  # an OLE container
            reason = f"protected by a password or in a format older than {suffix}"
            raise SourceError(f"{uri}: {reason}; save it as {suffix} without a password")
        try:
            require_bounded_zip(uri, data, part_limit=part_limit)
            parsed: Parsed = read(uri, data)
        except SourceError:
            raise
        except Exception as error:  # the libraries have no error classes for damaged parts
            reason = f"not a readable {suffix} ({type(error).__name__})"
            raise SourceError(f"{uri}: {reason}; save it again") from None
        return parsed

    return parse


def _add_table(builder: TextBuilder, rows: Iterable[list[str]]) -> None:
    """Append a table inside a document: a line a row, with the header's labels if it has one."""
    for _, line in table_lines(enumerate(rows, start=1), records=False):
        builder.add(line, "row")


# --- Word ----------------------------------------------------------------------------------------

_HEADING_STYLE = re.compile(r"(?:heading|标题|標題|见出し)\s*(\d)", re.IGNORECASE)
_TITLE_STYLE = re.compile(r"title|标题|標題", re.IGNORECASE)
# What python-docx does not look into: content controls, tracked insertions, smart tags.
_WRAPPERS = ".//w:sdt | .//w:ins | .//w:moveTo | .//w:smartTag | .//w:customXml"
_BOXES = ".//w:txbxContent[not(ancestor::*[local-name() = 'Fallback'])]"


def _read_docx(_uri: str, data: bytes) -> Parsed:
    """Return the paragraphs, lists, tables, text boxes and notes of a Word document in order."""
    import docx

    document = docx.Document(BytesIO(data))
    _unwrap(document.element.body)
    builder = TextBuilder()
    _add_word_blocks(document, builder)
    _add_notes(document, builder)
    _add_margins(document, builder)
    return builder.parsed(document.core_properties.title or "", {})


def _unwrap(body: Any) -> None:  # noqa: ANN401 - an lxml element
    """Put the content of each wrapper in the wrapper's place."""
    for wrapper in body.xpath(_WRAPPERS):
        content = next((c for c in wrapper if c.tag.endswith("}sdtContent")), wrapper)
        if wrapper.tag.endswith("}sdt") and content is wrapper:
            continue
        for child in list(content):
            wrapper.addprevious(child)
        wrapper.getparent().remove(wrapper)


def _add_word_blocks(container: Any, builder: TextBuilder) -> None:  # noqa: ANN401 - from docx
    for block in container.iter_inner_content():
        if hasattr(block, "rows"):
            _add_table(builder, map(_word_cells, block.rows))
            continue
        level = _heading_level(block.style)
        if level is not None:
            builder.add(one_line(block.text), level=level)
        else:
            properties = block._p.pPr
            numbered = properties is not None and properties.numPr is not None
            listed = numbered or (block.style.name or "").startswith("List")
            builder.add(block.text, "item" if listed else "")
        for box in block._p.xpath(_BOXES):
            _add_paragraphs(box, builder)


def _word_cells(row: Any) -> list[str]:  # noqa: ANN401 - a docx.table._Row
    """Return the cells' texts by column; a merged cell fills its first column."""
    texts, seen = [], None
    for cell in row.cells:
        texts.append("" if cell._tc is seen else _word_text(cell))
        seen = cell._tc
    return texts


def _word_text(cell: Any) -> str:  # noqa: ANN401 - a docx.table._Cell
    """Return a cell's text on one line, nested tables flattened into it."""
    parts = [
        " ".join(text for inner in block.rows for text in _word_cells(inner))
        if hasattr(block, "rows")
        else block.text
        for block in cell.iter_inner_content()
    ]
    return one_line(" ".join(parts))


def _heading_level(style: Any) -> int | None:  # noqa: ANN401 - a docx paragraph style
    """Return 0 for a title, 1 to 9 for a heading, by the style's name or its outline level."""
    name = style.name or ""
    if found := _HEADING_STYLE.match(name):
        return int(found[1])
    if _TITLE_STYLE.fullmatch(name):
        return 0
    outline = style.element.xpath("w:pPr/w:outlineLvl/@w:val")
    return int(outline[0]) + 1 if outline and int(outline[0]) < 9 else None


def _add_paragraphs(element: Any, builder: TextBuilder, kind: str = "") -> None:  # noqa: ANN401
    for paragraph in element.iter("{*}p"):
        builder.add("".join(text.text or "" for text in paragraph.iter("{*}t")), kind)


def _add_notes(document: Any, builder: TextBuilder) -> None:  # noqa: ANN401 - from docx
    """Append footnotes and endnotes after the text."""
    from lxml import etree

    for relation in document.part.rels.values():
        if relation.reltype.endswith(("/footnotes", "/endnotes")) and not relation.is_external:
            parser = etree.XMLParser(resolve_entities=False, no_network=True)
            _add_paragraphs(etree.fromstring(relation.target_part.blob, parser), builder, "item")


def _add_margins(document: Any, builder: TextBuilder) -> None:  # noqa: ANN401 - from docx
    """Append what stands in headers and footers, each text once."""
    seen = set()
    for section in document.sections:
        for margin in (section.header, section.footer):
            for paragraph in [] if margin.is_linked_to_previous else margin.paragraphs:
                text = one_line(paragraph.text)
                if text not in seen and not text.isdigit():  # a page number says nothing
                    builder.add(text)
                seen.add(text)


# --- PowerPoint ----------------------------------------------------------------------------------


def _read_pptx(_uri: str, data: bytes) -> Parsed:
    """Return the slides: title as heading, texts, tables, charts and speaker notes."""
    import pptx

    show = pptx.Presentation(BytesIO(data))
    builder = TextBuilder()
    for number, slide in enumerate(show.slides, start=1):
        builder.at(place=f"slide {number}")
        title = slide.shapes.title
        # A slide without a title ends the heading of the one before it.
        name = one_line(title.text_frame.text) if title is not None else ""
        builder.add(name or f"Slide {number}", level=1)
        _add_shapes(slide.shapes, None if title is None else title.shape_id, builder)
        if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame):
            for paragraph in notes.paragraphs:
                builder.add(_slide_text(paragraph))
    title = show.core_properties.title or ""
    title = "" if title == "PowerPoint Presentation" else title  # what PowerPoint writes by itself
    return builder.parsed(title, {"slides": str(len(show.slides))})


def _add_shapes(shapes: Any, title_id: int | None, builder: TextBuilder) -> None:  # noqa: ANN401
    for shape in shapes:
        if hasattr(shape, "shapes"):  # a group
            _add_shapes(shape.shapes, title_id, builder)
        elif shape.has_text_frame and shape.shape_id != title_id:
            paragraphs = shape.text_frame.paragraphs
            listed = shape.is_placeholder and len(paragraphs) > 1
            for paragraph in paragraphs:
                builder.add(_slide_text(paragraph), "item" if listed else "")
        elif getattr(shape, "has_table", False):
            rows = ([one_line(_grid_text(cell)) for cell in row.cells] for row in shape.table.rows)
            _add_table(builder, rows)
        elif getattr(shape, "has_chart", False):
            _add_chart(shape.chart, builder)


def _slide_text(paragraph: Any) -> str:  # noqa: ANN401 - from pptx
    return str(paragraph.text).replace("\v", "\n")  # how python-pptx spells a line break


def _grid_text(cell: Any) -> str:  # noqa: ANN401 - a pptx table cell
    return "" if cell.is_spanned else str(cell.text_frame.text)


def _add_chart(chart: Any, builder: TextBuilder) -> None:  # noqa: ANN401 - from pptx
    """Append a chart as the table that it draws."""
    if chart.has_title and chart.chart_title.has_text_frame:
        builder.add(chart.chart_title.text_frame.text)
    for plot in chart.plots:
        series = list(plot.series)
        labels = ["", *(one_line(one.name or "") for one in series)]
        for index, category in enumerate(plot.categories):
            values = [one.values[index] if index < len(one.values) else None for one in series]
            cells = [one_line(str(category)), *(_shown(value, "General") for value in values)]
            builder.add(row_line(labels, cells), "row")


# --- Excel ---------------------------------------------------------------------------------------

_SPAN = re.compile(
    rb'<(?:\w+:)?mergeCell\s[^>]{0,200}?ref="([A-Z]{1,3})(\d{1,7}):([A-Z]{1,3})(\d{1,7})"'
)
_UNCACHED = re.compile(
    rb"(?:</(?:\w+:)?f>|<(?:\w+:)?f\s[^>]{0,300}/>)\s{0,20}"
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></|</(?:\w+:)?c>)"
)
_MAX_CELLS = 50_000_000  # of one sheet, empty ones between others included
_MAX_COLUMNS = 16_384
_MAX_REPEATED_ROWS = 1000  # that are alike in an .ods sheet
_MAX_SPANS = 10_000  # merged areas of one sheet; more are left as they are
_MAX_FILLED = 200  # columns over which a merged cell is repeated
_DECIMALS = re.compile(r"[#0]+(?:\.([#0]*))?(%?)")


@dataclass(frozen=True, slots=True)
class _Span:
    """A merged area; bounds are inclusive, columns count from 0."""

    top: int
    bottom: int
    left: int
    right: int


def _read_xlsx(uri: str, data: bytes) -> Parsed:
    """Return all sheets: name as heading, rows with their header, values as they are shown."""
    import openpyxl

    book = openpyxl.load_workbook(BytesIO(data), read_only=True, data_only=True, keep_links=False)
    builder = TextBuilder()
    for sheet in book.worksheets:
        name = one_line(sheet.title)
        uncached, spans = _survey(sheet)
        rows = _unmerged(_sheet_rows(uri, sheet, uncached), spans)
        add_rows(uri, builder, rows, f"sheet {name}", heading=name)
    parsed = builder.parsed("", {"sheets": str(len(book.worksheets))})
    return replace(parsed, title=book.properties.title or "")


def _survey(sheet: Any) -> tuple[bool, list[_Span]]:  # noqa: ANN401 - from openpyxl
    """Return whether some formula has no cached value, and the merged areas, topmost last."""
    from openpyxl.utils import column_index_from_string as index

    uncached, spans, tail = False, set(), b""
    with sheet._get_source() as source:
        while block := source.read(1 << 20):
            window = tail + block
            tail = window[-512:]
            uncached = uncached or _UNCACHED.search(window) is not None
            for left, top, right, bottom in _SPAN.findall(window):
                columns = index(left.decode()) - 1, index(right.decode()) - 1
                spans.add(_Span(int(top), int(bottom), *columns))
                if len(spans) > _MAX_SPANS:
                    return True, []
    return uncached, sorted(spans, key=lambda span: -span.top)


def _sheet_rows(uri: str, sheet: Any, uncached: bool) -> Iterator[Row]:  # noqa: ANN401
    """Yield the rows that have cells; a formula without a cached value stands for itself.

    Goes by the numbers of rows and cells alone: what the sheet says of its size may be wrong.
    """
    formats: dict[int, str] = {}
    width = 0
    formulas = _sheet_cells(sheet, data_only=False) if uncached else None
    for number, cells in _sheet_cells(sheet, data_only=True):
        texts = [""] * max((cell["column"] for cell in cells), default=0)
        originals = next(formulas)[1] if formulas else cells
        for cell, original in zip(cells, originals, strict=True):
            value, style = cell["value"], cell["style_id"]
            if value is None and original["data_type"] == "f":
                formula = original["value"]
                value = getattr(formula, "text", formula)
            if value is not None:
                if style not in formats:
                    formats[style] = _number_format(sheet.parent, style)
                texts[cell["column"] - 1] = _shown(value, formats[style])
        width += len(texts)
        if width > _MAX_CELLS:
            raise SourceError(f"{uri}: over {_MAX_CELLS} cells; split it into smaller files")
        yield number, texts


def _sheet_cells(sheet: Any, *, data_only: bool) -> Iterator[tuple[int, list[dict[str, Any]]]]:  # noqa: ANN401
    # openpyxl's own rows would fill in every missing row and column, however many there are.
    from openpyxl.worksheet._reader import WorkSheetParser

    book = sheet.parent
    with sheet._get_source() as source:
        yield from WorkSheetParser(
            source,
            sheet._shared_strings,
            data_only=data_only,
            epoch=book.epoch,
            date_formats=book._date_formats,
            timedelta_formats=book._timedelta_formats,
        ).parse()


def _number_format(book: Any, style: int) -> str:  # noqa: ANN401 - from openpyxl
    from openpyxl.styles.numbers import BUILTIN_FORMATS, BUILTIN_FORMATS_MAX_SIZE

    try:
        number = book._cell_styles[style].numFmtId
        if number < BUILTIN_FORMATS_MAX_SIZE:
            return str(BUILTIN_FORMATS.get(number, "General"))
        return str(book._number_formats[number - BUILTIN_FORMATS_MAX_SIZE])
    except IndexError:
        return "General"


def _shown(value: Any, number_format: str) -> str:  # noqa: ANN401 - what a cell may hold
    """Return a value as the sheet shows it, dates in ISO form, digits not grouped."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime.datetime):
        at_midnight = value.time() == datetime.time()
        return value.date().isoformat() if at_midnight else value.isoformat(" ", "seconds")
    if isinstance(value, datetime.time):
        return value.isoformat("seconds")
    if isinstance(value, datetime.timedelta):
        return _duration(value)
    if isinstance(value, int | float):
        return _number(value, number_format)
    return "" if value is None else cell_text(str(value).replace("_x000D_", " "))


def _duration(value: datetime.timedelta) -> str:
    """Return hours, minutes and seconds as Excel counts them up: "26:05:00", no days."""
    seconds = round(value.total_seconds())
    minutes, rest = divmod(abs(seconds), 60)
    return f"{'-' if seconds < 0 else ''}{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _number(value: float, number_format: str) -> str:
    # Colours, conditions and literals say nothing of the digits; negatives may have a section.
    pattern = re.sub(r'"[^"]*"|\[[^\]]*\]|[\\_*].', "", number_format.split(";", maxsplit=1)[0])
    found = _DECIMALS.search(pattern.replace(",", ""))
    if found and "E" not in pattern and "/" not in pattern and not pattern.endswith(","):
        decimals, percent = len(found[1] or ""), found[2] or "%" * ("%" in pattern)
        text = f"{value * 100 if percent else value:.{min(decimals, 30)}f}"
        optional = len(found[1] or "") - len((found[1] or "").rstrip("#"))
        while optional and text.endswith("0"):
            text, optional = text[:-1], optional - 1
        return text.rstrip(".") + percent if decimals else text + percent
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return str(int(value))
    return f"{round(value, 8) if abs(value) >= 1 else value:.15g}"  # no artefacts of binary


def _unmerged(rows: Iterable[Row], waiting: list[_Span]) -> Iterator[Row]:
    """Repeat the text of merged cells in all that they cover, so that each row explains itself.

    A row that holds nothing else, such as a title, is left alone. `waiting` is sorted, topmost
    last; the source of `rows` may append areas that start in the row it yields next.
    """
    active: list[tuple[_Span, str]] = []
    budget = 20_000_000  # cells to look at: hostile areas must not take hours
    for number, cells in rows:
        while waiting and waiting[-1].top <= number:
            span = waiting.pop()
            text = cells[span.left] if span.top == number and span.left < len(cells) else ""
            if text:
                active.append((span, text))
        if budget < 0:
            active = []
        budget -= len(active)
        active = [(span, text) for span, text in active if span.bottom >= number]
        for span, text in active:
            right = min(span.right, span.left + _MAX_FILLED) + 1
            budget -= len(cells) + right - span.left
            if any(cells[: span.left]) or any(cells[right:]):
                cells.extend([""] * (right - len(cells)))
                cells[span.left : right] = [text] * (right - span.left)
        yield number, cells


# --- OpenDocument --------------------------------------------------------------------------------

_ODF = "{urn:oasis:names:tc:opendocument:xmlns:%s:1.0}"
_TABLE, _OFFICE, _TEXT = _ODF % "table", _ODF % "office", _ODF % "text"
_DRAW, _SHOW, _STYLE = _ODF % "drawing", _ODF % "presentation", _ODF % "style"
_UNSEEN = {"annotation", "tracked-changes", "forms", "sequence-decls", "note-citation", "ruby-text"}


def _read_odt(uri: str, data: bytes) -> Parsed:
    """Return the headings, paragraphs, lists, tables and text boxes of a text document."""
    root, title = _odf_tree(uri, data)
    builder = TextBuilder()
    _add_odf(root.find(f"{_OFFICE}body"), builder, _odf_titles(root))
    return builder.parsed(title, {})


def _read_odp(uri: str, data: bytes) -> Parsed:
    """Return the slides: title as heading, texts, tables and speaker notes."""
    root, title = _odf_tree(uri, data)
    builder = TextBuilder()
    pages = list(root.iter(f"{_DRAW}page"))
    for number, page in enumerate(pages, start=1):
        frames = [frame for frame in page if frame.get(f"{_SHOW}class") == "title"]
        name = one_line(" ".join(_odf_cell(frame) for frame in frames))
        builder.at(place=f"slide {number}")
        builder.add(name or f"Slide {number}", level=1)
        for frame in frames:
            page.remove(frame)
        _add_odf(page, builder, set())
    return builder.parsed(title, {"slides": str(len(pages))})


def _read_ods(uri: str, data: bytes) -> Parsed:
    """Return all sheets: name as heading, rows with their header, values as they are shown."""
    from lxml import etree

    builder = TextBuilder()
    with zipfile.ZipFile(BytesIO(data)) as archive:
        title = _odf_title(uri, archive)
        with archive.open("content.xml") as source:
            events = etree.iterparse(
                source, ("start", "end"), resolve_entities=False, no_network=True
            )
            sheets = 0
            for event, element in events:
                if event == "start" and element.tag == f"{_TABLE}table":
                    sheets += 1
                    name = one_line(element.get(f"{_TABLE}name", ""))
                    spans: list[_Span] = []
                    rows = _unmerged(_odf_rows(_sheet_elements(events), spans), spans)
                    add_rows(uri, builder, rows, f"sheet {name}", heading=name)
    return replace(builder.parsed("", {"sheets": str(sheets)}), title=title)


def _sheet_elements(events: Any) -> Iterator[Any]:  # noqa: ANN401 - lxml events and elements
    """Yield the rows of the sheet that has just started, each emptied after its use."""
    for event, element in events:
        if event == "end" and element.tag == f"{_TABLE}table":
            element.clear()
            return
        if event == "end" and element.tag == f"{_TABLE}table-row":
            yield element
            element.clear(keep_tail=False)
            while element.getprevious() is not None:
                element.getparent().remove(element.getprevious())


def _odf_tree(uri: str, data: bytes) -> tuple[Any, str]:
    """Return the root of the content and the title."""
    from lxml import etree

    with zipfile.ZipFile(BytesIO(data)) as archive:
        title = _odf_title(uri, archive)
        parser = etree.XMLParser(resolve_entities=False, no_network=True)
        return etree.fromstring(archive.read("content.xml"), parser), title


def _odf_title(uri: str, archive: zipfile.ZipFile) -> str:
    """Return the title in the metadata; refuse what is encrypted or defines entities."""
    from lxml import etree

    names = archive.namelist()
    manifest = "META-INF/manifest.xml"
    if manifest in names and b"encryption-data" in archive.read(manifest):
        raise SourceError(f"{uri}: protected by a password; save it without one")
    with archive.open("content.xml") as content:
        if b"<!DOCTYPE" in content.read(4096):
            raise SourceError(f"{uri}: its XML defines entities; save it again in your office")
    if "meta.xml" not in names:
        return ""
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    meta = etree.fromstring(archive.read("meta.xml"), parser)
    return meta.findtext(".//{http://purl.org/dc/elements/1.1/}title") or ""


def _odf_titles(root: Any) -> set[str]:  # noqa: ANN401 - an lxml element
    """Return the names of the paragraph styles that make a title."""
    styles = root.iter(f"{_STYLE}style")
    named = {
        s.get(f"{_STYLE}name") for s in styles if s.get(f"{_STYLE}parent-style-name") == "Title"
    }
    return {"Title", *named}


def _add_odf(element: Any, builder: TextBuilder, titles: set[str], kind: str = "") -> None:  # noqa: ANN401
    for child in element.iterchildren(tag="*"):
        name = child.tag.rpartition("}")[2]
        if name in _UNSEEN:
            continue
        if name == "h":
            level = child.get(f"{_TEXT}outline-level", "1")
            builder.add(one_line(_odf_text(child)), level=int(level))
        elif name == "p":
            is_title = child.get(f"{_TEXT}style-name") in titles
            builder.add(_odf_text(child), kind, level=0 if is_title else None)
            for box in _odf_boxes(child):
                _add_odf(box, builder, titles)
        elif name == "table":
            spans: list[_Span] = []
            rows = _odf_rows(child.iter(f"{_TABLE}table-row"), spans)
            _add_table(builder, (cells for _, cells in _unmerged(rows, spans)))
        else:
            _add_odf(child, builder, titles, "item" if name == "list" else kind)


def _odf_text(element: Any) -> str:  # noqa: ANN401 - an lxml element
    """Return the text of a paragraph; its text boxes stand elsewhere, its notes in brackets."""
    parts = [element.text or ""]
    for child in element.iterchildren():
        name = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else "annotation"
        if name == "s":
            parts.append(" " * min(int(child.get(f"{_TEXT}c", "1")), 100))
        elif name in {"tab", "line-break"}:
            parts.append("\t" if name == "tab" else "\n")
        elif name == "note":
            parts.append(f" [{_odf_cell(child)}]")
        elif name not in _UNSEEN and name not in {"text-box", "table"}:
            parts.append(_odf_text(child))
        parts.append(child.tail or "")
    return "".join(parts)


def _odf_boxes(element: Any) -> Iterator[Any]:  # noqa: ANN401 - lxml elements
    for child in element.iterchildren(tag="*"):
        if child.tag == f"{_DRAW}text-box":
            yield child
        else:
            yield from _odf_boxes(child)


def _odf_cell(element: Any) -> str:  # noqa: ANN401 - an lxml element
    """Return all paragraphs inside an element on one line."""
    builder = TextBuilder()
    _add_odf(element, builder, set())
    return one_line(builder.parsed("", {}).text)


def _odf_rows(elements: Iterable[Any], spans: list[_Span]) -> Iterator[Row]:
    """Yield the rows that have cells; their merged areas are appended to `spans`."""
    number = 1
    for element in elements:
        cells: list[str] = []
        for cell in element.iterchildren(f"{_TABLE}table-cell", f"{_TABLE}covered-table-cell"):
            text = _odf_value(cell)
            down = int(cell.get(f"{_TABLE}number-rows-spanned", "1"))
            across = int(cell.get(f"{_TABLE}number-columns-spanned", "1"))
            if text and (down > 1 or across > 1):
                left = len(cells)
                spans.append(_Span(number, number + down - 1, left, left + across - 1))
            # Sheets end in cells and rows that are repeated to the far edge.
            repeated = int(cell.get(f"{_TABLE}number-columns-repeated", "1"))
            cells += [text] * max(0, min(repeated, _MAX_COLUMNS - len(cells)))
        repeated = int(element.get(f"{_TABLE}number-rows-repeated", "1"))
        if any(cells):
            for row in range(number, number + min(repeated, _MAX_REPEATED_ROWS)):
                yield row, list(cells)
        number += repeated


def _odf_value(cell: Any) -> str:  # noqa: ANN401 - an lxml element
    if cell.get(f"{_OFFICE}value-type") == "date":
        return str(cell.get(f"{_OFFICE}date-value", "")).removesuffix("T00:00:00").replace("T", " ")
    return _odf_cell(cell) or str(cell.get(f"{_OFFICE}value", ""))


# --- The registry --------------------------------------------------------------------------------

parse_docx = _parser(".docx", _read_docx)
parse_pptx = _parser(".pptx", _read_pptx)
parse_xlsx = _parser(".xlsx", _read_xlsx, _MAX_SHEET_BYTES)
parse_odt = _parser(".odt", _read_odt)
parse_ods = _parser(".ods", _read_ods, _MAX_SHEET_BYTES)
parse_odp = _parser(".odp", _read_odp)

_OPEN_XML = "application/vnd.openxmlformats-officedocument."
_OPEN_DOCUMENT = "application/vnd.oasis.opendocument."
FORMATS: dict[str, tuple[str, Parser]] = {
    ".docx": (_OPEN_XML + "wordprocessingml.document", parse_docx),
    ".pptx": (_OPEN_XML + "presentationml.presentation", parse_pptx),
    ".xlsx": (_OPEN_XML + "spreadsheetml.sheet", parse_xlsx),
    ".xlsm": ("application/vnd.ms-excel.sheet.macroEnabled.12", parse_xlsx),
    ".odt": (_OPEN_DOCUMENT + "text", parse_odt),
    ".ods": (_OPEN_DOCUMENT + "spreadsheet", parse_ods),
    ".odp": (_OPEN_DOCUMENT + "presentation", parse_odp),
    ".rtf": ("application/rtf", parse_rtf),
}
