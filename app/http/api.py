"""Tether's own HTTP interface: /api/ask, search, ingest, collections, feedback; /health, /metrics.

    app.include_router(routes(asking))

A stream is one JSON object an event, a line each (or a server-sent event each, for clients that
accept those): {"event": "waiting", "position": 2}, {"event": "retrieved", "passages": [...]},
{"event": "drafted", "text": "..."}, {"event": "finished", "answer": {...}}, or in place of the last
{"event": "error", "error": {...}}. A draft is unverified: show it as a draft or not at all.
"""

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile

from app.http import shapes
from app.http.answering import Asking, Question, Streamed, opened
from app.http.failures import Forbidden, NotFound, as_error, noted
from app.http.identity import person_of
from app.http.metrics import MEDIA_TYPE
from app.service import Service, Waiting
from app.users import Person
from ingest.documents import chunk_id
from ingest.errors import UsageError
from ingest.pipeline import Report
from ingest.sources import Source
from ingest.web import is_url
from model.answers import answer_to_json, passage_to_json
from model.assistant import Drafted, Event, Finished, Retrieved
from model.feedback import Feedback, ShownPassage

JSON_LINES, EVENT_STREAM = "application/x-ndjson", "text/event-stream"
HUNG_UP = 499  # the status of an answer that nobody waited for

Row = dict[str, Any]  # what becomes JSON


def routes(asking: Asking) -> APIRouter:
    """Return all routes of this interface."""
    router = APIRouter(responses=shapes.ERRORS)
    router.include_router(_asking_routes(asking))
    router.include_router(_filling_routes(asking))
    router.include_router(_library_routes(asking))
    router.include_router(_sharing_routes(asking.service))
    router.include_router(_operating_routes(asking))
    return router


def _asking_routes(asking: Asking) -> APIRouter:
    router, service = APIRouter(prefix="/api", tags=["asking"]), asking.service

    streamed = shapes.also_streamed(JSON_LINES, EVENT_STREAM)

    @router.post("/ask", response_model=shapes.Answer, responses=streamed)
    async def ask(body: shapes.AskRequest, request: Request) -> Row | Response:
        """Answer a question with citations, or abstain."""
        question = Question(
            body.question,
            collection=body.collection,
            passages=None if body.passages is None else tuple(body.passages),
            retrieval=body.retrieval,
            top_k=body.top_k,
            owner=owner_of(request),
            person=person_of(request),
        )
        if not body.stream:
            answer = await asking.answer(request, question)
            return Response(status_code=HUNG_UP) if answer is None else answer_to_json(answer)
        source = asking.events(request, question)
        events = await opened(source)
        if EVENT_STREAM in request.headers.get("accept", ""):
            framed = (f"data: {line}\n\n" async for line in _lines(events))
            return Streamed(framed, source, EVENT_STREAM)
        return Streamed((f"{line}\n" async for line in _lines(events)), source, JSON_LINES)

    @router.post("/search", response_model=shapes.Found)
    def search(body: shapes.SearchRequest, request: Request) -> Row:
        """Find the passages nearest to a question."""
        found = service.search(
            body.question,
            collection=body.collection,
            top_k=body.top_k,
            person=person_of(request),
        )
        return {"passages": [passage_to_json(passage) for passage in found]}

    @router.post("/feedback", response_model=shapes.Kept, status_code=201)
    def feedback(body: shapes.FeedbackRequest, request: Request) -> Row:
        """Keep a verdict on an answer, or what it should have been."""
        passages = tuple(
            ShownPassage(chunk_id(one.document, one.start, one.end), one.text)
            for one in body.passages
        )
        entry = Feedback(
            question=body.question,
            answer=body.text,
            passages=passages,
            thumb=body.thumb,
            correction=body.correction,
            generator=service.settings.generator.model,
            adapter=service.settings.generator.adapter,
            person=person_of(request).name,
        )
        return {"id": service.keep_feedback(entry)}

    return router


async def _lines(events: AsyncIterator[Waiting | Event]) -> AsyncGenerator[str, None]:
    """Yield events as JSON; an error is the last one of them."""
    try:
        async for event in events:
            yield json.dumps(event_to_json(event), ensure_ascii=False)
    except Exception as error:
        yield json.dumps({"event": "error", "error": as_error(noted(error))}, ensure_ascii=False)


def event_to_json(event: Waiting | Event) -> Row:
    """Return the public JSON form of an event."""
    match event:
        case Waiting(position):
            return {"event": "waiting", "position": position}
        case Retrieved(passages):
            found = [passage_to_json(passage) for passage in passages]
            return {"event": "retrieved", "passages": found}
        case Drafted(text):
            return {"event": "drafted", "text": text}
        case Finished(answer):
            return {"event": "finished", "answer": answer_to_json(answer)}


def owner_of(request: Request, user: str | None = None) -> str:
    """Return whose turn a question takes in the line: a page's user is another owner.

    Who has logged in is one owner, whatever users their requests name.
    """
    person = person_of(request)
    return f"api:{person.id or user or (request.client.host if request.client else '')}"


