"""Verification: does the evidence support the claim, and does the sentence answer the question?

Without trained heads (those join in `model/head_verifier.py`): what claim and evidence share
(terms, word pairs, numbers, names, negation, embeddings) goes through three small logistic
functions whose weights and thresholds are fitted by `benchmarks/calibrate.py` and stand, with their
provenance, in `calibration.json`. Fails closed: a claim counts as supported only above a threshold,
and never if it breaks a rule of `is_grounded`. Knows nothing of prompts or generators.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any, Protocol

import numpy as np

from ingest.languages import question_language, split_sentences
from model import evidence as ev
from model.claims import Draft
from model.definitions import definitions_of
from retrieval.encoders import Encoder, Vectors
from retrieval.passages import Passage

logger = logging.getLogger(__name__)

HELD_SHARE = 0.75  # least share of an answer's terms that the cited sentences must hold
SENTENCE_TERMS = 4  # from so many content terms on, a claim is a sentence that may lack a negation
MOST_SENTENCES = 64  # embedded for one question: about two seconds on two cores

MOST_MARGIN = 12.0  # of a reader: beyond it nothing becomes surer

Features = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Logistic:
    """A logistic function of named features: p = 1 / (1 + exp(-(bias + sum(w * x))))."""

    bias: float
    weights: Mapping[str, float]
    threshold: float = 0.5

    def probability(self, features: Features) -> float:
        """Return the probability; features without a weight do not count.

        What is no number supports nothing: 0.0, not the 1.0 that clipping would make of it.
        """
        total = self.bias + sum(weight * features[name] for name, weight in self.weights.items())
        if math.isnan(total):
            return 0.0
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, total))))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fitted functions by language ("en", "zh")."""

    sentence: Mapping[str, Logistic]  # does this sentence hold the answer to the question?
    statement: Mapping[str, Logistic]  # does this evidence support this claim?
    answer: Mapping[str, Logistic]  # is this claim, found in this evidence, the answer?
    abstain_below: Mapping[str, float]  # no sentence this likely: abstain before generating
    provenance: Mapping[str, Any] = field(default_factory=dict)
    span: Mapping[str, Logistic] = field(default_factory=dict)  # is what was read the answer?
    span_beside: Mapping[str, Logistic] = field(default_factory=dict)  # and beside a draft?


@lru_cache(maxsize=1)
def default_calibration() -> Calibration:
    """Return the training-free calibration that ships with Tether, for the default encoder."""
    return read_calibration(files("model").joinpath("calibration.json").read_text("utf-8"))


@lru_cache(maxsize=1)
def trained_calibration() -> Calibration:
    """Return the calibration of the shipped heads, on the default encoder."""
    return read_calibration(files("model").joinpath("calibration_trained.json").read_text("utf-8"))


def read_calibration(text: str) -> Calibration:
    """Return the calibration written as JSON."""
    record = json.loads(text)
    functions = {
        name: {language: Logistic(**values) for language, values in record.get(name, {}).items()}
        for name in ("sentence", "statement", "answer", "span", "span_beside")
    }
    return Calibration(
        **functions, abstain_below=record["abstain_below"], provenance=record["provenance"]
    )


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one claim; `support` is a probability (0..1)."""

    support: float
    supported: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier says of one claim of an answer, and the sentences it relies on."""

    support: float  # probability that the claim is grounded and answers the question
    supported: bool
    sentences: tuple[ev.Sentence, ...] = ()  # at most two, of one passage


@dataclass(frozen=True, slots=True)
class SpanAnswer:
    """An answer in a passage's own words, with the verdict on it."""

    text: str
    verdict: Verdict


