"""Everything that one serving process holds: models once, collections as asked for, one fair line.

    with Service(settings) as service:
        for event in service.ask("谁造了这座桥？", owner="ada"):
            ...  # Waiting, then the events of the assistant

All doors of a process (the page, the HTTP API, MCP) share one `Service`, so that models are in
memory once, and nobody's questions crowd out another's. Models come with the process; a collection
is opened when first asked, and anew if its file was replaced meanwhile. Every method may be called
from any thread.

Whose documents are shown to whom is decided here and nowhere else: every method that touches a
collection takes who asks, and to somebody without a right to it, it is not there (`_permitted`).
Knows nothing of HTTP, HTML or how an answer comes about.
"""

import logging
import os
import shutil
import threading
import time
import unicodedata
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as Yielding
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from app.assembly import (
    build_assistant,
    build_encoder,
    build_generator,
    build_searcher,
    build_verifier,
    describe_models,
)
from app.settings import Settings, folders_of
from app.turns import Line
from app.users import LOCAL, NotAllowed, Person, Users
from app.watching import Watch, Watches
from ingest.documents import Document
from ingest.errors import ServiceBusy, StoreError, UnknownCollection, UsageError
from ingest.pipeline import OnFile, PipelineOptions, Report, run
from ingest.sources import MEMBER, Source
from model.assistant import Assistant, Event, checked_question
from model.feedback import Feedback, FeedbackStore
from model.generators import Generator
from model.verifier import Verifier
from retrieval.encoders import Encoder, Vectors
from retrieval.index import DenseIndex
from retrieval.maintenance import clear_traces, delete_collection
from retrieval.passages import Passage
from retrieval.search import Searcher, given_passages
from retrieval.store import (
    TRUTH,
    Collection,
    CollectionInfo,
    DocumentInfo,
    checked_name,
    flush,
    list_collections,
    open_collection,
    require_collection,
)

logger = logging.getLogger(__name__)

HEARTBEAT = 1.0  # seconds: a waiting question tells its position at least so often
MOST_OPEN = 8  # collections that stay open while nobody asks them
MOST_INGESTS = 8  # at a time: each that waits holds a thread of its door
LONGEST_FILE_NAME = 200  # bytes, of an uploaded file


@dataclass(frozen=True, slots=True)
class Waiting:
    """A question in the line; position 1 is the next to be let in. Told again every second."""

    position: int


@dataclass(frozen=True, slots=True)
class Instead:
    """Another way to answer a question, so that it can be compared with the one in force."""

    settings: Settings  # of the prompt, of reading and of decoding; the search stays as it is
    generator: Callable[[Generator], Generator]  # of the service's own; the caller closes another


@dataclass(eq=False)
class _Opened:
    """An open collection, what answers from it, and how many are using it."""

    collection: Collection
    file: tuple[int, int]  # device and number of its truth, to notice when that was replaced
    searcher: Searcher
    assistant: Assistant
    users: int = 0
    is_stale: bool = False  # closed when its last user leaves


