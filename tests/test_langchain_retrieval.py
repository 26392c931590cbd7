"""LangChain's interfaces behave as LangChain's users expect."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from ingest.errors import EncoderMismatch, UsageError
from retrieval.encoders import HashingEncoder
from retrieval.langchain import EncoderEmbeddings, TetherRetriever, TetherVectorStore
from retrieval.maintenance import check
from retrieval.search import CollectionSearcher
from retrieval.store import Collection, open_collection

TEXTS = ["绿茶要用八十度的水。", "The warranty lasts twenty-four months.", "长江大桥建成通车。"]


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with open_collection(tmp_path / "家", "链", HashingEncoder(), create=True) as opened:
        yield opened


@pytest.fixture
def store(collection: Collection) -> TetherVectorStore:
    made = TetherVectorStore(collection)
    made.add_texts(TEXTS, [{"title": "茶", "year": 2024}, {}, {}], ids=["a", "b", "c"])
    return made


def test_texts_come_back_with_their_place(store: TetherVectorStore) -> None:
    (found,) = store.similarity_search("绿茶要用几度的水", k=1)
    assert (found.id, found.page_content) == ("a", TEXTS[0])
    assert found.metadata["source"] == "a"
    assert (found.metadata["title"], found.metadata["year"]) == ("茶", "2024")
    assert (found.metadata["start"], found.metadata["end"]) == (0, len(TEXTS[0]))
    assert found.metadata["page"] is None
    assert len(found.metadata["document_id"]) == 64


def test_metadata_cannot_move_a_citation(store: TetherVectorStore) -> None:
    store.add_texts(["mint tea"], [{"start": 99, "source": "book.pdf"}], ids=["d"])
    (found,) = store.similarity_search("mint tea", k=1)
    assert (found.metadata["start"], found.metadata["source"]) == (0, "book.pdf")


def test_scores_are_cosines(store: TetherVectorStore) -> None:
    scored = store.similarity_search_with_score(TEXTS[1], k=10)
    assert scored[0][0].id == "b"
    assert scored[0][1] == pytest.approx(1.0)
    scores = [score for _, score in scored]
    assert scores == sorted(scores, reverse=True)
    relevant = store.similarity_search_with_relevance_scores(TEXTS[1], k=10, score_threshold=0.99)
    assert [document.id for document, _ in relevant] == ["b"]
    vector = store.embeddings.embed_query(TEXTS[1])
    assert store.similarity_search_by_vector(vector, k=1)[0].id == "b"


def test_adding_an_id_again_replaces_its_text(store: TetherVectorStore) -> None:
    assert store.add_texts(["红茶要用沸水。"], ids=["a"]) == ["a"]
    assert [document.page_content for document in store.get_by_ids(["a"])] == ["红茶要用沸水。"]
    assert TEXTS[0] not in [found.page_content for found in store.similarity_search("绿茶", k=10)]


def test_adding_the_same_texts_twice_stores_them_once(collection: Collection) -> None:
    made = TetherVectorStore(collection)
    assert made.add_texts(TEXTS) == made.add_texts(TEXTS)
    assert len(made.similarity_search("绿茶", k=10)) == len(TEXTS)


def test_similar_texts_stay_apart(collection: Collection) -> None:
    made = TetherVectorStore(collection)
    ids = made.add_texts(["Mint tea.", "mint tea"])
    assert [document.page_content for document in made.get_by_ids(ids)] == ["Mint tea.", "mint tea"]


def test_documents_can_be_added_with_and_without_ids(collection: Collection) -> None:
    made = TetherVectorStore(collection)
    ids = made.add_documents([Document(id="x", page_content="tea"), Document(page_content="水")])
    assert ids[0] == "x"
    assert [document.page_content for document in made.get_by_ids(ids)] == ["tea", "水"]


def test_deletion(store: TetherVectorStore) -> None:
    assert store.delete(["a", "never there"]) is True
    assert store.get_by_ids(["a", "b"])[0].id == "b"
    assert "a" not in [found.id for found in store.similarity_search("绿茶", k=10)]
    with pytest.raises(UsageError, match="give the ids"):
        store.delete()


def test_an_empty_store_finds_nothing(collection: Collection) -> None:
    assert TetherVectorStore(collection).similarity_search("tea", k=3) == []


def test_blank_texts_are_kept_and_never_found(collection: Collection) -> None:
    store = TetherVectorStore(collection)
    store.add_texts(["", " \n", "tea"], ids=["a", "b", "c"])
    assert [one.id for one in store.similarity_search("tea", k=9)] == ["c"]
    assert [one.page_content for one in store.get_by_ids(["a", "b"])] == ["", " \n"]
    collection.close()
    assert check(collection.directory.parent.parent, collection.name) == ()


def test_what_would_be_ignored_is_refused(store: TetherVectorStore) -> None:
    with pytest.raises(UsageError, match="no option filter"):
        store.similarity_search("tea", filter={"title": "茶"})
    with pytest.raises(UsageError, match="differ in length"):
        store.add_texts(["one", "two"], ids=["1"])


def test_from_texts_opens_a_collection_that_stays(tmp_path: Path) -> None:
    embedding = EncoderEmbeddings(HashingEncoder())
    made = TetherVectorStore.from_texts(TEXTS, embedding, home=tmp_path, collection="链")
    assert made.similarity_search("warranty", k=1)[0].page_content == TEXTS[1]
    again = TetherVectorStore.from_texts([], HashingEncoder(), home=tmp_path, collection="链")
    assert again.similarity_search("warranty", k=1)[0].page_content == TEXTS[1]
    with pytest.raises(EncoderMismatch):
        TetherVectorStore.from_texts([], HashingEncoder(32), home=tmp_path, collection="链")
    with pytest.raises(UsageError, match="give home=PATH"):
        TetherVectorStore.from_texts(TEXTS, embedding)
    with pytest.raises(UsageError, match="cannot tell its weights"):
        TetherVectorStore.from_texts(TEXTS, DeterministicFakeEmbedding(size=64), home=tmp_path)


def test_the_retriever_asks_any_searcher(collection: Collection, store: TetherVectorStore) -> None:
    retriever = TetherRetriever(searcher=CollectionSearcher(collection), top_k=2)
    found = retriever.invoke("长江大桥")
    assert len(found) == 2
    assert (found[0].page_content, found[0].metadata["source"]) == (TEXTS[2], "c")
    assert found == asyncio.run(retriever.ainvoke("长江大桥"))
    assert found[0].id == store.as_retriever(search_kwargs={"k": 1}).invoke("长江大桥")[0].id
