"""The lens: generation step by step, as a causal language model sees it.

    lens = Lens("gemma-3-270m-transformers", name="gemma-3-270m")
    for step in lens.walk([with_passage, without_it], Decoding(max_new_tokens=16)):
        print(step.text, [view.chosen.probability for view in step.views])

Several prompts are read side by side: the first one chooses each token, and each tells how likely
it finds all tokens after the same words. So one sees what a passage does to a probability. Beam
search has a tree instead of a path: `Lens.search`. What is chosen is what `generate` of
transformers would choose (`tests/test_lens.py`), but every step is there to be seen, and costs one
token, because a prompt is read once. Knows nothing of passages or of the screen.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from ingest.errors import SettingsError
from model.generators import Decoding, TransformersGenerator
from model.prompts import Prompt

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = 8  # likeliest tokens of a step

# Why a text ends: by an end token, at a stop string, at the longest length; "" while it goes on.
Ending = Literal["", "token", "text", "length"]

_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥"}
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that may come next."""

    token: int
    text: str  # readable: "␣bridge", "↵", "<0xE6>" for a part of a character
    probability: float  # 0..1, under the temperature in force, before anything is cut
    is_cut: bool = False  # sampling never takes it: it lies outside the `top_p` kept


@dataclass(frozen=True, slots=True)
class View:
    """What the model makes of the next token after one prompt and the text so far."""

    candidates: tuple[Candidate, ...]  # the likeliest ones, in order
    chosen: Candidate  # perhaps none of them: another prompt may have chosen
    end: float  # 0..1, probability of the tokens that end a text
    entropy: float  # bits, over the whole vocabulary


@dataclass(frozen=True, slots=True)
class Step:
    """One token of a continuation, as each prompt sees it."""

    number: int  # from 1
    text: str  # the continuation up to and with this token
    ending: Ending
    views: tuple[View, ...]  # one a prompt; the first one chose


@dataclass(frozen=True, slots=True)
class Beam:
    """One of the continuations that beam search follows."""

    parent: int  # place of the beam in the step before that it goes on from, 0 in the first step
    chosen: Candidate  # its last token, as that beam saw it
    text: str  # the whole continuation
    total: float  # natural log-probability of the continuation
    score: float  # that a token, by which texts of different lengths compare
    ending: Ending


@dataclass(frozen=True, slots=True)
class BeamStep:
    """What beam search holds after a step."""

    number: int  # from 1
    beams: tuple[Beam, ...]  # those that go on, likeliest first
    finished: tuple[Beam, ...]  # the best of those that ended in this step or before, best first
    is_last: bool

    @property
    def best(self) -> Beam:
        """The best text so far; in the last step, the result."""
        return (self.finished or self.beams)[0]


class Lens(TransformersGenerator):
    """A causal model of transformers that lets itself be watched; loaded like the generator."""

    def walk(
        self, prompts: Sequence[Prompt], decoding: Decoding, *, shown: int = SHOWN
    ) -> Iterator[Step]:
        """Yield each step of one continuation as all prompts see it.

        Args:
            prompts: The first one chooses the tokens and has the stop strings.
            decoding: Sampling draws; any other strategy takes the likeliest token.
            shown: Likeliest tokens of each view.

        Raises:
            SettingsError: The model is no causal one.
            GeneratorError: A prompt is longer than what the model can read.
        """
        with self._lock:
            encoded, decoding = self._prepared(prompts, decoding)
            stop = self._stop(prompts[0])
            yield from walk(self._model, self._tokenizer, encoded, decoding, stop=stop, shown=shown)

    def search(self, prompt: Prompt, decoding: Decoding) -> Iterator[BeamStep]:
        """Yield each step of a beam search with `decoding.beams` beams; raises as `walk`."""
        with self._lock:
            (encoded,), decoding = self._prepared([prompt], decoding)
            stop = self._stop(prompt)
            yield from search_beams(self._model, self._tokenizer, encoded, decoding, stop=stop)

    def as_read(self, prompt: Prompt) -> str:
        """Return a prompt as the model reads it, with the special tokens that are added."""
        tokens = self._encode(prompt)["input_ids"][0].tolist()
        return str(self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False))

    def _prepared(
        self, prompts: Sequence[Prompt], decoding: Decoding
    ) -> tuple[list["Tensor"], Decoding]:
        """Return the prompts' tokens, and the decoding within the room that they leave."""
        if self._is_seq2seq:
            raise SettingsError(
                f"the lens shows causal models, and {self.identity.name} is none; set"
                " generator.model to one, e.g. gemma-3-270m"
            )
        encoded = [self._encode(prompt)["input_ids"] for prompt in prompts]
        longest = max(tokens.shape[1] for tokens in encoded)
        room = self._options(longest, replace(decoding, strategy="greedy"))["max_new_tokens"]
        return encoded, replace(decoding, max_new_tokens=room)

    def _stop(self, prompt: Prompt) -> tuple[str, ...]:
        return () if self._use_chat else prompt.stop


