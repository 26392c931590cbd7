"""Verification: does the evidence support the claim, and does the sentence answer the question?

Training-free until a trained verifier comes: what claim and evidence share (terms, word pairs,
numbers, names, negation, embeddings) goes through three small logistic functions whose weights and
thresholds are fitted by `benchmarks/calibrate.py` and stand, with their provenance, in
`calibration.json`. Fails closed: a claim counts as supported only above a threshold, and one whose
numbers are missing from the evidence never does. Knows nothing of prompts or generators.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Protocol

import numpy as np

from ingest.languages import split_sentences
from model import evidence as ev
from retrieval.encoders import Encoder, Vectors
from retrieval.passages import Passage

MOST_SENTENCES = 64  # embedded for one question: about two seconds on two cores

Features = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Logistic:
    """A logistic function of named features: p = 1 / (1 + exp(-(bias + sum(w * x))))."""

    bias: float
    weights: Mapping[str, float]
    threshold: float = 0.5

    def probability(self, features: Features) -> float:
        """Return the probability; features without a weight do not count."""
        total = self.bias + sum(weight * features[name] for name, weight in self.weights.items())
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, total))))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fitted functions by language ("en", "zh")."""

    sentence: Mapping[str, Logistic]  # does this sentence hold the answer to the question?
    statement: Mapping[str, Logistic]  # does this evidence support this claim?
    answer: Mapping[str, Logistic]  # is this claim, found in this evidence, the answer?
    abstain_below: Mapping[str, float]  # no sentence this likely: abstain before generating
    provenance: Mapping[str, object] = field(default_factory=dict)


@lru_cache(maxsize=1)
def default_calibration() -> Calibration:
    """Return the calibration that ships with Tether, fitted for the default encoder."""
    return read_calibration(files("model").joinpath("calibration.json").read_text("utf-8"))


def read_calibration(text: str) -> Calibration:
    """Return the calibration written as JSON."""
    record = json.loads(text)
    functions = {
        name: {language: Logistic(**values) for language, values in record[name].items()}
        for name in ("sentence", "statement", "answer")
    }
    return Calibration(
        **functions, abstain_below=record["abstain_below"], provenance=record["provenance"]
    )


def calibration_language(text: str) -> str:
    """Return "zh" for text with Chinese characters, else "en"."""
    return "zh" if ev.has_chinese(text) else "en"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one claim; `support` is a probability (0..1)."""

    support: float
    supported: bool


class Verifier(Protocol):
    """Judges whether evidence supports a claim."""

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Return a judgement for each (claim, evidence) pair, in order."""
        ...


