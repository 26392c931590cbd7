"""The chat in a browser: conversation on one side, evidence on the other.

A door only: it turns the assistant's events into HTML with `app.evidence` and owns nothing but
layout. All text it shows passes `evidence.escape`. It listens where it is told, fetches nothing
from the internet and sends nothing there.

`app.page` takes its place: `mount_page(application, service)` puts the whole page at "/" of a
FastAPI application, beside the routes that are already there.
"""

import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from app.evidence import (
    Language,
    answer_html,
    draft_html,
    escape,
    evidence_html,
    notice_html,
)
from ingest.errors import TetherError, UsageError
from ingest.languages import question_language
from model.answers import Answer
from model.assistant import Assistant, Drafted, Event, Finished, Retrieved
from retrieval.passages import Passage

_LOG = logging.getLogger(__name__)

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "tagline": "Answers from your documents, cited to the character",
        "other": "中文",
        "clear": "New chat",
        "ask": "Ask your documents…",
        "welcome": "### What would you like to know?\nEvery answer shows the words it rests on.",
        "evidence": "Evidence",
        "empty": "The passages behind an answer appear here, with the cited words highlighted.",
        "searching": "Searching your documents…",
        "found": "Found {count} passages. Reading…",
        "stopped": "Stopped.",
        "error": "Error: {message}",
        "failed": "something unexpected went wrong ({kind}); see the server's log and ask again",
    },
    "zh": {
        "tagline": "依据你的文档作答，引用精确到字",
        "other": "English",
        "clear": "新对话",
        "ask": "向你的文档提问……",
        "welcome": "### 想了解什么？\n每个回答都会指出它所依据的原文。",
        "evidence": "依据",
        "empty": "回答所依据的段落会显示在这里，引用的文字会高亮。",
        "searching": "正在检索文档……",
        "found": "找到 {count} 个段落，正在阅读……",
        "stopped": "已停止。",
        "error": "出错：{message}",
        "failed": "发生意外错误（{kind}）；请查看服务端日志后重试",
    },
}

# `<base href>` in Gradio's page would make `#passage-1` a link to another page, hence a listener.
_SHOW_CITED_PASSAGE = """
() => document.addEventListener("click", (event) => {
  const link = event.target.closest("a.tether-cite");
  if (!link) return;
  event.preventDefault();
  const card = document.getElementById(link.getAttribute("href").slice(1));
  if (!card) return;
  for (let box = card; box; box = box.parentElement.closest("details")) box.open = true;
  (card.querySelector("mark") ?? card).scrollIntoView({ behavior: "smooth", block: "center" });
  card.classList.add("is-shown");
  setTimeout(() => card.classList.remove("is-shown"), 2000);
})
"""

_SHOW_NEWEST = """
watch("value", () => { element.closest("#tether-evidence").scrollTop = 0; });
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and how far it has come; the page is always drawn from a tuple of these."""

    key: str
    question: str
    passages: tuple[Passage, ...] | None = None
    draft: str = ""
    answer: Answer | None = None
    error: str = ""  # one line
    stopped: bool = False

    @property
    def is_open(self) -> bool:
        """True while an answer may still come."""
        return self.answer is None and not self.error and not self.stopped


Turns = tuple[Turn, ...]


def messages_of(turns: Turns) -> list[dict[str, str]]:
    """Return the conversation as Gradio messages, each one line of safe HTML."""
    messages = []
    for turn in turns:
        messages.append({"role": "user", "content": notice_html(turn.question, "question")})
        messages.append({"role": "assistant", "content": _reply(turn)})
    return messages


def _reply(turn: Turn) -> str:
    """Return the assistant's side of a turn, in the language of its question."""
    language = question_language(turn.question)
    words = WORDS[language]
    if turn.error:
        return notice_html(words["error"].format(message=turn.error), "error")
    if turn.answer is not None:
        return answer_html(turn.answer, language, key=turn.key)
    if turn.draft:
        return draft_html(turn.draft, language, stopped=turn.stopped)
    if turn.stopped:
        return draft_html(words["stopped"], language, stopped=True)
    if turn.passages is None:
        return notice_html(words["searching"], "waiting")
    return notice_html(words["found"].format(count=len(turn.passages)), "waiting")


