"""Measure training: our loop beside trl's SFTTrainer, one model, one set of rows, one run.

    python -m benchmarks.training --rows build/answer-data --steps 24 --out training.jsonl

Both train the same fresh LoRA (same seed) on the same rows once, with the same learning rate,
schedule and clipping, each in a process of its own. trl takes a fixed number of rows a step, drawn
at random, and its gradient checkpointing, which would slow it, is off. Ours takes a budget of
padded tokens that gives as many steps. Tokens a second count whole examples without padding over
the wall-clock time of the whole training call, our checkpoints and record included. The dev loss of
both, before and after, is measured by one function.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.settings import load_settings
from benchmarks.train_answer import read_examples
from model.training.loop import TrainingOptions, plan, train
from model.training.lora import LoraOptions, add_lora
from model.training.records import hardware, source_commit, versions
from model.training.tasks import CausalTask, Example, load_base
from model.weights import prepare_gemma_folder

MOST_TOKENS = 640  # rows over it are left out before either side sees them


@dataclass(frozen=True, slots=True)
class Contest:
    """What both sides are given."""

    base: Path
    rows: tuple[Example, ...]
    dev: tuple[Example, ...]
    rows_per_step: int
    seed: int
    device: str

    def task(self) -> CausalTask:
        """Return the task with a fresh adapter."""
        model, tokenizer = load_base(self.base)
        adapted = add_lora(model, LoraOptions(), seed=self.seed)
        return CausalTask(adapted, tokenizer, self.rows, self.dev, most_tokens=MOST_TOKENS)

    @property
    def options(self) -> TrainingOptions:
        """The options of both sides, but for the batches."""
        return TrainingOptions(
            seed=self.seed, learning_rate=5e-4, warmup=0.0, device=self.device, precision="auto"
        )


def run_ours(contest: Contest) -> dict[str, Any]:
    """Train with our loop."""
    task = contest.task()
    first = task.evaluate()
    bare = CausalTask(task.module, task.tokenizer, contest.rows, most_tokens=MOST_TOKENS)
    steps = -(-len(contest.rows) // contest.rows_per_step)
    options = replace(contest.options, batch_tokens=_budget(bare.sizes(), steps, contest.options))
    with tempfile.TemporaryDirectory() as folder:
        begun = _clocks()
        record = train(bare, options, Path(folder))
        spent = _since(begun)
    return _figures("ours", task, first["loss"], record.steps, spent)


def run_trl(contest: Contest) -> dict[str, Any]:
    """Train with trl's SFTTrainer."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    task = contest.task()
    first = task.evaluate()
    task.module.to(contest.device if contest.device != "auto" else "cpu")
    rows = [{"prompt": row.prompt, "completion": row.completion} for row in contest.rows]
    ours = contest.options
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, seed=ours.seed, use_cpu=contest.device == "cpu",
            per_device_train_batch_size=contest.rows_per_step, num_train_epochs=1,
            learning_rate=ours.learning_rate, lr_scheduler_type=ours.schedule,
            max_grad_norm=ours.clip, weight_decay=ours.weight_decay, max_length=MOST_TOKENS,
            completion_only_loss=True, gradient_checkpointing=False, save_strategy="no",
            report_to="none", logging_strategy="no", bf16=contest.device.startswith("cuda"),
            disable_tqdm=True, dataloader_pin_memory=contest.device.startswith("cuda"),
        )  # fmt: skip
        trainer = SFTTrainer(
            model=task.module,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=task.tokenizer,
        )
        begun = _clocks()
        result = trainer.train()
        spent = _since(begun)
    return _figures("trl", task, first["loss"], result.global_step, spent)


def _clocks() -> tuple[float, float]:
    """Return the wall clock's and this process's own seconds; a busy machine slows the first."""
    return time.perf_counter(), time.process_time()


def _since(begun: tuple[float, float]) -> tuple[float, float]:
    wall, own = _clocks()
    return wall - begun[0], own - begun[1]


def _figures(
    side: str, task: CausalTask, first: float, steps: int, spent: tuple[float, float]
) -> dict[str, Any]:
    tokens = sum(task.sizes())
    seconds, cpu_seconds = spent
    task.module.eval()
    return {
        "side": side,
        "tokens": tokens,
        "steps": steps,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / seconds, 1),
        "cpu_seconds": round(cpu_seconds, 2),
        "dev_loss_before": round(first, 4),
        "dev_loss_after": round(task.evaluate()["loss"], 4),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _budget(sizes: Sequence[int], steps: int, options: TrainingOptions) -> int:
    """Return the smallest budget of tokens a micro-batch that needs no more than these steps."""
    low, high = max(sizes), sum(sizes)
    while low < high:
        middle = (low + high) // 2
        if len(plan(sizes, replace(options, batch_tokens=middle))) <= steps:
            high = middle
        else:
            low = middle + 1
    return low


def contest_of(options: argparse.Namespace) -> Contest:
    """Read the rows, leave out those that either side would cut, and return what both get."""
    base = options.base or prepare_gemma_folder(load_settings().home)
    _, tokenizer = load_base(base)
    wanted = options.steps * options.rows_per_step
    rows = [
        row
        for row in read_examples(options.rows / "train.jsonl", 4 * wanted)
        if len(tokenizer.encode(row.prompt + row.completion)) < MOST_TOKENS - 8
    ][:wanted]
    dev = read_examples(options.rows / "dev.jsonl", options.dev_limit)
    return Contest(
        base, tuple(rows), tuple(dev), options.rows_per_step, options.seed, options.device
    )


def main(arguments: list[str] | None = None) -> None:
    """Run both sides one after the other and print their figures and the ratio."""
    options = _arguments(arguments)
    contest = contest_of(options)
    lines: list[dict[str, Any]] = []
    for side in (run_trl, run_ours):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            lines.append(pool.apply(side, (contest,)))
        print(json.dumps(lines[-1]), flush=True)
    trl, ours = lines
    ratio = ours["tokens_per_second"] / trl["tokens_per_second"]
    lines.append({
        "side": "ratio", "tokens_per_second": round(ratio, 2),
        "cpu_seconds": round(trl["cpu_seconds"] / ours["cpu_seconds"], 2),
        "rows": len(contest.rows), "commit": source_commit(), "versions": versions(),
        "hardware": hardware(contest.device),
    })  # fmt: skip
    print(json.dumps(lines[-1]))
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=Path, required=True, help="folder of train and dev rows")
    parser.add_argument("--base", type=Path, help="model folder; default: Gemma 3 270M")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rows-per-step", type=int, default=4)
    parser.add_argument("--dev-limit", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="a JSONL file to append the figures to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
