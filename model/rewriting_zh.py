"""Chinese follow-ups: what 它 stands for, and which part of a question is exchanged.

Works on characters: a topic stands at the beginning of a Chinese question, before the first word
that asks or states something. What that does not settle is left alone: `rewrite` returns None.
"""

import re

_ASKS = (
    r"什么时候|什么地方|什么|何时|何地|哪一年|哪年|哪里|哪儿|哪些|哪个|哪|为什么|为何|怎么样|怎么|怎样|如何"
    r"|多少|多久|多高|多大|多长|多远|多深|多宽|多重|几|谁"
)
_OPENING = re.compile(r"^(?:那么|那|而|还有|另外|请问|请)[，,]?")
_PRONOUN = re.compile(r"它们|它|他们|她们|他|她|牠")
_OF_PERSONS = frozenset("他她")
# 其他, 吉他: no pronouns.
_NO_PRONOUN = re.compile(r"其[他它]|吉他|他人|他乡|维他命")
_ELLIPSIS = re.compile(r"^(?:那么|那|而|还有)?[，,]?(?P<part>[^，,。？?]{1,20}?)呢[？?]?$")
_YEAR = re.compile(
    r"(?:\d{4}|[一二三四五六七八九〇零]{4})年|(?:去|今|明|前)年|\d{1,2}月|\d{1,2}世纪"
)
_PREDICATE = re.compile(
    rf"有(?:{_ASKS})|是(?:{_ASKS})|是不是|是否|由谁|被谁|在(?:{_ASKS})|会(?:{_ASKS})"
    rf"|能(?:{_ASKS})|要(?:{_ASKS})|{_ASKS}|位于|建于|[要需会能可][^的]{{1,4}}(?:{_ASKS})"
)
_DEFINITION = re.compile(r"^(?:什么|谁)(?:是|叫)(?P<topic>.+?)[？?]?$")
_MADE = re.compile(r"^(?:是)?谁(?P<verb>\w{1,3})了(?P<topic>.+?)[？?]?$")
_TOLD = re.compile(r"^(?:介绍一下|介绍|说说|讲讲|解释一下|解释)(?P<topic>.+?)[。？?]?$")
_TITLE = re.compile(r"《[^》]{1,40}》")
_PROPERTY = re.compile(rf"^(?P<topic>.+?)的(?P<property>[^的]{{1,6}}?)(?:是|有)?(?=(?:{_ASKS}))")
# Properties that a thing has; 呢 after one asks for it, after anything else for another thing.
_PROPERTIES = re.compile(
    r"(?:面积|人口|高度|长度|宽度|深度|重量|密度|体积|价格|费用|成本|时间|地点|位置|作者|原因|原理|用途|作用|优点"
    r"|缺点|历史|首都|温度|速度|年龄|职业|国籍|收入|产量|熔点|沸点|颜色|期限|票价|意义|区别|定义|特点)$"
)
# A question without a subject: it asks something, a short verb may follow, and nothing else.
_WITHOUT_SUBJECT = re.compile(
    rf"^(?P<asked>(?:是|有|由|在)?(?:{_ASKS})(?:可以|能|会|要)?[^的了谁什哪多几]{{0,2}}(?P<ending>[的了]?))[？?]?$"
)
# Too little to tell what is asked, or asked of the moment: 几点了.
_TOO_SHORT = re.compile(
    r"^(?:(?:为什么|为何|怎么|怎样|如何|什么|哪个|哪|几|多少|怎么样|谁)|几[点号].?)[？?]?$"
)


def rewrite(question: str, before: str, answer: str) -> str | None:
    """Return the question as it stands alone, None if that is not certain or nothing to do.

    Args:
        question: What is asked now.
        before: The question asked before, which stands alone.
        answer: The answer it got, "" if none.
    """
    if found := _ELLIPSIS.match(question):
        return _completed(found["part"].strip(), before)
    if _NO_PRONOUN.search(question):
        return None
    if found := _PRONOUN.search(question):
        return _resolved(question, found, before, answer)
    return _with_subject(_OPENING.sub("", question), before)


