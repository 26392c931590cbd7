"""What an answer looks like: pure functions from nouns to HTML.

Everything that came from outside (question, answer, titles, document text) passes `escape` and so
stays text: no tag, no Markdown, no template is ever formed from it. Knows nothing of Gradio, of
where the HTML is shown, or of how an answer came about.
"""

import re
import string
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal

from ingest.documents import Chunk
from model.answers import Answer, Citation, Claim
from retrieval.passages import Passage

Language = Literal["zh", "en"]

SHOWN_NEAREST = 3  # passages that an abstention names

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "supported": "Supported",
        "partial": "Partly supported",
        "abstained": "Not in the documents",
        "unverified": "Unverified, from the model's memory",
        "draft": "Draft, being checked",
        "stopped": "Stopped, never checked",
        "quotation": "Quoted word for word",
        "read": "in the document's words, {percent}%",
        "judged": "supported, {percent}%",
        "unchecked": "not checked",
        "rejected": "Left out, because the documents do not support it:",
        "asked": "Asked as: {question}",
        "sought": "Looked for: {question}",
        "nearest": "What comes nearest:",
        "open": "Open the source at this place",
        "page": "p. {page}",
        "slide": "slide {which}",
        "sheet": "sheet {which}",
        "rows": "rows {which}",
        "cell": "cell {which}",
        "chapter": "chapter {which}",
        "lines": "lines {which}",
        "entry": "entry {which}",
        "score": "score {score}",
        "dense": "by meaning",
        "lexical": "by words",
        "given": "given",
        "cited": "cited",
        "nothing": "No passage was found for this question.",
        "silent": "no answer",
    },
    "zh": {
        "supported": "有据",
        "partial": "部分有据",
        "abstained": "文档未载",
        "unverified": "未经核对，出自模型记忆",
        "draft": "草稿，核对中",
        "stopped": "已停止，未经核对",
        "quotation": "原文引用",
        "read": "文档原话，{percent}%",
        "judged": "有据，{percent}%",
        "unchecked": "未经核对",
        "rejected": "因文档不支持而略去：",
        "asked": "按此提问：{question}",
        "sought": "查找的是：{question}",
        "nearest": "最接近的内容：",
        "open": "在原文中打开此处",
        "page": "第 {page} 页",
        "slide": "幻灯片 {which}",
        "sheet": "工作表 {which}",
        "rows": "第 {which} 行",
        "cell": "单元 {which}",
        "chapter": "第 {which} 章",
        "lines": "第 {which} 行",
        "entry": "第 {which} 条",
        "score": "得分 {score}",
        "dense": "语义检索",
        "lexical": "词语检索",
        "given": "直接提供",
        "cited": "已引用",
        "nothing": "没有找到与此问题相关的段落。",
        "silent": "没有回答",
    },
}

# Numeric references for all ASCII punctuation are a superset of html.escape: they also disarm
# Markdown, LaTeX and the `${}` and `{{}}` of templates, whichever of these reads the HTML later.
# NUL and lone surrogates cannot travel to a browser and become the replacement character.
_ESCAPES: dict[int, str] = {
    **{ord(mark): f"&#{ord(mark)};" for mark in string.punctuation},
    **dict.fromkeys([0, *range(0xD800, 0xE000)], "\ufffd"),
}


def escape(text: str) -> str:
    """Return HTML that shows exactly `text`, in an element or a quoted attribute."""
    return text.translate(_ESCAPES)


def cited_spans(chunk: Chunk, citations: Iterable[Citation]) -> list[tuple[int, int]]:
    """Return the cited spans as sorted, disjoint offsets in `chunk.text`.

    Overlapping and adjacent citations become one span; what lies outside the chunk is cut off.
    """
    spans: list[tuple[int, int]] = []
    for citation in sorted(citations, key=lambda citation: citation.start):
        start = max(citation.start - chunk.start, 0)
        end = min(citation.end - chunk.start, len(chunk.text))
        if start >= end:
            continue
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def cited_pieces(passage: Passage, claims: Sequence[Claim]) -> list[tuple[int, int, list[int]]]:
    """Return the cited characters of a passage, cut wherever other claims begin or cease to cite.

    Sorted, disjoint offsets in the passage's text, each with the numbers of its claims, from 1.
    """
    spans = {
        number: cited_spans(passage.chunk, _of(passage, claim.citations))
        for number, claim in enumerate(claims, start=1)
    }
    edges = sorted({edge for own in spans.values() for span in own for edge in span})
    pieces = []
    for start, end in pairwise(edges):
        if numbers := [n for n, own in spans.items() if any(a <= start < b for a, b in own)]:
            pieces.append((start, end, numbers))
    return pieces


SourceLink = Callable[[Passage, int, int], str]  # (passage, start, end) -> address of that place


