"""Heads in training: small ones learn for real, and what they learnt is what runs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from ingest.errors import TrainingError, WeightsError
from model.alignment import Aligner
from model.cross_encoder import CrossEncoder, Head, Role, load_head
from model.training.heads import (
    HeadModel,
    HeadOptions,
    RankExample,
    RankTask,
    ReadExample,
    ReadTask,
    VerifyExample,
    VerifyTask,
    average_heads,
    save_head,
)
from model.training.loop import TrainingOptions, train
from retrieval.onnx import OnnxBert, read_shape
from tests.test_onnx import build

OPTIONS = HeadOptions(rank=8, alpha=16, window=48)
LETTERS = "aeilmnoprst"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bert"))


def words(draw: Random, count: int) -> str:
    return "".join(draw.choices(LETTERS, k=count))


def read_examples(count: int, seed: int) -> list[ReadExample]:
    """Passages of letters in which a few Chinese characters are the answer; a third have none."""
    draw = Random(seed)
    examples = []
    for number in range(count):
        before, after = words(draw, draw.randint(0, 8)) + " ", words(draw, draw.randint(0, 8))
        answer = "猫熊竹"[: draw.randint(1, 3)] if number % 3 else ""
        spans = ((len(before), len(before) + len(answer)),) if answer else ()
        examples.append(ReadExample(words(draw, 3), before + answer + after, spans))
    return examples


def verify_examples(count: int, seed: int) -> list[VerifyExample]:
    """Evidence that holds the claim's Chinese character, and supports, or another."""
    draw = Random(seed)
    examples = []
    for label in [0, 1] * (count // 2):
        said, other = draw.sample("猫熊竹桥", 2)
        evidence = words(draw, 4) + (said if label else other) + words(draw, 2)
        examples.append(VerifyExample(words(draw, 2) + said, evidence, bool(label)))
    return examples


def rank_examples(count: int, seed: int) -> list[RankExample]:
    draw = Random(seed)
    return [
        RankExample(words(draw, 3), words(draw, 5) + "猫", (words(draw, 6), words(draw, 4)))
        for _ in range(count)
    ]


def learn(task: ReadTask | VerifyTask | RankTask, target: Path) -> dict[str, float]:
    options = TrainingOptions(batch_tokens=256, epochs=4, learning_rate=1e-2, evaluate_every=20)
    return dict(train(task, options, target).best)


def run_time(folder: Path, model: HeadModel, target: Path) -> tuple[OnnxBert, Head]:
    save_head(model, target, base="tiny", base_sha256="hash")
    shape = read_shape(folder)
    assert shape is not None
    bert = OnnxBert(folder, shape)
    return bert, load_head(target, bert, "hash")


def test_a_reader_learns_and_reads(folder: Path, tmp_path: Path) -> None:
    model = HeadModel(folder, "read", OPTIONS)
    base = {k: v.clone() for k, v in model.state_dict().items() if k not in dict(named(model))}
    best = learn(ReadTask(model, read_examples(600, 0), read_examples(60, 1)), tmp_path / "run")
    assert best["right"] > 0.8 and best["refused"] > 0.8
    for name, value in base.items():
        assert model.state_dict()[name].equal(value), name  # the encoder stays as it is

    reader = CrossEncoder(*run_time(folder, model, tmp_path / "head"))
    unseen = read_examples(40, 2)
    readings = reader.read_pairs([(example.question, example.passage) for example in unseen])
    right = []
    for example, reading in zip(unseen, readings, strict=True):
        if reading is not None:  # not a blank passage
            found = ((reading.start, reading.end),) if reading.margin > 0 else ()
            right.append(found == example.answers)
    assert np.mean(right) > 0.8

    passages = ["mist", "a long road " * 20 + "貓熊竹" + " of stone" * 20, "tea"]
    first = reader.read("ape", passages)[0]
    found_text = passages[first.passage][first.start : first.end]
    assert found_text and found_text in "貓熊竹"  # far from where training had it, and as written
    assert first.margin > 0


def named(model: HeadModel) -> list[tuple[str, object]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def test_a_verifier_learns_and_judges(folder: Path, tmp_path: Path) -> None:
    model = HeadModel(folder, "verify", OPTIONS)
    task = VerifyTask(model, verify_examples(600, 0), verify_examples(60, 1))
    assert learn(task, tmp_path / "run")["balanced_accuracy"] > 0.9
    aligner = Aligner(*run_time(folder, model, tmp_path / "head"))
    pairs = [("te猫", "mist猫mo"), ("te猫", "mist竹mo"), ("te貓", "moor" * 30 + "mist猫mo")]
    logits = aligner.score(pairs)
    assert logits[0] > 0 > logits[1]
    assert logits[2] > logits[1]  # one piece of long evidence is enough
    rows = VerifyTask(model, [VerifyExample(*pair, True) for pair in pairs[:2]])
    assert float(rows.loss([0, 1])[0].detach()) == pytest.approx(
        float(np.logaddexp(0, -logits[:2]).sum()), rel=0.05
    )  # what was trained is what runs, but for the half precision of the file


def test_a_reranker_learns_and_ranks(folder: Path, tmp_path: Path) -> None:
    model = HeadModel(folder, "rerank", OPTIONS)
    best = learn(RankTask(model, rank_examples(400, 0), rank_examples(60, 1)), tmp_path / "run")
    assert best["first"] > 0.9
    reranker = CrossEncoder(*run_time(folder, model, tmp_path / "head"))
    logits = reranker.score([("tea", "mist"), ("tea", "mist猫")])
    assert logits[1] > logits[0]


class TestTheReadLoss:
    def loss(self, folder: Path, answers: tuple[tuple[int, int], ...]) -> float:
        model = HeadModel(folder, "read", OPTIONS)
        task = ReadTask(model, [ReadExample("tea", "mist moor", answers)] * 2)
        loss, weight = task.loss([0, 1])
        assert weight == 2
        return float(loss.detach()) / weight

    def probabilities(self, folder: Path) -> np.ndarray:
        """Return those of start and end, for no answer and for each letter of the passage."""
        model = HeadModel(folder, "read", OPTIONS)
        tokens = [model.tokenizer.tokens(text)[0] for text in ("tea", "mist moor")]
        rows = [[2, *tokens[0], 3, 3, *tokens[1], 3]]
        logits = model(rows)[0].detach().numpy()
        first = len(tokens[0]) + 3
        allowed = logits[[0, *range(first, first + len(tokens[1]))]]
        return np.asarray(np.exp(allowed) / np.exp(allowed).sum(axis=0))  # (1 + letters, 2)

    def test_one_answer(self, folder: Path) -> None:
        chances = self.probabilities(folder)
        expected = -(np.log(chances[1, 0]) + np.log(chances[4, 1])) / 2  # "mist"
        assert self.loss(folder, ((0, 4),)) == pytest.approx(expected, abs=1e-5)

    def test_no_answer(self, folder: Path) -> None:
        expected = -np.log(self.probabilities(folder)[0]).mean()
        assert self.loss(folder, ()) == pytest.approx(expected, abs=1e-5)

    def test_an_answer_in_two_places_is_their_sum(self, folder: Path) -> None:
        chances = self.probabilities(folder)
        expected = -np.log(chances[[1, 5]].sum(axis=0)).mean()  # both letters "m"
        assert self.loss(folder, ((0, 1), (5, 6))) == pytest.approx(expected, abs=1e-5)


def test_a_batch_changes_no_loss(folder: Path) -> None:
    task = ReadTask(HeadModel(folder, "read", OPTIONS), read_examples(12, 0))
    alone = [float(task.loss([row])[0].detach()) for row in range(len(task.sizes()))]
    together = float(task.loss(range(len(alone)))[0].detach())
    assert together == pytest.approx(sum(alone), rel=1e-4)
    assert len(set(task.sizes())) > 3  # so that there was padding


class TestBadInput:
    def tasks(self, folder: Path, long: str) -> Sequence[ReadTask | VerifyTask | RankTask]:
        def model(role: Role) -> HeadModel:
            return HeadModel(folder, role, OPTIONS)

        return (
            ReadTask(model("read"), [ReadExample("a", "mist", ()), ReadExample("a", long, ())]),
            VerifyTask(
                model("verify"), [VerifyExample("a", "b", True), VerifyExample("a", long, True)]
            ),
            RankTask(
                model("rerank"),
                [
                    RankExample("a", "mist", ("tea", long)),  # one that fits is left
                    RankExample("a", long, ("tea",)),
                    RankExample("a", "mist", (long,)),
                ],
            ),
        )

    def test_what_is_too_long_is_left_out_and_counted(self, folder: Path) -> None:
        for task, lost in zip(self.tasks(folder, "tea" * 40), (1, 1, 2), strict=True):
            assert task.describe()["too_long"] == lost
            assert len(task.sizes()) == 1

    def test_one_row_is_refused(self, folder: Path, tmp_path: Path) -> None:
        for number, task in enumerate(self.tasks(folder, "tea" * 40)):
            with pytest.raises(TrainingError, match="at least two"):
                train(task, TrainingOptions(), tmp_path / str(number))

    def test_a_blank_answer(self, folder: Path) -> None:
        model = HeadModel(folder, "read", OPTIONS)
        with pytest.raises(TrainingError, match=r"characters 4:5 .*leave that row out"):
            ReadTask(model, [ReadExample("a", "mist moor", ((4, 5),))])

    def test_no_dev_rows(self, folder: Path) -> None:
        for task in self.tasks(folder, ""):
            assert task.evaluate() == {}

    def test_a_folder_of_another_model(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="name the folder of a BERT"):
            HeadModel(tmp_path, "read", OPTIONS)

    def test_a_target_that_cannot_be_written(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        model = HeadModel(folder, "read", OPTIONS)
        with pytest.raises(TrainingError, match="cannot be written"):
            save_head(model, tmp_path / "file" / "head", base="tiny", base_sha256="hash")


def test_the_data_and_the_seed_tell_runs_apart(folder: Path) -> None:
    def described(seed: int) -> object:
        task = ReadTask(HeadModel(folder, "read", OPTIONS), read_examples(4, seed))
        return task.describe()["data_sha256"]

    assert described(0) == described(0) != described(1)
    first, again, other = (
        HeadModel(folder, "read", HeadOptions(seed=seed)).trained() for seed in (0, 0, 1)
    )
    assert all(value.equal(again[name]) for name, value in first.items())
    assert not all(value.equal(other[name]) for name, value in first.items())


@pytest.mark.weights
def test_a_head_of_the_default_encoder_is_small(
    e5_encoder: object, weights_home: Path, tmp_path: Path
) -> None:
    folder = weights_home / "weights" / "multilingual-e5-small"
    model = HeadModel(folder, "read", HeadOptions())
    file = save_head(model, tmp_path / "head", base="multilingual-e5-small", base_sha256="hash")
    assert file.stat().st_size < 2_700_000
    assert sum(value.numel() for value in model.parameters()) < 30e6  # no word embeddings
    task = ReadTask(model, [ReadExample("谁写的？", "这本书是林望舒写的。", ((4, 7),))] * 2)
    loss = task.loss([0, 1])[0]
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_head_goes_on_from_the_lora_of_another_role(folder: Path, tmp_path: Path) -> None:
    reader = HeadModel(folder, "read", OPTIONS)
    learn(ReadTask(reader, read_examples(60, 0)), tmp_path / "run")
    save_head(reader, tmp_path / "read", base="tiny", base_sha256="hash")
    judge = HeadModel(folder, "verify", OPTIONS)
    before = judge.head.weight.detach().clone()
    judge.start_from(tmp_path / "read")
    learnt = reader.trained()
    for name, value in judge.trained().items():
        if not name.startswith("head."):
            assert value.equal(learnt[name].half().float()), name
    assert judge.head.weight.equal(before)
    described = VerifyTask(judge, verify_examples(10, 0)).describe()
    assert described["start"] == judge.start and len(judge.start) == 64


def test_a_head_of_another_size_is_no_start(folder: Path, tmp_path: Path) -> None:
    reader = HeadModel(folder, "read", OPTIONS)
    save_head(reader, tmp_path / "read", base="tiny", base_sha256="hash")
    for other in (HeadOptions(rank=4, alpha=16), HeadOptions(rank=8, alpha=32)):
        with pytest.raises(WeightsError, match="same rank and alpha"):
            HeadModel(folder, "verify", other).start_from(tmp_path / "read")
    with pytest.raises(WeightsError, match="name a trained head"):
        HeadModel(folder, "verify", OPTIONS).start_from(tmp_path / "nowhere")


def test_the_mean_of_heads_is_of_each_matrix(folder: Path, tmp_path: Path) -> None:
    heads = []
    for seed in (0, 1):
        model = HeadModel(folder, "read", replace(OPTIONS, seed=seed))
        heads.append((model, tmp_path / f"head-{seed}"))
        save_head(model, heads[-1][1], base="tiny", base_sha256="hash")
    average_heads([at for _, at in heads], tmp_path / "mean")
    mean = HeadModel(folder, "read", OPTIONS)
    mean.start_from(tmp_path / "mean")  # of the same role: the last layer, too
    first, second = (model.trained() for model, _ in heads)
    assert not first["head.weight"].equal(second["head.weight"])
    for name, value in mean.trained().items():
        expected = (first[name].half().float() + second[name].half().float()) / 2
        assert torch.allclose(value, expected, atol=1e-3), name


def test_heads_of_two_kinds_have_no_mean(folder: Path, tmp_path: Path) -> None:
    for role in ("read", "verify"):
        model = HeadModel(folder, role, OPTIONS)
        save_head(model, tmp_path / role, base="tiny", base_sha256="hash")
    with pytest.raises(WeightsError, match="another kind"):
        average_heads([tmp_path / "read", tmp_path / "verify"], tmp_path / "mean")
    with pytest.raises(WeightsError, match="name a trained head"):
        average_heads([tmp_path / "read", tmp_path / "nowhere"], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