def topic(question: str) -> str | None:
    """Return what a question is about, in its own words; None if that is not certain."""
    titles: set[str] = set(_TITLE.findall(question))
    if len(titles) == 1:
        return titles.pop()
    text = _OPENING.sub("", question)
    for pattern in (_DEFINITION, _TOLD, _MADE):
        if found := pattern.match(text):
            return _noun(found["topic"])
    if found := _PROPERTY.match(text):
        return _noun(_without_time(found["topic"]))
    if (found := _PREDICATE.search(text)) and found.start():
        return _noun(_without_time(text[: found.start()]))
    return None


def _noun(text: str) -> str | None:
    text = text.strip("，, 的")
    doubtful = _PRONOUN.search(text) or re.search(rf"{_ASKS}|[，。？和与]", text)
    return text if 1 <= len(text) <= 16 and not doubtful else None


def _without_time(text: str) -> str:
    return _YEAR.sub("", text)


# --- Pronouns and missing subjects ---------------------------------------------------------------


def _resolved(question: str, found: re.Match[str], before: str, answer: str) -> str | None:
    if _names_something(_OPENING.sub("", question[: found.start()])):
        return None
    meant = _person(before, answer) if found[0][0] in _OF_PERSONS else topic(before)
    if meant is None:
        return None
    return _OPENING.sub("", question[: found.start()]) + meant + question[found.end() :]


def _names_something(text: str) -> bool:
    """Tell whether a noun stands there that a later pronoun may refer to."""
    import rjieba  # loads its dictionary on import: 0.4 s

    return any(tag.startswith("n") for _, tag in rjieba.tag(text)) if text else False


def _person(before: str, answer: str) -> str | None:
    """Return the one person that was spoken of."""
    spoken = answer if "谁" in before else before
    people = set(_people(spoken)) - (set(_people(before)) if spoken is answer else set())
    return people.pop() if len(people) == 1 else None


def _people(text: str) -> list[str]:
    import rjieba

    return [word for word, tag in rjieba.tag(text) if tag.startswith("nr") and len(word) > 1]


def _with_subject(question: str, before: str) -> str | None:
    """Put the topic before a question that has no subject of its own."""
    found = _WITHOUT_SUBJECT.match(question)
    if found is None or _TOO_SHORT.match(question):
        return None
    meant = topic(before)
    if meant is None:
        return None
    needs_is = found["ending"] == "的" and not question.startswith("是")
    return meant + ("是" if needs_is else "") + question


# --- Ellipsis ------------------------------------------------------------------------------------


def _completed(part: str, before: str) -> str | None:
    """Return the question before with the one part exchanged that is named now."""
    own = _PRONOUN.match(part)
    if own and not part[own.end() :].startswith("的"):
        return None  # 那它呢: nothing says what is asked of it
    part = part[own.end() + 1 :] if own else part
    if _PRONOUN.search(part) or re.search(_ASKS, part):
        return None
    time = _YEAR.fullmatch(part.removeprefix("在").removeprefix("到"))
    if time:
        return _with_time(before, time[0])
    if _PROPERTIES.search(part):
        return _with_property(before, part)
    old = topic(before)
    if old is None or before.count(old) != 1 or not _is_noun(part):
        return None
    return before.replace(old, part)


def _is_noun(text: str) -> bool:
    """Tell whether a text names a thing and says nothing of it."""
    import rjieba

    tags = [tag for _, tag in rjieba.tag(text)]
    says = any(tag[0] in "dpry" or tag in ("v", "c", "ul") for tag in tags)
    return bool(_TITLE.fullmatch(text)) or not says


def _with_time(before: str, time: str) -> str | None:
    times = _YEAR.findall(before)
    if len(times) > 1:
        return None
    return before.replace(times[0], time) if times else time + before


def _with_property(before: str, part: str) -> str | None:
    """Ask for another property of the same thing."""
    if found := _PROPERTY.match(before):
        return before[: found.start("property")] + part + before[found.end("property") :]
    meant = topic(before)
    return f"{meant}的{part}是多少？" if meant else None
