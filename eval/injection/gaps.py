"""Questions about documents that take no model to make: sentences with a gap.

    rows = gap_questions(["The lighthouse of Orrin was finished in 1897."])
    rows[0].question  # 'What belongs in the gap: "The lighthouse of Orrin was finished in ____."?'

As in LAMA (Petroni et al. 2019, "Language Models as Knowledge Bases?"), what is missing is a fact:
a number, or a name, which stands nowhere else in the sentence. A passage gives one question at
most, about the last such fact of its first sentence that has one: what stands before the gap says
what is asked for. Knows nothing of what a model can answer.
"""

import re
from collections.abc import Sequence

from ingest.documents import content_id
from ingest.languages import question_language, split_sentences
from model.training.questions import QuestionRow

GAP = "____"
_ASKED = {
    "en": 'What belongs in the gap: "{sentence}"?',
    "zh": "空格处应填什么：“{sentence}”？",
}
_LONGEST = {"en": 220, "zh": 90}  # characters of a sentence
_LEAST_BEFORE = {"en": 20, "zh": 6}  # characters before the gap
_NO_SENTENCE = re.compile(r"[|<>{}]|https?:")  # tables, code and addresses
# A number, or a word of Latin letters with a capital one, joined to others of its kind.
_FACT = re.compile(
    r"(?<![\w.,])\d[\d,]*(?:\.\d+)?%?(?!\w)"
    r"|\b[a-z]*[A-Z][\w-]*[a-zA-Z\d](?:[ ·][A-Z][\w-]*[a-zA-Z\d])*\b",
    re.ASCII,
)


def gap_questions(passages: Sequence[str]) -> list[QuestionRow]:
    """Return at most one question about each passage, in their order."""
    found = (_gap(passage) for passage in passages)
    return [row for row in found if row is not None]


def _gap(passage: str) -> QuestionRow | None:
    language = question_language(passage)
    for start, end in split_sentences(passage):
        sentence = " ".join(passage[start:end].split())
        fact = _fact(sentence, language)
        is_whole = len(sentence) <= _LONGEST[language] and not _NO_SENTENCE.search(sentence)
        if fact is None or not is_whole:
            continue
        with_gap = f"{sentence[: fact.start()]}{GAP}{sentence[fact.end() :]}"
        question = _ASKED[language].format(sentence=with_gap)
        return QuestionRow(question, (fact[0],), passage, content_id(passage), language)
    return None


def _fact(sentence: str, language: str) -> re.Match[str] | None:
    """Return the last number or name that stands once, after enough words."""
    facts = [
        one
        for one in _FACT.finditer(sentence)
        if one.start() >= _LEAST_BEFORE[language]
        and sum(map(str.isalpha, sentence[: one.start()])) > one.start() / 2  # no row of numbers
        and sentence.lower().count(one[0].lower()) == 1
    ]
    return facts[-1] if facts else None
