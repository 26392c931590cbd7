"""The trained verifier: a reader and a judge on the encoder, beside what texts visibly share.

    verifier = HeadVerifier(encoder, Heads(read=reader, verify=judge), calibration)

`read` finds the likeliest answer in each sentence and says how much likelier it is than none;
`verify` says whether a text supports a statement. Both join the features of `OverlapVerifier` in
its fitted functions. Above answers the rules of `is_grounded` stay in force, so that a trained part
can never let through what no evidence holds; above statements that `verify` judges, the rule of
numbers alone (`HeadVerifier.allows`). `verify` is not asked about answers: beside the reader it
told nothing more of which are right (docs/log.md). Knows nothing of training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model import evidence as ev
from model.alignment import Aligner
from model.claims import Draft, read
from model.cross_encoder import CrossEncoder
from model.definitions import asks_for_definition
from model.evidence import Sentence
from model.verifier import (
    HELD_SHARE,
    MOST_MARGIN,
    Calibration,
    Features,
    Logistic,
    OverlapVerifier,
    QuestionEvidence,
    SpanAnswer,
    SpanRead,
    Verdict,
    agreement,
    answer_features,
    holds_numbers,
    is_grounded,
    logit,
)
from retrieval.encoders import Encoder
from retrieval.passages import Passage

UNKNOWN_CONFIDENCE = -0.5  # mean log-probability of a token where a generator gives none
SPANS = 4  # of those read, how many are looked at closely


@dataclass(frozen=True, slots=True)
class Heads:
    """The trained heads in force; without one its features are not there."""

    read: CrossEncoder | None = None
    verify: Aligner | None = None


class HeadReader:
    """Reads sentences in their passages, all of a question in one batch."""

    def __init__(self, head: CrossEncoder) -> None:
        """Keep a `read` head."""
        self._head = head

    def read(self, question: str, sentences: Sequence[Sentence]) -> list[SpanRead]:
        """Return the likeliest answer in each sentence, in order."""
        places: dict[int, list[int]] = {}
        for place, sentence in enumerate(sentences):
            places.setdefault(id(sentence.passage), []).append(place)
        passages = [sentences[members[0]].passage for members in places.values()]
        parts = [
            [_within(passage, sentences[place]) for place in members]
            for passage, members in zip(passages, places.values(), strict=True)
        ]
        found = self._head.read_ranges([(question, one.chunk.text) for one in passages], parts)
        spans = [SpanRead("", -MOST_MARGIN)] * len(sentences)
        for passage, members, readings in zip(passages, places.values(), found, strict=True):
            for place, reading in zip(members, readings, strict=True):
                if reading is not None and not math.isnan(reading.margin):
                    margin = max(-MOST_MARGIN, min(MOST_MARGIN, reading.margin))
                    text = passage.chunk.text[reading.start : reading.end]
                    spans[place] = SpanRead(text, margin)
        return spans


class HeadVerifier(OverlapVerifier):
    """The verifier with trained heads."""

    def __init__(
        self,
        encoder: Encoder,
        heads: Heads,
        calibration: Calibration,
    ) -> None:
        """Keep the parts.

        Args:
            encoder: Embeds questions and sentences.
            heads: On the same encoder.
            calibration: Functions fitted with these heads.
        """
        super().__init__(encoder, calibration)
        self._heads = heads
        self._reader = HeadReader(heads.read) if heads.read else None

    def weigh(self, question: str, passages: Sequence[Passage]) -> QuestionEvidence:
        """Return the sentences of the passages, each with the probability that it answers."""
        return QuestionEvidence(question, passages, self._encoder, self.calibration, self._reader)

    def statement_function(self, language: str) -> Logistic:
        """Return what turns the features of a pair into a probability.

        A head that no function was fitted with speaks for itself, as it was trained: its logit is
        the log odds.
        """
        fitted = super().statement_function(language)
        alone = self._heads.verify is not None and "verified" not in fitted.weights
        return Logistic(0.0, {"verified": 1.0}) if alone else fitted

    def allows(self, features: Features) -> bool:
        """Tell whether a statement passes the rules.

        Swapped names and negations are what the head learnt to see: as rules they reject three
        supported English statements in ten (docs/log.md). Numbers stay a rule.
        """
        return super().allows(features) if self._heads.verify is None else holds_numbers(features)

    def pair_features(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, float]]:
        """Return what is known of each (claim, evidence) pair, in order."""
        rows = super().pair_features(pairs)
        if self._heads.verify is None or not pairs:
            return rows
        logits = np.clip(self._heads.verify.score(pairs), -MOST_MARGIN, MOST_MARGIN)
        return [row | {"verified": float(logit)} for row, logit in zip(rows, logits, strict=True)]

    def read_answer(
        self, evidence: QuestionEvidence, draft: Draft | None = None
    ) -> SpanAnswer | None:
        """Return the likeliest answer that was read in the passages.

        None without a reader, and where a definition is asked for, which takes a sentence: by the
        form of the question, or because a sentence defines what it asks about.
        """
        takes_sentence = evidence.definitions or asks_for_definition(evidence.question)
        return None if takes_sentence else self._read(evidence, draft)

    def _read(self, evidence: QuestionEvidence, draft: Draft | None = None) -> SpanAnswer | None:
        language = evidence.language
        function = self.calibration.span.get(language)
        if draft is not None:
            function = self.calibration.span_beside.get(language, function)
        if function is None:
            return None
        answers = []
        for i, features in self.span_features(evidence, draft).items():
            support = function.probability(features)
            supported = support >= function.threshold and is_grounded(features, HELD_SHARE)
            verdict = Verdict(support, supported, (evidence.sentences[i],))
            answers.append(SpanAnswer(evidence.readings[i].text, verdict))
        return max(answers, key=lambda answer: answer.verdict.support, default=None)

    def span_features(
        self, evidence: QuestionEvidence, draft: Draft | None = None
    ) -> dict[int, dict[str, float]]:
        """Return what is known of the likeliest spans that were read, by their sentence."""
        readings = evidence.readings
        spans = [ev.normalise(one.text) for one in readings]
        read_out = [i for i, span in enumerate(spans) if span]
        found = {}
        chosen = sorted(read_out, key=lambda i: -readings[i].margin)[:SPANS]
        for i in chosen:
            features = answer_features(evidence, readings[i].text, [i])
            others = [one for one, span in zip(readings, spans, strict=True) if span != spans[i]]
            most = max((one.margin for one in others), default=-MOST_MARGIN)
            found[i] = features | {
                "reader_lead": readings[i].margin - most,  # over all that say something else
                "repeated": math.log(len(readings) - len(others)),
                **(_beside(readings[i].text, draft) if draft else {}),
            }
        return found

    def claim_features(
        self,
        evidence: QuestionEvidence,
        claim: str,
        places: Sequence[Sequence[int]],
        confidence: float | None = None,
    ) -> list[dict[str, float]]:
        """Return what is known of a claim at each place, a place being one or two sentences."""
        known = {"confidence": UNKNOWN_CONFIDENCE if confidence is None else confidence}
        own_words = self._read(evidence)
        if own_words is not None:  # how likely the reader alone has the answer
            known["span"] = logit(own_words.verdict.support)
        rows = super().claim_features(evidence, claim, places)
        return [row | known for row in rows]


def _beside(span: str, draft: Draft) -> dict[str, float]:
    """Return what a draft tells of a span: does it say the same, and how sure is it of itself?"""
    sure = math.exp(UNKNOWN_CONFIDENCE if draft.confidence is None else draft.confidence)
    shares = [agreement(span, claim.text) for claim in read(draft.text, ())]
    return {
        "draft_refuses": sure * draft.is_refusal,
        "draft_answers": sure * bool(shares),
        "draft_agrees": max(shares, default=0.0),
    }


def _within(passage: Passage, sentence: Sentence) -> tuple[int, int]:
    """Return a sentence's characters in the text of its chunk."""
    return sentence.start - passage.chunk.start, sentence.end - passage.chunk.start
