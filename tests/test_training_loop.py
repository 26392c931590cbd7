"""The training loop: the same weights whatever interrupts it, clear errors where it must stop."""

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ingest.errors import SettingsError, TrainingError
from model.training.checkpoints import latest_checkpoint, load_checkpoint
from model.training.loop import TrainingOptions, pick_device, train
from model.training.lora import LoraOptions
from tests import tiny_training
from tests.test_faults import files_up_to
from tests.tiny_training import OPTIONS, tiny_task

ROOT = Path(__file__).resolve().parent.parent


class Line:
    """Learns the slope of a line through the origin; rows are numbers."""

    def __init__(self, rows: int = 64, noise: float = 0.0) -> None:
        self.module: torch.nn.Module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.module.weight)
        self.values = torch.linspace(-1, 1, rows)
        self.noise = noise
        self.poison: int | None = None  # a row whose loss is no number

    def sizes(self) -> Sequence[int]:
        return [1 + row % 5 for row in range(len(self.values))]

    def loss(self, rows: Sequence[int]) -> tuple[torch.Tensor, float]:
        x = self.values[list(rows)].unsqueeze(1)
        y = 3 * x + self.noise * torch.randn_like(x)
        loss = ((self.module(x) - y) ** 2).sum()
        return loss * (math.nan if self.poison in rows else 1.0), float(len(rows))

    def evaluate(self) -> Mapping[str, float]:
        return {"loss": float((self.slope() - 3) ** 2)}

    def slope(self) -> float:
        return float(next(self.module.parameters()).detach())


class Worse(Line):
    """A line whose dev loss only grows."""

    calls = 0

    def evaluate(self) -> Mapping[str, float]:
        self.calls += 1
        return {"loss": float(self.calls)}


FAST = TrainingOptions(
    epochs=20, batch_tokens=40, learning_rate=0.1, device="cpu", weight_decay=0.0
)


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def test_it_learns_and_says_what_it_did(tmp_path: Path) -> None:
    task = Line()
    record = train(task, FAST, tmp_path)
    assert task.slope() == pytest.approx(3, abs=0.1)
    assert record.best["loss"] < 0.01 < record.first["loss"] == 9
    assert (record.stopped, record.trainable, record.best_step) == ("complete", 1, record.steps)
    assert record.tokens == 20 * sum(task.sizes())
    written = json.loads((tmp_path / "record.json").read_text("utf-8"))
    assert written["options"]["learning_rate"] == 0.1
    assert written["versions"]["torch"] == torch.__version__
    steps = [line for line in lines(tmp_path) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, record.steps + 1))
    assert max(line["lr"] for line in steps) <= 0.1
    assert steps[0]["lr"] < 0.1 and steps[-1]["lr"] < 0.001
    assert (tmp_path / "curve.svg").read_text("utf-8").count("<polyline") == 2


def test_a_complete_run_is_not_run_again(tmp_path: Path) -> None:
    first = train(Line(), FAST, tmp_path)
    stepped: list[object] = []
    task = Line()
    again = train(task, FAST, tmp_path, on_step=stepped.append)
    assert not stepped
    assert (again.steps, again.best, again.curve) == (first.steps, first.best, first.curve)
    assert task.slope() == pytest.approx(3, abs=0.1)


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = Line(noise=0.5)  # drawn from torch's generator
    train(whole, FAST, tmp_path / "whole")

    def interrupt(line: Mapping[str, float]) -> None:
        if line["step"] in (7, 19):
            raise KeyboardInterrupt

    options = replace(FAST, checkpoint_every=0.0)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(Line(noise=0.5), options, tmp_path / "parts", on_step=interrupt)
    parts = Line(noise=0.5)
    train(parts, options, tmp_path / "parts")
    assert parts.slope() == whole.slope()
    both = [[line["loss"] for line in lines(tmp_path / name) if "loss" in line]
            for name in ("whole", "parts")]  # fmt: skip
    assert both[0] == both[1]


def test_other_seeds_give_other_weights(tmp_path: Path) -> None:
    slopes: set[float] = set()
    for seed in (0, 0, 1):
        task = Line(noise=0.5)
        train(task, replace(FAST, seed=seed, epochs=1), tmp_path / f"{len(slopes)}{seed}")
        slopes.add(task.slope())
    assert len(slopes) == 2


def test_accumulated_micro_batches_are_one_large_batch(tmp_path: Path) -> None:
    slopes = []
    for batch_tokens, accumulate in ((10_000, 1), (64, 1_000)):
        task = Line()
        options = replace(FAST, epochs=5, batch_tokens=batch_tokens, accumulate=accumulate)
        assert train(task, options, tmp_path / str(accumulate)).steps == 5
        slopes.append(task.slope())
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-5)


def test_early_stopping_keeps_the_best_weights(tmp_path: Path) -> None:
    task = Worse()
    record = train(task, replace(FAST, evaluate_every=2, patience=3), tmp_path)
    assert (record.stopped, record.steps, record.best_step) == ("patience", 6, 0)
    assert task.slope() == 0


