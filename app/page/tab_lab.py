"""The tab Lab: what was measured under the data root, and measuring more of it.

A door only: `app.laboratory.runs` lists, starts and stops runs, `eval` writes their reports, and
`app.page.lab_view` draws. Everything here asks `_allowed` first: what was measured may quote
anybody's documents, and a run takes the machine for hours.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from app.laboratory.runs import (
    FRONTIER,
    Order,
    Runs,
    frontier_order,
    report_of,
    suite_order,
    suites_here,
)
from app.page.evidence import Language, notice_html
from app.page.lab_view import (
    WORDS,
    list_html,
    progress_html,
    report_html,
    suite_name,
)
from app.page.parts import ACTIONS, QUIET, Shell, Tab, action_of, one_line, person_of
from app.page.routes import report_url
from app.users import NotAllowed, Person
from ingest.errors import TetherError
from ingest.sources import local_path

_LOG = logging.getLogger(__name__)

BUDGETS = ("smoke", "30m", "60m", "2h", "8h", "gpu")  # to choose from; any other time can be typed
QUESTIONS = 20  # of each set and language, to begin with
_TICK = 2.0  # seconds between two looks at a run

Drawn = dict[Any, Any]  # components to their updates


@dataclass(frozen=True, slots=True)
class _Parts:
    """The components of the tab."""

    controls: gr.Column  # around the next five, hidden from who may not use them
    what: gr.Dropdown
    limit: gr.Number
    budget: gr.Dropdown
    start: gr.Button
    stop: gr.Button
    note: gr.HTML
    now: gr.HTML
    list: gr.HTML
    report: gr.HTML
    timer: gr.Timer


class _Tab:
    """The functions behind the tab's buttons; each returns what components show."""

    def __init__(self, shell: Shell, parts: _Parts) -> None:
        self.shell = shell
        self.parts = parts
        self.runs = Runs(shell.service.settings)

    def start(self, collection: str, request: gr.Request, *values: Any) -> Drawn:  # noqa: ANN401
        """Start what was chosen."""

        def work() -> Drawn:
            self.runs.start(self._wanted(values, collection, person_of(request)))
            return self._drawn(self.shell.language(request))

        return self._allowed(work, request)

    def _wanted(self, values: Sequence[Any], collection: str, person: Person) -> Order:
        """Return what the tab's inputs say; they come from a browser and may be anything.

        Raises:
            TetherError: One of them makes no sense.
        """
        what, limit, budget = values
        if what != FRONTIER:
            return suite_order(str(what), limit if isinstance(limit, int) else 0)
        service = self.shell.service
        infos = service.documents(collection, person=person)
        paths = [local_path(uri) for info in infos for uri in info.uris]
        found = [path for path in paths if path is not None]
        return frontier_order(found, str(budget), service.settings.home)

    def stop(self, request: gr.Request) -> Drawn:
        """Stop what is being measured."""

        def work() -> Drawn:
            self.runs.stop()
            return self._drawn(self.shell.language(request))

        return self._allowed(work, request)

    def show(self, request: gr.Request) -> Drawn:
        """Draw how far the run is, and all runs."""
        return self._allowed(lambda: self._drawn(self.shell.language(request)), request)

    def tick(self, request: gr.Request) -> Drawn:
        """Draw how far the run is; once it has ended, all runs too."""
        language = self.shell.language(request)

        def work() -> Drawn:
            progress = self.runs.progress()
            if progress is None or progress.state != "running":
                return self._drawn(language)
            return {self.parts.now: progress_html(progress, language)}

        return self._allowed(work, request)

    def act(self, request: gr.Request, event: gr.EventData) -> Drawn:
        """Open a report."""
        action, parts, language = action_of(event), self.parts, self.shell.language(request)

        def work() -> Drawn:
            page = report_of(self.shell.service.settings.home, action.id, language)
            address = report_url(action.id, language)
            return {
                parts.report: report_html(action.id, page, address, language), parts.note: "",
            }  # fmt: skip

        return self._allowed(work, request) if action.name == "open" else {parts.note: ""}

    def speak(self, language: Language, request: gr.Request) -> list[Any]:
        """Draw the tab in `language`."""
        parts, words = self.parts, WORDS[language]
        drawn: Drawn = {
            parts.what: gr.update(label=words["what"], choices=_choices(language)),
            parts.limit: gr.update(label=words["limit"]),
            parts.budget: gr.update(label=words["budget"], info=words["asked"]),
        } | self.show(request)
        return [drawn.get(part, gr.update()) for part in every(parts)]

    def _drawn(self, language: Language) -> Drawn:
        parts, words, progress = self.parts, WORDS[language], self.runs.progress()
        is_running = progress is not None and progress.state == "running"
        return {
            parts.controls: gr.update(visible=True),
            parts.start: gr.update(value=words["start"], visible=not is_running),
            parts.stop: gr.update(value=words["stop"], visible=is_running),
            parts.note: "",
            parts.now: progress_html(progress, language),
            parts.list: list_html(self.runs.kept(), language),
            parts.timer: gr.update(active=is_running),
        }

    def _allowed(self, work: Callable[[], Drawn], request: gr.Request) -> Drawn:
        """Do something for an operator, and for nobody else; tell what goes wrong."""
        words = WORDS[self.shell.language(request)]
        try:
            self.shell.service.require_operator(person_of(request))
            return work()
        except NotAllowed:
            note = notice_html(words["operators"], "note")
        except TetherError as error:
            note = notice_html(one_line(error), "error")
        except Exception as error:
            _LOG.exception("the laboratory failed")
            note = notice_html(words["failed"].format(kind=type(error).__name__), "error")
        return {self.parts.note: note}


