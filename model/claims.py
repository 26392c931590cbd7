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
_REFUSAL = re.compile(
    r"\b(?:do(?:es)? not|don't|doesn't|cannot|can't|not) (?:say|know|mention|state|contain|answer"
    r"|provide|specified|mentioned|stated)\b|\bunknown\b|\bno answer\b|\bnot (?:given|available)\b"
    r"|资料(?:中)?(?:没有|未|并未|不)|文档(?:中)?(?:没有|未)|(?:没有|未|并未)(?:提及|提到|说明|给出|记载)"
    r"|不知道|无法(?:回答|确定)|无答案",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class DraftClaim:
    """One statement of a draft, without its marks; `cited` are passage numbers that exist."""

    text: str
    cited: tuple[int, ...] = ()


def read(draft: str, passage_numbers: Sequence[int]) -> list[DraftClaim]:
    """Return the claims of a draft in order; none if the draft says that it does not know."""
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
    """Tell whether a short text says that the passages do not hold the answer."""
    return len(text) <= 120 and bool(_REFUSAL.search(text))


def _cited_numbers(sentence: str) -> list[int]:
    """Return the numbers inside the sentence's marks, in order and once each; "1-3" is 1, 2, 3."""
    found: list[int] = []
    for match in _MARK.finditer(sentence):
        for part in re.split(r"[,，、;]", unicodedata.normalize("NFKC", match.group(1))):
            first, _, last = part.partition("-")
            low, high = int(first), int(last or first)
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
