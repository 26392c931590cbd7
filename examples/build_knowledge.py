"""Build the PDF and Word files of the sample knowledge from the Markdown in `sources/`.

Each `sources/NAME.md` becomes the file that `TARGETS` names in `knowledge/`. The same text gives
the same bytes on every run: dates and ids are fixed. Of Markdown it knows headings, paragraphs,
bullet lists, tables, and `---` as a page break; it does not know emphasis, links or images.

reportlab is a tool for this script only, no dependency of Tether:

    pip install reportlab
    python examples/build_knowledge.py
"""

import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape

from markdown_it import MarkdownIt

HERE = Path(__file__).parent
TARGETS = {
    "fine-tuning-en": "docx",
    "fine-tuning-zh": "docx",
    "forgetting-en": "pdf",
    "forgetting-zh": "pdf",
}
FIXED_DATE = datetime(2025, 1, 1)
CJK = "\u3000-\u303f\u3400-\u9fff\uff00-\uffef"

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a source: `rows` is filled for a table, `text` for all else but a break."""

    kind: Literal["heading", "paragraph", "bullet", "table", "break"]
    text: str = ""
    level: int = 0  # of a heading, 1..3
    rows: tuple[Row, ...] = ()


def read_blocks(markdown: str) -> Iterator[Block]:
    """Yield the blocks of a Markdown text in reading order."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    rows: list[Row] = []
    for index, token in enumerate(tokens):
        if token.type == "hr":
            yield Block("break")
        elif token.type == "tr_open":
            rows.append(())
        elif token.type == "table_close":
            yield Block("table", rows=tuple(rows))
            rows = []
        elif token.type == "inline":
            text = join_lines(token.content)
            opening = tokens[index - 1]
            if opening.type in ("th_open", "td_open"):
                rows[-1] += (text,)
            elif opening.type == "heading_open":
                yield Block("heading", text, level=int(opening.tag[1]))
            else:  # a paragraph inside a list item stands deeper than one of the page
                yield Block("bullet" if opening.level > 0 else "paragraph", text)


def join_lines(text: str) -> str:
    """Undo the line breaks of the source; between Chinese characters no space is put."""
    return re.sub(rf"(?<=[{CJK}])\n(?=[{CJK}])", "", text).replace("\n", " ")


def build_docx(blocks: list[Block], language: str) -> bytes:
    """Return a Word file with real heading, list and table styles."""
    import docx
    from docx.oxml.ns import qn

    document = docx.Document()
    document.styles["Normal"].element.get_or_add_rPr().get_or_add_rFonts().set(
        qn("w:eastAsia"), "SimSun"
    )
    properties = document.core_properties
    properties.title, properties.author, properties.comments = blocks[0].text, "Tether", ""
    properties.language = language
    properties.created = properties.modified = FIXED_DATE
    for block in blocks:
        if block.kind == "heading":
            document.add_heading(block.text, block.level)
        elif block.kind == "table":
            table = document.add_table(len(block.rows), len(block.rows[0]), style="Table Grid")
            for row, texts in zip(table.rows, block.rows, strict=True):
                for cell, text in zip(row.cells, texts, strict=True):
                    cell.text = text
        elif block.kind == "break":
            document.add_page_break()
        else:
            document.add_paragraph(block.text, "List Bullet" if block.kind == "bullet" else None)
    written = io.BytesIO()
    document.save(written)
    return with_fixed_dates(written.getvalue())


def with_fixed_dates(archive: bytes) -> bytes:
    """Rewrite a zip archive so that its entries do not carry the time of the run."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(written, "w") as target:
        for name in source.namelist():
            entry = zipfile.ZipInfo(name, FIXED_DATE.timetuple()[:6])
            target.writestr(entry, source.read(name), zipfile.ZIP_DEFLATED)
    return written.getvalue()


def build_pdf(blocks: list[Block], language: str) -> bytes:
    """Return a PDF with page numbers; Chinese uses STSong-Light, which every viewer replaces."""
    from reportlab.lib.units import cm
    from reportlab.platypus import SimpleDocTemplate

    written = io.BytesIO()
    template = SimpleDocTemplate(
        written,
        title=blocks[0].text,
        author="Tether",
        lang=language,
        leftMargin=2.5 * cm,
        rightMargin=2.5 * cm,
        invariant=1,  # fixes the dates and the file id
    )
    template.build(list(flowables(blocks, chinese=language == "zh")))
    return written.getvalue()


def flowables(blocks: list[Block], *, chinese: bool) -> Iterator[Any]:
    """Yield what reportlab lays out, one item a block."""
    from reportlab.lib.colors import grey
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.platypus import PageBreak, Paragraph, Table

    font, bold = "Helvetica", "Helvetica-Bold"
    if chinese:
        font = bold = "STSong-Light"
        pdfmetrics.registerFont(UnicodeCIDFont(font))
    wrap = "CJK" if chinese else None
    body = ParagraphStyle("body", fontName=font, fontSize=11, leading=16, spaceAfter=6)
    body.wordWrap = wrap
    bullet = ParagraphStyle("bullet", parent=body, leftIndent=14, bulletIndent=2)
    for block in blocks:
        if block.kind == "break":
            yield PageBreak()
        elif block.kind == "heading":
            size = {1: 20, 2: 15, 3: 12}[block.level]
            style = ParagraphStyle("heading", parent=body, fontName=bold, fontSize=size)
            style.leading, style.spaceBefore = size * 1.3, 8
            yield Paragraph(escape(block.text), style)
        elif block.kind == "table":
            grid = [("GRID", (0, 0), (-1, -1), 0.5, grey), ("FONT", (0, 0), (-1, -1), font, 11)]
            yield Table(block.rows, style=grid, hAlign="LEFT", spaceBefore=6, spaceAfter=10)
        elif block.kind == "bullet":
            yield Paragraph(escape(block.text), bullet, bulletText="\u2022")
        else:
            yield Paragraph(escape(block.text), body)


def main() -> None:
    """Write every target file and name it with its size."""
    builders = {"docx": build_docx, "pdf": build_pdf}
    for name, suffix in TARGETS.items():
        source = (HERE / "sources" / f"{name}.md").read_text(encoding="utf-8")
        content = builders[suffix](list(read_blocks(source)), name.rsplit("-", 1)[1])
        target = HERE / "knowledge" / f"{name}.{suffix}"
        target.write_bytes(content)
        print(f"{target.name}: {len(content)} bytes")


if __name__ == "__main__":
    main()
