"""Records and curves, estimates, and what is written at one stroke."""

import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from ingest.errors import TrainingError
from model.training import records
from model.training.checkpoints import (
    latest_checkpoint,
    load_checkpoint,
    remove_checkpoints,
    restore_checkpoints,
    save_checkpoint,
    written_folder,
)
from model.training.estimates import estimate
from model.training.loop import train
from model.training.lora import LoraOptions
from model.training.records import curve_svg, thinned
from tests.tiny_training import OPTIONS, tiny_task


def test_checkpoints_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2), "b": torch.tensor(2.0, dtype=torch.bfloat16)}
    for step in (9, 10):
        save_checkpoint(tmp_path, "checkpoint", step, tensors, {"note": "灯"})
    path = latest_checkpoint(tmp_path, "checkpoint")
    assert path is not None
    loaded, state = load_checkpoint(path)
    assert (state["step"], state["note"]) == (10, "灯")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    (tmp_path / ".checkpoint-00000011.partial").mkdir()  # the leftover of a killed run
    remove_checkpoints(tmp_path, "checkpoint", but=path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_folder_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    with written_folder(target) as partial:
        (partial / "file").write_text("first")
    with pytest.raises(KeyError), written_folder(target) as partial:
        (partial / "file").write_text("second")
        raise KeyError
    assert (target / "file").read_text() == "first"
    with written_folder(target) as partial:
        (partial / "file").write_text("third")
    assert (target / "file").read_text() == "third"
    assert [entry.name for entry in tmp_path.iterdir()] == ["adapter"]


def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, "checkpoint", 7, {"a": torch.ones(1)}, {})
    aside = tmp_path / f".{path.name}.old"
    path.rename(aside)  # as a killed process leaves it
    restore_checkpoints(tmp_path, "checkpoint")
    assert latest_checkpoint(tmp_path, "checkpoint") == path
    assert torch.equal(load_checkpoint(path)[0]["a"], torch.ones(1))

    path.rename(aside)
    with pytest.raises(KeyError), written_folder(path):
        raise KeyError
    assert path.is_dir()

    aside.mkdir()  # killed just after the renames: it was replaced
    restore_checkpoints(tmp_path, "checkpoint")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_what_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"cannot be written .* run the same command again$"):
        save_checkpoint(tmp_path / "file", "checkpoint", 1, {"a": torch.ones(1)}, {})


def test_long_curves_are_thinned_and_drawn() -> None:
    curve = [(float(step), 1000.0 / step) for step in range(1, 1001)]
    thin = thinned(curve)
    assert len(thin) == 200 and thin[0][0] == 3.0
    assert thinned([]) == []
    drawing = ElementTree.fromstring(curve_svg(thin, [(0.0, 900.0), (1000.0, 1.0)]))
    lines = [node for node in drawing if node.tag.endswith("polyline")]
    assert [len(node.attrib["points"].split()) for node in lines] == [200, 2]
    ElementTree.fromstring(curve_svg([], []))


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    records.source_commit.cache_clear()
    assert records.source_commit() is None
    records.source_commit.cache_clear()


def test_the_commit_of_a_foreign_git_is_not_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "theirs.txt").write_text("")
    git("init")
    git("add", "theirs.txt")
    git("commit", "-m", "theirs")
    (tmp_path / "records.py").write_text("")  # installed into a folder of their project
    monkeypatch.setattr(records, "__file__", str(tmp_path / "records.py"))
    records.source_commit.cache_clear()
    assert records.source_commit() is None
    git("add", "records.py")
    records.source_commit.cache_clear()
    assert records.source_commit() is not None
    records.source_commit.cache_clear()


def test_an_estimate_changes_nothing_and_is_what_the_run_does(tmp_path: Path) -> None:
    task = tiny_task(tmp_path / "base", lora=LoraOptions(rank=4))
    before = {name: p.detach().clone() for name, p in task.module.named_parameters()}
    guess = estimate(task, OPTIONS)
    for name, parameter in task.module.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.grad is None
    record = train(task, OPTIONS, tmp_path / "run")
    assert (guess.steps, guess.tokens) == (record.steps, record.tokens)
    assert guess.trainable == record.trainable
    assert guess.padded_tokens >= guess.tokens and guess.seconds > 0 < guess.bytes
    short = estimate(task, replace(OPTIONS, epochs=1000, minutes=0.001))
    assert short.seconds <= 0.06 and short.steps < 1000
