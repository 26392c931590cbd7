"""Heads on the encoder as tasks of the training loop: read, verify, rerank.

    model = HeadModel(folder, "read", HeadOptions())
    train(ReadTask(model, examples, dev_examples), TrainingOptions(minutes=30), run_folder)
    save_head(model, target, base="multilingual-e5-small", base_sha256=...)

The encoder stays as it is: trained are a LoRA (https://arxiv.org/abs/2106.09685) on its linear
layers and one linear layer on top. Inputs are made by the code that makes them at run time
(`model.cross_encoder`, `model.alignment`). Examples that do not fit the window are left out and
counted, never cut. Knows nothing of data sets and of the loop.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ingest.errors import TrainingError, WeightsError
from model.alignment import SHARPNESS, USUAL, word_tokens
from model.cross_encoder import (
    HEAD_FILE,
    HEAD_FORMATS,
    OUTPUTS,
    Role,
    Window,
    best_span,
    comparable,
    pair_windows,
)
from model.training.checkpoints import written_folder
from retrieval.onnx import BertTokenizer, batches, linear_layers, map_tensors, read_shape

_DEV_TOKENS = 4096  # padded tokens of a batch on dev


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """The size of a head and of what it sees."""

    rank: int = 16
    alpha: float = 32.0  # the adapter's product is multiplied by alpha / rank
    dropout: float = 0.0  # of the encoder, while training
    window: int = 320  # tokens of a pair (verify: of a text), special tokens included
    seed: int = 0  # of the matrices before training


@dataclass(frozen=True, slots=True)
class ReadExample:
    """A question and a passage with the characters of its answer, at every place it stands."""

    question: str
    passage: str
    answers: tuple[tuple[int, int], ...]  # (start, end); empty: the passage does not say


@dataclass(frozen=True, slots=True)
class VerifyExample:
    """A claim and what may support it."""

    claim: str
    evidence: str
    supported: bool


@dataclass(frozen=True, slots=True)
class RankExample:
    """A question, the passage that answers it, and passages that do not."""

    question: str
    positive: str
    negatives: tuple[str, ...]


class LowRank(nn.Module):
    """A linear layer that stays, plus the product of two narrow matrices that are learnt."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float) -> None:
        """Wrap a layer; at first the product is zero."""
        super().__init__()
        self.layer, self.scale = layer, scale
        self.lora_A = nn.Parameter(torch.empty(rank, layer.in_features))
        self.lora_B = nn.Parameter(torch.zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, states: Tensor) -> Tensor:  # (B, T, in) -> (B, T, out)
        """Return x W + b + scale (x A) B."""
        low = functional.linear(functional.linear(states, self.lora_A), self.lora_B)
        kept: Tensor = self.layer(states)
        return kept + self.scale * low