def _filling_routes(asking: Asking) -> APIRouter:
    router, service = APIRouter(prefix="/api", tags=["library"]), asking.service

    @router.post("/ingest", response_model=shapes.Ingested)
    def ingest(
        request: Request,
        files: Annotated[list[UploadFile], File(description="kept under the data root")] = [],  # noqa: B006
        sources: Annotated[
            list[str],
            Form(description="paths or web addresses; refused unless serve.sources is true"),
        ] = [],  # noqa: B006
        collection: Annotated[str | None, Form(max_length=shapes.LONGEST_NAME)] = None,
    ) -> Row:
        """Upload files into a collection, which is made if need be."""
        if not files and not sources:
            raise UsageError('nothing to ingest; send files as multipart fields named "files"')
        person = person_of(request)
        given = _permitted(service, sources, person)
        collection = collection or service.default_collection(person)
        reports = []
        if files:
            uploads = [(file.filename or "", file.file) for file in files]
            reports.append(service.upload(uploads, collection=collection, person=person))
        if given:
            reports.append(service.ingest(given, collection=collection, person=person))
        return _ingested(reports, collection)

    return router


def _permitted(service: Service, sources: list[str], person: Person) -> list[Source]:
    """Return paths and addresses to ingest.

    Raises:
        Forbidden: There are some, and the settings do not allow them.
        NotAllowed: The person is no operator: among the paths are other people's files.
    """
    if sources and service.settings.serve.sources:
        service.require_operator(person)
    elif sources:
        raise Forbidden(
            "paths and web addresses are refused here; upload the files, or start the server with"
            " --set serve.sources=true"
        )
    return [source if is_url(source) else Path(source) for source in sources]


def _ingested(reports: list[Report], collection: str) -> Row:
    outcomes = [outcome for report in reports for outcome in report.outcomes]
    counts: dict[str, int] = {}
    for report in reports:
        for status, count in report.counts.items():
            counts[status] = counts.get(status, 0) + count
    files = [dataclasses.asdict(outcome) for outcome in outcomes]
    return {"collection": collection, "counts": counts, "files": files}


def _library_routes(asking: Asking) -> APIRouter:
    router, service = APIRouter(prefix="/api", tags=["library"]), asking.service

    @router.get("/collections", response_model=shapes.Collections)
    def collections(request: Request) -> Row:
        """List the collections."""
        found = service.collections(person=person_of(request))
        return {"collections": [dataclasses.asdict(info) for info in found]}

    @router.get("/collections/{name}/documents", response_model=shapes.Documents)
    def documents(name: str, request: Request) -> Row:
        """List the documents of a collection with their sources."""
        found = service.documents(name, person=person_of(request))
        return {"documents": [dataclasses.asdict(info) for info in found]}

    @router.get("/collections/{name}/documents/{document}", response_model=shapes.DocumentText)
    def document(name: str, document: str, request: Request) -> Row:
        """Return a document with its text."""
        found = service.document(document, collection=name, person=person_of(request))
        if found is None:
            raise NotFound("the collection has no such document; list them first")
        return dataclasses.asdict(found)

    @router.delete("/collections/{name}/documents", response_model=shapes.Removed)
    def remove(name: str, uri: Annotated[list[str], Query(min_length=1)], request: Request) -> Row:
        """Forget sources, as many as `uri` is given."""
        removed = service.remove(uri, collection=name, person=person_of(request))
        if not removed:
            raise NotFound("the collection has no such source; list its documents first")
        return {"removed": removed}

    @router.delete("/collections/{name}", status_code=204)
    def delete(name: str, request: Request) -> None:
        """Remove a collection with all its documents."""
        service.delete(name, person=person_of(request))

    return router


def _sharing_routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["library"])

    @router.get("/collections/{name}/readers", response_model=shapes.Rights)
    def readers(name: str, request: Request) -> Row:
        """Tell who owns a collection of one's own, and who may read it."""
        owner, found = service.rights(name, person=person_of(request))
        return {"owner": owner, "readers": found}

    @router.put("/collections/{name}/readers/{user}", status_code=204)
    def share(name: str, user: str, request: Request) -> None:
        """Let a user read a collection of one's own."""
        service.share(name, user, person=person_of(request))

    @router.delete("/collections/{name}/readers/{user}", status_code=204)
    def unshare(name: str, user: str, request: Request) -> None:
        """Take that right away again."""
        if not service.unshare(name, user, person=person_of(request)):
            raise NotFound("that user could not read the collection; nothing to take away")

    return router


def _operating_routes(asking: Asking) -> APIRouter:
    router, service = APIRouter(tags=["operating"]), asking.service

    @router.get("/health", response_model=shapes.Health)
    async def health() -> Row:
        """Tell that the process answers, and how busy it is."""
        running, waiting = service.load()
        version = importlib.metadata.version("tether")
        return {"status": "ok", "version": version, "running": running, "waiting": waiting}

    @router.get("/metrics", response_class=Response)
    async def metrics(request: Request) -> Response:
        """Return what is counted, for Prometheus; with users, for operators only."""
        service.require_operator(person_of(request))
        running, waiting = service.load()
        gauges = {
            "tether_questions_running": running,
            "tether_questions_waiting": waiting,
            "tether_memory_bytes": resident_bytes(),
        }
        return Response(asking.metrics.render(gauges), media_type=MEDIA_TYPE)

    return router


def resident_bytes() -> int:
    """Return the resident memory of this process, 0 on systems that do not tell it in /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
