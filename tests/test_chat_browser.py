"""The tab Chat in a real browser: asking, evidence, history, feedback, hostile text, no outside."""

import json
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from app.assembly import build_generator
from app.history import History
from app.page.page import listen
from app.service import Service
from app.settings import Settings, load_settings
from docs.screenshot import photograph
from ingest.errors import UsageError
from model.feedback import FeedbackStore
from retrieval.encoders import Encoder
from tests.pages import ENGLISH, HOSTILE, LEFT_OUT, Opener, ScriptedService
from tests.serving_parts import BRIDGE, QUESTION, make_service

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

EXAMPLES = ("When was the lighthouse built?", "灯塔有多高？")


@pytest.fixture
def service(home: Path) -> Iterator[ScriptedService]:
    """A service whose answers wait for `go_on`."""
    with ScriptedService(home) as made:
        yield made
        made.go_on.set()


@pytest.fixture
def free(service: ScriptedService) -> ScriptedService:
    """The same, with nothing to wait for."""
    service.go_on.set()
    return service


@pytest.mark.parametrize(
    ("question", "quote", "said", "words"),
    [
        (
            "When was the busy lighthouse built?",
            "The lighthouse was built in 1887.",
            ("Partly supported", "It was built in 1887.", "supported, 97%"),
            ("In line: number 2…", "Draft, being checked"),
        ),
        (
            "busy 灯塔有多高？",
            "塔高三十二米",
            ("部分有据", "塔高三十二米。", "文档原话，97%"),
            ("排队中：第 2 位……", "草稿，核对中"),
        ),
    ],
)
def test_an_answer_is_waited_for_drafted_checked_and_shown_with_its_evidence(
    opener: Opener,
    service: ScriptedService,
    question: str,
    quote: str,
    said: tuple[str, str, str],
    words: tuple[str, str],
) -> None:
    chat = opener.open(opener.serve(service))
    chat.ask(question)
    chat.page.get_by_text(words[0]).wait_for()
    service.go_on.set()
    answer = chat.last(".tether-answer")
    assert answer.locator(".tether-badge").inner_text() == said[0]
    assert answer.locator(".tether-claim").inner_text() == said[1]
    assert answer.locator(".tether-verdict").inner_text() == said[2]  # not by colour alone
    left_out = answer.locator(".tether-rejected")
    left_out.locator("summary").click()
    assert left_out.locator("s").all_inner_texts() == [LEFT_OUT]
    assert chat.page.locator(".tether-passage mark").all_inner_texts() == [quote]

    url = chat.page.url
    answer.locator("a.tether-cite").click()
    assert chat.last(".tether-passage.is-shown").locator("mark").inner_text() == quote
    assert chat.page.url == url

    service.go_on.clear()  # the draft of the next one stays on the screen
    chat.ask(question.replace("busy", "tall"))
    draft = chat.last(".tether-draft")
    assert draft.locator(".tether-badge").inner_text() == words[1]
    assert chat.page.locator("details.tether-turn[open] .tether-passage").count() == 2
    assert chat.page.locator("details.tether-turn[open] mark").count() == 0
    assert chat.is_clean()


