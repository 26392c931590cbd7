"""Read one file as a `Document`: plain text, Markdown, HTML, PDF or Word.

    document = load(Path("notes.md"))

`Document.text` is what all offsets count in. For plain text and Markdown it is the source itself
(less NULs and lone surrogates); for the others it is the text extracted here, blocks parted by
blank lines. What cannot be read faithfully is refused with a `SourceError`, never garbled.
Knows nothing of chunks, stores or models.
"""

import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.documents import Document, Section, content_id
from ingest.errors import SourceError
from ingest.languages import IDEOGRAPHS, detect_language, starts_block

if TYPE_CHECKING:
    from bs4 import BeautifulSoup
    from bs4.element import Tag

LOADER_VERSION = 1  # raise it when the same bytes would give another Document
MAX_BYTES = 200 * 1024 * 1024  # bytes per file
_MAX_UNPACKED_BYTES = 5 * MAX_BYTES  # bytes inside a .docx, which is a zip archive


@dataclass(frozen=True, slots=True)
class _Parsed:
    """What a format's parser finds in the bytes of a file."""

    text: str
    title: str = ""  # "" where the content names none
    sections: tuple[Section, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)


def load(path: Path, data: bytes | None = None) -> Document:
    """Return the document in a file.

    Args:
        path: A regular file with one of `SUPPORTED_SUFFIXES`.
        data: Its bytes, where the caller has read them with `read_bytes` already.

    Raises:
        SourceError: The file is of no supported format, unreadable, corrupt, protected by a
            password, or holds no text.
    """
    uri = uri_of(path)
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise SourceError(
            f"{uri}: unsupported format {suffix or '(no suffix)'}; convert it to one of "
            + " ".join(SUPPORTED_SUFFIXES)
        )
    media_type, parse = _FORMATS[suffix]
    parsed = parse(uri, read_bytes(path) if data is None else data)
    if not parsed.text.strip():
        raise SourceError(f"{uri}: holds no text; check the file or leave it out")
    return Document(
        id=content_id(parsed.text),
        uri=uri,
        title=_one_line(parsed.title) or path.stem,
        text=parsed.text,
        language=detect_language(parsed.text),
        media_type=media_type,
        metadata=parsed.metadata,
        sections=parsed.sections,
    )


