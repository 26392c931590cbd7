"""Two processes under `accelerate launch` learn what one learns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.training.checkpoints import latest_checkpoint, load_checkpoint
from model.training.processes import Processes
from tests import tiny_training
from tests.tiny_models import build_transformers_model

ROOT = Path(__file__).resolve().parent.parent


def launch(home: Path, launcher: list[str]) -> None:
    """Train in processes that a launcher starts."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, "-m", "tests.tiny_training", str(home)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]


def weights(home: Path) -> dict[str, torch.Tensor]:
    """Return the last checkpoint's weights."""
    path = latest_checkpoint(home / "run", "checkpoint")
    assert path is not None
    return load_checkpoint(path)[0]


@pytest.mark.parametrize(
    "launcher",
    [
        ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
         "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
         "--main_process_port", "0"],
        pytest.param(
            ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["accelerate", "torchrun"],
)  # fmt: skip
def test_two_processes_learn_what_one_learns(launcher: list[str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        build_transformers_model(tmp_path / name / "base")
    tiny_training.run(tmp_path / "one")
    launch(tmp_path / "two", launcher)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)
    logs = [(tmp_path / name / "run" / "log.jsonl").read_text("utf-8") for name in ("one", "two")]
    assert logs[0].count('"step"') == logs[1].count('"step"')  # only the first process writes


def test_alone_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with Processes.joined("cpu") as alone:
        assert (alone.rank, alone.size, list(alone.mine(3))) == (0, 1, [0, 1, 2])
        assert not torch.distributed.is_initialized()
        assert alone.agree(2.5) == 2.5
    shares = [list(Processes(rank, 3).mine(7)) for rank in range(3)]
    assert sorted(row for share in shares for row in share) == list(range(7))
