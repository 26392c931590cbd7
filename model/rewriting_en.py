"""English follow-ups: what a pronoun stands for, and which part of a question is exchanged.

There is no parser here, only closed word lists and the fixed order of English questions. What they
do not settle is left alone. `rewrite` returns None for that.
"""

import re

_ASKING = "who|whom|whose|what|which|when|where|why|how"
_AUXILIARY = (
    "is|are|was|were|do|does|did|can|could|will|would|shall|should|may|might|must|has|have|had"
)
_PREPOSITION = (
    "in|on|at|for|from|by|during|under|with|to|of|after|before|since|until|near|through|about"
)
_YEAR = re.compile(r"\b(?:1\d|20)\d\d\b")
_OPENING = re.compile(r"^(?:(?:and|but|so|ok|okay|then|also|well|now)\b[,\s]*)+", re.IGNORECASE)
_ELLIPSIS = re.compile(
    r"^(?:(?:and|but|so|ok|okay|then)\b[,\s]*)*(?:(?:what|how) about\s+)?(?P<part>.+?)[?.!]*$",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"\b(?P<word>it|its|they|them|their|he|him|his|she|her|hers)\b(?!['’])", re.IGNORECASE
)
_POSSESSIVE = frozenset({"its", "their", "his"})
_OF_PERSONS = frozenset({"he", "him", "his", "she", "her"})
# "Is it true that ...", "it rains": here the pronoun stands for nothing.
_EMPTY_IT = re.compile(
    r"\bit\s+(?:\w+\s+)?(?:true|possible|necessary|likely|important|allowed|worth|raining|late)\b"
    r"|\b(?:is|was|does|did|will)\s+it\s+(?:true|possible|necessary|likely|important|allowed|worth"
    r"|rain|snow|take|matter)\b|\bit\s+(?:rains?|snows?|takes?|seems?|depends?|matters?|called"
    r"|(?:be )?that)\b|\btime is it\b",
    re.IGNORECASE,
)
_NAME = re.compile(
    r"(?:\b[Tt]he\s+)?\b[A-Z][\w’'-]*(?:\s+(?:(?:of|at|and|the|de|von|van)\s+)*[A-Z][\w’'-]*)*"
)
_QUOTED = re.compile(r"“[^”]{1,80}”|\"[^\"]{1,80}\"")
_OPENS = frozenset(
    f"{_ASKING}|{_AUXILIARY}|{_PREPOSITION}|tell|explain|describe|name|list|give|please|and|but|so"
    "|the|a|an|i|it|he|she|they|we|you|there|this|that|yes|no|one|its|their|his|her".split("|")
)
_DETERMINER = r"(?:the|a|an|this|that|these|those|our|your|my)"
_BASE_VERBS = (
    "arise|begin|break|burn|carry|change|close|come|consist|contain|cost|cover|cross|differ|die|do"
    "|drop|earn|end|fail|fall|feed|fly|get|give|go|grow|happen|help|hold|join|keep|know|last|launch"
    "|lead|learn|leave|live|look|lose|make|mean|meet|move|need|nest|occur|offer|open|own|pay|play"
    "|protect|provide|raise|reach|require|rise|run|say|sell|serve|sink|sleep|spread|stand|start"
    "|stop|store|take|teach|tell|travel|use|want|win|work|write|hallucinate|forget|improve|reduce"
)
_CLAUSE = re.compile(
    rf"\b(?:{_ASKING}|{_AUXILIARY}|(?:{_BASE_VERBS})s?|i|we|you|us|this|that|these|those|there|here"
    r"|now|again)\b",
    re.IGNORECASE,
)
_IRREGULAR = (
    "built|made|born|known|found|held|sold|taken|given|seen|begun|kept|left|lost|won|paid|sent|set"
    "|put|read|told|taught|thought|bought|brought|caught|written|run|cut|hit|hurt|shot|torn|worn"
    "|broken|chosen|driven|drawn|spoken|stolen|fed|led|met|laid|said|shown|grown|understood|located"
)
_ENDS_SUBJECT = re.compile(
    rf"\s+(?:(?:{_IRREGULAR}|{_PREPOSITION}|(?!need|speed|seed|feed)\w{{3,}}ed)\b.*|(?:open|closed)$)",
    re.IGNORECASE,
)


