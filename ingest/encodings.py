"""Bytes to text: which encoding a file is in, by the surest evidence first.

What no encoding reads plausibly is refused with a `SourceError`, never garbled. Knows nothing of
formats, but that some of them declare their encoding.
"""

import re
from collections.abc import Iterator

from ingest.errors import SourceError
from ingest.parsed import clean

_BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins like that of UTF-16
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_SAFE_ENCODINGS = re.compile(r"(?i)(gb|big5|utf-?8|windows|cp\d|iso-?8859|shift|euc|koi8|hz)")
_OTHER_ENCODINGS = ["cp1252", "cp1251", "koi8_r", "shift_jis", "euc_jp", "cp949"]
_CONTROL = re.compile("[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f\ufffd-\uffff]")
# Letters and signs of western Europe; anything else in cp1252 betrays another code page.
_WESTERN = re.compile("[ -~\\sÀ-ÖØ-öø-ÿŒœ‘-‚“-„–—…•€£©®™°«»¿¡§·´]*")
# The commonest ideographs of running text, simplified and traditional.
_FREQUENT = frozenset(
    "的一是不了在人有我他这這中大来來上国國为為子和你地出道也时時年得就那要下以生会會自着著去之过過家"
    "学學对對可她里裡后後小么麼心多天而能好都然没沒日于於起还還发發成事只作当當想看文无無开開手十用主"
    "行方又如前所本见見经經头頭面公同三已老从從动動两兩与與及或其"
)


def decode(uri: str, data: bytes, declared: str | None = None) -> tuple[str, str]:
    """Return (text, encoding), trying the surest evidence first.

    Raises:
        SourceError: No encoding gives a plausible text.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            candidates = [(encoding, _try(data, encoding))]
            break
    else:
        candidates = list(_guesses(data, declared))
    for encoding, text in candidates:
        if text is not None and len(_CONTROL.findall(text)) <= len(text) / 100:
            return clean(text), encoding
    raise SourceError(f"{uri}: the text encoding is unknown; save the file as UTF-8")


def decode_names(raw: list[bytes]) -> list[str]:
    """Return the file names of a zip archive that does not declare them as UTF-8.

    They are decoded together, because one name is little evidence; cp437, the original encoding
    of zip archives, where nothing else fits.
    """
    for encoding in ("utf-8", "gb18030"):
        names = [_try(name, encoding) for name in raw]
        if all(name is not None for name in names):
            return [name or "" for name in names]
    return [name.decode("cp437") for name in raw]


def _guesses(data: bytes, declared: str | None) -> Iterator[tuple[str, str | None]]:
    if data.count(0) > len(data) / 5:  # UTF-16 without a mark: the NULs sit on one side
        encoding = "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
        yield encoding, _try(data, encoding)
    yield "utf-8", _try(data, "utf-8")
    if declared and _SAFE_ENCODINGS.match(declared):
        name = "gb18030" if declared.lower().startswith("gb") else declared.lower()
        yield name, _try(data, name)
    yield _best_chinese(data)
    yield _best_other(data)


def _try(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError):
        return None


def _best_chinese(data: bytes) -> tuple[str, str | None]:
    """Return GB18030 or Big5, whichever reads as Chinese, or neither."""
    scored = [
        (_chinese_score(text, charset, last), encoding, text)
        for encoding, charset, last in (
            ("gb18030", "gb2312", 0xD7),  # last lead byte of the common ideographs
            ("big5hkscs", "big5", 0xC6),
        )
        if (text := _try(data, encoding)) is not None
    ]
    score, encoding, text = max(scored, key=lambda item: item[0], default=(0.0, "", ""))
    return (encoding, text) if score >= 0.6 else ("", None)


def _chinese_score(text: str, charset: str, last_common_lead: int) -> float:
    """Return the share of common characters (0..1) plus that of the most frequent ones (0..1).

    Text in the wrong encoding turns into rare ideographs. GB2312 and Big5 both sort theirs by use:
    the common half comes first. Long text without the most frequent ones is no Chinese at all.
    """
    wide = [character for character in text[:20_000] if character > "\x7f"]
    ideographs = [character for character in wide if "\u3400" <= character <= "\u9fff"]
    if not ideographs:
        return 0.0
    frequent = sum(character in _FREQUENT for character in ideographs) / len(ideographs)
    if len(ideographs) >= 40 and frequent < 0.04:
        return 0.0
    common = sum(
        len(code := character.encode(charset, "ignore")) == 2
        and (code[0] <= last_common_lead)
        and not "\u3041" <= character <= "\u30fa"
        for character in wide
    )
    return common / len(wide) + frequent


def _best_other(data: bytes) -> tuple[str, str | None]:
    import charset_normalizer

    match = charset_normalizer.from_bytes(data, cp_isolation=_OTHER_ENCODINGS).best()
    text = str(match) if match else ""
    if match and match.encoding == "cp1252":
        accents = len(re.findall("[^\0-\x7f]", text))
        plausible = _WESTERN.fullmatch(text) is not None and accents < len(text) / 4
    else:
        plausible = match is not None and match.coherence > 0  # it knows the language, too
    return (match.encoding, text) if match and plausible else ("", None)
