"""Whether every word of a claim stands in its evidence: the `verify` head.

    aligner = Aligner(bert, load_head(folder, bert, base_sha256))
    logits = aligner.score([("The bridge opened in 1931.", "It was finished in 1931.")])

Claim and evidence go through the adapted encoder one by one, and each token of the claim looks for
the token of the evidence that is most like it in its context (late interaction, as ColBERT ranks:
Khattab and Zaharia 2020, https://arxiv.org/abs/2004.12832). The doubt of token i with state h_i is

    d_i = w h_i + b - k max_j cos(h_i, e_j),    and the claim's log odds are  -log sum_i exp(d_i),

so one word that the evidence does not hold suffices against a claim, and the linear part learns
which words matter. A head that sees both texts at once learnt nothing from as many pairs, since an
encoder made for embeddings starts there at chance; here it does not. Knows nothing of thresholds
or torch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ingest.errors import WeightsError
from model.cross_encoder import Head, comparable
from retrieval.onnx import BertTokenizer, OnnxBert

Floats = NDArray[np.float32]

SHARPNESS = 20.0  # k: similarities of an embedding model's tokens lie close together
USUAL = 0.82  # the similarity at which an untrained head neither doubts nor believes
NO_WORDS = -50.0  # log odds of what says nothing, or of what has no evidence


class Aligner:
    """The `verify` head on the shared encoder; may be used from any number of threads at once."""

    def __init__(self, bert: OnnxBert, head: Head) -> None:
        """Join an encoder and a head that `load_head` found to fit it.

        Raises:
            WeightsError: The head was trained for something else.
        """
        if head.role != "verify":
            raise WeightsError(f"a {head.role} head does not verify: name one that does")
        self._bert = bert
        self._head = head

    def score(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        """Return the log odds that the evidence supports the claim, (len(pairs),).

        Args:
            pairs: (claim, evidence), of any length: long texts go through in pieces.
        """
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        states = dict(zip(texts, self._states(texts), strict=True))
        scores = [self._odds(claim, states[claim], states[evidence]) for claim, evidence in pairs]
        return np.array(scores, np.float32)

    def _odds(self, claim: str, states: Floats, evidence: Floats) -> float:
        words = word_tokens(self._bert.tokenizer, claim)
        if not any(words) or not len(evidence):
            return NO_WORDS
        own = states[np.array(words)]
        likeness = (_unit(own) @ _unit(evidence).T).max(axis=1)
        doubts = (own @ self._head.weight + self._head.bias)[:, 0] - SHARPNESS * likeness
        return -float(np.logaddexp.reduce(doubts))

    def _states(self, texts: Sequence[str]) -> list[Floats]:
        """Return the states of each text's tokens, (tokens, width), special tokens left out."""
        before, after = self._bert.tokenizer.before, self._bert.tokenizer.after
        room = self._head.window - len(before) - len(after)
        pieces: list[list[int]] = []
        counts = []
        for text in texts:
            ids = self._bert.tokenizer.tokens(comparable(text))[0]
            own = [ids[at : at + room] for at in range(0, len(ids), room)]
            pieces += [before + piece + after for piece in own]
            counts.append(len(own))
        first, last = len(before), len(after)
        found = iter(
            self._bert.compute(
                pieces, lambda states: states[first : len(states) - last], self._head.adapter
            )
        )
        empty = np.empty((0, self._bert.shape.width), np.float32)
        return [np.concatenate([empty, *(next(found) for _ in range(count))]) for count in counts]


def word_tokens(tokenizer: BertTokenizer, text: str) -> list[bool]:
    """Return for each token of a text whether it says something: it holds a letter or digit."""
    spans = tokenizer.tokens(comparable(text))[1]
    return [any(map(str.isalnum, text[start:end])) for start, end in spans]


def _unit(states: Floats) -> Floats:
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    return np.asarray(states / np.maximum(lengths, 1e-12), np.float32)
