"""Metrics of one answer, and of many yes-or-no judgements: pure functions that give numbers.

English follows SQuAD's official script (Rajpurkar et al. 2018, evaluate-v2.0.py), Chinese that of
CMRC 2018 (Cui et al. 2019, cmrc2018_evaluate.py). Where a question has several gold answers the
best one counts. Judgements are arrays of labels (0 or 1) and of probabilities of label 1. Knows
nothing of models, files or averages.

    f1("in the year 1973", ["1973"], "en")  # 0.5
"""

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
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


# --- Judgements -----------------------------------------------------------------------------------


def _floats(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def balanced_accuracy(labels: ArrayLike, judged: ArrayLike) -> float:
    """Return the mean share of each label's rows that were judged right; NaN if one is absent.

    Args:
        labels: 0 or 1, shape (n,).
        judged: 0 or 1, shape (n,).
    """
    truth, given = _floats(labels), _floats(judged)
    if not 0 < truth.sum() < len(truth):
        return float("nan")
    return float((given[truth == 1].mean() + 1 - given[truth == 0].mean()) / 2)


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the chance that a row of label 1 scores above one of label 0; NaN if one is absent.

    Equal scores count half: the Mann-Whitney statistic (Hanley and McNeil 1982).
    """
    truth, given = _floats(labels), _floats(scores)
    ones = truth.sum()
    zeros = len(truth) - ones
    if not ones or not zeros:
        return float("nan")
    _, places, repeats = np.unique(given, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(repeats) - (repeats - 1) / 2)[places]  # (n,), the mean rank of ties
    return float((ranks[truth == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def expected_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = 10
) -> float:
    """Return the mean gap between probability and share of label 1, over bins of equal width.

    Bins are weighted by their rows (Guo et al. 2017, for the probability of label 1). Small sets
    overstate it: even a perfect judge has a gap in a bin of few rows.
    """
    truth, given = _floats(labels), _floats(probabilities)
    if not len(truth):
        return float("nan")
    member = np.minimum((given * bins).astype(int), bins - 1)  # (n,)
    gaps = np.bincount(member, weights=given - truth, minlength=bins)  # (bins,)
    return float(np.abs(gaps).sum() / len(truth))


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean squared difference of probability and label (Brier 1950)."""
    truth, given = _floats(labels), _floats(probabilities)
    return float(np.mean((given - truth) ** 2)) if len(truth) else float("nan")


def risk_coverage(confidences: ArrayLike, right: ArrayLike) -> list[tuple[float, float]]:
    """Return (coverage, risk) for every threshold worth setting, the strictest first.

    Coverage is the share answered at that threshold, risk the share of wrong among those
    (El-Yaniv and Wiener 2010). Equally confident rows are answered together.
    """
    sure, good = _floats(confidences), _floats(right)
    order = np.argsort(-sure, kind="stable")
    wrong = np.cumsum(1 - good[order])  # (n,)
    ends = np.flatnonzero(np.diff(sure[order], append=-np.inf))  # the last of each confidence
    return [(float(i + 1) / len(order), float(wrong[i]) / float(i + 1)) for i in ends]


def threshold_at_risk(confidences: ArrayLike, right: ArrayLike, most: float) -> float:
    """Return the lowest confidence from which the share of wrong is at most `most`.

    Infinite where no threshold is strict enough.

    Args:
        confidences: Shape (n,).
        right: 0 or 1, shape (n,).
        most: The highest risk allowed (0..1).
    """
    levels = np.unique(_floats(confidences))[::-1]  # the thresholds of `risk_coverage`
    points = risk_coverage(confidences, right)
    allowed = [
        float(level) for level, (_, risk) in zip(levels, points, strict=True) if risk <= most
    ]
    return min(allowed, default=math.inf)
