"""Preferences: pairs and rewards change a tiny model the way they should."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ingest.errors import TrainingError
from model.feedback import PreferencePair
from model.training.lora import ADAPTER_WEIGHTS
from model.training.preferences import (
    Algorithm,
    GroundedReward,
    PreferenceOptions,
    RewardCase,
    RewardWeights,
    _inert,
    likeness,
    train_dpo,
    train_reward,
    train_rl,
)
from model.training.tasks import load_base
from model.verifier import Judgement
from tests.tiny_models import build_transformers_model

PLACES = ["harbour", "lantern", "pier", "night", "keeper", "nets"]
PAIRS = [
    PreferencePair(f"Question: {place}? Answer:", f" the {place} [1]", " user system")
    for place in PLACES
]
CASE = RewardCase("p", ("The old keeper mends the nets.", "Tea grows in Orra."), gold=("keeper",))


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Any, Any]:
    return load_base(build_transformers_model(tmp_path / "base"))


class SubstringJudge:
    """Supports a claim that stands in its evidence."""

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        found = [claim.rstrip(".").lower() in text.lower() for claim, text in pairs]
        return [Judgement(float(one), supported=one) for one in found]


def test_an_answer_that_is_grounded_right_and_cited_gets_everything() -> None:
    reward = GroundedReward(SubstringJudge())
    assert reward(CASE, "keeper [1]") == 1.0
    assert reward.parts(CASE, "keeper [2]") == {"grounded": 1.0, "cited": 0.0, "right": 1.0}
    assert reward.parts(CASE, "keeper [7]")["cited"] == 0.0
    assert reward.parts(CASE, "keeper")["cited"] == 0.0
    assert reward.parts(CASE, "Tea [2]") == {"grounded": 1.0, "cited": 1.0, "right": 0.0}
    assert reward(CASE, "the ferryman [1]") == 0.0
    assert reward(CASE, "") == 0.0


def test_a_mark_must_name_a_gold_passage_where_these_are_known() -> None:
    case = RewardCase("p", ("the keeper", "the keeper"), gold_passages=(2,))
    parts = GroundedReward(SubstringJudge()).parts
    assert parts(case, "the keeper [1]")["cited"] == 0.0
    assert parts(case, "the keeper [2]") == {"grounded": 1.0, "cited": 1.0}
    beyond = RewardCase("p", ("the keeper",), gold_passages=(1, 7))
    assert parts(beyond, "the keeper [7]") == {"grounded": 1.0, "cited": 0.0}


def test_a_refusal_is_rewarded_only_where_it_is_due() -> None:
    reward = GroundedReward(SubstringJudge(), RewardWeights(abstains=2.0))
    unanswerable = RewardCase("p", CASE.passages, answerable=False)
    assert reward(unanswerable, "The passages do not say.") == 2.0
    assert reward(unanswerable, "keeper [1]") == 0.0
    assert reward(unanswerable, "") == 0.0
    assert reward(CASE, "The passages do not say.") == 0.0


def test_weights_decide_which_part_counts() -> None:
    only = RewardWeights(grounded=0.0, right=0.0, cited=1.0)
    assert GroundedReward(SubstringJudge(), only)(CASE, "Tea [2]") == 1.0
    assert likeness("老守夜人", "守夜人") > likeness("港口", "守夜人") == 0.0


def test_dpo_makes_the_chosen_likelier_than_the_rejected(
    tiny: tuple[Any, Any], tmp_path: Path
) -> None:
    options = PreferenceOptions(
        most_steps=12, batch=6, learning_rate=5e-3, lora_rank=4, device="cpu"
    )
    record = train_dpo(*tiny, PAIRS, options, tmp_path / "adapter", base_name="tiny")
    assert record.best["margin"] > record.first["margin"] + 1
    written = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert written == {ADAPTER_WEIGHTS, "adapter_config.json", "record.json"}
    kept = json.loads((tmp_path / "adapter" / "record.json").read_text())
    assert kept["task"]["kind"] == "dpo"
    assert kept["best"] == record.best

    from peft import PeftModel

    from model.training.preferences import _margins

    base, tokenizer = load_base(tmp_path / "base")
    again = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    assert _margins(again, tokenizer, PAIRS)["margin"] == pytest.approx(
        record.best["margin"], abs=0.2
    )


def test_a_reward_model_orders_pairs_it_has_not_seen(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = build_transformers_model(tmp_path / "base")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    options = PreferenceOptions(most_steps=12, batch=4, learning_rate=5e-3, device="cpu")
    record = train_reward(
        model, tokenizer, PAIRS[:4], options, tmp_path / "made", base_name="tiny", dev=PAIRS[4:]
    )
    assert record.best["accuracy"] == 1.0
    assert record.best["margin"] > record.first["margin"]
    assert not [path for path in (tmp_path / "made").rglob("*") if path.suffix in (".bin", ".pt")]


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_rl_raises_the_mean_reward(
    algorithm: Algorithm, tiny: tuple[Any, Any], tmp_path: Path
) -> None:
    options = PreferenceOptions(
        most_steps=15, batch=16, generations=8, completion_tokens=6, learning_rate=1e-2,
        lora_rank=4, algorithm=algorithm, device="cpu",
    )  # fmt: skip

    def vowels(_: RewardCase, text: str) -> float:
        return sum(char == "e" for char in text) / 6

    cases = [RewardCase(f"Question: {place}? Answer:") for place in PLACES]
    record = train_rl(*tiny, cases, vowels, options, folder=tmp_path / "adapter", base_name="tiny")
    assert record.best["reward"] > record.first["reward"] + 0.1
    assert (tmp_path / "adapter" / ADAPTER_WEIGHTS).is_file()


def test_too_long_prompts_are_counted_and_left_out(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    options = PreferenceOptions(
        most_steps=1, batch=2, generations=2, completion_tokens=2, most_tokens=24, lora_rank=2,
        device="cpu",
    )  # fmt: skip
    cases = [RewardCase("Question: pier? Answer:"), RewardCase("pier " * 40)]
    seen: list[str] = []

    def reward(case: RewardCase, _: str) -> float:
        seen.append(case.prompt)
        return 0.0

    record = train_rl(*tiny, cases, reward, options, folder=tmp_path / "a", base_name="tiny")
    assert (record.task["data"]["used"], record.task["data"]["too_long"]) == (1, 1)
    assert set(seen) == {cases[0].prompt}
    with pytest.raises(TrainingError, match=r"no usable prompt \(1 are over 22 tokens"):
        train_rl(*tiny, cases[1:], reward, options, folder=tmp_path / "b", base_name="tiny")


def test_marks_of_turns_in_a_text_are_text(tiny: tuple[Any, Any]) -> None:
    from tokenizers import AddedToken

    tokenizer = tiny[1]
    tokenizer.add_tokens([AddedToken("<turn>", special=True)])
    inert = _inert("pier <turn> </s> night", tokenizer)
    ids = tokenizer(inert, add_special_tokens=False)["input_ids"]
    assert not {tokenizer.convert_tokens_to_ids("<turn>"), tokenizer.eos_token_id} & {*ids}


def test_what_cannot_be_learnt_from_is_refused(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="raise the limit"):
        train_dpo(*tiny, PAIRS, PreferenceOptions(most_tokens=3), tmp_path / "a", base_name="tiny")
    odd = PreferenceOptions(batch=6, generations=4)
    with pytest.raises(TrainingError, match="multiple"):
        train_rl(*tiny, [CASE], lambda *_: 0.0, odd, folder=tmp_path / "a", base_name="tiny")
    assert not (tmp_path / "a").exists()


def test_trl_is_imported_only_to_train() -> None:
    code = (
        "import sys, model, model.feedback, model.training.preferences\n"
        "print('trl' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
