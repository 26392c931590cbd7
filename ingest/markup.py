"""Texts and their marks: plain text, Markdown and HTML.

For plain text and Markdown the document's text is the source itself; for HTML it is what a reader
sees.
"""

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ingest.encodings import decode
from ingest.parsed import Parsed, Parser, TextBuilder, one_line, outline, unwrap

if TYPE_CHECKING:
    from bs4 import BeautifulSoup
    from bs4.element import Tag

# --- Plain text and Markdown ---------------------------------------------------------------------

_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(?:[^\n]*\n)*?---[ \t]*(?:\r?\n|$)")
_FRONT_TITLE = re.compile(r"^title:[ \t]*[\"']?([^\"'\r\n]+)", re.MULTILINE)
_LINE_START = re.compile(r"^|\r\n?|\n")


def parse_text(uri: str, data: bytes) -> Parsed:
    """Return a plain text as it is."""
    text, encoding = decode(uri, data)
    return Parsed(text, metadata={"encoding": encoding})


def parse_markdown(uri: str, data: bytes) -> Parsed:
    """Return Markdown as it is, with the outline of its headings."""
    from markdown_it import MarkdownIt

    text, encoding = decode(uri, data)
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
            headings.append((line_starts[token.map[0]], int(token.tag[1]), one_line(title)))
    headings = [heading for heading in headings if heading[2]]
    front_title = _FRONT_TITLE.search(front_matter)
    title = headings[0][2] if headings else front_title[1] if front_title else ""
    return Parsed(text, title, outline(headings), {"encoding": encoding})


# --- HTML ----------------------------------------------------------------------------------------

_DROPPED = frozenset(
    "head title script style noscript nav template svg iframe canvas audio video select datalist "
    "textarea button".split()
)
_BLOCK_TAGS = frozenset(
    "address article aside blockquote body caption center dd details div dl dt fieldset figcaption "
    "figure footer form header hr html li main ol p pre section summary table tbody td tfoot th "
    "thead tr ul".split()
)
_HEADING_TAG = re.compile(r"h[1-6]")
_NOT_IN_A_ROW = ["table", "ul", "ol", "pre", "h1", "h2", "h3", "h4", "h5", "h6"]
_HIDING_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*>")  # or the parser warns about XHTML
_BREAK = "\0"  # stands for <br> until white space is collapsed


def parse_html(uri: str, data: bytes) -> Parsed:
    """Return what a reader of the page sees, less the navigation around it."""
    source, encoding = decode_html(uri, data)
    builder = TextBuilder()
    title = add_html(source, builder)
    return builder.parsed(title, {"encoding": encoding})


def decode_html(uri: str, data: bytes, declared: str | None = None) -> tuple[str, str]:
    """Return (source, encoding); `declared` is what stands outside, as in the header of a mail.

    Raises:
        SourceError: The encoding cannot be told.
    """
    from bs4.dammit import EncodingDetector

    inside = EncodingDetector.find_declared_encoding(data, is_html=True)
    return decode(uri, data, declared or inside)


def add_html(source: str, builder: TextBuilder) -> str:
    """Add what a reader of a page sees to a builder and return the title of the page."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(_XML_DECLARATION.sub("", source), "lxml")
    title = soup.title.get_text() if soup.title else ""
    _drop_unseen(soup)
    for line_break in soup.find_all("br"):
        line_break.replace_with(_BREAK)
    _HtmlWalk(builder).walk(soup.body or soup)
    return title


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
        or (tag.name == "dialog" and not tag.has_attr("open"))
        or tag.has_attr("hidden")
        or tag.get("aria-hidden") == "true"
        or _HIDING_STYLE.search(str(tag.get("style", ""))) is not None
    )


class _HtmlWalk:
    """Walks a tree without recursion and adds its blocks to a builder."""

    def __init__(self, builder: TextBuilder) -> None:
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
            self._builder.add(one_line(collapse(tag.get_text())), level=int(tag.name[1]))
        elif tag.name == "pre":
            self._flush()
            self._builder.add(tag.get_text().replace(_BREAK, "\n"))
        elif tag.name == "tr" and not tag.find(_NOT_IN_A_ROW):
            self._flush()
            for block in tag.find_all(_BLOCK_TAGS):
                block.append("\n")  # or the paragraphs of a cell would stick together
            cells = [one_line(collapse(cell.get_text())) for cell in tag.find_all(["td", "th"])]
            self._builder.add(" | ".join(cells) if any(cells) else "", "row")
        elif tag.name in _BLOCK_TAGS:
            self._flush()
            self._kind = "item" if tag.name == "li" else self._kind
            stack.append(None)
            stack.extend(reversed(tag.contents))
        else:
            stack.extend(reversed(tag.contents))

    def _flush(self) -> None:
        text = collapse("".join(self._inline))
        self._inline.clear()
        if text:
            self._builder.add(text, self._kind)
            self._kind = ""


def collapse(text: str) -> str:
    """Collapse white space as a browser does; only a <br> stays a line break."""
    lines = (
        _SPACE.sub(lambda space: "\n" if "\n" in space[0] else " ", line.strip())
        for line in text.split(_BREAK)
    )
    return "\n".join(map(unwrap, lines)).strip()


FORMATS: dict[str, tuple[str, Parser]] = {
    ".txt": ("text/plain", parse_text),
    ".md": ("text/markdown", parse_markdown),
    ".markdown": ("text/markdown", parse_markdown),
    ".html": ("text/html", parse_html),
    ".htm": ("text/html", parse_html),
}
