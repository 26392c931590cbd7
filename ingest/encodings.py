"""Bytes to text: which encoding a file is in, by the surest evidence first.

A byte order mark or valid UTF-8 settles it. Else every encoding that can read the bytes is asked
how likely its text is in a language written with it, in nats, by how often characters of each kind
occur there; the cheapest reading wins if it is plausible and clearly ahead of every other one.
What no encoding reads so is refused with a `SourceError`, never garbled. A character that is cut
off at the end of a file is left out.

Knows nothing of formats, but that some of them declare their encoding.
"""

import codecs
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

from ingest.errors import SourceError
from ingest.parsed import clean

_BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins like that of UTF-16
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_DOUBLE_BYTE = ("gb18030", "big5hkscs", "cp932", "euc_jp", "cp949")
_SINGLE_BYTE = ("cp1252", "cp1251", "koi8_r")
_UTF16 = ("utf-16-le", "utf-16-be")
_NEED_MORE = ("cp949", *_UTF16)  # in which a few ideographs of GB18030 may look common
_ALIASES = (  # the names that pages and mails declare, and the superset that programs mean by them
    (re.compile(r"(?i)(x-)?gb|hz|cp936|ms936"), "gb18030"),
    (re.compile(r"(?i)(x-)?big5|cp950"), "big5hkscs"),
    (re.compile(r"(?i)(x-|ms_?)?(shift|sjis|windows-31j|kanji)|cp932"), "cp932"),
    (re.compile(r"(?i)ks_?c|euc-?kr|cp949|windows-949|uhc"), "cp949"),
    (re.compile(r"(?i)(us-)?ascii$|latin-?1$|iso-?8859-1$|cp1252|windows-1252"), "cp1252"),
)
_SAFE_ENCODINGS = re.compile(r"(?i)(utf-?(8|16|32)|windows|cp\d|iso-?8859|iso-?2022|euc|koi8)")

_CONTROL = re.compile("[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f\ufffd-\uffff]")
# Letters and signs of western Europe; anything else in cp1252 betrays another code page.
_WESTERN = re.compile("[ -~\\sÀ-ÏÑ-ÖØ-ÜßÀ-ïñ-öø-üÿŒœ‘-‚“-„–—…•€£©®™°«»¿¡§·´ ]*")
_ACCENT_PAIR = re.compile("(?=[À-ÿ]{2})")
_LONE_WIDE = re.compile(  # one ideograph, kana or hangul in the middle of an English word
    "(?<=[a-z])[\u3041-\u9fff\uac00-\ud7a3](?=[a-z .,;!?])"
    "|(?<![\u0080-\uffff])[\u3041-\u9fff\uac00-\ud7a3](?= ?[a-z]{2})"
)
_ODD_CYRILLIC = re.compile("(?<![Ѐ-ӿ])[Ѐ-ӿ](?![Ѐ-ӿ])|(?<=[а-я])[А-Я]|[бвгджзйклмнпрстфхцчшщъь]{4,}")
_NON_ASCII = re.compile(rb"[\x80-\xff]")
_HOLE = bytes(4)  # no text holds many of them, in UTF-32 either
# What UTF-8 makes of single ideographs in GB18030: letters that hardly any text holds.
_STRANGE = re.compile("[\u0180-\u02c5\u0530-\u058f\u0700-\u07ff]")

_SAMPLE = 64 * 1024  # bytes
_MARGIN = 4.0  # nats by which the best reading must lead
_PLAUSIBLE = 9.4  # most nats per character beyond ASCII; running text has 6 to 8, garbage over 10
_DECLARED_PLAUSIBLE = 13.0  # a declared encoding may hold rare ideographs
_DECLARED_LEAD = 12.0  # nats, and one a character, by which evidence must beat a declaration
_CUT_END = 20.0  # nats for a cut-off character: or dropping an unlikely one would pay off
_CUT_START = 10.0