class Verifier(Protocol):
    """Judges whether evidence supports a claim."""

    calibration: Calibration

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Return a judgement for each (claim, evidence) pair, in order."""
        ...

    def weigh(self, question: str, passages: Sequence[Passage]) -> "QuestionEvidence":
        """Return the sentences of the passages, each with the probability that it answers."""
        ...

    def judge_answer(
        self,
        evidence: "QuestionEvidence",
        claim: str,
        cited: Sequence[int],
        confidence: float | None = None,
    ) -> Verdict:
        """Return the verdict on a claim of an answer.

        Args:
            evidence: What `weigh` returned.
            claim: Without its marks.
            cited: The passages it names.
            confidence: Mean natural log-probability of the draft's tokens, if known.
        """
        ...

    def read_answer(
        self, evidence: "QuestionEvidence", draft: Draft | None = None
    ) -> SpanAnswer | None:
        """Return the likeliest answer that was read in the passages, None without a reader.

        Args:
            evidence: What `weigh` returned.
            draft: What the generator wrote, which tells more of what was read; None before.
        """
        ...


class SentenceReader(Protocol):
    """Reads the likeliest answer out of each sentence."""

    def read(self, question: str, sentences: Sequence[ev.Sentence]) -> list["SpanRead"]:
        """Return what was read in each sentence, in order."""
        ...


@dataclass(frozen=True, slots=True)
class SpanRead:
    """The likeliest answer in one sentence, as a trained reader sees it."""

    text: str
    margin: float  # log odds against "this passage has no answer", within +-MOST_MARGIN


class OverlapVerifier:
    """The training-free verifier: weighs what claim and evidence share."""

    def __init__(self, encoder: Encoder, calibration: Calibration | None = None) -> None:
        """Keep the encoder and the fitted functions; None takes the shipped ones."""
        self._encoder = encoder
        self.calibration = calibration or default_calibration()
        fitted_for = self.calibration.provenance.get("encoder", encoder.identity.name)
        if fitted_for != encoder.identity.name:
            logger.warning(
                "verification was fitted for the encoder %s, not for %s; fit it anew with"
                " benchmarks/calibrate.py",
                fitted_for,
                encoder.identity.name,
            )

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Return a judgement for each (claim, evidence) pair, in order."""
        judgements: list[Judgement] = []
        rows = self.pair_features(pairs)
        for (claim, _), features in zip(pairs, rows, strict=True):
            function = self.statement_function(question_language(claim))
            support = function.probability(features)
            supported = support >= function.threshold and self.allows(features)
            judgements.append(Judgement(support, supported))
        return judgements

    def statement_function(self, language: str) -> Logistic:
        """Return what turns the features of a pair into a probability."""
        return self.calibration.statement[language]

    def allows(self, features: Features) -> bool:
        """Tell whether a statement passes the rules that no fitted weight can switch off."""
        return is_grounded(features)

    def pair_features(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, float]]:
        """Return what is known of each (claim, evidence) pair, in order."""
        if not pairs:
            return []
        sentences = [split_evidence(evidence, claim) for claim, evidence in pairs]
        claim_vectors = self._encoder.encode_queries([claim for claim, _ in pairs])
        vectors = self._encoder.encode_passages([s for group in sentences for s in group])
        rows, start = [], 0
        for (claim, _), group, claim_vector in zip(pairs, sentences, claim_vectors, strict=True):
            own = vectors[start : start + len(group)]  # (sentences, dimension)
            start += len(group)
            rows.append(statement_features(claim, group, float((own @ claim_vector).max())))
        return rows

    def weigh(self, question: str, passages: Sequence[Passage]) -> "QuestionEvidence":
        """Return the sentences of the passages, each with the probability that it answers."""
        return QuestionEvidence(question, passages, self._encoder, self.calibration)

    def judge_answer(
        self,
        evidence: "QuestionEvidence",
        claim: str,
        cited: Sequence[int],
        confidence: float | None = None,
    ) -> Verdict:
        """Return the best verdict on a claim over its cited passages, else over the others.

        A draft may cite the wrong passage: the claim is then judged against the passage that does
        hold it, and cites that one. A claim that no passage holds is not supported, whatever it
        cites.
        """
        places = {
            number: locate(evidence, claim, members)
            for number, members in evidence.by_passage().items()
        }
        rows = self.claim_features(evidence, claim, list(places.values()), confidence)
        verdicts = {
            number: self._verdict(evidence, located, features)
            for (number, located), features in zip(places.items(), rows, strict=True)
        }
        for numbers in (cited, [n for n in verdicts if n not in cited]):
            among = [verdicts[n] for n in numbers if n in verdicts]
            best = max((v for v in among if v.supported), key=_support, default=None)
            if best is not None:
                return best
        return max(verdicts.values(), key=_support, default=Verdict(0.0, supported=False))

    def read_answer(
        self, evidence: "QuestionEvidence", draft: Draft | None = None
    ) -> SpanAnswer | None:
        """Return None: it takes a trained reader to find an answer's very words."""
        del evidence, draft
        return None

    def claim_features(
        self,
        evidence: "QuestionEvidence",
        claim: str,
        places: Sequence[Sequence[int]],
        confidence: float | None = None,
    ) -> list[dict[str, float]]:
        """Return what is known of a claim at each place, a place being one or two sentences."""
        del confidence  # nothing is fitted to it without a trained adapter
        return [answer_features(evidence, claim, located) for located in places]

    def _verdict(
        self, evidence: "QuestionEvidence", located: Sequence[int], features: Features
    ) -> Verdict:
        """Return the verdict on a claim against some sentences of one passage."""
        function = self.calibration.answer[evidence.language]
        support = function.probability(features)
        return Verdict(
            support,
            supported=support >= function.threshold and is_grounded(features, HELD_SHARE),
            sentences=tuple(evidence.sentences[i] for i in sorted(located)),
        )


