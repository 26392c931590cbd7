"""Statements out of questions and sentences, by rules that act only where they are sure.

    statement("Who built the Zarnith bridge?", "Ola Fenn", "en")  # "Ola Fenn built the ..."
    statement("扎尼斯大桥是谁建造的？", "欧拉", "zh")               # "扎尼斯大桥是欧拉建造的。"

Where no rule is sure the answer is None and the caller keeps another form: a crooked claim teaches
a verifier to tell crooked from straight. Knows nothing of evidence or labels.
"""

import itertools
import random
import re

_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_BE = "is|was|are|were"
_AUXILIARY = rf"{_BE}|did|do|does|has|have|had|can|could|will|would|should|may|might|must"
_HANGING = re.compile(  # the answer would belong after this word, within a clause of its own
    r"\b(?:of|in|on|at|to|for|with|by|from|as|about|than|into|under|over|do|have|be|like)$"
    r"|\b(?:called|named|known|used|made|considered|located|referred)\b"
)
_PARTICIPLE = (
    r"\w+ed|born|built|held|founded|written|made|won|sold|sent|begun|known|given|taken|shown"
)


def statement(question: str, answer: str, language: str) -> str | None:
    """Return the statement that a question and its answer make, or None where no rule is sure."""
    question, answer = question.strip(), answer.strip().rstrip(".。")
    return _chinese(question, answer) if language == "zh" else _english(question, answer)


# --- English --------------------------------------------------------------------------------------


def _english(question: str, answer: str) -> str | None:
    asked = question.rstrip("? ")
    for rule in (_who, _of_what, _how_many, _when, _where):
        if said := rule(asked, answer):
            return f"{said[0].upper()}{said[1:]}."
    return None


def _who(asked: str, answer: str) -> str | None:
    """Turn "Who built it" into "Ola built it"; "Who did Ola meet" would need another order."""
    match = re.fullmatch(r"(?:Who|Whom) (\w+) (.+)", asked)
    if not match or _HANGING.search(asked) or len(answer.split()) > 8:
        return None
    verb = match[1]
    if verb == "else" or not re.match(r"[A-Z0-9]|the ", answer):
        return None
    if re.fullmatch(_AUXILIARY, verb) and not re.fullmatch(_BE, verb):
        return None
    if re.fullmatch(_BE, verb) and not re.match(r"(?:the|an?) |\w+ed by ", match[2]):
        return None  # "Who was Ola": here Ola is not the answer
    return f"{answer} {verb} {match[2]}"


def _of_what(asked: str, answer: str) -> str | None:
    """Turn "What is the name of the bridge" into "The name of the bridge is Zarnith"."""
    match = re.fullmatch(rf"What ({_BE}) (the [\w' -]+? of .+)", asked)
    if not match or _HANGING.search(asked) or re.search(rf"\b(?:{_AUXILIARY})\b", match[2]):
        return None
    return f"{match[2]} {match[1]} {answer}"


def _how_many(asked: str, answer: str) -> str | None:
    """Turn "How many people live there" into "300 people live there"."""
    match = re.fullmatch(r"How many ((?:\w+ )+)(.+)", asked)
    if not match or not re.search(r"^[\d,.]+(?: \w+){0,3}$|^\w+$", answer):
        return None
    if there := re.fullmatch(rf"How many (.+?) ({_BE}) there\b(.*)", asked):
        return f"there {there[2]} {_without_noun(answer, there[1])} {there[1]}{there[3]}"
    if re.search(rf"\b(?:{_AUXILIARY})\b", asked) or _HANGING.search(asked):
        return None
    return f"{_without_noun(answer, match[1])} {asked.removeprefix('How many ')}"


def _without_noun(answer: str, nouns: str) -> str:
    """Return "300" of "300 people" where the question says "people" already."""
    words = answer.split()
    while len(words) > 1 and words[-1].lower() in nouns.lower().split():
        words.pop()
    return " ".join(words)