def panel_of(turns: Turns, language: Language) -> str:
    """Return the evidence of all turns, the newest first and the older ones folded."""
    shown = [turn for turn in reversed(turns) if turn.passages is not None]
    words = WORDS[language]
    body = "" if shown else f"<p>{words['empty']}</p>"
    for index, turn in enumerate(shown):
        evidence = evidence_html(turn.answer or turn.passages or (), language, key=turn.key)
        body += (
            f'<details class="tether-turn"{"" if index else " open"}>'
            f"<summary>{escape(turn.question)}</summary>{evidence}</details>"
        )
    return f'<div class="tether-panel" lang="{language}"><h2>{words["evidence"]}</h2>{body}</div>'


def _after(turn: Turn, event: Event) -> Turn:
    match event:
        case Retrieved(passages):
            return replace(turn, passages=tuple(passages))
        case Drafted(text):
            return replace(turn, draft=turn.draft + text)
        case Finished(answer):
            return replace(turn, answer=answer, passages=tuple(answer.passages))


def build_chat(assistant: Assistant, *, collection: str, examples: Sequence[str] = ()) -> gr.Blocks:
    """Return the chat page, not yet served.

    Args:
        assistant: answers the questions, one at a time.
        collection: name shown beside the title.
        examples: questions offered while the conversation is empty.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    blocks = gr.Blocks(title="Tether", analytics_enabled=False)
    with blocks:
        turns: gr.State = gr.State(())
        language: gr.State = gr.State("en")
        with gr.Row(elem_id="tether-top"):
            brand = gr.HTML(_brand("en", collection))
            clear = gr.Button(WORDS["en"]["clear"], size="sm", scale=0, elem_id="tether-clear")
            other = gr.Button(WORDS["en"]["other"], size="sm", scale=0, elem_id="tether-language")
        with gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=360):
                chatbot = _chatbot(examples)
                box = _question_box()
            with gr.Column(scale=5, min_width=340):
                panel = gr.HTML(
                    panel_of((), "en"), elem_id="tether-evidence", js_on_load=_SHOW_NEWEST
                )
        page = _Page(assistant, collection, threading.Lock())
        _wire(blocks, page, turns, language, (brand, clear, other, chatbot, box, panel))
    blocks.queue(default_concurrency_limit=1)
    return blocks


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


def _brand(language: Language, collection: str) -> str:
    return (
        f'<div class="tether-brand" lang="{language}"><h1>Tether</h1>'
        f"<code>{escape(collection)}</code><span>{WORDS[language]['tagline']}</span></div>"
    )


@dataclass(frozen=True, slots=True)
class _Page:
    """The functions behind the page's buttons; every one returns what the components show."""

    assistant: Assistant
    collection: str
    generating: threading.Lock

    def ask(self, question: str, turns: Turns, language: Language) -> Iterator[tuple[Any, ...]]:
        """Yield turns, messages, panel and question box while the answer comes."""
        if not question.strip():
            yield turns, gr.skip(), gr.skip(), gr.skip()
            return
        box: Any = gr.update(value="", submit_btn=False, stop_btn=True)
        evidence: object = None
        for so_far in self._answer(turns, question.strip()):
            last = so_far[-1]
            panel: Any = gr.skip()
            if last.passages is not None and evidence is not (last.answer or last.passages):
                evidence = last.answer or last.passages
                panel = panel_of(so_far, language)
            yield so_far, messages_of(so_far), panel, box
            box = gr.skip()
        yield so_far, gr.skip(), gr.skip(), gr.update(submit_btn=True, stop_btn=False)

    def _answer(self, turns: Turns, question: str) -> Iterator[Turns]:
        """Yield the conversation after every event; an error ends only the turn, as one line."""
        turns = tuple(replace(turn, stopped=turn.stopped or turn.is_open) for turn in turns)
        turn = Turn(key=str(len(turns) + 1), question=question)
        yield (*turns, turn)
        try:
            # A stopped question may still be in its last step when the next one starts.
            with self.generating:
                for event in self.assistant.stream(question):
                    turn = _after(turn, event)
                    yield (*turns, turn)
        except TetherError as error:
            yield (*turns, replace(turn, error=" ".join(str(error).split())))
        except Exception as error:
            # Whatever broke, a draft must not stay on screen as if it were still being checked.
            _LOG.exception("the assistant failed on a question")
            words = WORDS[question_language(question)]
            yield (*turns, replace(turn, error=words["failed"].format(kind=type(error).__name__)))

    def stop(self, turns: Turns) -> tuple[Any, ...]:
        """Mark the turn that was cancelled."""
        if turns and turns[-1].is_open:
            turns = (*turns[:-1], replace(turns[-1], stopped=True))
        return turns, messages_of(turns), gr.update(submit_btn=True, stop_btn=False)

    def clear(self, language: Language) -> tuple[Any, ...]:
        """Forget the conversation."""
        box = gr.update(value="", submit_btn=True, stop_btn=False)
        return (), [], panel_of((), language), box

    def speak(self, language: Language, turns: Turns) -> tuple[Any, ...]:
        """Draw the page in `language`; answers keep the language of their question."""
        words = WORDS[language]
        return (
            language,
            gr.update(value=_brand(language, self.collection)),
            gr.update(value=words["clear"]),
            gr.update(value=words["other"]),
            gr.update(placeholder=words["welcome"]),
            gr.update(label=words["ask"], placeholder=words["ask"]),
            panel_of(turns, language),
        )

    def greet(self, turns: Turns, request: gr.Request) -> tuple[Any, ...]:
        """Draw the page in the browser's first language."""
        chinese = request.headers.get("accept-language", "").lower().startswith("zh")
        return self.speak("zh" if chinese else "en", turns)

    def toggle(self, language: Language, turns: Turns) -> tuple[Any, ...]:
        """Draw the page in the other language."""
        return self.speak("en" if language == "zh" else "zh", turns)


