"""Encoders turn text into unit vectors, behind one narrow interface."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncoderIdentity:
    """What makes vectors comparable: same name, same weights, same dimension."""

    name: str
    weights_hash: str  # SHA-256 over the weight files, hex
    dimension: int


class Encoder(Protocol):
    """Maps texts to L2-normalised float32 vectors; cosine is the inner product."""

    @property
    def identity(self) -> EncoderIdentity:
        """Name, weights hash and dimension of this encoder."""
        ...

    def encode_queries(self, texts: list[str]) -> Vectors:
        """Return unit vectors of questions, shape (len(texts), dimension)."""
        ...

    def encode_passages(self, texts: list[str]) -> Vectors:
        """Return unit vectors of passages, shape (len(texts), dimension)."""
        ...

    def count_tokens(self, text: str) -> int:
        """Return the number of this encoder's tokens in the text, special tokens excluded."""
        ...
