"""Evidence: the sentences of passages, and what a question or a claim shares with them.

All measures are training-free: content terms, numbers, names, word pairs and embeddings. They
serve one purpose each in three places: packing the prompt, judging claims, and choosing the one
sentence to quote. Knows nothing of prompts or generators.
"""

import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from ingest.languages import IDEOGRAPHS, simplified, split_sentences
from retrieval.passages import Passage

LONGEST_SENTENCE = 400  # characters; a longer one is cut, so that a citation stays readable

_WORD = re.compile(rf"[{IDEOGRAPHS}]+|[^\W_{IDEOGRAPHS}]+(?:['’.][^\W\d_{IDEOGRAPHS}]+)*")
_NUMBER = re.compile(
    r"(\d+(?:[.,:]\d+)*)(?:[ -]?(thousand|million|billion|trillion)\b|([万萬亿億]{1,2}))?",
    re.IGNORECASE,
)
_SCALES = {
    **{"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8},
    **{"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12},
}
_CHINESE_NUMERAL = re.compile(  # one character counts only before a unit: 三年, not 三明
    r"(?<!\d)[一二三四五六七八九十百千万亿萬億两兩〇零]{2,}"
    r"|(?<=分之)[一二三四五六七八九十]"
    r"|[一二三四五六七八九十百千两兩](?=[年月日天岁歲个個人名位次倍层層座条條种種米尺里元周小分秒成])"
)
_NAME = re.compile(
    r"(?P<first>(?:^|[.!?:]\s+)[\"'“‘(]*[A-Z][\w'’-]*(?=\s+[A-Z]))"
    r"|(?:^|[.!?:]\s+)[\"'“‘(]*[A-Z][\w'’-]*"
    r"|\b(?P<inside>[A-Z][\w'’-]*)"
)
_HEADING = re.compile(r"#{1,6}\s")
_ITEM = re.compile(
    r"[-*+•]\s+|\d{1,3}[.)]\s+|\d{1,3}[、．]\s*|[（(]?[一二三四五六七八九十\d]{1,3}[)）、]\s*"
)
_STOP = re.compile(r"[.。!！?？;；…:：,，|]")
_ENDS = re.compile(r"[.。!！?？;；]$")
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|neither|nor|without|cannot|n't|unable|fail(?:ed|s)?)\b|n't\b"
    rf"|[不没沒无無非未](?=[{IDEOGRAPHS}])|并非|並非"
)

STOPWORDS = frozenset(
    """a about an and are as at be been being by can could did do does for from had has have he her
    his how i in into is it its may might of on or our she should some such than that the their
    them then there these they this those to was we were what when where which while who whom whose
    why will with would you your also after before during only other over under between both each
    """.split()
)

_PARTICLES = re.compile(
    r"什么时候|什麼時候|为什么|為什麼|什么|什麼|哪里|哪裡|哪个|哪個|哪些|哪一|哪|多少|怎么样|怎么|怎樣"
    r"|如何|请问|是否|何时|何時|[的了是谁誰吗呢吧]"
)

_ASKS_NUMBER = re.compile(
    r"\bhow (?:many|much|long|old|far|tall|often|large|big|high|fast)\b|\bwhen\b"
    r"|\bwh(?:at|ich) (?:year|date|day|month|century|decade|time|percent|percentage|number|age)\b"
    r"|多少|多大|多长|多長|多高|多远|几[年月日个個位次人岁种]|幾|何时|何時|什么时候|什麼時候|哪一?[年天月]"
    r"|时间|時間|年份|日期|比例|百分",
    re.IGNORECASE,
)
_ASKS_NAME = re.compile(r"\b(?:who|whom|whose|where|which|name)\b", re.IGNORECASE)


def normalise(text: str) -> str:
    """Return the text in compatibility form, lower case and simplified, for comparison only."""
    return simplified(unicodedata.normalize("NFKC", text).lower())


def content_terms(text: str) -> list[str]:
    """Return the terms that carry meaning: stemmed words, and character pairs for Chinese."""
    terms: list[str] = []
    for match in _WORD.finditer(normalise(text)):
        word = match.group()
        if re.match(rf"[{IDEOGRAPHS}]", word):
            terms += _chinese_pairs(word)
        elif word not in STOPWORDS:
            terms.append(_stem(word.removesuffix("'s").removesuffix("’s")))
    return terms


def _chinese_pairs(run: str) -> list[str]:
    """Return overlapping character pairs of a run, cut at question words and particles."""
    terms: list[str] = []
    for piece in _PARTICLES.split(run):
        if len(piece) == 1:
            terms.append(piece)
        terms += [piece[i : i + 2] for i in range(len(piece) - 1)]
    return terms


def _stem(word: str) -> str:
    """Strip English plural and verb endings: light, so that unlike words stay apart."""
    for ending, keep in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", "e")):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return _undouble(word[: -len(ending)] + keep)
    if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 4 else word


def _undouble(word: str) -> str:
    """Turn "stopp" into "stop" and "make" into "mak", so that all forms of a verb meet."""
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 4 else word


def numbers(text: str) -> set[str]:
    """Return the numbers of a text in one form: "1,200" and "1200" are equal, "3" and "3万" not."""
    text = unicodedata.normalize("NFKC", text)
    found = {_value(match) for match in _NUMBER.finditer(text)}
    found |= {_chinese_value(match.group()) for match in _CHINESE_NUMERAL.finditer(text)}
    return {number.lstrip("0") or "0" for number in found}


def _value(number: re.Match[str]) -> str:
    """Return digits with their scale: "1.2亿" is "120000000", "3 million" is "3000000"."""
    digits, word, groups = number[1].replace(",", ""), number[2], number[3]
    scales = [word.lower()] if word else list(groups or "")
    if not scales or ":" in digits or digits.count(".") > 1:
        return digits
    value = Decimal(digits) * math.prod(_SCALES[scale] for scale in scales)
    return f"{value.normalize():f}"


def _chinese_value(numeral: str) -> str:
    """Return a Chinese numeral in Arabic digits: "一百二十" is "120", "一九九八" is "1998"."""
    digits = {char: value for value, char in enumerate("零一二三四五六七八九")}
    digits |= {"〇": 0, "两": 2, "兩": 2}
    units = {"十": 10, "百": 100, "千": 1000}
    groups = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
    if all(char in digits for char in numeral):
        return "".join(str(digits[char]) for char in numeral)
    total = section = digit = 0
    for char in numeral:
        if char in digits:
            digit = digits[char]
        elif char in units:
            section += max(digit, 1) * units[char]
            digit = 0
        elif total and total < groups[char]:  # 万亿: the greater group counts all before it
            total = (total + section + digit) * groups[char]
            section = digit = 0
        else:
            total += max(section + digit, 1) * groups[char]
            section = digit = 0
    return str(total + section + digit)


def names(text: str) -> set[str]:
    """Return the terms of capitalised words.

    The first word of a sentence counts only if the next one is capitalised too: "Ola Fenn built",
    but not "Builders came".
    """
    found: set[str] = set()
    for match in _NAME.finditer(unicodedata.normalize("NFKC", text)):
        found |= set(content_terms(match.group("inside") or match.group("first") or ""))
    return found


def has_chinese(text: str) -> bool:
    """Tell whether the text holds a Chinese character."""
    return re.search(rf"[{IDEOGRAPHS}]", text) is not None


def is_negated(text: str) -> bool:
    """Tell whether the text holds an odd number of negations."""
    return len(_NEGATION.findall(normalise(text))) % 2 == 1


def coverage(
    wanted: Iterable[str], present: Iterable[str], weights: Mapping[str, float] | None = None
) -> float:
    """Return the (weighted) share of `wanted` found in `present`; 1.0 if nothing is wanted."""
    wanted, present = set(wanted), set(present)
    total = sum(weights.get(term, 1.0) for term in wanted) if weights else float(len(wanted))
    if not total:
        return 1.0
    found = wanted & present
    return (sum(weights.get(term, 1.0) for term in found) if weights else len(found)) / total


def pairs(terms: Sequence[str]) -> set[str]:
    """Return adjacent pairs of terms."""
    return {f"{a} {b}" for a, b in itertools.pairwise(terms)}


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a passage; `start` and `end` are offsets in the document's text."""

    passage: Passage
    start: int
    end: int
    text: str


def sentences_of(passages: Sequence[Passage]) -> list[Sentence]:
    """Return the sentences of all passages in order, without headings.

    A heading names a topic and states nothing, so it is neither evidence nor a quotation. What
    only looks like one is kept where a passage holds nothing else.
    """
    stated = [one for passage in passages for one in _stated(passage)]
    return stated or [one for passage in passages for one in _stated(passage, with_titles=True)]


def _stated(passage: Passage, *, with_titles: bool = False) -> list[Sentence]:
    text, base = passage.chunk.text, passage.chunk.start
    spans = [piece for span in split_sentences(text) for piece in _pieces(text, *span)]
    if not with_titles:
        spans = [span for span in spans if not _is_title(text[slice(*span)], passage)]
    stated = [span for span in spans if not is_heading(text[slice(*span)])] or spans
    stated = [(_after_marker(text, a, b), b) for a, b in stated]
    return [Sentence(passage, base + a, base + b, text[a:b]) for a, b in stated]


def _is_title(text: str, passage: Passage) -> bool:
    """Tell whether a line is what the document calls itself, or the section that it stands in."""
    names = (passage.title, *passage.chunk.heading.split(" > "))
    line = normalise(text).strip("# \n")
    return not _ENDS.search(line) and line in {normalise(name).strip() for name in names}


def _after_marker(text: str, start: int, end: int) -> int:
    """Return where a list item's own words begin."""
    marker = _ITEM.match(text, start, end)
    return marker.end() if marker and marker.end() < end else start


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield a span in pieces of at most `LONGEST_SENTENCE`, cut after a pause where there is one.

    Text without punctuation (logs, tables) would otherwise be one sentence of any length.
    """
    while end - start > LONGEST_SENTENCE:
        window = text[start : start + LONGEST_SENTENCE]
        pause = max(window.rfind(mark) for mark in "，,；;、：: \n") + 1
        cut = start + (pause if pause > LONGEST_SENTENCE // 2 else LONGEST_SENTENCE)
        yield start, cut
        start = cut
        while start < end and text[start].isspace():
            start += 1
    if start < end:
        yield start, end


def is_heading(text: str) -> bool:
    """Tell whether a line only names a topic: marked as a heading, or short and without a stop."""
    if _HEADING.match(text):
        return True
    if _ITEM.match(text):
        return False
    is_short = len(text) <= 14 if has_chinese(text) else len(text.split()) <= 5
    return is_short and not _STOP.search(text) and not numbers(text)


def type_match(question: str, sentence: str) -> float:
    """Return 1.0 if the sentence has the kind of thing asked for, -1.0 if it lacks it, else 0."""
    if _ASKS_NUMBER.search(question):
        return 1.0 if numbers(sentence) - numbers(question) else -1.0
    if _ASKS_NAME.search(question):
        return 1.0 if names(sentence) - names(question) else -1.0
    return 0.0


def rarity(texts: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the inverse document frequency of every term over these texts (smoothed, > 0)."""
    seen = Counter(term for terms in texts for term in set(terms))
    return {term: math.log(1 + (len(texts) + 1) / (count + 0.5)) for term, count in seen.items()}
