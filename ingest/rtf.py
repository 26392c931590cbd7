"""Rich Text Format: paragraphs, headings, tables and notes, in any code page.

`striprtf` brings the tables of the format (destinations, code pages, special characters). The
reading itself is done here, in one pass over the bytes: it tells rows and headings apart, and
joins the two bytes of a Chinese character however they are written. Knows nothing of files.
"""

import codecs
import re
from dataclasses import dataclass, replace

from ingest.errors import SourceError
from ingest.parsed import Parsed, TextBuilder, one_line
from ingest.tables import table_lines

_TOKEN = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?\d{1,9})? ?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z])|([{}])|[\r\n]+"
    rb"|([^\\{}\r\n]+)",
    re.DOTALL,
)
_HEADING = re.compile(r"(?:heading|标题|標題)\s*(\d)", re.IGNORECASE)
_MAX_DEPTH = 10_000  # groups inside groups
_ASIDE = {"fonttbl": "fonts", "stylesheet": "styles", "title": "title"}
_ENCODINGS = {"mac": "mac_roman", "pc": "cp437", "pca": "cp850"}


def parse_rtf(uri: str, data: bytes) -> Parsed:
    """Return the paragraphs, headings, tables and footnotes of a rich text document.

    Raises:
        SourceError: It is no RTF, cut off, nested too deeply, or its characters cannot be read.
    """
    if not data.lstrip().startswith(b"{\\rtf"):
        raise SourceError(f"{uri}: not a readable .rtf; save it again")
    reader = _Reader(uri)
    position = 0
    while not reader.finished and (token := _TOKEN.match(data, position)):
        position = token.end() + reader.read(token)
    if not reader.finished:
        raise SourceError(f"{uri}: the .rtf is cut off or damaged; save it again")
    parsed = reader.builder.parsed(one_line(reader.title), {})
    if parsed.text.count("\ufffd") > len(parsed.text) / 100:
        raise SourceError(f"{uri}: its characters cannot be decoded; save it again")
    return parsed


@dataclass(frozen=True, slots=True)
class _State:
    """What a group inherits from the one around it."""

    target: str = "text"  # "text", one of `_ASIDE`, or "" for what is not shown
    encoding: str = ""  # of the font, "" for the document's
    skip: int = 1  # characters that stand in for an escaped one
    style: int = 0
    in_table: bool = False
    closing: str = ""  # goes to the text when the group ends


