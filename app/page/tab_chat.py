"""The tab Chat: conversations on one side, the one that is open, and the evidence of its answers.

A door only: it hands questions to `Service.ask`, keeps every turn in `app.history`, and shows what
`app.page.chat_view` makes of them.
"""

import logging
from collections.abc import Generator as Yielding
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from app.history import Conversation, Turn
from app.page.chat_view import WORDS, Turns, list_html, messages_of, panel_of
from app.page.evidence import Language, notice_html
from app.page.parts import (
    ACTIONS,
    QUIET,
    Shell,
    Tab,
    action_of,
    asker,
    collection_names,
    one_line,
    person_of,
)
from app.service import Waiting
from app.users import Person
from ingest.errors import TetherError
from ingest.languages import question_language
from model.assistant import Drafted, Event, Finished, Retrieved, checked_question
from model.claims import unmarked
from model.feedback import Feedback, ShownPassage, Thumb
from model.rewriting import Exchange, rewrite

_LOG = logging.getLogger(__name__)

MOST_PASSAGES = 100  # searched when an answer is asked for again and again

_SHOW_NEWEST = """
watch("value", () => { element.closest("#tether-evidence").scrollTop = 0; });
"""
_FOCUS_QUESTION = "() => document.querySelector('#tether-question textarea').focus()"


@dataclass(frozen=True, slots=True)
class Open:
    """The conversation on the screen; each belongs to one collection."""

    conversation: Conversation | None = None  # None before the first question
    turns: Turns = ()
    is_editing: bool = False  # the next question takes the place of the last one

    @property
    def id(self) -> str:
        """Of the conversation, "" before the first question."""
        return self.conversation.id if self.conversation else ""

    @property
    def collection(self) -> str:
        """Of the conversation, "" before the first question."""
        return self.conversation.collection if self.conversation else ""

    def with_last(self, turn: Turn) -> "Open":
        """Return it with another last turn."""
        return replace(self, turns=(*self.turns[:-1], turn))


@dataclass(frozen=True, slots=True)
class _Parts:
    """The components of the tab."""

    open: gr.State
    clear: gr.Button
    find: gr.Textbox
    list: gr.HTML
    chatbot: gr.Chatbot
    note: gr.HTML
    actions: gr.Row
    again: gr.Button
    edit: gr.Button
    up: gr.Button
    down: gr.Button
    correct: gr.Button
    correcting: gr.Row
    correction: gr.Textbox
    save: gr.Button
    box: gr.Textbox
    panel: gr.HTML


_LABELLED = ("clear", "again", "edit", "up", "down", "correct", "save")
_DRAWN = ("open", "list", "chatbot", "note", "actions", "correcting", "correction", "box", "panel")

Drawn = dict[Any, Any]  # components to their updates


