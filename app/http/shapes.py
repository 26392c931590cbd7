"""What goes over the wire, as pydantic models: the server's OpenAPI schema is made from these.

The names of fields are public. Answers and passages have the JSON form that `tether ask --json`
prints (`model.answers`). Fields that a request has beyond these are ignored, for clients of OpenAI
send many. Knows nothing of routes.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

MOST_PASSAGES = 100  # that a question brings
MOST_TEXTS = 256  # embedded in one request
LONGEST_TEXT = 100_000  # characters
LONGEST_NAME = 100

Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
CollectionName = Annotated[str, Field(max_length=LONGEST_NAME)]
TopK = Annotated[int, Field(ge=1, le=100)]


# --- Tether's own ---------------------------------------------------------------------------------


class Passage(BaseModel):
    """A passage; `text[c.start - start : c.end - start]` is the quote of a citation of it."""

    number: int
    document: str
    uri: str
    title: str
    heading: str
    page: int | None
    place: str
    start: int
    end: int
    text: str
    score: float
    found_by: list[str]


class Citation(BaseModel):
    """The exact characters of a passage on which a claim relies."""

    passage_number: int
    document: str
    start: int
    end: int
    quote: str


class Claim(BaseModel):
    """One statement of an answer; `support` is the verifier's probability."""

    text: str
    support: float
    quotation: bool
    span: bool
    citations: list[Citation]


class Answer(BaseModel):
    """A verified answer; `text` holds supported claims with their marks, or says there are none."""

    question: str
    status: Literal["supported", "partial", "abstained", "unverified"]
    text: str
    claims: list[Claim]
    passages: list[Passage]
    timings: dict[str, float]


class AskRequest(BaseModel):
    """A question, and where to look for its answer."""

    question: Text
    collection: CollectionName | None = Field(None, description="null is the default collection")
    passages: list[Text] | None = Field(
        None, max_length=MOST_PASSAGES, description="answer from these instead of searching"
    )
    retrieval: bool = Field(True, description="false answers from the model's memory: unverified")
    top_k: TopK | None = None
    stream: bool = Field(
        False, description="events as JSON lines, or server-sent events if those are accepted"
    )


class SearchRequest(BaseModel):
    """A question whose passages are wanted."""

    question: Text
    collection: CollectionName | None = None
    top_k: TopK | None = None


class Found(BaseModel):
    """Passages, best first."""

    passages: list[Passage]


class IngestedFile(BaseModel):
    """What became of one file."""

    uri: str
    status: Literal["added", "updated", "moved", "unchanged", "duplicate", "removed", "failed"]
    chunks: int
    embedded: int
    message: str = Field(description="why it failed, or what it is similar to")


class Ingested(BaseModel):
    """What became of the files of one request; those that failed do not stop the others."""

    collection: str
    counts: dict[str, int]
    files: list[IngestedFile]


class CollectionShape(BaseModel):
    """A collection; `problem` is empty unless it cannot be read."""

    name: str
    documents: int
    chunks: int
    encoder: str
    bytes: int
    problem: str


class Rights(BaseModel):
    """Who may do what with a collection."""

    owner: str | None  # None: it is the operators'
    readers: list[str]


class Collections(BaseModel):
    """All collections, sorted by name."""

    collections: list[CollectionShape]


class DocumentShape(BaseModel):
    """A document without its text."""

    id: str
    title: str
    uris: list[str]
    language: str
    media_type: str
    characters: int
    chunks: int


class Documents(BaseModel):
    """The documents of a collection, oldest first."""

    documents: list[DocumentShape]


class DocumentText(BaseModel):
    """A document with its text, in which the offsets of citations count."""

    id: str
    uri: str
    title: str
    text: str
    language: str
    media_type: str


class Removed(BaseModel):
    """How many sources were removed."""

    removed: int


class FeedbackPassage(BaseModel):
    """A passage as the answer showed it."""

    document: str = Field(max_length=LONGEST_NAME)
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    text: Text


class FeedbackRequest(BaseModel):
    """A verdict on an answer; question, text and passages are those of the answer."""

    question: Text
    text: Text
    passages: list[FeedbackPassage] = Field([], max_length=MOST_PASSAGES)
    thumb: Literal["up", "down", "none"] = "none"
    correction: Text | None = Field(None, description="what it should have been, with its [n]")


class Kept(BaseModel):
    """The number of a feedback entry."""

    id: int


class Health(BaseModel):
    """That the process answers, and how busy it is."""

    status: Literal["ok"]
    version: str
    running: int
    waiting: int


class ErrorDetail(BaseModel):
    """One error; `message` ends with what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """The form of every error."""

    error: ErrorDetail


# --- OpenAI's -------------------------------------------------------------------------------------


class Part(BaseModel):
    """A part of a message; only those of type "text" are read."""

    type: str
    text: Text | None = None


class Message(BaseModel):
    """One turn of a conversation."""

    role: str
    content: Text | list[Part] | None = None

    def plain_text(self) -> str:
        """Return the text of the message."""
        if isinstance(self.content, str) or self.content is None:
            return self.content or ""
        return "\n".join(part.text for part in self.content if part.type == "text" and part.text)


class StreamOptions(BaseModel):
    """Of a streamed completion."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A conversation whose last question is to be answered from a collection."""

    model: str = Field("tether", description='"tether", or "tether/" and the name of a collection')
    messages: list[Message] = Field(min_length=1, max_length=1000)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    user: str | None = Field(None, max_length=256, description="whose turn it is in the line")
    top_k: TopK | None = None


class Usage(BaseModel):
    """Tokens of the generator; all 0 where the answer was read in a passage."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionMessage(BaseModel):
    """The answer as a turn."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The one choice of a completion."""

    index: int = 0
    message: CompletionMessage
    finish_reason: Literal["stop"] = "stop"
    logprobs: None = None


class Completion(BaseModel):
    """A chat completion; `tether` has claims with their verdicts, citations and passages."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    tether: Answer


class EmbeddingsRequest(BaseModel):
    """Texts to embed."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]
    model: str = Field("", max_length=1000, description="the encoder's name, or empty")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="only the encoder's own number")
    input_type: Literal["passage", "query"] = "passage"


class Embedding(BaseModel):
    """One vector of length 1: numbers, or their little-endian float32 bytes in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens of the encoder."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """The vectors, in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Model(BaseModel):
    """Something that can stand as `model` in a request."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "tether"


class Models(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": description}
    for status, description in {
        400: "the request cannot be carried out",
        401: "with users: no token or session, or a wrong one",
        403: "refused: it comes from another site, or asks for what may not be done here",
        404: "no such collection, document or model, or it is somebody else's",
        409: "another program is writing the collection",
        413: "the body is too large",
        422: "a field is missing or wrong",
        429: "too many wrong tokens",
        500: "the collection or a model failed",
        502: "the generator failed",
        503: "too many questions wait, or the server is stopping",
    }.items()
}


def also_streamed(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """Return what the schema says of a reply that comes as events where a request asks for them."""
    description = "The reply, or with `stream` its events"
    return {200: {"description": description, "content": {kind: {} for kind in media_types}}}