# --- The layout ----------------------------------------------------------------------------------


def build(shell: Shell) -> Tab:
    """Make the tab inside the open page."""
    with gr.Tab(WORDS["en"]["tab"], id="lab", elem_id="tether-tab-lab") as item:
        parts = _parts()
    tab = _Tab(shell, parts)
    _wire(shell, tab, item)
    return Tab(item, lambda language: WORDS[language]["tab"], every(parts), (), tab.speak)


def every(parts: _Parts) -> tuple[Any, ...]:
    """Return all components of the tab."""
    return tuple(getattr(parts, name) for name in _Parts.__slots__)


def _parts() -> _Parts:
    words, made = WORDS["en"], dict[str, Any]()
    style = Path(__file__).with_name("lab.css").read_text(encoding="utf-8")
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=260):
            with gr.Column(visible=False) as made["controls"]:
                made["what"] = gr.Dropdown(
                    _choices("en"), value=FRONTIER, label=words["what"], elem_id="tether-lab-what"
                )
                made["limit"] = gr.Number(
                    QUESTIONS, label=words["limit"], precision=0, minimum=1, visible=False,
                    elem_id="tether-lab-limit",
                )  # fmt: skip
                made["budget"] = gr.Dropdown(
                    list(BUDGETS), value="60m", label=words["budget"], info=words["asked"],
                    allow_custom_value=True, elem_id="tether-lab-budget",
                )  # fmt: skip
                made["start"] = gr.Button(
                    words["start"], variant="primary", elem_id="tether-lab-start"
                )
                made["stop"] = gr.Button(
                    words["stop"], variant="stop", visible=False, elem_id="tether-lab-stop"
                )
            made["note"] = gr.HTML(elem_id="tether-lab-note")
            made["now"] = gr.HTML(elem_id="tether-lab-now", css_template=style)
        with gr.Column(scale=7, min_width=320):
            made["list"] = gr.HTML(
                elem_id="tether-lab-runs", css_template=style, js_on_load=ACTIONS
            )
            made["report"] = gr.HTML(elem_id="tether-lab-report", css_template=style)
    made["timer"] = gr.Timer(_TICK, active=False)
    return _Parts(**made)


def _choices(language: Language) -> list[tuple[str, str]]:
    return [(suite_name(name, language), name) for name in (FRONTIER, *suites_here())]


def _needed(what: str) -> list[Any]:
    """Show what a suite or the frontier needs, and hide the rest."""
    return [gr.update(visible=what != FRONTIER), gr.update(visible=what == FRONTIER)]


def _wire(shell: Shell, tab: _Tab, item: gr.Tab) -> None:
    """Connect the tab's events."""
    parts = tab.parts
    drawing: dict[str, Any] = {"outputs": set(every(parts)), "queue": False, **QUIET}
    typed = [parts.what, parts.limit, parts.budget]
    parts.what.change(_needed, parts.what, [parts.limit, parts.budget], queue=False, **QUIET)
    parts.start.click(tab.start, [shell.collection, *typed], **drawing)
    parts.stop.click(tab.stop, None, **drawing)
    parts.list.click(tab.act, None, **drawing)
    parts.timer.tick(tab.tick, None, **drawing)
    item.select(tab.show, None, **drawing)