def test_a_budget_of_time_ends_a_run_with_a_rate_near_zero(tmp_path: Path) -> None:
    class Slow(Line):
        def loss(self, rows: Sequence[int]) -> tuple[torch.Tensor, float]:
            time.sleep(0.01)
            return super().loss(rows)

    options = replace(FAST, epochs=2_000, minutes=0.01)
    record = train(Slow(), options, tmp_path)
    assert record.stopped == "budget" and 1 < record.steps < 100
    assert record.curve[-1][0] == record.steps
    rates = [line["lr"] for line in lines(tmp_path) if "lr" in line]
    assert rates[-1] < max(rates) / 2
    more = train(Slow(), replace(options, minutes=0.02), tmp_path)
    assert more.steps > record.steps and more.seconds > 1


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    task = Line()
    task.poison = 30
    with pytest.raises(TrainingError, match=r"no longer finite at step .* in another folder$"):
        train(task, replace(FAST, checkpoint_every=0.0), tmp_path)
    path = latest_checkpoint(tmp_path, "checkpoint")
    assert path is not None
    tensors, _ = load_checkpoint(path)
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert math.isfinite(task.slope())


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_examples_are_refused(rows: int, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=f"at least two usable examples, there are {rows}"):
        train(Line(rows), FAST, tmp_path)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train(Line(), replace(FAST, epochs=1), tmp_path)
    with pytest.raises(TrainingError, match=r"another epochs, learning_rate: .* another folder$"):
        train(Line(), replace(FAST, epochs=2, learning_rate=0.2), tmp_path)
    with pytest.raises(TrainingError, match="other data"):
        train(Line(65), replace(FAST, epochs=1), tmp_path)
    moved = Line()
    torch.nn.init.ones_(next(moved.module.parameters()))
    with pytest.raises(TrainingError, match="other weights"):
        train(moved, replace(FAST, epochs=1), tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    train(Line(), replace(FAST, epochs=1), tmp_path)
    path = latest_checkpoint(tmp_path, "checkpoint")
    assert path is not None
    data = bytearray((path / "tensors.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "tensors.safetensors").write_bytes(data)
    with pytest.raises(TrainingError, match=r"is damaged .* delete it, or train in another folder"):
        train(Line(), replace(FAST, epochs=1), tmp_path)


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    task = tiny_task(tmp_path / "base", lora=LoraOptions(rank=4))
    run = tmp_path / "run"

    def fill(line: Mapping[str, float]) -> None:
        if line["step"] == 3:
            resource_limit.__enter__()

    resource_limit = files_up_to(20_000)
    try:
        with pytest.raises(
            TrainingError, match=r"cannot be written .* run the same command again$"
        ):
            train(task, OPTIONS, run, on_step=fill)
    finally:
        resource_limit.__exit__(None, None, None)
    path = latest_checkpoint(run, "checkpoint")
    assert path is not None and load_checkpoint(path)[1]["step"] == 2
    assert not list(run.glob(".*"))
    record = train(tiny_task(tmp_path / "base", lora=LoraOptions(rank=4)), OPTIONS, run)
    assert record.stopped == "complete"


def test_a_checkpoint_without_its_state_is_refused(tmp_path: Path) -> None:
    train(Line(), replace(FAST, epochs=1), tmp_path)
    path = latest_checkpoint(tmp_path, "checkpoint")
    assert path is not None
    state = json.loads((path / "state.json").read_text("utf-8"))
    for key in ("identity", "tokens"):
        less = {name: value for name, value in state.items() if name != key}
        (path / "state.json").write_text(json.dumps(less), "utf-8")
        with pytest.raises(TrainingError, match=f"no '{key}'.*: delete it, or train in another"):
            train(Line(), replace(FAST, epochs=1), tmp_path)
    (path / "state.json").write_text("[]", "utf-8")
    with pytest.raises(TrainingError, match="is damaged"):
        train(Line(), replace(FAST, epochs=1), tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("epochs", math.inf), ("epochs", math.nan), ("most_steps", 0),
        ("minutes", 0.0), ("batch_tokens", 0), ("accumulate", 0), ("learning_rate", -1.0),
        ("learning_rate", math.nan), ("warmup", 1.5), ("clip", -1.0), ("weight_decay", -0.1),
    ],
)  # fmt: skip
def test_options_that_no_run_can_have_are_refused(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{name} .* is out of range: .* above 0$"):
        replace(FAST, **{name: value})  # type: ignore[arg-type]


def test_devices_that_are_not_there_are_refused() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(SettingsError, match='no device "toaster"; use --device auto'):
        pick_device("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="use --device auto"):
            pick_device("cuda")


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL, twice, in a real process; then bit for bit the weights of a calm run."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    tiny_training.run(whole)
    steps = len([line for line in lines(whole / "run") if "loss" in line])
    for stop in (2, steps - 2):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.tiny_training", str(killed)], cwd=ROOT
        )
        while process.poll() is None and _last_step(killed / "run") < stop:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    tiny_training.run(killed)
    assert _weights(killed / "run") == _weights(whole / "run")
    logs = [[line["loss"] for line in lines(home / "run") if "loss" in line]
            for home in (whole, killed)]  # fmt: skip
    assert logs[0] == logs[1]


def _last_step(run: Path) -> int:
    path = latest_checkpoint(run, "checkpoint")
    return int(path.name.rpartition("-")[2]) if path else -1


def _weights(run: Path) -> dict[str, bytes]:
    path = latest_checkpoint(run, "checkpoint")
    assert path is not None
    return {name: tensor.numpy().tobytes() for name, tensor in load_checkpoint(path)[0].items()}
