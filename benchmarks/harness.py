"""Measure scoring: ours beside lm-evaluation-harness's own Hugging Face runner, in one run.

    pip install lm_eval
    python -m benchmarks.harness --data DIR --set mmlu --set c3 --rows 32 --out harness.jsonl

Both score the same choices of the same questions with the same model in float32, in turns; the
faster of a side's turns counts. `--form letters` asks for the letter of a choice (one token, as
MMLU does), `texts` for the choice itself. Without --data the questions are made up here. Prints
questions a second of both, their ratio, and the greatest difference of a log-probability.
"""

import argparse
import importlib
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.settings import load_settings
from eval.datasets import read_rows
from eval.scoring import Scorer, choice_accuracy
from ingest.errors import TetherError, UsageError
from model.training.records import hardware, source_commit, versions
from model.training.tasks import load_base
from model.weights import prepare_gemma_folder

Pair = tuple[str, str]  # a context and its continuation
Found = tuple[float, bool]  # log-probability, and whether greedy decoding gives it


@dataclass(frozen=True, slots=True)
class Question:
    """A context, its choices as continuations, and which is right."""

    context: str
    choices: tuple[str, ...]
    gold: int

    @property
    def pairs(self) -> list[Pair]:
        """What is scored."""
        return [(self.context, choice) for choice in self.choices]


def asked(row: dict[str, Any], form: str) -> Question:
    """Return a row of a multiple-choice set as a question of a form."""
    opening = f"{row['context']}\n\n" if row.get("context") else ""
    if form == "texts":
        context = f"{opening}Question: {row['question']}\nAnswer:"
        return Question(context, tuple(f" {text}" for text in row["choices"]), row["answer_index"])
    letters = "ABCDEFGH"[: len(row["choices"])]
    lines = "\n".join(f"{mark}. {text}" for mark, text in zip(letters, row["choices"], strict=True))
    context = f"{opening}{row['question']}\n{lines}\nAnswer:"
    return Question(context, tuple(f" {mark}" for mark in letters), row["answer_index"])


def read_set(name: str, data: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Return some rows of a multiple-choice set.

    Raises:
        UsageError: The set's file is missing or damaged.
    """
    rows = [row for _, row in read_rows(data / name / f"{name}.dev.jsonl.gz")]
    return random.Random(seed).sample(rows, min(count, len(rows)))


def made_up(count: int, seed: int) -> list[dict[str, Any]]:
    """Return rows about harbours that do not exist."""
    draw = random.Random(seed)
    places, keepers = ["Orrin", "Velm", "Tasq", "Hulde"], ["the old keeper", "a boy", "nobody"]
    rows = []
    for number in range(count):
        gold = draw.randrange(len(keepers))
        text = f"{keepers[gold]} mends the nets of {draw.choice(places)} on pier {number}. "
        rows.append({
            "context": text * draw.randint(1, 12), "question": f"Who works on pier {number}?",
            "choices": keepers, "answer_index": gold,
        })  # fmt: skip
    return rows


def peer_runner(model: Any, tokenizer: Any, rows: int) -> Callable[[Sequence[Pair]], list[Found]]:  # noqa: ANN401
    """Return lm-evaluation-harness's Hugging Face runner, at a fixed batch size.

    Raises:
        UsageError: It is not installed.
    """
    try:
        runner = importlib.import_module("lm_eval.models.huggingface").HFLM
        instance = importlib.import_module("lm_eval.api.instance").Instance
    except ImportError as error:
        raise UsageError(
            f"lm-evaluation-harness is not installed ({error}): pip install lm_eval"
        ) from error
    peer = runner(pretrained=model, tokenizer=tokenizer, batch_size=rows, device="cpu")

    def run(pairs: Sequence[Pair]) -> list[Found]:
        requests = [
            instance(request_type="loglikelihood", doc={}, arguments=pair, idx=at)
            for at, pair in enumerate(pairs)
        ]
        return [(float(a), bool(b)) for a, b in peer.loglikelihood(requests, disable_tqdm=True)]

    return run


def compare(
    sides: dict[str, Callable[[Sequence[Pair]], list[Found]]],
    questions: Sequence[Question],
    repeats: int,
) -> dict[str, Any]:
    """Return what both sides took and found; "ours" and "lm_eval" are the sides."""
    pairs = [pair for question in questions for pair in question.pairs]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, list[Found]] = {}
    for run in sides.values():
        run(questions[0].pairs)  # warms up
    for _ in range(repeats):
        for name, run in sides.items():
            begun = time.perf_counter()
            found[name] = run(pairs)
            seconds[name].append(time.perf_counter() - begun)
    rates = {name: len(questions) / min(spent) for name, spent in seconds.items()}
    both = list(zip(found["ours"], found["lm_eval"], strict=True))
    return {
        "questions": len(questions), "continuations": len(pairs),
        "seconds": {name: [round(x, 2) for x in spent] for name, spent in seconds.items()},
        "questions_per_second": {name: round(rate, 3) for name, rate in rates.items()},
        "ratio": round(rates["ours"] / rates["lm_eval"], 2),
        "greatest_difference": max(abs(one[0] - other[0]) for one, other in both),
        "greedy_differs": sum(one[1] != other[1] for one, other in both),
        "accuracy": {name: _accuracy(questions, values) for name, values in found.items()},
    }  # fmt: skip


def _accuracy(questions: Sequence[Question], found: Sequence[Found]) -> float:
    left = iter(found)
    right = [
        choice_accuracy([next(left)[0] for _ in question.choices], question.gold)
        for question in questions
    ]
    return sum(right) / len(right)


def main(arguments: list[str] | None = None) -> None:
    """Run both sides on each set and print their figures."""
    options = _arguments(arguments)
    try:
        lines = _measured(options)
    except TetherError as error:
        raise SystemExit(str(error)) from error
    for line in lines:
        print(json.dumps(line))
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


def _measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    base = options.base or prepare_gemma_folder(load_settings({}).home)
    model, tokenizer = load_base(base)
    model.eval()
    scorer = Scorer(model, tokenizer, batch_tokens=options.batch_tokens)

    def ours(pairs: Sequence[Pair]) -> list[Found]:
        return [(row.log_probability, row.is_greedy) for row in scorer.continuations(pairs)]

    sides = {"lm_eval": peer_runner(model, tokenizer, options.peer_batch), "ours": ours}
    lines = []
    for name in options.set if options.data else ["made up"]:
        rows = (
            read_set(name, options.data, options.rows, options.seed)
            if options.data
            else made_up(options.rows, options.seed)
        )
        questions = [asked(row, options.form) for row in rows]
        figures = compare(sides, questions, options.repeats)
        lines.append({
            "set": name, "form": options.form, **figures, "batch_tokens": options.batch_tokens,
            "peer_batch": options.peer_batch, "seed": options.seed, "commit": source_commit(),
            "versions": versions(), "hardware": hardware("cpu"),
        })  # fmt: skip
    return lines


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the question sets")
    parser.add_argument("--set", action="append", help="mmlu, cmmlu or c3; default: mmlu and c3")
    parser.add_argument("--form", choices=["texts", "letters"], default="texts")
    parser.add_argument("--base", type=Path, help="model folder; default: Gemma 3 270M")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--peer-batch", type=int, default=4, help="rows of lm_eval's batches")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSONL file to append the figures to")
    options = parser.parse_args(arguments)
    options.set = options.set or ["mmlu", "c3"]
    return options


if __name__ == "__main__":
    main()
