"""Collections made of the paragraphs of question sets, and the assistant that answers over them.

    benches = Benches.of(laboratory)
    with benches.open("squad-en", paragraphs) as bench:
        passages = passages_for(case, bench, texts)   # None: the assistant is to search
        answer = bench.make_asker().ask(case.question, passages=passages)

Every distinct paragraph becomes one document of a real collection, kept under `home`/benchmarks, so
a second run embeds nothing. Knows nothing of metrics or records.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from eval.cases import Case
from ingest.chunking import ChunkingOptions, split
from ingest.documents import Document, content_id
from ingest.languages import detect_language
from model.answers import Answer
from retrieval.encoders import Encoder
from retrieval.passages import Passage
from retrieval.search import CollectionSearcher, Searcher, given_passages
from retrieval.store import Collection, open_collection

if TYPE_CHECKING:
    from eval.suites.suite import Laboratory

RETRIEVED = 10  # passages that a search for distractors finds


class Asker(Protocol):
    """The part of `model.assistant.Assistant` that is measured."""

    def ask(self, question: str, *, passages: Sequence[Passage] | None = None) -> Answer:
        """Return the verified answer, from the passages given or from its own search."""
        ...


@dataclass(frozen=True, slots=True)
class Bench:
    """What one set in one language is measured with."""

    make_asker: Callable[[], Asker]  # called only if something is to be asked
    searcher: Searcher
    given: Callable[[Sequence[str], str], Sequence[Passage]]  # texts, question


# Opens the bench of a set and language for its distinct paragraphs.
Opener = Callable[[str, Sequence[str]], AbstractContextManager[Bench]]


@dataclass(frozen=True, slots=True)
class Benches:
    """Opens benches over real collections kept under `home`/benchmarks."""

    home: Path
    encoder: Encoder
    make_asker: Callable[[Searcher], Asker]
    make_searcher: Callable[[Collection], Searcher] = CollectionSearcher
    chunking: ChunkingOptions = field(default_factory=ChunkingOptions)

    @classmethod
    def of(cls, laboratory: "Laboratory") -> "Benches":
        """Return benches for a laboratory's assistant; its generator is loaded when one asks."""
        return cls(
            laboratory.home,
            laboratory.encoder(),
            laboratory.assistant,
            laboratory.searcher,
            laboratory.chunking,
        )

    @contextmanager
    def open(self, name: str, paragraphs: Sequence[str]) -> Iterator[Bench]:
        """Open the bench of a set; its paragraphs are embedded on the first run only."""
        key = [paragraphs, asdict(self.encoder.identity), asdict(self.chunking)]
        digest = content_id(json.dumps(key, ensure_ascii=False))[:12]
        home = self.home / "benchmarks"
        with open_collection(home, f"{name}-{digest}", self.encoder, create=True) as collection:
            self._fill(collection, paragraphs)
            searcher = self.make_searcher(collection)
            yield Bench(
                make_asker=lambda: self.make_asker(searcher),
                searcher=searcher,
                given=lambda texts, question: given_passages(texts, question, self.encoder),
            )

    def _fill(self, collection: Collection, paragraphs: Sequence[str]) -> None:
        """Add the paragraphs that an earlier run has not added, each as one document."""
        with collection.writing():
            for text in paragraphs:
                identity = content_id(text)
                uri = f"paragraph:{identity}"
                if collection.file_hash(uri) is None:
                    language = detect_language(text)
                    document = Document(identity, uri, "", text, language, "text/plain")
                    chunks = split(document, collection.count_tokens, self.chunking)
                    collection.add(uri, identity, document, chunks)


def paragraphs_of(cases: Sequence[Case]) -> dict[str, str]:
    """Return the gold paragraphs of cases by document id, each once, in their order."""
    return {c.gold_document: c.gold_context for c in cases if c.gold_document and c.gold_context}


def passages_for(case: Case, bench: Bench, texts: Mapping[str, str]) -> Sequence[Passage] | None:
    """Return the passages that the case brings, None if the assistant is to search.

    Among distractors the gold paragraph stands at its rank, or last if it was not found.

    Args:
        case: The question.
        bench: Searches, and makes passages of texts.
        texts: The paragraphs of the set by document id.
    """
    gold = case.gold_document
    if gold is None:
        return bench.given(case.contexts, case.question)
    if not case.distractors:
        return None
    found = bench.searcher.search(case.question, top_k=RETRIEVED)
    ranked = list(dict.fromkeys([*(passage.chunk.document_id for passage in found), gold]))
    others = [document for document in ranked if document != gold][: case.distractors]
    kept = [document for document in ranked if document == gold or document in others]
    return bench.given([texts[document] for document in kept], case.question)