def uri_of(path: Path) -> str:
    """Return the absolute path with forward slashes.

    Raises:
        SourceError: The name is not valid Unicode, so it could not be stored.
    """
    uri = Path(os.path.abspath(path)).as_posix()
    if _REMOVED.search(uri):
        shown = uri.encode("utf-8", "backslashreplace").decode()
        raise SourceError(f"{shown}: the name is not valid Unicode; rename the file")
    return uri


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file of at most `MAX_BYTES`.

    Raises:
        SourceError: The file is missing, not a regular file, too large, or unreadable.
    """
    uri = uri_of(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(f"{uri}: not a regular file; give a file or a folder of files")
        if status.st_size > MAX_BYTES:
            raise SourceError(
                f"{uri}: larger than {MAX_BYTES >> 20} MB; split it into smaller files"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise SourceError(f"{uri}: does not exist; check the path") from None
    except PermissionError:
        raise SourceError(f"{uri}: permission denied; grant yourself read permission") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{uri}: cannot be read ({reason}); check the path and disk") from None


# --- Shared --------------------------------------------------------------------------------------

_REMOVED = re.compile("[\0\ud800-\udfff]")  # no store or encoder takes them
_WRAP = re.compile(r"(?<=(\S))[^\S\n]*\n[^\S\n]*(?=(\S))")
# Scripts and punctuation that are written without spaces between words.
_WIDE = re.compile(f"[{IDEOGRAPHS}\u2018-\u201d\u2026\u3000-\u30ff\uff00-\uffef]")


def _clean(text: str) -> str:
    return _REMOVED.sub("", text)


def _one_line(text: str) -> str:
    return " ".join(_clean(text).split())


def _unwrap(text: str) -> str:
    """Replace single line breaks: by nothing between ideographs, by a space elsewhere."""
    return _WRAP.sub(
        lambda wrap: "" if _WIDE.match(wrap[1]) and _WIDE.match(wrap[2]) else " ", text
    )


def _outline(headings: list[tuple[int, int, str]]) -> tuple[Section, ...]:
    """Turn headings (start, level, title) in text order into sections with heading paths."""
    sections = [] if headings and headings[0][0] == 0 else [Section(0)]
    path: list[tuple[int, str]] = []
    for start, level, title in headings:
        while path and path[-1][0] >= level:
            path.pop()
        path.append((level, title))
        sections.append(Section(start, " > ".join(name for _, name in path)))
    return tuple(sections)


class _TextBuilder:
    """Joins blocks to a text: blank lines between them, none inside a list or a table."""

    def __init__(self) -> None:
        self.headings: list[tuple[int, int, str]] = []  # start, level, title
        self._parts: list[str] = []
        self._length = 0
        self._last_kind = ""

    def add(self, block: str, kind: str = "", level: int | None = None) -> None:
        """Append a block; `kind` is "item", "row" or "", `level` makes it a heading."""
        block = _clean(block).strip()
        if not block:
            return
        if self._parts:
            self._append("\n" if kind and kind == self._last_kind else "\n\n")
        if level is not None:
            self.headings.append((self._length, level, _one_line(block)))
        self._append("- " + block if kind == "item" else block)
        self._last_kind = kind

    def _append(self, part: str) -> None:
        self._parts.append(part)
        self._length += len(part)

    def parsed(self, title: str, metadata: dict[str, str]) -> _Parsed:
        """Return the joined text; its first heading goes before `title`."""
        first = self.headings[0][2] if self.headings else ""
        return _Parsed("".join(self._parts), first or title, _outline(self.headings), metadata)


# --- Decoding ------------------------------------------------------------------------------------

_BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins like that of UTF-16
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_SAFE_ENCODINGS = re.compile(r"(?i)(gb|big5|utf-?8|windows|cp\d|iso-?8859|shift|euc|koi8|hz)")
_OTHER_ENCODINGS = ["cp1252", "cp1251", "koi8_r", "shift_jis", "euc_jp", "cp949"]
_CONTROL = re.compile("[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f\ufffd-\uffff]")
# Letters and signs of western Europe; anything else in cp1252 betrays another code page.
_WESTERN = re.compile("[ -~\\sÀ-ÖØ-öø-ÿŒœ‘-‚“-„–—…•€£©®™°«»¿¡§·´]*")
# The commonest ideographs of running text, simplified and traditional.
_FREQUENT = frozenset(
    "的一是不了在人有我他这這中大来來上国國为為子和你地出道也时時年得就那要下以生会會自着著去之过過家"
    "学學对對可她里裡后後小么麼心多天而能好都然没沒日于於起还還发發成事只作当當想看文无無开開手十用主"
    "行方又如前所本见見经經头頭面公同三已老从從动動两兩与與及或其"
)


def _decode(uri: str, data: bytes, declared: str | None = None) -> tuple[str, str]:
    """Return (text, encoding), trying the surest evidence first.

    Raises:
        SourceError: No encoding gives a plausible text.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            candidates = [(encoding, _try(data, encoding))]
            break
    else:
        candidates = list(_guesses(data, declared))
    for encoding, text in candidates:
        if text is not None and len(_CONTROL.findall(text)) <= len(text) / 100:
            return _clean(text), encoding
    raise SourceError(f"{uri}: the text encoding is unknown; save the file as UTF-8")


def _guesses(data: bytes, declared: str | None) -> Iterator[tuple[str, str | None]]:
    if data.count(0) > len(data) / 5:  # UTF-16 without a mark: the NULs sit on one side
        encoding = "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
        yield encoding, _try(data, encoding)
    yield "utf-8", _try(data, "utf-8")
    if declared and _SAFE_ENCODINGS.match(declared):
        name = "gb18030" if declared.lower().startswith("gb") else declared.lower()
        yield name, _try(data, name)
    yield _best_chinese(data)
    yield _best_other(data)


def _try(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError):
        return None


def _best_chinese(data: bytes) -> tuple[str, str | None]:
    """Return GB18030 or Big5, whichever reads as Chinese, or neither."""
    scored = [
        (_chinese_score(text, charset, last), encoding, text)
        for encoding, charset, last in (
            ("gb18030", "gb2312", 0xD7),  # last lead byte of the common ideographs
            ("big5hkscs", "big5", 0xC6),
        )
        if (text := _try(data, encoding)) is not None
    ]
    score, encoding, text = max(scored, key=lambda item: item[0], default=(0.0, "", ""))
    return (encoding, text) if score >= 0.6 else ("", None)


def _chinese_score(text: str, charset: str, last_common_lead: int) -> float:
    """Return the share of common characters (0..1) plus that of the most frequent ones (0..1).

    Text in the wrong encoding turns into rare ideographs. GB2312 and Big5 both sort theirs by use:
    the common half comes first. Long text without the most frequent ones is no Chinese at all.
    """
    wide = [character for character in text[:20_000] if character > "\x7f"]
    ideographs = [character for character in wide if "\u3400" <= character <= "\u9fff"]
    if not ideographs:
        return 0.0
    frequent = sum(character in _FREQUENT for character in ideographs) / len(ideographs)
    if len(ideographs) >= 40 and frequent < 0.04:
        return 0.0
    common = sum(
        len(code := character.encode(charset, "ignore")) == 2
        and (code[0] <= last_common_lead)
        and not "\u3041" <= character <= "\u30fa"
        for character in wide
    )
    return common / len(wide) + frequent