def _wire(
    blocks: gr.Blocks, page: _Page, turns: gr.State, language: gr.State, parts: tuple[Any, ...]
) -> None:
    """Connect the page's events; `private`, for the HTTP API is another door."""
    brand, clear, other, chatbot, box, panel = parts
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    asking: dict[str, Any] = {
        "inputs": [box, turns, language],
        "outputs": [turns, chatbot, panel, box],
        "concurrency_limit": 1,
        "concurrency_id": "generation",
        **quiet,
    }
    asked = [box.submit(page.ask, **asking)]
    asked.append(
        chatbot.example_select(_chosen_example, outputs=box, queue=False, **quiet).then(
            page.ask, **asking
        )
    )
    spoken = [language, brand, clear, other, chatbot, box, panel]
    # First cancel, then draw: a step in flight must not overwrite what these leave behind.
    box.stop(None, cancels=asked).then(
        page.stop, turns, [turns, chatbot, box], queue=False, **quiet
    )
    clear.click(None, cancels=asked).then(
        page.clear, language, [turns, chatbot, panel, box], queue=False, **quiet
    )
    other.click(page.toggle, [language, turns], spoken, queue=False, **quiet)
    blocks.load(page.greet, turns, spoken, queue=False, **quiet)


def _chosen_example(chosen: gr.SelectData) -> str:
    return str(chosen.value["text"])


def serve_chat(
    assistant: Assistant,
    *,
    collection: str,
    host: str = "127.0.0.1",
    port: int = 7860,
    examples: Sequence[str] = (),
    ready: Callable[[str], None] | None = None,
    block: bool = True,
) -> gr.Blocks:
    """Serve the chat until interrupted.

    Args:
        assistant: answers the questions, one at a time.
        collection: name shown beside the title.
        host: address to listen on.
        port: TCP port to listen on.
        examples: questions offered while the conversation is empty.
        ready: called with the page's address once it answers.
        block: False returns at once; end the server with `close()` of what is returned.

    Raises:
        UsageError: the address or port cannot be used.
    """
    require_free_port(host, port)
    for name in ("NO_PROXY", "no_proxy"):  # Gradio asks its own page whether it is up
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost")))
    blocks = build_chat(assistant, collection=collection, examples=examples)
    try:
        _, url, _ = blocks.launch(
            server_name=host,
            server_port=port,
            theme=_theme(),
            css=Path(__file__).with_name("chat.css").read_text(encoding="utf-8"),
            js=_SHOW_CITED_PASSAGE,
            footer_links=[],
            share=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:  # another program was faster
        raise _port_in_use(port) from error
    if ready is not None:
        ready(url)
    if block:
        blocks.block_thread()
    return blocks


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


def require_free_port(host: str, port: int) -> None:
    """Raise if `host:port` cannot be listened on; Gradio itself would wait and then guess."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _port_in_use(port) from error
        reason = error.strerror or str(error)
        raise UsageError(
            f"cannot listen on {host}:{port} ({reason}); "
            "choose another address with --host or another port with --port"
        ) from error


def _port_in_use(port: int) -> UsageError:
    return UsageError(
        f"port {port} is in use; stop the other program or choose another with --port"
    )
