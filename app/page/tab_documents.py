"""The tab Documents: what a collection holds, and how files come in and go.

A door only: `Service` keeps uploads, ingests, removes; this shows what became of each file. All
text it shows passes `evidence.escape`.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from app.page.documents_view import WORDS, listing_html, preview_html, progress_html
from app.page.evidence import Language, notice_html
from app.page.parts import (
    ACTIONS,
    QUIET,
    Shell,
    Tab,
    action_of,
    collection_names,
    one_line,
    person_of,
)
from app.users import Person
from ingest.errors import TetherError, UnknownCollection, UsageError
from ingest.pipeline import FileOutcome
from ingest.sources import MEMBER, Source, is_gone, local_path
from retrieval.store import checked_name

_LOG = logging.getLogger(__name__)

_OPEN_AT_ONCE = 100  # files: systems bound the number of open ones


@dataclass(frozen=True, slots=True)
class _Parts:
    """The components of the tab."""

    files: gr.File
    progress: gr.HTML
    name: gr.Textbox
    create: gr.Button
    find: gr.Textbox
    list: gr.HTML
    preview: gr.HTML


@dataclass(frozen=True, slots=True)
class _Place:
    """A collection, and who looks at it."""

    collection: str
    person: Person


Drawn = dict[Any, Any]  # components to their updates
_Step = tuple[FileOutcome, int]  # what became of a file, and how many there are in all
_Tell = Callable[[FileOutcome, int], None]
_Work = Callable[[_Tell], None]


class _Documents:
    """The functions behind the tab's buttons; each returns what components show."""

    def __init__(self, shell: Shell, parts: _Parts) -> None:
        self.shell = shell
        self.parts = parts

    # Filling

    def upload(
        self, paths: list[str] | None, language: Language, collection: str, request: gr.Request
    ) -> Iterator[Drawn]:
        """Keep and ingest what was dropped, telling of each file as it is done."""
        files, place = [Path(path) for path in paths or ()], _Place(collection, person_of(request))

        def work(tell: _Tell) -> None:
            for first in range(0, len(files), _OPEN_AT_ONCE):
                some = files[first : first + _OPEN_AT_ONCE]
                self._upload(some, len(files) - len(some), place, tell)

        if files:
            yield from self._watch(work, len(files), language, place)

    def _upload(self, files: Sequence[Path], others: int, place: _Place, tell: _Tell) -> None:
        """Upload some of the files; the collection keeps its own copies."""
        with ExitStack() as stack:
            for file in files:
                stack.callback(file.unlink, missing_ok=True)
            opened = [(file.name, stack.enter_context(file.open("rb"))) for file in files]
            self.shell.service.upload(
                opened,
                collection=place.collection,
                on_file=lambda outcome, done, total: tell(outcome, total + others),
                person=place.person,
            )

    def _ingest(self, uris: Sequence[str], language: Language, place: _Place) -> Iterator[Drawn]:
        """Ingest sources again; unchanged ones cost nothing."""
        sources = _sources(uris)

        def work(tell: _Tell) -> None:
            self.shell.service.ingest(
                sources,
                collection=place.collection,
                on_file=lambda outcome, done, total: tell(outcome, total),
                person=place.person,
            )

        yield from self._watch(work, len(sources), language, place)

    def _watch(self, work: _Work, total: int, language: Language, place: _Place) -> Iterator[Drawn]:
        """Run an ingest in a thread and yield how far it is; leaving the page does not stop it."""
        parts, outcomes, error = self.parts, list[FileOutcome](), ""
        yield {
            parts.files: gr.update(value=None, interactive=False),
            parts.progress: progress_html(outcomes, total, language),
        }
        for step in _steps(work):
            if isinstance(step, str):
                error = notice_html(step, "error")
                continue
            outcome, total = step
            outcomes.append(outcome)
            yield {parts.progress: progress_html(outcomes, total, language)}
        yield {
            parts.files: gr.update(value=None, interactive=True),
            parts.progress: progress_html(outcomes, total, language) + error,
            parts.list: self._listed("", language, place),
        }

    # What the list offers

    def act(
        self,
        find: str,
        language: Language,
        collection: str,
        request: gr.Request,
        event: gr.EventData,
    ) -> Iterator[Drawn]:
        """Preview, remove, or ingest again a document; or do that to the whole collection."""
        action, service = action_of(event), self.shell.service
        person = person_of(request)
        place = _Place(collection, person)
        try:
            if action.name == "preview":
                yield {self.parts.preview: self._previewed(action.id, language, place)}
            elif action.name == "again":
                yield from self._ingest(self._uris(action.id, place), language, place)
            elif action.name == "remove":
                uris = self._uris(action.id, place)
                service.remove(uris, collection=collection, person=person)
                yield self._show(find, language, place)
            elif action.name == "delete":
                service.delete(collection, person=person)
                yield self._choose(service.default_collection(person), language, person)
        except TetherError as error:
            yield {self.parts.progress: notice_html(one_line(error), "error")}

    def _uris(self, document_id: str, place: _Place) -> list[str]:
        """Return the sources of a document, "" for those of all."""
        chosen = [
            info
            for info in self.shell.service.documents(place.collection, person=place.person)
            if document_id in ("", info.id)
        ]
        if document_id and not chosen:
            raise UsageError("that document is no longer in the collection; choose another")
        return [uri for info in chosen for uri in info.uris]

    def _previewed(self, document_id: str, language: Language, place: _Place) -> str:
        document = self.shell.service.document(
            document_id, collection=place.collection, person=place.person
        )
        if document is None:
            raise UsageError("that document is no longer in the collection; choose another")
        return preview_html(document, place.collection, language)

    # Collections

    def create(self, name: str, language: Language, request: gr.Request) -> Drawn:
        """Make an empty collection and go to it."""
        person = person_of(request)
        try:
            name = checked_name(name.strip())
            self.shell.service.ingest([], collection=name, person=person)
        except TetherError as error:
            return {self.parts.progress: notice_html(one_line(error), "error")}
        return {self.parts.name: "", **self._choose(name, language, person)}

    def _choose(self, name: str, language: Language, person: Person) -> Drawn:
        names = collection_names(self.shell.service, person, name)
        chosen = gr.update(choices=names, value=name)
        return {self.shell.collection: chosen, **self._show("", language, _Place(name, person))}

    def show(
        self, find: str | None, language: Language, collection: str, request: gr.Request
    ) -> Drawn:
        """Draw the documents of a collection; nothing was looked for yet where `find` is None."""
        return self._show(find or "", language, _Place(collection, person_of(request)))

    def _show(self, find: str, language: Language, place: _Place) -> Drawn:
        return {
            self.parts.preview: "",
            self.parts.progress: "",
            self.parts.list: self._listed(find, language, place),
        }

    def listed(self, find: str, language: Language, collection: str, request: gr.Request) -> str:
        """Return the documents of a collection, or why they cannot be listed."""
        return self._listed(find, language, _Place(collection, person_of(request)))

    def _listed(self, find: str, language: Language, place: _Place) -> str:
        service, collection = self.shell.service, place.collection
        try:
            documents = service.documents(collection, person=place.person)
        except UnknownCollection:  # the default one before the first upload
            documents = []
        except TetherError as error:
            return notice_html(one_line(error), "error")
        known = service.collections(person=place.person)
        size = sum(info.bytes for info in known if info.name == collection)
        gone = {info.id for info in documents if all(map(is_gone, info.uris))}
        return listing_html(documents, gone, (collection, size), language, find)

    def speak(self, language: Language, request: gr.Request, collection: str) -> list[Any]:
        """Draw the tab in `language`."""
        words = WORDS[language]
        return [
            gr.update(label=words["files"]),
            gr.update(label=words["name"], placeholder=words["name"]),
            gr.update(value=words["create"]),
            gr.update(label=words["find"], placeholder=words["find"]),
            self.listed("", language, collection, request),
        ]


