"""What the tests of the page share: a service that follows a script, and a page in a browser."""

import re
import threading
from collections.abc import Generator as Yielding
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from app.http.server import build_app
from app.page.page import mount_page
from app.service import Service, Waiting
from app.settings import load_settings
from app.users import LOCAL, Person
from ingest.documents import Chunk, chunk_id, content_id
from ingest.errors import GeneratorError
from model.answers import Answer, Citation, Claim
from model.assistant import Drafted, Event, Finished, Retrieved
from model.claims import marked
from model.generators import ScriptedGenerator
from model.verifier import OverlapVerifier
from retrieval.encoders import HashingEncoder
from retrieval.passages import Passage
from retrieval.store import CollectionInfo
from tests.serving_parts import served
from tests.test_verifier import plain_calibration

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

HOSTILE = (
    '<img src=x onerror="window.__xss=1"><script>window.__xss=2</script>'
    "{{value}} ${window.__xss=3} **bold** [link](javascript:alert(1)) $$x^2$$"
)
ENGLISH = "The lighthouse was built in 1887. Its lamp burns whale oil no more."
CHINESE = "灯塔建于一八八七年。塔高三十二米，夜间灯光可达二十海里。"
LEFT_OUT = "It was painted green."
PATIENCE = 120_000  # milliseconds: a busy machine is slow, not broken


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


class ScriptedService(Service):
    """Real but for its answers: those follow a script, and wait for `go_on` after the draft."""

    def __init__(self, home: Path) -> None:
        """Start with the answers held back."""
        encoder = HashingEncoder()
        flags = {"home": str(home), "encoder.model": "hashing", "generator.backend": "none"}
        super().__init__(
            load_settings(flags, {}),
            encoder=encoder,
            generator=ScriptedGenerator(),
            verifier=OverlapVerifier(encoder, plain_calibration()),
        )
        self.go_on = threading.Event()
        self.greets = threading.Event()  # a page that is opened cannot be greeted while it is clear
        self.greets.set()
        self.was_closed = threading.Event()
        self.asked: list[tuple[str, int | None]] = []

    def collections(self, *, person: Person = LOCAL) -> list[CollectionInfo]:
        """Return the collections, which every greeting names."""
        self.greets.wait(60)
        return super().collections(person=person)

    def ask(
        self,
        question: str,
        *,
        collection: str | None = None,
        top_k: int | None = None,
        owner: str = "",
        **_: object,
    ) -> Yielding[Waiting | Event, None, None]:
        """Yield the events of the script that the question names."""
        assert owner and collection
        self.asked.append((question, top_k))
        if "busy" in question:
            while not self.go_on.wait(0.05):
                yield Waiting(2)
        found = (passage(1, ENGLISH, 100), passage(2, CHINESE, title="海岸手册"))
        if "hostile" in question:
            found = (passage(1, HOSTILE, title=HOSTILE, heading=HOSTILE), *found[1:])
        yield Retrieved(found)
        if "broken" in question:
            raise GeneratorError("the generator stopped; start it again")
        if "bug" in question:
            raise ZeroDivisionError
        yield from self._drafted(self.answer(question, found))

    def _drafted(self, answer: Answer) -> Iterator[Event]:
        try:
            for piece in re.split(r"(?<=[ ，])", answer.text):
                yield Drafted(piece)
            yield Drafted(f" {LEFT_OUT}")
            while not self.go_on.wait(0.05):
                yield Drafted("")
        finally:
            self.was_closed.set()
        yield Finished(answer)

    def answer(self, question: str, found: tuple[Passage, ...]) -> Answer:
        """Return the verified answer that ends the script."""
        if "hostile" in question:
            claim = Claim(HOSTILE, (cite(found[0], HOSTILE),), 0.8, is_quotation=True)
        elif "lamp" in question:
            first, second = ENGLISH.split(". ")
            year = Claim("In 1887.", (cite(found[0], first),), 0.97)
            return Answer(
                question,
                "In 1887. Not oil.",
                (year, Claim("Not oil.", (cite(found[0], second),), 0.96)),
                found,
                "supported",
            )
        elif "灯塔" in question:
            claim = Claim("塔高三十二米。", (cite(found[1], "塔高三十二米"),), 0.97, is_span=True)
        elif "lighthouse" in question:
            quote = "The lighthouse was built in 1887."
            claim = Claim("It was built in 1887.", (cite(found[0], quote),), 0.97)
        else:
            text = "The documents do not say." if question.isascii() else "文档中没有记载。"
            return Answer(question, text, (), found, "abstained")
        words = f"“{claim.text}”" if claim.is_quotation else claim.text
        text = marked(words, [citation.passage_number for citation in claim.citations])
        return Answer(question, text, (claim,), found, "partial")


class ShownPage:
    """A browser's page, and what a test wants to know about it."""

    def __init__(self, page: "Page", url: str) -> None:
        """Open `url`, keeping every request the page makes and every error it reports."""
        self.page = page
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "console", lambda said: self.errors.append(said.text) if said.type == "error" else None
        )
        self.open(url)

    def open(self, url: str) -> None:
        """Go to an address and wait until the page speaks the browser's language."""
        self.page.goto(url)
        self.page.locator("#tether-list .tether-nothing, #tether-list ul").first.wait_for()

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

    def wait_for_value(self, box: "Locator", value: str) -> None:
        """Wait until this stands in a box."""
        from playwright.sync_api import expect

        expect(box).to_have_value(value, timeout=PATIENCE)

    def wait_for_none(self, parts: "Locator") -> None:
        """Wait until none of these is left: the page draws what an event changed part by part."""
        from playwright.sync_api import expect

        expect(parts).to_have_count(0, timeout=PATIENCE)

    def choose(self, tab: str) -> None:
        """Go to a tab by its name."""
        self.page.get_by_role("tab", name=tab).click()

    def answer_dialogs(self, text: str | None = None) -> None:
        """Say yes to whatever the page asks, with this text if it asks for one."""
        self.page.on("dialog", lambda dialog: dialog.accept(text) if text else dialog.accept())

    def is_clean(self) -> bool:
        """Tell whether no request left this machine, no script ran and no error was reported."""
        hosts = ("127.0.0.1", "")  # data: and blob: have no host
        outside = [url for url in self.requests if (urlsplit(url).hostname or "") not in hosts]
        assert outside == []
        assert self.errors == []
        assert self.page.evaluate("window.__xss === undefined")
        assert self.page.locator("img[onerror], a[href^=javascript]").count() == 0
        return True


class Opener:
    """Serves services and opens their pages; in a `with`, it ends all of them."""

    def __init__(self, browser: "Browser") -> None:
        """Use this browser."""
        self._browser = browser
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close pages and servers, the last one first."""
        self._stack.close()

    def serve(self, service: Service, examples: Sequence[str] = ()) -> str:
        """Serve a service until the end, and return the page's address."""
        app = build_app(service, mount=lambda app: mount_page(app, service, examples=examples))
        return self._stack.enter_context(served(app))

    def open(self, url: str, **options: Any) -> ShownPage:  # noqa: ANN401 - of a browser's context
        """Open a page of a fresh browser context."""
        options = {"locale": "en-US", "viewport": {"width": 1280, "height": 844}} | options
        context = self._stack.enter_context(_closing(self._browser.new_context(**options)))
        context.set_default_timeout(PATIENCE)
        return ShownPage(context.new_page(), url)


@contextmanager
def _closing(context: "BrowserContext") -> Iterator["BrowserContext"]:
    try:
        yield context
    finally:
        context.close()