def evidence_html(
    shown: Answer | Sequence[Passage],
    language: Language,
    *,
    key: str = "1",
    link: SourceLink | None = None,
) -> str:
    """Return one card a passage, the cited characters in `<mark>`, which names their claims.

    Args:
        shown: a verified answer, or only the passages while there is none yet.
        language: of the labels; the passages stay as they are.
        key: tells several answers on one page apart; the n-th card has the id `passage-n-key`.
        link: where the source can be read at a place, None if nowhere.
    """
    passages = shown.passages if isinstance(shown, Answer) else shown
    claims = shown.claims if isinstance(shown, Answer) else ()
    if not passages:
        return f'<p class="tether-nothing">{WORDS[language]["nothing"]}</p>'
    return "".join(_card(passage, claims, language, key, link) for passage in passages)


def _source_html(
    passage: Passage, citations: Sequence[Citation], language: Language, link: SourceLink | None
) -> str:
    """Return the link that opens the source where it is cited first, else at the passage."""
    if link is None:
        return ""
    spans = cited_spans(passage.chunk, citations) or [(0, len(passage.chunk.text))]
    start, end = (passage.chunk.start + offset for offset in spans[0])
    return (
        f'<a class="tether-source" target="_blank" rel="noopener"'
        f' href="{escape(link(passage, start, end))}">{WORDS[language]["open"]}</a>'
    )


def _of(passage: Passage, citations: Sequence[Citation]) -> list[Citation]:
    """Return the citations of one passage."""
    return [
        citation
        for citation in citations
        if citation.passage_number == passage.number
        and citation.document_id == passage.chunk.document_id
    ]


def _card(
    passage: Passage,
    claims: Sequence[Claim],
    language: Language,
    key: str,
    link: SourceLink | None,
) -> str:
    chunk = passage.chunk
    citations = [citation for claim in claims for citation in claim.citations]
    own = _of(passage, citations)
    # Once an answer cites something, the passages it does not rely on fold away.
    state = " open" if own or not citations else ""
    cited = f'<span class="tether-cited">{WORDS[language]["cited"]}</span>' if own else ""
    heading = escape(" › ".join(part for part in chunk.heading.split(" > ") if part))
    return (
        f'<details class="tether-passage{" is-cited" if own else ""}" '
        f'id="passage-{passage.number}-{escape(key)}"{state}>'
        f'<summary title="{escape(passage.uri)}">'
        f'<span class="tether-number">{passage.number}</span>'
        f'<span class="tether-origin"><span class="tether-title">{escape(passage.title)}</span>'
        f'<span class="tether-heading">{heading}</span>'
        f'<span class="tether-found">{_found(passage, language)}</span></span>{cited}</summary>'
        f'<div class="tether-text">{_marked(passage, claims)}</div>'
        f"{_source_html(passage, own, language, link)}</details>"
    )


def location(chunk: Chunk, language: Language) -> str:
    """Return where in its document a chunk stands, in words: "p. 3", "sheet Sales, rows 2-40"."""
    words = WORDS[language]
    if chunk.page:
        return words["page"].format(page=chunk.page)
    unit, _, which = chunk.place.partition(" ")
    if unit not in words:
        return chunk.place
    sheet, _, rows = which.rpartition(" rows ") if unit == "sheet" else ("", "", "")
    if not sheet:
        return words[unit].format(which=which)
    parts = (words["sheet"].format(which=sheet), words["rows"].format(which=rows))
    return ("，" if language == "zh" else ", ").join(parts)


def _found(passage: Passage, language: Language) -> str:
    """Return page, score and ways of finding, joined by middle dots."""
    words = WORDS[language]
    parts = [place] if (place := location(passage.chunk, language)) else []
    parts.append(words["score"].format(score=f"{passage.score:.3f}"))
    parts.extend(words.get(way, way) for way in passage.found_by)
    return escape(" · ".join(parts))


def _marked(passage: Passage, claims: Sequence[Claim]) -> str:
    text, pieces, cursor = passage.chunk.text, [], 0
    for start, end, numbers in cited_pieces(passage, claims):
        named = " ".join(map(str, numbers))
        pieces += [
            escape(text[cursor:start]),
            f'<mark data-claims="{named}">{escape(text[start:end])}</mark>',
        ]
        cursor = end
    return "".join([*pieces, escape(text[cursor:])])


def answer_html(
    answer: Answer,
    language: Language,
    *,
    key: str = "1",
    asked: str = "",
    rejected: Sequence[str] = (),
) -> str:
    """Return the verified answer: status badge, claims, and marks `[n]` that lead to the cards.

    One line without newlines, so that a Markdown reader passes it on as a single HTML block.

    Args:
        answer: what the assistant said.
        language: of the labels; the answer stays as it is.
        key: as `evidence_html` has it.
        asked: the question as it was rewritten, if it was.
        rejected: sentences of the draft that the verifier turned down.
    """
    badge = f'<span class="tether-badge">{WORDS[language][answer.status]}</span>'
    return (
        f'<div class="tether-answer is-{answer.status}" lang="{language}">{badge}'
        f"{asked_html(asked, language)}"
        f'<div class="tether-body">{_claims_html(answer, language, key)}</div>'
        f"{_nearest_html(answer, language, key)}{_rejected_html(rejected, language)}</div>"
    )