class OverlapVerifier:
    """The training-free verifier: weighs what claim and evidence share."""

    def __init__(self, encoder: Encoder, calibration: Calibration | None = None) -> None:
        """Keep the encoder and the fitted functions."""
        self._encoder = encoder
        self.calibration = calibration or default_calibration()

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Return a judgement for each (claim, evidence) pair, in order."""
        if not pairs:
            return []
        sentences = [split_evidence(evidence) for _, evidence in pairs]
        claim_vectors = self._encoder.encode_queries([claim for claim, _ in pairs])
        vectors = self._encoder.encode_passages([s for group in sentences for s in group])
        judgements: list[Judgement] = []
        start = 0
        for (claim, _), group, claim_vector in zip(pairs, sentences, claim_vectors, strict=True):
            rows = vectors[start : start + len(group)]  # (sentences, dimension)
            start += len(group)
            similarity = float((rows @ claim_vector).max()) if len(group) else 0.0
            judgements.append(self.decide(claim, statement_features(claim, group, similarity)))
        return judgements

    def decide(self, claim: str, features: Features) -> Judgement:
        """Return the judgement on a claim from its features."""
        function = self.calibration.statement[calibration_language(claim)]
        support = function.probability(features)
        return Judgement(support, support >= function.threshold and not features["numbers_missing"])


def split_evidence(evidence: str) -> list[str]:
    """Return the sentences of an evidence text, the whole text if it has none."""
    return [evidence[start:end] for start, end in split_sentences(evidence)] or [evidence]


def statement_features(claim: str, sentences: Sequence[str], similarity: float) -> dict[str, float]:
    """Return what a claim and the sentences of its evidence share.

    Args:
        claim: The statement to check.
        sentences: The evidence, by sentence.
        similarity: Greatest cosine between the claim and a sentence (-1..1).
    """
    evidence = "\n".join(sentences)
    claim_terms, evidence_terms = ev.content_terms(claim), ev.content_terms(evidence)
    by_sentence = [ev.content_terms(sentence) for sentence in sentences]
    shares = [ev.coverage(claim_terms, terms) for terms in by_sentence]
    best = int(np.argmax(shares)) if shares else 0
    claim_numbers, claim_names = ev.numbers(claim), ev.names(claim)
    return {
        "terms": ev.coverage(claim_terms, evidence_terms),
        "terms_in_best": max(shares, default=0.0),
        "pairs": ev.coverage(ev.pairs(claim_terms), ev.pairs(evidence_terms)),
        "numbers_missing": float(bool(claim_numbers - ev.numbers(evidence))),
        "names": ev.coverage(claim_names, ev.words(evidence)),
        "negation_differs": float(
            bool(sentences) and ev.is_negated(claim) != ev.is_negated(sentences[best])
        ),
        "similarity": similarity,
        "length": math.log1p(len(claim_terms)),
    }


def _nearest(sentences: list[ev.Sentence], asked: Sequence[str]) -> list[ev.Sentence]:
    """Return at most `MOST_SENTENCES`, those that share most terms with the question, in order."""
    if len(sentences) <= MOST_SENTENCES:
        return sentences
    shares = [ev.coverage(asked, ev.content_terms(sentence.text)) for sentence in sentences]
    kept = sorted(range(len(sentences)), key=lambda i: (-shares[i], i))[:MOST_SENTENCES]
    return [sentences[i] for i in sorted(kept)]


class QuestionEvidence:
    """The sentences of a question's passages with the probability that each holds the answer."""

    def __init__(
        self,
        question: str,
        passages: Sequence[Passage],
        encoder: Encoder,
        calibration: Calibration | None = None,
    ) -> None:
        """Score every sentence; one batch through the encoder."""
        self.question = question
        self.language = calibration_language(question)
        self.calibration = calibration or default_calibration()
        self.question_terms = ev.content_terms(question)
        self.sentences = _nearest(ev.sentences_of(passages), self.question_terms)
        self.terms = [ev.content_terms(sentence.text) for sentence in self.sentences]
        self._rarity = ev.rarity(self.terms)
        self.similarities = self._cosines(encoder)
        function = self.calibration.sentence[self.language]
        self.features = [self._sentence_features(i) for i in range(len(self.sentences))]
        self.relevance = [function.probability(row) for row in self.features]

    def _cosines(self, encoder: Encoder) -> list[float]:
        """Return the cosine of the question with every sentence."""
        if not self.sentences:
            return []
        question: Vectors = encoder.encode_queries([self.question])[0]
        vectors = encoder.encode_passages([sentence.text for sentence in self.sentences])
        return [float(value) for value in vectors @ question]

    def _sentence_features(self, i: int) -> dict[str, float]:
        """Return what the question and sentence `i`, in its surroundings, share."""
        sentence = self.sentences[i]
        asked = self.question_terms
        around = self.terms[i] + [
            term
            for j in (i - 1, i + 1)
            if 0 <= j < len(self.sentences) and self.sentences[j].passage == sentence.passage
            for term in self.terms[j]
        ]
        # A question term that stands nowhere counts as the rarest of all.
        weights = dict.fromkeys(asked, max(self._rarity.values(), default=1.0)) | self._rarity
        best_elsewhere = max(
            (s for j, s in enumerate(self.similarities) if j != i), default=self.similarities[i]
        )
        return {
            "similarity": self.similarities[i],
            "lead": self.similarities[i] - best_elsewhere,
            "terms": ev.coverage(asked, self.terms[i], weights),
            "terms_around": ev.coverage(asked, around, weights),
            "pairs": ev.coverage(ev.pairs(asked), ev.pairs(self.terms[i])),
            "numbers": ev.coverage(ev.numbers(self.question), ev.numbers(sentence.text)),
            "names": ev.coverage(ev.names(self.question), ev.words(sentence.text)),
            "type": ev.type_match(self.question, sentence.text),
            "passage": sentence.passage.relevance or 0.0,
            "rank": 1.0 / sentence.passage.number,
            "length": math.log1p(len(self.terms[i])),
        }

    def by_passage(self) -> dict[int, list[int]]:
        """Return the indices of the sentences of each passage, by passage number."""
        members: dict[int, list[int]] = {}
        for i, sentence in enumerate(self.sentences):
            members.setdefault(sentence.passage.number, []).append(i)
        return members

    def best(self) -> tuple[int, float]:
        """Return the index and relevance of the likeliest sentence; (-1, 0.0) without any."""
        if not self.relevance:
            return -1, 0.0
        index = int(np.argmax(self.relevance))
        return index, self.relevance[index]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier says of one claim of an answer, and the sentences it relies on."""

    support: float  # probability that the claim is grounded and answers the question
    supported: bool
    sentences: tuple[ev.Sentence, ...] = ()  # at most two, of one passage


def judge_answer(evidence: QuestionEvidence, claim: str, cited: Sequence[int]) -> Verdict:
    """Return the best verdict on a claim over its cited passages, else over the others.

    A draft may cite the wrong passage: the claim is then judged against the passage that does hold
    it, and cites that one. A claim that no passage holds is not supported, whatever it cites.
    """
    verdicts = {
        number: _judge_in_passage(evidence, claim, members)
        for number, members in evidence.by_passage().items()
    }
    for numbers in (cited, [n for n in verdicts if n not in cited]):
        among = [verdicts[n] for n in numbers if n in verdicts]
        best = max(among, key=lambda verdict: verdict.support, default=None)
        if best is not None and best.supported:
            return best
    return max(verdicts.values(), key=lambda v: v.support, default=Verdict(0.0, supported=False))


def _judge_in_passage(evidence: QuestionEvidence, claim: str, members: Sequence[int]) -> Verdict:
    """Return the verdict on a claim against the sentences of one passage."""
    located = locate(evidence, claim, members)
    features = answer_features(evidence, claim, located)
    function = evidence.calibration.answer[evidence.language]
    support = function.probability(features)
    is_grounded = features["terms"] >= 0.75 and not features["numbers_missing"]
    return Verdict(
        support,
        supported=is_grounded and support >= function.threshold,
        sentences=tuple(evidence.sentences[i] for i in sorted(located)),
    )


def locate(evidence: QuestionEvidence, claim: str, members: Sequence[int]) -> list[int]:
    """Return the one or two sentences that hold most of a claim, the best first."""
    wanted = set(ev.content_terms(claim))
    plain = ev.normalise(claim).strip(" .。")

    def worth(i: int) -> tuple[float, float]:
        verbatim = float(plain in ev.normalise(evidence.sentences[i].text))
        return ev.coverage(wanted, evidence.terms[i]) + verbatim, evidence.relevance[i]

    first = max(members, key=worth)
    missing = wanted - set(evidence.terms[first])
    second = max(members, key=lambda i: len(missing & set(evidence.terms[i])))
    adds = len(missing & set(evidence.terms[second])) if missing else 0
    return [first, second] if adds and adds >= 0.2 * len(wanted) else [first]


def answer_features(
    evidence: QuestionEvidence, claim: str, located: Sequence[int]
) -> dict[str, float]:
    """Return how well located sentences hold a claim, and how well they meet the question."""
    first = located[0]
    text = "\n".join(evidence.sentences[i].text for i in located)
    held = [term for i in located for term in evidence.terms[i]]
    claim_terms = ev.content_terms(claim)
    others = (r for i, r in enumerate(evidence.relevance) if i not in located)
    relevance = _logit(evidence.relevance[first])
    return {
        "terms": ev.coverage(claim_terms, held),
        "verbatim": float(ev.normalise(claim).strip(" .。") in ev.normalise(text)),
        "numbers_missing": float(bool(ev.numbers(claim) - ev.numbers(text))),
        "relevance": relevance,
        "lead": relevance - _logit(max(others, default=0.01)),
        "similarity": evidence.similarities[first],
        "type": ev.type_match(evidence.question, claim),
        "echo": ev.coverage(claim_terms, evidence.question_terms),
        "length": math.log1p(len(claim_terms)),
        "passage": evidence.sentences[first].passage.relevance or 0.0,
        "rank": 1.0 / evidence.sentences[first].passage.number,
    }


def _logit(probability: float) -> float:
    """Return log(p / (1 - p)), kept within +-6."""
    clipped = min(max(probability, 0.0025), 0.9975)
    return math.log(clipped / (1 - clipped))
