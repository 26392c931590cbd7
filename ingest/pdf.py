"""PDF: the text of every page, its lines joined to paragraphs."""

import re
from typing import Any

from ingest.documents import Section
from ingest.errors import SourceError
from ingest.languages import starts_block
from ingest.parsed import WIDE, Parsed, clean, unwrap

_PDF_PASSWORD_ERROR = 4  # FPDF_ERR_PASSWORD
_HYPHENATION = re.compile("[\ufffe\x02]\n?")  # PDFium's mark for a word broken over two lines


def parse_pdf(uri: str, data: bytes) -> Parsed:
    """Return the text of all pages."""
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code == _PDF_PASSWORD_ERROR:
            raise SourceError(f"{uri}: protected by a password; save it without one") from None
        raise SourceError(f"{uri}: not a readable PDF; export or download it again") from None
    try:
        pages = [_page_text(pdf, index) for index in range(len(pdf))]
        title = pdf.get_metadata_dict().get("Title", "")
    except pypdfium2.PdfiumError as error:
        raise SourceError(f"{uri}: a damaged PDF ({error}); export it again") from None
    finally:
        pdf.close()
    if not any(pages):
        raise SourceError(
            f"{uri}: holds no text, likely a scan, and OCR is not built in yet; "
            "run OCR on it first and add the result"
        )
    sections, start = [], 0
    for number, page in enumerate(pages, start=1):
        sections.append(Section(start, page=number))
        start += len(page) + 2
    return Parsed("\n\n".join(pages), title, tuple(sections), {"pages": str(len(pages))})


def _page_text(pdf: Any, index: int) -> str:  # noqa: ANN401 - a pypdfium2.PdfDocument
    page = pdf[index]
    text_page = page.get_textpage()
    try:
        text = str(text_page.get_text_range())
    finally:
        text_page.close()
        page.close()
    text = clean(text).replace("\r\n", "\n").replace("\r", "\n")
    return join_lines(_HYPHENATION.sub("", text).split("\n"))


def join_lines(lines: list[str]) -> str:
    """Join wrapped lines to paragraphs, parted by blank lines.

    A line that fills less than 60% of the usual width was not wrapped, so a paragraph (or a
    heading) ends with it; list items start their own.
    """
    lines = [line.strip() for line in lines]
    widths = sorted(_width(line) for line in lines if line)
    usual = widths[len(widths) * 9 // 10] if widths else 0
    paragraphs: list[list[str]] = [[]]
    for previous, line in zip(["", *lines], lines, strict=False):
        short = _width(previous) < 0.6 * usual and not line[:1].islower()
        if not line or not previous or short or starts_block(line):
            paragraphs.append([])
        if line:
            paragraphs[-1].append(line)
    return "\n\n".join(unwrap("\n".join(paragraph)) for paragraph in paragraphs if paragraph)


def _width(line: str) -> int:
    return len(line) + len(WIDE.findall(line))
