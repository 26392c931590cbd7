"""An encoder that remembers passages: what is weighed again is not embedded again.

    encoder = RememberingEncoder(encoder)

Questions come back to the same passages, and each time all of their sentences are embedded to be
weighed: half of what weighing the evidence costs. Knows nothing of what the vectors are for.
"""

import threading
from collections import OrderedDict

import numpy as np

from retrieval.encoders import Encoder, EncoderIdentity, Vectors

MOST_BYTES = 32 << 20  # of vectors: about 20,000 sentences of the default encoder


class RememberingEncoder:
    """Another encoder's vectors, those of passages kept while there is room (the latest asked for).

    May be used from several threads if the other encoder may. A vector is the same as the other
    encoder's up to the last bits, which depend on the texts that were embedded beside it.
    """

    def __init__(self, encoder: Encoder, most_bytes: int = MOST_BYTES) -> None:
        """Remember nothing yet.

        Args:
            encoder: Embeds what is not remembered.
            most_bytes: Of all vectors together; 0 remembers nothing.
        """
        self._encoder = encoder
        self._most = most_bytes // (4 * encoder.identity.dimension)
        self._kept: OrderedDict[str, Vectors] = OrderedDict()  # the one asked for last at the end
        self._lock = threading.Lock()

    @property
    def identity(self) -> EncoderIdentity:
        """The other encoder's: vectors of both may be compared."""
        return self._encoder.identity

    def encode_queries(self, texts: list[str]) -> Vectors:
        """Return unit vectors of questions, shape (len(texts), dimension); none is remembered."""
        return self._encoder.encode_queries(texts)

    def encode_passages(self, texts: list[str]) -> Vectors:
        """Return unit vectors of passages, shape (len(texts), dimension)."""
        with self._lock:
            found = {text: self._kept[text] for text in texts if text in self._kept}
        new = [text for text in dict.fromkeys(texts) if text not in found]
        if new:
            rows = self._encoder.encode_passages(new)
            # Copies: a view of one row would keep the whole batch.
            found |= {text: row.copy() for text, row in zip(new, rows, strict=True)}
        with self._lock:
            for text in texts:
                self._kept[text] = found[text]
                self._kept.move_to_end(text)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return np.stack([found[text] for text in texts]) if texts else self._nothing()

    def count_tokens(self, text: str) -> int:
        """Return the number of the other encoder's tokens in the text."""
        return self._encoder.count_tokens(text)

    def _nothing(self) -> Vectors:
        return np.empty((0, self.identity.dimension), np.float32)
