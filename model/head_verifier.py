"""The trained verifier: a reader and a judge on the encoder, beside what texts visibly share.

    verifier = HeadVerifier(encoder, Heads(read=reader, verify=judge), calibration)

`read` finds the likeliest answer in each sentence and says how much likelier it is than none;
`verify` says whether a sentence supports a claim. Both join the features of `OverlapVerifier` in
its fitted functions, and the rules of `is_grounded` stay in force, so that a trained part can
never let through what no evidence holds. A claim on its own (`judge`) is the business of
`verify` alone, whose temperature and threshold are fitted, too. Knows nothing of training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ingest.languages import question_language
from model.cross_encoder import CrossEncoder
from model.evidence import Sentence
from model.verifier import (
    MOST_MARGIN,
    Calibration,
    Judgement,
    OverlapVerifier,
    QuestionEvidence,
    SpanRead,
)
from retrieval.encoders import Encoder
from retrieval.passages import Passage

UNKNOWN_CONFIDENCE = -0.5  # mean log-probability of a token where a generator gives none


@dataclass(frozen=True, slots=True)
class Heads:
    """The trained heads in force; without one its features are not there."""

    read: CrossEncoder | None = None
    verify: CrossEncoder | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """Turns a logit into a calibrated probability: 1 / (1 + exp(-(logit / temperature + bias)))."""

    temperature: float = 1.0
    bias: float = 0.0
    threshold: float = 0.5

    def probability(self, logit: float) -> float:
        """Return the probability (0..1); 0.0 for a logit that is no number."""
        value = logit / self.temperature + self.bias
        if math.isnan(value):
            return 0.0
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, value))))


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
        scales: Mapping[str, Scale] | None = None,
    ) -> None:
        """Keep the parts.

        Args:
            encoder: Embeds questions and sentences.
            heads: On the same encoder.
            calibration: Functions fitted with these heads.
            scales: Of the `verify` head, by the language of the claim ("en", "zh").
        """
        super().__init__(encoder, calibration)
        self._heads = heads
        self._reader = HeadReader(heads.read) if heads.read else None
        self._scales = scales or {}

    def weigh(self, question: str, passages: Sequence[Passage]) -> QuestionEvidence:
        """Return the sentences of the passages, each with the probability that it answers."""
        return QuestionEvidence(question, passages, self._encoder, self.calibration, self._reader)

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Return a judgement for each (claim, evidence) pair, in order."""
        if self._heads.verify is None or not self._scales:
            return super().judge(pairs)
        judgements = []
        logits = self._heads.verify.score(pairs)
        for (claim, evidence), logit in zip(pairs, logits, strict=True):
            scale = self._scales[question_language(claim)]
            support = scale.probability(float(logit))
            says = bool(claim.strip() and evidence.strip())  # whatever a head makes of nothing
            judgements.append(Judgement(support, says and support >= scale.threshold))
        return judgements

    def claim_features(
        self,
        evidence: QuestionEvidence,
        claim: str,
        places: Sequence[Sequence[int]],
        confidence: float | None = None,
    ) -> list[dict[str, float]]:
        """Return what is known of a claim at each place, a place being one or two sentences."""
        known = {"confidence": UNKNOWN_CONFIDENCE if confidence is None else confidence}
        rows = [row | known for row in super().claim_features(evidence, claim, places)]
        if self._heads.verify is not None and places:
            statement = f"{evidence.question} {claim}"  # the form it was trained on
            texts = [" ".join(evidence.sentences[i].text for i in sorted(at)) for at in places]
            logits = self._heads.verify.score([(statement, text) for text in texts])
            bounded = np.clip(logits, -MOST_MARGIN, MOST_MARGIN)
            rows = [
                row | {"verified": float(logit)} for row, logit in zip(rows, bounded, strict=True)
            ]
        return rows


def _within(passage: Passage, sentence: Sentence) -> tuple[int, int]:
    """Return a sentence's characters in the text of its chunk."""
    return sentence.start - passage.chunk.start, sentence.end - passage.chunk.start
