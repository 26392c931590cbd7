"""Generators continue a prompt, behind one narrow interface.

Backends: llama.cpp in this process, transformers, any OpenAI-compatible server, and a scripted
one for tests. Knows nothing of passages, claims or verification.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from model.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the next token is chosen."""

    strategy: Literal["greedy", "beam", "sample"] = "greedy"
    temperature: float = 0.7  # sampling only
    top_p: float = 0.95  # sampling only, share of probability mass kept
    seed: int = 0  # sampling only
    beams: int = 4  # beam search only, transformers backend
    max_new_tokens: int = 96


@dataclass(frozen=True, slots=True)
class GeneratorIdentity:
    """What generates: shown by `tether models` and written to every record."""

    name: str
    backend: str  # "llama.cpp", "transformers", "openai" or "scripted"
    device: str


class Generator(Protocol):
    """Continues a prompt; stops at the prompt's stop strings, which are not emitted."""

    @property
    def identity(self) -> GeneratorIdentity:
        """Name, backend and device."""
        ...

    def stream(self, prompt: Prompt, decoding: Decoding) -> Iterator[str]:
        """Yield pieces of the continuation as they are decoded.

        Raises:
            GeneratorError: The backend failed or could not be reached.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Return the number of this generator's tokens in the text."""
        ...
