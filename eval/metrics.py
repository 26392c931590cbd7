"""Metrics of answers, of their citations and of what training forgets: pure functions.

English follows SQuAD's official script (Rajpurkar et al. 2018, evaluate-v2.0.py), Chinese that of
CMRC 2018 (Cui et al. 2019, cmrc2018_evaluate.py). Where a question has several gold answers the
best one counts. Knows nothing of models, files or intervals. `eval/outcomes.py` has the rates of
right, wrong and unanswered, `eval/confidence.py` measures confidences, `eval/rankings.py` rankings.

    f1("in the year 1973", ["1973"], "en")  # 0.5
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ingest.languages import split_sentences

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION = frozenset(string.punctuation)
# CMRC's own list, then the sentence marks it leaves to nltk's tokenizer, which we do without.
_CHINESE_PUNCTUATION = frozenset(
    "-:_*^/\\~`+=，。：？！“”；’《》…·、「」（）－～『』" + ",!?;'\"()[]{}‘【】〈〉—–．"
)
_LONE_FULL_STOP = re.compile(r"(?<!\d)\.|\.(?!\d)")  # not the point of 3.5
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_SEGMENT = re.compile(rf"[{_HAN}]|[^{_HAN}\s]+")
_WORD = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+")


def normalise(text: str, language: str) -> str:
    """Return the text as exact match compares it: SQuAD's rule, or CMRC's for "zh"."""
    text = text.lower()
    if language == "zh":
        kept = (c for c in _LONE_FULL_STOP.sub("", text) if c not in _CHINESE_PUNCTUATION)
        return "".join(kept).strip()
    text = "".join(c for c in text if c not in _ASCII_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def segments(text: str, language: str) -> list[str]:
    """Return what F1 counts: English words, or CMRC's mix of single Han and whole Latin words."""
    text = normalise(text, language)
    return _SEGMENT.findall(text) if language == "zh" else text.split()


def exact_match(prediction: str, answers: Sequence[str], language: str) -> float:
    """Return 1.0 if the prediction equals a gold answer once both are normalised, else 0.0."""
    wanted = normalise(prediction, language)
    return float(any(wanted == normalise(answer, language) for answer in answers))


def f1(prediction: str, answers: Sequence[str], language: str) -> float:
    """Return the best F1 (0..1) over the gold answers; 0.0 where there are none.

    English: the bag of common words (SQuAD). Chinese: the longest common *substring* of segments
    (CMRC), so words in another order do not count.
    """
    overlap = _substring_overlap if language == "zh" else _bag_overlap
    predicted = segments(prediction, language)
    best = 0.0
    for answer in answers:
        gold = segments(answer, language)
        if predicted and gold:
            best = max(best, 2 * overlap(predicted, gold) / (len(predicted) + len(gold)))
        elif predicted == gold and language != "zh":  # SQuAD v2: nothing equals nothing
            best = 1.0
    return best


def _bag_overlap(left: list[str], right: list[str]) -> int:
    return (Counter(left) & Counter(right)).total()


def _substring_overlap(left: list[str], right: list[str]) -> int:
    return SequenceMatcher(None, left, right, autojunk=False).find_longest_match().size


def contains_answer(text: str, answers: Sequence[str], language: str) -> bool:
    """Return whether the text holds all words of a gold answer in a row.

    Words are whole (so "14" is not in "1914") but punctuation and width are not compared, which
    is what a quotation cut from a page needs. A lenient test: a text that echoes every passage
    passes, so print it beside the length of the answers.
    """
    words = _spaced_words(text, language)
    spaced = (_spaced_words(answer, language) for answer in answers)
    return any(answer != "  " and answer in words for answer in spaced)


def _spaced_words(text: str, language: str) -> str:
    text = unicodedata.normalize("NFKC", text).lower()
    if language != "zh":
        text = _ARTICLES.sub(" ", text)
    return f" {' '.join(_WORD.findall(text))} "


def contains_all(text: str, parts: Sequence[Sequence[str]], language: str) -> bool:
    """Return whether the text holds some spelling of every part of an answer.

    The rule of RGB's own script (Chen et al. 2024, evalue.py), with the words of
    `contains_answer` in place of its bare substrings.
    """
    return all(contains_answer(text, spellings, language) for spellings in parts)


def is_right(prediction: str, answers: Sequence[str], language: str) -> bool:
    """Return whether an answer counts as right: it holds a gold answer, or its F1 is >= 0.5."""
    return (
        contains_answer(prediction, answers, language) or f1(prediction, answers, language) >= 0.5
    )


def sentence_around(text: str, start: int, end: int) -> str:
    """Return the whole sentences of `text` that the characters `start:end` touch."""
    touched = [span for span in split_sentences(text) if span[0] < end and span[1] > start]
    return text[touched[0][0] : touched[-1][1]] if touched else ""


def first_sentence(text: str) -> str:
    """Return the first sentence, or "" of a blank text."""
    return next((text[start:end] for start, end in split_sentences(text)), "")


