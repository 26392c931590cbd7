"""Learning from preferences, through trl: a reward model, DPO, and RLOO or GRPO.

| function | learns from | source |
|---|---|---|
| `train_reward` | pairs, to score texts | Bradley & Terry 1952; Ouyang et al. 2022 |
| `train_dpo` | pairs, to write the better one | Rafailov et al. 2023 |
| `train_rl` | its own texts and a reward | Ahmadian et al. 2024 (RLOO); Shao et al. 2024 (GRPO) |

    record = train_dpo(model, tokenizer, pairs, PreferenceOptions(), Path("adapters/own"),
                       base_name="gemma-3-270m")

What is written is an adapter as `lora.save_adapter` writes it, with its record. `GroundedReward`
makes a reward of a verifier; it needs neither torch nor trl. trl's own checkpoints would be
pickles: none is written, so these runs, short ones, start anew after a kill. Nothing is sent
anywhere. Knows nothing of retrieval or of where pairs come from.
"""

import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ingest.errors import TrainingError
from model import claims, evidence
from model.feedback import PreferencePair
from model.verifier import Judgement

Algorithm = Literal["rloo", "grpo"]


@dataclass(frozen=True, slots=True)
class PreferenceOptions:
    """How long and how carefully to learn from preferences."""

    seed: int = 0
    epochs: float = 1.0
    most_steps: int | None = None  # if it ends first
    batch: int = 8  # pairs of a step; of RL, texts of a step: a multiple of `generations`
    learning_rate: float = 5e-5
    beta: float = 0.1  # of DPO: how closely it stays by the model it started from
    kl: float = 0.0  # of RL: weight of the divergence from the model it started from
    algorithm: Algorithm = "rloo"
    generations: int = 4  # of RL: texts for each prompt, compared with each other
    completion_tokens: int = 48  # of RL: longest text
    temperature: float = 1.0  # of RL
    most_tokens: int = 1024  # of a prompt with a completion; longer rows are left out and counted
    lora_rank: int = 16
    lora_alpha: float = 32.0
    device: str = "auto"


# --- a verifier as reward


