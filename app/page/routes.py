"""What the page links to: a source at the cited place, a page of a PDF, a conversation as a file.

    /source/COLLECTION/DOCUMENT?start=120&end=152     the text, with these characters marked
    /source/COLLECTION/DOCUMENT/page/3.png            a page of the PDF, as it was ingested
    /conversation/ID.md, /conversation/ID.json        one's own conversation
    /laboratory/report?run=NAME&language=zh           the report of a run, for operators

A source is shown from the store, so no path that a browser sends ever reaches the file system; a
PDF is read from where its collection found it, and only while its bytes are those that were
ingested. The text's page forbids itself scripts and all addresses but this server's. A report is
found by the name of its run among the runs that there are.
"""

import base64
import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse, PlainTextResponse

from app.history import Conversation, History, Turn, as_json, as_markdown
from app.http.identity import person_of
from app.laboratory.runs import report_of
from app.page.evidence import WORDS as PLACES
from app.page.evidence import Language, escape
from app.page.image import Turns, page_image
from app.service import Service
from app.users import Person
from ingest.documents import Document
from ingest.errors import SourceError, TetherError
from ingest.loaders import MAX_BYTES
from ingest.pipeline import recipe_of
from ingest.sources import local_path
from ingest.workers import hash_of
from retrieval.passages import Passage

AROUND = 10_000  # characters shown before and after the cited ones

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "earlier": "Show what comes before",
        "later": "Show what comes after",
        "image": "Page {page} as it looks",
        "missing": "This document is no longer in the collection.",
    },
    "zh": {
        "earlier": "显示前文",
        "later": "显示后文",
        "image": "第 {page} 页的原貌",
        "missing": "文档库中已没有这份文档。",
    },
}

_STYLE = """
:root { color-scheme: light dark; }
body { max-width: 46rem; margin: 0 auto; padding: 1.5rem; line-height: 1.65;
  font-family: system-ui, -apple-system, "Segoe UI", "PingFang SC", "Microsoft YaHei",
    "Noto Sans CJK SC", sans-serif; }
h1 { font-size: 1.2rem; margin: 0; overflow-wrap: anywhere; unicode-bidi: isolate; }
header p { margin: .2rem 0 1rem; opacity: .7; font-size: .85rem; overflow-wrap: anywhere; }
main { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
mark { background: #fdeeb0; color: #1c2b33; border-radius: 3px; scroll-margin: 30vh; }
img { max-width: 100%; border: 1px solid #8885; border-radius: 8px; }
nav, figure { margin: 1rem 0; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; img-src 'self'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)
_EXPORTS: dict[str, tuple[Callable[[Conversation, tuple[Turn, ...]], str], str]] = {
    "md": (as_markdown, "text/markdown"),
    "json": (as_json, "application/json"),
}

Offset = Annotated[int, Query(ge=0)]


def source_url(collection: str, passage: Passage, start: int, end: int, language: Language) -> str:
    """Return the address that shows characters `start:end` of a passage's document."""
    place = f"{quote(collection, safe='')}/{passage.chunk.document_id}"
    return f"/source/{place}?start={start}&end={end}&language={language}#cited"


def report_url(run: str, language: Language) -> str:
    """Return the address of a run's report."""
    return f"/laboratory/report?run={quote(run, safe='')}&language={language}"