def _support(verdict: Verdict) -> float:
    return verdict.support


def is_grounded(features: Features, least_share: float = 0.0) -> bool:
    """Tell whether a claim passes the rules that no fitted weight can switch off.

    It says something, at least `least_share` of its terms stand in the evidence, no number or
    name is missing there, and it is not negated where the evidence is not (or the reverse).
    """
    return (
        holds_numbers(features)
        and features["terms"] >= least_share
        and not features["names_missing"]
        and not features["negation_differs"]
    )


def holds_numbers(features: Features) -> bool:
    """Tell whether a claim says something, and no number that the evidence lacks."""
    return features["says"] > 0 and not features["numbers_missing"]


def _shared(
    claim: str, claim_terms: Sequence[str], evidence: str, nearest: str, known: str
) -> dict[str, float]:
    """Return what every judgement looks at: terms, word pairs, numbers, names and negation.

    Args:
        claim: The statement to check.
        claim_terms: Its content terms.
        evidence: All text it may rely on.
        nearest: The part of the evidence nearest to it.
        known: Text whose names the claim may repeat, such as the question.
    """
    evidence_terms = ev.content_terms(evidence)
    held = {*evidence_terms, *ev.content_terms(known)}
    # A short answer ("in 1931") negates nothing, even if it stands in a negated sentence.
    negates = ev.is_negated(claim)
    is_comparable = negates or len(claim_terms) >= SENTENCE_TERMS
    return {
        "says": float(bool(claim_terms)),
        "terms": ev.coverage(claim_terms, evidence_terms),
        "pairs": ev.coverage(ev.pairs(claim_terms), ev.pairs(evidence_terms)),
        "numbers_missing": float(bool(ev.numbers(claim) - ev.numbers(evidence))),
        "names_missing": float(bool(ev.names(claim) - held)),
        "negation_differs": float(is_comparable and negates != ev.is_negated(nearest)),
        "length": math.log1p(len(claim_terms)),
    }


def split_evidence(evidence: str, claim: str) -> list[str]:
    """Return the sentences of an evidence text, of very many those nearest to the claim."""
    sentences = [evidence[start:end] for start, end in split_sentences(evidence)] or [evidence]
    return [sentences[i] for i in _nearest(sentences, ev.content_terms(claim))]


def statement_features(claim: str, sentences: Sequence[str], similarity: float) -> dict[str, float]:
    """Return what a claim and the sentences of its evidence share.

    Args:
        claim: The statement to check.
        sentences: The evidence, by sentence.
        similarity: Greatest cosine between the claim and a sentence (-1..1).
    """
    claim_terms = ev.content_terms(claim)
    shares = [ev.coverage(claim_terms, ev.content_terms(sentence)) for sentence in sentences]
    nearest = sentences[int(np.argmax(shares))] if shares else ""
    return {
        **_shared(claim, claim_terms, "\n".join(sentences), nearest, known=""),
        "terms_in_best": max(shares, default=0.0),
        "similarity": similarity,
    }


def _nearest(sentences: Sequence[str], wanted: Sequence[str]) -> Sequence[int]:
    """Return the places of the `MOST_SENTENCES` that hold most wanted terms, in order."""
    if len(sentences) <= MOST_SENTENCES:
        return range(len(sentences))
    shares = [ev.coverage(wanted, ev.content_terms(sentence)) for sentence in sentences]
    return sorted(sorted(range(len(sentences)), key=lambda i: (-shares[i], i))[:MOST_SENTENCES])