def test_abstention_errors_a_follow_up_and_claims_that_share_a_passage(
    opener: Opener, free: ScriptedService
) -> None:
    from playwright.sync_api import expect

    chat = opener.open(opener.serve(free))
    chat.ask("What does the ferry cost?")
    abstained = chat.last(".tether-answer.is-abstained")
    assert abstained.locator(".tether-badge").inner_text() == "Not in the documents"
    sought = abstained.locator(".tether-sought")
    assert "Looked for: What does the ferry cost?" in sought.inner_text()
    assert sought.locator("li").all_inner_texts() == ["[1] Guide · p. 3", "[2] 海岸手册 · p. 3"]
    tall = "document.querySelector('#passage-2-1 .tether-text').style.height = '3000px'"
    chat.page.evaluate(tall)
    sought.locator("a.tether-cite").nth(1).click()
    assert chat.last(".tether-passage.is-shown").get_attribute("id") == "passage-2-1"
    expect(chat.page.locator("#passage-2-1 .tether-title")).to_be_in_viewport()

    chat.ask("broken")
    assert chat.last(".tether-error").inner_text() == "Error: the generator stopped; start it again"
    chat.ask("bug")
    chat.page.get_by_text("ZeroDivisionError").wait_for()
    assert Path(__file__).name not in chat.page.content()  # no traceback

    chat.ask("When was the lighthouse built?")
    chat.page.get_by_text("supported, 97%").wait_for()
    chat.ask("And how tall is it?")
    asked = chat.last(".tether-asked")
    assert asked.inner_text() == "Asked as: How tall is the lighthouse?"
    assert free.asked[-1] == ("How tall is the lighthouse?", None)
    assert chat.page.locator(".tether-question").last.inner_text() == "And how tall is it?"
    chat.ask("渡轮多少钱？")
    chat.page.get_by_text("文档未载").wait_for()
    assert chat.page.locator("details.tether-turn").count() == 6
    assert chat.page.locator("details.tether-turn[open]").count() == 1

    chat.ask("When was the lighthouse built, and does its lamp burn oil?")
    chat.page.get_by_text("supported, 96%").wait_for()
    meant = chat.page.locator("mark.is-meant")
    for place, quote in enumerate(ENGLISH.split(". ")):
        chat.page.locator(".tether-answer").last.locator("a.tether-cite").nth(place).click()
        assert meant.all_inner_texts() == [quote]
    assert chat.is_clean()


def test_stop_search_wider_and_edit(opener: Opener, service: ScriptedService) -> None:
    chat = opener.open(opener.serve(service))
    page = chat.page
    chat.ask("When was the lighthouse built?")
    chat.last(".tether-draft")
    page.keyboard.press("Escape")
    chat.last(".tether-draft.is-stopped")
    assert service.was_closed.wait(60)
    service.go_on.set()

    page.locator("#tether-again").click()
    chat.last(".tether-answer")
    assert service.asked[-1] == ("When was the lighthouse built?", 4)  # two were found before
    assert page.locator(".tether-draft").count() == 0

    page.locator("#tether-edit").click()
    box = page.locator("#tether-question textarea")
    chat.wait_for_value(box, "When was the lighthouse built?")
    chat.ask("灯塔有多高？")
    chat.page.get_by_text("文档原话").wait_for()
    assert page.locator(".tether-question").all_inner_texts() == ["灯塔有多高？"]
    (conversation,) = History(service.settings.home).conversations()
    kept = History(service.settings.home).open(conversation.id)[1]
    assert [turn.question for turn in kept] == ["灯塔有多高？"]
    page.locator("#tether-clear").click()
    page.locator(".tether-answer").wait_for(state="detached")
    assert page.locator(".tether-passage").count() == 0
    assert chat.is_clean()


def test_hostile_text_stays_text(opener: Opener, free: ScriptedService) -> None:
    chat = opener.open(opener.serve(free))
    question = f"hostile {HOSTILE}"
    chat.ask(question)
    answer = chat.last(".tether-answer")
    assert answer.locator(".tether-claim").inner_text() == HOSTILE
    assert chat.page.locator(".tether-question").inner_text() == question
    card = chat.page.locator("#passage-1-1")
    assert card.locator("mark").inner_text() == HOSTILE
    assert card.locator(".tether-title").inner_text() == HOSTILE
    title = chat.last(".tether-conversations .is-title")
    assert title.inner_text().startswith("hostile <img src=x")
    title.click()  # opened from the history, it is drawn again
    chat.last(".tether-conversations .is-current")
    assert chat.last(".tether-claim").inner_text() == HOSTILE
    assert chat.page.locator("#tether-chat strong, #tether-chat .katex").count() == 0
    assert chat.is_clean()  # nothing of the page offends against its own policy, ...
    outside = "http://127.0.0.2:9/"  # ... which lets no script send anything anywhere else
    for send in (f"fetch({outside!r})", f"import({outside!r})"):
        assert chat.page.evaluate(f"{send}.then(() => 'sent', () => 'refused')") == "refused"
    told = [error for error in chat.errors if "violates the following Content Security" in error]
    assert len(told) == 2