class _Chat:
    """The functions behind the tab's buttons; each returns what components show."""

    def __init__(self, shell: Shell, parts: _Parts) -> None:
        self.shell = shell
        self.parts = parts

    # Asking

    def ask(
        self, question: str, shown: Open, collection: str, request: gr.Request
    ) -> Iterator[Drawn]:
        """Answer what was typed; while the last question is edited, in its place."""
        question = question.strip()
        if not question:
            yield {
                self.parts.open: replace(shown, is_editing=False),
                self.parts.box: _box(self.shell.language(request)),
            }
            return
        before = shown.turns[:-1] if shown.is_editing else shown.turns
        try:
            opened = self._begin(question, replace(shown, turns=before), collection, request)
        except TetherError as error:
            yield {self.parts.note: notice_html(one_line(error), "error")}
            return
        yield from self._answer(opened, request)

    def again(self, shown: Open, request: gr.Request) -> Iterator[Drawn]:
        """Answer the last question anew, over twice as many passages."""
        if not shown.turns or shown.turns[-1].is_open:
            yield {self.parts.note: ""}
            return
        last = shown.turns[-1]
        found = len(last.passages or ()) or self.shell.service.settings.search.top_k
        opened = shown.with_last(Turn(last.question, last.standalone))
        yield from self._answer(opened, request, top_k=min(2 * found, MOST_PASSAGES))

    def _begin(self, question: str, shown: Open, collection: str, request: gr.Request) -> Open:
        """Return the conversation with a new turn, which is in the history before it is asked."""
        history = self.shell.history(request)
        before = tuple(map(_ended, shown.turns))
        turn = Turn(checked_question(question), _standalone(question, before))
        conversation = shown.conversation or history.begin(collection, question)
        history.save(conversation.id, len(before) + 1, turn)
        return Open(conversation, (*before, turn))

    def _answer(
        self, opened: Open, request: gr.Request, top_k: int | None = None
    ) -> Iterator[Drawn]:
        """Yield the conversation while the answer to its last question comes."""
        parts = self.parts
        yield {
            parts.open: opened,
            parts.chatbot: messages_of(opened.turns),
            parts.box: gr.update(value="", submit_btn=False, stop_btn=True),
            parts.actions: gr.update(visible=False),
            parts.correcting: gr.update(visible=False),
            parts.note: "",
        }
        drawn_evidence: object = None
        who = asker(request), person_of(request)
        with closing(self._events(opened, *who, top_k)) as events:
            for turn, position in events:
                opened = opened.with_last(turn)
                messages = messages_of(opened.turns, position)
                drawn: Drawn = {parts.open: opened, parts.chatbot: messages}
                evidence = turn.answer or turn.passages
                if evidence is not None and evidence is not drawn_evidence:
                    drawn_evidence = evidence
                    language = self.shell.language(request)
                    drawn[parts.panel] = panel_of(opened.turns, language, opened.collection)
                yield drawn
        yield self._finished(opened, request)

    def _events(
        self, opened: Open, owner: str, person: Person, top_k: int | None
    ) -> Yielding[tuple[Turn, int], None, None]:
        """Yield the last turn after every event, with its position in the line; errors end it."""
        turn = opened.turns[-1]
        try:
            with closing(
                self.shell.service.ask(
                    turn.asked,
                    collection=opened.collection,
                    owner=owner,
                    person=person,
                    top_k=top_k,
                )
            ) as events:  # a stopped answer gives its place in the line back at once
                for event in events:
                    position = event.position if isinstance(event, Waiting) else 0
                    turn = turn if isinstance(event, Waiting) else _after(turn, event)
                    yield turn, position
        except TetherError as error:
            yield replace(turn, error=one_line(error)), 0
        except Exception as error:
            # Whatever broke, a draft must not stay on screen as if it were still being checked.
            _LOG.exception("the assistant failed on a question")
            words = WORDS[question_language(turn.question)]
            yield replace(turn, error=words["failed"].format(kind=type(error).__name__)), 0

    def _finished(self, opened: Open, request: gr.Request) -> Drawn:
        """Keep the last turn and give the buttons back."""
        parts, history = self.parts, self.shell.history(request)
        language = self.shell.language(request)
        drawn: Drawn = {
            parts.open: opened,
            parts.chatbot: messages_of(opened.turns),
            parts.panel: panel_of(opened.turns, language, opened.collection),
            parts.box: _box(language, keep=True),
            parts.actions: gr.update(visible=True),
        }
        try:
            history.save(opened.id, len(opened.turns), opened.turns[-1])
        except TetherError as error:  # deleted meanwhile, or a full disk
            drawn[parts.note] = notice_html(one_line(error), "error")
        return drawn

    def stop(self, shown: Open, request: gr.Request) -> Drawn:
        """Mark the turn that was cancelled."""
        if not shown.turns:
            return {self.parts.box: _box(self.shell.language(request), keep=True)}
        return self._finished(shown.with_last(_ended(shown.turns[-1])), request)

    def edit(self, shown: Open, request: gr.Request) -> Drawn:
        """Put the last question back into the box."""
        if not shown.turns:
            return {self.parts.note: ""}
        words = WORDS[self.shell.language(request)]
        box = gr.update(value=shown.turns[-1].question, placeholder=words["edit_last"])
        return {self.parts.open: replace(shown, is_editing=True), self.parts.box: box}

    # Feedback

    def praise(self, shown: Open, request: gr.Request) -> Drawn:
        """Keep a thumb up for the last answer."""
        return {self.parts.note: self._keep(shown, request, "up")}

    def blame(self, shown: Open, request: gr.Request) -> Drawn:
        """Keep a thumb down for the last answer."""
        return {self.parts.note: self._keep(shown, request, "down")}

    def offer_correction(self, shown: Open) -> Drawn:
        """Show the box for a corrected answer, which starts from the answer."""
        said = shown.turns[-1].answer if shown.turns else None
        return {
            self.parts.correcting: gr.update(visible=said is not None),
            self.parts.correction: gr.update(value=said.text if said else ""),
        }

    def correct(self, correction: str, shown: Open, request: gr.Request) -> Drawn:
        """Keep what the last answer should have been."""
        note = self._keep(shown, request, "down", correction)
        return {self.parts.note: note, self.parts.correcting: gr.update(visible=False)}

    def _keep(
        self, shown: Open, request: gr.Request, thumb: Thumb, correction: str | None = None
    ) -> str:
        """Keep feedback on the last answer, and return the line that says so."""
        said, service = shown.turns[-1].answer if shown.turns else None, self.shell.service
        if said is None:
            return ""
        entry = Feedback(
            question=said.question,
            answer=said.text,
            passages=tuple(ShownPassage(one.chunk.id, one.chunk.text) for one in said.passages),
            thumb=thumb,
            correction=correction,
            generator=service.settings.generator.model,
            adapter=service.settings.generator.adapter,
            person=person_of(request).name,
        )
        try:
            service.keep_feedback(entry)
        except TetherError as error:
            return notice_html(one_line(error), "error")
        return notice_html(WORDS[self.shell.language(request)]["kept"], "note")

    # Conversations

    def clear(self, find: str, request: gr.Request) -> Drawn:
        """Begin a new conversation."""
        drawn = self._show(Open(), self.shell.language(request))
        return drawn | {self.parts.list: self.listed(find, Open(), request)}

    def leave(self, collection: str, shown: Open, find: str, request: gr.Request) -> Drawn:
        """Begin a new conversation if another collection was chosen: each belongs to one."""
        if shown.collection in ("", collection):
            return {self.parts.note: ""}
        return self.clear(find, request)

    def act(self, shown: Open, find: str, request: gr.Request, event: gr.EventData) -> Drawn:
        """Open, rename or delete a conversation of the list; a running answer was cancelled."""
        action, history = action_of(event), self.shell.history(request)
        more: Drawn = {}
        try:
            if action.name == "open":
                shown = Open(*history.open(action.id))
                names = collection_names(self.shell.service, person_of(request))
                if shown.collection in names:  # it may have been deleted since
                    chosen = gr.update(choices=names, value=shown.collection)
                    more[self.shell.collection] = chosen
            elif action.name == "rename":
                history.rename(action.id, action.value)
            elif action.name == "delete":
                history.delete(action.id)
                shown = Open() if action.id == shown.id else shown
        except TetherError as error:
            more[self.parts.note] = notice_html(one_line(error), "error")
        more[self.parts.list] = self.listed(find, shown, request)
        return self._show(shown, self.shell.language(request)) | more

    def listed(self, find: str, shown: Open, request: gr.Request) -> str:
        """Return the conversations that hold what is looked for."""
        try:
            found = self.shell.history(request).conversations(find)
        except TetherError as error:
            return notice_html(one_line(error), "error")
        return list_html(found, shown.id, self.shell.language(request), find)

    def _show(self, shown: Open, language: Language) -> Drawn:
        """Draw a conversation in which nothing is being answered."""
        parts = self.parts
        shown = replace(shown, turns=tuple(map(_ended, shown.turns)), is_editing=False)
        return {
            parts.open: shown,
            parts.box: _box(language),
            parts.chatbot: messages_of(shown.turns),
            parts.panel: panel_of(shown.turns, language, shown.collection),
            parts.actions: gr.update(visible=bool(shown.turns)),
            parts.correcting: gr.update(visible=False),
            parts.note: "",
        }

    def speak(
        self, language: Language, request: gr.Request, shown: Open, find: str | None
    ) -> list[Any]:
        """Draw the tab in `language`; answers keep the language of their question."""
        words = WORDS[language]
        return [
            *(gr.update(value=words[name]) for name in _LABELLED),
            gr.update(label=words["find"], placeholder=words["find"]),
            gr.update(placeholder=words["welcome"]),
            gr.update(label=words["ask"], placeholder=words["ask"]),
            gr.update(label=words["correction"]),
            self.listed(find or "", shown, request),
            panel_of(shown.turns, language, shown.collection),
        ]


