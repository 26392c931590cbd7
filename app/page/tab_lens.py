"""The tab Lens: one answer token by token, and what a passage does to the probability of each.

A door only: `model.lens` looks, `app.page.lens_view` draws. The model is the generator in force as
transformers loads it, apart from the one that answers: it comes with the first look, one page
looks at a time, and it goes when nobody has looked for a while.
"""

import logging
from collections.abc import Generator as Yielding
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import gradio as gr

from app.assembly import build_transformers, resolve_backend, resolve_prompt
from app.page import decoding_controls
from app.page.decoding_controls import DecodingControls, chosen_decoding
from app.page.evidence import Language, notice_html
from app.page.lending import Lender
from app.page.lens_view import WORDS, Lane, Sight, sight_html
from app.page.parts import QUIET, Shell, Tab, asker, one_line, person_of
from app.settings import Settings
from ingest.errors import SettingsError, TetherError, UsageError
from model.assistant import checked_question
from model.generators import Decoding
from model.lens import Lens
from model.prompts import Prompt, build_prompt
from model.weights import DEFAULT_GENERATOR

_LOG = logging.getLogger(__name__)

LONGEST_PASSAGE = 4_000  # characters
MOST_STEPS = 64
STEPS = 16  # to begin with
STRATEGIES = ("greedy", "beam", "sample")
EXAMPLE = ("故宫在哪里?", "故宫位于北京。")  # question and passage to begin with

_MODEL = "generator"  # the one name under which the model is lent

Drawn = dict[Any, Any]  # components to their updates


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants to look at."""

    question: str
    passage: str
    lead: Lane
    decoding: Decoding


@dataclass(frozen=True, slots=True)
class _Parts:
    """The components of the tab."""

    sight: gr.State
    question: gr.Textbox
    passage: gr.Textbox
    take: gr.Button
    lead: gr.Radio
    steps: gr.Slider
    controls: DecodingControls
    look: gr.Button
    stop: gr.Button
    note: gr.HTML
    seen: gr.HTML


class _Tab:
    """The functions behind the tab's buttons; each returns what components show."""

    def __init__(self, shell: Shell, parts: _Parts) -> None:
        self.shell = shell
        self.parts = parts
        settings = shell.service.settings
        self._lender = Lender(lambda _: load_lens(settings))

    def look(self, request: gr.Request, *values: Any) -> Iterator[Drawn]:  # noqa: ANN401
        """Show one step after the other, as the model takes them."""
        parts, words = self.parts, WORDS[self.shell.language(request)]
        yield {parts.look: gr.update(visible=False), parts.stop: gr.update(visible=True)}
        note = ""
        try:
            wanted = wanted_of(values)
            for shown in self._watch(wanted, asker(request), words):
                if isinstance(shown, str):
                    yield {parts.note: notice_html(shown, "waiting")}
                else:
                    html = sight_html(shown, self.shell.language(request))
                    yield {parts.sight: shown, parts.seen: html, parts.note: ""}
        except TetherError as error:
            note = words["error"].format(message=one_line(error))
        except Exception as error:
            _LOG.exception("the lens failed")
            note = words["failed"].format(kind=type(error).__name__)
        yield self.rest() | {parts.note: notice_html(note, "error") if note else ""}

    def _watch(self, wanted: Wanted, owner: str, words: dict[str, str]) -> Iterator[Sight | str]:
        """Yield what is to be waited for, then what is seen."""
        with self._lender.turn(owner) as turn:
            while position := turn.wait():
                yield words["waiting"].format(position=position)
            if not self._lender.holds(_MODEL):
                yield words["loading"]
            lens = turn.take(_MODEL)
            with closing(sights(lens, wanted, self.shell.service.settings)) as found:
                yield from found

    def rest(self) -> Drawn:
        """Offer another look."""
        parts = self.parts
        return {parts.look: gr.update(visible=True), parts.stop: gr.update(visible=False)}

    def stopped(self, request: gr.Request) -> Drawn:
        """Offer another look, after one that was cancelled."""
        words = WORDS[self.shell.language(request)]
        return self.rest() | {self.parts.note: notice_html(words["stopped"], "note")}

    def take(self, question: str, collection: str, request: gr.Request) -> Drawn:
        """Put the passage nearest to the question into its box."""
        parts, words = self.parts, WORDS[self.shell.language(request)]
        try:
            found = self.shell.service.search(
                question, collection=collection, top_k=1, person=person_of(request)
            )
        except TetherError as error:
            return {parts.note: notice_html(one_line(error), "error")}
        if not found:
            return {parts.note: notice_html(words["none"], "note")}
        taken = words["taken"].format(title=found[0].title)
        text = found[0].chunk.text[:LONGEST_PASSAGE]
        return {parts.passage: text, parts.note: notice_html(taken, "note")}

    def speak(self, language: Language, request: gr.Request, sight: Sight | None) -> list[Any]:
        """Draw the tab in `language`."""
        del request
        parts, words = self.parts, WORDS[language]
        labelled = ("question", "passage", "steps")
        return [
            *(gr.update(label=words[name]) for name in labelled),
            gr.update(label=words["lead"], choices=_leads(language)),
            *(gr.update(value=words[name]) for name in ("take", "look", "stop")),
            sight_html(sight, language),
            *parts.controls.speak(language),
        ]