def test_conversations_are_kept_found_renamed_exported_and_deleted(
    opener: Opener, free: ScriptedService
) -> None:
    url = opener.serve(free)
    chat = opener.open(url)
    chat.ask("When was the lighthouse built?")
    chat.page.get_by_text("supported, 97%").wait_for()
    chat.page.locator("#tether-clear").click()
    chat.page.locator(".tether-answer").wait_for(state="detached")
    chat.ask("渡轮多少钱？")
    chat.page.get_by_text("文档未载").wait_for()

    chat.open(url)  # as after a restart of the browser
    titles = chat.page.locator(".tether-conversations .is-title")
    assert titles.all_inner_texts() == ["渡轮多少钱？", "When was the lighthouse built?"]
    chat.page.locator("#tether-find textarea, #tether-find input").first.fill("1887")
    chat.page.get_by_text("渡轮多少钱？").wait_for(state="detached")
    titles.first.click()
    chat.page.get_by_text("supported, 97%").wait_for()
    assert chat.page.locator(".tether-passage mark").all_inner_texts() == [
        "The lighthouse was built in 1887."
    ]
    chat.ask("How tall is it?")
    assert chat.last(".tether-asked").inner_text() == "Asked as: How tall is the lighthouse?"
    chat.page.locator("#tether-question [data-testid=stop-button]").wait_for(state="hidden")
    assert titles.all_inner_texts() == ["When was the lighthouse built?"]  # still only these

    chat.answer_dialogs("Lights of the coast")
    chat.page.locator(".tether-conversations summary").first.click()
    with chat.page.expect_download() as saved:
        chat.page.get_by_role("link", name="JSON").first.click()
    whole = json.loads(Path(saved.value.path()).read_text("utf-8"))
    assert [turn["question"] for turn in whole["turns"]] == [
        "When was the lighthouse built?",
        "How tall is it?",
    ]
    chat.page.get_by_role("button", name="Rename").first.click()
    chat.page.get_by_text("Lights of the coast").wait_for()
    chat.page.locator(".tether-conversations summary").first.click()
    chat.page.get_by_role("button", name="Delete").first.click()
    chat.page.get_by_text("Lights of the coast").wait_for(state="detached")
    assert chat.page.locator(".tether-answer").count() == 0  # it was open
    assert [one.title for one in History(free.settings.home).conversations()] == ["渡轮多少钱？"]
    assert chat.is_clean()


def test_thumbs_and_a_correction_go_into_the_feedback(
    opener: Opener, free: ScriptedService
) -> None:
    chat = opener.open(opener.serve(free))
    chat.ask("When was the lighthouse built?")
    chat.page.locator("#tether-up").click()
    assert chat.last(".tether-note").inner_text() == "Kept. Thank you."
    chat.page.locator("#tether-correct").click()
    box = chat.page.locator("#tether-correction textarea")
    chat.wait_for_value(box, "It was built in 1887 [1].")
    box.fill("In 1887 [1].")
    chat.page.locator("#tether-save").click()
    box.wait_for(state="hidden")
    with FeedbackStore(free.settings.home) as store:
        up, down = store.entries()
    assert (up.thumb, up.correction, up.question) == ("up", None, "When was the lighthouse built?")
    assert (down.thumb, down.correction) == ("down", "In 1887 [1].")
    assert up.passages[0].text.startswith("The lighthouse was built")
    assert chat.is_clean()


