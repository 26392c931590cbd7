"""OpenAI's interface, asked by OpenAI's own client, and by LangChain's."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

from app.http.server import build_app
from app.service import Service
from retrieval.encoders import HashingEncoder
from tests.serving_parts import BRIDGE, DRAFT, QUESTION, TEA, GatedGenerator, make_service, served
from tests.test_service import upload

if TYPE_CHECKING:
    from openai import OpenAI, Stream
    from openai.types.chat import ChatCompletionChunk

openai = pytest.importorskip("openai", reason="openai is not installed")


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    with make_service(home) as made:
        upload(made, "tea.md", TEA)
        upload(made, "bridge.md", BRIDGE, "bridges")
        yield made


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    with served(build_app(service)) as address:
        yield f"{address}/v1"


@pytest.fixture
def client(url: str) -> Iterator["OpenAI"]:
    with openai.OpenAI(base_url=url, api_key="-", max_retries=0, timeout=60) as made:
        yield made


def test_a_collection_is_a_model(client: "OpenAI") -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["tether", "tether/bridges", "tether/default", "hashing"]
    assert client.models.retrieve("tether/bridges").id == "tether/bridges"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


def test_a_completion_carries_the_answer_and_its_citations(client: "OpenAI") -> None:
    completion = client.chat.completions.create(
        model="tether/bridges",
        messages=[
            {"role": "system", "content": "You are helpful."},
            {"role": "user", "content": "When is tea harvested?"},
            {"role": "assistant", "content": "In April."},
            {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
        ],
        temperature=0.3,
        max_tokens=5,
    )
    assert completion.choices[0].message.content == DRAFT
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None and completion.usage.total_tokens > 0
    assert completion.model_extra is not None
    answer = completion.model_extra["tether"]
    assert (answer["question"], answer["status"]) == (QUESTION, "supported")
    assert "Ola Fenn" in answer["claims"][0]["citations"][0]["quote"]


def test_the_default_collection_abstains(client: "OpenAI") -> None:
    completion = client.chat.completions.create(
        model="tether", messages=[{"role": "user", "content": QUESTION}]
    )
    assert completion.choices[0].message.content == "The documents do not say."


def test_a_stream_brings_the_text_when_it_is_verified_and_drafts_as_an_extension(
    client: "OpenAI",
) -> None:
    stream = client.chat.completions.create(
        model="tether/bridges",
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
    )
    texts, events, usages = [], [], []
    for chunk in stream:
        usages.append(chunk.usage)
        extension = (chunk.model_extra or {}).get("tether", {})
        events.append(extension.get("event") or extension.get("status"))
        if chunk.choices and chunk.choices[0].delta.content:
            texts.append(chunk.choices[0].delta.content)
    assert texts == [DRAFT]
    assert [event for event in events if event] == [
        "retrieved", "drafted", "drafted", "drafted", "supported",
    ]  # fmt: skip
    assert usages[-1] is not None and not any(usages[:-1])


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_are_those_of_the_encoder(client: "OpenAI", encoding: str) -> None:
    texts = ["Ola Fenn built a bridge.", "茶叶"]
    made = client.embeddings.create(
        model="hashing",
        input=texts,
        encoding_format=encoding,  # type: ignore[arg-type]
    )
    rows = [item.embedding for item in made.data]
    if encoding == "base64":
        import base64

        rows = [np.frombuffer(base64.b64decode(str(row)), "<f4").tolist() for row in rows]
    expected = HashingEncoder().encode_passages(texts)
    np.testing.assert_allclose(np.array(rows, dtype=np.float32), expected, rtol=1e-6)
    single = client.embeddings.create(model="hashing", input=texts[0])
    np.testing.assert_allclose(np.array(single.data[0].embedding), expected[0], rtol=1e-6)
    assert single.usage.total_tokens == 5


def test_errors_are_the_ones_that_the_client_knows(client: "OpenAI") -> None:
    turns = [{"role": "user", "content": QUESTION}]
    for model in ("gpt-5", "tether/", "tether/nowhere", "bridges"):
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model=model, messages=turns)  # type: ignore[arg-type]
        assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="role"):
        client.chat.completions.create(
            model="tether", messages=[{"role": "system", "content": "x"}]
        )
    with pytest.raises(openai.UnprocessableEntityError, match="messages"):
        client.chat.completions.create(model="tether", messages=[])
    with pytest.raises(openai.UnprocessableEntityError, match=r"body\.n"):
        client.chat.completions.create(model="tether", messages=turns, n=2)  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError, match="hashing"):
        client.embeddings.create(model="text-embedding-3-small", input="x")
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="hashing", input="x", dimensions=7)
    with pytest.raises(openai.UnprocessableEntityError):
        client.embeddings.create(model="hashing", input=[[1, 2, 3]])


def test_users_take_turns_and_a_stream_that_is_left_frees_its_place(home: Path) -> None:
    gated = GatedGenerator()
    with make_service(home, gated, generator__slots="1") as service:
        upload(service, "bridge.md", BRIDGE)
        with (
            served(build_app(service)) as address,
            openai.OpenAI(base_url=f"{address}/v1", api_key="-", timeout=60) as client,
        ):

            def ask(name: str) -> "Stream[ChatCompletionChunk]":
                stream: Stream[ChatCompletionChunk] = client.chat.completions.create(
                    model="tether",
                    messages=[{"role": "user", "content": f"{QUESTION} ({name})"}],
                    stream=True,
                    user=name[:-1],
                )
                return stream

            def read(name: str, has_joined: threading.Event) -> None:
                for _ in ask(name):
                    has_joined.set()

            running = ask("ada1")
            assert gated.wait_until_inside(1)
            threads = []
            for name in ("bo1", "bo2", "cy1"):
                has_joined = threading.Event()
                threads.append(threading.Thread(target=read, args=(name, has_joined)))
                threads[-1].start()
                assert has_joined.wait(60)
            running.close()
            gated.gate.set()
            for thread in threads:
                thread.join(60)
            order = [prompt.user.rpartition("(")[2][:3] for prompt in gated.prompts]
            assert order == ["ada", "bo1", "cy1", "bo2"]
            assert httpx.get(f"{address}/health").json()["waiting"] == 0


def test_langchain_asks_too(url: str) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    chat = langchain.ChatOpenAI(model="tether/bridges", base_url=url, api_key="-", timeout=60)
    assert chat.invoke(QUESTION).content == DRAFT
    assert "".join(chunk.content for chunk in chat.stream(QUESTION)) == DRAFT
