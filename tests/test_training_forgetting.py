"""Each measure against forgetting does what it says, seen on a tiny model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ingest.errors import SettingsError, TrainingError
from model.training.forgetting import (
    ForgettingOptions,
    distance,
    fisher_information,
    interpolate,
    starting_weights,
)
from model.training.loop import train
from model.training.lora import LoraOptions
from model.training.tasks import CausalTask, answer_logits
from tests.tiny_training import GENERAL, OPTIONS, examples, tiny_task

FAST = replace(
    OPTIONS, checkpoint_every=120.0, evaluate_every=0, epochs=6, accumulate=1, learning_rate=5e-3
)
LORA = LoraOptions(rank=8)


def trained(
    folder: Path,
    name: str,
    forgetting: ForgettingOptions | None = None,
    lora: LoraOptions | None = LORA,
) -> CausalTask:
    """Return a task after training, held by some measure."""
    task = tiny_task(folder / "base", lora=lora, forgetting=forgetting, general_dev=GENERAL[:1])
    train(task, FAST, folder / name)
    return task


def drift(task: CausalTask) -> float:
    """Return how far the predictions on the training rows are from the base's: mean KL, nats."""
    free = tiny_task(Path(task.module.config._name_or_path))
    batch = task._padded(task._examples, at_random=False)
    parts = (batch.ids, batch.mask, batch.chosen)
    with torch.no_grad():
        here, there = answer_logits(task.module, *parts), answer_logits(free.module, *parts)
    both = here.log_softmax(-1), there.log_softmax(-1)
    return float(torch.nn.functional.kl_div(*both, log_target=True, reduction="batchmean"))


def moved(task: CausalTask) -> float:
    return float(distance(task.module, task.start).detach())


def test_replay_mixes_general_text_in_as_heavy_as_examples(tmp_path: Path) -> None:
    options = ForgettingOptions(replay=0.25, replay_tokens=12, replay_positions=4)
    task = tiny_task(tmp_path / "base", forgetting=options)
    replayed = task._rows[24:]
    assert len(task.sizes()) == 32 and len(replayed) == 8
    assert all(row.is_replay and len(row.ids) <= 12 for row in replayed)
    weights = [task.loss([row])[1] for row in range(32)]
    assert sum(weights[24:]) == pytest.approx(sum(weights[:24]) / 3, rel=1e-4)
    assert task.describe()["data"]["replay"] == 8
    draws = [{float(task.loss([24])[0].detach()) for _ in range(8)}]
    assert len(draws[0]) > 1  # other positions each time


def test_replay_keeps_general_text_likely(tmp_path: Path) -> None:
    plain = trained(tmp_path, "plain")
    held = trained(tmp_path, "held", ForgettingOptions(replay=0.5))
    assert held.evaluate()["general_loss"] < plain.evaluate()["general_loss"]


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_kl_keeps_predictions_near_the_base(lora: LoraOptions | None, tmp_path: Path) -> None:
    plain = trained(tmp_path, "plain", lora=lora)
    held = trained(tmp_path, "held", ForgettingOptions(kl=20.0), lora=lora)
    assert drift(held) < 0.5 * drift(plain)


def test_kl_is_nothing_before_training_and_counts_where_it_should(tmp_path: Path) -> None:
    plain = tiny_task(tmp_path / "base", lora=LORA)
    alike = tiny_task(tmp_path / "base", lora=LORA, forgetting=ForgettingOptions(kl=5.0))
    torch.testing.assert_close(alike.loss(range(4))[0], plain.loss(range(4))[0])

    where = {}
    for at in ("answers", "replay", "both"):
        options = ForgettingOptions(kl=5.0, kl_at=at, replay=0.25, replay_positions=0)
        task = tiny_task(tmp_path / "base", lora=LORA, forgetting=options)
        with torch.no_grad():
            for name, parameter in task.module.named_parameters():
                if "lora_B" in name:
                    parameter += 0.1
        where[at] = [float(task.loss([row])[0].detach()) for row in (0, 25)]
    assert where["answers"][0] == where["both"][0] > where["replay"][0]
    assert where["replay"][1] == where["both"][1] > where["answers"][1]


