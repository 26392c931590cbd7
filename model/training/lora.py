"""LoRA adapters through peft: added to a model, and saved in peft's own format.

All linear layers of the decoder are adapted, never the embedding or the output head: both share
one matrix in many models, and merging an adapter of a tied matrix corrupts it. Knows nothing of
data or of the loop.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from model.training.checkpoints import written_folder
from model.training.records import RECORD, TrainingRecord

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """Size and strength of an adapter."""

    rank: int = 16
    alpha: float = 32.0  # the adapter's output is scaled by alpha / rank
    dropout: float = 0.0  # of the adapter's input, while training


def add_lora(model: Any, options: LoraOptions, *, seed: int = 0) -> Any:  # noqa: ANN401
    """Return the model with a fresh adapter on it; only the adapter is trained.

    Args:
        model: A transformers causal language model.
        options: Rank, alpha and dropout.
        seed: Of the adapter's random half; the other half starts at zero.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules="all-linear",  # peft leaves the output head out
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def save_adapter(
    model: Any,  # noqa: ANN401 - peft ships no types
    folder: Path,
    *,
    base_name: str,
    record: TrainingRecord | None = None,
    facts: Mapping[str, Any] | None = None,
    half: bool = True,
) -> None:
    """Write an adapter as peft reads it, with `record.json` beside it; replaces the folder.

    Args:
        model: What `add_lora` returned, trained.
        folder: Becomes the adapter.
        base_name: Of the base model, as the settings call it: never a path of this machine.
        record: Of the run that made it.
        facts: More entries for `record.json`: role, base hash, prompt options, figures.
        half: Store 16-bit floats, half the size.

    Raises:
        TrainingError: The disk is full or not writable; what stood in the folder is kept.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    weights = {
        name: tensor.detach().cpu().to(torch.float16 if half else torch.float32).contiguous()
        for name, tensor in get_peft_model_state_dict(model).items()
    }
    config = _plain(model.peft_config["default"].to_dict())
    config |= {"base_model_name_or_path": base_name, "inference_mode": True}
    with written_folder(folder) as partial:
        save_file(weights, partial / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        (partial / ADAPTER_CONFIG).write_text(_json(config), encoding="utf-8")
        _write_record(partial, record, facts)


def save_model(
    model: Any,  # noqa: ANN401 - any transformers model
    tokenizer: Any,  # noqa: ANN401
    folder: Path,
    *,
    record: TrainingRecord | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a fully trained model and its tokenizer as a transformers folder; replaces the folder.

    Raises:
        TrainingError: The disk is full or not writable; what stood in the folder is kept.
    """
    with written_folder(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        _write_record(partial, record, facts)


def _write_record(
    folder: Path, record: TrainingRecord | None, facts: Mapping[str, Any] | None
) -> None:
    if record is not None or facts:
        entries = {**(facts or {}), **(asdict(record) if record else {})}
        (folder / RECORD).write_text(_json(entries), encoding="utf-8")


def _json(entries: Mapping[str, Any]) -> str:
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:  # noqa: ANN401 - what JSON can say
    """Return sets as sorted lists and enumerations as their values, so that files are stable."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return getattr(value, "value", value)
