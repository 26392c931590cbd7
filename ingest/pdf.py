"""PDF: the text of every page, its lines joined to paragraphs.

Lines set larger than the text are headings; running heads and page numbers are kept once, where
they first stand. A page without text is a scan: its text is recognised if the extra `ocr` is
installed. Pages are read one after the other, so only their text is ever in memory together.
"""

import ctypes
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ingest.errors import SourceError
from ingest.languages import starts_block
from ingest.parsed import WIDE, Parsed, TextBuilder, clean, one_line, unwrap

MAX_PAGES = 50_000
MAX_CHARACTERS = 100_000_000  # of all pages together: compressed streams may hold any amount
_PDF_PASSWORD_ERROR = 4  # FPDF_ERR_PASSWORD
_HYPHENATION = re.compile("[\ufffe\x02]\n?")  # PDFium's mark for a word broken over two lines
_LINE = re.compile(r"[^\r\n]+")
_NUMBER = re.compile(r"\d+")
_NO_TITLE = re.compile(
    r"(?i)(untitled|无标题|未命名|microsoft word|powerpoint).*|.*\.(docx?|pptx?|indd|tex)"
)  # what programs write where nobody gave a title


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a page; its size and its height on the page are in points, 0 where unknown."""

    text: str
    size: float = 0.0
    height: float = 0.0


_Page = list[_Line]


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
        if b"%%EOF" not in data[-65536:]:  # PDFium would mend it, less the pages that are gone
            raise SourceError(f"{uri}: a PDF that was cut off; export or download it again")
        pages = _read_pages(uri, pdf)
        title = one_line(pdf.get_metadata_dict().get("Title", ""))
        title = "" if _NO_TITLE.fullmatch(title) else title
        bare = [number for number, page in enumerate(pages, start=1) if not page]
        recognised = _recognise(uri, pdf, bare, needed=len(bare) == len(pages))
    except pypdfium2.PdfiumError as error:
        raise SourceError(f"{uri}: a damaged PDF ({error}); export it again") from None
    finally:
        pdf.close()
    metadata = {"pages": str(len(pages))}
    if recognised:
        metadata["pages_recognised"] = ranges(sorted(recognised))
    if rest := [number for number in bare if number not in recognised]:
        metadata["pages_without_text"] = ranges(rest)
    return _compose(_less_running_heads(pages), recognised, title, metadata)


FORMATS = {".pdf": ("application/pdf", parse_pdf)}


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers with runs shortened: "3, 7-9"."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


# --- Reading -------------------------------------------------------------------------------------


def _read_pages(uri: str, pdf: Any) -> list[_Page]:  # noqa: ANN401 - a pypdfium2.PdfDocument
    if len(pdf) == 0:
        raise SourceError(f"{uri}: a PDF without pages; export or download it again")
    if len(pdf) > MAX_PAGES:
        raise SourceError(f"{uri}: more than {MAX_PAGES:,} pages; split it into smaller files")
    pages, characters = [], 0
    for index in range(len(pdf)):
        page = pdf[index]
        text_page = page.get_textpage()
        try:
            characters += text_page.count_chars()
            if characters > MAX_CHARACTERS:
                raise SourceError(f"{uri}: holds too much text; split it into smaller files")
            pages.append(list(_lines_of(text_page, upright=page.get_rotation() == 0)))
        finally:
            text_page.close()
            page.close()
    return pages


def _lines_of(text_page: Any, upright: bool) -> Iterator[_Line]:  # noqa: ANN401 - of pypdfium2
    text = str(text_page.get_text_range())
    aligned = upright and len(text) == text_page.count_chars()  # characters are those of the page
    for found in _LINE.finditer(text):
        line = clean(_HYPHENATION.sub("", found[0])).strip()
        if line and aligned:
            yield _Line(line, *_measure(text_page, found.start(), found.end() - 1))
        elif line:
            yield _Line(line)


def _measure(text_page: Any, first: int, last: int) -> tuple[float, float]:  # noqa: ANN401
    """Return (size, height) of a line in points; size 0 if its ends differ, as with a drop cap."""
    from pypdfium2 import raw

    sizes, matrix = [], raw.FS_MATRIX()
    for index in (first, last):
        raw.FPDFText_GetMatrix(text_page, index, matrix)
        scale = math.hypot(matrix.c, matrix.d)
        sizes.append(round(raw.FPDFText_GetFontSize(text_page, index) * scale, 1))
    x, y = ctypes.c_double(), ctypes.c_double()
    raw.FPDFText_GetCharOrigin(text_page, first, x, y)
    return sizes[0] if sizes[0] == sizes[1] else 0.0, round(y.value, 1)


def _recognise(
    uri: str,
    pdf: Any,  # noqa: ANN401 - a pypdfium2.PdfDocument
    numbers: list[int],
    *,
    needed: bool,
) -> dict[int, str]:
    """Return the recognised texts of pages without text, by page number.

    Raises:
        SourceError: It is `needed`, because no page has text, and none can be recognised.
    """
    from ingest import ocr

    drawn = [number for number in numbers if _is_drawn(pdf, number)]
    if needed and not drawn:
        raise SourceError(f"{uri}: holds only empty pages; check the file or leave it out")
    if not drawn or not (needed or ocr.is_installed()):
        return {}
    texts = {}
    for number in drawn:
        page = pdf[number - 1]
        scale = min(300 / 72, ocr.LONGEST_SIDE / max(page.get_size()))  # 300 dpi, less for posters
        texts[number] = ocr.recognise(page.render(scale=scale).to_pil(), uri)
        page.close()
    if needed and not any(texts.values()):
        raise SourceError(f"{uri}: a scan in which no text is recognised; scan it more sharply")
    return {number: text for number, text in texts.items() if text}


def _is_drawn(pdf: Any, number: int) -> bool:  # noqa: ANN401 - a pypdfium2.PdfDocument
    page = pdf[number - 1]
    try:
        return next(page.get_objects(max_depth=1), None) is not None
    finally:
        page.close()


# --- Understanding -------------------------------------------------------------------------------


def _less_running_heads(pages: list[_Page]) -> list[_Page]:
    """Drop the lines that stand at the top or bottom of 4 and 40% or more of the pages.

    It must be certain that nothing is lost: they stand at the same height, are no larger than the
    text, their digits are the same or count the pages, and the first of them is kept.
    """
    body = _body_size(pages)
    places: dict[tuple[str, float], list[tuple[int, _Line]]] = defaultdict(list)
    for number, page in enumerate(pages):
        if len({line.height for line in page}) < 4:
            continue  # hardly more than a head and a foot: all of it may be the text
        by_height = sorted(page, key=lambda line: line.height)
        for line in {*by_height[:2], *by_height[-2:]}:
            if 0 < line.size <= body:
                places[_NUMBER.sub("0", line.text), line.height].append((number, line))
    with_text = sum(bool(page) for page in pages)
    dropped: dict[int, set[_Line]] = defaultdict(set)
    for same in places.values():
        if len(same) >= max(4, 0.4 * with_text) and _only_counts_pages(same):
            for number, line in same[1:]:
                dropped[number].add(line)
    return [
        [line for line in page if line not in dropped[number]] for number, page in enumerate(pages)
    ]


def _only_counts_pages(lines: list[tuple[int, _Line]]) -> bool:
    rows = [(page, [int(n) for n in _NUMBER.findall(line.text)]) for page, line in lines]
    first_page, first = rows[0]
    return all(
        all(row[i] == first[i] for _, row in rows)
        or all(row[i] - page == first[i] - first_page for page, row in rows)
        for i in range(len(first))
    )


def _body_size(pages: list[_Page]) -> float:
    """Return the size most characters are set in, 0 if it is unknown."""
    sizes: Counter[float] = Counter()
    for page in pages:
        for line in page:
            sizes[line.size] += len(line.text)
    return max(sizes, key=lambda size: sizes[size], default=0.0)


def _heading_levels(pages: list[_Page]) -> dict[float, int]:
    """Return the level of each size that headings are set in; empty if the sizes tell nothing."""
    body = _body_size(pages)
    lines = [line for page in pages for line in page]
    large = [line for line in lines if body and line.size >= 1.15 * body]
    short = all(len(line.text) <= 150 for line in large)
    of_body = sum(len(line.text) for line in lines if line.size == body)
    mixed = 2 * of_body < sum(len(line.text) for line in lines) or len(large) > len(lines) / 4
    if mixed or not short:
        return {}
    sizes = sorted({line.size for line in large}, reverse=True)
    return {size: min(level, 6) for level, size in enumerate(sizes, start=1)}


def _compose(
    pages: list[_Page], recognised: dict[int, str], title: str, metadata: dict[str, str]
) -> Parsed:
    levels = _heading_levels(pages)
    builder = TextBuilder()
    for number, page in enumerate(pages, start=1):
        builder.at(page=number)
        for size, run in groupby(page, key=lambda line: line.size if line.size in levels else 0):
            lines = [line.text for line in run]
            if size and any(map(str.isalpha, "".join(lines))):
                builder.add(unwrap("\n".join(lines)), level=levels[size])
            else:
                builder.add(join_lines(lines))
        builder.add(recognised.get(number, ""))
    parsed = builder.parsed("", metadata)
    opening = next((s.heading for s in parsed.sections if s.heading and s.page == 1), "")
    return Parsed(parsed.text, title or opening, parsed.sections, metadata)


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