def citation_is_correct(
    sentence: str, document_id: str, gold_document_id: str, answers: Sequence[str], language: str
) -> bool:
    """Return whether a citation proves the gold answer.

    Args:
        sentence: The quote, or the sentences around it (see `sentence_around`).
        document_id: Where the quote stands.
        gold_document_id: Where the question was asked from.
        answers: Gold answers.
        language: "zh" or "en".
    """
    return document_id == gold_document_id and contains_answer(sentence, answers, language)


def is_entailed(
    statement: str, passage: str, *, is_gold: bool | None, answers: Sequence[str], language: str
) -> bool:
    """Return whether a passage counts as entailing a statement, by a rule that needs no model.

    It stands in for the entailment model of ALCE (Gao et al. 2023). A passage entails a statement
    if it is evidence for the question and says what is stated. Evidence is the gold paragraph;
    where none is known, a passage that holds a gold answer. It says what is stated if it holds
    all words of the statement in a row, or a gold answer that the statement holds too. So a
    paraphrase counts by its answer alone, and what follows only from two passages together does
    not count.

    Args:
        statement: One claim of an answer, without its marks.
        passage: The whole text of a cited passage.
        is_gold: Whether it is the gold paragraph, None where no gold paragraph is known.
        answers: Gold answers.
        language: "zh" or "en".
    """
    shared = [answer for answer in answers if contains_answer(passage, [answer], language)]
    is_evidence = bool(shared) if is_gold is None else is_gold
    return is_evidence and (
        contains_answer(passage, [statement], language)
        or contains_answer(statement, shared, language)
    )


def recall_at_k(retrieved: Sequence[str], gold: str, k: int) -> float:
    """Return 1.0 if the gold document is among the first k retrieved (best first), else 0.0."""
    return float(gold in retrieved[:k])


def reciprocal_rank(retrieved: Sequence[str], gold: str) -> float:
    """Return 1 / rank of the gold document among the retrieved, or 0.0 if it is not there."""
    return 1.0 / (retrieved.index(gold) + 1) if gold in retrieved else 0.0


# --- Claims and their citations -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CitationScores:
    """Citation recall and precision of one answer (0..1); NaN for an answer without claims."""

    recall: float
    precision: float


def citation_scores(
    cited: Sequence[Sequence[int]], entails: Callable[[Sequence[int], int], bool]
) -> CitationScores:
    """Return ALCE's citation recall and precision of one answer (Gao et al. 2023, section 3).

    A claim is recalled if the passages that it cites entail it together. A citation of a recalled
    claim is precise unless it is irrelevant: it does not entail the claim alone, and the others do
    without it. All citations of a claim that is not recalled are imprecise. An answer that cites
    nothing has precision 0, as in the official script.

    Args:
        cited: The numbers of the passages that each claim cites, one sequence a claim.
        entails: Whether passages, read one after the other, entail the claim at a place of
            `cited`; False for a passage that was never given.
    """
    recalled = precise = citations = 0
    for claim, every in enumerate(cited):
        numbers = list(dict.fromkeys(every))
        citations += len(numbers)
        if not numbers or not entails(numbers, claim):
            continue
        recalled += 1
        for number in numbers:
            others = [other for other in numbers if other != number]
            needed = not others or entails([number], claim) or not entails(others, claim)
            precise += needed
    if not cited:
        return CitationScores(float("nan"), float("nan"))
    return CitationScores(recalled / len(cited), precise / citations if citations else 0.0)


def faithfulness(supported: Sequence[bool]) -> float:
    """Return the share of an answer's claims that its passages support; NaN without claims.

    Es et al. 2024, RAGAS: the passages are all that were given, cited or not.
    """
    return sum(supported) / len(supported) if supported else float("nan")


# --- What training one thing after another leaves -------------------------------------------------


def backward_transfer(scores: ArrayLike) -> float:
    """Return how much later training changed what was learnt earlier; below 0 it was forgotten.

    BWT = 1/(T-1) sum over i < T of R[T, i] - R[i, i] (Lopez-Paz and Ranzato 2017, equation 3).

    Args:
        scores: R, shape (T, T): R[i, j] is the score on task j once tasks 0..i are learnt.

    Raises:
        ValueError: R is not square or has fewer than two tasks.
    """
    matrix = _tasks(scores)
    return float((matrix[-1, :-1] - np.diag(matrix)[:-1]).mean())


def forgetting(scores: ArrayLike) -> float:
    """Return how far the last scores on earlier tasks lie below the best they ever had.

    F = 1/(T-1) sum over j < T of max over l < T of R[l, j] - R[T, j] (Chaudhry et al. 2018,
    "Riemannian walk", section 3). With two tasks it is minus `backward_transfer`.

    Args:
        scores: R as for `backward_transfer`, shape (T, T).

    Raises:
        ValueError: R is not square or has fewer than two tasks.
    """
    matrix = _tasks(scores)
    return float((matrix[:-1, :-1].max(axis=0) - matrix[-1, :-1]).mean())


def _tasks(scores: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError("Give one row and one column for each task, two at least.")
    return matrix