class Judge(Protocol):
    """The part of a verifier that a reward needs."""

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Return a judgement for each (claim, evidence) pair, in order."""
        ...


@dataclass(frozen=True, slots=True)
class RewardCase:
    """A prompt, and what is known of its right answer."""

    prompt: str
    passages: tuple[str, ...] = ()  # as numbered in the prompt, from 1
    answerable: bool = True  # whether the passages hold the answer
    gold: tuple[str, ...] = ()  # right answers, if known
    gold_passages: tuple[int, ...] = ()  # numbers of the passages that hold it, if known


@dataclass(frozen=True, slots=True)
class RewardWeights:
    """What counts how much; 0 leaves a part out."""

    grounded: float = 1.0  # share of the claims that the passages support
    right: float = 1.0  # likeness to a right answer; left out where none is known
    cited: float = 0.5  # share of the claims whose marks are valid and name what supports them
    abstains: float = 1.0  # the reward of a refusal where the passages do not hold the answer


class GroundedReward:
    """Rewards answers that are grounded, right and cited, and refusals where they are due.

    Where the passages hold the answer, the reward is the weighted mean of three parts, 0..1, and a
    refusal gets 0. Where they do not, a refusal gets the weight of `abstains`, all else 0.
    """

    def __init__(self, judge: Judge, weights: RewardWeights | None = None) -> None:
        """Keep a verifier and the weights."""
        self._judge = judge
        self.weights = weights or RewardWeights()

    def __call__(self, case: RewardCase, text: str) -> float:
        """Return the reward of a text."""
        if not case.answerable:
            refuses = claims.is_refusal(claims.unmarked(text))
            return self.weights.abstains if refuses else 0.0
        parts = self.parts(case, text)
        weights = {name: float(getattr(self.weights, name)) for name in parts}
        total = sum(weights.values())
        return sum(weights[name] * parts[name] for name in parts) / total if total else 0.0

    def parts(self, case: RewardCase, text: str) -> dict[str, float]:
        """Return what the reward of an answer is made of, each 0..1; "right" only if known."""
        said = claims.read(text, range(1, 1000))  # marks of passages that do not exist, too
        found = self._supported(case, said)
        count = max(1, len(said))
        parts = {
            "grounded": sum(grounded for grounded, _ in found) / count,
            "cited": sum(cited for _, cited in found) / count,
        }
        if case.gold:
            whole = " ".join(claim.text for claim in said)
            parts["right"] = max(likeness(whole, gold) for gold in case.gold)
        return parts

    def _supported(
        self, case: RewardCase, said: Sequence[claims.DraftClaim]
    ) -> list[tuple[bool, bool]]:
        """Return for each claim whether any passage supports it, and whether its cited ones do."""
        if not said or not case.passages:
            return [(False, False) for _ in said]
        everything = "\n".join(case.passages)
        valid = [_valid_marks(case, claim.cited) for claim in said]
        pairs = [(claim.text, everything) for claim in said]
        pairs += [
            (claim.text, "\n".join(case.passages[number - 1] for number in claim.cited))
            for claim, fits in zip(said, valid, strict=True) if fits
        ]  # fmt: skip
        verdicts = [judgement.supported for judgement in self._judge.judge(pairs)]
        cited = iter(verdicts[len(said) :])
        return [
            (grounded, fits and next(cited))
            for grounded, fits in zip(verdicts[: len(said)], valid, strict=True)
        ]


def likeness(text: str, gold: str) -> float:
    """Return the F1 of the content terms of two texts, 0..1; of texts without any, equality."""
    said, wanted = Counter(evidence.content_terms(text)), Counter(evidence.content_terms(gold))
    if not said or not wanted:
        return float(text.strip().casefold() == gold.strip().casefold())
    shared = (said & wanted).total()
    return 2 * shared / (said.total() + wanted.total())


def _valid_marks(case: RewardCase, cited: Sequence[int]) -> bool:
    """Tell whether there are marks, and all name passages that exist and may hold the answer."""
    allowed = {*range(1, len(case.passages) + 1)}
    if case.gold_passages:
        allowed &= {*case.gold_passages}
    return bool(cited) and allowed.issuperset(cited)


# --- training


def train_reward(
    model: Any,  # noqa: ANN401 - a transformers sequence classifier with one output
    tokenizer: Any,  # noqa: ANN401
    pairs: Sequence[PreferencePair],
    options: PreferenceOptions,
    folder: Path,
    *,
    base_name: str,
    dev: Sequence[PreferencePair] = (),
) -> Any:  # noqa: ANN401 - a TrainingRecord; its module needs torch only when it is used
    """Train a classifier to score the better text of a pair higher; write it to a folder.

    Args:
        model: All of its parameters with requires_grad are trained.
        tokenizer: The model's own.
        pairs: To learn from.
        options: How.
        folder: Becomes a transformers folder with `record.json`.
        base_name: Of the model it started from.
        dev: Pairs to measure on; without any, the training pairs.

    Returns:
        The record; "accuracy" is the share of pairs in the right order, "margin" the mean distance.

    Raises:
        TrainingError: No usable pair, or the disk is full or not writable.
    """
    from trl import RewardConfig, RewardTrainer

    from model.training.lora import save_model

    usable, too_long = _usable(pairs, tokenizer, options)
    watched = list(dev) or usable
    first = _ordered(model, tokenizer, watched)
    with _scratch() as place:
        trainer: Any = RewardTrainer(
            model=model, processing_class=tokenizer, train_dataset=_dataset(usable, tokenizer),
            args=RewardConfig(**_settings(place, options), max_length=None),
        )  # fmt: skip
        seconds = _run(trainer)
    record = _record(
        "reward", trainer, options, base_name=base_name, data=_counts(usable, too_long),
        first=first, last=_ordered(model, tokenizer, watched), seconds=seconds,
    )  # fmt: skip
    save_model(model, tokenizer, folder, record=record, facts={"role": "reward"})
    return record


def train_dpo(
    model: Any,  # noqa: ANN401 - a causal language model, or one with an adapter to go on with
    tokenizer: Any,  # noqa: ANN401
    pairs: Sequence[PreferencePair],
    options: PreferenceOptions,
    folder: Path,
    *,
    base_name: str,
    dev: Sequence[PreferencePair] = (),
    facts: Mapping[str, Any] | None = None,
) -> Any:  # noqa: ANN401
    """Train an adapter to prefer the better completions; write it to a folder.

    Args:
        model: Gets a fresh adapter, unless it has one; that start is what it stays close to.
        tokenizer: The model's own.
        pairs: To learn from.
        options: How.
        folder: Becomes an adapter with `record.json`.
        base_name: Of the base model, as the settings call it.
        dev: Pairs to measure on; without any, the training pairs.
        facts: More entries for `record.json`: role, base hash, prompt options.

    Returns:
        The record; "margin" is the mean log-probability of the better completion minus that of the
        worse, in nats, and "accuracy" the share of pairs where it is above zero.

    Raises:
        TrainingError: No usable pair, or the disk is full or not writable.
    """
    from trl import DPOConfig, DPOTrainer

    usable, too_long = _usable(pairs, tokenizer, options)
    watched = list(dev) or usable
    adapted = _adapted(model, options)
    first = _margins(adapted, tokenizer, watched)
    with _scratch() as place:
        trainer: Any = DPOTrainer(
            model=adapted, processing_class=tokenizer, train_dataset=_dataset(usable, tokenizer),
            args=DPOConfig(
                **_settings(place, options), loss_type=["sigmoid"], beta=options.beta,
                max_length=None,
            ),
        )  # fmt: skip
        seconds = _run(trainer)
    record = _record(
        "dpo", trainer, options, base_name=base_name, data=_counts(usable, too_long),
        first=first, last=_margins(adapted, tokenizer, watched), seconds=seconds,
    )  # fmt: skip
    _save(adapted, folder, base_name, record, facts)
    return record


def train_rl(
    model: Any,  # noqa: ANN401 - a causal language model, or one with an adapter to go on with
    tokenizer: Any,  # noqa: ANN401
    cases: Sequence[RewardCase],
    reward: Callable[[RewardCase, str], float],
    options: PreferenceOptions,
    *,
    folder: Path,
    base_name: str,
    facts: Mapping[str, Any] | None = None,
) -> Any:  # noqa: ANN401
    """Train an adapter to write what is rewarded; write it to a folder.

    Args:
        model: Gets a fresh adapter, unless it has one.
        tokenizer: The model's own.
        cases: Prompts, with what the reward knows of them.
        reward: Of a text for a case; `GroundedReward`, or another.
        options: How.
        folder: Becomes an adapter with `record.json`.
        base_name: Of the base model, as the settings call it.
        facts: More entries for `record.json`.

    Returns:
        The record; "reward" is the mean reward of the sampled texts, in the first and in the last
        fifth of the steps.

    Raises:
        TrainingError: No usable case, a batch that is no multiple of `generations`, or the disk is
            full.
    """
    import trl

    usable, too_long = _usable_cases(cases, tokenizer, options)
    if options.generations < 2 or options.batch % options.generations:
        raise TrainingError(
            f"a batch of {options.batch} holds no whole groups of {options.generations} texts: make"
            " it a multiple, and generations at least 2"
        )
    adapted = _adapted(model, options)
    kind = {"rloo": (trl.RLOOConfig, trl.RLOOTrainer), "grpo": (trl.GRPOConfig, trl.GRPOTrainer)}
    config, trainer_class = kind[options.algorithm]

    def rewards(completions: list[str], case: list[int], **_: object) -> list[float]:
        return [reward(usable[n], text) for n, text in zip(case, completions, strict=True)]

    with _scratch() as place:
        trainer: Any = trainer_class(
            model=adapted, processing_class=tokenizer, reward_funcs=rewards,
            train_dataset=_prompts(usable, tokenizer),
            args=config(
                **_settings(place, options), num_generations=options.generations, beta=options.kl,
                max_completion_length=options.completion_tokens, temperature=options.temperature,
                top_k=0,
            ),
        )  # fmt: skip
        seconds = _run(trainer)
    first, last = _ends([line["reward"] for line in trainer.state.log_history if "reward" in line])
    record = _record(
        options.algorithm, trainer, options, base_name=base_name,
        data=_counts(usable, too_long), first={"reward": first}, last={"reward": last},
        seconds=seconds,
    )  # fmt: skip
    _save(adapted, folder, base_name, record, facts)
    return record


# --- what the three share


def _settings(place: str, options: PreferenceOptions) -> dict[str, Any]:
    """Return trl's arguments: nothing saved, nothing sent, bf16 on a GPU only."""
    from model.training.loop import pick_device

    on_gpu = pick_device(options.device).type == "cuda"
    return {
        "output_dir": place, "save_strategy": "no", "report_to": [], "push_to_hub": False,
        "seed": options.seed, "num_train_epochs": options.epochs,
        "max_steps": options.most_steps or -1,
        "per_device_train_batch_size": options.batch, "learning_rate": options.learning_rate,
        "lr_scheduler_type": "cosine", "warmup_steps": 0.05, "logging_steps": 1,
        "bf16": on_gpu, "use_cpu": not on_gpu, "gradient_checkpointing": False,
        "dataloader_pin_memory": on_gpu, "disable_tqdm": True,
    }  # fmt: skip