class HeadModel(nn.Module):
    """The encoder of a sentence-transformers folder, frozen, with a LoRA and a head to train.

    The word embeddings stay in their memory-mapped file: only rows that occur are read.
    """

    def __init__(self, folder: Path, role: Role, options: HeadOptions) -> None:
        """Load an encoder's folder.

        Raises:
            WeightsError: It is not a BERT that `retrieval.onnx` computes, or it is damaged.
        """
        super().__init__()
        shape = read_shape(folder)
        if shape is None:
            raise WeightsError(
                f"heads cannot be trained on {folder}: name the folder of a BERT sentence encoder"
                " with float32 safetensors"
            )
        self.role, self.options = role, options
        self.start = ""  # the SHA-256 of the head whose LoRA it goes on from
        self.tokenizer = BertTokenizer(folder / "tokenizer.json")
        tensors = map_tensors(folder / "model.safetensors")
        self._words = tensors.pop("embeddings.word_embeddings.weight")
        self.bert = _load_bert(folder, tensors, options.dropout)
        self.window = min(options.window, shape.most_tokens)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self._adapt(shape.layers)
            self.head = nn.Linear(shape.width, OUTPUTS[role])
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.constant_(self.head.bias, SHARPNESS * USUAL if role == "verify" else 0.0)

    def _adapt(self, layers: int) -> None:
        """Freeze the encoder and put a LoRA beside each of its linear layers."""
        self.bert.requires_grad_(requires_grad=False)
        for name in linear_layers(layers):
            parent, _, last = name.rpartition(".")
            owner = self.bert.get_submodule(parent)
            scale = self.options.alpha / self.options.rank
            setattr(owner, last, LowRank(getattr(owner, last), self.options.rank, scale))

    def forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits at every token, (B, T, outputs); those of padding mean nothing."""
        logits: Tensor = self.head(self.states(rows))
        return logits.float()

    def states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the last hidden states, (B, T, width); those of padding mean nothing."""
        longest = max(map(len, rows))
        embedded = np.zeros((len(rows), longest, self._words.shape[1]), np.float32)
        mask = np.zeros((len(rows), longest), np.int64)
        for number, row in enumerate(rows):
            embedded[number, : len(row)] = self._words[row]
            mask[number, : len(row)] = 1
        device = self.head.weight.device
        states: Tensor = self.bert(
            inputs_embeds=torch.from_numpy(embedded).to(device),
            attention_mask=torch.from_numpy(mask).to(device),
        ).last_hidden_state
        return states

    def start_from(self, folder: Path) -> None:
        """Take over the LoRA of a trained head, whatever its role: reading helps to verify.

        The last layer is taken over too where the role is the same; else it starts anew.

        Raises:
            WeightsError: The head cannot be read, or its LoRA has another rank or scale.
        """
        path = folder / HEAD_FILE
        told, known = _read_head(path)
        same_role = told.get("role") == self.role
        ours = {
            name: parameter
            for name, parameter in self.trained().items()
            if same_role or not name.startswith("head.")
        }
        same = float(told.get("alpha", 0)) == self.options.alpha
        if not same or any(
            name not in known or known[name].shape != ours[name].shape for name in ours
        ):
            raise WeightsError(
                f"{path} has a LoRA of another size: train with the same rank and alpha"
            )
        with torch.no_grad():
            for name, parameter in ours.items():
                parameter.copy_(known[name])
        self.start = hashlib.sha256(path.read_bytes()).hexdigest()

    def trained(self) -> dict[str, Tensor]:
        """Return what was trained, by the names of the file."""
        return {
            name.removeprefix("bert."): parameter.detach()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }


