"""Web pages: from what an address answered to a `Document`.

    document = load_page(fetch("https://example.com/guide", WebOptions()))

Of a page of HTML only the main content is kept; whatever else is a file for the loaders. Knows
nothing of connections.
"""

from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from ingest.documents import TITLE_FROM_NAME, Document, content_id
from ingest.encodings import decode
from ingest.errors import SourceError
from ingest.languages import detect_language
from ingest.loaders import FORMATS, Entry, is_supported, load_entry, suffix_of
from ingest.markup import parse_html
from ingest.parsed import Parsed, one_line
from ingest.web import Fetched

_HTML = ("text/html", "application/xhtml+xml")
_VAGUE = ("", "text/plain", "application/octet-stream", "application/xml", "text/xml")


def load_page(fetched: Fetched) -> Document:
    """Return what was fetched as a document; its uri is the address after redirects.

    Of a page of HTML only the main content is kept, with its headings, lists and tables.

    Raises:
        SourceError: It is of no supported format, cannot be read, or holds no text.
    """
    if not _is_html(fetched):
        return load_entry(entry_of(fetched))
    source, encoding = decode(fetched.url, fetched.data, fetched.charset or _declared(fetched.data))
    parsed = _main_content(fetched.url, source)
    if not parsed.text.strip():
        raise SourceError(
            f"{fetched.url}: holds no text, maybe it is drawn by scripts; save the page from a "
            "browser and give that file"
        )
    title = one_line(parsed.title)
    return Document(
        id=content_id(parsed.text),
        uri=fetched.url,
        title=title or entry_of(fetched).name,
        text=parsed.text,
        language=detect_language(parsed.text),
        media_type="text/html",
        metadata={"encoding": encoding} | ({} if title else TITLE_FROM_NAME),
        sections=parsed.sections,
    )


def _main_content(url: str, source: str) -> Parsed:
    """Return the page less what surrounds its content; all of it where little would be left."""
    import trafilatura

    whole = parse_html(url, source.encode())
    found = trafilatura.extract(
        source, output_format="html", include_formatting=True, include_comments=False,
        favor_recall=True,
    )  # fmt: skip
    main = parse_html(url, (found or "").encode())
    # Noise costs less than a lost paragraph: a third of the page may be around it, not more.
    if len(main.text) < len(whole.text) / 3:
        return whole
    return Parsed(main.text, whole.title or main.title, main.sections)


def _is_html(fetched: Fetched) -> bool:
    if fetched.media_type in _HTML:
        return not fetched.data.startswith(b"%PDF-")
    start = fetched.data[:1024].lstrip().lower()
    return fetched.media_type in _VAGUE and start.startswith((b"<!doctype html", b"<html"))


def _declared(data: bytes) -> str | None:
    from bs4.dammit import EncodingDetector

    return EncodingDetector.find_declared_encoding(data, is_html=True)


def entry_of(fetched: Fetched) -> Entry:
    """Return what was fetched as a file: named as in its address, with its format's suffix."""
    parts = urlsplit(fetched.url)
    name = PurePosixPath(unquote(parts.path)).name or parts.hostname or "page"
    media_type = fetched.media_type
    if fetched.data.startswith(b"%PDF-"):
        media_type = "application/pdf"
    suffixes = [suffix for suffix, (kind, _) in FORMATS.items() if kind == media_type]
    named_well = media_type in _VAGUE and is_supported(name)
    if suffixes and suffix_of(name) not in suffixes and not named_well:
        name += suffixes[0]
    return Entry(fetched.url, name, fetched.data)
