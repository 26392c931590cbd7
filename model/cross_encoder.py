"""Pairs of texts through the encoder with a small trained head: read or rerank.

    encoder = CrossEncoder(bert, load_head(folder, bert, base_sha256))
    best = encoder.read("谁造了这座桥？", ["这座桥由林望舒设计，1931年完工。"])[0]
    logits = reranker.score([("谁造了这座桥？", "这座桥由林望舒设计，1931年完工。")])

A pair is read as `<s> a </s> </s> b </s>`, so that every token of one text sees the other. A head
is a LoRA of the encoder and one linear layer; all heads and the encoder itself share one set of
weights (`retrieval.onnx`). Texts are compared in simplified characters, which keeps their length,
so offsets are those of the text as given. Nothing is cut: a long text is read in windows that
overlap. The third kind of head, `verify`, is loaded here and used by `model.alignment`. Knows
nothing of prompts, passages' documents, thresholds or torch.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from unicodedata import east_asian_width

import numpy as np
from numpy.typing import NDArray

from ingest.errors import WeightsError
from ingest.languages import simplified
from retrieval.onnx import LOW_RANK, BertTokenizer, OnnxBert

Role = Literal["read", "verify", "rerank"]
Floats = NDArray[np.float32]

HEAD_FILE = "head.safetensors"
# Of a file, by role: what computes with it must be what it was trained with.
HEAD_FORMATS: Mapping[Role, str] = {
    "read": "tether-head-1",
    "verify": "tether-alignment-1",
    "rerank": "tether-head-1",
}
OUTPUTS: Mapping[Role, int] = {"read": 2, "verify": 1, "rerank": 1}  # read: start and end
LONGEST_ANSWER = 40  # tokens
_LEAST_WINDOW = 8  # tokens: four special ones, and some of each text
_OVERLAP = 64  # tokens that two windows of a long text share, so that no answer is torn
_OPENING = re.compile(r"[\s，。、；：,;:]|的(?![確确士])")  # not of 的确, 的士
_CLOSING = re.compile(r"[\s，。、；：,;:的]")


@dataclass(frozen=True, slots=True)
class Head:
    """What makes the encoder a reader, a verifier or a reranker."""

    role: Role
    adapter: Mapping[str, Floats]  # by the names of `OnnxBert.adaptable`, scaled
    weight: Floats  # (width, outputs)
    bias: Floats  # (outputs,)
    window: int  # tokens of a pair, special tokens included


@dataclass(frozen=True, slots=True)
class Reading:
    """The likeliest answer in one passage: characters `start:end` of it.

    `score` and `no_answer` are sums of two logits in the window where the answer stands, so only
    their difference compares windows and passages.
    """

    passage: int  # place in the list that was given
    start: int
    end: int
    score: float
    no_answer: float

    @property
    def margin(self) -> float:
        """How much likelier the span is than that there is none: log odds, not calibrated."""
        return self.score - self.no_answer


@dataclass(frozen=True, slots=True)
class Window:
    """One input of the encoder: all or a part of `a`, then all or a part of `b`."""

    ids: list[int]
    first: int  # where the tokens of b begin in ids
    spans: list[tuple[int, int]]  # the characters of each of those tokens in the whole b
    part: int  # of a


def load_head(folder: Path, bert: OnnxBert, base_sha256: str) -> Head:
    """Return the head that was saved to a folder.

    Args:
        folder: Holds `head.safetensors`.
        bert: The encoder it shall be used with.
        base_sha256: The hash of that encoder's weights (`retrieval.weights.hash_folder`).

    Raises:
        WeightsError: The file is missing or damaged, or was trained on another encoder.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / HEAD_FILE
    try:
        with safe_open(path, "np") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
        role = told["role"]
        if role not in get_args(Role) or told["format"] != HEAD_FORMATS[role]:
            raise ValueError("it is no head of this version")
        if told["base_sha256"] != base_sha256:
            raise WeightsError(
                f"{path} was trained on another encoder ({told['base']}): use it with that one, or"
                " train a head for this encoder"
            )
        scale = float(told["alpha"]) / int(told["rank"])
        if not all(np.isfinite(values).all() for values in (scale, *tensors.values())):
            raise ValueError("a number of it is not finite")
        weight, bias = tensors.pop("head.weight").T, tensors.pop("head.bias")
        if weight.shape != (bert.shape.width, OUTPUTS[role]) or bias.shape != (OUTPUTS[role],):
            raise ValueError("its head has another shape")
        adapter = _adapter(tensors, scale, bert.adaptable)
        window = min(int(told["window"]), bert.shape.most_tokens)
        if window < _LEAST_WINDOW:
            raise ValueError(f"its window of {window} tokens holds no pair")
        return Head(role, adapter, np.ascontiguousarray(weight), bias, window)
    except (OSError, SafetensorError, KeyError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(
            f"cannot read {path} ({error}): fetch the adapter's folder again"
        ) from error


def _adapter(
    tensors: Mapping[str, Floats], scale: float, adaptable: Mapping[str, tuple[int, int]]
) -> dict[str, Floats]:
    """Return the matrices as the graph multiplies by them; the file has them as (out, in)."""
    first, second = LOW_RANK
    adapter = {}
    for name, tensor in tensors.items():
        shape = adaptable.get(name)
        whole = tensor.T * (scale if name.endswith(second) else 1.0)
        side = 0 if name.endswith(first) else 1  # the side that the rank does not decide
        if shape is None or whole.ndim != 2 or whole.shape[side] != shape[side]:
            raise ValueError(f"{name} does not fit the encoder")
        adapter[name] = np.ascontiguousarray(whole, np.float32)
    layers = [name.removesuffix(first) for name in adapter if name.endswith(first)]
    if len(adapter) != 2 * len(layers):
        raise ValueError("half of a layer's adapter is missing")
    for layer in layers:
        if adapter[layer + first].shape[1] != adapter[layer + second].shape[0]:
            raise ValueError(f"the ranks of {layer} differ")
    return adapter


def comparable(text: str) -> str:
    """Return a text as heads see it: simplified, no lone surrogates, and of the same length."""
    return simplified(text).encode("utf-8", "replace").decode("utf-8")


def pair_windows(tokenizer: BertTokenizer, a: str, b: str, window: int) -> list[Window]:
    """Return the inputs that together hold all of both texts; one where they fit.

    Args:
        tokenizer: Of the encoder.
        a: A question or claim. Beyond half a window it is read in parts.
        b: A passage. Beyond what is left it is read in windows that share 64 tokens (or half).
        window: The most tokens of an input.
    """
    before, after = tokenizer.before, tokenizer.after
    ids_a, _ = tokenizer.tokens(comparable(a))
    ids_b, spans = tokenizer.tokens(comparable(b))
    half = max(1, (window - len(before) - 3 * len(after)) // 2)
    windows = []
    for part, at in enumerate(range(0, max(1, len(ids_a)), half)):
        head = before + ids_a[at : at + half] + after + after
        room = max(1, window - len(head) - len(after))
        for start in _starts(len(ids_b), room):
            own = ids_b[start : start + room]
            ids = head + own + after
            windows.append(Window(ids, len(head), spans[start : start + room], part))
    return windows


def _starts(length: int, room: int) -> Iterator[int]:
    """Yield where windows of `room` tokens begin; the last one ends with the text."""
    step = room - min(_OVERLAP, room // 2)
    at = 0
    while at + room < length:
        yield at
        at += step
    yield max(0, min(at, length - room))


def best_span(logits: Floats, longest: int = LONGEST_ANSWER) -> tuple[int, int, float]:
    """Return first and last place, and the summed logit, of the likeliest span.

    Args:
        logits: Of start and end, (tokens, 2).
        longest: The most tokens of a span.
    """
    count = len(logits)
    places = np.arange(count)
    length = places[None, :] - places[:, None]  # (start, end)
    scores = logits[:, :1] + logits[:, 1]
    scores = np.where((length >= 0) & (length < longest), scores, -np.inf)
    start, end = divmod(int(scores.argmax()), count)
    return start, end, float(scores[start, end])


class CrossEncoder:
    """One head on the shared encoder; may be used from any number of threads at once."""

    def __init__(self, bert: OnnxBert, head: Head) -> None:
        """Join an encoder and a head that `load_head` found to fit it."""
        self._bert = bert
        self._head = head

    @property
    def role(self) -> Role:
        """What the head was trained for."""
        return self._head.role

    def read(self, question: str, passages: Sequence[str]) -> list[Reading]:
        """Return the likeliest answer in each passage, best first, blank passages left out.

        Raises:
            ValueError: The head is not a reader.
        """
        readings = self.read_pairs([(question, passage) for passage in passages])
        return sorted(filter(None, readings), key=lambda reading: -reading.margin)

    def read_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Reading | None]:
        """Return the likeliest answer to each (question, passage); None where the passage is blank.

        `Reading.passage` is the pair's place.

        Raises:
            ValueError: The head is not a reader.
        """
        if self._head.role != "read":
            raise ValueError(f"a {self._head.role} head does not read")
        best: list[Reading | None] = [None] * len(pairs)
        for number, window, logits in self._outputs(pairs, every_token=True):
            found = _reading(number, window, logits, pairs[number][1])
            old = best[number]
            if found and (old is None or found.margin > old.margin):
                best[number] = found
        return best

    def read_ranges(
        self, pairs: Sequence[tuple[str, str]], ranges: Sequence[Sequence[tuple[int, int]]]
    ) -> list[list[Reading | None]]:
        """Return the likeliest answer that lies inside each part of each passage.

        Args:
            pairs: (question, passage).
            ranges: For each pair the parts of its passage, as characters `start:end`: sentences.

        Returns:
            For each pair a reading for each of its parts, None for a part without words;
            `Reading.passage` is the pair's place.

        Raises:
            ValueError: The head is not a reader.
        """
        if self._head.role != "read":
            raise ValueError(f"a {self._head.role} head does not read")
        best: list[list[Reading | None]] = [[None] * len(parts) for parts in ranges]
        for number, window, logits in self._outputs(pairs, every_token=True):
            for place, part in enumerate(ranges[number]):
                found = _reading(number, window, logits, pairs[number][1], part)
                old = best[number][place]
                if found and (old is None or found.margin > old.margin):
                    best[number][place] = found
        return best

    def score(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        """Return one logit for each pair, (len(pairs),): that of its best window.

        Raises:
            ValueError: The head is no reranker.
        """
        if self._head.role != "rerank":
            raise ValueError(f"a {self._head.role} head does not rank")
        best = np.full(len(pairs), -np.inf, np.float32)
        for number, _, logits in self._outputs(pairs, every_token=False):
            best[number] = max(best[number], logits[0])
        return best

    def _outputs(
        self, pairs: Sequence[tuple[str, str]], *, every_token: bool
    ) -> Iterator[tuple[int, Window, Floats]]:
        """Yield each window of each pair with its logits: (tokens, outputs) or (outputs,)."""
        tokenizer, size = self._bert.tokenizer, self._head.window
        windows = [
            (number, window)
            for number, (a, b) in enumerate(pairs)
            for window in pair_windows(tokenizer, a, b, size)
        ]
        weight, bias = self._head.weight, self._head.bias

        def finish(states: Floats) -> Floats:
            return np.asarray((states if every_token else states[0]) @ weight + bias, np.float32)

        rows = [window.ids for _, window in windows]
        computed = self._bert.compute(rows, finish, self._head.adapter)
        for (number, window), logits in zip(windows, computed, strict=True):
            yield number, window, logits


def _reading(
    number: int,
    window: Window,
    logits: Floats,
    text: str,
    part: tuple[int, int] = (0, sys.maxsize),
) -> Reading | None:
    """Return the likeliest span of one window within a part: whole words, no spaces around it."""
    inside = [
        place
        for place, (start, end) in enumerate(window.spans)
        if start < part[1] and end > part[0]
    ]
    if not inside:
        return None
    lowest, highest = window.first + inside[0], window.first + inside[-1] + 1
    first, last, score = best_span(logits[lowest:highest])
    start = max(part[0], window.spans[inside[0] + first][0])
    end = min(part[1], window.spans[inside[0] + last][1])
    while start > part[0] and _within_word(text, start):
        start -= 1
    while end < min(part[1], len(text)) and _within_word(text, end):
        end += 1
    start, end = _trimmed(text, start, end)
    if start == end:
        return None  # the token of a space alone
    return Reading(number, start, end, score, float(logits[0].sum()))


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the characters without what is no part of an answer at either end."""
    while opening := _OPENING.match(text, start, end):
        start = opening.end()
    while start < end and _CLOSING.match(text, end - 1, end) and text[end - 2 : end] != "目的":
        end -= 1
    return start, end


def _within_word(text: str, at: int) -> bool:
    """Tell whether a cut at that character would part a word or number, such as 19|31.

    Tokens are parts of words. Chinese is written without spaces, so that any cut may be right.
    """
    before, after = text[at - 1 : at], text[at : at + 1]
    is_wide = any(east_asian_width(char) in "WF" for char in before + after)
    return before.isalnum() and after.isalnum() and not is_wide