def _when(asked: str, answer: str) -> str | None:
    """Turn "When was it built" into "It was built in 1973"."""
    match = re.fullmatch(
        rf"(?:When|In what year|What year) ({_BE}) (.+?) ({_PARTICIPLE})( .+)?", asked
    )
    if not match or _HANGING.search(asked):
        return None
    if re.fullmatch(r"\d{4}s?", answer) or re.fullmatch(rf"(?:{_MONTHS}) \d{{4}}", answer):
        answer = f"in {answer}"
    elif re.match(rf"(?:{_MONTHS}) \d", answer):
        answer = f"on {answer}"
    elif not re.match(r"(?:in|on|at|by|during|after|before|since|from|between) ", answer):
        return None
    return f"{match[2]} {match[1]} {match[3]}{match[4] or ''} {answer}"


def _where(asked: str, answer: str) -> str | None:
    """Turn "Where is it located" into "It is located in Zarnith"."""
    match = re.fullmatch(rf"Where ({_BE}) (.+?) (located|born|held|built|found|based)", asked)
    if not match:
        return None
    has_place = re.match(r"(?:in|on|at|near|along|between|within|outside|north|south)\b", answer)
    return f"{match[2]} {match[1]} {match[3]} {answer if has_place else f'in {answer}'}"


# --- Chinese --------------------------------------------------------------------------------------

_WHEN = "什么时候|什麼時候|甚麼時候|何时|何時|什么时间|什麼時間|哪一?年|哪一?天"
_PLACE = "哪里|哪裡|哪儿|哪兒|什么地方|什麼地方|何处|何處"
_WHAT = "什么|什麼|甚麼"
_ASKS = re.compile(rf"{_WHEN}|{_PLACE}|谁|誰|多少|{_WHAT}")
_OTHER_ASKING = re.compile(
    r"哪|吗|嗎|呢|怎|如何|是否|为何|為何|几|幾|么样|麼樣|介绍|介紹|为什|為什"
)
_ASIDE = re.compile(r"^(?:请问|請問)|(?:呀|啊|呢)$")


def _chinese(question: str, answer: str) -> str | None:
    """Put the answer in the place of the one question word."""
    asked = _ASIDE.sub("", question.rstrip("?？。 "))
    found = list(_ASKS.finditer(asked))
    if len(found) != 1 or len(answer) > 24 or re.search(r"[，。；]", answer):
        return None
    head, word, tail = asked[: found[0].start()], found[0].group(), asked[found[0].end() :]
    if _OTHER_ASKING.search(head + tail):
        return None
    if not _fits(word, answer, head, tail):
        return None
    return f"{_joined(_joined(head, answer), tail)}。"


def _fits(word: str, answer: str, head: str, tail: str) -> bool:
    """Tell whether the answer is of the kind that the question word stands for."""
    if re.fullmatch(_WHEN, word):
        return bool(re.search(r"\d|年|月|日|世纪|世紀|时期|時期", answer))
    if word == "多少":
        return bool(re.search(r"[\d一二三四五六七八九十百千万]", answer)) and (
            not tail or tail[0] in "的，" or answer.endswith(tail[0]) or answer[-1].isdigit()
        )
    if word in _WHAT.split("|"):
        # Before a noun ("什么比赛") only if the answer ends with that noun.
        return not tail or tail[0] in "，的" or answer.endswith(tail[:2])
    return not re.search(r"\d", answer)


def _joined(head: str, tail: str) -> str:
    """Join two texts, writing once what ends the one and begins the other: 500人 + 人口."""
    for size in range(min(len(head), len(tail), 6), 0, -1):
        if head.endswith(tail[:size]):
            return head + tail[size:]
    return head + tail


# --- Sentences ------------------------------------------------------------------------------------

_BRACKETS = re.compile(r"\s*[（(\[][^（）()\[\]]*[）)\]]")
_TAIL_CLAUSE = re.compile(r",? (?:which|although|while|but|including|such as) [^,]*\.?$|; .*$")
_OPENING = re.compile(r"^((?:In|On|By|During|Since) [^,]{3,40}), (?=[A-Zt])(.+?)\.?$")
_CHINESE_OPENING = re.compile(
    r"^(?:由于|由於|因为|因為|虽然|雖然|为了|為了|如果|若|当|當|随着|隨著|除|尽管|儘管|在)"
)