def test_languages_colours_examples_and_phone_width(opener: Opener, free: ScriptedService) -> None:
    url = opener.serve(free, EXAMPLES)
    size = {"width": 390, "height": 844}
    chat = opener.open(url, locale="zh-CN", viewport=size, color_scheme="light")
    page = chat.page
    panel = page.locator("#tether-evidence h2")
    page.get_by_text("新对话").wait_for()  # the browser's language
    assert panel.inner_text() == "依据"
    assert page.get_by_role("tab").all_inner_texts()[:2] == ["问答", "文档"]
    page.locator("#tether-language").click()
    page.get_by_text("New chat").wait_for()
    assert panel.inner_text() == "Evidence"
    assert page.get_by_role("tab").all_inner_texts()[:2] == ["Chat", "Documents"]
    page.get_by_text(EXAMPLES[1]).click()
    assert chat.last(".tether-answer").locator(".tether-badge").inner_text() == "部分有据"
    assert page.locator(".tether-found").first.inner_text().startswith("p. 3 · score 0.500")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    chat.choose("Documents")
    page.locator("#tether-documents p").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

    was_dark = page.evaluate("document.body.classList.contains('dark')")
    page.locator("#tether-colours").click()
    page.wait_for_function(f"document.body.classList.contains('dark') !== {json.dumps(was_dark)}")
    chat.open(url)
    assert page.evaluate("document.body.classList.contains('dark')") is not was_dark

    free.greets.clear()  # what is asked in the first instant ...
    page.goto(url)
    chat.ask(EXAMPLES[1])
    chat.last(".tether-answer")
    assert panel.inner_text() == "依据"  # ... is answered in the browser's language all the same
    free.greets.set()
    page.get_by_text("新对话").wait_for()

    free.go_on.clear()  # a language that is chosen while an answer comes ...
    chat.ask("When was the tall lighthouse built?")
    chat.last(".tether-draft")
    page.locator("#tether-language").click()
    page.get_by_text("New chat").wait_for()
    free.go_on.set()
    page.get_by_text("supported, 97%").wait_for()
    assert panel.inner_text() == "Evidence"  # ... is that of what comes next
    assert chat.is_clean()


def test_a_citation_opens_the_source_at_the_cited_characters(opener: Opener, home: Path) -> None:
    with make_service(home) as service:
        (home / "bridge.md").write_bytes(BRIDGE)
        assert not service.ingest([home / "bridge.md"]).failed
        chat = opener.open(opener.serve(service))
        chat.ask(QUESTION)
        chat.last(".tether-answer.is-supported")
        quote = chat.page.locator(".tether-passage mark").inner_text()
        with chat.page.expect_popup() as opened:
            chat.last("a.tether-source").click()
        source = opened.value
        source.locator("mark#cited").wait_for()
        assert source.locator("mark").inner_text() == quote
        assert source.locator("h1").inner_text() == "Bridges"
        assert chat.is_clean()


def test_photograph_shows_the_answer_at_the_size_of_the_picture(
    browser: "Browser", opener: Opener, free: ScriptedService, tmp_path: Path
) -> None:
    url, picture = opener.serve(free), tmp_path / "chat.png"
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
            listen("127.0.0.1", port)
    with pytest.raises(UsageError, match=r"cannot listen on 203\.0\.113\.1:7860 .*--host"):
        listen("203.0.113.1", 7860)


@pytest.mark.weights
def test_real_weights_answer_cite_and_abstain(
    opener: Opener, home: Path, e5_encoder: Encoder, gemma_gguf: Path, real_settings: Settings
) -> None:
    del gemma_gguf  # only there to be prepared, or to skip
    generator = build_generator(real_settings)
    settings = load_settings({"home": str(home)}, {})
    with Service(settings, encoder=e5_encoder, generator=generator) as service:
        knowledge = Path(__file__).resolve().parent.parent / "examples" / "knowledge"
        files = [knowledge / "language-models-en.md", knowledge / "language-models-zh.html"]
        assert not service.ingest(files).failed
        chat = opener.open(opener.serve(service))
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
            if words is None:
                assert "is-abstained" in (answer.get_attribute("class") or "")
                assert turn.locator("mark").count() == 0
                continue
            turn.locator("mark").first.wait_for()
            links = answer.locator(".tether-body a.tether-cite").all_inner_texts()
            cited = turn.locator(".is-cited .tether-number").all_inner_texts()
            # One link for each passage that a claim cites, and no written mark beside them.
            assert set(links) == {f"[{number}]" for number in cited}
            assert re.findall(r"\[\d+\]", answer.locator(".tether-body").inner_text()) == links
            assert answer.locator(".tether-verdict, .tether-caption").count()
            assert words in " ".join(turn.locator("mark").all_inner_texts())
        assert chat.is_clean()
