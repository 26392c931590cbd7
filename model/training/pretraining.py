"""Pretraining on a user's own texts: three objectives, from scratch or continued.

| objective | learns to | source |
|---|---|---|
| `NextTokenTask` | go on with a text | Radford et al. 2018 (GPT) |
| `MaskedTokenTask` | restore masked tokens | Devlin et al. 2019 (BERT) |
| `SpanTask` | restore removed spans | Raffel et al. 2020 (T5) |

    corpus = split_documents(texts, seed=0)
    tokenizer = train_tokenizer(corpus.train, vocabulary=8000)
    model = new_model("next", tokenizer, ModelSize())
    record = train(NextTokenTask(model, tokenizer, corpus), TrainingOptions(), Path("runs/own"))
    save_model(model, tokenizer, Path("own-model"), record=record)

`tasks.load_base` continues a model instead; a sentence encoder goes on as masked-token model and
is written back by `save_encoder`. Each is a `Task` of the one loop, so checkpoints, resuming and
the record are its. Documents are cut into tokens, an end token after each, and packed into blocks;
train and dev share no document. Logits are computed only where something is predicted. Figures are
over the full vocabulary. Knows nothing of collections, questions or the loop.
"""

import hashlib
import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.nn.functional import cross_entropy

from ingest.errors import SettingsError, TrainingError
from model.training.batches import micro_batches
from model.training.checkpoints import written_folder
from model.training.records import TrainingRecord
from model.training.tasks import Objective, chosen_logits

