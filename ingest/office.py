"""Office documents: Word."""

import re
import zipfile
from io import BytesIO
from typing import Any

from ingest.errors import SourceError
from ingest.parsed import Parsed, TextBuilder, one_line

MAX_UNPACKED_BYTES = 1024 * 1024 * 1024  # in all, inside one zip container
MAX_ENTRIES = 100_000  # files inside one zip container

_HEADING_STYLE = re.compile(r"(?:heading|标题|標題|见出し)\s*(\d)", re.IGNORECASE)
_TITLE_STYLE = re.compile(r"title|标题|標題", re.IGNORECASE)


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
    if data.count(b"PK\x01\x02") > MAX_ENTRIES:  # before the directory itself fills the memory
        raise SourceError(f"{uri}: holds over {MAX_ENTRIES} files; split it into smaller files")
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            entries = archive.infolist()
            if any(entry.flag_bits & 1 for entry in entries):
                raise SourceError(f"{uri}: protected by a password; save it without one")
            left = limit
            for entry in entries:
                is_xml = entry.filename.lower().endswith((".xml", ".rels"))
                left -= _count(uri, archive, entry, min(left, part_limit if is_xml else left))
    except SourceError:
        raise
    except Exception as error:  # zipfile has many ways to say that an archive is damaged
        reason = f"damaged or no zip container ({type(error).__name__})"
        raise SourceError(f"{uri}: {reason}; save it again") from None


def _count(uri: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> int:
    """Return how many bytes an entry unpacks to, without trusting the directory."""
    size = entry.file_size if entry.file_size > limit else 0
    if not size:
        with archive.open(entry) as file:
            while size <= limit and (block := file.read(1 << 20)):
                size += len(block)
    if size > limit:
        raise SourceError(f"{uri}: unpacks to over {limit >> 20} MB; split it into smaller files")
    return size


def parse_docx(uri: str, data: bytes) -> Parsed:
    """Return the paragraphs, lists and tables of a Word document in reading order."""
    import docx

    try:
        document = docx.Document(BytesIO(data))
    except SourceError:
        raise
    except Exception as error:  # python-docx has no error class of its own for damaged parts
        if data.startswith(b"\xd0\xcf\x11\xe0"):  # an OLE container
            reason = "protected by a password or in the old .doc format"
            remedy = "save it as .docx without a password"
        else:
            reason, remedy = f"not a readable .docx ({type(error).__name__})", "save it again"
        raise SourceError(f"{uri}: {reason}; {remedy}") from None
    builder = TextBuilder()
    _add_word_blocks(document, builder)
    return builder.parsed(document.core_properties.title or "", {})


def _add_word_blocks(document: Any, builder: TextBuilder) -> None:  # noqa: ANN401 - from docx
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            for row in block.rows:
                cells = _row_cells(row)
                builder.add(" | ".join(cells) if any(cells) else "", "row")
            continue
        level = _heading_level(block.style)
        if level is not None:
            builder.add(one_line(block.text), level=level)
        else:
            properties = block._p.pPr
            numbered = properties is not None and properties.numPr is not None
            listed = numbered or (block.style.name or "").startswith("List")
            builder.add(block.text, "item" if listed else "")


def _row_cells(row: Any) -> list[str]:  # noqa: ANN401 - a docx.table._Row
    """Return the cells' texts, a merged cell once, nested tables flattened into their cell."""
    texts, seen = [], None
    for cell in row.cells:
        if cell._tc is not seen:
            parts = [
                " ".join(text for inner in block.rows for text in _row_cells(inner))
                if hasattr(block, "rows")
                else block.text
                for block in cell.iter_inner_content()
            ]
            texts.append(one_line(" ".join(parts)))
        seen = cell._tc
    return texts


def _heading_level(style: Any) -> int | None:  # noqa: ANN401 - a docx paragraph style
    """Return 0 for a title, 1 to 9 for a heading, by the style's name or its outline level."""
    name = style.name or ""
    if found := _HEADING_STYLE.match(name):
        return int(found[1])
    if _TITLE_STYLE.fullmatch(name):
        return 0
    outline = style.element.xpath("w:pPr/w:outlineLvl/@w:val")
    return int(outline[0]) + 1 if outline and int(outline[0]) < 9 else None
