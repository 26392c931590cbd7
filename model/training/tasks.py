"""The causal language model's task: continue a prompt with its completion.

A row is a prompt's tokens, then the completion's, then the end token; only the completion and the
end are learnt, and **logits are computed at those positions alone**: with a vocabulary of 262,144
the output head costs more than the rest of a small model. The model's own forward pass does
everything; a hook before its output head drops the positions that nothing is learnt from, so
whatever a model does to its logits afterwards (scaling, soft caps) is done here too.

    model, tokenizer = load_base("models/gemma-3-270m")
    task = CausalTask(add_lora(model, LoraOptions()), tokenizer, examples, dev)

Text is data: a "<eos>" in a document is read as five characters. Knows nothing of passages or
citations, nor of the loop.
"""

import hashlib
import json
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from ingest.errors import TrainingError, WeightsError
from model.training.batches import micro_batches
from model.training.forgetting import (
    ForgettingOptions,
    FrozenBase,
    distance,
    fisher_information,
    freeze_lower_layers,
    interpolate,
    starting_weights,
)
from retrieval.weights import local_folder, quiet_loading

Objective = Literal["next", "masked", "spans"]

_MODELS: Mapping[Objective, tuple[str, str]] = {  # transformers' class, and what to call it
    "next": ("AutoModelForCausalLM", "a causal language model"),
    "masked": ("AutoModelForMaskedLM", "an encoder or a masked-token model"),
    "spans": ("AutoModelForSeq2SeqLM", "an encoder-decoder model"),
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and what should follow it."""

    prompt: str
    completion: str
    weight: float = 1.0  # of each of its answer tokens


@dataclass(frozen=True, slots=True)
class Row:
    """An example as tokens."""

    ids: tuple[int, ...]
    start: int  # the first token that is learnt
    weight: float = 1.0  # of each learnt token
    is_replay: bool = False  # general text, mixed in against forgetting

    @property
    def learnt(self) -> int:
        """The number of tokens that are learnt."""
        return len(self.ids) - self.start


@dataclass(frozen=True, slots=True)
class _Padded:
    """A micro-batch: B rows of T tokens, N of which are predicted."""

    ids: torch.Tensor  # (B, T), padded on the right
    mask: torch.Tensor  # (B, T), 1 where a token stands
    chosen: torch.Tensor  # (B, T), true where the next token is predicted
    targets: torch.Tensor  # (N,)
    weights: torch.Tensor  # (N,)


def load_base(
    source: str | Path, objective: Objective = "next", *, device: str = "cpu"
) -> tuple[Any, Any]:
    """Return a model in float32 to go on with, and its tokenizer.

    Args:
        source: A transformers folder, or a hub id; for "masked" a sentence encoder as well, which
            gets a head that is tied to its embeddings. Safetensors only; no code of it is run.
        objective: What it will learn: the next token, masked tokens, or removed spans.
        device: Where the model is put.

    Raises:
        WeightsError: There is no such folder, it holds no such model, or the hub is out of reach.
    """
    import transformers

    kind, called = _MODELS[objective]
    folder = local_folder(str(source))
    name = str(folder or source)
    safely: dict[str, Any] = {"local_files_only": folder is not None, "trust_remote_code": False}
    try:
        with quiet_loading(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of a head that the folder does not hold
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name, **safely)
            model: Any = getattr(transformers, kind).from_pretrained(
                name, dtype=torch.float32, use_safetensors=True, **safely
            )
    except Exception as error:  # whatever a foreign folder or an absent network makes it raise
        reason = " ".join(str(error).partition("\n")[0].split())[:200] or type(error).__name__
        raise WeightsError(
            f"cannot load {source} for training ({reason}): name a folder with .safetensors"
            f" weights of {called}, or a hub id that can be reached"
        ) from error
    return model.to(device), tokenizer


def answer_logits(
    model: Any,  # noqa: ANN401 - any causal language model, with or without an adapter
    ids: torch.Tensor,
    mask: torch.Tensor,
    chosen: torch.Tensor,
) -> torch.Tensor:
    """Return the logits at some positions, and compute no others.

    Args:
        model: A transformers causal language model.
        ids: Tokens, shape (B, T).
        mask: 1 where a token stands, shape (B, T).
        chosen: True at the N positions that are asked for, shape (B, T).

    Returns:
        Logits of shape (N, vocabulary), as the model itself would give them there.
    """
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    return chosen_logits(model, inputs, chosen)


def chosen_logits(
    model: Any,  # noqa: ANN401 - causal, masked or encoder-decoder
    inputs: Mapping[str, Any],
    chosen: torch.Tensor,
) -> torch.Tensor:
    """Return the logits at the N chosen of (B, T) positions, (N, vocabulary), and compute no other.

    A hook before the output layer drops the other positions, so that the model's own forward pass
    does all the rest.
    """

    def drop_others(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:  # noqa: ANN401
        hidden, *rest = inputs  # (B, T, width)
        return (hidden[chosen], *rest) if hidden.shape[:2] == chosen.shape else None

    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(drop_others) if head is not None else None
    try:
        logits: torch.Tensor = model(**inputs).logits
    finally:
        if hook is not None:
            hook.remove()
    return logits if logits.dim() == 2 else logits[chosen]  # a model without a head of its own


def encode(tokenizer: Any, example: Example) -> Row:  # noqa: ANN401 - any tokenizer
    """Return an example as tokens, the end token included.

    Prompt and completion are cut apart, as they are when a model answers.
    """
    prompt = _ids(tokenizer, example.prompt, opening=True)
    completion = _ids(tokenizer, example.completion, opening=False)
    ids = (*prompt, *completion, tokenizer.eos_token_id)
    return Row(ids, max(1, len(prompt)), example.weight)


def _ids(tokenizer: Any, text: str, *, opening: bool) -> list[int]:  # noqa: ANN401
    """Return a text's tokens, with those that a text opens with if asked."""
    ids: list[int] = tokenizer.encode(
        text.encode("utf-8", "replace").decode("utf-8"),  # no tokenizer reads lone surrogates
        add_special_tokens=opening,
        split_special_tokens=True,
        verbose=False,
    )
    return ids[:-1] if opening and ids[-1:] == [tokenizer.eos_token_id] else ids


class CausalTask:
    """Continue prompts with completions; a `Task` of the loop."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - any causal language model, with or without an adapter
        tokenizer: Any,  # noqa: ANN401
        examples: Sequence[Example],
        dev: Sequence[Example] = (),
        *,
        most_tokens: int = 1024,
        forgetting: ForgettingOptions | None = None,
        general: Sequence[str] = (),
        general_dev: Sequence[str] = (),
        base: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        """Cut everything into tokens; freeze, copy and estimate what the options ask for.

        Args:
            model: Whose parameters with requires_grad are trained: see `add_lora`.
            tokenizer: The model's own; it must have an end token.
            examples: To learn from. Those over the limit are counted, reported and left out.
            dev: To watch.
            most_tokens: Limit on the tokens of a row.
            forgetting: What holds the model near its base.
            general: Texts for replay and for the Fisher information.
            general_dev: Texts whose loss shows what is forgotten.
            base: Name and weights hash of the base, for the record.
            seed: Of the choice of general texts.

        Raises:
            TrainingError: No usable example, one without a completion, or no general text where
                an option needs it.
        """
        self.module: Any = model
        self.tokenizer = tokenizer
        self._forgetting = forgetting or ForgettingOptions()
        self._base = dict(base or {})
        if tokenizer.eos_token_id is None:
            raise TrainingError("the tokenizer has no end token: set eos_token in its folder")
        self._examples, self.too_long = self._encoded(examples, most_tokens, "training")
        self._dev, self.dev_too_long = self._encoded(dev, most_tokens, "dev")
        if not self._examples:
            raise TrainingError(
                f"no usable training example ({self.too_long} are over {most_tokens} tokens):"
                " give some, or raise the limit"
            )
        self._general_dev = self._pieces(general_dev)
        self._prepare_against_forgetting(self._pieces(general), seed)

    def _encoded(
        self, examples: Sequence[Example], most_tokens: int, what: str
    ) -> tuple[list[Row], int]:
        """Return rows within the limit and how many are over it."""
        for number, example in enumerate(examples, start=1):
            if not example.completion.strip():
                raise TrainingError(
                    f"row {number} of the {what} data has no completion: give one, or leave the"
                    " row out"
                )
        rows = [encode(self.tokenizer, example) for example in examples]
        usable = [row for row in rows if len(row.ids) <= most_tokens]
        if left_out := len(rows) - len(usable):
            _log.warning(
                "%d of %d %s examples are over %d tokens and left out",
                left_out, len(rows), what, most_tokens,
            )  # fmt: skip
        return usable, left_out

    def _pieces(self, texts: Sequence[str]) -> list[Row]:
        """Return general texts as rows of at most `replay_tokens`; long ones make several."""
        most = max(2, self._forgetting.replay_tokens)
        pieces = []
        for text in texts:
            ids = _ids(self.tokenizer, text, opening=True)
            pieces += [ids[at : at + most] for at in range(0, len(ids), most)]
        return [Row(tuple(ids), 1, is_replay=True) for ids in pieces if len(ids) > 1]

    def _prepare_against_forgetting(self, general: list[Row], seed: int) -> None:
        options = self._forgetting
        if (options.replay or options.ewc) and not general:
            raise TrainingError("replay and ewc need general text: give some, or set both to 0")
        freeze_lower_layers(self.module, options.frozen_layers)
        draw = random.Random(seed)
        self._rows = [*self._examples, *self._replay(general, draw)]
        self.start = starting_weights(self.module)
        self._importance = None
        if options.ewc:
            sample = draw.sample(general, min(options.ewc_rows, len(general)))
            self._importance = fisher_information(
                self.module, range(len(sample)), lambda row: self._likelihood([sample[row]])
            )
        self._frozen = FrozenBase(self.module) if options.kl else None

    def _replay(self, general: list[Row], draw: random.Random) -> list[Row]:
        """Return general rows so that they are the given share of all, and as heavy as examples."""
        share = self._forgetting.replay
        count = round(len(self._examples) * share / (1 - share))
        if not count:
            return []
        draw.shuffle(general)
        heavy = sum(row.learnt * row.weight for row in self._examples) / len(self._examples)
        chosen = [general[at % len(general)] for at in range(count)]
        return [replace(row, weight=heavy / self._predicted(row)) for row in chosen]

    def sizes(self) -> Sequence[int]:
        """Return the tokens of each training row, replay last."""
        return [len(row.ids) for row in self._rows]

    def describe(self) -> dict[str, Any]:
        """Return base, data hashes and counts, adapter and options, for the record."""
        config = getattr(self.module, "peft_config", {}).get("default")
        lora = config and {
            "rank": config.r, "alpha": config.lora_alpha, "dropout": config.lora_dropout
        }  # fmt: skip
        return {
            "kind": "causal",
            "base": self._base,
            "lora": lora,
            "data": {
                "sha256": _hash(self._rows),
                "used": len(self._examples),
                "too_long": self.too_long,
                "replay": len(self._rows) - len(self._examples),
                "answer_tokens": sum(row.learnt for row in self._examples),
            },
            "dev": {
                "sha256": _hash(self._dev),
                "used": len(self._dev),
                "too_long": self.dev_too_long,
            },
            "forgetting": asdict(self._forgetting),
        }

    def loss(self, rows: Sequence[int]) -> tuple[torch.Tensor, float]:
        """Return the weighted negative log-likelihood of the answers, and the penalties' share."""
        picked = [self._rows[row] for row in rows]
        batch = self._padded(picked, at_random=True)
        options = self._forgetting
        # The base goes first: switching an adapter off and on must not touch a live graph.
        base = self._base_log_probabilities(batch, picked)
        logits = answer_logits(self.module, batch.ids, batch.mask, batch.chosen).float()
        losses = cross_entropy(logits, batch.targets, reduction="none")
        total = (losses * batch.weights).sum()
        weight = float(batch.weights.sum())
        if base is not None:
            here, reference = base
            predicted = log_softmax(logits[here], dim=-1)
            divergence = kl_div(predicted, reference, reduction="none", log_target=True).sum(-1)
            total = total + options.kl * (divergence * batch.weights[here]).sum()
        if options.l2_sp:
            total = total + weight * options.l2_sp * distance(self.module, self.start)
        if self._importance is not None:
            penalty = distance(self.module, self.start, self._importance)
            total = total + weight * options.ewc * penalty
        return total, weight

    def evaluate(self) -> Mapping[str, float]:
        """Return dev figures, given the right prefix at each token.

        "loss" is in nats a token, "token_accuracy" the share of tokens that greedy decoding would
        get right, "whole_accuracy" the share of completions it would get right to the end, and
        "general_loss" the loss on general text.
        """
        figures: dict[str, float] = {}
        if self._dev:
            figures = self._measured(self._dev)
        if self._general_dev:
            figures["general_loss"] = self._measured(self._general_dev)["loss"]
        return figures

    def finish(self) -> None:
        """Go back part of the way, as `interpolation` says; call it once, after training."""
        if self._forgetting.interpolation < 1:
            interpolate(self.module, self.start, self._forgetting.interpolation)

    @torch.no_grad()
    def _measured(self, rows: list[Row]) -> dict[str, float]:
        total = tokens = right = whole = 0.0
        for batch_rows in micro_batches([len(row.ids) for row in rows], 4096, 0, 0):
            picked = [rows[row] for row in batch_rows]
            batch = self._padded(picked, at_random=False)
            logits = answer_logits(self.module, batch.ids, batch.mask, batch.chosen).float()
            total += float(cross_entropy(logits, batch.targets, reduction="sum"))
            hits = logits.argmax(-1) == batch.targets
            tokens += len(hits)
            right += float(hits.sum())
            counts = batch.chosen.sum(dim=1).tolist()
            whole += sum(bool(part.all()) for part in torch.split(hits, counts))
        return {
            "loss": total / tokens,
            "token_accuracy": right / tokens,
            "whole_accuracy": whole / len(rows),
        }

    def _likelihood(self, rows: list[Row]) -> tuple[torch.Tensor, float]:
        batch = self._padded(rows, at_random=False)
        logits = answer_logits(self.module, batch.ids, batch.mask, batch.chosen).float()
        return cross_entropy(logits, batch.targets, reduction="sum"), float(len(batch.targets))

    def _base_log_probabilities(
        self, batch: _Padded, rows: Sequence[Row]
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return which of the N positions the base is asked at, (N,), and what it says there."""
        if self._frozen is None:
            return None
        wanted = {"answers": {False}, "replay": {True}, "both": {True, False}}
        picked = [row.is_replay in wanted[self._forgetting.kl_at] for row in rows]
        if not any(picked):
            return None
        asked = torch.tensor(picked, device=batch.ids.device)  # (B,)
        here = asked.unsqueeze(1).expand_as(batch.chosen)[batch.chosen]  # (N,)
        with self._frozen.opened() as base:
            logits = answer_logits(
                base, batch.ids[asked], batch.mask[asked], batch.chosen[asked]
            ).float()
        return here, log_softmax(logits, dim=-1)

    def _predicted(self, row: Row) -> int:
        """Return at how many positions a row is predicted."""
        most = self._forgetting.replay_positions
        return min(row.learnt, most) if row.is_replay and most else row.learnt

    def _padded(self, rows: Sequence[Row], *, at_random: bool) -> _Padded:
        """Return rows as one batch on the model's device."""
        length = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        chosen = torch.zeros_like(ids, dtype=torch.bool)
        weights = torch.zeros(ids.shape)
        for at, row in enumerate(rows):
            ids[at, : len(row.ids)] = torch.tensor(row.ids)
            mask[at, : len(row.ids)] = 1
            chosen[at, self._positions(row, at_random=at_random)] = True
            weights[at] = row.weight
        targets = ids.roll(-1, dims=1)[chosen]  # the last position is never chosen
        device = next(self.module.parameters()).device
        parts = (ids, mask, chosen, targets, weights[chosen])
        return _Padded(*(part.to(device) for part in parts))

    def _positions(self, row: Row, *, at_random: bool) -> torch.Tensor:
        """Return the positions whose next token is learnt."""
        positions = torch.arange(row.start - 1, len(row.ids) - 1)
        count = self._predicted(row)
        if count == len(positions):
            return positions
        if at_random:
            return positions[torch.randperm(len(positions))[:count]]
        return positions[torch.linspace(0, len(positions) - 1, count).long()]


def _hash(rows: Sequence[Row]) -> str:
    """Return a SHA-256 over the tokens and weights of rows, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.ids, row.start, row.weight]).encode())
    return digest.hexdigest()
