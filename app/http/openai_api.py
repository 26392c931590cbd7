"""OpenAI's HTTP interface over documents: /v1/chat/completions, /v1/embeddings, /v1/models.

    client = OpenAI(base_url="http://127.0.0.1:7860/v1", api_key="-")
    client.chat.completions.create(model="tether/handbook", messages=[...])

A model is a collection: "tether" the default one, "tether/NAME" any other. The last turn of the
user is the question. The answer's text is the message; its claims with verdicts, citations and
passages are the field `tether`. A stream brings the text only once it is verified, for what was
sent cannot be taken back; drafts come meanwhile as chunks with an empty delta, in their `tether`.
How is decoded is for the settings to say: temperature and the like are ignored.
"""

import base64
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import APIRouter, Request, Response

from app.http import shapes
from app.http.answering import Asking, Question, Streamed, opened
from app.http.api import EVENT_STREAM, HUNG_UP, Row, event_to_json, owner_of
from app.http.failures import as_error, noted
from app.http.identity import person_of
from app.service import Service, Waiting
from app.users import Person
from ingest.errors import QuestionError, UnknownCollection, UsageError
from model.answers import Answer, answer_to_json
from model.assistant import Event, Finished

MODEL = "tether"


def routes(asking: Asking) -> APIRouter:
    """Return all routes of this interface."""
    router, service = (
        APIRouter(prefix="/v1", tags=["openai"], responses=shapes.ERRORS),
        asking.service,
    )

    streamed = shapes.also_streamed(EVENT_STREAM)

    @router.post("/chat/completions", response_model=shapes.Completion, responses=streamed)
    async def complete(body: shapes.ChatRequest, request: Request) -> Row | Response:
        """Answer the last question of a conversation from a collection."""
        question = Question(
            _question_of(body),
            collection=collection_of(body.model),
            top_k=body.top_k,
            owner=owner_of(request, body.user),
            person=person_of(request),
        )
        if not body.stream:
            answer = await asking.answer(request, question)
            return Response(status_code=HUNG_UP) if answer is None else _completion(body, answer)
        source = asking.events(request, question)
        chunks = _Chunks(body).of(await opened(source))
        return Streamed((f"data: {chunk}\n\n" async for chunk in chunks), source, EVENT_STREAM)

    @router.post("/embeddings", response_model=shapes.Embeddings)
    def embed(body: shapes.EmbeddingsRequest) -> Row:
        """Embed texts with the encoder of the collections."""
        return _embeddings(service, body)

    @router.get("/models", response_model=shapes.Models)
    def models(request: Request) -> Row:
        """List the collections as models, and the encoder."""
        return {"data": [{"id": name} for name in _model_names(service, person_of(request))]}

    @router.get("/models/{name:path}", response_model=shapes.Model)
    def model(name: str, request: Request) -> Row:
        """Return one of the models."""
        if name not in _model_names(service, person_of(request)):
            raise UnknownCollection(f"there is no model {name}; list them with GET /v1/models")
        return {"id": name}

    return router


def collection_of(model: str) -> str | None:
    """Return the collection that a model stands for, None for the default one.

    Raises:
        UnknownCollection: The name is not that of a model here.
    """
    prefix, slash, name = model.partition("/")
    if prefix != MODEL or (slash and not name):
        raise UnknownCollection(
            f'there is no model {model[:100]}; use "{MODEL}", or one that GET /v1/models lists'
        )
    return name or None


def _model_names(service: Service, person: Person) -> list[str]:
    collections = [f"{MODEL}/{info.name}" for info in service.collections(person=person)]
    return [MODEL, *collections, service.encoder.identity.name]


def _question_of(body: shapes.ChatRequest) -> str:
    turns = [message.plain_text() for message in body.messages if message.role == "user"]
    if not turns:
        raise QuestionError('no message has the role "user"; send the question as one')
    return turns[-1]


def _completion(body: shapes.ChatRequest, answer: Answer) -> Row:
    return {
        "id": _new_id(),
        "created": int(time.time()),
        "model": body.model,
        "choices": [{"message": {"content": answer.text}}],
        "usage": _usage(answer),
        "tether": answer_to_json(answer),
    }


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def _usage(answer: Answer) -> dict[str, int]:
    prompt = int(answer.timings.get("prompt_tokens", 0))
    generated = int(answer.timings.get("generated_tokens", 0))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
    }


class _Chunks:
    """The chunks of one streamed completion."""

    def __init__(self, body: shapes.ChatRequest) -> None:
        self._asks_for_usage = body.stream_options is not None and body.stream_options.include_usage
        self._head = {
            "id": _new_id(),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": body.model,
        }

    async def of(self, events: AsyncIterator[Waiting | Event]) -> AsyncGenerator[str, None]:
        """Yield each event as the data of a server-sent event, and then "[DONE]"."""
        yield self._chunk({"role": "assistant", "content": ""})
        try:
            async for event in events:
                if isinstance(event, Finished):
                    yield self._chunk({"content": event.answer.text})
                    yield self._chunk({}, "stop", tether=answer_to_json(event.answer))
                    if self._asks_for_usage:
                        yield json.dumps(
                            self._head | {"choices": [], "usage": _usage(event.answer)}
                        )
                else:
                    yield self._chunk({}, tether=event_to_json(event))
        except Exception as error:
            yield json.dumps({"error": as_error(noted(error))}, ensure_ascii=False)
        yield "[DONE]"

    def _chunk(
        self, delta: dict[str, str], finish_reason: str | None = None, **extension: object
    ) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return json.dumps(self._head | {"choices": [choice]} | extension, ensure_ascii=False)


def _embeddings(service: Service, body: shapes.EmbeddingsRequest) -> Row:
    identity = service.encoder.identity
    if body.model not in ("", identity.name):
        raise UnknownCollection(
            f'there is no model {body.model[:100]} to embed with; use "{identity.name}"'
        )
    if body.dimensions not in (None, identity.dimension):
        raise UsageError(
            f"{identity.name} has {identity.dimension} dimensions and cannot cut them; leave out"
            ' "dimensions"'
        )
    texts = [body.input] if isinstance(body.input, str) else body.input
    vectors = service.embed(texts, queries=body.input_type == "query").astype("<f4")
    as_text = body.encoding_format == "base64"
    rows = [
        base64.b64encode(row.tobytes()).decode() if as_text else row.tolist() for row in vectors
    ]
    tokens = sum(map(service.encoder.count_tokens, texts))
    return {
        "data": [{"index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": identity.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