class Service:
    """The parts of one serving process; `close` it, or use it in a `with`."""

    def __init__(
        self,
        settings: Settings,
        *,
        encoder: Encoder | None = None,
        generator: Generator | None = None,
        verifier: Verifier | None = None,
    ) -> None:
        """Load the models, those that are not given.

        Args:
            settings: What is in force; `settings.collection` is the default collection.
            encoder: Instead of the one that the settings name.
            generator: The same; it is closed with the service.
            verifier: The same.

        Raises:
            WeightsError: A model cannot be loaded.
            SettingsError: The settings contradict each other.
        """
        self.settings = settings
        self.folders = folders_of(settings.serve)  # that collections may follow
        self.users = Users(settings.home)
        self._requires_people = False
        self._making = threading.Lock()  # of the collections that are not there yet
        self.encoder = encoder or build_encoder(settings)
        self._verifier = verifier or build_verifier(settings, self.encoder)
        self._generator = generator or build_generator(settings, slots=settings.generator.slots)
        self._from_memory = self._assistant(None)
        self._line = Line(
            places=settings.generator.slots,
            longest=settings.serve.waiting,
            longest_each=settings.serve.waiting_each,
        )
        self._opened: OrderedDict[str, _Opened] = OrderedDict()  # the longest unused one first
        self._lock = threading.Lock()  # of the line above, and of what it holds
        self._ingesting = threading.Lock()  # one ingest at a time keeps memory bounded
        self._ingests = threading.BoundedSemaphore(MOST_INGESTS)  # running and waiting
        self._watches = Watches()
        self._is_closed = False
        self._cancelled = threading.Event()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    # Who asks

    def require_people(self) -> None:
        """From now on refuse whoever is not known: other people come in by the same doors.

        A door that forgot to say who asks would speak as `LOCAL`, and so is shut, not open.
        """
        self._requires_people = True

    def require_operator(self, person: Person) -> None:
        """Raise unless a person may see what concerns the whole process.

        Raises:
            NotAllowed: They may not.
        """
        if not self._is_operator(person):
            raise NotAllowed("only operators may do that; ask one of them")

    def default_collection(self, person: Person = LOCAL) -> str:
        """Return the collection of those who name none: the setting's, else their own."""
        chosen = self.settings.collection
        if self._is_operator(person) or self.users.right(person, checked_name(chosen)):
            return chosen
        return person.name or chosen

    def rights(
        self, collection: str, *, person: Person = LOCAL
    ) -> tuple[str | None, tuple[str, ...]]:
        """Return the names of a collection's owner, None for the operators, and of its readers.

        Raises:
            UnknownCollection: There is none of that name for the person who asks.
            NotAllowed: It is not theirs to share.
        """
        return self.users.who_may(self._permitted(person, collection, to_change=True))

    def share(self, collection: str, reader: str, *, person: Person = LOCAL) -> None:
        """Let somebody read a collection.

        Raises:
            UnknownCollection: There is none of that name for the person who asks.
            NotAllowed: It is not theirs to share.
            UsageError: There is no such reader.
        """
        self.users.share(self._permitted(person, collection, to_change=True), reader)

    def unshare(self, collection: str, reader: str, *, person: Person = LOCAL) -> bool:
        """Take that right away again; tell whether it was there.

        Raises:
            UnknownCollection: There is none of that name for the person who asks.
            NotAllowed: It is not theirs to share.
            UsageError: There is no such reader.
        """
        return self.users.unshare(self._permitted(person, collection, to_change=True), reader)

    def _is_operator(self, person: Person) -> bool:
        return person.is_operator and not (self._requires_people and person == LOCAL)

    def _permitted(self, person: Person, collection: str | None, *, to_change: bool = False) -> str:
        """Return the name of a collection that is there, and that a person may read or change.

        To those without a right to it, a collection that exists is answered as one that does not.

        Raises:
            UsageError: The name cannot be the name of a collection.
            UnknownCollection: There is none of that name for them.
            NotAllowed: They may read it, and no more.
        """
        name = checked_name(collection or self.default_collection(person))
        if self._is_operator(person):
            require_collection(self.settings.home, name)
            return name
        right = self.users.right(person, name)
        if right is None or not self._exists(name):
            raise UnknownCollection(
                f"there is no collection {name} for you; upload documents to make one, or ask for"
                " one to be shared with you"
            )
        if to_change and right != "owner":
            raise NotAllowed(f"you may read collection {name} only; ask its owner to change it")
        return name

    def _permitted_or_made(self, person: Person, collection: str | None) -> str:
        """Return the name of a collection that a person may change; a new one is theirs.

        Raises:
            UsageError: The name cannot be the name of a collection.
            UnknownCollection: Somebody else has one of that name, or the person is nobody.
            NotAllowed: They may read it, and no more.
        """
        name = checked_name(collection or self.default_collection(person))
        with self._making:
            if not self._exists(name) and (person.id or self._is_operator(person)):
                self.users.own(name, person)  # before it is there, so that it is never nobody's
                open_collection(self.settings.home, name, self.encoder, create=True).close()
        try:
            return self._permitted(person, name, to_change=True)
        except UnknownCollection:
            raise UnknownCollection(f"the name {name} is taken; choose another one") from None

    def _exists(self, name: str) -> bool:
        return (self.settings.home / "collections" / name / TRUTH).exists()

    # Asking

    def ask(
        self,
        question: str,
        *,
        collection: str | None = None,
        passages: Sequence[Passage] | Sequence[str] | None = None,
        retrieval: bool = True,
        top_k: int | None = None,
        owner: str = "",
        person: Person = LOCAL,
        instead: Instead | None = None,
    ) -> Yielding[Waiting | Event, None, None]:
        """Yield `Waiting` while others are served, then what `Assistant.stream` yields.

        Closing the iterator gives up the place in the line, or ends the answer and its decoding.

        Args:
            question: In Chinese or English.
            collection: Where to search, None in the default collection.
            passages: Answer from these, or from passages of these texts, instead of searching.
            retrieval: False answers from the model's memory alone: never "supported".
            top_k: Passages to find, None for the number in the settings.
            owner: Whose question this is; owners are served in turns.
            person: Who asks, and so what may be searched.
            instead: Answer with these settings and this generator.

        Raises:
            QuestionError: The question is empty or far too long.
            UnknownCollection: There is no such collection for that person.
            ServiceBusy: Too many questions wait, or the service was closed.
            StoreError: The collection cannot be read.
            GeneratorError: The generator failed.
        """
        question = checked_question(question)
        searches = retrieval and passages is None
        name = self._permitted(person, collection) if searches else None
        ticket = self._line.join(owner)
        try:
            while position := self._line.wait(ticket, HEARTBEAT):
                yield Waiting(position)
            with self._answering(name, instead) as assistant:
                given = None if passages is None else self._given(passages, question)
                events = assistant.stream(
                    question, passages=given, retrieval=retrieval, top_k=top_k
                )
                with closing(cast("Yielding[Event, None, None]", events)) as answering:
                    for event in answering:
                        if self._cancelled.is_set():
                            raise _stopping()
                        yield event
        finally:
            self._line.leave(ticket)

    def search(
        self,
        question: str,
        *,
        collection: str | None = None,
        top_k: int | None = None,
        person: Person = LOCAL,
    ) -> tuple[Passage, ...]:
        """Return the passages nearest to a question, best first.

        Raises:
            QuestionError: The question is empty or far too long.
            UnknownCollection: There is no such collection.
            StoreError: The collection cannot be read.
        """
        question = checked_question(question)
        top_k = self.settings.search.top_k if top_k is None else top_k
        with self._using(self._permitted(person, collection)) as opened:
            return tuple(opened.searcher.search(question, top_k=top_k))

    def embed(self, texts: Sequence[str], *, queries: bool = False) -> Vectors:
        """Return unit vectors of texts as passages or as queries, (len(texts), dimension)."""
        encode = self.encoder.encode_queries if queries else self.encoder.encode_passages
        return encode(list(texts))

    def keep_feedback(self, entry: Feedback) -> int:
        """Keep what somebody said of an answer, and return its number.

        Raises:
            UsageError: It says nothing, or has no question.
            StoreError: It cannot be written.
        """
        with FeedbackStore(self.settings.home) as store:
            return store.add(entry)

    # Filling

    def ingest(
        self,
        sources: Sequence[Source],
        *,
        collection: str | None = None,
        on_file: OnFile | None = None,
        person: Person = LOCAL,
    ) -> Report:
        """Read sources into a collection, which is made if need be; one call after the other.

        Args:
            sources: As `ingest.pipeline.run` takes them.
            collection: Its name, None for the default one.
            on_file: Told of each file when it is durable.
            person: Who asks; a collection that is made is theirs.

        Raises:
            UsageError: The name cannot be the name of a collection.
            UnknownCollection: Somebody else has a collection of that name.
            NotAllowed: The person may read it, and no more.
            StoreError: The collection cannot be written, or another program is writing it.
            ServiceBusy: Too many ingests wait already.
        """
        name = self._permitted_or_made(person, collection)
        with self._turn_to_ingest():
            return self._run(sources, name, on_file)

    def _run(
        self,
        sources: Sequence[Source],
        name: str,
        on_file: OnFile | None = None,
        *,
        prune: bool = False,
    ) -> Report:
        """Read sources into a permitted collection, when it is our turn."""
        pipeline = PipelineOptions(prune=prune, parsers=self.settings.parsing)
        with self._using(name) as opened, opened.collection.writing():
            store = opened.collection
            report = run(sources, store, self.settings.ingest, pipeline=pipeline, on_file=on_file)
            if report.counts["removed"]:
                _clear_traces(store)
            else:
                DenseIndex(store).save()  # so that the first question need not wait
        return report

    @contextmanager
    def _turn_to_ingest(self) -> Iterator[None]:
        if not self._ingests.acquire(blocking=False):
            raise ServiceBusy(f"{MOST_INGESTS} ingests wait already; try again when one is done")
        try:
            with self._ingesting:
                yield
        finally:
            self._ingests.release()

    def upload(
        self,
        files: Sequence[tuple[str, IO[bytes]]],
        *,
        collection: str | None = None,
        on_file: OnFile | None = None,
        person: Person = LOCAL,
    ) -> Report:
        """Keep files under the data root and ingest them.

        They stand in `home/uploads/COLLECTION/NAME`, so that they can be shown and ingested again;
        `remove` and `delete` take them away. A file of the same name is replaced, and one that
        cannot be ingested is not kept.

        Args:
            files: Names, of which only the last part counts, and contents.
            collection: Its name, None for the default one.
            on_file: Told of each file when it is durable.
            person: Who asks; a collection that is made is theirs.

        Raises:
            UsageError: A name is no file name, or cannot be the name of a collection.
            UnknownCollection: Somebody else has a collection of that name.
            NotAllowed: The person may read it, and no more.
            StoreError: The disk is full, or the collection cannot be written.
        """
        names = [safe_file_name(name) for name, _ in files]  # all of them before any is written
        place = self._permitted_or_made(person, collection)
        folder = self.uploads(place)
        paths = [
            _written(folder / name, stream) for name, (_, stream) in zip(names, files, strict=True)
        ]
        try:
            return self.ingest(
                list(dict.fromkeys(paths)), collection=place, on_file=on_file, person=person
            )
        finally:
            with suppress(StoreError, UnknownCollection):  # what was raised above says it all
                self._drop_unused(paths, place)

    def watch(self, folder: str, *, collection: str | None = None, person: Person = LOCAL) -> None:
        """Follow a folder from now on: read what is new or changed, forget what is gone.

        It ends with the process, with the collection, and with the person's right to change it.

        Args:
            folder: One of `folders`, as it is written there.
            collection: Its name, None for the default one; it is made if need be.
            person: Who asks.

        Raises:
            NotAllowed: It is none of these, or the person may read the collection, and no more.
            UnknownCollection: Somebody else has a collection of that name.
            ServiceBusy: Too many are followed.
        """
        known = self._followable(folder)
        name = self._permitted_or_made(person, collection)
        self._watches.start(name, known, lambda: self._read_again(known, name, person))

    def unwatch(
        self, folder: str, *, collection: str | None = None, person: Person = LOCAL
    ) -> None:
        """Follow a folder no more; what was read stays.

        Raises:
            NotAllowed: There is no such folder, or the person may read the collection, and no more.
            UnknownCollection: There is no such collection for that person.
        """
        name = self._permitted(person, collection, to_change=True)
        self._watches.stop(name, self._followable(folder))

    def watches(
        self, collection: str | None = None, *, person: Person = LOCAL
    ) -> tuple[Watch, ...]:
        """Return how it stands with each of `folders` in a collection.

        Raises:
            NotAllowed: The person may read the collection, and no more.
            UnknownCollection: There is no such collection for that person.
        """
        known = self._watches.of(self._permitted(person, collection, to_change=True))
        return tuple(known.get(folder, Watch(folder)) for folder in self.folders)

    def _followable(self, folder: str) -> Path:
        """Return one of `folders`: what a stranger sends chooses, and never becomes a path."""
        for known in self.folders:
            if str(known) == folder:
                return known
        raise NotAllowed("that folder may not be followed; choose one that the page offers")

    def _read_again(self, folder: Path, name: str, person: Person) -> Report:
        """Read a followed folder, if the person may still change the collection."""
        self._permitted(person, name, to_change=True)
        # Not `_turn_to_ingest`: its few places are for those who wait before a page.
        if not self._ingesting.acquire(timeout=HEARTBEAT):
            raise ServiceBusy("another ingest is running; wait until it is done")
        try:
            return self._run([folder], name, prune=True)
        finally:
            self._ingesting.release()

    def uploads(self, collection: str | None = None) -> Path:
        """Return the folder that keeps a collection's uploaded files; it need not exist."""
        name = checked_name(collection or self.settings.collection)
        return self.settings.home / "uploads" / name

    def remove(
        self, uris: Sequence[str], *, collection: str | None = None, person: Person = LOCAL
    ) -> int:
        """Forget sources and their uploaded files; return how many of them were known.

        Raises:
            UnknownCollection: There is no such collection for that person.
            NotAllowed: They may read it, and no more.
            StoreError: The collection cannot be written.
        """
        name = self._permitted(person, collection, to_change=True)
        with self._using(name) as opened:
            store = opened.collection
            with store.writing():
                count = store.remove_all(uris)
                if count:
                    _clear_traces(store)
        self._drop_unused([Path(uri.partition(MEMBER)[0]) for uri in uris], name)
        return count

    def delete(self, collection: str, *, person: Person = LOCAL) -> None:
        """Remove a collection with all its documents and uploaded files.

        Raises:
            UnknownCollection: There is no such collection for that person.
            NotAllowed: They may read it, and no more.
            StoreError: It cannot be removed, or a program is writing it.
        """
        name = self._permitted(person, collection, to_change=True)
        self._watches.forget(name)  # first: nothing of it may go to the next one of that name
        delete_collection(self.settings.home, name)
        self.users.forget(name)
        shutil.rmtree(self.uploads(name), ignore_errors=True)
        with self._lock:
            self._put_away(name)

    # Knowing

    def collections(self, *, person: Person = LOCAL) -> list[CollectionInfo]:
        """Return the collections that a person may read, sorted by name."""
        found = list_collections(self.settings.home)
        if self._is_operator(person):
            return found
        rights = self.users.rights(person)
        return [info for info in found if info.name in rights]

    def documents(
        self, collection: str | None = None, *, person: Person = LOCAL
    ) -> list[DocumentInfo]:
        """Return the documents of a collection without their texts, oldest source first.

        Raises:
            UnknownCollection: There is no such collection for that person.
            StoreError: It cannot be read.
        """
        with self._using(self._permitted(person, collection)) as opened:
            return opened.collection.documents()

    def document(
        self, document_id: str, *, collection: str | None = None, person: Person = LOCAL
    ) -> Document | None:
        """Return a document with its text, None if the collection has none of that id.

        Raises:
            UnknownCollection: There is no such collection for that person.
            StoreError: It cannot be read.
        """
        with self._using(self._permitted(person, collection)) as opened:
            return opened.collection.document(document_id)

    def file_hash(
        self, uri: str, *, collection: str | None = None, person: Person = LOCAL
    ) -> str | None:
        """Return the hash of a source's file as it was ingested, None if it is not known.

        Raises:
            UnknownCollection: There is no such collection for that person.
            StoreError: It cannot be read.
        """
        with self._using(self._permitted(person, collection)) as opened:
            return opened.collection.file_hash(uri)

    def models(self) -> list[dict[str, Any]]:
        """Return role, name, source, licence, size, hash and device of the models in force."""
        return describe_models(self.settings)

    def load(self) -> tuple[int, int]:
        """Return how many questions are being answered, and how many wait."""
        return self._line.counts()

    # Ending

    def drain(self, patience: float = 10.0) -> bool:
        """Take no more questions, refuse those that wait, and let running answers finish.

        Args:
            patience: Seconds that running answers may take.

        Returns:
            Whether all of them have finished.
        """
        self._line.close()
        return self._line.wait_until_left(patience)

    def close(self, patience: float = 10.0) -> None:
        """Drain, cancel the answers that take too long, and let go of everything.

        Args:
            patience: Seconds that running answers may take, then their cancelling, and then what
                is being read of followed folders.
        """
        if not self.drain(patience):
            self._cancelled.set()
            self._line.wait_until_left(patience)
        self._watches.close(patience)
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            for name in list(self._opened):
                self._put_away(name)
        self._generator.close()

    # Collections that are open

    def _assistant(self, searcher: Searcher | None, instead: Instead | None = None) -> Assistant:
        return build_assistant(
            instead.settings if instead else self.settings,
            encoder=self.encoder,
            generator=instead.generator(self._generator) if instead else self._generator,
            verifier=self._verifier,
            searcher=searcher,
        )

    def _given(self, given: Sequence[Passage] | Sequence[str], question: str) -> list[Passage]:
        """Return passages as they are, and texts as passages."""
        texts = [one for one in given if isinstance(one, str)]
        passages = [one for one in given if isinstance(one, Passage)]
        return passages or given_passages(texts, question, self.encoder)

    @contextmanager
    def _answering(self, name: str | None, instead: Instead | None) -> Iterator[Assistant]:
        """Lend the assistant of a permitted collection, or one that searches none."""
        if name is None:
            yield self._assistant(None, instead) if instead else self._from_memory
            return
        with self._using(name) as opened:
            yield self._assistant(opened.searcher, instead) if instead else opened.assistant

    @contextmanager
    def _using(self, name: str) -> Iterator[_Opened]:
        """Lend a permitted collection, which stays open until the block ends."""
        with self._lock:
            opened = self._find(name)
            opened.users += 1
        try:
            yield opened
        finally:
            with self._lock:
                opened.users -= 1
                if opened.is_stale and not opened.users:
                    opened.collection.close()
                self._put_away_the_oldest()

    def _find(self, name: str) -> _Opened:
        """Return a collection that is open, or open it; the lock is held."""
        if self._is_closed:
            raise _stopping()
        truth = self.settings.home / "collections" / name / TRUTH
        known = self._opened.get(name)
        if known is not None and known.file != _number(truth):
            self._put_away(name)
            known = None
        if known is None:
            if not self._exists(name):  # since it was permitted
                raise _removed(name)
            store = open_collection(self.settings.home, name, self.encoder)
            try:
                searcher = build_searcher(self.settings, self.encoder, store)
                file = _number(truth)
                if file is None:
                    raise _removed(name)
                known = _Opened(store, file, searcher, self._assistant(searcher))
            except BaseException:
                store.close()
                raise
            self._opened[name] = known
        self._opened.move_to_end(name)
        return known

    def _put_away(self, name: str) -> None:
        """Close a collection, now or when its last user leaves; the lock is held."""
        opened = self._opened.pop(name, None)
        if opened is not None:
            opened.is_stale = True
            if not opened.users:
                opened.collection.close()

    def _put_away_the_oldest(self) -> None:
        """Close collections that nobody asks, the longest unused ones first; the lock is held."""
        idle = [name for name, opened in self._opened.items() if not opened.users]
        for name in idle[: max(0, len(self._opened) - MOST_OPEN)]:
            self._put_away(name)

    def _drop_unused(self, paths: Sequence[Path], name: str) -> None:
        """Delete uploaded files of which the collection holds nothing (any more)."""
        folder = self.uploads(name)
        with self._using(name) as opened:
            known = opened.collection.uris()
        for path in paths:
            uri = path.as_posix()
            is_used = any(one == uri or one.startswith(uri + MEMBER) for one in known)
            if path.parent == folder and not is_used:
                path.unlink(missing_ok=True)


