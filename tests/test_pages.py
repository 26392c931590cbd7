"""Reports: nothing loads, nothing runs, nothing is lost, in HTML, in Markdown and in a browser."""

import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt

from eval.pages import (
    Block,
    Commands,
    Cost,
    Costs,
    Figure,
    Page,
    Said,
    Sample,
    Section,
    SideBySide,
    Table,
    Text,
    html,
    markdown,
    seconds,
)
from eval.plots import Axis, Bar, Group, Line, Point, Series, bars, curves, frontier
from eval.statistics import Estimate, wilson

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Request

HOSTILE = (
    '</title></style></svg></code></td><script>window.__xss=1</script><img src=x onerror="__xss=2">'
    '" onmouseover="__xss=3" | a | `b` ``` ![i](http://evil.example/i.png) [l](javascript:alert(1))'
    " <http://evil.example> http://evil.example www.evil.example **bold** $x$ &lt; \x00\ud800"
)
EMPTY = {"meta", "br", "img", "hr", "link", "input", "base"}
RIGHT, WRONG = Said("Ola Fenn", is_right=True), Said("Nobody knows.", is_right=False)


class Reader(HTMLParser):
    """Reads a page: its tags with their attributes, its text, its headings; checks the nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def values(self, name: str) -> list[str | None]:
        return [attrs[name] for _, attrs in self.tags if name in attrs]


def series(*names: str) -> list[Series]:
    return [
        Series(
            name,
            tuple(
                Point(
                    wilson(4 + 9 * k + 3 * n, 60),
                    wilson(50 - 14 * k + 3 * n, 60),
                    f"{k + 1} epochs",
                )
                for k in range(3)
            ),
        )
        for n, name in enumerate(names)
    ]


def report(word: str = "RAG") -> Page:
    """Return a page with a block of each kind; `word` stands in every place that takes text."""
    arms = (word, "LoRA r=16")
    dead = Series("full", (Point(math.nan, 0.5),))
    plot = frontier(
        {"English": [*series(*arms), dead], "中文": series(*arms)}, Axis(word), Axis("kept")
    )
    groups = [
        Group(word, (Bar("en", wilson(30, 40)), Bar("zh", wilson(20, 40)))),
        Group("仅干扰段落", (Bar("en", wilson(3, 40)), Bar("zh", wilson(0, 40)))),
    ]
    rows = (
        (word, wilson(55, 60), 12, Estimate(31.5, 20.25, 44.0, 60, 30)),
        ("LoRA", Estimate(0.5, math.nan, math.nan, 4, 1), 3.25, None),
        ("full", wilson(0, 0), math.nan, Estimate(math.nan, math.nan, math.nan, 9, 3)),
    )
    samples = (
        Sample(f"Who designed {word}?", "Ola Fenn", (RIGHT, WRONG)),
        Sample("谁设计了扎尼斯大桥？", "林望舒", (Said(word, is_right=True), Said("")), "zh"),
        Sample("When?", "1931", (None, Said("1931"))),
    )
    blocks: tuple[Block, ...] = (
        Figure("Frontier", plot.svg, f"Up is better. {word}", word, plot.left_out),
        Text(f"First.\n\nSecond {word}", word),
        Table("Arms", ("arm", "right", "n", word), rows, word),
        Section(
            f"各方案 {word}",
            (
                Figure(
                    "Bars",
                    bars({"": groups}, Axis("right"), line=Line(0.1, "chance")).svg,
                    "b",
                    "b",
                ),
                Figure(
                    "Curves", curves({"": series(*arms)}, Axis("step"), Axis("loss")).svg, "c", "c"
                ),
                Text("中文说明。"),
                Section("更深", (Text("底"),)),
            ),
            "zh",
        ),
        SideBySide("Worst samples", arms, samples, word),
        Costs((Cost(word, None, 3.2, 0.45, 0.5), Cost("LoRA", 754.0, None, math.nan, 60.0))),
        Commands(("tether eval answers --seed 0", f"echo '{word}'")),
    )
    return Page(f"Retrieve or fine-tune? {word}", "en", f"Retrieve. {word}", blocks, word)


@pytest.fixture(scope="module")
def plain() -> Reader:
    return Reader(html(report()))


@pytest.fixture(scope="module")
def hostile() -> Reader:
    return Reader(html(report(HOSTILE)))


def test_equal_pages_give_equal_bytes() -> None:
    assert html(report()).encode() == html(report()).encode()
    assert markdown(report(), "files") == markdown(report(), "files")


def test_everything_said_is_there(plain: Reader) -> None:
    for told in (
        "0.917 [0.819, 0.964] n=60", "0.500 [?] n=4", "31.5 [20.2, 44.0] n=60", "12", "3.250",
        "no number", "–", "✓ right", "✗ wrong", "not judged", "(no answer)", "Expected: Ola Fenn",
        "12.6 min", "450 ms", "How to reproduce", "What it costs", "3 epochs", "chance",
        "仅干扰段落",
        "Not drawn, for want of a number: English · full",
    ):  # fmt: skip
        assert told in plain.text, told
    assert plain.text.index("Retrieve. RAG") < plain.text.index("Up is better")


def test_headings_nest_and_languages_are_told(plain: Reader) -> None:
    levels = [int(tag[1]) for tag, _ in plain.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert max(levels) == 3
    assert plain.tags[0] == ("html", {"lang": "en"})
    assert [attrs["lang"] for tag, attrs in plain.tags if tag == "section" and "lang" in attrs] == [
        "zh"
    ]
    assert [attrs.get("lang") for tag, attrs in plain.tags if tag == "p"].count(
        "zh"
    ) == 1  # a question


@pytest.mark.parametrize("which", ["plain", "hostile"])
def test_nothing_loads_and_nothing_runs(which: str, request: pytest.FixtureRequest) -> None:
    reader: Reader = request.getfixturevalue(which)
    assert not {tag for tag, _ in reader.tags} & {
        "script",
        "img",
        "link",
        "a",
        "iframe",
        "base",
        "form",
    }
    assert reader.values("src") == []
    assert all(str(value).startswith("#") for value in reader.values("href"))
    assert not [name for _, attrs in reader.tags for name in attrs if name.startswith("on")]
    styles = " ".join(str(value) for value in reader.values("style"))
    assert re.findall(r"url\((?!#)", styles) == []


def test_ids_are_unique_and_all_that_is_referred_to_is_there(plain: Reader) -> None:
    ids = plain.values("id")
    assert len(set(ids)) == len(ids)
    used = [str(value)[1:] for value in plain.values("href")]
    used += re.findall(r"url\(#([^)]+)\)", str([attrs for _, attrs in plain.tags]))
    used += [str(value) for value in plain.values("aria-labelledby")]
    assert len({one.split("-")[1] for one in used if one.startswith("block-")}) > 3
    assert set(used) <= set(ids)


def test_hostile_text_stays_text(hostile: Reader) -> None:
    said = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert hostile.text.count(said) >= 12
    assert [tag for tag, _ in hostile.tags].count(
        "title"
    ) > 1  # of the page and of marks in figures
    html(report(HOSTILE)).encode("utf-8")


def test_hostile_markdown_stays_text() -> None:
    text, pictures = markdown(report(HOSTILE), "report files")
    text.encode("utf-8")
    tokens = list(walk(text))
    kinds = {kind for kind, _ in tokens}
    assert not kinds & {"html_block", "html_inline", "link_open", "bullet_list_open", "code_inline"}
    assert [kind for kind, _ in tokens].count("strong_open") == 1  # the verdict
    images = [word for kind, word in tokens if kind == "image"]
    assert images == [f"report%20files/{name}" for name in pictures]
    assert [kind for kind, _ in tokens].count("th_open") == 4 + 4 + 5
    assert [kind for kind, _ in tokens].count("td_open") == 4 * 3 + 4 * 3 + 5 * 2
    assert [kind for kind, _ in tokens].count("fence") == 1


@pytest.mark.parametrize(
    "text",
    ["- item", "+ item", "1. item", "12) item", "# head", "> said", "===", "---", "    code"],
)
def test_no_paragraph_becomes_anything_else(text: str) -> None:
    page = Page("t", "en", "v", (Text("before\n\n" + text),))
    kinds = [kind for kind, _ in walk(markdown(page)[0])]
    assert kinds.count("paragraph_open") == 3
    assert kinds.count("heading_open") == 1
    assert "".join(word for kind, word in walk(markdown(page)[0]) if kind == "text").endswith(
        text.strip()
    )


def walk(text: str) -> Iterator[tuple[str, str]]:
    """Yield the kind of each token of Markdown, and its words or its address."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for one in [token, *(token.children or [])]:
            yield one.type, str(one.attrGet("src") or one.content)


