"""What an answer looks like, without a browser: spans, escaping, marks, languages."""

import html
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.page.evidence import (
    WORDS,
    Language,
    answer_html,
    cited_spans,
    draft_html,
    escape,
    evidence_html,
    location,
    notice_html,
)
from ingest.documents import Chunk
from model.answers import Answer, Citation, Claim, Status
from model.claims import marked
from retrieval.passages import Passage

TEXT = "塔高三十二米。Built in 1887, it still stands."
HOSTILE = "<img src=x onerror=alert(1)>\"'`</details><script>1</script>${x}{{y}}*b* $$z$$ [1](u)"


class Reading(HTMLParser):
    """Collects tags, attributes and the text inside one kind of element."""

    def __init__(self, markup: str) -> None:
        """Read `markup`."""
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.texts.append(data)

    def all(self, name: str) -> list[str | None]:
        """Return the values of an attribute."""
        return [value for key, value in self.attributes if key == name]

    @property
    def text(self) -> str:
        """Return all text."""
        return "".join(self.texts)


def passage(
    text: str = TEXT,
    number: int = 1,
    *,
    title: str = "Guide",
    heading: str = "A > B",
    page: int | None = 3,
    found_by: tuple[str, ...] = ("dense",),
) -> Passage:
    chunk = Chunk("c", "d", 50, 50 + len(text), text, heading, page)
    return Passage(number, chunk, title, "a.md", 0.25, found_by)


def cite(source: Passage, start: int, end: int) -> Citation:
    """Cite `start:end` of a passage's text."""
    offset = source.chunk.start
    quote = source.chunk.text[start:end]
    return Citation(source.number, "d", offset + start, offset + end, quote)


def answer(
    *claims: Claim,
    text: str | None = None,
    passages: tuple[Passage, ...] | None = None,
    status: Status = "supported",
) -> Answer:
    said = " ".join(claim.text for claim in claims) if text is None else text
    return Answer("?", said, claims, passages or (passage(), passage(number=2)), status)


def marks(markup: str) -> list[str]:
    return [html.unescape(mark) for _, mark in _marks(markup)]


def claims_of_marks(markup: str) -> list[str]:
    return [claims for claims, _ in _marks(markup)]


def _marks(markup: str) -> list[tuple[str, str]]:
    return re.findall(r'<mark data-claims="([\d ]+)">(.*?)</mark>', markup, re.DOTALL)


def links(markup: str) -> list[str | None]:
    return Reading(markup).all("href")


@given(st.text())
def test_escape_shows_exactly_the_text_and_nothing_else(text: str) -> None:
    escaped = escape(text)
    assert html.unescape(escaped) == re.sub("[\0\ud800-\udfff]", "\ufffd", text)
    assert not re.search(r"[<>\"'`*_$\[\]{}]", escaped)


def test_lone_surrogates_and_nul_become_the_replacement_character() -> None:
    assert escape("a\ud800b\0") == "a\ufffdb\ufffd"


@given(st.lists(st.tuples(st.integers(-5, 60), st.integers(-5, 60)), max_size=6))
def test_cited_spans_are_the_union_of_the_citations(spans: list[tuple[int, int]]) -> None:
    source = passage()
    citations = [Citation(1, "d", 50 + start, 50 + end, "") for start, end in spans]
    merged = cited_spans(source.chunk, citations)
    inside = range(len(TEXT))
    wanted = {at for start, end in spans for at in range(start, end) if at in inside}
    assert {at for start, end in merged for at in range(start, end)} == wanted
    assert all(left[1] < right[0] for left, right in pairwise(merged))


def test_marks_are_the_cited_characters_of_all_claims() -> None:
    source = passage()
    claims = (
        Claim("a", (cite(source, 0, 4), cite(source, 2, 6))),  # overlap
        Claim("b", (cite(source, 6, 7), cite(source, 16, 20))),  # adjacent; elsewhere
    )
    markup = evidence_html(answer(*claims), "en")
    assert marks(markup) == [TEXT[0:6], TEXT[6:7], TEXT[16:20]]
    assert claims_of_marks(markup) == ["1", "2", "2"]
    assert TEXT in Reading(markup).text


def test_where_claims_overlap_a_mark_names_all_of_them() -> None:
    source, other = passage(), passage(number=2)
    claims = (
        Claim("a", (cite(source, 0, 6),)),
        Claim("b", (cite(source, 3, 9), cite(other, 0, 2))),
        Claim("c", ()),
        Claim("d", (cite(source, 4, 6),)),
    )
    markup = evidence_html(answer(*claims), "en")
    assert marks(markup) == [TEXT[0:3], TEXT[3:4], TEXT[4:6], TEXT[6:9], TEXT[0:2]]
    assert claims_of_marks(markup) == ["1", "1 2", "1 2 4", "2", "2"]
    said = links(answer_html(answer(*claims), "en"))
    assert said == ["#passage-1-1:1", "#passage-1-1:2", "#passage-2-1:2", "#passage-1-1:4"]


