"""The page: tabs over one `Service`, in Chinese and English, light and dark, wide and narrow.

    mount_page(application, service)     # at "/" of a FastAPI application, behind its own routes

The shell has what all tabs share: the language, the collection, the colours. A new tab is a module
like `app.page.tab_chat` with a function `build(shell) -> Tab`, and a line in `TABS`. The page
fetches nothing from the internet and sends nothing there. Knows nothing of how an answer comes
about.
"""

import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from app.page import routes as page_routes
from app.page import tab_chat, tab_compare, tab_documents, tab_lab, tab_lens
from app.page.evidence import Language, escape
from app.page.parts import QUIET, Shell, Tab, collection_names, person_of
from app.service import Service
from app.users import LOCAL, Person
from ingest.errors import UsageError
from ingest.loaders import MAX_BYTES

TABS = (tab_chat, tab_documents, tab_lens, tab_compare, tab_lab)

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "tagline": "Answers from your documents, cited to the character",
        "other": "中文",
        "colours": "◐ Light/dark",
        "collection": "Collection",
        "leave": "Log out",
    },
    "zh": {
        "tagline": "依据你的文档作答，引用精确到字",
        "other": "English",
        "colours": "◐ 明暗",
        "collection": "文档库",
        "leave": "退出登录",
    },
}

# `<base href>` in Gradio's page would make `#passage-1` a link to another page, hence a listener.
_ON_LOAD = """
() => {
  const colours = localStorage.getItem("tether-colours");
  if (colours) document.body.classList.toggle("dark", colours === "dark");
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.tether-cite");
    if (!link) return;
    event.preventDefault();
    const [id, claim] = link.getAttribute("href").slice(1).split(":");
    const card = document.getElementById(id);
    if (!card) return;
    for (let box = card; box; box = box.parentElement.closest("details")) box.open = true;
    document.querySelectorAll("mark.is-meant").forEach((mark) => mark.classList.remove("is-meant"));
    const meant = card.querySelectorAll(`mark[data-claims~="${claim}"]`);
    meant.forEach((mark) => mark.classList.add("is-meant"));
    const target = meant[0] ?? card.querySelector("mark") ?? card;
    // The middle of a card that is taller than the panel would hide which one it is.
    target.scrollIntoView({ behavior: "smooth", block: target === card ? "start" : "center" });
    card.classList.add("is-shown");
    setTimeout(() => card.classList.remove("is-shown"), 2000);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    document.querySelector("#tether-question [data-testid=stop-button]")?.click();
  });
}
"""

_SWITCH_COLOURS = """
() => {
  const isDark = document.body.classList.toggle("dark");
  localStorage.setItem("tether-colours", isDark ? "dark" : "light");
}
"""

_LEAVE_AGED_UPLOADS = (600, 3600)  # seconds: look for abandoned uploads so often, and so old


def build_page(service: Service, *, examples: Sequence[str] = ()) -> gr.Blocks:
    """Return the page, not yet served.

    Args:
        service: answers, finds and keeps; the caller closes it.
        examples: questions offered while a conversation is empty.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    blocks = gr.Blocks(title="Tether", analytics_enabled=False, delete_cache=_LEAVE_AGED_UPLOADS)
    with blocks:
        with gr.Row(elem_id="tether-top"):
            brand = gr.HTML(_brand("en", LOCAL))
            collection = _collection_box(service)
            colours = _button("colours", "tether-colours")
            other = _button("other", "tether-language")
        shell = Shell(service, collection, tuple(examples))
        with gr.Tabs(elem_id="tether-tabs"):
            tabs = [module.build(shell) for module in TABS]
        _wire(blocks, shell, tabs, (brand, collection, colours, other))
    blocks.queue(default_concurrency_limit=None)  # the service has a line of its own
    return blocks


def _button(name: str, elem_id: str) -> gr.Button:
    return gr.Button(WORDS["en"][name], size="sm", scale=0, elem_id=elem_id)


def _collection_box(service: Service) -> gr.Dropdown:
    return gr.Dropdown(
        choices=[service.settings.collection],  # the others, once it is known who looks
        value=service.settings.collection,
        label=WORDS["en"]["collection"],
        show_label=False,
        container=False,
        scale=0,
        min_width=170,
        elem_id="tether-collection",
    )


def _brand(language: Language, person: Person) -> str:
    """Return what stands at the top: the name, and for who has logged in the way out."""
    words = WORDS[language]
    leave = (
        f'<form class="tether-person" method="post" action="/logout"><b>{escape(person.name)}</b>'
        f' <button class="tether-button" id="tether-leave">{escape(words["leave"])}</button></form>'
    )
    return (
        f'<div class="tether-brand" lang="{language}"><h1>Tether</h1>'
        f"<span>{escape(words['tagline'])}</span>{leave if person.id else ''}</div>"
    )


def _wire(
    blocks: gr.Blocks, shell: Shell, tabs: Sequence[Tab], top: tuple[gr.HTML, gr.Dropdown, Any, Any]
) -> None:
    """Let the page speak the browser's language first, and the other one when asked to."""
    brand, collection, colours, other = top
    states = [state for tab in tabs for state in tab.states]

    def speak(language: Language, request: gr.Request, *values: object) -> list[Any]:
        words, person = WORDS[language], person_of(request)
        names = collection_names(shell.service, person)
        drawn: list[Any] = [_brand(language, person)]
        drawn.append(gr.update(label=words["collection"], choices=names))
        drawn += [gr.update(value=words[name]) for name in ("colours", "other")]
        rest = list(values)
        for tab in tabs:
            own, rest = rest[: len(tab.states)], rest[len(tab.states) :]
            drawn += [gr.update(label=tab.name(language)), *tab.speak(language, request, *own)]
        return drawn

    def greet(request: gr.Request, *values: object) -> list[Any]:
        drawn = speak(shell.language(request), request, *values)
        drawn[1]["value"] = shell.service.default_collection(person_of(request))
        return drawn

    def toggle(request: gr.Request, *values: object) -> list[Any]:
        return speak(shell.languages.switch(request), request, *values)

    spoken = [brand, collection, colours, other]
    for tab in tabs:
        spoken += [tab.item, *tab.parts]
    other.click(toggle, states, spoken, queue=False, **QUIET)
    colours.click(None, js=_SWITCH_COLOURS)
    blocks.load(greet, states, spoken, queue=False, **QUIET)


# --- Serving -------------------------------------------------------------------------------------


def mount_page(application: FastAPI, service: Service, *, examples: Sequence[str] = ()) -> None:
    """Put the page at "/" of an application, and what it links to beside it.

    Args:
        application: its own routes come first.
        service: answers, finds and keeps; the caller closes it.
        examples: questions offered while a conversation is empty.
    """
    application.include_router(page_routes.routes(service))
    gr.mount_gradio_app(
        application,
        build_page(service, examples=examples),
        path="/",
        theme=_theme(),
        css=Path(__file__).with_name("chat.css").read_text(encoding="utf-8"),
        js=_ON_LOAD,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
    )


def _theme() -> gr.themes.Base:
    # Plain names, no GoogleFont: nothing is fetched. chat.css names the full font stack.
    return gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=["sans-serif"],
        font_mono=["monospace"],
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that nobody else can take the port any more.

    Raises:
        UsageError: The address or port cannot be used.
    """
    host = host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} is in use; stop the other program or choose another with --port"
            ) from error
        reason = error.strerror or str(error)
        raise UsageError(
            f"cannot listen on {host}:{port} ({reason}); "
            "choose another address with --host or another port with --port"
        ) from error