def routes(service: Service) -> APIRouter:
    """Return the routes, to be included before the page is mounted."""
    router, drawing = APIRouter(include_in_schema=False), Turns()

    @router.get("/source/{collection}/{document_id}")
    def show_source(
        collection: str,
        document_id: str,
        request: Request,
        *,
        start: Offset = 0,
        end: Offset = 0,
        language: Language = "en",
    ) -> Response:
        document = _document(service, collection, document_id, person_of(request))
        if document is None:
            return _html(f"<main>{escape(WORDS[language]['missing'])}</main>", 404)
        start = min(start, len(document.text))
        cited = start, min(max(start, end), len(document.text))
        return _html(_source_html(document, collection, cited, language))

    @router.get("/source/{collection}/{document_id}/page/{page}.png")
    def show_page(
        collection: str, document_id: str, page: Annotated[int, InPath(ge=1)], request: Request
    ) -> Response:
        person = person_of(request)
        document = _document(service, collection, document_id, person)
        picture = None
        with drawing.take(), suppress(SourceError):
            data = _pdf_bytes(service, collection, document, person) if document else None
            picture = page_image(data, page) if data else None
        if picture is None:
            return PlainTextResponse("there is no such page; open the file itself", 404)
        return Response(picture, media_type="image/png")

    @router.get("/conversation/{conversation_id}.{kind}")
    def export(conversation_id: str, kind: Literal["md", "json"], request: Request) -> Response:
        write, media_type = _EXPORTS[kind]
        history = History(service.settings.home, owner=person_of(request).id)
        try:
            conversation, turns = history.open(conversation_id)
        except TetherError as error:
            return PlainTextResponse(str(error), 404)
        disposition = f"attachment; filename*=UTF-8''{quote(conversation.title, safe='')}.{kind}"
        headers = {"Content-Disposition": disposition, "Cache-Control": "no-store"}
        content = write(conversation, turns)
        return Response(content, media_type=f"{media_type}; charset=utf-8", headers=headers)

    @router.get("/laboratory/report")
    def show_report(run: str, request: Request, *, language: Language = "en") -> Response:
        try:
            service.require_operator(person_of(request))
            page = report_of(service.settings.home, run, language)
        except TetherError as error:
            return PlainTextResponse(str(error), 404)
        headers = {"Content-Security-Policy": _REPORT_POLICY, "Cache-Control": "no-store"}
        return HTMLResponse(page, headers=headers)

    return router


def _document(
    service: Service, collection: str, document_id: str, person: Person
) -> Document | None:
    try:
        return service.document(document_id, collection=collection, person=person)
    except TetherError:
        return None


def _html(body: str, status: int = 200) -> Response:
    page = (
        '<!doctype html><meta charset="utf-8"><title>Tether</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>{body}'
    )
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(page, status, headers)


def _source_html(
    document: Document, collection: str, cited: tuple[int, int], language: Language
) -> str:
    """Return the text around the cited characters, with what was before and after behind links."""
    text, (start, end) = document.text, cited
    first, last = max(0, start - AROUND), min(len(text), end + AROUND)
    base = f"/source/{quote(collection, safe='')}/{document.id}"
    marked = f'<mark id="cited">{escape(text[start:end])}</mark>'
    parts = [
        f"<header><h1>{escape(document.title)}</h1><p>{escape(document.uri)}</p></header>",
        _image_html(document, base, start, language),
        _leaf_html(base, "earlier", max(0, first - AROUND), language) if first else "",
        f"<main>{escape(text[first:start])}{marked}{escape(text[end:last])}</main>",
        _leaf_html(base, "later", last + AROUND, language) if last < len(text) else "",
    ]
    return "".join(parts)


def _leaf_html(base: str, word: str, offset: int, language: Language) -> str:
    link = f"{base}?start={offset}&amp;end={offset}&amp;language={language}#cited"
    return f'<nav><a href="{link}">{WORDS[language][word]}</a></nav>'


def _image_html(document: Document, base: str, start: int, language: Language) -> str:
    """Return the picture of the page on which the cited characters begin, if it is a PDF's."""
    before = [section for section in document.sections if section.start <= start]
    page = before[-1].page if before else None
    if document.media_type != "application/pdf" or page is None:
        return ""
    caption = WORDS[language]["image"].format(page=page)
    number = escape(PLACES[language]["page"].format(page=page))
    return (
        f"<details><summary>{caption}</summary><figure>"
        f'<img loading="lazy" alt="{number}" src="{base}/page/{page}.png"></figure></details>'
    )


def _pdf_bytes(
    service: Service, collection: str, document: Document, person: Person
) -> bytes | None:
    """Return the file of a document, None unless it is a PDF and still what was ingested."""
    path = local_path(document.uri)
    if document.media_type != "application/pdf" or path is None or path != Path(document.uri):
        return None
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        known = service.file_hash(document.uri, collection=collection, person=person)
    except (OSError, TetherError):
        return None
    return data if known == hash_of(data, recipe_of(service.settings.ingest)) else None
