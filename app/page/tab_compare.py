"""The tab Compare: one question answered from memory and from documents, with and without training.

A door only: every column is a question of its own to `Service.ask`, in its line like any other. The
base and the adapter in force are the service's own generator, its adapter left out or not. With
another adapter it is loaded anew when first needed, one at a time, and goes when nobody has needed
it for a while.
"""

import logging
from collections.abc import Generator as Yielding
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from app.assembly import build_generator, describe_adapters, resolve_backend
from app.page import decoding_controls
from app.page.compare_view import WORDS, Column, columns_html
from app.page.decoding_controls import DecodingControls, chosen_decoding
from app.page.evidence import Language, notice_html
from app.page.lending import Lender
from app.page.parts import QUIET, Shell, Tab, asker, one_line, person_of
from app.service import Instead, Service, Waiting
from app.settings import Settings
from app.users import NotAllowed, Person
from ingest.errors import TetherError, UsageError
from model.assistant import Drafted, Event, Finished, checked_question
from model.generators import Decoding, Generator, GeneratorIdentity
from model.prompts import Prompt

_LOG = logging.getLogger(__name__)

BASE = ""  # the adapter's name where there is none

Drawn = dict[Any, Any]  # components to their updates


@dataclass(frozen=True, slots=True)
class Shown:
    """The comparison on the screen."""

    columns: tuple[Column, ...] = ()
    collection: str = ""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What all columns answer, and for whom."""

    question: str
    decoding: Decoding
    collection: str
    owner: str  # whose turn it takes in the line
    person: Person


@dataclass(frozen=True, slots=True)
class _Parts:
    """The components of the tab."""

    shown: gr.State
    question: gr.Textbox
    tuned: gr.Dropdown
    controls: DecodingControls
    compare: gr.Button
    stop: gr.Button
    note: gr.HTML
    columns: gr.HTML


class _Tab:
    """The functions behind the tab's buttons; each returns what components show."""

    def __init__(self, shell: Shell, parts: _Parts) -> None:
        self.shell = shell
        self.parts = parts
        settings = shell.service.settings
        self._lender: Lender[Generator] = Lender(
            lambda name: build_generator(with_adapter(settings, name))
        )

    def compare(
        self,
        collection: str,
        request: gr.Request,
        *values: Any,  # noqa: ANN401
    ) -> Iterator[Drawn]:
        """Answer the question in one column after the other."""
        parts = self.parts
        yield {parts.compare: gr.update(visible=False), parts.stop: gr.update(visible=True)}
        try:
            asked, columns = self._wanted(values, collection, request)
        except TetherError as error:
            yield self.rest() | {parts.note: notice_html(one_line(error), "error")}
            return
        yield {parts.note: ""}
        for place in range(len(columns)):
            with closing(self._fill(columns[place], asked, request)) as steps:
                for column in steps:
                    language = self.shell.language(request)
                    columns = (*columns[:place], column, *columns[place + 1 :])
                    yield {
                        parts.shown: Shown(columns, collection),
                        parts.columns: columns_html(columns, language, collection),
                    }
        yield self.rest()

    def _wanted(
        self, values: Sequence[Any], collection: str, request: gr.Request
    ) -> tuple[_Asked, tuple[Column, ...]]:
        """Return what the tab's inputs say; they come from a browser and may be anything.

        Raises:
            TetherError: One of them makes no sense.
        """
        question, tuned, *decoding = values
        service, person = self.shell.service, person_of(request)
        if not isinstance(question, str) or not isinstance(tuned, str | None):
            raise UsageError("the question must be a text; write it anew")
        if tuned and tuned not in adapters_for(service, person):
            raise UsageError(f"there is no adapter {tuned!r:.80} for answers; choose another")
        chosen = chosen_decoding(decoding, service.settings.decoding)
        asked = _Asked(checked_question(question), chosen, collection, asker(request), person)
        return asked, columns_of(tuned or BASE)

    def _fill(
        self, column: Column, asked: _Asked, request: gr.Request
    ) -> Yielding[Column, None, None]:
        """Yield a column as its answer comes; errors end it, and the others go on."""
        column = replace(column, has_begun=True)
        yield column
        try:
            with closing(self._events(column, asked)) as events:
                for event in events:
                    column = _after(column, event)
                    yield column
        except TetherError as error:
            yield replace(column, error=one_line(error))
        except Exception as error:
            _LOG.exception("a comparison failed")
            failed = WORDS[self.shell.language(request)]["failed"].format(kind=type(error).__name__)
            yield replace(column, error=failed)

    def _events(self, column: Column, asked: _Asked) -> Yielding[Waiting | Event, None, None]:
        """Yield what `Service.ask` yields, after the wait for another adapter if it needs one."""
        service = self.shell.service
        settings = compared(service.settings, column.adapter, asked.decoding)
        is_adapted = column.adapter != BASE
        if not is_adapted or column.adapter == adapter_in_force(service.settings):
            instead = Instead(settings, lambda own: Switched(own, adapted=is_adapted))
            yield from _answered(service, column, asked, instead)
            return
        with self._lender.turn(asked.owner) as turn:
            while position := turn.wait():
                yield Waiting(position)
            other = Switched(turn.take(column.adapter), adapted=True)
            yield from _answered(service, column, asked, Instead(settings, lambda _: other))

    def rest(self) -> Drawn:
        """Offer another comparison."""
        parts = self.parts
        return {parts.compare: gr.update(visible=True), parts.stop: gr.update(visible=False)}

    def stopped(self, request: gr.Request) -> Drawn:
        """Offer another comparison, after one that was cancelled."""
        words = WORDS[self.shell.language(request)]
        return self.rest() | {self.parts.note: notice_html(words["stopped"], "note")}

    def speak(
        self, language: Language, request: gr.Request, shown: Shown, tuned: str | None
    ) -> list[Any]:
        """Draw the tab in `language`, with the adapters that there are now for who looks."""
        words = WORDS[language]
        names = _names(self.shell.service, person_of(request))
        if tuned not in (BASE, *names):  # at first nothing was chosen
            tuned = names[0] if names else BASE
        choices = [(words["none"], BASE), *((name, name) for name in names)]
        return [
            gr.update(label=words["question"]),
            gr.update(label=words["tuned"], choices=choices, value=tuned),
            *(gr.update(value=words[name]) for name in ("compare", "stop")),
            columns_html(shown.columns, language, shown.collection),
            *self.parts.controls.speak(language),
        ]


