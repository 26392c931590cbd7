"""Text to lexical terms, for the FTS5 table and for queries against it.

Chinese has no spaces, so runs of Han characters are segmented by jieba in its search mode (a long
word also yields the words inside it). All else is split at punctuation; FTS5's own tokenizer then
stems English and strips accents. Traditional Chinese is indexed, and asked for, as simplified.
Knows nothing of SQLite connections or of ranking.
"""

import re
import unicodedata
from collections.abc import Iterator

from ingest.languages import simplified

_HAN = "〇々\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TERM = re.compile(
    rf"(?P<han>[{_HAN}]+)"
    r"|(?P<number>\d+(?:[.:]\d+)+)"
    rf"|(?P<word>[^\W_{_HAN}]+)(?:['’](?:s|t|re|ve|ll|d|m)\b)?"
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")

# Frequent in nearly every document: they say nothing about which chunk is meant.
_FUNCTION_WORDS = frozenset(
    "的 了 是 在 和 与 及 或 吗 呢 吧 啊 么 之 也 就 都 而 被 把 将 从 对 于 有 这 那 哪 谁 几 "
    "什么 怎么 怎样 如何 多少 哪里 哪些 为什么 "
    "a an the of is are was were be been to in on at by for from and or as it its this that "
    "what which who whom when where why how do does did has have had with".split()
)


def index_terms(text: str) -> str:
    """Return the terms of a text joined by spaces, as the FTS5 table stores them."""
    return " ".join(_terms(text))


def query_expression(text: str) -> str:
    """Return an FTS5 MATCH expression that holds for chunks with any term of `text`.

    Terms are letters and digits only and stand in quotes, so no text of a user can be read as FTS5
    syntax. Function words are left out unless nothing else remains.

    Returns:
        The expression, or "" if the text has no terms (FTS5 rejects an empty expression).
    """
    terms = dict.fromkeys(_terms(text))  # each once, in order
    telling = [term for term in terms if term not in _FUNCTION_WORDS]
    return " OR ".join(f'"{term}"' for term in telling or terms)


def _terms(text: str) -> Iterator[str]:
    text = _THOUSANDS.sub("", simplified(unicodedata.normalize("NFKC", text).lower()))
    for match in _TERM.finditer(text):
        if match["han"]:
            yield from _segment(match["han"])
        else:
            yield match["number"] or match["word"]


def _segment(han: str) -> list[str]:
    import rjieba  # loads its dictionary on import: 0.4 s

    words: list[str] = rjieba.cut_for_search(han)
    return words
