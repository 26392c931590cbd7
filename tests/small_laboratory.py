"""A laboratory of small parts: the suites' view of an assistant, without settings or weights."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.suites.suite import Overheard
from ingest.chunking import ChunkingOptions
from model.assistant import Assistant
from model.generators import Decoding, Generator, ScriptedGenerator
from model.prompts import PromptOptions
from model.verifier import OverlapVerifier, Verifier
from retrieval.encoders import Encoder, HashingEncoder
from retrieval.search import CollectionSearcher, Searcher, SearchOptions
from retrieval.store import Collection
from tests.test_verifier import plain_calibration


@dataclass
class SmallLaboratory:
    """A `Laboratory` of suites around a generator, a hashing encoder and a plain verifier."""

    home: Path
    given: Generator = field(default_factory=ScriptedGenerator)
    model: tuple[Any, Any] | None = None  # a causal model and its tokenizer
    search: SearchOptions = field(default_factory=SearchOptions)
    chunking: ChunkingOptions = field(default_factory=ChunkingOptions)
    decoding: Decoding = field(default_factory=lambda: Decoding(max_new_tokens=12))
    prompt: PromptOptions = field(default_factory=PromptOptions)
    device: str = "cpu"

    def identity(self, *, generates: bool = True) -> dict[str, str]:
        return {"generator": self.given.identity.name if generates else "none"}

    def encoder(self) -> Encoder:
        return self._encoder

    @cached_property
    def _encoder(self) -> Encoder:
        return HashingEncoder()

    def generator(self) -> Overheard:
        return self._generator

    @cached_property
    def _generator(self) -> Overheard:
        return Overheard(self.given)

    def verifier(self) -> Verifier:
        return OverlapVerifier(self.encoder(), plain_calibration())

    def searcher(self, collection: Collection) -> Searcher:
        return CollectionSearcher(collection)

    def assistant(
        self,
        searcher: Searcher | None = None,
        *,
        decoding: Decoding | None = None,
        prompt: PromptOptions | None = None,
    ) -> Assistant:
        return Assistant(
            generator=self.generator(),
            verifier=self.verifier(),
            searcher=searcher,
            prompt=prompt or self.prompt,
            decoding=decoding or self.decoding,
        )

    def causal_model(self) -> tuple[Any, Any]:
        assert self.model is not None
        return self.model