def test_markdown_says_the_same() -> None:
    text, pictures = markdown(report(), "files")
    assert list(pictures) == ["figure-1-frontier.svg", "figure-2-bars.svg", "figure-3-curves.svg"]
    assert all(
        svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"') for svg in pictures.values()
    )
    assert "| RAG | 0.917 \\[0.819, 0.964\\] n=60 | 12 | 31.5 \\[20.2, 44.0\\] n=60 |" in text
    assert "| RAG | – | 3.2 s | 450 ms | 500 ms |" in text
    assert "✗ wrong: Nobody knows." in text
    assert "```sh\ntether eval answers --seed 0\necho 'RAG'\n```" in text
    assert "\n## 各方案 RAG\n\n### Bars\n" in text
    assert "\n### 更深\n" in text


def test_words_follow_the_language_of_the_block() -> None:
    costs = Costs((Cost("a", 1.0),), language="zh")
    said = Reader(html(Page("t", "en", "v", (costs, Commands(("a",))))))
    assert "代价 方案 训练 a 1 s How to reproduce a" in said.text


@pytest.mark.parametrize(
    "svg",
    [
        "<svg><script/></svg>",
        "<svg><g onload='x()'/></svg>",
        "<svg><use href='http://evil.example/a.svg#b'/></svg>",
        "<svg><a href='#x'/></svg>",
        "<svg><g style='fill: url(http://evil.example)'/></svg>",
        "<svg><g style=\"fill: url('//evil.example')\"/></svg>",
        "<svg><g style='fill: u\\72l(//evil.example)'/></svg>",
        "<svg><foreignObject/></svg>",
        '<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>',
        "<svg>",
    ],
)
def test_only_pictures_are_figures(svg: str) -> None:
    page = Page("t", "en", "v", (Figure("f", svg, "c", "a"),))
    with pytest.raises(ValueError, match="figure"):
        html(page)
    with pytest.raises(ValueError, match="figure"):
        markdown(page)