def decode(uri: str, data: bytes, declared: str | None = None) -> tuple[str, str]:
    """Return (text, encoding), trying the surest evidence first.

    Args:
        uri: For messages only.
        data: The bytes of the whole file.
        declared: The encoding that a page or a mail claims; evidence may overrule it.

    Raises:
        SourceError: No encoding gives a plausible text, or several give different ones.
    """
    is_hollow = len(_HOLE) * data.count(_HOLE) > len(data) / 10
    text, encoding = (None, "") if is_hollow else _decode(data, declared)
    is_blank = not data or any(data == mark for mark, _ in _BYTE_ORDER_MARKS)
    if text is None or _is_binary(text) or (not text and not is_blank):
        raise SourceError(f"{uri}: the text encoding is unknown; save the file as UTF-8")
    return clean(text), encoding


def decode_names(raw: list[bytes]) -> list[str]:
    """Return the file names of a zip archive that does not declare them as UTF-8.

    They are judged together, because one name is little evidence; where none is plausible they are
    in cp437, the original encoding of zip archives.
    """
    joined = b"\n".join(raw)
    try:
        text = joined.decode("utf-8")
    except UnicodeError:
        readings = _readings(joined, [*_DOUBLE_BYTE, "cp437"])
        best = min(readings, key=lambda reading: reading.cost, default=None)
        known = best is not None and best.encoding and best.mean <= _DECLARED_PLAUSIBLE
        text = joined.decode(best.encoding if best and known else "cp437", "replace")
    names = text.split("\n")
    return names if len(names) == len(raw) else [name.decode("cp437") for name in raw]


def _decode(data: bytes, declared: str | None) -> tuple[str | None, str]:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _read(data, encoding)[0], encoding
    if b"\x1b$" in data and (text := _read(data, "iso2022_jp_ext")[0]) and "\x1b" not in text:
        return text, "iso2022_jp_ext"
    if data.count(0) > len(data) / 5:  # UTF-16 or UTF-32 without a mark
        names = [name for name in ("utf-32-le", "utf-32-be") if _read(data, name)[0]]
        encoding = _judge(list(_readings(data[:_SAMPLE], names or _UTF16)), "")
        return (_read(data, encoding)[0], encoding) if encoding else (None, "")
    if (text := _utf8(data)) is not None:
        return text, "utf-8"
    claimed = _known_name(declared)
    names = list(dict.fromkeys([*_DOUBLE_BYTE, *_SINGLE_BYTE, *([claimed] if claimed else [])]))
    readings = list(_readings(_sample(data), names))
    readings += _readings(data[:_SAMPLE], _UTF16)
    encoding = _judge(readings, claimed)
    text = _read(data, encoding)[0] if encoding else None
    if encoding == "cp1252" and not claimed and text and not _WESTERN.fullmatch(text):
        text = None
    return text, encoding


def _utf8(data: bytes) -> str | None:
    """Return UTF-8 text, less a character cut off at either end.

    None if it is no UTF-8; "" if it may be, so that no other encoding is tried.
    """
    start = 0
    while start < min(3, len(data)) and 0x80 <= data[start] <= 0xBF:
        start += 1
    text, left = _read(data[start:] if start else data, "utf-8")
    if text is None:
        return None
    beyond = len(data) - start - len(left) - len(text)  # bytes, one to three a character
    if start or left:  # sure only if whole characters stand beside the cut one
        sure = beyond > (5 if start else 1) and not _STRANGE.search(text)
        may_be = beyond > 1 or left[:1] > b"\xdf" or b"" < left[:1] < b"\xc4"
        return text if sure else "" if may_be else None
    if _is_binary(text[:_SAMPLE]):  # such as Cyrillic in UTF-16
        return None
    few = 0 < beyond < 12 and _STRANGE.search(text)
    return None if few and _read(data, "gb18030")[0] else text