def test_a_citation_marks_only_its_own_passage_and_folds_the_others() -> None:
    markup = evidence_html(answer(Claim("a", (cite(passage(number=2), 0, 6),))), "en")
    first, second = markup.split("</details>")[:2]
    assert marks(first) == [] and marks(second) == [TEXT[:6]]
    assert " open>" not in first and " open>" in second


def test_passages_alone_are_open_and_unmarked() -> None:
    markup = evidence_html((passage(), passage(number=2)), "en")
    assert "<mark" not in markup
    assert markup.count(" open>") == 2


@pytest.mark.parametrize(
    ("language", "found"),
    [
        ("en", "p. 3 · score 0.250 · by meaning · by words"),
        ("zh", "第 3 页 · 得分 0.250 · 语义检索 · 词语检索"),
    ],
)
def test_card_names_its_origin(language: Language, found: str) -> None:
    source = passage(found_by=("dense", "lexical"), heading="Coast > Lamp")
    reading = Reading(evidence_html((source,), language))
    assert reading.texts == ["1", "Guide", "Coast › Lamp", found, TEXT]
    assert "passage-1-1" in reading.all("id")


@pytest.mark.parametrize(
    ("place", "english", "chinese"),
    [
        ("", "", ""),
        ("slide 3", "slide 3", "幻灯片 3"),
        ("sheet Sales rows 2-40", "sheet Sales, rows 2-40", "工作表 Sales，第 2-40 行"),
        ("sheet 收支 rows rows 2", "sheet 收支 rows, rows 2", "工作表 收支 rows，第 2 行"),
        ("rows 7", "rows 7", "第 7 行"),
        ("lines 10-52", "lines 10-52", "第 10-52 行"),
        ("chapter 2", "chapter 2", "第 2 章"),
        ("somewhere else", "somewhere else", "somewhere else"),
    ],
)
def test_a_place_is_named_in_both_languages(place: str, english: str, chinese: str) -> None:
    chunk = Chunk("d:0-1", "d", 0, 1, "a", place=place)
    assert (location(chunk, "en"), location(chunk, "zh")) == (english, chinese)


def test_no_page_no_heading_no_passage() -> None:
    assert "p. " not in evidence_html((passage(page=None, heading=""),), "en")
    assert "没有找到" in evidence_html((), "zh")


@pytest.mark.parametrize(
    ("language", "claims", "said"),
    [
        (
            "en",
            ("It is tall.", "Is it old?"),
            "SupportedIt is tall.[1][2]supported, 93% Is it old?[1][2]supported, 93%",
        ),
        (
            "zh",
            ("塔很高。", "塔很旧！"),
            "有据塔很高。[1][2]有据，93%塔很旧！[1][2]有据，93%",
        ),
    ],
)
def test_a_claim_with_a_full_stop_has_one_link_per_passage(
    language: Language, claims: tuple[str, str], said: str
) -> None:
    one, two = passage(), passage(number=2)
    cited = (cite(two, 0, 4), cite(one, 0, 4), cite(one, 7, 12))
    found = answer(
        *(Claim(text, cited, 0.934) for text in claims),
        text="".join(marked(text, [2, 1]) for text in claims),  # as the assistant writes it
    )
    reading = Reading(answer_html(found, language, key="7"))
    assert reading.text == said
    assert reading.all("href") == [
        f"#passage-{number}-7:{claim}" for claim in (1, 2) for number in (1, 2)
    ]
    assert reading.all("class").count("tether-claim is-judged") == 2
    cards = Reading(evidence_html(found, language, key="7")).all("id")
    assert cards == ["passage-1-7", "passage-2-7"]


def test_only_a_verified_citation_becomes_a_link() -> None:
    claim = Claim("It is tall [2] [9].", (cite(passage(), 0, 4),))
    markup = answer_html(answer(claim), "en")
    assert links(markup) == ["#passage-1-1:1"]
    assert Reading(markup).text == "SupportedIt is tall [2] [9].[1]supported, 0%"


@pytest.mark.parametrize(
    ("language", "caption"), [("en", "Quoted word for word"), ("zh", "原文引用")]
)
def test_a_quotation_is_a_block_of_the_cited_words(language: Language, caption: str) -> None:
    quoted = Claim(TEXT, (cite(passage(), 0, len(TEXT)),), 1.0, is_quotation=True)
    found = answer(quoted, text=marked(f"“{TEXT}”", [1]))  # as the assistant writes it
    reading = Reading(answer_html(found, language))
    assert reading.texts[1:] == [TEXT, "[1]", caption]
    assert reading.tags.count("blockquote") == 1
    assert caption not in answer_html(answer(Claim(TEXT, quoted.citations)), language)