def columns_of(tuned: str) -> tuple[Column, ...]:
    """Return the columns to fill, those of an adapter beside those of the base alone."""
    models = (BASE, tuned) if tuned else (BASE,)
    return tuple(Column(retrieval, name) for retrieval in (False, True) for name in models)


def _answered(
    service: Service, column: Column, asked: _Asked, instead: Instead
) -> Iterator[Waiting | Event]:
    return service.ask(
        asked.question,
        collection=asked.collection,
        retrieval=column.retrieval,
        owner=asked.owner,
        person=asked.person,
        instead=instead,
    )


def _after(column: Column, event: Waiting | Event) -> Column:
    match event:
        case Waiting(position):
            return replace(column, position=position)
        case Drafted(text):
            return replace(column, position=0, draft=column.draft + text)
        case Finished(answer):
            return replace(column, position=0, answer=answer)
        case _:
            return replace(column, position=0)


# --- Adapters ------------------------------------------------------------------------------------


class Switched(Generator):
    """A generator whose adapter is in force or left out, whatever a prompt wishes.

    The assistant's own prompts leave it out where there are no passages, and nowhere else.
    """

    def __init__(self, generator: Generator, *, adapted: bool) -> None:
        """Wrap a generator, which stays with the caller."""
        self._generator = generator
        self._is_adapted = adapted

    @property
    def identity(self) -> GeneratorIdentity:
        """The generator's."""
        return self._generator.identity

    def stream(
        self, prompt: Prompt, decoding: Decoding, scores: list[float] | None = None
    ) -> Iterator[str]:
        """Yield what the generator says with its adapter, or without it."""
        switched = replace(prompt, is_for_base=not self._is_adapted)
        return self._generator.stream(switched, decoding, scores)

    def count_tokens(self, text: str) -> int:
        """Count as the generator does."""
        return self._generator.count_tokens(text)

    def close(self) -> None:
        """Do nothing: the generator is the caller's."""


def compared(settings: Settings, adapter: str, decoding: Decoding) -> Settings:
    """Return the settings of a column.

    The generator always says something: a reader that is sure would answer before any of them, and
    all columns that search would say the same.

    Raises:
        UsageError: There is no such adapter.
    """
    reader = replace(settings.reader, answers="beside")
    return replace(with_adapter(settings, adapter), decoding=decoding, reader=reader)