def safe_file_name(name: str) -> str:
    """Return the last part of a name that a stranger gave, fit to be a file's name anywhere.

    Raises:
        UsageError: Nothing of a name is left.
    """
    base = unicodedata.normalize("NFC", name.replace("\\", "/")).rpartition("/")[2]
    base = "".join("_" if c in '<>:"|?*' else c for c in base if c.isprintable()).strip(" .")
    stem, dot, suffix = base.rpartition(".")
    stem, suffix = (stem, dot + suffix) if stem else (base, "")
    room = LONGEST_FILE_NAME - len(suffix.encode())
    stem = stem.encode()[: max(0, room)].decode("utf-8", "ignore")
    if not stem:
        raise UsageError("an uploaded file has no usable name; give it one like notes.md")
    return stem + suffix


def _written(path: Path, stream: IO[bytes]) -> Path:
    """Write a file whole: killed on the way, the one that was there stays."""
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_old_parts(path.parent)
        with part.open("wb") as file:
            shutil.copyfileobj(stream, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        flush(path.parent)
    except OSError as error:
        with suppress(OSError):  # the folder itself may be what is wrong
            part.unlink()
        raise StoreError(
            f"{path.name} cannot be kept ({error.strerror or error}); free some space or make"
            f" {path.parent} writable, and upload it again"
        ) from error
    return path


def _clear_old_parts(folder: Path) -> None:
    """Delete what killed processes left half written; a day's upload may still be going on."""
    for left in folder.glob(".*.part"):
        with suppress(FileNotFoundError):
            if left.stat().st_mtime < time.time() - 86_400:
                left.unlink()


def _number(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one at the same path, None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _clear_traces(store: Collection) -> None:
    if busy := clear_traces(store):
        logger.info("%s", busy)


def _removed(name: str) -> UnknownCollection:
    return UnknownCollection(f"collection {name} was removed; make it anew")


def _stopping() -> ServiceBusy:
    return ServiceBusy("the server is stopping; ask again when it is back")
