"""Which language a text is in, and where its sentences are, for Chinese and English.

The answers come from scripts and punctuation alone, in time linear in the text:

    detect_language("什么是 RAG?")             -> "zh"
    split_sentences("Dr. Li left. 他走了。")   -> [(0, 12), (13, 17)]
    simplified("檢索增強")                     -> "检索增强"

Knows nothing of files, chunks or models. "en" stands for any text in Latin script; telling English
from French would need a model and nothing downstream depends on it.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Literal

IDEOGRAPHS = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_IDEOGRAPH = re.compile(f"[{IDEOGRAPHS}]")
_LATIN_WORD = re.compile(f"[{_LATIN}]+(?:['’-][{_LATIN}]+)*")
# Kana and hangul are counted one by one, like ideographs; other scripts by word.
_OTHER_WORD = re.compile(
    f"[\u3041-\u30fa\uac00-\ud7af]|(?:(?![{_LATIN}{IDEOGRAPHS}\u3041-\u30fa\uac00-\ud7af])[^\\W\\d_])+"
)

_SAMPLE_LENGTH = 100_000  # characters; longer texts are judged by evenly spaced slices


def detect_language(text: str) -> str:
    """Return "zh", "en", "mixed", or "und" where neither script carries the text.

    Words are weighed: 1.5 ideographs make one, and a Latin word with a capital counts half because
    it is likely a name. So a Chinese text with a few Latin names stays "zh", and an English one
    with a few Chinese names stays "en".
    """
    text = _sample(text)
    chinese = len(_IDEOGRAPH.findall(text)) / 1.5
    latin = sum(1.0 if word.islower() else 0.5 for word in _LATIN_WORD.findall(text))
    other = len(_OTHER_WORD.findall(text))
    known = chinese + latin
    if known == 0 or other > known / 2:
        return "und"
    if chinese >= 0.6 * known:
        return "zh"
    return "en" if chinese <= 0.25 * known else "mixed"


def question_language(text: str) -> Literal["zh", "en"]:
    """Return the language to answer a question in: Chinese where any is mixed in as a language.

    An English question that only names something in Chinese stays English.
    """
    language = detect_language(text)
    if language == "und":
        return "zh" if _IDEOGRAPH.search(text) else "en"
    return "en" if language == "en" else "zh"


def _sample(text: str) -> str:
    if len(text) <= _SAMPLE_LENGTH:
        return text
    step = len(text) // 10
    return " ".join(text[i : i + _SAMPLE_LENGTH // 10] for i in range(0, len(text), step))


# --- Scripts -------------------------------------------------------------------------------------


def simplified(text: str) -> str:
    """Return the text with traditional ideographs as simplified ones, character for character.

    For matching only, never for showing: 乾 and 幹 both become 干. The length stays the same, so
    offsets hold. The table is that of OpenCC ("t2s").
    """
    return text.translate(_simplified_forms())


@cache
def _simplified_forms() -> dict[int, str]:
    from opencc import OpenCC  # deferred: most commands read no document

    blocks = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2EBE0))
    ideographs = [chr(code) for first, last in blocks for code in range(first, last + 1)]
    simple = OpenCC("t2s").convert("\n".join(ideographs)).split("\n")
    return {ord(a): b for a, b in zip(ideographs, simple, strict=True) if a != b}


# --- Sentences -----------------------------------------------------------------------------------

_NUMBER = "[一二三四五六七八九十百零〇\\d]{1,6}"
_HEADING = re.compile(rf"#{{1,6}}\s|第{_NUMBER}[章節节編编篇][\s：:]")
_ITEM = re.compile(
    rf"[-*+•]\s|\d{{1,3}}[.)]\s|\d{{1,3}}[、．]|[一二三四五六七八九十]{{1,3}}、|[（(]{_NUMBER}[)）]|第{_NUMBER}[条條]"
)
_RULE = re.compile(r"([-=*_])\1\1+$")  # also what underlines a setext heading

_CLOSERS = r"(?:[”’\"'」』）)\]】》〉]|\[\d{1,3}\])*"
_TERMINATOR = re.compile(rf"(?P<mark>[。！？；｡…!?.]+){_CLOSERS}")
_NEXT_WORD = re.compile(r"\s*[\"'“‘「『（(\[]{0,3}(\w{1,24})?")
_WORD_BEFORE = re.compile(rf"[{_LATIN}0-9]+(?:\.[{_LATIN}0-9]+)*$")
_INITIALS = re.compile(rf"[{_LATIN}](?:\.[{_LATIN}])*")  # "J", "U.S", "e.g"

# After these a full stop never ends a sentence.
_TITLES = frozenset(
    "dr mr mrs ms prof rev gen sen rep gov capt lt col sgt st mt messrs hon pres e.g i.e cf vs viz "
    "approx ca".split()
)
# After these it does not where a number follows: "No. 5", "Fig. 2".
_NUMBERED = frozenset(
    "no nos fig figs vol p pp ch sec eq art ref app ver jan feb mar apr jun jul aug sep sept oct "
    "nov dec".split()
)
# After these, and after initials, it does only where the next word commonly opens a sentence.
_TRAILING = frozenset(
    "etc inc ltd co corp bros jr sr dept univ ph.d m.d b.c a.d a.m p.m al".split()
)
_OPENERS = frozenset(
    "a an and as at but by each for from he her here his however i if in it its many most no now "
    "on one our she since so some such that the their then there these they this those to we what "
    "when where while who why you your".split()
)


def starts_block(line: str) -> bool:
    """Return whether a line looks like a heading, a list item or a table row."""
    line = line.strip()
    return bool(_HEADING.match(line) or _ITEM.match(line)) or _is_row(line)


def _ends_block(line: str) -> bool:
    line = line.strip()
    return not line or bool(_HEADING.match(line) or _RULE.match(line)) or _is_row(line)


def _is_row(line: str) -> bool:
    return line.startswith("|") or " | " in line


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Return the (start, end) character offsets of the sentences, in order, without overlap.

    The spans begin and end with a non-space character and together cover every one of them. A
    blank line always ends a sentence; a single line break does not, unless a heading, a list item
    or a table row stands on either side of it.
    """
    spans: list[tuple[int, int]] = []
    for block_start, block_end in _blocks(text):
        start = block_start
        for end in [*_sentence_ends(text, block_start, block_end), block_end]:
            piece = text[start:end]
            if stripped := piece.strip():
                offset = start + len(piece) - len(piece.lstrip())
                spans.append((offset, offset + len(stripped)))
            start = end
    return spans


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Yield runs of lines that may share a sentence."""
    start = position = 0
    for line in text.splitlines(keepends=True):
        if position > start and starts_block(line):
            yield start, position
            start = position
        position += len(line)
        if _ends_block(line):
            yield start, position
            start = position
    if position > start:
        yield start, position


def _sentence_ends(text: str, start: int, end: int) -> Iterator[int]:
    for match in _TERMINATOR.finditer(text, start, end):
        if _ends_sentence(text, match, start, end):
            yield match.end()
            start = match.end()


def _ends_sentence(text: str, match: re.Match[str], start: int, end: int) -> bool:
    """Decide whether a run of terminators closes the sentence that began at `start`."""
    marks = match["mark"]
    if any(mark in "。！？；｡" for mark in marks):
        return True
    glued = match.end() < end and not text[match.end()].isspace()
    if glued and not _IDEOGRAPH.match(text, match.end()):
        return False  # "3.14", "example.com", "wait...what"
    following = _NEXT_WORD.match(text, match.end(), end)
    word = (following and following[1]) or ""
    if word[:1].islower():
        return False  # "e.g. this", '"Why?" he asked'
    before = text[max(start, match.start() - 24) : match.start()]
    return marks != "." or _full_stop_ends(before, word, glued)


def _full_stop_ends(before: str, next_word: str, glued: bool) -> bool:
    """Tell a full stop from the dot of an abbreviation, an initial or a list number."""
    found = _WORD_BEFORE.search(before)
    last = found[0] if found else ""
    if last.isdigit() and (glued or last == before.strip()):
        return False  # "1.第一点" and "1. First"
    if last.lower() in _TITLES:
        return False
    if last.lower() in _NUMBERED and next_word[:1].isdigit():
        return False
    if last.lower() in _TRAILING or _INITIALS.fullmatch(last):
        opens = next_word.lower() in _OPENERS or bool(_IDEOGRAPH.match(next_word))
        return opens and not glued  # not "J.K.罗琳"
    return True