SENTINELS = 100  # marks of removed spans in a tokenizer made here, as in T5
_DEV_TOKENS = 2048  # of a batch on dev
_IGNORED = -100  # in labels: nothing is predicted here
_ENCODER_WEIGHTS = "model.safetensors"
_NOT_COPIED = (
    "tether.json", "*.partial", "*.bin", "*.pt", "*.pth", "*.pkl", "*.py", "onnx", "openvino"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts of documents, each in one part only."""

    train: tuple[str, ...]
    dev: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Of a model from scratch."""

    width: int = 256
    layers: int = 4
    heads: int = 4
    positions: int = 512  # longest text, in tokens

    def __post_init__(self) -> None:
        """Refuse a width that the heads cannot share."""
        if self.width < 1 or self.heads < 1 or self.width % (2 * self.heads):
            raise SettingsError(
                f"{self.heads} heads cannot share a width of {self.width}: make the width a"
                f" multiple of {2 * max(1, self.heads)}"  # rotary positions turn pairs of numbers
            )


@dataclass(frozen=True, slots=True)
class PackingOptions:
    """How documents become rows, and how much of a row is hidden."""

    block: int = 256  # tokens of a row
    hidden: float = 0.15  # share of the tokens that are masked or removed
    span: float = 3.0  # mean tokens of a removed span
    positions: int = 0  # of a row whose next token is learnt, drawn anew each time; 0 is all
    seed: int = 0  # of the masks on dev, which are always the same

    def __post_init__(self) -> None:
        """Refuse what cannot be packed or hidden."""
        if self.block < 8 or not 0 < self.hidden < 1 or self.span < 1:
            raise SettingsError(
                f"block {self.block}, hidden {self.hidden} or span {self.span} is out of range:"
                " give a block of at least 8, a share between 0 and 1 and a span of at least 1"
            )


def split_documents(texts: Iterable[str], *, dev_share: float = 0.05, seed: int = 0) -> Corpus:
    """Return the documents in two parts; equal texts count once, empty ones not at all.

    Args:
        texts: One a document.
        dev_share: Of the documents; at least one is dev, and one is not.
        seed: Of the draw.

    Raises:
        TrainingError: Fewer than two different documents.
    """
    unique = list(dict.fromkeys(text for text in texts if text.strip()))
    if len(unique) < 2:
        raise TrainingError(
            f"pretraining needs two different documents or more, there are {len(unique)}: give"
            " more, or cut the text into several files"
        )
    random.Random(seed).shuffle(unique)
    count = min(len(unique) - 1, max(1, round(dev_share * len(unique))))
    return Corpus(train=tuple(unique[count:]), dev=tuple(unique[:count]))


def train_tokenizer(texts: Iterable[str], *, vocabulary: int = 8000) -> Any:  # noqa: ANN401
    """Return a byte-level BPE tokenizer for all three objectives: it can write every text.

    Args:
        texts: To learn from; give no dev texts.
        vocabulary: At most so many tokens, special ones and the 256 bytes included.

    Raises:
        SettingsError: The vocabulary has no room for the bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<mask>", *(f"<extra_id_{n}>" for n in range(SENTINELS))]
    if vocabulary < len(special) + 256:
        raise SettingsError(
            f"a vocabulary of {vocabulary} has no room for every byte: give at least"
            f" {len(special) + 256}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator((_valid(text) for text in texts), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        cls_token="<s>", sep_token="</s>", mask_token="<mask>",
        additional_special_tokens=special[4:],
    )  # fmt: skip


def new_model(
    objective: Objective,
    tokenizer: Any,  # noqa: ANN401 - any tokenizer of transformers
    size: ModelSize | None = None,
    *,
    seed: int = 0,
) -> Any:  # noqa: ANN401
    """Return a model with random weights: Llama, BERT or T5.

    Args:
        objective: What it will learn.
        tokenizer: From `train_tokenizer`, or another.
        size: Of the model.
        seed: Of the weights.
    """
    import transformers as hf

    size = size or ModelSize()
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    shape: dict[str, Any] = {
        "hidden_size": size.width, "intermediate_size": 4 * size.width,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads,
        "max_position_embeddings": size.positions,
    }  # fmt: skip
    start: dict[str, Any] = {"decoder_start_token_id": tokenizer.pad_token_id}  # as T5 has it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if objective == "next":
            return hf.LlamaForCausalLM(hf.LlamaConfig(**shared, **shape, tie_word_embeddings=True))
        if objective == "masked":
            return hf.BertForMaskedLM(hf.BertConfig(
                **shared, **shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                initializer_range=0.5 * size.width**-0.5,  # BERT's 0.02 at BERT's width
            ))  # fmt: skip
        return hf.T5ForConditionalGeneration(hf.T5Config(
            **shared, d_model=size.width, d_kv=size.width // size.heads, d_ff=4 * size.width,
            num_layers=size.layers, num_heads=size.heads, dropout_rate=0.0,
            **start,
        ))  # fmt: skip


def freeze_embeddings(model: torch.nn.Module) -> None:
    """Leave every embedding, and an output head tied to one, out of training.

    Most weights of a small multilingual model are embeddings: without them a step is much cheaper,
    and words that the corpus lacks stay where they were.
    """
    for part in model.modules():
        if isinstance(part, torch.nn.Embedding):
            part.requires_grad_(requires_grad=False)


def save_encoder(
    model: Any,  # noqa: ANN401 - what `load_base(source, "masked")` returned
    source: Path,
    folder: Path,
    *,
    record: TrainingRecord | None = None,
) -> None:
    """Write the encoder under a masked-token model as a sentence-transformers folder.

    Everything but the weights (pooling, tokenizer, prompts) is the source's; the head is dropped,
    and so are pickles and code, and exports of the old weights to other formats.

    Args:
        model: The trained model.
        source: The sentence-transformers folder that it came from.
        folder: Becomes the encoder; its name is the encoder's name, as `--encoder` takes it.
        record: Of the run.

    Raises:
        TrainingError: The source is of another shape, or the disk is full or not writable.
    """
    from safetensors.torch import load_file, save_file

    trained = model.base_model.state_dict()
    try:
        stored = load_file(source / _ENCODER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{source} has no readable {_ENCODER_WEIGHTS}: name a sentence-transformers folder"
            " with its weights in that one file"
        ) from error
    names = {name: name.removeprefix(f"{model.base_model_prefix}.") for name in stored}
    kept = {name: stored[name] for name, own in names.items() if own not in trained}
    weights = {
        name: trained[own].detach().cpu().contiguous()
        for name, own in names.items() if own in trained
    }  # fmt: skip
    if not weights:
        raise TrainingError(f"{source} holds other weights: name the folder that was trained")
    # A pooler or the like that the masked-token model does not have stays as it was.
    with written_folder(folder) as partial:
        leave = shutil.ignore_patterns(*_NOT_COPIED)
        shutil.copytree(source, partial, ignore=leave, dirs_exist_ok=True)
        save_file({**kept, **weights}, partial / _ENCODER_WEIGHTS, metadata={"format": "pt"})
        if record is not None:
            record.save(partial)


class _CorpusTask:
    """What the three objectives share: blocks of documents, and figures on dev."""

    objective: Objective
    edges = 0  # special tokens around a block

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - any transformers model of the objective
        tokenizer: Any,  # noqa: ANN401
        corpus: Corpus,
        options: PackingOptions | None = None,
        *,
        base: Mapping[str, str] | None = None,
    ) -> None:
        """Cut the corpus into tokens and pack it.

        Args:
            model: Whose parameters with requires_grad are trained.
            tokenizer: The model's own; it must have an end token, or one between texts.
            corpus: From `split_documents`.
            options: Length of a block, and how much is hidden.
            base: Name and weights hash of a continued model, for the record.

        Raises:
            TrainingError: The tokenizer lacks a token that the objective needs.
            SettingsError: A block is longer than the model's positions.
        """
        self.module: Any = model
        self.tokenizer = tokenizer
        self.options = options or PackingOptions()
        self._base = dict(base or {})
        self._end = self._needed("eos_token", "sep_token")  # BERT ends a text with the second
        self._refuse_too_long_a_block()
        self._corpus = corpus
        self._rows = self._packed(corpus.train)
        self._dev = self._packed(corpus.dev)

    def _needed(self, *names: str) -> int:
        """Return the first of some special tokens that the tokenizer has."""
        for name in names:
            number: int | None = getattr(self.tokenizer, f"{name}_id")
            if number is not None:
                return number
        raise TrainingError(
            f"the tokenizer has no {names[0]}, which this objective needs: set it in its folder"
        )

    def _refuse_too_long_a_block(self) -> None:
        """Raise if the model has fewer positions than a block has tokens."""
        positions = getattr(self.module.config, "max_position_embeddings", None)
        if positions is None:  # relative ones, as in T5
            return
        # RoBERTa counts positions from behind the padding token: its tokenizer knows the rest.
        most = min(positions, self.tokenizer.model_max_length)
        if self.options.block > most:
            raise SettingsError(
                f"a block of {self.options.block} tokens is over the model's {most} positions:"
                f" give at most {most}"
            )

    def _packed(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return blocks of tokens: the documents one after another, an end token behind each."""
        stream: list[int] = []
        for text in texts:
            stream += self._tokens(text)
        size = self.options.block - self.edges
        blocks = [tuple(stream[at : at + size]) for at in range(0, len(stream), size)]
        return [block for block in blocks if len(block) > 2]

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(
            _valid(text), add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        return [*ids, self._end]

    def sizes(self) -> Sequence[int]:
        """Return the tokens of each training block."""
        return [len(row) + self.edges for row in self._rows]

    def describe(self) -> dict[str, Any]:
        """Return objective, base, hashes, counts and the unigram baseline, for the record."""
        return {
            "kind": "pretraining",
            "objective": self.objective,
            "base": self._base,
            "block": self.options.block,
            "hidden": self.options.hidden,
            "data": {
                "sha256": _hash(self._rows),
                "documents": len(self._corpus.train),
                "tokens": sum(map(len, self._rows)),
            },
            "dev": {
                "sha256": _hash(self._dev),
                "documents": len(self._corpus.dev),
                "tokens": sum(map(len, self._dev)),
                "unigram_loss": self.unigram_loss(),
            },
        }

    def unigram_loss(self) -> float:
        """Return the loss on dev, in nats a token, of counting words: what a model must beat.

        Counts of the training tokens, one added to each (Laplace).
        """
        counts = Counter(token for row in self._rows for token in row)
        total = counts.total() + len(self.tokenizer)
        seen = [token for row in self._dev for token in row]
        return -sum(math.log((counts[token] + 1) / total) for token in seen) / max(1, len(seen))

    def loss(self, rows: Sequence[int]) -> tuple[torch.Tensor, float]:
        """Return the summed negative log-likelihood of what is hidden, and how much that is."""
        inputs, labels = self._batch([self._rows[row] for row in rows], None)
        logits, targets = self._predicted(inputs, labels)
        return cross_entropy(logits, targets, reduction="sum"), float(len(targets))

    @torch.no_grad()
    def evaluate(self) -> Mapping[str, float]:
        """Return dev figures over the full vocabulary, with the same tokens hidden each time.

        "loss" is in nats a hidden token (of spans: of those that are text, not marks),
        "perplexity" its exponential, and "accuracy" the share that the likeliest token gets right.
        """
        draw = torch.Generator().manual_seed(self.options.seed)
        total = right = count = 0.0
        for batch in micro_batches([len(row) for row in self._dev], _DEV_TOKENS, 0, 0):
            inputs, labels = self._batch([self._dev[row] for row in batch], draw)
            logits, targets = self._predicted(inputs, labels)
            is_text = self._is_text(targets)
            logits, targets = logits[is_text], targets[is_text]
            total += float(cross_entropy(logits, targets, reduction="sum"))
            right += float((logits.argmax(-1) == targets).sum())
            count += len(targets)
        if not count:
            return {}
        mean = total / count
        return {"loss": mean, "perplexity": math.exp(min(mean, 700)), "accuracy": right / count}

    def _batch(
        self, rows: Sequence[tuple[int, ...]], draw: torch.Generator | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the model's inputs and the labels, (B, T); dev gives a generator, training none.

        Training draws from torch's own generator, which the loop seeds for each micro-batch.
        """
        raise NotImplementedError

    def _is_text(self, targets: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(targets, dtype=torch.bool)

    def _predicted(
        self, inputs: dict[str, torch.Tensor], labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits, (N, vocabulary), and targets, (N,), where there are labels."""
        device = next(self.module.parameters()).device
        labels = labels.to(device)
        chosen = labels != _IGNORED
        moved = {name: value.to(device) for name, value in inputs.items()}
        return chosen_logits(self.module, moved, chosen).float(), labels[chosen]


class NextTokenTask(_CorpusTask):
    """Predict each token from those before it, with a causal language model."""

    objective: Objective = "next"

    def _tokens(self, text: str) -> list[int]:
        """Return a document's tokens; it opens as texts do in this tokenizer."""
        opening = self.tokenizer.bos_token_id
        ids = super()._tokens(text)
        return ids if opening is None else [opening, *ids]

    def _batch(
        self, rows: Sequence[tuple[int, ...]], draw: torch.Generator | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        ids, mask = _padded(rows, self._end)
        labels = ids.roll(-1, dims=1)
        labels[mask.roll(-1, dims=1) == 0] = _IGNORED
        labels[:, -1] = _IGNORED
        most = self.options.positions
        if most and draw is None:
            counts = torch.full((len(rows),), most)
            labels[~_drawn(labels != _IGNORED, counts, None)] = _IGNORED
        return {"input_ids": ids, "attention_mask": mask}, labels


class MaskedTokenTask(_CorpusTask):
    """Restore hidden tokens: 80% of them are masked, 10% replaced, 10% left as they are."""

    objective: Objective = "masked"
    edges = 2

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401
        """Cut the corpus into tokens and pack it: see the other objectives."""
        super().__init__(*arguments, **named)
        self._mask, self._opening = self._needed("mask_token"), self._needed("cls_token")
        special = {*self.tokenizer.all_special_ids}
        self._special = torch.tensor(sorted(special))
        self._ordinary = torch.tensor([n for n in range(len(self.tokenizer)) if n not in special])

    def _batch(
        self, rows: Sequence[tuple[int, ...]], draw: torch.Generator | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        whole = [(self._opening, *row, self._end) for row in rows]
        ids, mask = _padded(whole, self.tokenizer.pad_token_id or 0)
        free = mask.bool() & ~torch.isin(ids, self._special)
        counts = (free.sum(dim=1) * self.options.hidden).round().long().clamp(min=1)
        hidden = _drawn(free, counts, draw)
        labels = ids.masked_fill(~hidden, _IGNORED)
        kind = torch.rand(ids.shape, generator=draw)
        others = torch.randint(len(self._ordinary), ids.shape, generator=draw)
        shown = torch.where(hidden & (kind < 0.8), self._mask, ids)
        replaced = hidden & (kind >= 0.8) & (kind < 0.9)
        shown = torch.where(replaced, self._ordinary[others], shown)
        return {"input_ids": shown, "attention_mask": mask}, labels


class SpanTask(_CorpusTask):
    """Restore removed spans, each marked by a sentinel, with an encoder-decoder."""

    objective: Objective = "spans"
    edges = 1

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401
        """Cut the corpus into tokens and pack it: see the other objectives.

        Raises:
            TrainingError: The tokenizer has fewer sentinels than a block has removed spans.
        """
        super().__init__(*arguments, **named)
        known = self.tokenizer.get_vocab()
        names = (f"<extra_id_{number}>" for number in range(self.options.block))
        self._sentinels = [known[name] for name in names if name in known]
        self._marks = torch.tensor([*self._sentinels, self._end])
        needed = self._spans(self.options.block)[1]
        if len(self._sentinels) < needed:
            raise TrainingError(
                f"the tokenizer has {len(self._sentinels)} tokens <extra_id_N> for {needed} removed"
                " spans: choose a smaller block, or a model of the T5 kind"
            )

    def _spans(self, length: int) -> tuple[int, int]:
        """Return how many tokens are removed from a row, and in how many spans."""
        removed = min(length - 1, max(1, round(length * self.options.hidden)))
        spans = max(1, round(removed / self.options.span))
        return removed, min(spans, removed, length - removed)

    def _batch(
        self, rows: Sequence[tuple[int, ...]], draw: torch.Generator | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        pairs = [self._corrupted(row, draw) for row in rows]
        ids, mask = _padded([source for source, _ in pairs], self.tokenizer.pad_token_id or 0)
        labels, _ = _padded([target for _, target in pairs], _IGNORED)
        start = self.module.config.decoder_start_token_id
        before = labels.roll(1, dims=1).masked_fill(labels.roll(1, dims=1) == _IGNORED, start)
        before[:, 0] = start
        return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": before}, labels

    def _corrupted(
        self, row: tuple[int, ...], draw: torch.Generator | None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return what the encoder reads and what the decoder writes.

        Kept and removed runs alternate, a kept one first; their lengths are a random partition
        (Raffel et al. 2020, section 3.1.4 and `random_spans_noise_mask` of their code).
        """
        removed, spans = self._spans(len(row))
        kept_runs = _partition(len(row) - removed, spans, draw)
        removed_runs = _partition(removed, spans, draw)
        source: list[int] = []
        target: list[int] = []
        at = 0
        for mark, kept, gone in zip(self._sentinels, kept_runs, removed_runs, strict=False):
            source += [*row[at : at + kept], mark]
            target += [mark, *row[at + kept : at + kept + gone]]
            at += kept + gone
        return (*source, self._end), (*target, self._end)

    def _is_text(self, targets: torch.Tensor) -> torch.Tensor:
        """Tell text from the marks between it, which are easy and would flatter the figure."""
        return ~torch.isin(targets, self._marks.to(targets.device))


TASKS: Mapping[Objective, type[_CorpusTask]] = {
    "next": NextTokenTask, "masked": MaskedTokenTask, "spans": SpanTask
}  # fmt: skip


def _padded(rows: Sequence[Sequence[int]], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows as one batch padded on the right, and where it is none: both (B, T)."""
    shape = (len(rows), max(map(len, rows)))
    ids, mask = torch.full(shape, filler), torch.zeros(shape, dtype=torch.long)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
        mask[at, : len(row)] = 1
    return ids, mask


def _drawn(free: torch.Tensor, counts: torch.Tensor, draw: torch.Generator | None) -> torch.Tensor:
    """Return so many of the free positions of each row, drawn at random, (B, T)."""
    order = torch.rand(free.shape, generator=draw).masked_fill(~free, 2.0).argsort(dim=1)
    rank = order.argsort(dim=1)
    return free & (rank < counts.unsqueeze(1))


def _partition(total: int, parts: int, draw: torch.Generator | None) -> list[int]:
    """Return so many lengths of at least one that add up to the total, each choice as likely."""
    cuts = (torch.randperm(total - 1, generator=draw)[: parts - 1] + 1).sort().values.tolist()
    ends = [*cuts, total]
    return [end - start for start, end in zip([0, *cuts], ends, strict=True)]


def _valid(text: str) -> str:
    """Return a text that tokenizers read: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _hash(rows: Sequence[tuple[int, ...]]) -> str:
    """Return a SHA-256 over the tokens of rows, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()
