"""Definitions: which term a question asks the meaning of, and which sentences tell it.

    asked_term("What is the reversal curse?")                              -> "reversal curse"
    definitions_of("什么是词元？", sentences)      -> {4: "词元是一小段文字。" as a `Sentence`}

"X is a ...", "X means ...", "... is called X", "X 是指 ……", "…… 叫做 X": closed lists of words, no
parser. What they miss is not preferred to other sentences, and nothing else happens to it. Knows
nothing of how likely a sentence is to answer.
"""

import re
from collections.abc import Sequence

from model.evidence import Sentence, normalise

_OF_SOMETHING = r"of|in|for|by|at|on|to|from|his|her|its|their|my|your|our|this|that"
_ASKS_DEFINITION = re.compile(
    r"^(?:so |and )?(?:what(?:'s| is| are)|define)(?! \w+ed\b)"
    rf"(?!.*\b(?:the|{_OF_SOMETHING})\b|.*\w's\b)"
    r"(?: [\w&/-]+){1,5} ?\??$|^what does [^?]+ mean ?\??$"
    r"|^(?:请问)?(?:什么是|什么叫|何[谓为])[^的]+$|是什么意思\??$"
)
_ASKED_TERM = re.compile(
    r"(?:so |and )?(?:what(?:'s| is| are)|define) (?:an? |the )?"
    rf"(?!\w+ed\b|.*\b(?:{_OF_SOMETHING})\b|.*\w's\b)([\w&/-]+(?: [\w&/-]+){{0,4}}) ?\??"
    r"|what does (?:an? |the )?([^?]{1,60}?) mean ?\??"
    r"|(?:请问)?(?:什么是|什么叫|何[谓为])([^的,?]{1,30}?)\??"
    r"|(?:请问)?([^的,?]{1,30}?)(?:是|指的?是?|是指)什么(?:意思)?\??"
)
# After the term: what the rest of the sentence says of it is its meaning.
_MEANS = (
    r"(?:means?|refers? to|stands? for|denotes?|(?:is|are) (?:defined as|any|when|how|what|one"
    r"|an?|the(?! (?:\w+est|most|first|last|only|same|main)\b)))\b"
    r"|的?意思是|是指|指的是|即|是(?![不否由在为从被谁什哪])"
)
# Before the term: what the rest of the sentence says is its meaning.
_CALLED = r"\b(?:called|known as|termed) (?:an? |the )?|(?:叫做?|称为|称作|称之为|[这那此]就?是) ?"
_QUOTE = "[\"'“”‘’「」『』《》]?"
_REFERS_BACK = re.compile(r"(?:this|that|these|those|it|such|the result)\b|[这那此该它其]")


def asks_for_definition(question: str) -> bool:
    """Tell whether a question asks what something is, and not for one short fact about it.

    "What is LoRA?" does; "What is the capital of France?" does not.
    """
    return bool(_ASKS_DEFINITION.search(normalise(question).strip()))


def asked_term(question: str) -> str | None:
    """Return the term whose meaning may be asked for, in its form for comparison; else None.

    "What is the deadline?" may ask for a meaning or for a date: the documents decide, by defining
    the term or not.
    """
    found = _ASKED_TERM.fullmatch(normalise(question).strip())
    return next((term.strip() for term in found.groups() if term), None) if found else None


def definitions_of(question: str, sentences: Sequence[Sentence]) -> dict[int, Sentence]:
    """Return by place the sentences that define what is asked, each so that it stands alone.

    One that refers back ("This failure is called the reversal curse.") takes the sentence before
    it along, or is none if that one does not adjoin.
    """
    term = asked_term(question)
    if not term:
        return {}
    name = rf"{_QUOTE}{re.escape(term.removesuffix('s'))}(?:e?s)?{_QUOTE}"
    subject = re.compile(rf"(?:(?:an?|the) )?{name}(?: ?\([^)]*\))? ?(?:{_MEANS})")
    called = re.compile(rf"(?:{_CALLED}){name}\W*$")
    found = {}
    for place, sentence in enumerate(sentences):
        text = normalise(sentence.text)
        if text.endswith("?"):
            continue
        if subject.match(text):
            found[place] = sentence
        elif called.search(text) and (whole := _standing_alone(sentences, place)):
            found[place] = whole
    return found


def _standing_alone(sentences: Sequence[Sentence], place: int) -> Sentence | None:
    """Return a sentence together with the one that it refers to, if it does."""
    sentence = sentences[place]
    if not _REFERS_BACK.match(normalise(sentence.text)):
        return sentence
    before, chunk = sentences[place - 1], sentence.passage.chunk
    gap = chunk.text[before.end - chunk.start : sentence.start - chunk.start]
    if not place or before.passage != sentence.passage or gap.strip():
        return None
    text = chunk.text[before.start - chunk.start : sentence.end - chunk.start]
    return Sentence(sentence.passage, before.start, sentence.end, text)