# --- Looking -------------------------------------------------------------------------------------


def load_lens(settings: Settings) -> Lens:
    """Return the generator in force as a model that can be watched.

    Raises:
        SettingsError: It is one that transformers cannot load.
        WeightsError: It cannot be loaded, or its adapter does not fit.
    """
    chosen, backend = settings.generator, resolve_backend(settings)
    is_foreign_file = backend == "llama.cpp" and chosen.model != DEFAULT_GENERATOR
    if backend == "openai" or is_foreign_file:
        raise SettingsError(
            f"the lens cannot look into {chosen.model}; set generator.model to {DEFAULT_GENERATOR},"
            " or to a transformers folder or hub id"
        )
    return build_transformers(settings, Lens)


def wanted_of(values: tuple[Any, ...]) -> Wanted:
    """Return what the tab's inputs say; they come from a browser and may be anything.

    Raises:
        UsageError: One of them makes no sense.
    """
    question, passage, lead, steps, *decoding = values
    if not isinstance(question, str) or not isinstance(passage, str | None):
        raise UsageError("question and passage must be texts; write them anew")
    passage = (passage or "").strip()
    if len(passage) > LONGEST_PASSAGE:
        raise UsageError(
            f"the passage has {len(passage):,} characters, more than {LONGEST_PASSAGE:,};"
            " shorten it"
        )
    if not isinstance(steps, int | float) or not 1 <= steps <= MOST_STEPS:
        raise UsageError(f"steps must be a number from 1 to {MOST_STEPS}; correct it")
    return Wanted(
        question=checked_question(question),
        passage=passage,
        lead="untold" if lead == "untold" or not passage else "told",
        decoding=chosen_decoding(decoding, Decoding(max_new_tokens=int(steps))),
    )


def sights(lens: Lens, wanted: Wanted, settings: Settings) -> Yielding[Sight, None, None]:
    """Yield what is seen after every step, at first the prompts alone.

    The prompts are the assistant's, but zero-shot: worked examples would hide what the passage
    does, and take seconds to read.
    """
    options = replace(resolve_prompt(settings), examples=0)
    told = [(1, wanted.passage)] if wanted.passage else []
    given: dict[Lane, list[tuple[int, str]]] = {"told": told, "untold": []}
    lanes: tuple[Lane, ...] = ("told", "untold") if told else ("untold",)
    lanes = tuple(sorted(lanes, key=lambda lane: lane != wanted.lead))
    prompts = [build_prompt(wanted.question, given[lane], options) for lane in lanes]
    sight = Sight(lanes, tuple(map(lens.as_read, prompts)))
    yield sight
    follow = _follow_beams if wanted.decoding.strategy == "beam" else _follow_path
    yield from follow(lens, prompts, wanted.decoding, sight)