def _ended(turn: Turn) -> Turn:
    """Return the turn as one to which no answer will come any more."""
    return replace(turn, is_stopped=True) if turn.is_open else turn


def _standalone(question: str, before: Turns) -> str:
    """Return the question as it stands alone, "" if it does so already."""
    exchanges = [Exchange(turn.asked, _said(turn)) for turn in before if not turn.error]
    alone = rewrite(question, exchanges)
    return alone if alone != question else ""


def _said(turn: Turn) -> str:
    if turn.answer is None or turn.answer.status == "abstained":
        return ""
    return unmarked(turn.answer.text)


def _after(turn: Turn, event: Event) -> Turn:
    match event:
        case Retrieved(passages):
            return replace(turn, passages=tuple(passages))
        case Drafted(text):
            return replace(turn, draft=turn.draft + text)
        case Finished(answer):
            return replace(turn, answer=answer, passages=tuple(answer.passages))


def _box(language: Language, *, keep: bool = False) -> Any:  # noqa: ANN401 - an update of Gradio's
    """Return the question box, ready for a question; `keep` leaves what is typed in it."""
    more: dict[str, Any] = {} if keep else {"value": ""}
    placeholder = WORDS[language]["ask"]
    return gr.update(submit_btn=True, stop_btn=False, placeholder=placeholder, **more)