def test_rows_must_fit() -> None:
    with pytest.raises(ValueError, match="'T' does not fit"):
        Table("T", ("a", "b"), (("x",),))
    with pytest.raises(ValueError, match="'S' does not fit"):
        SideBySide("S", ("a",), (Sample("q", "e", ()),))


def test_empty_blocks_are_pages_too() -> None:
    page = Page("t", "zh", "v", (Table("T", (), ()), SideBySide("S", (), ()), Costs(()), Text("")))
    assert "代价" in Reader(html(page)).text
    assert markdown(page)[1] == {}


def test_durations() -> None:
    assert [seconds(one) for one in (0.0123, 1, 90, 5400)] == ["12.3 ms", "1 s", "1.5 min", "1.5 h"]


@pytest.mark.browser
@pytest.mark.parametrize("word", ["RAG", HOSTILE], ids=["plain", "hostile"])
def test_a_browser_shows_it_in_light_and_dark_on_phone_and_desk(
    browser: "Browser", tmp_path: Path, word: str
) -> None:
    file = tmp_path / "report.html"
    file.write_text(html(report(word)), "utf-8")
    grounds = set()
    for width in (390, 1200):
        page = browser.new_page(viewport={"width": width, "height": 900})
        asked: list[str] = []

        def note(request: "Request", into: list[str] = asked) -> None:
            into.append(request.url)

        page.on("request", note)
        page.goto(file.as_uri())
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("window.__xss === undefined")
        assert asked == [file.as_uri()]
        page.close()
    assert len(grounds) == 2
