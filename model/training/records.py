"""The record of a training run, and its curve.

`record.json` says what was trained, on what data (by hash), with what options, where, how long
and how well, so that a figure can be traced and a run repeated. Knows nothing of the loop.
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from model.training.checkpoints import write_text

RECORD = "record.json"
_LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "safetensors", "trl")
_CURVE_POINTS = 200  # a long run's curve is thinned to as many


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What a run did. Written as `record.json` beside the weights that it made."""

    task: Mapping[str, Any]  # what the task says of itself: base, data hashes, counts
    options: Mapping[str, Any]
    seed: int
    trainable: int  # parameters
    steps: int
    stopped: str  # "complete", "budget" (of time) or "patience" (dev stopped improving)
    best_step: int  # the step whose weights were kept; 0 is before training
    first: Mapping[str, float]  # dev figures before training
    best: Mapping[str, float]  # dev figures of the weights that were kept
    tokens: int  # of the examples seen, without padding
    seconds: float  # of all pieces of an interrupted run together
    tokens_per_second: float  # of training steps alone, evaluation left out
    curve: Sequence[Sequence[float]]  # (step, training loss)
    dev_curve: Sequence[Sequence[float]]  # (step, dev loss)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None  # of this source tree, with "+" if it was changed

    def save(self, folder: Path) -> None:
        """Write `record.json` into a folder.

        Raises:
            TrainingError: The disk is full or not writable.
        """
        write_text(folder / RECORD, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


def thinned(curve: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """Return at most 200 points: means over equal runs of them."""
    run = -(-len(curve) // _CURVE_POINTS) or 1
    parts = [curve[at : at + run] for at in range(0, len(curve), run)]
    return [
        tuple(round(sum(values) / len(part), 5) for values in zip(*part, strict=True))
        for part in parts
    ]


def hardware(device: str) -> dict[str, Any]:
    """Return what a figure of speed depends on."""
    import torch

    found: dict[str, Any] = {
        "device": device,
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    """Return the processor's name; Linux tells it in a file, others to `platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that shape the weights."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def source_commit() -> str | None:
    """Return the commit of this source tree, with "+" if files differ; None without git."""
    file = Path(__file__).resolve()
    folder = file.parent
    try:
        _git(folder, "ls-files", "--error-unmatch", file.name)  # else it is somebody else's git
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("+" if _git(folder, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # never in the way of another git
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=10,
    )  # fmt: skip
    return done.stdout.strip()


def curve_svg(curve: Sequence[Sequence[float]], dev_curve: Sequence[Sequence[float]]) -> str:
    """Return a small SVG of the training loss (grey) and the dev loss (blue) over the steps."""
    points = [*curve, *dev_curve]
    width, height, edge = 640, 320, 44
    last = max((point[0] for point in points), default=1) or 1
    top = max((point[1] for point in points), default=1) or 1

    def line(part: Sequence[Sequence[float]], colour: str) -> str:
        path = " ".join(
            f"{edge + step / last * (width - 2 * edge):.1f},"
            f"{height - edge - loss / top * (height - 2 * edge):.1f}"
            for step, loss in part
        )
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    def label(x: int, y: int, text: str, colour: str = "#444") -> str:
        return f'<text x="{x}" y="{y}" font-size="12" fill="{colour}">{text}</text>'

    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<path d="M{edge} {edge}V{height - edge}H{width - edge}" fill="none" stroke="#888"/>',
        label(4, edge + 4, f"{top:.2f}"), label(24, height - edge + 4, "0"),
        label(width - edge - 30, height - 24, f"step {last:.0f}"),
        label(edge + 8, 24, "training loss", "#999"), label(edge + 110, 24, "dev loss", "#1463b8"),
        line(curve, "#999"), line(dev_curve, "#1463b8"),
        "</svg>\n",
    ])  # fmt: skip