# --- The layout ----------------------------------------------------------------------------------


def build(shell: Shell) -> Tab:
    """Make the tab inside the open page."""
    words = WORDS["en"]
    with gr.Tab(words["name"], id="chat", elem_id="tether-tab-chat") as item:
        parts = _parts(shell)
    chat = _Chat(shell, parts)
    _wire(shell, chat)
    drawn = (*(getattr(parts, name) for name in _LABELLED), parts.find, parts.chatbot, parts.box,
             parts.correction, parts.list, parts.panel)  # fmt: skip
    return Tab(item, _name, drawn, (parts.open, parts.find), chat.speak)


def _name(language: Language) -> str:
    return WORDS[language]["name"]


def _parts(shell: Shell) -> _Parts:
    words = WORDS["en"]
    made: dict[str, Any] = {"open": gr.State(Open())}
    with gr.Row(equal_height=False, elem_id="tether-columns"):
        with gr.Column(scale=2, min_width=210, elem_id="tether-side"):
            made["clear"] = _button("clear")
            made["find"] = gr.Textbox(
                label=words["find"], placeholder=words["find"], show_label=False,
                container=False, max_length=200, elem_id="tether-find",
            )  # fmt: skip
            made["list"] = gr.HTML(elem_id="tether-list", js_on_load=ACTIONS)
        with gr.Column(scale=6, min_width=340):
            made["chatbot"] = _chatbot(shell.examples)
            made["note"] = gr.HTML(elem_id="tether-note")
            with gr.Row(visible=False, elem_id="tether-actions") as made["actions"]:
                for name in ("again", "edit", "up", "down", "correct"):
                    made[name] = _button(name)
            with gr.Row(visible=False, elem_id="tether-correcting") as made["correcting"]:
                made["correction"] = gr.Textbox(
                    label=words["correction"], lines=2, max_lines=8, elem_id="tether-correction"
                )
                made["save"] = _button("save")
            made["box"] = _question_box()
        with gr.Column(scale=4, min_width=320):
            made["panel"] = gr.HTML(
                panel_of((), "en", ""), elem_id="tether-evidence", js_on_load=_SHOW_NEWEST
            )
    return _Parts(**made)