def _known_name(declared: str | None) -> str:
    """Return Python's name for a declared encoding, "" for an unknown or unsafe one."""
    name = (declared or "").strip().lower()
    for pattern, encoding in _ALIASES:
        if pattern.match(name):
            return encoding
    if not _SAFE_ENCODINGS.match(name):
        return ""
    try:
        return codecs.lookup(name).name
    except LookupError:
        return ""


def _read(data: bytes, encoding: str) -> tuple[str | None, bytes]:
    """Return (text, bytes of a character that is cut off at the end); None for invalid bytes."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        text, left = decoder.decode(data), decoder.getstate()[0]
    except UnicodeError:
        return None, b""
    return (
        (None, b"") if left[:1] in (b"\x80", b"\xff") and encoding in _DOUBLE_BYTE else (text, left)
    )


def _is_binary(text: str) -> bool:
    most = len(text) // 100
    return next(islice(_CONTROL.finditer(text), most, None), None) is not None


def _sample(data: bytes) -> bytes:
    """Return some 64 KB around bytes beyond ASCII, beginning where a character begins."""
    pieces, size, position = [], 0, 0
    while size < _SAMPLE and (found := _NON_ASCII.search(data, position)):
        start = max(position, found.start() - 16)  # the letter before tells, too
        position = data.find(b"\n", start + 4096) + 1
        end = position or len(data)
        pieces.append(data[start : min(end, start + _SAMPLE)])
        size += len(pieces[-1])
        if not position or end > start + _SAMPLE:  # where it goes on may be within a character
            break
    return b"".join(pieces)


# --- Readings ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reading:
    """The bytes as text in one encoding; an `encoding` of "" can win but names no text."""

    encoding: str
    text: str
    cost: float  # nats of the whole text in its likeliest language
    mean: float  # nats of a character beyond ASCII
    plausible: bool  # whether texts of the language have no more
    wide: int  # characters beyond ASCII


def _readings(data: bytes, encodings: Iterable[str]) -> Iterator[_Reading]:
    """Yield the readings of a sample, also those where its first character was cut in two."""
    for encoding in encodings:
        yield from _reading(data, encoding, encoding, 0.0)
        if encoding in _UTF16:
            yield from _reading(data[1:], encoding, "", _CUT_END)
        elif encoding in _DOUBLE_BYTE and data[:1] > b"\x7f" and data[1:2] > b"\x7f":
            yield from _reading(data[1:], encoding, "", _CUT_START)


def _reading(data: bytes, encoding: str, name: str, penalty: float) -> Iterator[_Reading]:
    text, left = _read(data, encoding)
    if text and not _is_binary(text):
        counts = Counter(text)
        judged = [(*language.judge(text, counts), language.limit) for language in _languages()]
        cost, mean, limit = min(judged, key=lambda found: (found[1] > found[2], found[0]))
        wide = sum(count for character, count in counts.items() if character > "\x7f")
        if encoding in _NEED_MORE and wide and len(counts) < 12:
            name = ""
        cut = _CUT_END if left and len(data) < _SAMPLE else 0.0
        yield _Reading(name, text, cost + penalty + cut, mean, mean <= limit, wide)


def _judge(readings: list[_Reading], claimed: str) -> str:
    """Return the encoding of the reading to trust, "" if there is none."""
    ranked = sorted((r for r in readings if r.plausible), key=lambda reading: reading.cost)
    best = ranked[0] if ranked else None
    rivals = [reading for reading in ranked if best and reading.text != best.text]
    clear = best is not None and (not rivals or rivals[0].cost - best.cost >= _MARGIN)
    found = best.encoding if best and clear else ""
    own = next((reading for reading in readings if reading.encoding == claimed), None)
    if own is None or not claimed or own.mean > _DECLARED_PLAUSIBLE:
        return found
    if not best or not found:
        return claimed
    differing = sum(mine != its for mine, its in zip(own.text, best.text, strict=False))
    return found if own.cost - best.cost > max(_DECLARED_LEAD, differing) else claimed


# --- How likely a text is ------------------------------------------------------------------------

# Characters in the order of their use in running text; the exact order does not matter.
_SIMPLIFIED = (
    "的一是不了在人有我他这中大来上国为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多"
    "天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两与及或其"
    "法间长现进实定理体制度力高分部把等样情全问由使关点正业外将因此但最新各市平明月它产工种性们加应义电"
    "水合名系报次战相内数化几原表第工向信重反建立利机资条更并位件让变通据区管路员认结该军至四论流期提题"
    "政接量气风品物己意世每被北京海五使给美特她比较直打听真记干给西请别今话教字师山车张女做请先书放"
)
_TRADITIONAL = (
    "的一是不了在人有我他這中大來上國為子和你地出道也時年得就那要下以生會自著去之過家學對可她裡後小麼心多"
    "天而能好都然沒日於起還發成事只作當想看文無開手十用主行方又如前所本見經頭面公同三已老從動兩與及或其"
    "法間長現進實定理體制度力高分部把等樣情全問由使關點正業外將因此但最新各市平明月它產工種性們加應義電"
    "水合名系報次戰相內數化幾原表第向信重反建立利機資條更並位件讓變通據區管路員認結該軍至四論流期提題"
    "政接量氣風品物己意世每被北京海五給美特比較直打聽真記西請別今話教字師山車張女做先書放灣臺台份"
)
_KANJI = (
    "日一人年大国会出本中生上見事分時行者自社前地間合東手方気私学後部今思下高場来言業入長所内食用同力新"
    "物円作法度目子小三二体動理全的金問電当通性化表現明代不民市対定主題意回成教作実話書立持開月最使原世"
    "名機品用変正発加関心水多進取近数組"
)
_HANGUL = (
    "이다는을의에가를은한하고로지기서사도인그대자어해리시나스있정수일전주제것과아라원보으들부만장상조국적여"
    "었우면구오용성동비모안공연거진소유무위치중선경신않게야관내세재생마까와때니되할된식학문방발통미개계분"
)
_HIRAGANA_COMMON = "のにはをたがでとしるいてなかれもこさらすり"
_ASCII_COSTS = (
    dict.fromkeys(map(chr, range(32)), 14.0)
    | dict.fromkeys(map(chr, range(32, 127)), 4.6)
    | dict.fromkeys("abcdefghijklmnopqrstuvwxyz ", 3.0)
    | {"\n": 4.0, "\r": 4.0, "\t": 4.6, "\f": 6.0, "\x7f": 14.0}
)
_UNKNOWN = 16.0  # nats
_STRANGER = 20.0
_PRIVATE = re.compile("[\x7f-\x9f\ue000-\uf8ff\ufff0-\uffff]")
_WIDE_SIGNS = (
    "０-９Ａ-Ｚａ-ｚ①-⑳　→←↑↓■□●○◎★☆◆◇▲△▼▽※×÷±≥≤≠∞℃°％＋－＝＜＞＆＊＃＠／～〜＿｜￥〔〕〈〉"
)


@dataclass(frozen=True)
class _Language:
    """How likely each character is in texts of a language, in nats; and what it seldom does."""

    costs: dict[str, float]
    limit: float = _PLAUSIBLE  # most nats per character beyond ASCII
    seldom: re.Pattern[str] | None = None
    fine: float = 0.0  # nats for each match of `seldom`

    def judge(self, text: str, counts: Counter[str]) -> tuple[float, float]:
        """Return the cost of a text and that of a character beyond ASCII."""
        ascii_cost = wide_cost = 0.0
        wide = 0
        for character, count in counts.items():
            if character <= "\x7f":
                ascii_cost += count * _ASCII_COSTS[character]
            else:
                wide_cost += count * self._cost(character)
                wide += count
        if self.seldom is not None:
            wide_cost += self.fine * len(self.seldom.findall(text))
        return ascii_cost + wide_cost, wide_cost / wide if wide else 0.0

    def _cost(self, character: str) -> float:
        cost = self.costs.get(character)
        if cost is None:
            return _STRANGER if _PRIVATE.match(character) else _UNKNOWN
        return cost


@cache
def _languages() -> tuple[_Language, ...]:
    signs = (_span(_WIDE_SIGNS), 0.006)
    marks = [("，。", 0.1), ("、；：？！“”‘’（）《》—…·「」『』【】", 0.05), signs]
    hanzi = [(_plane("gb2312", 0xB0, 0xD7), 0.45), (_plane("gb2312", 0xD8, 0xF7), 0.01)]
    hanzi_hk = [(_plane("big5hkscs", 0xA4, 0xC6), 0.45), (_plane("big5hkscs", 0xC9, 0xF9), 0.01)]
    kanji = [(_plane("euc_jp", 0xB0, 0xCF), 0.16), (_plane("euc_jp", 0xD0, 0xF4), 0.003)]
    kana = [(_HIRAGANA_COMMON, 0.33), (_span("ぁ-んゝゞ"), 0.15), (_span("ァ-ヶー・ヽヾ"), 0.1)]
    hangul = [(_plane("euc_kr", 0xB0, 0xC8), 0.3), (_span("가-힣"), 0.005)]
    cyrillic = [("оеаинтсрвл", 0.65), ("кмдпуяыьгзбч", 0.26), ("йхжшюцщэфъё", 0.06)]
    cyrillic += [(_span("А-ЯЁ"), 0.03), ("іїєґў", 0.02), ("ІЇЄҐЎ«»“”„–—№\xa0", 0.02)]
    accents = [
        ("ÄÖÜÉÀÈÇÊÅØ", 0.01),
        ("éèàçêôîâùûëïüäößñáíóúåæøœ", 0.08),
        ("’‘“”„‚«»–—…•°§€£©®™·´¿¡\xa0", 0.03),
    ]
    central = [("ąćęłńśźżčďěňřšťůžýőűşğıțșăāēīūļķ", 0.08), (_span("À-ÖØ-ÞĀ-ſ¼½¾¹²³µ±×÷"), 0.01)]
    lone: Any = {"seldom": _LONE_WIDE, "fine": 16.0}
    others = ["ά-ώΐΑ-Ω", "א-ת", "ء-ي،؟ـ", "ก-๙"]
    return (
        _Language(_costs((_SIMPLIFIED, 0.38), *hanzi, *marks), **lone),
        _Language(_costs((_TRADITIONAL, 0.38), *hanzi_hk, *marks), **lone),
        _Language(_costs((_KANJI, 0.14), *kana, *kanji, ("、。", 0.07), *marks[1:]), **lone),
        _Language(_costs((_HANGUL, 0.65), *hangul, *marks), **lone),
        _Language(_costs(*cyrillic), 3.9, _ODD_CYRILLIC, 6.0),
        _Language(_costs(*accents, *central), 10.0, _ACCENT_PAIR, 7.0),
        *(_Language(_costs((_span(span), 0.9))) for span in others),
    )


def _costs(*classes: tuple[str, float]) -> dict[str, float]:
    """Turn (characters, share in running text) into nats; the first class of a character counts."""
    costs: dict[str, float] = {}
    for characters, share in classes:
        cost = math.log(len(set(characters)) / share)
        for character in characters:
            costs.setdefault(character, cost)
    return costs


def _plane(encoding: str, first: int, last: int) -> str:
    """Return the characters whose lead byte is in a range: the standards sort them by use."""
    codes = (bytes((lead, trail)) for lead in range(first, last + 1) for trail in range(64, 255))
    return "".join(code.decode(encoding, "ignore") for code in codes)


def _span(spans: str) -> str:
    """Return the characters of spans such as "a-z0-9"."""
    return re.sub(
        "(.)-(.)", lambda ends: "".join(map(chr, range(ord(ends[1]), ord(ends[2]) + 1))), spans
    )
