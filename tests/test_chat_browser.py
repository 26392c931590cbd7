"""The chat in a real browser: streaming, citations, abstention, hostile text, no outside request.

`chat_page(assistant)` opens a page on a served chat and is meant for other browser tests too.
"""

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import pytest

from app.chat import serve_chat
from docs.screenshot import photograph
from ingest.documents import Chunk, chunk_id, content_id
from ingest.errors import GeneratorError, UsageError
from model.answers import Answer, Citation, Claim
from model.assistant import Assistant, Drafted, Event, Finished, Retrieved
from model.claims import marked
from retrieval.passages import Passage

if TYPE_CHECKING:
    import gradio as gr
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

pytestmark = pytest.mark.browser

HOSTILE = (
    '<img src=x onerror="window.__xss=1"><script>window.__xss=2</script>'
    "{{value}} ${window.__xss=3} **bold** [link](javascript:alert(1)) $$x^2$$"
)
ENGLISH = "The lighthouse was built in 1887. Its lamp burns whale oil no more."
CHINESE = "灯塔建于一八八七年。塔高三十二米，夜间灯光可达二十海里。"
EXAMPLES = ("When was the lighthouse built?", "灯塔有多高？")


def passage(
    number: int, text: str, start: int = 0, *, title: str = "Guide", heading: str = "Coast > Light"
) -> Passage:
    """Return a passage of its own document that begins at character `start` of it."""
    document, end = content_id(text), start + len(text)
    chunk = Chunk(chunk_id(document, start, end), document, start, end, text, heading, 3)
    return Passage(number, chunk, title, "guide.md", 0.5 / number, ("dense", "lexical"))


def cite(source: Passage, quote: str) -> Citation:
    """Return a citation of the first occurrence of `quote`."""
    start = source.chunk.start + source.chunk.text.index(quote)
    return Citation(source.number, source.chunk.document_id, start, start + len(quote), quote)


class ScriptedAssistant(Assistant):
    """Streams fixed events; waits for `go_on` before the answer, so a test can see the draft."""

    def __init__(self) -> None:
        """Start with the answer held back."""
        self.go_on = threading.Event()
        self.was_closed = threading.Event()

    def stream(
        self,
        question: str,
        *,
        passages: Sequence[Passage] | None = None,
        retrieval: bool = True,
        top_k: int | None = None,
    ) -> Iterator[Event]:
        """Yield the events of the script that the question names."""
        found = (passage(1, ENGLISH, 100), passage(2, CHINESE, title="海岸手册"))
        if "hostile" in question:
            found = (passage(1, HOSTILE, title=HOSTILE, heading=HOSTILE), *found[1:])
        yield Retrieved(found)
        if "broken" in question:
            raise GeneratorError("the generator stopped; start it again")
        if "bug" in question:
            raise ZeroDivisionError
        try:
            answer = self.answer(question, found)
            for piece in ("draft: ", *re.split(r"(?<=[ ，])", answer.text)):
                yield Drafted(piece)
            while not self.go_on.wait(0.05):
                yield Drafted(".")
        finally:
            self.was_closed.set()
        yield Finished(answer)

    def answer(self, question: str, found: tuple[Passage, ...]) -> Answer:
        """Return the verified answer that ends the script."""
        if "hostile" in question:
            claim = Claim(HOSTILE, (cite(found[0], HOSTILE),), 0.8, is_quotation=True)
        elif "灯塔" in question:
            quote = "塔高三十二米"
            claim = Claim("塔高三十二米。", (cite(found[1], quote),), 0.97)
        elif "lighthouse" in question:
            quote = "The lighthouse was built in 1887."
            claim = Claim("It was built in 1887.", (cite(found[0], quote),), 0.97)
        else:
            text = "The documents do not say." if question.isascii() else "文档中没有记载。"
            return Answer(question, text, (), found, "abstained")
        words = f"“{claim.text}”" if claim.is_quotation else claim.text
        text = marked(words, [citation.passage_number for citation in claim.citations])
        return Answer(question, text, (claim,), found, "supported")