# --- Ingesting beside the page -------------------------------------------------------------------


def _steps(work: _Work) -> Iterator[_Step | str]:
    """Yield what becomes of each file; last the error that ended the run, if one did."""
    steps: queue.SimpleQueue[_Step | str | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            work(lambda outcome, total: steps.put((outcome, total)))
        except TetherError as error:
            steps.put(one_line(error))
        except Exception as error:
            _LOG.exception("an ingest failed")
            kind = type(error).__name__
            steps.put(f"the ingest failed ({kind}); see the server's log and try again")
        steps.put(None)

    # Not ended with its page: what was dropped is ingested, whoever still looks.
    threading.Thread(target=run, daemon=True).start()
    while (step := steps.get()) is not None:
        yield step


def _sources(uris: Sequence[str]) -> list[Source]:
    """Return the files and addresses behind uris, an archive once for all its members."""
    found: dict[Source, None] = {}
    for uri in uris:
        path = local_path(uri)
        found[path if path is not None else uri.partition(MEMBER)[0]] = None
    return list(found)


# --- The layout ----------------------------------------------------------------------------------


def build(shell: Shell) -> Tab:
    """Make the tab inside the open page."""
    with gr.Tab(WORDS["en"]["tab"], id="documents", elem_id="tether-tab-documents") as item:
        parts = _parts()
    documents = _Documents(shell, parts)
    _wire(shell, documents)
    drawn = (parts.files, parts.name, parts.create, parts.find, parts.list)
    return Tab(item, _name, drawn, (shell.collection,), documents.speak)


def _name(language: Language) -> str:
    return WORDS[language]["tab"]


def _parts() -> _Parts:
    words, made = WORDS["en"], dict[str, Any]()
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=260):
            made["files"] = gr.File(
                label=words["files"], file_count="multiple", height=150, elem_id="tether-files"
            )
            made["progress"] = gr.HTML(elem_id="tether-progress")
            with gr.Row(elem_id="tether-new"):
                made["name"] = _line("name", 100)
                made["create"] = gr.Button(
                    words["create"], size="sm", scale=0, elem_id="tether-create"
                )
        with gr.Column(scale=7, min_width=340):
            made["find"] = _line("find", 200)
            made["list"] = gr.HTML(elem_id="tether-documents", js_on_load=ACTIONS)
            made["preview"] = gr.HTML(elem_id="tether-preview")
    return _Parts(**made)


def _line(name: str, longest: int) -> gr.Textbox:
    words = WORDS["en"][name]
    return gr.Textbox(
        label=words, placeholder=words, show_label=False, container=False, max_length=longest,
        elem_id=f"tether-{name}-document" if name == "find" else "tether-collection-name",
    )  # fmt: skip


def _wire(shell: Shell, documents: _Documents) -> None:
    """Connect the tab's events."""
    parts = documents.parts
    every = {shell.collection, *(getattr(parts, name) for name in _Parts.__slots__)}
    working: dict[str, Any] = {"outputs": every, "concurrency_limit": None, **QUIET}
    drawing: dict[str, Any] = {"outputs": every, "queue": False, **QUIET}
    place = [shell.language, shell.collection]
    parts.files.upload(documents.upload, [parts.files, *place], **working)
    parts.list.click(documents.act, [parts.find, *place], **working)
    gr.on(
        [parts.create.click, parts.name.submit],
        documents.create, [parts.name, shell.language], **drawing,
    )  # fmt: skip
    shell.collection.change(documents.show, [parts.find, *place], **drawing)
    parts.find.change(
        documents.listed, [parts.find, *place], parts.list, trigger_mode="always_last",
        queue=False, **QUIET,
    )  # fmt: skip