def known_adapters(settings: Settings) -> dict[str, str]:
    """Return the folders of the adapters for the generator, by name, the one in force first."""
    if resolve_backend(settings) not in ("llama.cpp", "transformers"):
        return {}
    model = settings.generator.model
    bases = (model, Path(model).expanduser().resolve().name)  # as training calls a model, a folder
    rows = [
        row
        for row in describe_adapters(settings)
        if row["role"] == "answer" and (row["in_force"] or row["base"] in bases)
    ]
    rows.sort(key=lambda row: not row["in_force"])
    found: dict[str, str] = {}
    for row in rows:
        found.setdefault(row["name"], row["path"])
    return found


def adapter_in_force(settings: Settings) -> str:
    """Return the name of the adapter with which the service answers, `BASE` if there is none."""
    rows = describe_adapters(settings)
    names = (row["name"] for row in rows if row["role"] == "answer" and row["in_force"])
    return next(names, BASE)


def with_adapter(settings: Settings, name: str) -> Settings:
    """Return the settings with another adapter of the generator.

    Raises:
        UsageError: There is no such adapter.
    """
    folder = known_adapters(settings).get(name) if name else "none"
    if folder is None:
        raise UsageError(f"there is no adapter {name!r:.80} for answers; choose another")
    return replace(settings, generator=replace(settings.generator, adapter=folder))


def adapters_for(service: Service, person: Person) -> dict[str, str]:
    """Return the adapters that a person may compare: what one learnt may be somebody else's.

    Raises:
        WeightsError: One of them is broken.
    """
    known = known_adapters(service.settings)
    try:
        service.require_operator(person)
    except NotAllowed:
        shared = adapter_in_force(service.settings)
        return {name: path for name, path in known.items() if name == shared}
    return known


def _names(service: Service, person: Person) -> list[str]:
    try:
        return list(adapters_for(service, person))
    except TetherError as error:  # one that is broken; the base alone can still be compared
        _LOG.warning("adapters cannot be compared: %s", one_line(error))
        return []


# --- The layout ----------------------------------------------------------------------------------


def build(shell: Shell) -> Tab:
    """Make the tab inside the open page."""
    with gr.Tab(WORDS["en"]["tab"], id="compare", elem_id="tether-tab-compare") as item:
        parts = _parts(shell)
    tab = _Tab(shell, parts)
    _wire(shell, tab)
    drawn = (parts.question, parts.tuned, parts.compare, parts.stop, parts.columns,
             *parts.controls.inputs)  # fmt: skip
    states = (parts.shown, parts.tuned)
    return Tab(item, lambda language: WORDS[language]["tab"], drawn, states, tab.speak)


def _parts(shell: Shell) -> _Parts:
    words, made, settings = WORDS["en"], dict[str, Any](), shell.service.settings
    made["shown"] = gr.State(Shown())
    made["question"] = gr.Textbox(
        label=words["question"], lines=1, max_lines=4, elem_id="tether-compare-question"
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=220):
            made["tuned"] = gr.Dropdown(  # its choices come once it is known who looks
                [], label=words["tuned"], elem_id="tether-compare-tuned"
            )
        with gr.Column(scale=2, min_width=260):
            beam = ("beam",) if resolve_backend(settings) == "transformers" else ()
            made["controls"] = decoding_controls.build(
                "tether-compare", ("greedy", *beam, "sample")
            )
    made["compare"] = gr.Button(words["compare"], variant="primary", elem_id="tether-compare-go")
    made["stop"] = gr.Button(
        words["stop"], variant="stop", visible=False, elem_id="tether-compare-stop"
    )
    made["note"] = gr.HTML(elem_id="tether-compare-note")
    made["columns"] = gr.HTML(
        columns_html((), "en", ""),
        elem_id="tether-compare",
        css_template=Path(__file__).with_name("compare.css").read_text(encoding="utf-8"),
    )
    return _Parts(**made)


def _wire(shell: Shell, tab: _Tab) -> None:
    """Connect the tab's events."""
    parts = tab.parts
    changed = [parts.shown, parts.columns, parts.note, parts.compare, parts.stop]
    typed = [parts.question, parts.tuned, *parts.controls.inputs]
    comparing = gr.on(
        [parts.compare.click, parts.question.submit],
        tab.compare, [shell.collection, *typed], changed,
        concurrency_limit=None, **QUIET,
    )  # fmt: skip
    parts.stop.click(None, cancels=[comparing]).then(
        tab.stopped, None, changed, queue=False, **QUIET
    )