def _best_other(data: bytes) -> tuple[str, str | None]:
    import charset_normalizer

    match = charset_normalizer.from_bytes(data, cp_isolation=_OTHER_ENCODINGS).best()
    text = str(match) if match else ""
    if match and match.encoding == "cp1252":
        accents = len(re.findall("[^\0-\x7f]", text))
        plausible = _WESTERN.fullmatch(text) is not None and accents < len(text) / 4
    else:
        plausible = match is not None and match.coherence > 0  # it knows the language, too
    return (match.encoding, text) if match and plausible else ("", None)


# --- Plain text and Markdown ---------------------------------------------------------------------

_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(?:[^\n]*\n)*?---[ \t]*(?:\r?\n|$)")
_FRONT_TITLE = re.compile(r"^title:[ \t]*[\"']?([^\"'\r\n]+)", re.MULTILINE)
_LINE_START = re.compile(r"^|\r\n?|\n")


def _parse_text(uri: str, data: bytes) -> _Parsed:
    text, encoding = _decode(uri, data)
    return _Parsed(text, metadata={"encoding": encoding})


def _parse_markdown(uri: str, data: bytes) -> _Parsed:
    from markdown_it import MarkdownIt

    text, encoding = _decode(uri, data)
    front = _FRONT_MATTER.match(text)
    front_matter = front[0] if front else ""
    # Front matter would read as a heading underlined by "---"; empty lines keep the line numbers.
    body = "\n" * front_matter.count("\n") + text[len(front_matter) :]
    line_starts = [match.end() for match in _LINE_START.finditer(text)]
    tokens = MarkdownIt("commonmark").parse(body)
    headings = []
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:
            title = "".join(
                child.content if child.type in ("text", "code_inline") else " "
                for child in inline.children or []
                if child.type in ("text", "code_inline", "softbreak")
            )
            headings.append((line_starts[token.map[0]], int(token.tag[1]), _one_line(title)))
    headings = [heading for heading in headings if heading[2]]
    front_title = _FRONT_TITLE.search(front_matter)
    title = headings[0][2] if headings else front_title[1] if front_title else ""
    return _Parsed(text, title, _outline(headings), {"encoding": encoding})


# --- HTML ----------------------------------------------------------------------------------------

_DROPPED = frozenset("head script style noscript nav template svg iframe select button".split())
_BLOCK_TAGS = frozenset(
    "address article aside blockquote body caption center dd details div dl dt fieldset figcaption "
    "figure footer form header hr html li main ol p pre section summary table tbody td tfoot th "
    "thead tr ul".split()
)
_HEADING_TAG = re.compile(r"h[1-6]")
_NOT_IN_A_ROW = ["table", "ul", "ol", "pre", "h1", "h2", "h3", "h4", "h5", "h6"]
_HIDING_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_BREAK = "\0"  # stands for <br> until white space is collapsed


def _parse_html(uri: str, data: bytes) -> _Parsed:
    from bs4 import BeautifulSoup
    from bs4.dammit import EncodingDetector

    declared = EncodingDetector.find_declared_encoding(data, is_html=True)
    source, encoding = _decode(uri, data, declared)
    soup = BeautifulSoup(source, "lxml")
    title = soup.title.get_text() if soup.title else ""
    _drop_unseen(soup)
    for line_break in soup.find_all("br"):
        line_break.replace_with(_BREAK)
    builder = _TextBuilder()
    _HtmlWalk(builder).walk(soup.body or soup)
    return builder.parsed(title, {"encoding": encoding})


def _drop_unseen(soup: "BeautifulSoup") -> None:
    """Remove what a reader does not see or that belongs to the site and not to the text."""
    from bs4.element import Tag

    stack: list[Tag] = [soup]
    while stack:
        for child in list(stack.pop().contents):
            if isinstance(child, Tag) and _is_unseen(child):
                child.decompose()
            elif isinstance(child, Tag):
                stack.append(child)


def _is_unseen(tag: "Tag") -> bool:
    if tag.name in ("header", "footer"):  # an article's own header holds its title
        return tag.find_parent(["article", "main"]) is None
    return (
        tag.name in _DROPPED
        or tag.has_attr("hidden")
        or tag.get("aria-hidden") == "true"
        or _HIDING_STYLE.search(str(tag.get("style", ""))) is not None
    )