def rewrite(question: str, before: str, answer: str) -> str | None:
    """Return the question as it stands alone, None if that is not certain or nothing to do.

    Args:
        question: What is asked now.
        before: The question asked before, which stands alone.
        answer: The answer it got, "" if none.
    """
    if _PRONOUN.search(question):
        return _resolved(question, before, answer)
    return _completed(question, before)


# --- Pronouns ------------------------------------------------------------------------------------


def _resolved(question: str, before: str, answer: str) -> str | None:
    """Return the question with its first pronoun named; the later ones then refer to that name."""
    found = _PRONOUN.search(question)
    if found is None or _EMPTY_IT.search(question) or _names_something(question[: found.start()]):
        return None
    word = found["word"].lower()
    if word in _OF_PERSONS:
        meant = _person(before, answer)
    else:
        meant = _thing(before, answer, plural=word in ("they", "them", "their"))
    if meant is None:
        return None
    rest = question[found.end() :]
    if word in _POSSESSIVE or (word == "her" and re.match(r"\s+(?!(?:\w+ly|and|or)\b)\w", rest)):
        meant += "'" if meant.endswith("s") else "'s"
    return _sentence(_OPENING.sub("", question[: found.start()]) + meant + rest)


def _names_something(text: str) -> bool:
    """Tell whether something stands there that a later pronoun may refer to."""
    text = _OPENING.sub("", text)
    noun = re.search(rf"\b{_DETERMINER}\s+\w|\b\w+(?:’|')s\s", text, re.IGNORECASE)
    return bool(noun or _names(text))


def _person(before: str, answer: str) -> str | None:
    """Return the one person that was spoken of."""
    if re.match(r"who\b|whom\b|which\b", before, re.IGNORECASE):
        return _told(before, answer)
    asked = _names(before)
    return asked[0] if len(asked) == 1 and not asked[0].lower().startswith("the ") else None


def _thing(before: str, answer: str, *, plural: bool) -> str | None:
    """Return the one thing, or with `plural` the one kind of things, that was spoken of."""
    asks_for_it = re.match(r"which\b", before, re.IGNORECASE)
    meant = _told(before, answer) if asks_for_it else topic(before)
    return meant if meant and _is_plural(meant) == plural else None


def _told(before: str, answer: str) -> str | None:
    """Return the one name that the answer brought."""
    asked = _names(before)
    told = [name for name in _names(answer) if all(name not in other for other in asked)]
    return told[0] if len(told) == 1 else None


def _is_plural(name: str) -> bool:
    head = re.split(rf"\s(?:{_PREPOSITION})\s", name)[0].split()[-1].lower()
    return head == "people" or (head.endswith("s") and not head.endswith(("ss", "us", "is")))


# --- What a question is about --------------------------------------------------------------------


def topic(question: str) -> str | None:
    """Return what a question is about, in its own words; None if that is not certain."""
    names = _main_names(question)
    if names:
        return names[0] if len(names) == 1 else None
    text = question.rstrip("?.! ")
    for pattern in _SUBJECTS:
        if found := pattern.match(text):
            return _noun_phrase(found["noun"])
    return None


def _main_names(question: str) -> list[str]:
    """Return the names in a question; of several, not those that only tell where or when."""
    names = _names(question)
    if len(names) > 1:
        aside = re.compile(r"\b(?:in|on|at|from|to|by|near|through|for)\s+$", re.IGNORECASE)
        main = [name for name in names if not aside.search(question[: question.find(name)])]
        names = main or names
    return names


def _names(text: str) -> list[str]:
    """Return quoted titles, else capitalised names, each once, less what opens sentences."""
    if quoted := _QUOTED.findall(text):
        return list(dict.fromkeys(quoted))
    names: dict[str, None] = {}
    for found in _NAME.finditer(text):
        words = found[0].split()
        article = words[0].lower() == "the" and len(words) > 1
        starts = re.search(r"(?:^|[.!?:]\s+)[\"'“‘(]*$", text[: found.start()]) is not None
        while words and not article and starts and words[0].lower() in _OPENS:
            words.pop(0)
            starts = False
        if article and starts:  # "The Olm is long": no part of the name
            words[0] = "the"
        name = " ".join(words).removesuffix("'s").removesuffix("’s")
        if words and name.lower() not in _OPENS and (not starts or len(words) > 1 or name[1:]):
            names[name] = None
    return list(names)


