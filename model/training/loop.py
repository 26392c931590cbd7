"""One training loop for every task: seeded, resumable, bounded by steps or by the clock.

A `Task` owns a module and turns rows into a loss; the loop owns everything else: the order,
AdamW, the learning rate, clipping, dev evaluation with the best weights kept, checkpoints, the log
and the record. It knows nothing of language models.

    record = train(task, TrainingOptions(minutes=90), Path("runs/answer"))

Files in the folder: `checkpoint-STEP/` and `best-STEP/`, `log.jsonl` (a line a step), `curve.svg`
and at the end `record.json`. Calling `train` again with the same task, options and folder goes on
at the last checkpoint, and returns the record at once if the run was complete.

What a run depends on: the order is a function of seed and epoch; before each micro-batch torch's
generator is seeded from (seed, step, micro-batch), so a task that draws at random must draw from
it, and no state of it has to be stored. A run bounded by epochs or steps is therefore
bit-reproducible on a CPU, interrupted or not. One bounded by `minutes` is not: its learning rate
follows the share of the time that is used, or of the steps, whichever is further.

Several processes (`accelerate launch`, `torchrun`) share the micro-batches of each step, so they
compute what one process would; gradients are summed over gloo or nccl and divided by the step's
weight.
"""

import hashlib
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from tqdm import tqdm

from ingest.errors import SettingsError, TrainingError
from model.training.batches import Batch, planned_steps
from model.training.checkpoints import (
    latest_checkpoint,
    load_checkpoint,
    remove_checkpoints,
    restore_checkpoints,
    save_checkpoint,
    write_text,
)
from model.training.logs import TrainingLog
from model.training.processes import Processes
from model.training.records import (
    TrainingRecord,
    curve_svg,
    hardware,
    source_commit,
    thinned,
    versions,
)

OnStep = Callable[[Mapping[str, float]], None]
_log = logging.getLogger(__name__)


class Task(Protocol):
    """What is learnt: a module, its examples as rows 0..n-1, and a loss.

    A task may also have `describe()`, whose mapping (base, data hashes, counts) goes into the
    record and guards checkpoints: a run resumes only if it is unchanged.
    """

    @property
    def module(self) -> torch.nn.Module:
        """Its parameters with requires_grad are what is trained and checkpointed."""
        ...

    def sizes(self) -> Sequence[int]:
        """Return the tokens of each training example."""
        ...

    def loss(self, rows: Sequence[int]) -> tuple[torch.Tensor, float]:
        """Return the summed loss of some rows and the weight it was summed over."""
        ...

    def evaluate(self) -> Mapping[str, float]:
        """Return dev figures, empty without a dev set; early stopping watches "loss"."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How long, how fast and how carefully to train."""

    seed: int = 0
    epochs: float = 1.0
    most_steps: int | None = None  # whichever of epochs, steps and minutes ends first
    minutes: float | None = None  # wall-clock budget of all pieces of the run together
    batch_tokens: int = 2048  # padded tokens of a micro-batch
    accumulate: int = 1  # micro-batches of a step
    learning_rate: float = 5e-4  # at its highest
    warmup: float = 0.05  # share of the run
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after the warmup
    clip: float = 1.0  # longest gradient; 0 does not clip
    weight_decay: float = 0.0  # of matrices; vectors are left alone
    evaluate_every: int = 0  # steps; 0 evaluates before and after training only
    patience: int = 0  # evaluations without improvement before it stops; 0 never stops
    checkpoint_every: float = 120.0  # seconds
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: fp32 on a CPU, bf16 on a GPU

    def __post_init__(self) -> None:
        """Refuse what no run can have."""
        limits = {  # name: whether its value is possible; no comparison with NaN is true
            "epochs": 0 < self.epochs < math.inf,
            "most_steps": self.most_steps is None or self.most_steps >= 1,
            "minutes": self.minutes is None or self.minutes > 0,
            "batch_tokens": self.batch_tokens >= 1,
            "accumulate": self.accumulate >= 1,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "warmup": 0 <= self.warmup <= 1,
            "clip": self.clip >= 0,
            "weight_decay": self.weight_decay >= 0,
        }
        for name, possible in limits.items():
            if not possible:
                raise SettingsError(
                    f"{name} {getattr(self, name)} is out of range: shares go from 0 to 1,"
                    " clip and weight_decay from 0, all else must be above 0"
                )


