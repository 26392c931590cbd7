"""What a causal language model thinks of text: batched, and each row as if it stood alone.

    scorer = Scorer(*load_base("models/gemma-3-270m"), batch_tokens=4096)
    scorer.continuations([("The capital of France is", " Paris")])[0].log_probability
    scorer.perplexity(texts), scorer.drift(texts), scorer.answers(prompts, stop=["###"])

Rows of similar length share a batch; masks and positions keep them apart, so that neither the
batch nor the order changes a figure by more than rounding. Three things make it fast: a context is
read once for all its continuations; what the prompts of a batch begin with alike, such as worked
examples, is read once for all of them; and the output head, which with a vocabulary of 262,144
costs more than the rest of a small model, runs only at positions that are asked for, in slices that
bound the memory. Pairs are cut into tokens as lm-evaluation-harness does (v0.4.13, `_encode_pair`).
Rows over the context length lose tokens on the left, are counted in the log and say so in their
score.

Text is data: a "<eos>" in it is read as five characters. Works for models that take `position_ids`
and a cache, with or without a LoRA. Knows nothing of suites, arms or files.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import kl_div

from ingest.errors import SettingsError, UsageError
from model.training.forgetting import FrozenBase
from model.training.tasks import chosen_logits

Pick = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]  # (B, V) and the B rows to (B,)

_WINDOW = 512  # tokens of a text that are read at once, unless another number is given
_OPENING = 32  # tokens that prompts must have in common to be read together
_SHARING = 4  # such prompts, below which they go with the others
_POSITIONS = 128  # at which logits are held at once: 134 MB in float32 where tokens are 262,144
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """How likely a continuation is after its context."""

    log_probability: float  # summed over its tokens, nats
    tokens: int
    is_greedy: bool  # greedy decoding would give exactly it
    cut: int = 0  # tokens of the context that were over the limit


@dataclass(frozen=True, slots=True)
class TextScore:
    """How likely a text is; add them up with `pooled`."""

    log_probability: float  # summed over its tokens, nats
    tokens: int
    characters: int
    bytes: int  # in UTF-8
    windows: int  # it was read in

    @property
    def nats_per_token(self) -> float:
        """Mean negative log-probability of a token; nan for an empty text."""
        return _ratio(-self.log_probability, self.tokens)

    @property
    def perplexity(self) -> float:
        """The exponential of `nats_per_token`."""
        return math.exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return _ratio(-self.log_probability / math.log(2), self.bytes)

    @property
    def bits_per_character(self) -> float:
        """Comparable between tokenizers; a Chinese character is three bytes."""
        return _ratio(-self.log_probability / math.log(2), self.characters)


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a model's predictions are from its base's on a text: KL(base || model)."""

    divergence: float  # summed over positions, nats
    positions: int
    log_probability: float = math.nan  # of the text by the model, summed: as `perplexity` has it

    @property
    def mean(self) -> float:
        """Nats a position; nan for an empty text."""
        return _ratio(self.divergence, self.positions)

    @property
    def nats_per_token(self) -> float:
        """Mean negative log-probability of a token; nan for an empty text."""
        return _ratio(-self.log_probability, self.positions)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote after a prompt."""

    text: str  # without the stop string
    tokens: tuple[int, ...]  # with the one that ended it
    log_probability: float  # mean over `tokens`, nats, at temperature 1
    ended: Literal["end", "stop", "length"]
    cut: int = 0  # tokens of the prompt that were over the limit


@dataclass(frozen=True, slots=True)
class _Row:
    """Tokens to read, of which those from `start` on are predicted."""

    ids: tuple[int, ...]
    start: int
    owner: int  # the text it is of
    cut: int = 0

    @property
    def context(self) -> tuple[int, ...]:
        return self.ids[: self.start]

    @property
    def targets(self) -> tuple[int, ...]:
        return self.ids[self.start :]


class Scorer:
    """Scores text with a causal language model, and lets it write."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - any causal language model, with or without a LoRA
        tokenizer: Any,  # noqa: ANN401
        *,
        batch_tokens: int = 4096,
        batch_rows: int | None = None,
        context_tokens: int | None = None,
        window_tokens: int = _WINDOW,
        device: str | None = None,
    ) -> None:
        """Take a model as it is; float32 for figures that are reported.

        Args:
            model: A transformers causal language model.
            tokenizer: Its own.
            batch_tokens: Longest row times rows of a batch, at most; a longer row stands alone.
            batch_rows: If given, every batch has just as many rows but the last: for reported
                runs. Continuations of one context count as one row.
            context_tokens: The most the model reads at once; its own limit if not given.
            window_tokens: The most of a whole text that is read at once, so that a text that fills
                a context of 32,768 is no single row; never more than `context_tokens`.
            device: Where to put the model; None leaves it where it is.

        Raises:
            SettingsError: A size is below 1, or the tokenizer has no token to start from.
        """
        limit = context_tokens or _context_limit(model, tokenizer)
        sizes = (limit, window_tokens, batch_tokens, 1 if batch_rows is None else batch_rows)
        if min(sizes) < 1:
            raise SettingsError("a batch and a context have at least 1 row and token: raise them")
        first = tokenizer.bos_token_id
        first = tokenizer.eos_token_id if first is None else first
        if first is None:
            raise SettingsError("the tokenizer has no start or end token: set bos_token in it")
        self.model: Any = model if device is None else model.to(device)
        self.tokenizer = tokenizer
        self.context_tokens = limit
        self.window_tokens = min(limit, window_tokens)
        self._batch_tokens, self._batch_rows = batch_tokens, batch_rows
        self._first = int(first)  # what the first token of a text is predicted from
        self._device = next(self.model.parameters()).device

    # --- Continuations ---------------------------------------------------------------------------

    def continuations(self, pairs: Sequence[tuple[str, str]]) -> list[ContinuationScore]:
        """Score continuations of contexts, in their order.

        Args:
            pairs: Context and continuation. White space at a context's end counts as the
                continuation's; an empty context is the start of a text.

        Raises:
            UsageError: A continuation is empty, or longer than the model can read.
        """
        rows = self._encode_pairs(pairs)
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, row in enumerate(rows):
            groups.setdefault(row.context, []).append(number)
        members = list(groups.values())
        sizes = [max(len(rows[number].ids) for number in group) for group in members]
        scores: dict[int, ContinuationScore] = {}
        with _reading(self.model):
            for batch in self._batches(sizes, [len(group) for group in members]):
                numbers = [number for at in batch for number in members[at]]
                of_context = [at for at, group in enumerate(batch) for _ in members[group]]
                picked = [rows[number] for number in numbers]
                scores |= zip(numbers, self._score(picked, of_context), strict=True)
        return [scores[number] for number in range(len(rows))]

    def _encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[_Row]:
        """Return pairs as rows of at most `context_tokens` + 1: the last token is not read."""
        moved = []
        for context, continuation in pairs:
            kept = context.rstrip()  # an all-white context is as good as none
            moved.append((kept, context[len(kept) :] + continuation))
        contexts = self._encode([context for context, _ in moved], opening=True)
        wholes = self._encode([context + text for context, text in moved], opening=True)
        bare = self._encode([text if not context else "" for context, text in moved])
        rows = []
        for number, (before, whole, alone) in enumerate(zip(contexts, wholes, bare, strict=True)):
            if moved[number][0]:
                # Where both melt into one token, that token is the continuation's.
                start = min(len(before), len(whole) - 1)
                ids = [*before[:start], *whole[start:]] if start else [self._first, *whole]
                start = max(1, start)
            else:
                ids, start = [self._first, *alone], 1
            rows.append(self._fitted(ids, start, number, is_empty=not moved[number][1]))
        _report_cuts([row.cut for row in rows], self.context_tokens)
        return rows

    def _fitted(self, ids: Sequence[int], start: int, number: int, *, is_empty: bool) -> _Row:
        """Return a pair with its context cut on the left, as lm-evaluation-harness cuts it."""
        if is_empty or start == len(ids):
            raise UsageError(f"continuation {number + 1} is empty: give it some text")
        if len(ids) - start > self.context_tokens:
            raise UsageError(
                f"continuation {number + 1} has {len(ids) - start:,} tokens, and the model reads"
                f" {self.context_tokens:,}: shorten it"
            )
        cut = max(0, len(ids) - self.context_tokens - 1)
        return _Row(tuple(ids[cut:]), start - cut, number, cut)

    def _score(self, rows: list[_Row], of_context: Sequence[int]) -> Iterator[ContinuationScore]:
        """Score rows that share contexts: (number of the context in this batch) for each row."""
        contexts = {at: row.context for at, row in zip(of_context, rows, strict=True)}
        ids, mask = self._left_padded([contexts[at] for at in range(len(contexts))])  # (C, T)
        longer = [at for at, row in enumerate(rows) if len(row.targets) > 1]
        cache = self._cache() if longer else None
        states = [self._states(_inputs(ids, mask, cache), _last(ids))]  # (C, width)
        if longer:
            where = torch.tensor([of_context[at] for at in longer], device=self._device)
            cache.batch_select_indices(where)  # type: ignore[union-attr]
            fed = [rows[at].targets[:-1] for at in longer]
            more, real = self._right_padded(fed)  # (R, M)
            whole = torch.cat([mask[where], real], dim=1)  # (R, T + M)
            states.append(self._states(_inputs(more, whole, cache), real.bool()))
        places: list[int] = []  # among all states, of each target
        after = len(contexts)
        for context, row in zip(of_context, rows, strict=True):
            rest = len(row.targets) - 1
            places += [context, *range(after, after + rest)]
            after += rest
        targets = [token for row in rows for token in row.targets]
        found, likeliest = self._read(torch.cat(states), places, targets)
        at = 0
        for row in rows:
            end = at + len(row.targets)
            total = math.fsum(found[at:end])
            yield ContinuationScore(total, end - at, all(likeliest[at:end]), row.cut)
            at = end

    # --- Whole texts -----------------------------------------------------------------------------

    def perplexity(self, texts: Sequence[str]) -> list[TextScore]:
        """Score whole texts, each token once, in windows of `window_tokens`.

        The windows are lm-evaluation-harness's (`loglikelihood_rolling`): one after the other, the
        last one filled up with context. Unlike there the start token itself is not scored.
        """
        rows = [row for owner, text in enumerate(texts) for row in self._windows(text, owner)]
        totals = [0.0] * len(texts)
        with _reading(self.model):
            for batch in self._batches([len(row.ids) for row in rows]):
                picked = [rows[at] for at in batch]
                inputs, chosen = self._whole(picked)
                targets = [token for row in picked for token in row.targets]
                states = self._states(inputs, chosen)
                found, _ = self._read(states, range(len(targets)), targets)
                _add_up(totals, found, picked)
        counts = [(0, 0)] * len(texts)
        for row in rows:
            tokens, windows = counts[row.owner]
            counts[row.owner] = (tokens + len(row.targets), windows + 1)
        return [
            TextScore(total, tokens, len(text), len(_speakable(text).encode()), windows)
            for total, text, (tokens, windows) in zip(totals, texts, counts, strict=True)
        ]

    def drift(self, texts: Sequence[str], base: Any = None) -> list[Drift]:  # noqa: ANN401
        """Return KL(base || model) over the full vocabulary, wherever a token is predicted.

        What `perplexity` says of the model comes with it, and costs nothing more.

        Args:
            texts: Read in the windows of `perplexity`.
            base: A model with the same tokens; None is this one with its LoRA switched off.

        Raises:
            UsageError: There is no base, and no LoRA to switch off.
        """
        if base is None and not hasattr(self.model, "disable_adapter"):
            raise UsageError("the model has no LoRA to switch off: give the base to compare with")
        rows = [row for owner, text in enumerate(texts) for row in self._windows(text, owner)]
        totals, said, positions = [0.0] * len(texts), [0.0] * len(texts), [0] * len(texts)
        for batch in self._batches([len(row.ids) for row in rows]):
            picked = [rows[at] for at in batch]
            apart, likely = self._divergences(picked, base)
            _add_up(totals, apart, picked)
            _add_up(said, likely, picked)
            for row in picked:
                positions[row.owner] += len(row.targets)
        return [Drift(*one) for one in zip(totals, positions, said, strict=True)]

    def _divergences(
        self,
        rows: Sequence[_Row],
        base: Any,  # noqa: ANN401
    ) -> tuple[list[float], list[float]]:
        """Return KL(base || model) and the target's log-probability, at each target of the rows."""

        @contextmanager
        def opened_base() -> Iterator[Any]:
            if base is None:
                with FrozenBase(self.model).opened() as bare:
                    yield bare
            else:
                with _reading(base):
                    yield base

        inputs, chosen = self._whole(rows)
        with _reading(self.model):
            here = self._states(inputs, chosen)  # (N, width)
        with opened_base() as model:
            there = _states(model, inputs, chosen)  # (N, width of the base)
        targets = torch.tensor(
            [token for row in rows for token in row.targets], device=self._device
        )
        found: list[float] = []
        likely: list[float] = []
        for at in range(0, len(here), _POSITIONS):
            with opened_base() as model:
                reference = _logits(model, there[at : at + _POSITIONS]).log_softmax(-1)
            with _reading(self.model):
                predicted = _logits(self.model, here[at : at + _POSITIONS]).log_softmax(-1)
            apart = kl_div(predicted, reference, reduction="none", log_target=True)
            found += apart.sum(-1).tolist()
            likely += predicted.gather(1, targets[at : at + _POSITIONS, None])[:, 0].tolist()
        return found, likely

    def _windows(self, text: str, owner: int) -> Iterator[_Row]:
        """Yield rows that predict each token of a text once."""
        most = self.window_tokens
        ids = [self._first, *self._encode([text])[0]]
        for start in range(1, len(ids), most):
            end = min(start + most, len(ids))
            # Only the last window has room for more than the one token before it.
            begin = max(0, end - most - 1)
            yield _Row(tuple(ids[begin:end]), start - begin, owner)

    def _whole(self, rows: Sequence[_Row]) -> tuple[dict[str, Any], torch.Tensor]:
        """Return rows as a batch, and where their targets are predicted, (B, T)."""
        ids, mask = self._right_padded([row.ids[:-1] for row in rows])
        at = torch.arange(ids.shape[1], device=self._device)
        starts = torch.tensor([[row.start - 1] for row in rows], device=self._device)
        return _inputs(ids, mask, None), (at >= starts) & mask.bool()

    # --- Writing ---------------------------------------------------------------------------------

    def answers(
        self, prompts: Sequence[str], stop: Sequence[str] = (), *, max_new_tokens: int = 32
    ) -> list[Completion]:
        """Continue prompts greedily, in their order.

        Args:
            prompts: Cut on the left where they leave no room for what is written.
            stop: Texts that end a continuation.
            max_new_tokens: Of a continuation.

        Raises:
            SettingsError: The continuation alone is over the context length.
        """
        return self._written(prompts, stop, max_new_tokens, lambda logits, _: logits.argmax(-1))

    def sampled(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        stop: Sequence[str] = (),
        *,
        temperature: float = 1.0,
        max_new_tokens: int = 32,
    ) -> list[Completion]:
        """Continue prompts at random, each from its own seed, whatever else is in the batch.

        Args:
            prompts: As for `answers`.
            seeds: One a prompt.
            stop: Texts that end a continuation.
            temperature: Divides the logits; above 0.
            max_new_tokens: Of a continuation.

        Raises:
            SettingsError: As for `answers`, or the temperature is not above 0.
        """
        if not temperature > 0:
            raise SettingsError(f"temperature {temperature} is not above 0: raise it")
        draws = {row: np.random.default_rng(seed) for row, seed in enumerate(seeds)}

        def pick(logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
            sums = (logits.double() / temperature).softmax(-1).cumsum(-1)  # (B, vocabulary)
            drawn = torch.tensor([[draws[row].random()] for row in rows], device=sums.device)
            return torch.searchsorted(sums, drawn.double() * sums[:, -1:], right=True)[:, 0]

        if len(seeds) != len(prompts):
            raise SettingsError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one each")
        return self._written(prompts, stop, max_new_tokens, pick)

    def _written(
        self, prompts: Sequence[str], stop: Sequence[str], most: int, pick: Pick
    ) -> list[Completion]:
        room = self.context_tokens - most
        if room < 1 or most < 1:
            raise SettingsError(
                f"{most} new tokens do not fit in a context of {self.context_tokens} with a"
                " prompt: change max_new_tokens"
            )
        encoded = [ids or [self._first] for ids in self._encode(prompts, opening=True)]
        rows = [_Row(tuple(ids[-room:]), 0, 0, max(0, len(ids) - room)) for ids in encoded]
        _report_cuts([row.cut for row in rows], room)
        written: dict[int, Completion] = {}
        with _reading(self.model):
            for group in self._alike(rows):
                for batch in self._batches([len(rows[at].ids) + most for at in group]):
                    contexts = {group[place]: rows[group[place]] for place in batch}
                    written |= self._write(contexts, stop, most, pick)
        return [written[at] for at in range(len(rows))]

    def _alike(self, rows: Sequence[_Row]) -> list[list[int]]:
        """Return groups of rows that open alike, and before them one of all other rows.

        Where every batch is to have just as many rows, all are one group.
        """
        openings: dict[tuple[int, ...], list[int]] = {}
        for at, row in enumerate(rows):
            openings.setdefault(row.ids[:_OPENING], []).append(at)
        shared = [own for own in openings.values() if len(own) >= _SHARING]
        if self._batch_rows is not None or not shared:
            return [list(range(len(rows)))]
        rest = sorted(set(range(len(rows))).difference(*shared))
        return [own for own in (rest, *shared) if own]

    def _write(
        self, contexts: Mapping[int, _Row], stop: Sequence[str], most: int, pick: Pick
    ) -> dict[int, Completion]:
        """Continue a batch; a row that has ended leaves it."""
        alive = list(contexts)
        ids, mask, cache = self._opened([row.ids for row in contexts.values()], most)
        tokens: dict[int, list[int]] = {at: [] for at in alive}
        sums = dict.fromkeys(alive, 0.0)
        done: dict[int, Completion] = {}
        while alive:
            logits = chosen_logits(self.model, _inputs(ids, mask, cache), _last(ids)).float()
            picked = pick(logits, alive)  # (B,)
            found = logits.gather(1, picked[:, None])[:, 0] - logits.logsumexp(-1)
            for at, token, value in zip(alive, picked.tolist(), found.tolist(), strict=True):
                tokens[at].append(token)
                sums[at] += value
                text, ended = self._ending(tokens[at], stop, most)
                if ended:
                    mean = sums[at] / len(tokens[at])
                    done[at] = Completion(text, tuple(tokens[at]), mean, ended, contexts[at].cut)
            keep = [place for place, at in enumerate(alive) if at not in done]
            if keep and len(keep) < len(alive):
                cache.batch_select_indices(torch.tensor(keep, device=self._device))
            alive = [alive[place] for place in keep]
            ids = picked[keep][:, None]
            mask = torch.cat([mask[keep], torch.ones_like(ids)], dim=1)
        return done

    def _opened(
        self, rows: Sequence[tuple[int, ...]], most: int
    ) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Read what all rows begin with, once.

        The rows' own parts are padded on the left, so the padding stands between the beginning and
        them. A layer that sees a few tokens back counts the padding too: where it could reach, each
        row is read from its start.

        Returns:
            The tokens that are left to read, (B, T), the mask of all, and the cache that holds the
            beginning.
        """
        cache = self._cache()
        sees = getattr(self.model.config.get_text_config(), "sliding_window", None)
        is_near = sees is None or max(map(len, rows)) + most <= sees
        shared = _in_common(rows) if len(rows) > 1 and is_near else 0
        shared = shared if shared >= _OPENING else 0
        ids, mask = self._left_padded([row[shared:] for row in rows])
        if shared:
            opening, real = self._left_padded([rows[0][:shared]])
            self._states(_inputs(opening, real, cache), _last(opening))
            cache.batch_repeat_interleave(len(rows))
            mask = torch.cat([real.expand(len(rows), -1), mask], dim=1)
        return ids, mask, cache

    def _ending(
        self, tokens: Sequence[int], stop: Sequence[str], most: int
    ) -> tuple[str, Literal["end", "stop", "length"] | None]:
        """Return the text so far, without a stop string, and what ended it, if anything did."""
        text = str(self.tokenizer.decode(tokens, skip_special_tokens=True))
        starts = [text.find(mark) for mark in stop if mark in text]
        if starts:
            return text[: min(starts)], "stop"
        if tokens[-1] in self._end_tokens():
            return text, "end"
        return text, "length" if len(tokens) >= most else None

    def _end_tokens(self) -> set[int]:
        options = getattr(self.model, "generation_config", None)
        ends = getattr(options, "eos_token_id", None)
        several = ends if isinstance(ends, list) else [ends]
        return {end for end in [self.tokenizer.eos_token_id, *several] if end is not None}

    # --- Batches ---------------------------------------------------------------------------------

    def _batches(
        self, sizes: Sequence[int], weights: Sequence[int] | None = None
    ) -> Iterator[list[int]]:
        """Yield rows of similar length, the longest first: too little memory shows at once.

        Args:
            sizes: Tokens of each row.
            weights: How many rows each stands for; 1 if not given.
        """
        batch: list[int] = []
        heavy = 0
        for row in sorted(range(len(sizes)), key=lambda row: -sizes[row]):
            weight = weights[row] if weights else 1
            if self._batch_rows is not None:
                is_full = len(batch) == self._batch_rows
            else:
                is_full = bool(batch) and (heavy + weight) * sizes[batch[0]] > self._batch_tokens
            if is_full:
                yield batch
                batch, heavy = [], 0
            batch.append(row)
            heavy += weight
        if batch:
            yield batch

    def _encode(self, texts: Sequence[str], *, opening: bool = False) -> list[list[int]]:
        """Return texts' tokens, with those that a text opens with if asked."""
        if not texts:
            return []
        found: list[list[int]] = self.tokenizer(
            [_speakable(text) for text in texts],
            add_special_tokens=opening,
            split_special_tokens=True,
            verbose=False,
        )["input_ids"]
        end = self.tokenizer.eos_token_id  # some tokenizers end a text with it; ours goes on
        return [ids[:-1] if opening and ids and ids[-1] == end else ids for ids in found]

    def _left_padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and mask, (B, T), so that what is added later follows each row at once."""
        length = max(map(len, rows))
        return self._padded([[0] * (length - len(row)) for row in rows], rows, length)

    def _right_padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and mask, (B, T)."""
        return self._padded([[] for _ in rows], rows, max(map(len, rows)))

    def _padded(
        self, before: Sequence[Sequence[int]], rows: Sequence[Sequence[int]], length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for at, (gap, row) in enumerate(zip(before, rows, strict=True)):
            ids[at, len(gap) : len(gap) + len(row)] = torch.tensor(row)
            mask[at, len(gap) : len(gap) + len(row)] = 1
        return ids.to(self._device), mask.to(self._device)

    def _cache(self) -> Any:  # noqa: ANN401 - transformers' cache
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def _states(self, inputs: Mapping[str, Any], chosen: torch.Tensor) -> torch.Tensor:
        return _states(self.model, inputs, chosen)

    def _read(
        self, states: torch.Tensor, places: Sequence[int], targets: Sequence[int]
    ) -> tuple[list[float], list[bool]]:
        """Return each target's log-probability, and whether it is the likeliest token.

        Args:
            states: What the output head reads, (N, width).
            places: Which of the N positions predicts each target, (M,).
            targets: Tokens, (M,).
        """
        where = torch.tensor(list(places), device=self._device)
        wanted = torch.tensor(list(targets), device=self._device)
        found = torch.zeros(len(wanted), device=self._device)
        likeliest = torch.zeros_like(found, dtype=torch.bool)
        for start in range(0, len(states), _POSITIONS):
            logits = _logits(self.model, states[start : start + _POSITIONS])  # (n, vocabulary)
            picked = ((where >= start) & (where < start + _POSITIONS)).nonzero()[:, 0]
            rows, tokens = where[picked] - start, wanted[picked]
            found[picked] = logits[rows, tokens] - logits.logsumexp(-1)[rows]
            likeliest[picked] = logits.argmax(-1)[rows] == tokens
        return found.tolist(), likeliest.tolist()


# --- Figures over many -----------------------------------------------------------------------


def pooled(scores: Sequence[TextScore]) -> TextScore:
    """Return the score of texts as if they were one: every token counts the same."""
    return TextScore(
        math.fsum(score.log_probability for score in scores),
        sum(score.tokens for score in scores),
        sum(score.characters for score in scores),
        sum(score.bytes for score in scores),
        sum(score.windows for score in scores),
    )


def choice_accuracy(log_probabilities: Sequence[float], gold: int) -> float:
    """Return 1.0 if the gold choice is the likeliest, else 0.0: lm-evaluation-harness's "acc"."""
    return float(np.argmax(log_probabilities) == gold)


def normalised_choice_accuracy(
    log_probabilities: Sequence[float], choices: Sequence[str], gold: int
) -> float:
    """Return 1.0 if the gold choice is the likeliest a character, else 0.0.

    It is lm-evaluation-harness's "acc_norm".

    Args:
        log_probabilities: Of each choice as a continuation.
        choices: Their texts, without the space before them; none is empty.
        gold: Which is right.
    """
    lengths = np.array([len(choice) for choice in choices], dtype=float)
    return float(np.argmax(np.asarray(log_probabilities) / lengths) == gold)


# --- The model -------------------------------------------------------------------------------


def _states(
    model: Any,  # noqa: ANN401
    inputs: Mapping[str, Any],
    chosen: torch.Tensor,
) -> torch.Tensor:
    """Return what the output head would read at the N chosen of (B, T) positions, (N, width)."""
    kept: list[torch.Tensor] = []

    def keep(hidden: torch.Tensor) -> torch.Tensor:  # (B, T, width)
        kept.append(hidden[chosen])
        return hidden[:0]

    with _head_reading(model, keep):
        model(**inputs)
    return kept[0]


def _logits(model: Any, states: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    """Return the logits (n, vocabulary) for what the output head reads, (n, width).

    The model reads one token, whose state is swapped before the head: so whatever it does to its
    logits afterwards (scaling, soft caps) is done here too.
    """
    token = torch.zeros((1, 1), dtype=torch.long, device=states.device)
    with _head_reading(model, lambda _: states[None]):
        logits: torch.Tensor = model(input_ids=token, use_cache=False).logits
    return logits[0].float()


@contextmanager
def _head_reading(
    model: Any,  # noqa: ANN401
    read: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[None]:
    """Let the output head read something else than it is given."""

    def swap(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (read(given[0]), *given[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(swap)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _reading(model: Any) -> Iterator[None]:  # noqa: ANN401
    """Switch gradients and dropout off for a while."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _inputs(ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what a model is called with: (B, T) tokens, and the mask of those before as well."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return {
        "input_ids": ids, "attention_mask": mask, "position_ids": positions,
        "past_key_values": cache, "use_cache": cache is not None,
    }  # fmt: skip


def _last(ids: torch.Tensor) -> torch.Tensor:
    """Return a choice of the last position of each row, (B, T)."""
    chosen = torch.zeros_like(ids, dtype=torch.bool)
    chosen[:, -1] = True
    return chosen


def _context_limit(model: Any, tokenizer: Any) -> int:  # noqa: ANN401
    """Return the most tokens that a model reads: its own limit, its tokenizer's, or 2048."""
    own = getattr(model.config, "max_position_embeddings", None)
    limit = int(own or tokenizer.model_max_length)
    return limit if limit < 10**9 else 2048  # a tokenizer without a limit says 10**30


def _in_common(rows: Sequence[tuple[int, ...]]) -> int:
    """Return how many tokens all rows begin with, leaving each one at least."""
    first, last = min(rows), max(rows)  # any two rows agree at least as far as these
    pairs = zip(first, last, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), len(first))
    return min(same, min(map(len, rows)) - 1)


def _add_up(totals: list[float], found: Sequence[float], rows: Sequence[_Row]) -> None:
    """Add what was found at each position to the total of the row's text."""
    at = 0
    for row in rows:
        totals[row.owner] += math.fsum(found[at : at + len(row.targets)])
        at += len(row.targets)


def _report_cuts(cuts: Sequence[int], most: int) -> None:
    if over := sum(cut > 0 for cut in cuts):
        _log.warning("%d of %d rows are over %d tokens: cut on the left", over, len(cuts), most)


def _speakable(text: str) -> str:
    """Return the text without lone surrogates, which no tokenizer reads."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else math.nan