def walk(
    model: Any,  # noqa: ANN401 - a causal model of transformers
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence["Tensor"],
    decoding: Decoding,
    *,
    stop: Sequence[str] = (),
    shown: int = SHOWN,
) -> Iterator[Step]:
    """Yield each step of one continuation as all prompts see it; the first one chooses.

    Args:
        model: Predicts the next token.
        tokenizer: Its own.
        prompts: Tokens of each, (1, tokens).
        decoding: Sampling draws; any other strategy takes the likeliest token.
        stop: Strings that end the text.
        shown: Likeliest tokens of each view.
    """
    readings = [_Reading(model, prompt) for prompt in prompts]
    words, ends, choose = _Words(tokenizer), _end_tokens(model), _chooser(decoding)
    chosen: list[int] = []
    for number in range(1, decoding.max_new_tokens + 1):
        scores = [_scores(reading.logits, decoding) for reading in readings]
        chosen.append(choose(scores[0]))
        text = words.text(chosen)
        ending = _ending(chosen[-1] in ends, text, stop)
        if not ending and number == decoding.max_new_tokens:
            ending = "length"
        views = tuple(_view(one, chosen[-1], ends, words, shown) for one in scores)
        yield Step(number, text, ending, views)
        if ending:
            return
        for reading in readings:
            reading.go_on(chosen[-1:])


def search_beams(
    model: Any,  # noqa: ANN401 - a causal model of transformers
    tokenizer: Any,  # noqa: ANN401
    prompt: "Tensor",
    decoding: Decoding,
    *,
    stop: Sequence[str] = (),
) -> Iterator[BeamStep]:
    """Yield each step of a beam search; the last one's `best` is what `generate` would return.

    As in transformers (`GenerationMixin._beam_search`, `early_stopping=False`, length penalty 1):
    of the likeliest continuations of all beams, those that end are finished if they are among the
    first so many, the others go on; the search is over when no beam that goes on can still beat
    the worst text finished.

    Args:
        model: Predicts the next token.
        tokenizer: Its own.
        prompt: Its tokens, (1, tokens).
        decoding: How many beams, and how many tokens at most.
        stop: Strings that end a text.
    """
    reading, words, ends = _Reading(model, prompt), _Words(tokenizer), _end_tokens(model)
    kept = max(2, 1 + len(ends)) * decoding.beams  # so many that enough remain if all others end
    grown: list[_Grown] = [_Grown()]
    finished: list[Beam] = []
    for number in range(1, decoding.max_new_tokens + 1):
        candidates = _continuations(reading.logits, grown, kept)
        is_longest = number == decoding.max_new_tokens
        beams = [_beam(one, words, ends, stop, is_longest=is_longest) for one in candidates]
        finished += [beam for beam in beams[: decoding.beams] if beam.ending]
        finished = sorted(finished, key=lambda beam: -beam.score)[: decoding.beams]
        alive = [i for i, beam in enumerate(beams) if not beam.ending][: decoding.beams]
        living = tuple(beams[i] for i in alive)
        is_full = len(finished) == decoding.beams
        is_last = not living or (is_full and living[0].score <= finished[-1].score)
        yield BeamStep(number, living, tuple(finished), is_last)
        if is_last:
            return
        grown = [candidates[i] for i in alive]
        reading.go_on([one.tokens[-1] for one in grown], [one.parent for one in grown])


def path_of(steps: Sequence[BeamStep]) -> list[Beam]:
    """Return the beams, one a step, that lead to the best text so far."""
    if not steps:
        return []
    best = steps[-1].best
    end = next((i for i, step in enumerate(steps) if best in step.finished), len(steps) - 1)
    path = [best]
    for step in reversed(steps[:end]):
        path.append(step.beams[path[-1].parent])
    return path[::-1]


# --- Reading -------------------------------------------------------------------------------------


class _Reading:
    """A text that was read once and goes on token by token, or as several texts."""

    def __init__(self, model: Any, prompt: "Tensor") -> None:  # noqa: ANN401
        """Read a prompt, (1, tokens)."""
        self._model = model
        self._cache: Any = None
        self.logits = self._read(prompt)  # (texts, vocabulary), of the token after each text

    def go_on(self, tokens: Sequence[int], parents: Sequence[int] | None = None) -> None:
        """Read one more token of each text; `parents` says which text each of them follows."""
        import torch

        device = self.logits.device
        if parents is not None:
            self._cache.reorder_cache(torch.tensor(parents, device=device))
        self.logits = self._read(torch.tensor(tokens, device=device)[:, None])

    def _read(self, tokens: "Tensor") -> "Tensor":
        import torch

        # All positions of a long prompt would take gigabytes where tokens are many.
        keep = {"logits_to_keep": 1} if self._model._supports_logits_to_keep() else {}
        with torch.no_grad():
            output = self._model(
                input_ids=tokens, past_key_values=self._cache, use_cache=True, **keep
            )
        self._cache = output.past_key_values
        logits: Tensor = output.logits[:, -1].float()
        return logits