class ChatPage:
    """A browser page on a served chat, and what a test wants to know about it."""

    def __init__(self, page: "Page", url: str) -> None:
        """Open `url`, keeping every request the page makes."""
        self.page = page
        self.requests: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(url)
        page.locator("#tether-question textarea").wait_for()

    def ask(self, question: str) -> None:
        """Type a question and press Enter, once the answer before is complete."""
        self.page.locator("#tether-question [data-testid=stop-button]").wait_for(state="hidden")
        box = self.page.locator("#tether-question textarea")
        box.fill(question)
        box.press("Enter")

    def last(self, selector: str) -> "Locator":
        """Return the last element of that kind once it is on the screen."""
        found = self.page.locator(selector).last
        found.wait_for()
        return found

    def outside_requests(self) -> list[str]:
        """Return the requests that left this machine."""
        hosts = ("127.0.0.1", "")  # data: and blob: have no host
        return [url for url in self.requests if (urlsplit(url).hostname or "") not in hosts]


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def chat_page(browser: "Browser") -> Iterator[Callable[..., ChatPage]]:
    """Return a function that serves an assistant's chat and opens it in a fresh page."""
    opened: list[tuple[gr.Blocks, BrowserContext]] = []

    def open_page(assistant: Assistant, *, locale: str = "en-US", width: int = 1280) -> ChatPage:
        served = serve_chat(
            assistant, collection="coast", port=free_port(), examples=EXAMPLES, block=False
        )
        context = browser.new_context(locale=locale, viewport={"width": width, "height": 844})
        opened.append((served, context))
        context.set_default_timeout(60_000)  # a busy machine is slow, not broken
        return ChatPage(context.new_page(), str(served.local_url))

    yield open_page
    for served, context in opened:
        context.close()
        served.close(verbose=False)


@pytest.mark.parametrize(
    ("question", "quote", "said"),
    [
        (
            "When was the lighthouse built?",
            "The lighthouse was built in 1887.",
            ["Supported", "It was built in 1887.[1]"],
        ),
        ("灯塔有多高？", "塔高三十二米", ["有据", "塔高三十二米。[2]"]),
    ],
)
def test_draft_streams_and_the_answer_highlights_exactly_what_it_cites(
    chat_page: Callable[..., ChatPage], question: str, quote: str, said: list[str]
) -> None:
    assistant = ScriptedAssistant()
    chat = chat_page(assistant)
    chat.ask(question)
    draft = chat.last(".tether-draft")
    assert chat.page.locator(".tether-answer").count() == 0
    assert draft.locator(".tether-badge").inner_text() in {"Draft, being checked", "草稿，核对中"}
    assert chat.page.locator(".tether-passage").count() == 2  # evidence stands before the answer
    assert chat.page.locator(".tether-passage mark").count() == 0

    assistant.go_on.set()
    answer = chat.last(".tether-answer")
    assert answer.inner_text().split("\n") == said
    assert chat.page.locator(".tether-draft").count() == 0
    assert chat.page.locator(".tether-passage mark").all_inner_texts() == [quote]

    url = chat.page.url
    answer.locator("a.tether-cite").click()
    shown = chat.last(".tether-passage.is-shown")
    assert shown.locator("mark").inner_text() == quote
    assert chat.page.url == url
    assert chat.outside_requests() == []


def test_abstention_error_and_the_next_question(chat_page: Callable[..., ChatPage]) -> None:
    assistant = ScriptedAssistant()
    assistant.go_on.set()
    chat = chat_page(assistant)
    chat.ask("What does the ferry cost?")
    abstained = chat.last(".tether-answer.is-abstained")
    assert abstained.inner_text().split("\n") == [
        "Not in the documents",
        "The documents do not say.",
    ]
    chat.ask("broken")
    error = chat.last(".tether-error")
    assert error.inner_text() == "Error: the generator stopped; start it again"
    chat.ask("bug")
    chat.page.get_by_text("ZeroDivisionError").wait_for()
    assert Path(__file__).name not in chat.page.content()  # no traceback
    chat.ask("渡轮多少钱？")
    chat.page.get_by_text("文档未载").wait_for()
    assert chat.page.locator("details.tether-turn").count() == 4
    assert chat.page.locator("details.tether-turn[open]").count() == 1


