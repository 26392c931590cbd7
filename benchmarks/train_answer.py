"""Train the `answer` adapter: a LoRA that answers from passages, cites, and says when they do not.

    python -m benchmarks.build_answer_data --data ../shared/data --out build/answer-data
    python -m benchmarks.train_answer --rows build/answer-data --out build/answer --minutes 120

The same command goes on where a killed one was. `--out` holds the run and, in `adapter/`, the
adapter in 16-bit floats with its record. Rows and their licences: see the manifest of the first
command; early stopping watches its dev rows, whose paragraphs no train row has.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.settings import load_settings
from app.training.bases import load_adapter
from ingest.errors import UsageError
from model.adapters import read_adapter, require_base
from model.prompts import TRAINED
from model.training.loop import TrainingOptions, pick_device, train
from model.training.lora import LoraOptions, add_lora, save_adapter
from model.training.tasks import CausalTask, Example, load_base
from model.weights import DEFAULT_GENERATOR, GEMMA_GGUF, prepare_gemma_folder


def main() -> None:
    """Train, or go on training, and write the adapter."""
    options = _arguments()
    folder = prepare_gemma_folder(load_settings().home)
    model, tokenizer = load_base(folder, device=str(pick_device(options.device)))
    base = {"name": DEFAULT_GENERATOR, "sha256": GEMMA_GGUF.source_sha256}
    task = CausalTask(
        _adapted(model, options),
        tokenizer,
        read_examples(options.rows / "train.jsonl", options.limit),
        read_examples(options.rows / "dev.jsonl", options.dev_limit),
        most_tokens=640,
        base=base,
        seed=options.seed,
    )
    training = TrainingOptions(
        seed=options.seed,
        epochs=options.epochs,
        minutes=options.minutes,
        most_steps=options.steps,
        batch_tokens=options.batch_tokens,
        learning_rate=options.learning_rate,
        evaluate_every=options.evaluate_every,
        device=options.device,
    )
    record = train(task, training, options.out / "run")
    task.finish()
    manifest = options.rows / "manifest.json"
    facts = {
        "role": "answer",
        "base": base,
        "prompt": asdict(TRAINED),
        "start": read_adapter(options.start).sha256 if options.start else None,
        "manifest": json.loads(manifest.read_text("utf-8")) if manifest.is_file() else {},
    }
    save_adapter(
        task.module,
        options.out / "adapter",
        base_name=DEFAULT_GENERATOR,
        record=record,
        facts=facts,
    )
    print(f"{options.out / 'adapter'}: {record.steps} steps, {record.seconds:.0f} s")


def _adapted(model: Any, options: argparse.Namespace) -> Any:  # noqa: ANN401 - peft ships no types
    """Return the model with a fresh adapter, or with the one that goes on learning."""
    if options.start is None:
        lora = LoraOptions(rank=options.rank, alpha=2.0 * options.rank)
        return add_lora(model, lora, seed=options.seed)
    require_base(read_adapter(options.start), DEFAULT_GENERATOR, GEMMA_GGUF.source_sha256)
    return load_adapter(model, options.start)


def read_examples(path: Path, limit: int | None) -> list[Example]:
    """Return the first rows of a JSONL file of prompts and completions.

    Raises:
        UsageError: The file is missing or damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[:limit]
        rows = [json.loads(line) for line in lines]
        return [Example(row["prompt"], row["completion"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"cannot read training rows from {path} ({error!r}): build them with"
            " benchmarks.build_answer_data"
        ) from error


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=Path, required=True, help="folder of train and dev rows")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="adapter that goes on learning")
    parser.add_argument("--limit", type=int, help="train rows; default: all")
    parser.add_argument("--dev-limit", type=int, default=60)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--evaluate-every", type=int, default=100)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
