"""The tab Documents: what a collection holds, how files come in and go, and who may read them.

A door only: `Service` keeps uploads, ingests, removes, follows and shares; this shows what became
of it. All text it shows passes `evidence.escape`.
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

from app.page.documents_view import (
    WORDS,
    listing_html,
    preview_html,
    progress_html,
    shared_html,
    sharing_html,
    watched_html,
)
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
from app.users import NotAllowed, Person
from app.watching import Watch
from ingest.errors import TetherError, UnknownCollection, UsageError
from ingest.pipeline import FileOutcome
from ingest.sources import MEMBER, Source, is_gone, local_path
from retrieval.store import checked_name

_LOG = logging.getLogger(__name__)

_OPEN_AT_ONCE = 100  # files: systems bound the number of open ones
_TICK = 2.0  # seconds between two looks at what is followed


@dataclass(frozen=True, slots=True)
class _Parts:
    """The components of the tab."""

    files: gr.File
    progress: gr.HTML
    name: gr.Textbox
    create: gr.Button
    sharing: gr.HTML
    watched: gr.HTML
    find: gr.Textbox
    list: gr.HTML
    preview: gr.HTML
    timer: gr.Timer  # runs while a folder is followed


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
        self, paths: list[str] | None, collection: str, request: gr.Request
    ) -> Iterator[Drawn]:
        """Keep and ingest what was dropped, telling of each file as it is done."""
        files, place = [Path(path) for path in paths or ()], _Place(collection, person_of(request))

        def work(tell: _Tell) -> None:
            for first in range(0, len(files), _OPEN_AT_ONCE):
                some = files[first : first + _OPEN_AT_ONCE]
                self._upload(some, len(files) - len(some), place, tell)

        if files:
            yield from self._tell_of(work, len(files), request)

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

    def _ingest(self, uris: Sequence[str], place: _Place, request: gr.Request) -> Iterator[Drawn]:
        """Ingest sources again; unchanged ones cost nothing."""
        sources = _sources(uris)

        def work(tell: _Tell) -> None:
            self.shell.service.ingest(
                sources,
                collection=place.collection,
                on_file=lambda outcome, done, total: tell(outcome, total),
                person=place.person,
            )

        yield from self._tell_of(work, len(sources), request)

    def _tell_of(self, work: _Work, total: int, request: gr.Request) -> Iterator[Drawn]:
        """Run an ingest in a thread and yield how far it is; leaving the page does not stop it."""
        parts, outcomes, error = self.parts, list[FileOutcome](), ""

        def drawn() -> str:
            return progress_html(outcomes, total, self.shell.language(request)) + error

        yield {
            parts.files: gr.update(value=None, interactive=False),
            parts.progress: drawn(),
        }
        for step in _steps(work):
            if isinstance(step, str):
                error = notice_html(step, "error")
                continue
            outcome, total = step
            outcomes.append(outcome)
            yield {parts.progress: drawn()}
        yield {
            parts.files: gr.update(value=None, interactive=True),
            parts.progress: drawn(),
        }

    # What the list offers

    def act(
        self, find: str, collection: str, request: gr.Request, event: gr.EventData
    ) -> Iterator[Drawn]:
        """Preview, remove, or ingest again a document; or do that to the whole collection."""
        action, service = action_of(event), self.shell.service
        person, language = person_of(request), self.shell.language(request)
        place = _Place(collection, person)
        try:
            if action.name == "preview":
                yield {self.parts.preview: self._previewed(action.id, language, place)}
            elif action.name == "again":
                yield from self._ingest(self._uris(action.id, place), place, request)
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

    # Who may read the collection, and what it follows

    def manage(self, find: str, collection: str, request: gr.Request, event: gr.EventData) -> Drawn:
        """Share the collection or no longer, follow a folder or no more."""
        action, service, person = action_of(event), self.shell.service, person_of(request)
        note = ""
        try:
            if action.name == "share":
                service.share(collection, action.value, person=person)
            elif action.name == "unshare":
                service.unshare(collection, action.id, person=person)
            elif action.name == "watch":
                service.watch(action.id, collection=collection, person=person)
            elif action.name == "unwatch":
                service.unwatch(action.id, collection=collection, person=person)
        except TetherError as error:
            note = notice_html(one_line(error), "error")
        return self.refresh(find, collection, request) | {self.parts.progress: note}

    def tick(self, find: str, watched: str, collection: str, request: gr.Request) -> Drawn:
        """Draw what is followed, and the documents where something became of it."""
        around = self._around(self.shell.language(request), _Place(collection, person_of(request)))
        if around[self.parts.watched] == watched:
            return {self.parts.watched: gr.skip()}
        return self.refresh(find, collection, request)

    def _around(self, language: Language, place: _Place) -> Drawn:
        """Draw who may read the collection and what it follows; of that, readers see nothing."""
        service, parts, person = self.shell.service, self.parts, place.person
        sharing, watches = "", tuple(Watch(folder) for folder in service.folders)
        try:
            watches = service.watches(place.collection, person=person)
            if person.id:
                owner, readers = service.rights(place.collection, person=person)
                sharing = sharing_html(owner, readers, language)
        except UnknownCollection:  # before its first document, with which it is made
            pass
        except NotAllowed:
            sharing, watches = shared_html(language), ()
        except TetherError as error:
            sharing, watches = notice_html(one_line(error), "error"), ()
        is_offered = person.is_operator and not service.folders
        is_followed = any(watch.state in ("reading", "following") for watch in watches)
        return {
            parts.sharing: sharing,
            parts.watched: watched_html(watches, language, tell_how=is_offered),
            parts.timer: gr.update(active=is_followed),
        }

    # Collections

    def create(self, name: str, request: gr.Request) -> Drawn:
        """Make an empty collection and go to it."""
        person, language = person_of(request), self.shell.language(request)
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

    def show(self, find: str | None, collection: str, request: gr.Request) -> Drawn:
        """Draw a collection; nothing was looked for yet where `find` is None."""
        place = _Place(collection, person_of(request))
        return self._show(find or "", self.shell.language(request), place)

    def refresh(self, find: str | None, collection: str, request: gr.Request) -> Drawn:
        """Draw what the collection on the screen holds now, and leave the rest as it is."""
        place, language = _Place(collection, person_of(request)), self.shell.language(request)
        drawn = self._around(language, place)
        return drawn | {self.parts.list: self._listed(find or "", language, place)}

    def _show(self, find: str, language: Language, place: _Place) -> Drawn:
        return {
            self.parts.preview: "",
            self.parts.progress: "",
            self.parts.list: self._listed(find, language, place),
            **self._around(language, place),
        }

    def listed(self, find: str, collection: str, request: gr.Request) -> str:
        """Return the documents of a collection, or why they cannot be listed."""
        place = _Place(collection, person_of(request))
        return self._listed(find, self.shell.language(request), place)

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
        return listing_html(
            documents, gone, (collection, size), language, find, may_change=self._may_change(place)
        )

    def _may_change(self, place: _Place) -> bool:
        try:
            self.shell.service.rights(place.collection, person=place.person)
        except NotAllowed:
            return False
        except TetherError:  # whatever is tried will say what is wrong
            pass
        return True

    def speak(
        self, language: Language, request: gr.Request, collection: str, find: str | None
    ) -> list[Any]:
        """Draw the tab in `language`."""
        words, drawn = WORDS[language], self.refresh(find, collection, request)
        return [
            gr.update(label=words["files"]),
            gr.update(label=words["name"], placeholder=words["name"]),
            gr.update(value=words["create"]),
            gr.update(label=words["find"], placeholder=words["find"]),
            *(drawn[part] for part in _refreshed(self.parts)),
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
    drawn = (parts.files, parts.name, parts.create, parts.find, *_refreshed(parts))
    return Tab(item, _name, drawn, (shell.collection, parts.find), documents.speak)


def _refreshed(parts: _Parts) -> tuple[Any, ...]:
    """Return the components that show what the collection holds now."""
    return parts.list, parts.sharing, parts.watched, parts.timer


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
            made["sharing"] = gr.HTML(elem_id="tether-sharing", js_on_load=ACTIONS)
            made["watched"] = gr.HTML(elem_id="tether-watched", js_on_load=ACTIONS)
        with gr.Column(scale=7, min_width=340):
            made["find"] = _line("find", 200)
            made["list"] = gr.HTML(elem_id="tether-documents", js_on_load=ACTIONS)
            made["preview"] = gr.HTML(elem_id="tether-preview")
    made["timer"] = gr.Timer(_TICK, active=False)
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
    shown = [parts.find, shell.collection]
    # Then draw the collection that is on the screen by now, which may be another one.
    for worked in (
        parts.files.upload(documents.upload, [parts.files, shell.collection], **working),
        parts.list.click(documents.act, shown, **working),
    ):
        worked.then(documents.refresh, shown, **drawing)
    gr.on([parts.sharing.click, parts.watched.click], documents.manage, shown, **drawing)
    parts.timer.tick(documents.tick, [parts.find, parts.watched, shell.collection], **drawing)
    gr.on(
        [parts.create.click, parts.name.submit],
        documents.create, parts.name, **drawing,
    )  # fmt: skip
    shell.collection.change(documents.show, shown, **drawing)
    parts.find.change(
        documents.listed, shown, parts.list, trigger_mode="always_last", queue=False, **QUIET,
    )  # fmt: skip