def test_hostile_text_stays_text(chat_page: Callable[..., ChatPage]) -> None:
    assistant = ScriptedAssistant()
    assistant.go_on.set()
    chat = chat_page(assistant)
    question = f"hostile {HOSTILE}"
    chat.ask(question)
    answer = chat.last(".tether-answer")
    assert answer.locator(".tether-claim").inner_text() == HOSTILE
    assert chat.page.locator(".tether-question").inner_text() == question
    card = chat.page.locator("#passage-1-1")
    assert card.locator("mark").inner_text() == HOSTILE
    assert card.locator(".tether-title").inner_text() == HOSTILE
    page = chat.page
    page.wait_for_timeout(300)  # an onerror handler would have run by now
    assert page.evaluate("window.__xss === undefined")
    assert page.locator("img[onerror], #tether-chat strong, #tether-chat .katex").count() == 0
    assert page.locator('a[href^="javascript"]').count() == 0
    assert chat.outside_requests() == []


def test_stop_marks_the_draft_and_ends_the_generation(chat_page: Callable[..., ChatPage]) -> None:
    assistant = ScriptedAssistant()
    chat = chat_page(assistant)
    chat.ask("When was the lighthouse built?")
    chat.last(".tether-draft")
    chat.page.locator("#tether-question [data-testid=stop-button]").click()
    chat.last(".tether-draft.is-stopped")
    assert assistant.was_closed.wait(10)
    assistant.go_on.set()
    chat.ask("灯塔有多高？")
    chat.last(".tether-answer")
    assert chat.page.locator(".tether-draft.is-stopped").count() == 1
    chat.page.locator("#tether-clear").click()
    chat.page.locator(".tether-answer").wait_for(state="detached")
    assert chat.page.locator(".tether-passage").count() == 0


def test_language_examples_and_phone_width(chat_page: Callable[..., ChatPage]) -> None:
    assistant = ScriptedAssistant()
    assistant.go_on.set()
    chat = chat_page(assistant, locale="zh-CN", width=390)
    panel = chat.page.locator("#tether-evidence h2")
    chat.page.get_by_text("新对话").wait_for()  # the browser's language
    assert panel.inner_text() == "依据"
    chat.page.locator("#tether-language").click()
    chat.page.get_by_text("New chat").wait_for()
    assert panel.inner_text() == "Evidence"
    chat.page.get_by_text(EXAMPLES[1]).click()
    assert chat.last(".tether-answer").locator(".tether-badge").inner_text() == "有据"
    assert chat.page.locator(".tether-found").first.inner_text().startswith("p. 3 · score 0.500")
    assert chat.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_photograph_shows_the_answer_at_the_size_of_the_picture(
    browser: "Browser", chat_page: Callable[..., ChatPage], tmp_path: Path
) -> None:
    assistant = ScriptedAssistant()
    assistant.go_on.set()
    url, picture = chat_page(assistant).page.url, tmp_path / "chat.png"
    photograph(browser, url, "When was the lighthouse built?", picture)
    header = picture.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:]) == (1280, 800)
    with pytest.raises(click.ClickException, match="the generator stopped; start it again"):
        photograph(browser, url, "broken", picture)


def test_port_in_use_names_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port {port} is in use; .*--port"):
            serve_chat(ScriptedAssistant(), collection="coast", port=port, block=False)


@pytest.mark.weights
def test_real_weights_answer_cite_and_abstain(
    chat_page: Callable[..., ChatPage], knowledge: Assistant
) -> None:
    chat = chat_page(knowledge)
    for count, (question, words) in enumerate(
        [
            ("In which year was the transformer introduced?", "2017"),
            ("预训练是一种什么压缩？", "有损压缩"),
            ("红烧肉要炖多长时间？", None),
        ],
        start=1,
    ):
        chat.ask(question)
        answer = chat.page.locator(".tether-answer").nth(count - 1)
        answer.wait_for()
        turn = chat.page.locator("details.tether-turn[open]")
        if words:
            turn.locator("mark").first.wait_for()
        links = answer.locator("a.tether-cite").all_inner_texts()
        cited = turn.locator(".is-cited .tether-number").all_inner_texts()
        claims = answer.locator(".tether-claim[title]").count()
        # One link for each passage that a claim cites, and no written mark beside them.
        assert set(links) == {f"[{number}]" for number in cited}
        assert len(links) <= claims * len(cited)
        assert re.findall(r"\[\d+\]", answer.inner_text()) == links
        if words:
            assert claims
            assert words in " ".join(turn.locator("mark").all_inner_texts())
        else:
            assert "is-abstained" in (answer.get_attribute("class") or "")
            assert turn.locator("mark").count() == 0
    assert chat.outside_requests() == []