def _end_tokens(model: Any) -> tuple[int, ...]:  # noqa: ANN401
    """Return the tokens that end a text."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        return ()
    return (ends,) if isinstance(ends, int) else tuple(ends)


def _ending(is_end: bool, text: str, stop: Sequence[str]) -> Ending:
    if is_end:
        return "token"
    return "text" if any(mark in text for mark in stop) else ""


# --- Choosing one token --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Scores:
    """Logits of the next token, (1, vocabulary): all of them, and those that may be drawn."""

    all: "Tensor"
    drawn: "Tensor"  # minus infinity where it is cut


def _scores(logits: "Tensor", decoding: Decoding) -> _Scores:
    """Return the logits under the temperature, and those within the nucleus."""
    if decoding.strategy != "sample":
        return _Scores(logits, logits)
    from transformers import TopPLogitsWarper

    warmed = logits / decoding.temperature
    if decoding.top_p >= 1:
        return _Scores(warmed, warmed)
    return _Scores(warmed, TopPLogitsWarper(decoding.top_p)(None, warmed))


def _chooser(decoding: Decoding) -> Callable[[_Scores], int]:
    """Return what picks the next token; draws follow from the seed alone."""
    import torch

    if decoding.strategy != "sample":
        return lambda scores: int(scores.all.argmax())

    @cache
    def source(device: torch.device) -> torch.Generator:
        return torch.Generator(device).manual_seed(decoding.seed)

    def draw(scores: _Scores) -> int:
        chances = scores.drawn.softmax(dim=-1)
        return int(torch.multinomial(chances, 1, generator=source(chances.device)))

    return draw


def _view(scores: _Scores, chosen: int, ends: Sequence[int], words: "_Words", shown: int) -> View:
    """Return what is worth seeing of one distribution."""
    import torch

    chances = scores.all.softmax(dim=-1)[0]  # (vocabulary,)
    is_cut = scores.drawn[0].isneginf()

    def candidate(token: int) -> Candidate:
        return Candidate(token, words.name(token), float(chances[token]), bool(is_cut[token]))

    likeliest = chances.topk(min(shown, len(chances))).indices.tolist()
    return View(
        tuple(map(candidate, likeliest)),
        candidate(chosen),
        float(chances[list(ends)].sum()),
        float(torch.special.entr(chances).sum()) / math.log(2),
    )


# --- Following several texts ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Grown:
    """A continuation by tokens."""

    tokens: tuple[int, ...] = ()
    total: float = 0.0  # natural log-probability
    parent: int = 0  # place of the continuation that it goes on from
    last: float = 0.0  # natural log-probability of the last token


def _continuations(logits: "Tensor", grown: Sequence[_Grown], kept: int) -> list[_Grown]:
    """Return the likeliest continuations of all texts by one token, likeliest first."""
    import torch

    chances = logits.log_softmax(dim=-1)  # (texts, vocabulary)
    totals = chances + torch.tensor([[one.total] for one in grown], device=logits.device)
    best, places = totals.flatten().topk(min(kept, totals.numel()))
    found = []
    for total, place in zip(best.tolist(), places.tolist(), strict=True):
        parent, token = divmod(place, totals.shape[1])
        tokens = (*grown[parent].tokens, token)
        found.append(_Grown(tokens, total, parent, float(chances[parent, token])))
    return found


def _beam(
    grown: _Grown,
    words: "_Words",
    ends: Sequence[int],
    stop: Sequence[str],
    *,
    is_longest: bool,
) -> Beam:
    token, text = grown.tokens[-1], words.text(grown.tokens)
    ending = _ending(token in ends, text, stop)
    return Beam(
        parent=grown.parent,
        chosen=Candidate(token, words.name(token), math.exp(grown.last)),
        text=text,
        total=grown.total,
        score=grown.total / len(grown.tokens),
        ending=ending or ("length" if is_longest else ""),
    )


# --- Words for tokens ----------------------------------------------------------------------------


class _Words:
    """Turns tokens into text: as the model would say them, and one by one for people to read."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - a tokenizer of transformers
        """Take the model's own tokenizer."""
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._before = tokenizer.encode("a", add_special_tokens=False)
        self._known: dict[int, str] = {}

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def name(self, token: int) -> str:
        """Return a token as people can read it."""
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def _read(self, token: int) -> str:
        written = str(self._tokenizer.convert_ids_to_tokens(token))
        if token in self._special or _BYTE.fullmatch(written):
            return written
        # Decoders drop the space that a text begins with, so something stands before the token.
        text = self._decode([*self._before, token])[len(self._decode(self._before)) :]
        if "\ufffd" in text:  # the bytes of a part of a character
            return _bytes_in_words(written)
        return "".join(map(_visible, text)) or written

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


def _visible(character: str) -> str:
    """Return a character, or a sign for one that cannot be seen."""
    if character in _SIGNS:
        return _SIGNS[character]
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _bytes_in_words(written: str) -> str:
    """Return the bytes of a token of byte-level BPE, which are written as letters of their own."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    values = {letter: byte for byte, letter in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]
    if not all(letter in values for letter in written):
        return written
    return "".join(f"<0x{values[letter]:02X}>" for letter in written)