def _load_bert(folder: Path, tensors: Mapping[str, Any], dropout: float) -> nn.Module:
    """Return the transformer of a folder with a word embedding of one row, which is not used."""
    from transformers import BertConfig, BertModel

    config = BertConfig.from_pretrained(
        folder, vocab_size=1, pad_token_id=0, attn_implementation="sdpa",
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    bert = BertModel(config, add_pooling_layer=False)
    known = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
    lacking = bert.load_state_dict(known, strict=False).missing_keys
    if set(lacking) - {"embeddings.word_embeddings.weight"}:
        raise WeightsError(f"{folder} lacks {lacking[0]}: fetch the model's folder again")
    return bert


def save_head(model: HeadModel, target: Path, *, base: str, base_sha256: str) -> Path:
    """Write a head as `target/head.safetensors` in half precision; return the file.

    What else stands in that folder is removed, so write the record after the head.

    Raises:
        TrainingError: The disk is full or not writable.
    """
    from safetensors.torch import save_file

    told = {
        "format": HEAD_FORMATS[model.role], "role": model.role,
        "base": base, "base_sha256": base_sha256,
        "rank": str(model.options.rank), "alpha": str(model.options.alpha),
        "window": str(model.window),
    }  # fmt: skip
    tensors = {name: value.half().cpu().contiguous() for name, value in model.trained().items()}
    with written_folder(target) as folder:
        save_file(tensors, folder / HEAD_FILE, metadata=told)
    return target / HEAD_FILE


def average_heads(folders: Sequence[Path], target: Path) -> Path:
    """Write the mean of the weights of heads that went on from one another; return the file.

    Along one run's path the mean mostly generalises better than its ends ("model soups",
    https://arxiv.org/abs/2203.05482). The mean is of each matrix, not of the LoRA's products.

    Args:
        folders: Each holds a head of the same role, base, rank and scale.
        target: The folder to write; what else stands in it is removed.

    Raises:
        WeightsError: A head cannot be read, or they are of different kinds.
        TrainingError: The disk is full or not writable.
    """
    from safetensors.torch import save_file

    heads = [_read_head(folder / HEAD_FILE) for folder in folders]
    if not heads:
        raise WeightsError("there is nothing to average: name trained heads")
    told, first = heads[0]
    for folder, (others, tensors) in zip(folders, heads, strict=True):
        shapes = {name: value.shape for name, value in tensors.items()}
        if others != told or shapes != {name: value.shape for name, value in first.items()}:
            raise WeightsError(f"{folder} holds a head of another kind than {folders[0]}")
    mean = {name: torch.stack([own[name] for _, own in heads]).mean(0) for name in first}
    with written_folder(target) as folder:
        save_file(
            {name: value.half().contiguous() for name, value in mean.items()},
            folder / HEAD_FILE,
            metadata=told,
        )
    return target / HEAD_FILE


def _read_head(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return what a head's file says of itself, and its weights in float32."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            return told, {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read {path} ({error}): name a trained head") from error


class _HeadTask:
    """What the three tasks share: a model, rows that fit its window, and a description."""

    def __init__(self, model: HeadModel, examples: Sequence[object], usable: int) -> None:
        self._model = model
        digest = hashlib.sha256("\n".join(map(repr, examples)).encode("utf-8", "replace"))
        self._description = {
            "role": model.role,
            **asdict(model.options),
            **({"start": model.start} if model.start else {}),
            "examples": len(examples),
            "too_long": len(examples) - usable,
            "data_sha256": digest.hexdigest(),
        }

    @property
    def module(self) -> HeadModel:
        """The model; its LoRA and head are trained."""
        return self._model

    def describe(self) -> dict[str, Any]:
        """Return what goes into the record: sizes, counts and the data's hash."""
        return dict(self._description)


@dataclass(frozen=True, slots=True)
class _ReadRow:
    ids: list[int]
    first: int  # of the passage's tokens in ids
    count: int  # of them
    starts: tuple[int, ...]  # places in ids; (0,) where there is no answer
    ends: tuple[int, ...]


class ReadTask(_HeadTask):
    """Learn where an answer starts and ends; the first token stands for no answer (SQuAD 2).

    The probability of an answer that stands in several places is the sum over them, since nobody
    knows which one was meant (Clark and Gardner 2018, https://arxiv.org/abs/1710.10723).
    """

    def __init__(
        self, model: HeadModel, examples: Sequence[ReadExample], dev: Sequence[ReadExample] = ()
    ) -> None:
        """Tokenize the examples; those of `dev` are for `evaluate`."""
        self._rows = list(_read_rows(model, examples))
        self._dev = list(_read_rows(model, dev))
        super().__init__(model, examples, len(self._rows))

    def sizes(self) -> list[int]:
        """Return the tokens of each example."""
        return [len(row.ids) for row in self._rows]

    def loss(self, rows: Sequence[int]) -> tuple[Tensor, float]:
        """Return the summed cross-entropy of start and end (their mean), and the examples."""
        return self._loss([self._rows[row] for row in rows])[0], float(len(rows))

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return loss, and the shares found right: of the answers, and of the refusals."""
        total, right = 0.0, {True: [0.0], False: [0.0]}
        for batch in batches([len(row.ids) for row in self._dev], _DEV_TOKENS):
            rows = [self._dev[number] for number in batch]
            loss, logits = self._loss(rows)
            total += float(loss)
            for row, own in zip(rows, logits.float().cpu().numpy(), strict=True):
                right[row.starts != (0,)].append(float(_is_right(row, own)))
        if not self._dev:
            return {}
        shares = {key: sum(found) / max(1, len(found) - 1) for key, found in right.items()}
        return {"loss": total / len(self._dev), "right": shares[True], "refused": shares[False]}

    def _loss(self, rows: Sequence[_ReadRow]) -> tuple[Tensor, Tensor]:
        logits = self._model([row.ids for row in rows])  # (B, T, 2)
        allowed = torch.zeros(logits.shape[:2], dtype=torch.bool)
        gold = torch.zeros(logits.shape, dtype=torch.bool)
        for number, row in enumerate(rows):
            allowed[number, 0] = True
            allowed[number, row.first : row.first + row.count] = True
            gold[number, list(row.starts), 0] = True
            gold[number, list(row.ends), 1] = True
        device = logits.device
        whole = logits.masked_fill(~allowed.to(device)[..., None], -torch.inf).logsumexp(1)
        hit = logits.masked_fill(~gold.to(device), -torch.inf).logsumexp(1)  # (B, 2)
        return (whole - hit).sum() / 2, logits


def _read_rows(model: HeadModel, examples: Iterable[ReadExample]) -> Iterable[_ReadRow]:
    for example in examples:
        window = _only_window(model, example.question, example.passage)
        if window is None or not window.spans:
            continue
        places = [_place(window, *answer) for answer in example.answers]
        starts, ends = zip(*places, strict=True) if places else ((0,), (0,))
        yield _ReadRow(window.ids, window.first, len(window.spans), starts, ends)


def _place(window: Window, start: int, end: int) -> tuple[int, int]:
    """Return the first and last token, as places in ids, that touch the characters `start:end`."""
    touched = [
        number
        for number, (first, last) in enumerate(window.spans)
        if first < end and last > start and first < last
    ]
    if not touched:
        raise TrainingError(
            f"the answer at characters {start}:{end} of a passage is blank: leave that row out"
        )
    return window.first + touched[0], window.first + touched[-1]


def _only_window(model: HeadModel, a: str, b: str) -> Window | None:
    """Return the input that holds both texts whole, or None if they are too long."""
    windows = pair_windows(model.tokenizer, a, b, model.window)
    return windows[0] if len(windows) == 1 else None


def _is_right(row: _ReadRow, logits: np.ndarray) -> bool:
    """Tell whether the likeliest span is a gold one, or there is none and none is likelier."""
    first, last, score = best_span(logits[row.first : row.first + row.count])
    if score <= float(logits[0].sum()):
        return row.starts == (0,)
    return (row.first + first, row.first + last) in zip(row.starts, row.ends, strict=True)


@dataclass(frozen=True, slots=True)
class _VerifyRow:
    claim: list[int]  # its ids, special tokens included
    words: list[bool]  # which of those say something
    evidence: list[int]
    supported: bool


class VerifyTask(_HeadTask):
    """Learn whether every word of a claim stands in the evidence: binary cross-entropy.

    Nobody says which word is wrong in a claim that is not supported: the likeliest one learns it.
    """

    def __init__(
        self, model: HeadModel, examples: Sequence[VerifyExample], dev: Sequence[VerifyExample] = ()
    ) -> None:
        """Tokenize the examples; those of `dev` are for `evaluate`."""
        self._rows = list(_verify_rows(model, examples))
        self._dev = list(_verify_rows(model, dev))
        super().__init__(model, examples, len(self._rows))

    def sizes(self) -> list[int]:
        """Return the tokens of each example."""
        return [len(row.claim) + len(row.evidence) for row in self._rows]

    def loss(self, rows: Sequence[int]) -> tuple[Tensor, float]:
        """Return the summed cross-entropy and the number of examples."""
        return self._loss([self._rows[row] for row in rows])[0], float(len(rows))

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return loss and balanced accuracy at probability one half."""
        total, right = 0.0, {True: [0.0], False: [0.0]}
        for batch in batches([len(row.evidence) for row in self._dev], _DEV_TOKENS):
            rows = [self._dev[number] for number in batch]
            loss, logits = self._loss(rows)
            total += float(loss)
            for row, logit in zip(rows, logits.tolist(), strict=True):
                right[row.supported].append(float((logit > 0) == row.supported))
        if not self._dev:
            return {}
        shares = [sum(found) / max(1, len(found) - 1) for found in right.values()]
        return {"loss": total / len(self._dev), "balanced_accuracy": sum(shares) / 2}

    def _loss(self, rows: Sequence[_VerifyRow]) -> tuple[Tensor, Tensor]:
        claims = self._model.states([row.claim for row in rows])  # (B, S, width)
        evidence = self._model.states([row.evidence for row in rows])  # (B, T, width)
        likeness = functional.normalize(claims, dim=-1) @ functional.normalize(
            evidence, dim=-1
        ).transpose(1, 2)
        outside = ~_inner([row.evidence for row in rows], self._model).to(likeness.device)
        best = likeness.masked_fill(outside[:, None], -1.0).amax(2)  # (B, S)
        doubts = self._model.head(claims)[..., 0] - SHARPNESS * best
        said = torch.zeros(doubts.shape, dtype=torch.bool)
        for number, row in enumerate(rows):
            said[number, : len(row.words)] = torch.tensor(row.words)
        logits = -doubts.float().masked_fill(~said.to(doubts.device), -torch.inf).logsumexp(1)
        labels = torch.tensor([float(row.supported) for row in rows], device=logits.device)
        loss = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        return loss, logits


def _inner(rows: Sequence[Sequence[int]], model: HeadModel) -> Tensor:
    """Return which places hold tokens of the texts: no special ones, no padding; (B, T)."""
    before, after = len(model.tokenizer.before), len(model.tokenizer.after)
    inner = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.bool)
    for number, row in enumerate(rows):
        inner[number, before : len(row) - after] = True
    return inner


def _verify_rows(model: HeadModel, examples: Iterable[VerifyExample]) -> Iterable[_VerifyRow]:
    """Yield the examples that fit and say something."""
    tokenizer = model.tokenizer
    before, after = tokenizer.before, tokenizer.after
    for example in examples:
        words = word_tokens(tokenizer, example.claim)
        claim, evidence = (
            before + tokenizer.tokens(comparable(text))[0] + after
            for text in (example.claim, example.evidence)
        )
        has_both = any(words) and len(evidence) > len(before) + len(after)
        if has_both and max(len(claim), len(evidence)) <= model.window:
            said = [False] * len(before) + words + [False] * len(after)
            yield _VerifyRow(claim, said, evidence, example.supported)


class RankTask(_HeadTask):
    """Learn to put the right passage before the others: softmax cross-entropy over each list."""

    def __init__(
        self, model: HeadModel, examples: Sequence[RankExample], dev: Sequence[RankExample] = ()
    ) -> None:
        """Tokenize the examples; those of `dev` are for `evaluate`."""
        self._rows = list(_rank_rows(model, examples))
        self._dev = list(_rank_rows(model, dev))
        super().__init__(model, examples, len(self._rows))

    def sizes(self) -> list[int]:
        """Return the tokens of each list, as it is padded."""
        return [_padded(row) for row in self._rows]

    def loss(self, rows: Sequence[int]) -> tuple[Tensor, float]:
        """Return the summed cross-entropy and the number of lists."""
        return self._loss([self._rows[row] for row in rows])[0], float(len(rows))

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return loss, and the share of lists whose first is the right one."""
        total, first = 0.0, 0.0
        for batch in batches([_padded(row) for row in self._dev], _DEV_TOKENS):
            loss, logits = self._loss([self._dev[number] for number in batch])
            total += float(loss)
            first += sum(float(own.argmax() == 0) for own in logits)
        count = len(self._dev)
        return {"loss": total / count, "first": first / count} if count else {}

    def _loss(self, rows: Sequence[list[list[int]]]) -> tuple[Tensor, list[Tensor]]:
        flat = self._model([ids for row in rows for ids in row])[:, 0, 0]
        lists = list(flat.split([len(row) for row in rows]))  # the right passage comes first
        return torch.stack([own.logsumexp(0) - own[0] for own in lists]).sum(), lists


def _padded(row: list[list[int]]) -> int:
    return len(row) * max(map(len, row))


def _rank_rows(model: HeadModel, examples: Iterable[RankExample]) -> Iterable[list[list[int]]]:
    """Yield the inputs of each list; what does not fit goes, the right one with its list."""
    for example in examples:
        right = _only_window(model, example.question, example.positive)
        others = [_only_window(model, example.question, text) for text in example.negatives]
        inputs = [window.ids for window in (right, *others) if window]
        if right and len(inputs) > 1:
            yield inputs
