"""What every tab of the page shares: the shell it stands in, and how it is drawn again.

A tab is a module with one function, `build(shell) -> Tab`: it makes its components inside the open
`gr.Blocks`, wires their events, and returns those that hold words, with the function that draws
them in another language. `app.page.page.TABS` lists the tabs; nothing else knows them.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from app.history import History
from app.http import identity
from app.page.evidence import Language, escape
from app.service import Service
from app.users import NotAllowed, Person

# Events of the page are nobody's API, and no event greys the page out while it runs.
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

# Buttons inside our HTML: <button data-action="delete" data-id="7"> calls the component's `click`
# with {action, id, value}. `data-confirm` asks first, `data-prompt` asks for the value.
ACTIONS = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button) return;
  const { action, id, confirm: question, prompt: request, value: before } = button.dataset;
  if (question && !window.confirm(question)) return;
  const value = request ? window.prompt(request, before) : before;
  if (value !== null) trigger("click", { action, id: id ?? "", value: value ?? "" });
});
"""


MOST_PAGES = 10_000  # whose choice of a language is remembered


class Languages:
    """Which language each open page speaks: its browser's, until somebody chooses the other one.

    To be asked whenever something is drawn: an answer that is under way goes on in the language
    just chosen, and what is asked before the page has greeted is answered in the browser's.
    """

    def __init__(self) -> None:
        """Begin without a choice."""
        self._chosen: OrderedDict[str, Language] = OrderedDict()  # by page, the oldest first
        self._lock = threading.Lock()

    def of(self, request: gr.Request) -> Language:
        """Return the language of the page from which a request comes."""
        with self._lock:
            chosen = self._chosen.get(request.session_hash or "")
        if chosen is not None:
            return chosen
        wanted = request.headers.get("accept-language", "").lower()
        return "zh" if wanted.startswith("zh") else "en"

    def switch(self, request: gr.Request) -> Language:
        """Let that page speak the other language from now on, and return it."""
        other: Language = "en" if self.of(request) == "zh" else "zh"
        with self._lock:
            self._chosen[request.session_hash or ""] = other
            while len(self._chosen) > MOST_PAGES:
                self._chosen.popitem(last=False)
        return other


@dataclass(frozen=True, slots=True)
class Shell:
    """What surrounds the tabs."""

    service: Service
    collection: gr.Dropdown  # the collection that all tabs work on
    examples: tuple[str, ...] = ()
    languages: Languages = field(default_factory=Languages)

    def language(self, request: gr.Request) -> Language:
        """Return the language that the page speaks now."""
        return self.languages.of(request)

    def history(self, request: gr.Request) -> History:
        """Return the conversations of whoever sits before the page."""
        return History(self.service.settings.home, owner=person_of(request).id)


@dataclass(frozen=True, slots=True)
class Tab:
    """A tab as the shell sees it."""

    item: gr.Tab
    name: Callable[[Language], str]
    parts: tuple[Any, ...]  # components that are drawn again for another language
    states: tuple[Any, ...]  # components whose values `speak` needs
    speak: Callable[..., Sequence[Any]]  # (language, request, *states) -> an update for each part


@dataclass(frozen=True, slots=True)
class Action:
    """What a button inside our HTML asks for; everything in it came from a browser."""

    name: str
    id: str
    value: str


def action_of(event: gr.EventData) -> Action:
    """Return what was asked; anything that is no text counts as empty."""
    data = event._data if isinstance(event._data, dict) else {}
    name, key, value = (data.get(field) for field in ("action", "id", "value"))
    return Action(*(part if isinstance(part, str) else "" for part in (name, key, value)))


def button_html(
    action: str, label: str, *, key: str = "", title: str = "", kind: str = "", **data: str
) -> str:
    """Return a button that `ACTIONS` hears.

    Args:
        action: What it asks for.
        label: What stands on it.
        key: What it asks that for.
        title: What a screen reader says of it, and what is shown under the mouse.
        kind: A CSS class.
        data: `confirm`, `prompt` or `value`, see `ACTIONS`.
    """
    attributes = {"data-action": action, "data-id": key}
    attributes |= {f"data-{name}": value for name, value in data.items()}
    if title:
        attributes |= {"title": title, "aria-label": title}
    written = "".join(f' {name}="{escape(value)}"' for name, value in attributes.items())
    return f'<button type="button" class="tether-button {kind}"{written}>{escape(label)}</button>'


def collection_names(service: Service, person: Person, *more: str) -> list[str]:
    """Return the collections that a person may choose from, their default one, and `more`."""
    known = (info.name for info in service.collections(person=person))
    return sorted({service.default_collection(person), *known, *more})


def asker(request: gr.Request) -> str:
    """Return whose turn a question takes in the line: the person's, else the browser tab's."""
    return person_of(request).id or request.session_hash or ""


def person_of(request: gr.Request) -> Person:
    """Return who sits before the page, as the guard has found out.

    Raises:
        NotAllowed: The request did not pass the guard.
    """
    if request.request is None:
        raise NotAllowed("log in first")
    return identity.person_of(request.request)


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split())
