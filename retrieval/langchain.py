"""LangChain's retriever and vector store interfaces over Tether's own store.

LangChain's own FAISS store pickles its documents; here they stay in SQLite. No other module of this
folder imports LangChain, and nothing else imports this one.

    store = TetherVectorStore.from_texts(texts, encoder, home=home, collection="notes")
    retriever = TetherRetriever(searcher=CollectionSearcher(collection), top_k=5)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore

from ingest.documents import Chunk, Document, chunk_id, content_id
from ingest.errors import UsageError
from ingest.pipeline import Item
from retrieval.encoders import Encoder
from retrieval.index import DenseIndex
from retrieval.search import Searcher
from retrieval.store import Collection, open_collection


class EncoderEmbeddings(Embeddings):
    """A Tether encoder behind LangChain's `Embeddings`."""

    def __init__(self, encoder: Encoder) -> None:
        """Wrap this encoder."""
        self.encoder = encoder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one unit vector for each passage."""
        vectors: list[list[float]] = self.encoder.encode_passages(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the unit vector of a question."""
        vector: list[float] = self.encoder.encode_queries([text])[0].tolist()
        return vector


class TetherRetriever(BaseRetriever):
    """Any `Searcher` as a LangChain retriever."""

    searcher: Searcher
    top_k: int = 5

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[LangChainDocument]:
        return [
            _as_langchain(passage.chunk, passage.title, passage.uri)
            for passage in self.searcher.search(query, top_k=self.top_k)
        ]


class TetherVectorStore(VectorStore):
    """A collection as a LangChain vector store.

    Each added text is one document of one chunk, and its id is the uri of its source: texts longer
    than the encoder reads are better split first, or ingested by Tether. Metadata is kept as text.
    A text of white space alone is kept under its id and found by no search.
    An id that is added again gets the new text; equal texts are stored once, under the oldest id.
    """

    def __init__(self, collection: Collection) -> None:
        """Work on this collection; loads its index."""
        self._collection = collection
        self._index = DenseIndex(collection)

    @property
    def embeddings(self) -> Embeddings:
        """The collection's encoder."""
        return EncoderEmbeddings(self._collection.encoder)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,  # noqa: ANN401 - LangChain's signature
    ) -> list[str]:
        """Add texts and return their ids; a text without an id gets the hash of its content."""
        _refuse(kwargs)
        texts = list(texts)
        metadatas = metadatas or [{} for _ in texts]
        names: Sequence[str | None] = ids or [None for _ in texts]
        if not len(texts) == len(metadatas) == len(names):
            raise UsageError("texts, metadatas and ids differ in length; give one for each text")
        items = [_item(*given) for given in zip(texts, metadatas, names, strict=True)]
        # Whoever asks for an id wants that very text back, so similar ones are not joined.
        self._collection.add_all(items, join_similar=False)
        return [item.uri for item in items]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:  # noqa: ANN401
        """Delete by id; unknown ids are no error."""
        _refuse(kwargs)
        if ids is None:
            raise UsageError("nothing was named for deletion; give the ids")
        self._collection.remove_all(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[LangChainDocument]:
        """Return the whole documents of those ids that exist."""
        found = [(name, self._collection.document_of(name)) for name in ids]
        return [
            LangChainDocument(
                id=name,
                page_content=document.text,
                metadata={"source": name, **document.metadata, "document_id": document.id},
            )
            for name, document in found
            if document is not None
        ]

    def similarity_search(
        self,
        query: str,
        k: int = 4,
        **kwargs: Any,  # noqa: ANN401
    ) -> list[LangChainDocument]:
        """Return the `k` nearest chunks, best first."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        **kwargs: Any,  # noqa: ANN401
    ) -> list[tuple[LangChainDocument, float]]:
        """Return the `k` nearest chunks with their cosine (higher is nearer), best first."""
        _refuse(kwargs)
        return self._nearest(self._collection.encoder.encode_queries([query])[0].tolist(), k)

    def similarity_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        **kwargs: Any,  # noqa: ANN401
    ) -> list[LangChainDocument]:
        """Return the `k` chunks nearest to a unit vector, best first."""
        _refuse(kwargs)
        return [document for document, _ in self._nearest(embedding, k)]

    def _nearest(self, embedding: list[float], k: int) -> list[tuple[LangChainDocument, float]]:
        found = []
        with self._collection.reading():
            hits = self._index.search(np.array(embedding, dtype=np.float32), top_k=k)
            chunks = self._collection.chunks_by_rowid(rowid for rowid, _ in hits)
            for rowid, cosine in hits:
                stored = chunks[rowid]
                metadata = self._collection.metadata_of(stored.chunk.document_id)
                result = _as_langchain(stored.chunk, stored.title, stored.uri, metadata)
                found.append((result, cosine))
        return found

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: (1 + cosine) / 2  # LangChain wants 0..1

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | Encoder,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> "TetherVectorStore":
        """Add texts to a collection, made if it is not there, and return it as a vector store.

        Args:
            texts: One document each.
            embedding: A Tether encoder, bare or as `EncoderEmbeddings`: only such can tell its
                weights, without which vectors of two encoders could be mixed.
            metadatas: One for each text.
            ids: One for each text.
            **kwargs: `home` (a path, required) and `collection` (its name, default "langchain").
        """
        encoder = embedding.encoder if isinstance(embedding, EncoderEmbeddings) else embedding
        if isinstance(encoder, Embeddings):
            raise UsageError("this embedding cannot tell its weights; give a Tether encoder")
        if "home" not in kwargs:
            raise UsageError("a Tether vector store lives in a folder; give home=PATH")
        home, name = Path(kwargs.pop("home")), kwargs.pop("collection", "langchain")
        _refuse(kwargs)
        store = cls(open_collection(home, name, encoder, create=True))
        store.add_texts(texts, metadatas, ids=ids)
        return store


def _item(text: str, metadata: dict[str, Any], name: str | None) -> Item:
    document_id = content_id(text)
    uri = name or document_id
    plain = {key: str(value) for key, value in metadata.items()}
    title = plain.get("title", "")
    document = Document(document_id, uri, title, text, "und", "text/plain", plain)
    span = (0, len(text))
    chunk = Chunk(chunk_id(document_id, *span), document_id, *span, text)
    return Item(uri, document_id, document, [chunk] if text.strip() else [])


def _as_langchain(
    chunk: Chunk, title: str, uri: str, metadata: Mapping[str, str] | None = None
) -> LangChainDocument:
    return LangChainDocument(
        id=uri or chunk.id,
        page_content=chunk.text,
        metadata={
            "source": uri,
            "title": title,
            "heading": chunk.heading,
            "page": chunk.page,
            "place": chunk.place,
            **(metadata or {}),  # may name its own source, but not where the text stands
            "start": chunk.start,
            "end": chunk.end,
            "document_id": chunk.document_id,
        },
    )


def _refuse(options: dict[str, Any]) -> None:
    """Refuse what would otherwise be ignored in silence, such as a `filter`."""
    if options:
        raise UsageError(f"Tether's store has no option {', '.join(options)}; leave it out")
