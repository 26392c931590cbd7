"""A follow-up becomes a question that can be asked alone.

    before = [Exchange("When was the lighthouse built?", "It was built in 1887.")]
    rewrite("And how tall is it?", before)      -> "How tall is the lighthouse?"

Rules, no model: a pronoun takes the name of what the question before was about, and an elliptic
question ("And in 2020?", "那钟楼呢？") becomes the question before with one part exchanged. Where
it is not plain what is meant, the question stays as it is: a wrong rewriting would answer, with
citations, what nobody asked. A follow-up in the other language stays as it is, too.
Knows nothing of retrieval, prompts or generation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ingest.languages import question_language
from model import rewriting_en, rewriting_zh

LONGEST_FOLLOW_UP = 120  # characters; who writes more says what is meant


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question, in the form that stands alone, and what was answered: "" if nothing was."""

    question: str
    answer: str = ""


def rewrite(question: str, before: Sequence[Exchange]) -> str:
    """Return the question as it would be asked without the conversation; itself if in doubt.

    Args:
        question: In Chinese or English.
        before: The conversation so far, oldest first; only the last exchange counts, for its
            question stands alone already.
    """
    question = question.strip()
    if not before or len(question) > LONGEST_FOLLOW_UP:
        return question
    language, last = question_language(question), before[-1]
    if question_language(last.question) != language:
        return question
    rules = rewriting_zh if language == "zh" else rewriting_en
    return rules.rewrite(question, last.question.strip(), last.answer.strip()) or question