def lightened(sentence: str, language: str, generator: random.Random) -> str | None:
    """Return a sentence a little changed so that it still says what is so, or None.

    Brackets go, an opening phrase moves to the end, a subordinate clause at the end goes: each with
    an even chance, so that whole sentences occur too.
    """
    text = _BRACKETS.sub("", sentence).strip() if generator.random() < 0.7 else sentence.strip()
    if language == "zh":
        clauses = re.split(r"[，；]", text.rstrip("。！"))
        if len(clauses) > 1 and generator.random() < 0.6 and not _CHINESE_OPENING.match(text):
            kept = text[: text.rfind(clauses[-1]) - 1]
            text = f"{kept}。" if len(kept) >= 10 else text
        return text if 9 <= len(text) <= 90 and text.endswith("。") else None
    if generator.random() < 0.6:
        text = _TAIL_CLAUSE.sub(".", text)
    if (match := _OPENING.match(text)) and generator.random() < 0.6:
        opening, rest = match[1][0].lower() + match[1][1:], match[2]
        text = f"{rest[0].upper()}{rest[1:]} {opening}."
    return text if 6 <= len(text.split()) <= 45 and text.endswith(".") else None


_NOT = re.compile(r"\b(is|was|are|were|has|had|have|could|will|would|did|does|do|can) ?not\b")
_CAN_DENY = re.compile(
    r"\b(?:is|was|are|were|could|will|would)\b(?! not)|\b(?:has|have|had)(?= (?:been|\w+ed)\b)"
)
_CHINESE_NOT = {"不是": "是", "没有": "有", "沒有": "有", "不能": "能", "不会": "会", "不會": "會",
                "不可以": "可以", "并非": "是", "並非": "是"}  # fmt: skip
_CHINESE_IS = {"是": "不是", "有": "没有", "能": "不能", "能够": "不能", "会": "不会", "會": "不會",
               "可以": "不可以"}  # fmt: skip


def negated(sentence: str, language: str) -> str | None:
    """Return a sentence that denies what this one states, or states what it denies, or None."""
    if language == "en":
        if match := _NOT.search(sentence):
            return sentence[: match.start()] + match[1] + sentence[match.end() :]
        if re.search(r"\b(?:no|never|none|neither|nor)\b|n't", sentence):
            return None  # two negations would make it true again
        match = _CAN_DENY.search(sentence)
        return f"{sentence[: match.end()]} not{sentence[match.end() :]}" if match else None
    import rjieba  # loads its dictionary on import: 0.4 s

    words: list[str] = rjieba.cut(sentence)
    for table in (_CHINESE_NOT, _CHINESE_IS):
        for place, word in enumerate(words):
            if word in table:
                return "".join([*words[:place], table[word], *words[place + 1 :]])
    return None


_PROPER = r"(?:The )?[A-Z][\w'’-]+(?: (?:of )?[A-Z][\w'’-]+){0,3}"
_RELATION = re.compile(
    rf"^({_PROPER})( (?:[a-z]+ ){{0,4}}(?:\w+ed|won|led|beat|wrote|built|took|gave|sold|became)"
    rf" (?:[a-z]+ ){{0,3}})({_PROPER})(.*)$"
)
_SYMMETRIC = re.compile(r"\b(?:and|or|with|between|both|met|married|merged|joined|bordered)\b")
_NAME_TAGS = ("nr", "ns", "nt")
_CHINESE_SYMMETRIC = frozenset("和与與及、或跟同")


def reversed_relation(sentence: str, language: str) -> str | None:
    """Return a sentence whose first two names have changed places around a verb, or None."""
    if language == "en":
        match = _RELATION.match(sentence)
        if not match or _SYMMETRIC.search(match[2]) or match[1] == match[3]:
            return None
        return f"{match[3]}{match[2]}{match[1]}{match[4]}"
    import rjieba

    tagged: list[tuple[str, str]] = rjieba.tag(sentence)
    places = [
        i for i, (word, tag) in enumerate(tagged) if tag.startswith(_NAME_TAGS) and len(word) > 1
    ]
    for left, right in itertools.pairwise(places):
        between = tagged[left + 1 : right]
        has_verb = any(tag.startswith("v") and len(word) > 1 for word, tag in between)
        if not has_verb or any(w in _CHINESE_SYMMETRIC or w in "，；。：" for w, _ in between):
            continue
        if tagged[left][0] == tagged[right][0] or tagged[left][1][:2] != tagged[right][1][:2]:
            continue  # a person does not change places with a town
        words = [word for word, _ in tagged]
        words[left], words[right] = words[right], words[left]
        return "".join(words)
    return None