class _HtmlWalk:
    """Walks a tree without recursion and adds its blocks to a builder."""

    def __init__(self, builder: _TextBuilder) -> None:
        self._builder = builder
        self._inline: list[str] = []
        self._kind = ""

    def walk(self, root: "Tag") -> None:
        """Add all text under `root`; a stack instead of recursion bears any nesting."""
        from bs4.element import NavigableString, Tag

        stack: list[Any] = [root]
        while stack:
            node = stack.pop()
            if node is None:  # the end of a block
                self._flush()
            elif isinstance(node, Tag):
                self._enter(node, stack)
            elif type(node) is NavigableString:  # not a comment or a doctype
                self._inline.append(str(node))
        self._flush()

    def _enter(self, tag: "Tag", stack: list[Any]) -> None:
        if _HEADING_TAG.fullmatch(tag.name):
            self._flush()
            self._builder.add(_one_line(_collapse(tag.get_text())), level=int(tag.name[1]))
        elif tag.name == "pre":
            self._flush()
            self._builder.add(tag.get_text().replace(_BREAK, "\n"))
        elif tag.name == "tr" and not tag.find(_NOT_IN_A_ROW):
            self._flush()
            for block in tag.find_all(_BLOCK_TAGS):
                block.append("\n")  # or the paragraphs of a cell would stick together
            cells = [_one_line(_collapse(cell.get_text())) for cell in tag.find_all(["td", "th"])]
            self._builder.add(" | ".join(cells) if any(cells) else "", "row")
        elif tag.name in _BLOCK_TAGS:
            self._flush()
            self._kind = "item" if tag.name == "li" else self._kind
            stack.append(None)
            stack.extend(reversed(tag.contents))
        else:
            stack.extend(reversed(tag.contents))

    def _flush(self) -> None:
        text = _collapse("".join(self._inline))
        self._inline.clear()
        if text:
            self._builder.add(text, self._kind)
            self._kind = ""


def _collapse(text: str) -> str:
    """Collapse white space as a browser does; only a <br> stays a line break."""
    lines = (
        _SPACE.sub(lambda space: "\n" if "\n" in space[0] else " ", line.strip())
        for line in text.split(_BREAK)
    )
    return "\n".join(map(_unwrap, lines)).strip()


# --- PDF -----------------------------------------------------------------------------------------

_PDF_PASSWORD_ERROR = 4  # FPDF_ERR_PASSWORD
_HYPHENATION = re.compile("[\ufffe\x02]\n?")  # PDFium's mark for a word broken over two lines


def _parse_pdf(uri: str, data: bytes) -> _Parsed:
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
    return _Parsed("\n\n".join(pages), title, tuple(sections), {"pages": str(len(pages))})


def _page_text(pdf: Any, index: int) -> str:  # noqa: ANN401 - a pypdfium2.PdfDocument
    page = pdf[index]
    text_page = page.get_textpage()
    try:
        text = str(text_page.get_text_range())
    finally:
        text_page.close()
        page.close()
    text = _clean(text).replace("\r\n", "\n").replace("\r", "\n")
    return _join_lines(_HYPHENATION.sub("", text).split("\n"))


def _join_lines(lines: list[str]) -> str:
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
    return "\n\n".join(_unwrap("\n".join(paragraph)) for paragraph in paragraphs if paragraph)


def _width(line: str) -> int:
    return len(line) + len(_WIDE.findall(line))


# --- Word ----------------------------------------------------------------------------------------

_HEADING_STYLE = re.compile(r"(?:heading|标题|標題|见出し)\s*(\d)", re.IGNORECASE)
_TITLE_STYLE = re.compile(r"title|标题|標題", re.IGNORECASE)


def _parse_docx(uri: str, data: bytes) -> _Parsed:
    import docx

    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _MAX_UNPACKED_BYTES:
            raise SourceError(f"{uri}: unpacks to {unpacked >> 20} MB; split it into smaller files")
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
    builder = _TextBuilder()
    _add_word_blocks(document, builder)
    return builder.parsed(document.core_properties.title or "", {})


def _add_word_blocks(document: Any, builder: _TextBuilder) -> None:  # noqa: ANN401 - from docx
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            for row in block.rows:
                cells = _row_cells(row)
                builder.add(" | ".join(cells) if any(cells) else "", "row")
            continue
        level = _heading_level(block.style)
        if level is not None:
            builder.add(_one_line(block.text), level=level)
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
            texts.append(_one_line(" ".join(parts)))
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


_DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_FORMATS: dict[str, tuple[str, Callable[[str, bytes], _Parsed]]] = {
    ".txt": ("text/plain", _parse_text),
    ".md": ("text/markdown", _parse_markdown),
    ".markdown": ("text/markdown", _parse_markdown),
    ".html": ("text/html", _parse_html),
    ".htm": ("text/html", _parse_html),
    ".pdf": ("application/pdf", _parse_pdf),
    ".docx": (_DOCX, _parse_docx),
}
SUPPORTED_SUFFIXES = tuple(_FORMATS)