@dataclass(slots=True)
class _State:
    """What goes on from step to step, and into each checkpoint."""

    step: int = 0
    seconds: float = 0.0  # of the pieces before this one
    training_seconds: float = 0.0  # of steps alone
    tokens: int = 0
    best_step: int = 0
    stale: int = 0  # evaluations since the best one
    evaluated: int = -1  # the step last evaluated
    first: dict[str, float] | None = None
    best: dict[str, float] | None = None
    best_loss: float | None = None


def train(
    task: Task, options: TrainingOptions, folder: Path, *, on_step: OnStep | None = None
) -> TrainingRecord:
    """Train, or go on training, and leave the best weights in the task's module.

    Args:
        task: What is learnt.
        options: How.
        folder: Of this run alone; checkpoints, log, curve and record go there.
        on_step: Is told each line of the log.

    Raises:
        TrainingError: Too few examples, a loss that is not finite, a disk that is full, or a
            folder that holds a run of another task or other options.
        SettingsError: There is no such device.
    """
    with Processes.joined(pick_device(options.device).type) as processes:
        return _Run(task, options, folder, processes, on_step).carry_out()


class _Run:
    """One call of `train`."""

    def __init__(
        self,
        task: Task,
        options: TrainingOptions,
        folder: Path,
        processes: Processes,
        on_step: OnStep | None,
    ) -> None:
        self.task, self.options, self.folder = task, options, folder
        self.processes, self.on_step = processes, on_step
        self.device = pick_device(options.device, processes.local_rank)
        self.sizes = list(task.sizes())
        require_examples(self.sizes)
        if options.accumulate < processes.size:
            raise SettingsError(
                f"{processes.size} processes share the micro-batches of a step, and there are"
                f" {options.accumulate}: raise accumulate to a multiple of {processes.size}"
            )
        self.steps = plan(self.sizes, options)
        task.module.to(self.device)
        self.parameters = trainable(task.module)
        self.optimizer = _optimizer(self.parameters, options)
        self.identity = _identity(task, options, self.sizes, self.parameters)
        self.state = _State()
        self.started = time.monotonic()
        self.saved_at = self.started
        self.log = TrainingLog(folder / "log.jsonl", writes=processes.rank == 0)

    def carry_out(self) -> TrainingRecord:
        """Resume, step until an end is reached, keep the best."""
        self._resume()
        self.processes.wait()  # none may find a checkpoint that the first one writes from here on
        self.processes.share(self.parameters.values())
        if self.state.first is None:
            self._evaluate()
        with _bar(len(self.steps), self.state.step, self.processes.rank) as bar:
            while not (reason := self._ended()):
                line = self._step(self.steps[self.state.step])
                bar.set_postfix_str(f"loss {line['loss']:.3f}")
                self._advance(bar, len(self.steps))
                self.log.write(line)
                if self.on_step:
                    self.on_step(line)
                every = self.options.evaluate_every
                if every and self.state.step % every == 0:
                    self._evaluate()
                elif time.monotonic() - self.saved_at >= self.options.checkpoint_every:
                    self._save()
        if self.state.evaluated != self.state.step:
            self._evaluate()
        return self._finish(reason)

    # --- one step

    def _step(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Learn from one step's micro-batches; return the line of the log."""
        begun = time.monotonic()
        rate = self.options.learning_rate * _rate(self._share(0.5), self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.task.module.train()
        total, weight = 0.0, 0.0
        for number in self.processes.mine(len(batches)):
            torch.manual_seed(_step_seed(self.options.seed, self.state.step, number))
            with autocast(self.options, self.device):
                loss, counted = self.task.loss(batches[number])
            loss.backward()  # type: ignore[no-untyped-call]
            total, weight = total + float(loss.detach()), weight + counted
        total, weight = self.processes.sum_gradients(self.parameters.values(), total, weight)
        norm = self._clipped(total, weight)
        self.optimizer.step()
        seconds = time.monotonic() - begun
        tokens = sum(self.sizes[row] for batch in batches for row in batch)
        self.state.step += 1
        self.state.tokens += tokens
        self.state.training_seconds += seconds
        return {
            "step": self.state.step,
            "loss": total / weight,
            "lr": rate,
            "norm": norm,
            "tokens": tokens,
            "seconds": round(seconds, 4),
        }

    def _clipped(self, total: float, weight: float) -> float:
        """Divide the summed gradients by the weight, clip them, and return their length.

        Raises:
            TrainingError: The loss or the gradient is not finite, or nothing was counted.
        """
        if weight <= 0:
            raise TrainingError(
                f"step {self.state.step + 1} has no answer to learn from: give every row a"
                " completion and a weight above zero"
            )
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        torch._foreach_div_(gradients, weight)
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not (math.isfinite(total) and math.isfinite(norm)):
            kept = latest_checkpoint(self.folder, "checkpoint")
            raise TrainingError(
                f"the loss is no longer finite at step {self.state.step + 1}"
                f" (the last good checkpoint is {kept}): lower the learning rate and train in"
                " another folder"
            )
        if self.options.clip and norm > self.options.clip:
            torch._foreach_mul_(gradients, self.options.clip / norm)
        return norm

    # --- how far

    def _share(self, ahead: float = 0.0) -> float:
        """Return the share of the run that is done: of the steps or the time, the further one."""
        share = (self.state.step + ahead) / len(self.steps)
        if self.options.minutes is not None:
            share = max(share, self._seconds() / (60 * self.options.minutes))
        return self.processes.agree(min(share, 1.0))

    def _seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self.started

    def _ended(self) -> str:
        """Return why the run is over, or an empty text."""
        if self.options.patience and self.state.stale >= self.options.patience:
            return "patience"
        if self.state.step >= len(self.steps):
            return "complete"
        return "budget" if self._share() >= 1 else ""

    def _advance(self, bar: "tqdm[Any]", total: int) -> None:
        """Move the bar; with a budget of time its end is where the time will end."""
        share = self._share()
        if self.options.minutes is not None and share > 0:
            bar.total = min(total, max(self.state.step, round(self.state.step / share)))
        bar.update(self.state.step - bar.n)

    # --- dev and checkpoints

    def _evaluate(self) -> None:
        """Measure on dev; keep the weights if they are the best, and checkpoint."""
        figures: dict[str, float] = {}
        if self.processes.rank == 0:
            self.task.module.eval()
            with torch.no_grad(), autocast(self.options, self.device):
                figures = {key: float(value) for key, value in self.task.evaluate().items()}
        loss = figures.get("loss", math.nan)  # without a dev set, the newest weights are the best
        known = "loss" in figures and not math.isfinite(loss)
        loss = self.processes.agree(math.inf if known else loss)
        state = self.state
        state.evaluated = state.step
        if state.first is None:
            state.first = figures
        if figures:
            self.log.write({"step": state.step, **{f"dev_{k}": v for k, v in figures.items()}})
        if state.best_loss is None or math.isnan(loss) or loss < state.best_loss:
            state.best, state.best_loss, state.best_step, state.stale = figures, loss, state.step, 0
        else:
            state.stale += 1
        self._save()

    def _save(self) -> None:
        """Write a checkpoint, with the best weights if this step has them; then drop older ones."""
        self.saved_at = time.monotonic()
        state = self.state
        if self.processes.rank == 0:
            weights = {name: parameter.data for name, parameter in self.parameters.items()}
            best = self.folder / f"best-{state.best_step:08}"
            if state.best_step == state.step and state.evaluated == state.step:
                save_checkpoint(self.folder, "best", state.step, weights, {})
            kept = {**asdict(state), "seconds": self._seconds(), "identity": self.identity}
            path = save_checkpoint(
                self.folder, "checkpoint", state.step,
                {**weights, **_optimizer_tensors(self.optimizer, self.parameters)}, kept,
            )  # fmt: skip
            remove_checkpoints(self.folder, "checkpoint", but=path)
            remove_checkpoints(self.folder, "best", but=best)

    def _resume(self) -> None:
        """Go on at the folder's last checkpoint, if it is one of this very run."""
        restore_checkpoints(self.folder, "checkpoint")
        path = latest_checkpoint(self.folder, "checkpoint")
        if path is None:
            self.log.cut_after(-1)
            return
        tensors, kept = load_checkpoint(path)
        try:
            _refuse_another(kept.pop("identity"), self.identity, self.folder)
            self.state = _State(**{key: kept[key] for key in _State.__slots__})
        except KeyError as error:
            raise TrainingError(
                f"the checkpoint {path} is of another version of Tether (it has no {error}):"
                " delete it, or train in another folder"
            ) from error
        _load_weights(self.parameters, tensors)
        _load_optimizer(self.optimizer, self.parameters, tensors)
        self.log.cut_after(self.state.step)
        _log.info("going on at step %d", self.state.step)

    def _finish(self, reason: str) -> TrainingRecord:
        """Put the best weights into the module; write curve and record."""
        seconds = self._seconds()
        self.processes.wait()  # the first one may still be writing
        best = self.folder / f"best-{self.state.best_step:08}"
        _load_weights(self.parameters, load_checkpoint(best)[0])
        self.task.module.eval()
        describe = getattr(self.task, "describe", dict)
        curve, dev_curve = self.log.curves()
        record = TrainingRecord(
            task=describe(),
            options=asdict(self.options),
            seed=self.options.seed,
            trainable=sum(parameter.numel() for parameter in self.parameters.values()),
            steps=self.state.step,
            stopped=reason,
            best_step=self.state.best_step,
            first=self.state.first or {},
            best=self.state.best or {},
            tokens=self.state.tokens,
            seconds=round(seconds, 1),
            tokens_per_second=round(self.state.tokens / max(1e-9, self.state.training_seconds), 1),
            curve=thinned(curve),
            dev_curve=dev_curve,
            hardware={**hardware(str(self.device)), "processes": self.processes.size},
            versions=versions(),
            commit=source_commit(),
        )
        if self.processes.rank == 0:
            write_text(self.folder / "curve.svg", curve_svg(thinned(curve), dev_curve))
            record.save(self.folder)
        return record


def plan(sizes: Sequence[int], options: TrainingOptions) -> list[list[Batch]]:
    """Return the micro-batches of every step that the options allow."""
    steps = planned_steps(
        sizes,
        batch_tokens=options.batch_tokens,
        accumulate=options.accumulate,
        epochs=options.epochs,
        most_steps=options.most_steps,
        seed=options.seed,
    )
    return list(steps)


def trainable(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that are trained, by name.

    Raises:
        TrainingError: Nothing in the module is to be trained.
    """
    found = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not found:
        raise TrainingError("nothing is left to train: freeze fewer layers")
    return found


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device that "auto", "cpu" or "cuda" means for a process of this machine.

    Raises:
        SettingsError: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError('device "cuda" is not available here; use --device auto')
    try:
        return torch.device(name, local_rank) if name == "cuda" else torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f'there is no device "{name}"; use --device auto') from error


def autocast(options: TrainingOptions, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a loss is computed: bf16 if asked for, or by itself on a GPU."""
    if options.precision == "bf16" or (options.precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def require_examples(sizes: Sequence[int]) -> None:
    """Raise unless there is something to learn from.

    Raises:
        TrainingError: There are fewer than two examples.
    """
    if len(sizes) < 2:
        raise TrainingError(
            f"training needs at least two usable examples, there are {len(sizes)}:"
            " give more, or raise the limit on their length"
        )


def _optimizer(
    parameters: Mapping[str, torch.nn.Parameter], options: TrainingOptions
) -> torch.optim.AdamW:
    matrices = [p for p in parameters.values() if p.dim() >= 2]
    vectors = [p for p in parameters.values() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return adamw([group for group in groups if group["params"]])


def adamw(groups: Sequence[Mapping[str, Any]]) -> torch.optim.AdamW:
    """Return AdamW over groups of parameters, as torch takes them, each with its options.

    On a CPU it makes one pass over the weights instead of ten: 0.2 s a step in place of 1.4 s for
    268 million.
    """
    own = [dict(group) for group in groups]
    fused = all(p.device.type == "cpu" for group in own for p in group["params"]) or None
    return torch.optim.AdamW(own, fused=fused)


def _optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Return AdamW's moments and counts under "optimizer:KEY:PARAMETER"."""
    return {
        f"optimizer:{key}:{name}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _load_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, torch.nn.Parameter],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    for full_name, tensor in tensors.items():
        if full_name.startswith("optimizer:"):
            _, key, name = full_name.split(":", 2)
            parameter = parameters[name]
            value = tensor if tensor.dim() == 0 else tensor.to(parameter.device)  # counts: on CPU
            optimizer.state[parameter][key] = value


def _load_weights(
    parameters: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def _rate(share: float, options: TrainingOptions) -> float:
    """Return the factor of the learning rate at a share of the run, 0..1."""
    if share < options.warmup:
        return share / options.warmup
    if options.schedule == "constant":
        return 1.0
    rest = (share - options.warmup) / max(1e-9, 1 - options.warmup)
    return 1 - rest if options.schedule == "linear" else (1 + math.cos(math.pi * rest)) / 2


def _step_seed(seed: int, step: int, number: int) -> int:
    """Return a seed for torch's generator: another for each micro-batch of each step."""
    digest = hashlib.sha256(f"{seed}/{step}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _identity(
    task: Task,
    options: TrainingOptions,
    sizes: Sequence[int],
    parameters: Mapping[str, torch.nn.Parameter],
) -> dict[str, Any]:
    """Return what a checkpoint must share with a run to be resumed by it.

    `minutes`, `checkpoint_every` and `device` may change: more time may be given to a run.
    """
    free = {"minutes", "checkpoint_every", "device"}
    start = hashlib.sha256()
    for name, parameter in parameters.items():
        start.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        start.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    describe = getattr(task, "describe", dict)
    described = json.dumps(describe(), sort_keys=True, default=str)
    return {
        "options": {key: value for key, value in asdict(options).items() if key not in free},
        "data": hashlib.sha256(json.dumps(list(sizes)).encode()).hexdigest(),
        "start": start.hexdigest(),
        "task": hashlib.sha256(described.encode()).hexdigest(),
    }


def _refuse_another(theirs: Mapping[str, Any], ours: Mapping[str, Any], folder: Path) -> None:
    """Raise if a checkpoint belongs to another run, saying in what they differ."""
    options = [key for key, value in ours["options"].items() if theirs["options"].get(key) != value]
    words = {"data": "other data", "start": "other weights", "task": "another base, data or task"}
    parts = [f"another {', '.join(options)}"] if options else []
    parts += [text for key, text in words.items() if theirs[key] != ours[key]]
    if parts:
        raise TrainingError(
            f"{folder} holds a run with {', '.join(parts)}: go on with what it was started with,"
            " or train in another folder"
        )


def _bar(total: int, done: int, rank: int) -> "tqdm[Any]":
    """Return a progress bar with the time left, quiet if stderr is not a terminal."""
    quiet = rank != 0 or not sys.stderr.isatty()
    return tqdm(total=total, initial=done, desc="training", unit="step", disable=quiet)