class _Reader:
    """Takes token after token; `builder` and `title` hold what was found."""

    def __init__(self, uri: str) -> None:
        from striprtf import striprtf

        self.builder = TextBuilder()
        self.title = ""
        self.finished = False
        self._uri = uri
        self._format = striprtf
        self._encoding = "cp1252"
        self._fonts: dict[int, str] = {}
        self._font = 0
        self._levels: dict[int, int] = {}  # style -> heading level
        self._state = _State()
        self._stack: list[_State] = []
        self._bytes = bytearray()  # not yet decoded
        self._text: list[str] = []  # of the paragraph
        self._aside: list[str] = []  # of a title or a style's name
        self._cells: list[str] = []
        self._rows: list[list[str]] = []
        self._kind = ""
        self._skipping = 0

    def read(self, token: re.Match[bytes]) -> int:
        """Take a token; return how many bytes of binary data follow it."""
        word, argument, code, symbol, brace, plain = token.groups()
        if plain or code:
            content = bytes.fromhex(code.decode()) if code else plain
            self._bytes += content[self._skipping :]
            self._skipping = max(0, self._skipping - len(content))
            return 0
        if symbol in {b"{", b"}", b"\\"}:
            self._bytes += symbol
            return 0
        if not token[0].strip(b"\r\n"):
            return 0
        self._flush()
        self._skipping = 0
        if brace:
            self._group(brace == b"{")
        elif symbol:
            self._symbol(symbol)
        else:
            return self._word(word.decode(), int(argument) if argument else None)
        return 0

    def _group(self, opens: bool) -> None:
        if opens:
            if len(self._stack) >= _MAX_DEPTH:
                raise SourceError(f"{self._uri}: nested too deeply; save it again")
            self._stack.append(self._state)
            self._state = replace(self._state, closing="")
            return
        if self._state.target == "styles":
            if found := _HEADING.match("".join(self._aside).strip()):
                self._levels[self._state.style] = int(found[1])
            self._aside.clear()
        elif self._state.target == "title":
            self.title += "".join(self._aside)
            self._aside.clear()
        self._show(self._state.closing)
        self._state = self._stack.pop() if self._stack else _State()
        if not self._stack:  # what follows the document is no part of it
            self._end_paragraph()
            self._end_table()
            self.finished = True

    def _symbol(self, symbol: bytes) -> None:
        if symbol == b"*":
            self._state = replace(self._state, target="")
        elif symbol in {b"\r", b"\n"}:
            self._end_paragraph()
        elif symbol in {b"~", b"_"}:
            self._show({b"~": "\xa0", b"_": "\u2011"}[symbol])

    def _word(self, word: str, argument: int | None) -> int:
        number = argument or 0
        if word == "bin":
            return max(0, number)
        if word == "u" and argument is not None:
            self._show(chr(number % 0x10000))
            self._skipping = self._state.skip
        elif word == "uc":
            self._state = replace(self._state, skip=max(0, number))
        elif word in {"f", "fcharset", "cpg", "ansicpg", *_ENCODINGS}:
            self._set_encoding(word, number)
        elif word in {"par", "sect", "page", "cell", "row"}:
            self._end(word)
        elif word in {"pard", "intbl", "s"}:
            style = number if word == "s" else 0 if word == "pard" else self._state.style
            in_table = word == "intbl" or (word == "s" and self._state.in_table)
            self._state = replace(self._state, style=style, in_table=in_table)
        elif word == "outlinelevel" and self._state.target == "styles" and 0 <= number < 9:
            self._levels[self._state.style] = number + 1
        else:
            self._enter(word)
        return 0

    def _enter(self, word: str) -> None:
        """Take a destination, or a word that stands for a character."""
        if word in _ASIDE:
            self._state = replace(self._state, target=_ASIDE[word])
        elif word == "shptxt":  # a text box, inside of what is not shown
            self._state = replace(self._state, target="text")
        elif word == "footnote" and self._state.target == "text":
            self._show(" [")
            self._state = replace(self._state, closing="]")
        elif word in {"listtext", "pntext"}:
            self._kind = "item"
            self._state = replace(self._state, target="")
        elif word in self._format.destinations:
            self._state = replace(self._state, target="")
        elif word in self._format.specialchars:
            self._show(" " if word == "nestcell" else self._format.specialchars[word])

    def _set_encoding(self, word: str, number: int) -> None:
        if word == "f":
            self._font, encoding = number, self._fonts.get(number, "")
            if encoding != self._state.encoding:
                self._state = replace(self._state, encoding=encoding)
        elif word == "fcharset":  # 0 to 2 mean: the document's own
            name = self._format.charset_map.get(number, "") if number > 2 else ""
            self._fonts[self._font] = _codec(name)
        elif word == "cpg":
            self._fonts[self._font] = _codec(f"cp{number}")
        else:
            name = f"cp{number}" if word == "ansicpg" else _ENCODINGS[word]
            self._encoding = _codec(name) or self._encoding

    def _flush(self) -> None:
        """Decode the bytes so far, in the font's code page or the document's."""
        if not self._bytes:
            return
        content = bytes(self._bytes)
        self._bytes.clear()
        for encoding in filter(None, (self._state.encoding, self._encoding, "cp1252")):
            try:
                self._show(content.decode(encoding))
                return
            except UnicodeDecodeError:
                continue
        self._show(content.decode(self._state.encoding or self._encoding, "replace"))

    def _show(self, text: str) -> None:
        if self._state.target == "text":
            self._text.append(text)
        elif self._state.target in {"styles", "title"}:
            self._aside.append(text)

    def _end(self, word: str) -> None:
        if self._state.target != "text":
            return
        if word == "cell":
            self._cells.append(one_line(self._take()))
        elif word == "row":
            self._rows.append(self._cells)
            self._cells = []
        elif self._state.in_table:
            self._text.append("\n")
        else:
            self._end_paragraph()

    def _take(self) -> str:
        """Return the text so far; characters beyond 16 bits come as two escapes."""
        text = "".join(self._text)
        self._text.clear()
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def _end_paragraph(self) -> None:
        text, kind, self._kind = self._take(), self._kind, ""
        if not text.strip():
            return
        self._end_table()
        level = self._levels.get(self._state.style)
        self.builder.add(text, "" if level else kind, level=level)

    def _end_table(self) -> None:
        rows, self._rows = self._rows, []
        if self._cells:  # a row that never ended
            rows.append(self._cells)
            self._cells = []
        for _, line in table_lines(enumerate(rows, start=1), records=False):
            self.builder.add(line, "row")


def _codec(name: str) -> str:
    """Return the name of a codec that Python has, or ""."""
    try:
        return {"cp936": "gb18030", "cp950": "big5hkscs"}.get(name, codecs.lookup(name).name)
    except LookupError:
        return ""