def _ranks(passages: Sequence[Passage]) -> dict[int, float]:
    """Return 1 / rank by relevance of each passage number; given passages come in any order."""
    order = sorted(passages, key=lambda passage: (-(passage.relevance or 0.0), passage.number))
    return {passage.number: 1.0 / rank for rank, passage in enumerate(order, start=1)}


class QuestionEvidence:
    """The sentences of a question's passages with the probability that each holds the answer."""

    def __init__(
        self,
        question: str,
        passages: Sequence[Passage],
        encoder: Encoder,
        calibration: Calibration | None = None,
        reader: SentenceReader | None = None,
    ) -> None:
        """Score every sentence; one batch through the encoder, and one through the reader."""
        self.question = question
        self.language = question_language(question)
        self.calibration = calibration or default_calibration()
        self.question_terms = ev.content_terms(question)
        sentences = ev.sentences_of(passages)
        nearest = _nearest([sentence.text for sentence in sentences], self.question_terms)
        self.sentences = [sentences[i] for i in nearest]
        self.terms = [ev.content_terms(sentence.text) for sentence in self.sentences]
        self._rarity = ev.rarity(self.terms)
        self.passage_rank = _ranks(passages)
        self.similarities = self._cosines(encoder)
        self.readings = reader.read(question, self.sentences) if reader else []
        function = self.calibration.sentence[self.language]
        self.features = [self._sentence_features(i) for i in range(len(self.sentences))]
        self.relevance = [function.probability(row) for row in self.features]
        self.definitions = definitions_of(question, self.sentences)

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
        has_terms = float(bool(asked))  # a question of function words alone is met by nothing
        weights = dict.fromkeys(asked, max(self._rarity.values(), default=1.0)) | self._rarity
        best_elsewhere = max(
            (s for j, s in enumerate(self.similarities) if j != i), default=self.similarities[i]
        )
        return {
            "similarity": self.similarities[i],
            "lead": self.similarities[i] - best_elsewhere,
            "terms": has_terms * ev.coverage(asked, self.terms[i], weights),
            "terms_around": has_terms * ev.coverage(asked, around, weights),
            "pairs": has_terms * ev.coverage(ev.pairs(asked), ev.pairs(self.terms[i])),
            "numbers": ev.coverage(ev.numbers(self.question), ev.numbers(sentence.text)),
            "names": ev.coverage(ev.names(self.question), self.terms[i]),
            "type": ev.type_match(self.question, sentence.text),
            "passage": sentence.passage.relevance or 0.0,
            "rank": self.passage_rank[sentence.passage.number],
            "length": math.log1p(len(self.terms[i])),
            **self._read_features(i),
        }

    def _read_features(self, i: int) -> dict[str, float]:
        """Return what a trained reader says of sentence `i`: nothing without one."""
        if not self.readings:
            return {}
        margin = self.readings[i].margin
        others = (read.margin for j, read in enumerate(self.readings) if j != i)
        return {"reader": margin, "reader_lead": margin - max(others, default=-MOST_MARGIN)}

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
    claim_terms = ev.content_terms(claim)
    others = (r for i, r in enumerate(evidence.relevance) if i not in located)
    relevance = logit(evidence.relevance[first])
    nearest = evidence.sentences[first].text
    read = {}
    if evidence.readings:
        best = max((evidence.readings[i] for i in located), key=lambda one: one.margin)
        read = {"reader": best.margin, "reader_agrees": agreement(claim, best.text)}
    return {
        **read,
        **_shared(claim, claim_terms, text, nearest, known=evidence.question),
        "verbatim": float(ev.normalise(claim).strip(" .。") in ev.normalise(text)),
        "relevance": relevance,
        "lead": relevance - logit(max(others, default=0.01)),
        "similarity": evidence.similarities[first],
        "type": ev.type_match(evidence.question, claim),
        "echo": ev.coverage(claim_terms, evidence.question_terms),
        "passage": evidence.sentences[first].passage.relevance or 0.0,
        "rank": evidence.passage_rank[evidence.sentences[first].passage.number],
    }


def agreement(claim: str, read: str) -> float:
    """Return how much a claim and a span that was read are the same words: F1 of their terms."""
    ours, theirs = set(ev.content_terms(claim)), set(ev.content_terms(read))
    return 2 * len(ours & theirs) / max(1, len(ours) + len(theirs))


def logit(probability: float) -> float:
    """Return log(p / (1 - p)), kept within +-6."""
    clipped = min(max(probability, 0.0025), 0.9975)
    return math.log(clipped / (1 - clipped))