def _scratch() -> "tempfile.TemporaryDirectory[str]":
    """Return a folder for what trl insists on having one for; nothing of it is kept."""
    return tempfile.TemporaryDirectory(prefix="tether-trl-", ignore_cleanup_errors=True)


def _run(trainer: Any) -> float:  # noqa: ANN401
    """Train in silence, and return the seconds it took."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)  # it prints each line of the log
    begun = time.monotonic()
    trainer.train()
    trainer.model.eval()
    return time.monotonic() - begun


def _adapted(model: Any, options: PreferenceOptions) -> Any:  # noqa: ANN401
    from model.training.lora import LoraOptions, add_lora

    if hasattr(model, "peft_config"):
        return model
    lora = LoraOptions(rank=options.lora_rank, alpha=options.lora_alpha)
    return add_lora(model, lora, seed=options.seed)


def _save(
    model: Any,  # noqa: ANN401
    folder: Path,
    base_name: str,
    record: Any,  # noqa: ANN401
    facts: Mapping[str, Any] | None,
) -> None:
    from model.training.lora import save_adapter

    if "ref" in model.peft_config:  # trl's copy of where the adapter started
        model.delete_adapter("ref")
    save_adapter(model, folder, base_name=base_name, record=record, facts=facts)


def _usable(
    pairs: Sequence[PreferencePair],
    tokenizer: Any,  # noqa: ANN401
    options: PreferenceOptions,
) -> tuple[list[PreferencePair], int]:
    """Return the pairs within the limit of tokens, and how many are over it."""

    def fits(pair: PreferencePair) -> bool:
        texts = (pair.prompt + pair.chosen, pair.prompt + pair.rejected)
        return all(_length(text, tokenizer) < options.most_tokens for text in texts)

    usable = [pair for pair in pairs if fits(pair)]
    if not usable:
        raise TrainingError(
            f"no usable pair ({len(pairs)} are over {options.most_tokens} tokens): give some, or"
            " raise the limit"
        )
    return usable, len(pairs) - len(usable)


def _usable_cases(
    cases: Sequence[RewardCase],
    tokenizer: Any,  # noqa: ANN401
    options: PreferenceOptions,
) -> tuple[list[RewardCase], int]:
    """Return the cases that leave room for a completion, and how many do not."""
    room = options.most_tokens - options.completion_tokens
    usable = [case for case in cases if _length(case.prompt, tokenizer) <= room]
    if not usable:
        raise TrainingError(
            f"no usable prompt ({len(cases)} are over {room} tokens): give some, or raise the limit"
        )
    return usable, len(cases) - len(usable)


def _length(text: str, tokenizer: Any) -> int:  # noqa: ANN401
    return len(tokenizer(_inert(text, tokenizer))["input_ids"])


def _dataset(pairs: Iterable[PreferencePair], tokenizer: Any) -> Any:  # noqa: ANN401
    from datasets import Dataset

    return Dataset.from_list(
        [{key: _inert(text, tokenizer) for key, text in asdict(pair).items()} for pair in pairs]
    )


def _prompts(cases: Sequence[RewardCase], tokenizer: Any) -> Any:  # noqa: ANN401
    from datasets import Dataset

    return Dataset.from_list(
        [{"prompt": _inert(case.prompt, tokenizer), "case": n} for n, case in enumerate(cases)]
    )


def _inert(text: str, tokenizer: Any) -> str:  # noqa: ANN401
    """Return a text in which no special token stands: trl would read "<eos>" as the end."""
    added = tokenizer.added_tokens_decoder.values()  # marks of turns and tools, too
    special = {*tokenizer.all_special_tokens, *(one.content for one in added if one.special)}
    for token in sorted(special):
        text = text.replace(token, f"{token[:1]} {token[1:]}")
    return text.encode("utf-8", "replace").decode("utf-8")


def _ordered(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    pairs: Sequence[PreferencePair],
) -> dict[str, float]:
    """Return how well a reward model orders pairs."""
    import torch

    def score(text: str) -> float:
        ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        return float(model(input_ids=ids.to(model.device)).logits[0, 0])

    model.eval()
    with torch.no_grad():
        return _figures(
            score(_inert(pair.prompt + pair.chosen, tokenizer))
            - score(_inert(pair.prompt + pair.rejected, tokenizer))
            for pair in pairs
        )


def _margins(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    pairs: Sequence[PreferencePair],
) -> dict[str, float]:
    """Return how much likelier a causal model finds the better completions, in nats."""
    import torch
    from torch.nn.functional import cross_entropy

    from model.training.tasks import Example, answer_logits, encode

    device = next(model.parameters()).device

    def likelihood(prompt: str, completion: str) -> float:
        row = encode(tokenizer, Example(prompt, completion))
        ids = torch.tensor([row.ids], device=device)
        chosen = torch.zeros_like(ids, dtype=torch.bool)
        chosen[0, row.start - 1 : -1] = True
        logits = answer_logits(model, ids, torch.ones_like(ids), chosen).float()
        return -float(cross_entropy(logits, ids[0, row.start :], reduction="sum"))

    model.eval()
    with torch.no_grad():
        return _figures(
            likelihood(pair.prompt, pair.chosen) - likelihood(pair.prompt, pair.rejected)
            for pair in pairs
        )


def _figures(margins: Iterable[float]) -> dict[str, float]:
    found = list(margins)
    return {
        "margin": sum(found) / len(found),
        "accuracy": sum(margin > 0 for margin in found) / len(found),
    }


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Return the means of the first and of the last fifth."""
    count = max(1, len(values) // 5)
    return sum(values[:count]) / count, sum(values[-count:]) / count


def _counts(rows: Sequence[PreferencePair | RewardCase], too_long: int) -> dict[str, Any]:
    text = json.dumps([asdict(row) for row in rows])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"sha256": digest, "used": len(rows), "too_long": too_long}


def _record(
    kind: str,
    trainer: Any,  # noqa: ANN401
    options: PreferenceOptions,
    *,
    base_name: str,
    data: Mapping[str, Any],
    first: Mapping[str, float],
    last: Mapping[str, float],
    seconds: float,
) -> Any:  # noqa: ANN401
    from model.training.records import TrainingRecord, hardware, source_commit, thinned, versions

    lines = trainer.state.log_history
    tokens = int(max((line.get("num_tokens", 0) for line in lines), default=0))
    return TrainingRecord(
        task={"kind": kind, "base": {"name": base_name}, "data": dict(data)},
        options=asdict(options), seed=options.seed,
        trainable=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        steps=trainer.state.global_step, stopped="complete", best_step=trainer.state.global_step,
        first=dict(first), best=dict(last),
        tokens=tokens, seconds=round(seconds, 1),
        tokens_per_second=round(tokens / max(1e-9, seconds), 1),
        curve=thinned([(line["step"], line["loss"]) for line in lines if "loss" in line]),
        dev_curve=[], hardware=hardware(str(trainer.args.device)), versions=versions(),
        commit=source_commit(),
    )  # fmt: skip
