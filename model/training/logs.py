"""`log.jsonl` of a training run: what each step and each evaluation gave, and the curves of it.

Appended to as the run goes, cut back to the checkpoint from which a killed run goes on. Knows
nothing of the loop; every line has a "step".
"""

import json
from collections.abc import Mapping
from pathlib import Path

from ingest.errors import TrainingError
from model.training.checkpoints import write_text


class TrainingLog:
    """One line a step or an evaluation."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        """Keep the path; of several processes one `writes`."""
        self.path, self.writes = path, writes

    def write(self, line: Mapping[str, float]) -> None:
        """Append a line.

        Raises:
            TrainingError: The disk is full or not writable.
        """
        if not self.writes:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise TrainingError(
                f"{self.path} cannot be written ({error.strerror}), checkpoints are kept: free"
                " space on that disk or make it writable, and run the same command again"
            ) from error

    def lines(self) -> list[dict[str, float]]:
        """Return all whole lines; a killed run may leave half a line at the end."""
        found: list[dict[str, float]] = []
        if self.path.exists():
            for text in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    found.append(json.loads(text))
                except ValueError:
                    continue
        return found

    def cut_after(self, step: int) -> None:
        """Drop the lines of steps that will be made again."""
        if self.writes:
            kept = [json.dumps(line) for line in self.lines() if line["step"] <= step]
            write_text(self.path, "".join(f"{line}\n" for line in kept))

    def curves(self) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        """Return (step, loss) of training and of dev."""
        lines = self.lines()
        return tuple(  # type: ignore[return-value]
            [(line["step"], line[key]) for line in lines if key in line]
            for key in ("loss", "dev_loss")
        )
