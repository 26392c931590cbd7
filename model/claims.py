"""Reading a draft: its claims, and the passages each one cites.

This is the one place where citation marks are read. A mark is "[n]" (also "[1, 3]", "【1】" and
full-width digits); a number that names no passage is no citation. Knows nothing of evidence.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from ingest.languages import split_sentences

_MARK = re.compile(r"\s*[\[【［]\s*(\d{1,3}(?:\s*[,，、;-]\s*\d{1,3})*)\s*[\]】］]")
_MARKS_AFTER_STOP = re.compile(r"([.!?。！？；;])((?:\s*[\[【［][\d\s,，、;-]+[\]】］])+)")
_SOURCES = (
    r"(?:the |these |this |any )?(?:(?:provided|given|numbered|retrieved|available) )?"
    r"(?:passages?|documents?|texts?|context|sources?|i)(?: (?:provided|given|above))?"
)
_REFUSAL = re.compile(
    rf"{_SOURCES} (?:do(?:es)? not|don't|doesn't|cannot|can't) "
    r"(?:say|know|mention|state|contain|answer|provide|specify|tell|hold)\b.*"
    r"|(?:it is |this is |there is )?(?:unknown|no answer|not (?:given|known|available|mentioned"
    r"|stated|specified|in the (?:passages?|documents?)))\W*"
    r"|(?:根据)?(?:上述|以上|所给|给出的|这些|提供的)?(?:资料|文档|文中|原文|段落|文本|上文)(?:中|里|内)?"
    r"(?:都|并)?(?:没有|未|不)(?:有)?(?:说明|提及|提到|给出|记载|包含|回答|答案|涉及|相关).*"
    r"|(?:我)?(?:不知道|不清楚|无法回答|无法确定|无答案|没有答案|未提及)\W*",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class DraftClaim:
    """One statement of a draft, without its marks; `cited` are passage numbers that exist."""

    text: str
    cited: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """What a generator wrote, and how sure it was of it."""

    text: str
    confidence: float | None = None  # mean natural log-probability of its tokens, if known

    @property
    def is_refusal(self) -> bool:
        """Whether it says that the passages do not hold the answer."""
        return is_refusal(self.text)


def read(draft: str, passage_numbers: Sequence[int]) -> list[DraftClaim]:
    """Return the claims of a draft in order; refusals are none."""
    # A mark that follows the full stop belongs to the sentence before it.
    draft = _MARKS_AFTER_STOP.sub(r"\2\1", draft.strip())
    claims: list[DraftClaim] = []
    for start, end in split_sentences(draft):
        sentence = draft[start:end]
        cited = tuple(
            number for number in _cited_numbers(sentence) if number in set(passage_numbers)
        )
        text = unmarked(sentence)
        is_new = all(claim.text != text for claim in claims)
        if any(char.isalnum() for char in text) and is_new and not is_refusal(text):
            claims.append(DraftClaim(text, cited))
    return claims


def unmarked(text: str) -> str:
    """Return the text without its citation marks."""
    return _MARK.sub("", text).strip()


def is_refusal(text: str) -> bool:
    """Tell whether a sentence says that the passages do not hold the answer.

    Only a sentence about the passages (or about nothing else) does: "Mars does not contain water"
    is a statement.
    """
    return _REFUSAL.fullmatch(unicodedata.normalize("NFKC", text).strip()) is not None


def _cited_numbers(sentence: str) -> list[int]:
    """Return the numbers inside the sentence's marks, in order and once each; "1-3" is 1, 2, 3."""
    found: list[int] = []
    for match in _MARK.finditer(sentence):
        for part in re.split(r"[,，、;]", unicodedata.normalize("NFKC", match.group(1))):
            ends = [int(end) for end in part.split("-") if end.strip()]
            low, high = min(ends), max(ends)
            found += [n for n in range(low, min(high, low + 20) + 1) if n not in found]
    return found


def marked(text: str, numbers: Sequence[int]) -> str:
    """Return a claim with its citation marks before the closing punctuation: "... 1931 [1]."."""
    marks = "".join(f"[{number}]" for number in dict.fromkeys(numbers))
    if not marks:
        return text
    body = text.rstrip(".。!！?？;；")
    is_wide = unicodedata.east_asian_width(body[-1]) in "WF" if body else False
    return f"{body}{'' if is_wide else ' '}{marks}{text[len(body) :]}"
