"""What an answer looks like: pure functions from nouns to HTML.

Everything that came from outside (question, answer, titles, document text) passes `escape` and so
stays text: no tag, no Markdown, no template is ever formed from it. Knows nothing of Gradio, of
where the HTML is shown, or of how an answer came about.
"""

import re
import string
from collections.abc import Iterable, Sequence
from typing import Literal

from ingest.documents import Chunk
from model.answers import Answer, Citation, Claim
from retrieval.passages import Passage

Language = Literal["zh", "en"]

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "supported": "Supported",
        "partial": "Partly supported",
        "abstained": "Not in the documents",
        "draft": "Draft, being checked",
        "stopped": "Stopped, never checked",
        "quotation": "Quoted word for word",
        "support": "Support {percent}%",
        "page": "p. {page}",
        "score": "score {score}",
        "dense": "by meaning",
        "lexical": "by words",
        "given": "given",
        "cited": "cited",
        "nothing": "No passage was found for this question.",
    },
    "zh": {
        "supported": "有据",
        "partial": "部分有据",
        "abstained": "文档未载",
        "draft": "草稿，核对中",
        "stopped": "已停止，未经核对",
        "quotation": "原文引用",
        "support": "支持度 {percent}%",
        "page": "第 {page} 页",
        "score": "得分 {score}",
        "dense": "语义检索",
        "lexical": "词语检索",
        "given": "直接提供",
        "cited": "已引用",
        "nothing": "没有找到与此问题相关的段落。",
    },
}

_MARK = re.compile(r"\[(\d{1,4})\]")

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


def language_of(text: str) -> Language:
    """Return "zh" if the text has a Chinese character, else "en"."""
    return "zh" if re.search(r"[\u3400-\u9fff]", text) else "en"


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


def evidence_html(shown: Answer | Sequence[Passage], language: Language, *, key: str = "1") -> str:
    """Return one card a passage, the cited characters in `<mark>`.

    Args:
        shown: a verified answer, or only the passages while there is none yet.
        language: of the labels; the passages stay as they are.
        key: tells several answers on one page apart; the n-th card has the id `passage-n-key`.
    """
    passages = shown.passages if isinstance(shown, Answer) else shown
    claims = shown.claims if isinstance(shown, Answer) else ()
    citations = [citation for claim in claims for citation in claim.citations]
    if not passages:
        return f'<p class="tether-nothing">{WORDS[language]["nothing"]}</p>'
    return "".join(_card(passage, citations, language, key) for passage in passages)


def _card(passage: Passage, citations: Sequence[Citation], language: Language, key: str) -> str:
    chunk = passage.chunk
    own = [
        citation
        for citation in citations
        if citation.passage_number == passage.number and citation.document_id == chunk.document_id
    ]
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
        f'<div class="tether-text">{_marked(chunk, own)}</div></details>'
    )


def _found(passage: Passage, language: Language) -> str:
    """Return page, score and ways of finding, joined by middle dots."""
    words = WORDS[language]
    parts = [words["page"].format(page=passage.chunk.page)] if passage.chunk.page else []
    parts.append(words["score"].format(score=f"{passage.score:.3f}"))
    parts.extend(words.get(way, way) for way in passage.found_by)
    return escape(" · ".join(parts))


def _marked(chunk: Chunk, citations: Sequence[Citation]) -> str:
    pieces, cursor = [], 0
    for start, end in cited_spans(chunk, citations):
        pieces += [
            escape(chunk.text[cursor:start]),
            f"<mark>{escape(chunk.text[start:end])}</mark>",
        ]
        cursor = end
    return "".join([*pieces, escape(chunk.text[cursor:])])


def answer_html(answer: Answer, language: Language, *, key: str = "1") -> str:
    """Return the verified answer: status badge, claims, and marks `[n]` that lead to the cards.

    One line without newlines, so that a Markdown reader passes it on as a single HTML block.
    """
    badge = f'<span class="tether-badge">{WORDS[language][answer.status]}</span>'
    return (
        f'<div class="tether-answer is-{answer.status}" lang="{language}">{badge}'
        f'<div class="tether-body">{_claims_html(answer, language, key)}</div></div>'
    )


def _claims_html(answer: Answer, language: Language, key: str) -> str:
    """Return the answer's text with every claim wrapped and its verified citations linked.

    A `[n]` in the text becomes a link only where the claim before it holds a citation of passage
    n; any other stays plain text, for a mark that nobody verified must not look like a citation.
    """
    text, placed, cursor = answer.text, [], 0
    for claim in answer.claims:
        start = text.find(claim.text, cursor)
        if claim.text and start >= 0:
            placed.append((start, claim))
            cursor = start + len(claim.text)
    pieces = [_lines(text[: placed[0][0]] if placed else text)]
    ends = [start for start, _ in placed[1:]] + [len(text)]
    for (start, claim), end in zip(placed, ends, strict=bool(placed)):
        pieces.append(_claim_html(claim, text[start + len(claim.text) : end], language, key))
    located = {id(claim) for _, claim in placed}
    loose = [claim for claim in answer.claims if id(claim) not in located]
    pieces.extend(
        _link(number, claim, language, key) for claim in loose for number in _cited(claim)
    )
    return "".join(pieces)


def _claim_html(claim: Claim, after: str, language: Language, key: str) -> str:
    """Return one claim and the text up to the next; citations not marked there are added."""
    marks = re.match(r"(?:\s*\[\d{1,4}\])*", after)
    own = marks.group() if marks else ""
    written = {int(number) for number in _MARK.findall(claim.text + after)}
    links = _linked(own, claim, language, key) + "".join(
        _link(number, claim, language, key) for number in _cited(claim) if number not in written
    )
    support = WORDS[language]["support"].format(percent=round(100 * claim.support))
    body = f'<span class="tether-claim" title="{support}">'
    body += f"{_linked(claim.text, claim, language, key)}</span>{links}"
    if claim.is_quotation:
        caption = f'<span class="tether-caption">{WORDS[language]["quotation"]}</span>'
        body = f'<blockquote class="tether-quotation">{body}{caption}</blockquote>'
    return body + _linked(after[len(own) :], claim, language, key)


def _linked(text: str, claim: Claim, language: Language, key: str) -> str:
    """Return escaped text in which `[n]` of the claim's own citations are links."""
    numbers, pieces = set(_cited(claim)), []
    for index, part in enumerate(_MARK.split(text)):
        if index % 2 == 0:
            pieces.append(_lines(part))
        elif int(part) in numbers:
            pieces.append(_link(int(part), claim, language, key))
        else:
            pieces.append(escape(f"[{part}]"))
    return "".join(pieces)


def _link(number: int, claim: Claim, language: Language, key: str) -> str:
    support = WORDS[language]["support"].format(percent=round(100 * claim.support))
    return (
        f'<sup><a class="tether-cite" href="#passage-{number}-{escape(key)}" '
        f'title="{support}">[{number}]</a></sup>'
    )


def _cited(claim: Claim) -> list[int]:
    return sorted({citation.passage_number for citation in claim.citations})


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


def notice_html(text: str, kind: Literal["question", "waiting", "error"]) -> str:
    """Return a question, a line that something is under way, or an error as one line."""
    return f'<div class="tether-{kind}">{_lines(text)}</div>'