_NOUN = r"(?P<noun>.+)"
_SUBJECTS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:please )?(?:tell me|explain|describe|what do you know)(?: more)? about {_NOUN}$",
        rf"(?:please )?(?:explain|describe|define) {_NOUN}$",
        rf"(?:who|what) (?:is|are|was|were) the [\w-]+(?: [\w-]+)? of {_NOUN}$",
        rf"(?:who|what) (?:is|are|was|were) {_NOUN}$",
        rf"how \w+ (?:is|are|was|were) {_NOUN}$",
        rf"(?:{_ASKING})(?: (?:much|many|often|long|far))?(?: \w+)? (?:do|does|did|can|could|will"
        rf"|would|should|must|may) (?P<noun>{_DETERMINER} .+?|[\w-]+(?: [\w-]+)?)"
        rf" (?:{_BASE_VERBS})\b.*$",
        rf"(?:when|where|how|why)(?: \w+)? (?:is|are|was|were) {_NOUN}$",
        rf"who \w+(?:ed|ote|ilt|ound|ew|ade|ent|ead|uns|ns) (?P<noun>{_DETERMINER} .+)$",
    )
)


def _noun_phrase(text: str) -> str | None:
    """Return a noun phrase less the participle or phrase after it; None if it is none."""
    text = _ENDS_SUBJECT.sub("", text).strip()
    words = text.split()
    if not 1 <= len(words) <= 5 or _CLAUSE.search(text) or _PRONOUN.search(text):
        return None
    if re.fullmatch(_DETERMINER, text, re.IGNORECASE):
        return None
    return text[0].lower() + text[1:] if words[0].lower() in _OPENS else text


# --- Ellipsis ------------------------------------------------------------------------------------


def _completed(question: str, before: str) -> str | None:
    """Return the question before with the one part exchanged that is named now."""
    found = _ELLIPSIS.match(question)
    bare = found and question[: found.start("part")].strip() == ""
    if found is None or bare or _CLAUSE.search(found["part"]) or len(found["part"].split()) > 6:
        return None
    part = found["part"].strip()
    phrase = re.fullmatch(rf"(?P<preposition>{_PREPOSITION})\s+(?P<noun>.+)", part, re.IGNORECASE)
    if _YEAR.fullmatch(phrase["noun"] if phrase else part):
        return _with_year(before, part, phrase is not None)
    if phrase:
        return _with_phrase(before, phrase["preposition"].lower(), phrase["noun"])
    return _with_noun(before, part)


def _with_year(before: str, part: str, is_phrase: bool) -> str | None:
    years = _YEAR.findall(before)
    if len(years) == 1:
        found = _YEAR.search(part)
        return before.replace(years[0], found[0] if found else part)
    return _appended(before, part) if not years and is_phrase else None


def _with_phrase(before: str, preposition: str, noun: str) -> str | None:
    """Exchange what follows the same preposition, else add the phrase at the end."""
    places = [
        found
        for found in re.finditer(rf"\b{preposition}\s+", before, re.IGNORECASE)
        if not _YEAR.match(before, found.end())
    ]
    if len(places) > 1:
        return None
    if not places:
        return None if preposition == "of" else _appended(before, f"{preposition} {noun}")
    start = places[0].end()
    stop = re.compile(rf"\s+(?:{_PREPOSITION})\b|[?.!]|$").search(before, start)
    return before[:start] + noun + before[stop.start() if stop else len(before) :]


def _with_noun(before: str, noun: str) -> str | None:
    """Exchange the topic: a name for a name, else what the question is about."""
    if about := re.search(r"\babout\s+(?P<old>[^?.!]+)", before):
        return before[: about.start("old")] + noun + before[about.end("old") :]
    attribute = re.match(r"(?P<head>what (?:is|are|was|were) the )(?P<old>[\w-]+)(?= of )", before,
                         re.IGNORECASE)  # fmt: skip
    if attribute and re.match(r"(?:the|its|their)\s", noun, re.IGNORECASE):
        return attribute["head"] + noun.split(" ", 1)[1] + before[attribute.end() :]
    old = topic(before)
    if old is None or before.count(old) != 1:
        return None
    return before.replace(old, noun)


def _appended(before: str, phrase: str) -> str:
    body = before.rstrip("?.! ")
    return f"{body} {phrase}{before[len(body) :].strip() or '?'}"


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:]
