"""A tiny causal task, and a run of it that a test can kill: `python -m tests.tiny_training FOLDER`.

The model has random weights and two layers; the words are made up.
"""

import random
import sys
from pathlib import Path
from typing import Any

from model.training.forgetting import ForgettingOptions
from model.training.loop import TrainingOptions, train
from model.training.lora import LoraOptions, add_lora
from model.training.tasks import CausalTask, Example, load_base
from tests.tiny_models import build_transformers_model

PLACES = ["harbour", "lantern", "pier", "港口", "灯"]
KEEPERS = ["keeper", "old keeper", "nets", "老守夜人", "渔网"]
GENERAL = ["The harbour of Orrin has three piers and a lantern that burns all night."] * 8
OPTIONS = TrainingOptions(
    seed=3, epochs=3, batch_tokens=200, accumulate=2, learning_rate=1e-2, evaluate_every=4,
    checkpoint_every=0.0, device="cpu",
)  # fmt: skip


def examples(count: int = 24, seed: int = 0) -> list[Example]:
    """Return questions whose answer follows from the place."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        at = draw.randrange(len(PLACES))
        filler = "the piers " * draw.randrange(4)
        made.append(Example(f"{filler}Question: {PLACES[at]}? Answer:", f" {KEEPERS[at]} [1]"))
    return made


def tiny_task(
    folder: Path,
    *,
    lora: LoraOptions | None = None,
    forgetting: ForgettingOptions | None = None,
    **options: Any,  # noqa: ANN401
) -> CausalTask:
    """Return a task over the tiny model in a folder, which is built there if it is absent."""
    if not (folder / "config.json").exists():
        build_transformers_model(folder)
    model, tokenizer = load_base(folder)
    if lora:
        model = add_lora(model, lora, seed=1)
    return CausalTask(
        model, tokenizer, examples(), examples(8, seed=1),
        forgetting=forgetting, general=GENERAL, **options,
    )  # fmt: skip


def run(home: Path) -> None:
    """Train a LoRA for the model in `home`/base into `home`/run, or go on with what is there."""
    task = tiny_task(home / "base", lora=LoraOptions(rank=4, dropout=0.1))
    train(task, OPTIONS, home / "run")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