def test_l2_sp_keeps_weights_near_their_start(tmp_path: Path) -> None:
    plain = trained(tmp_path, "plain", lora=None)
    held = trained(tmp_path, "held", ForgettingOptions(l2_sp=10.0), lora=None)
    assert moved(held) < 0.3 * moved(plain)


def test_fisher_information_is_the_squared_gradient(tmp_path: Path) -> None:
    task = tiny_task(tmp_path / "base")
    row = task._pieces(GENERAL[:1])[0]
    fisher = fisher_information(task.module, [0], lambda _: task._likelihood([row]))
    total, tokens = task._likelihood([row])
    total.backward()  # type: ignore[no-untyped-call]
    for name, parameter in task.module.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(fisher[name], parameter.grad**2 / tokens)


def test_ewc_spares_what_general_text_needs(tmp_path: Path) -> None:
    plain = trained(tmp_path, "plain", lora=None)
    held = trained(tmp_path, "held", ForgettingOptions(ewc=100.0, ewc_rows=4), lora=None)
    fisher = held._importance
    assert fisher is not None
    costly = [float(distance(t.module, t.start, fisher).detach()) for t in (held, plain)]
    assert costly[0] < 0.5 * costly[1]
    # Weights that general text does not need may move more than L2-SP of like strength would let.
    assert costly[0] / costly[1] < moved(held) / moved(plain)


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_frozen_layers_stay_as_they_are(lora: LoraOptions | None, tmp_path: Path) -> None:
    options = ForgettingOptions(frozen_layers=1, kl=0.1)
    task = tiny_task(tmp_path / "base", lora=lora, forgetting=options)
    before = {name: p.detach().clone() for name, p in task.module.named_parameters()}
    train(task, replace(FAST, epochs=1), tmp_path / "run")
    changed = {n for n, p in task.module.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all("layers.1." in n or "norm" in n or "lm_head" in n for n in changed)
    with pytest.raises(SettingsError, match="the model has 2: lower frozen_layers"):
        tiny_task(tmp_path / "base", forgetting=ForgettingOptions(frozen_layers=3))


def test_interpolation_goes_back_part_of_the_way(tmp_path: Path) -> None:
    full = trained(tmp_path, "full", ForgettingOptions(interpolation=0.25), lora=None)
    before = starting_weights(full.module)
    full.finish()
    for name, parameter in full.module.named_parameters():
        expected = full.start[name] + 0.25 * (before[name] - full.start[name])
        torch.testing.assert_close(parameter.detach(), expected)
    interpolate(full.module, full.start, 0.0)
    assert moved(full) == 0


def test_interpolation_scales_what_an_adapter_adds(tmp_path: Path) -> None:
    task = trained(tmp_path, "run", ForgettingOptions(interpolation=0.25))
    name = "base_model.model.model.layers.0.mlp.up_proj"
    layer = task.module.get_submodule(name)
    whole = layer.get_delta_weight("default").detach().clone()
    task.finish()
    torch.testing.assert_close(layer.get_delta_weight("default").detach(), 0.25 * whole)


def test_rank_and_scale_of_an_adapter(tmp_path: Path) -> None:
    counts = {}
    for rank in (2, 8):
        task = tiny_task(tmp_path / "base", lora=LoraOptions(rank=rank, alpha=4.0))
        counts[rank] = sum(p.numel() for p in task.module.parameters() if p.requires_grad)
        layer = task.module.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
        assert layer.scaling["default"] == 4.0 / rank
    assert counts[8] == 4 * counts[2]


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is no share"):
        ForgettingOptions(replay=1.0)
    base = tiny_task(tmp_path / "base")
    for options in (ForgettingOptions(replay=0.1), ForgettingOptions(ewc=1.0)):
        with pytest.raises(TrainingError, match="need general text"):
            CausalTask(base.module, base.tokenizer, examples(4), forgetting=options)