def _follow_path(
    lens: Lens, prompts: list[Prompt], decoding: Decoding, sight: Sight
) -> Iterator[Sight]:
    for step in lens.walk(prompts, decoding):
        sight = replace(sight, steps=(*sight.steps, step))
        yield sight


def _follow_beams(
    lens: Lens, prompts: list[Prompt], decoding: Decoding, sight: Sight
) -> Iterator[Sight]:
    """Yield the sight after each step of each lane's own search, one lane after the other."""
    done: tuple[Any, ...] = ()
    for number, prompt in enumerate(prompts, start=1):
        steps: tuple[Any, ...] = ()
        for step in lens.search(prompt, decoding):
            steps = (*steps, step)
            yield replace(sight, beams=(*done, steps, *((),) * (len(prompts) - number)))
        done = (*done, steps)


# --- The layout ----------------------------------------------------------------------------------


def build(shell: Shell) -> Tab:
    """Make the tab inside the open page."""
    with gr.Tab(WORDS["en"]["tab"], id="lens", elem_id="tether-tab-lens") as item:
        parts = _parts()
    tab = _Tab(shell, parts)
    _wire(shell, tab)
    drawn = (parts.question, parts.passage, parts.steps, parts.lead, parts.take, parts.look,
             parts.stop, parts.seen, *parts.controls.inputs)  # fmt: skip
    return Tab(item, lambda language: WORDS[language]["tab"], drawn, (parts.sight,), tab.speak)


def _parts() -> _Parts:
    words, made = WORDS["en"], dict[str, Any]()
    made["sight"] = gr.State(None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=260):
            made["question"] = gr.Textbox(
                EXAMPLE[0], label=words["question"], lines=1, max_lines=4,
                elem_id="tether-lens-question",
            )  # fmt: skip
            made["passage"] = gr.Textbox(
                EXAMPLE[1], label=words["passage"], lines=3, max_lines=10,
                max_length=LONGEST_PASSAGE, elem_id="tether-lens-passage",
            )  # fmt: skip
            made["take"] = _button("take", "secondary")
            made["lead"] = gr.Radio(
                _leads("en"), value="told", label=words["lead"], elem_id="tether-lens-lead"
            )
            made["controls"] = decoding_controls.build("tether-lens", STRATEGIES)
            made["steps"] = gr.Slider(
                1, MOST_STEPS, STEPS, step=1, label=words["steps"], elem_id="tether-lens-steps"
            )
            made["look"] = _button("look", "primary")
            made["stop"] = _button("stop", "stop", visible=False)
        with gr.Column(scale=7, min_width=320):
            made["note"] = gr.HTML(elem_id="tether-lens-note")
            made["seen"] = gr.HTML(
                sight_html(None, "en"),
                elem_id="tether-lens",
                css_template=Path(__file__).with_name("lens.css").read_text(encoding="utf-8"),
            )
    return _Parts(**made)


def _button(name: str, variant: str, *, visible: bool = True) -> gr.Button:
    kind = cast("Any", variant)
    return gr.Button(
        WORDS["en"][name], size="md", variant=kind, visible=visible, elem_id=f"tether-lens-{name}"
    )


def _leads(language: Language) -> list[tuple[str, str]]:
    return [(WORDS[language][lane], lane) for lane in ("told", "untold")]


def _wire(shell: Shell, tab: _Tab) -> None:
    """Connect the tab's events."""
    parts = tab.parts
    looked = [parts.sight, parts.seen, parts.note, parts.look, parts.stop]
    typed = [parts.question, parts.passage, parts.lead, parts.steps, *parts.controls.inputs]
    looking = gr.on(
        [parts.look.click, parts.question.submit],
        tab.look, typed, looked, concurrency_limit=None, **QUIET,
    )  # fmt: skip
    parts.stop.click(None, cancels=[looking]).then(tab.stopped, None, looked, queue=False, **QUIET)
    parts.take.click(
        tab.take, [parts.question, shell.collection], [parts.passage, parts.note],
        queue=False, **QUIET,
    )  # fmt: skip