def asked_html(asked: str, language: Language) -> str:
    """Return how a question was rewritten, nothing if it was not."""
    if not asked:
        return ""
    line = WORDS[language]["asked"].format(question=asked)
    return f'<div class="tether-asked">{_lines(line)}</div>'


def _nearest_html(answer: Answer, language: Language, key: str) -> str:
    """Return what an abstention looked for, and links to the passages that came nearest."""
    if answer.status != "abstained":
        return ""
    words = WORDS[language]
    sought = _lines(words["sought"].format(question=answer.question))
    places = [
        f"<li>{_link(passage.number, key)} {escape(_origin(passage, language))}</li>"
        for passage in answer.passages[:SHOWN_NEAREST]
    ]
    nearest = f"<div>{words['nearest']}</div><ul>{''.join(places)}</ul>" if places else ""
    return f'<div class="tether-sought"><div>{sought}</div>{nearest}</div>'


def _origin(passage: Passage, language: Language) -> str:
    place = location(passage.chunk, language)
    return f"{passage.title} · {place}" if place else passage.title


def _rejected_html(rejected: Sequence[str], language: Language) -> str:
    if not rejected:
        return ""
    sentences = "".join(f"<li><s>{_lines(sentence)}</s></li>" for sentence in rejected)
    caption = WORDS[language]["rejected"]
    return (
        f'<details class="tether-rejected"><summary>{caption} {len(rejected)}</summary>'
        f"<ul>{sentences}</ul></details>"
    )


def _claims_html(answer: Answer, language: Language, key: str) -> str:
    """Return every claim with its links; the answer's text where there is no claim, if it has any.

    Links come from the verified citations alone: a `[n]` that someone wrote stays plain text, so
    that it cannot pass for a citation.
    """
    if not answer.claims and not answer.text.strip():  # a model may say nothing at all
        return f'<span class="tether-silent">{WORDS[language]["silent"]}</span>'
    if not answer.claims:
        return _lines(answer.text)
    space = "" if language == "zh" else " "
    return space.join(
        _claim_html(claim, place, language, key)
        for place, claim in enumerate(answer.claims, start=1)
    )


def _claim_html(claim: Claim, place: int, language: Language, key: str) -> str:
    """Return the claim at a place, a link to every passage it cites, and the verdict in words."""
    numbers = sorted({citation.passage_number for citation in claim.citations})
    links = "".join(f"<sup>{_link(number, key, place)}</sup>" for number in numbers)
    kind, verdict = _verdict(claim, language)
    body = f'<span class="tether-claim is-{kind}">{_lines(claim.text)}</span>{links}'
    if not claim.is_quotation:
        return f'{body}<small class="tether-verdict is-{kind}">{escape(verdict)}</small>'
    caption = f'<span class="tether-caption">{escape(verdict)}</span>'
    return f'<blockquote class="tether-quotation">{body}{caption}</blockquote>'


def _verdict(claim: Claim, language: Language) -> tuple[str, str]:
    """Return the kind of a verdict, which gives the colour, and the verdict in words."""
    words, percent = WORDS[language], round(100 * claim.support)
    if not claim.citations:  # nobody checked it, and a "0%" would say that somebody had
        return "unchecked", words["unchecked"]
    if claim.is_quotation:
        return "read", words["quotation"]
    if claim.is_span:
        return "read", words["read"].format(percent=percent)
    return "judged", words["judged"].format(percent=percent)


def _link(number: int, key: str, claim: int = 0) -> str:
    """Return the link to a passage's card; with the number of a claim, to what that claim cites.

    The claim stands in the address, for Gradio's chat lets no attributes of ours pass.
    """
    place = f"#passage-{number}-{escape(key)}" + (f":{claim}" if claim else "")
    return f'<a class="tether-cite" href="{place}">[{number}]</a>'


def _lines(text: str) -> str:
    return "<br>".join(escape(line) for line in re.split(r"\r\n?|\n", text))


def draft_html(text: str, language: Language, *, stopped: bool = False) -> str:
    """Return the unverified draft, plainly marked as one; `stopped` if it never will be checked."""
    label = WORDS[language]["stopped" if stopped else "draft"]
    return (
        f'<div class="tether-draft{" is-stopped" if stopped else ""}" lang="{language}">'
        f'<span class="tether-badge">{label}</span>'
        f'<div class="tether-body">{_lines(text)}</div></div>'
    )


def notice_html(text: str, kind: Literal["question", "waiting", "error", "note"]) -> str:
    """Return a question, that something is under way, an error, or a note, as one line."""
    return f'<div class="tether-{kind}">{_lines(text)}</div>'