@pytest.mark.parametrize(
    ("status", "english", "chinese"),
    [
        ("supported", "Supported", "有据"),
        ("partial", "Partly supported", "部分有据"),
        ("abstained", "Not in the documents", "文档未载"),
        ("unverified", "Unverified, from the model's memory", "未经核对，出自模型记忆"),
    ],
)
def test_status_badge(status: Status, english: str, chinese: str) -> None:
    given_answer = answer(text="x", status=status)
    badges: dict[Language, str] = {"en": english, "zh": chinese}
    for language, badge in badges.items():
        reading = Reading(answer_html(given_answer, language))
        assert reading.texts[:2] == [badge, "x"]
        assert f"tether-answer is-{status}" in reading.all("class")


@pytest.mark.parametrize(("language", "said"), [("en", "no answer"), ("zh", "没有回答")])
def test_a_model_that_said_nothing_is_told_to_have_done_so(language: Language, said: str) -> None:
    for text in ("", " \n"):
        silent = answer(text=text, status="unverified")
        assert Reading(answer_html(silent, language)).texts[1:] == [said]


def test_every_status_has_words_in_both_languages() -> None:
    for words in WORDS.values():
        assert set(get_args(Status)) <= set(words)
    assert set(WORDS["en"]) == set(WORDS["zh"])


def test_an_unverified_claim_shows_no_support() -> None:
    markup = answer_html(answer(Claim("It is tall."), status="unverified"), "en")
    assert Reading(markup).texts[1:] == ["It is tall.", "not checked"]


def test_words_read_in_a_document_are_called_so() -> None:
    claim = Claim("tall", (cite(passage(), 0, 4),), 0.876, is_span=True)
    assert Reading(answer_html(answer(claim), "en")).texts[-1] == "in the document's words, 88%"
    assert Reading(answer_html(answer(claim), "zh")).texts[-1] == "文档原话，88%"


def test_an_abstention_says_what_was_sought_and_what_came_nearest() -> None:
    sources = tuple(passage(number=number) for number in range(1, 6))
    silent = answer(text="Nothing.", status="abstained", passages=sources)
    reading = Reading(answer_html(silent, "en", key="3"))
    assert reading.text == (
        "Not in the documentsNothing.Looked for: ?What comes nearest:"
        "[1] Guide · p. 3[2] Guide · p. 3[3] Guide · p. 3"
    )
    assert reading.all("href") == ["#passage-1-3", "#passage-2-3", "#passage-3-3"]
    empty = Answer("?", "Nothing.", (), (), "abstained")
    assert Reading(answer_html(empty, "zh")).texts[-1] == "查找的是：?"


def test_a_rewritten_question_and_rejected_sentences_are_shown_as_text() -> None:
    markup = answer_html(answer(Claim("a")), "en", asked=HOSTILE, rejected=["b", HOSTILE])
    reading = Reading(markup)
    assert f"Asked as: {HOSTILE}" in reading.text
    assert reading.tags.count("s") == 2 and "script" not in reading.tags
    assert "the documents do not support it: 2" in reading.text


def test_a_card_links_to_where_its_document_is_cited_first() -> None:
    source = passage(number=2)
    found = answer(Claim("a", (cite(source, 9, 14), cite(source, 2, 5))))

    def link(shown: Passage, start: int, end: int) -> str:
        return f'/at/{shown.number}?"{start}-{end}'

    addresses = links(evidence_html(found, "en", link=link))
    assert addresses == [f'/at/1?"50-{50 + len(TEXT)}', '/at/2?"52-55']


def test_draft_is_marked_as_one() -> None:
    assert Reading(draft_html("a\nb", "en")).texts == ["Draft, being checked", "a", "b"]
    assert Reading(draft_html("a", "zh")).texts == ["草稿，核对中", "a"]
    assert Reading(draft_html("a", "en", stopped=True)).texts == ["Stopped, never checked", "a"]


def test_hostile_text_forms_no_markup() -> None:
    source = passage(HOSTILE, title=HOSTILE, heading=HOSTILE)
    claim = Claim(HOSTILE, (cite(source, 0, len(HOSTILE)),))
    hostile = answer(claim, passages=(source,))
    evidence = Reading(evidence_html(hostile, "en", key='"><b>'))
    said = Reading(answer_html(hostile, "en", key='"><b>'))
    assert set(evidence.tags) == {"details", "summary", "span", "div", "mark"}
    assert set(said.tags) == {"div", "span", "sup", "a", "small"}
    assert {name for name, _ in (*evidence.attributes, *said.attributes)} == {
        "class", "id", "open", "title", "href", "lang", "data-claims",
    }  # fmt: skip
    assert evidence.text.count(HOSTILE) == 3
    for markup in (draft_html(HOSTILE, "zh"), notice_html(HOSTILE, "question")):
        assert set(Reading(markup).tags) <= {"div", "span"}
        assert HOSTILE in Reading(markup).text


@given(st.text(alphabet="ab \r\n"))
def test_chat_html_is_one_line(text: str) -> None:
    markup = answer_html(answer(Claim(text), text=text), "en") + draft_html(text, "en")
    assert not set(markup) & {"\n", "\r"}