def _button(name: str) -> gr.Button:
    return gr.Button(WORDS["en"][name], size="sm", scale=0, min_width=0, elem_id=f"tether-{name}")


def _chatbot(examples: Sequence[str]) -> gr.Chatbot:
    return gr.Chatbot(
        elem_id="tether-chat",
        show_label=False,
        buttons=[],
        latex_delimiters=[],
        sanitize_html=True,
        allow_tags=False,
        placeholder=WORDS["en"]["welcome"],
        examples=[{"text": example} for example in examples],
        feedback_options=None,
        layout="bubble",
    )


def _question_box() -> gr.Textbox:
    return gr.Textbox(
        elem_id="tether-question",
        label=WORDS["en"]["ask"],  # for screen readers
        placeholder=WORDS["en"]["ask"],
        show_label=False,
        lines=1,
        max_lines=6,
        autofocus=True,
        submit_btn=True,
        stop_btn=False,
    )


def _wire(shell: Shell, chat: _Chat) -> None:
    """Connect the tab's events."""
    parts = chat.parts
    every = {shell.collection, *(getattr(parts, name) for name in _LABELLED + _DRAWN)}
    asking: dict[str, Any] = {"outputs": every, "concurrency_limit": None, **QUIET}
    drawing: dict[str, Any] = {"outputs": every, "queue": False, **QUIET}
    typed = [parts.box, parts.open, shell.collection]
    chosen = parts.chatbot.example_select(_chosen_example, outputs=parts.box, queue=False, **QUIET)
    asked = [
        parts.box.submit(chat.ask, typed, **asking),
        chosen.then(chat.ask, typed, **asking),
        parts.again.click(chat.again, parts.open, **asking),
    ]
    # First cancel, then draw: a step in flight must not overwrite what these leave behind.
    stopped = parts.box.stop(None, cancels=asked).then(chat.stop, parts.open, **drawing)
    for answered in (*asked, stopped):  # what is looked for may have changed since it was asked
        answered.then(chat.listed, [parts.find, parts.open], parts.list, queue=False, **QUIET)
    parts.clear.click(None, cancels=asked).then(chat.clear, parts.find, **drawing)
    parts.list.click(chat.act, [parts.open, parts.find], cancels=asked, **drawing)
    moved = [shell.collection, parts.open, parts.find]
    shell.collection.change(chat.leave, moved, cancels=asked, **drawing)
    parts.edit.click(chat.edit, parts.open, **drawing).then(None, js=_FOCUS_QUESTION)
    parts.up.click(chat.praise, parts.open, **drawing)
    parts.down.click(chat.blame, parts.open, **drawing)
    parts.correct.click(chat.offer_correction, parts.open, **drawing)
    parts.save.click(chat.correct, [parts.correction, parts.open], **drawing)
    parts.find.change(
        chat.listed, [parts.find, parts.open], parts.list, trigger_mode="always_last", queue=False,
        **QUIET,
    )  # fmt: skip


def _chosen_example(chosen: gr.SelectData) -> str:
    return str(chosen.value["text"])
