"""Heads at run time: the arithmetic of torch and peft, whole texts, clear refusals."""

import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import WeightsError
from model.alignment import Aligner
from model.cross_encoder import (
    HEAD_FILE,
    CrossEncoder,
    Role,
    Window,
    _reading,
    best_span,
    comparable,
    load_head,
    pair_windows,
)
from retrieval.encoders import DEFAULT_ENCODER
from retrieval.onnx import BertTokenizer, OnnxBert, read_shape
from tests.test_onnx import EN, ZH, build

if TYPE_CHECKING:
    from model.training.heads import HeadModel

BASE = "the hash of the encoder"
PAIRS = [
    ("a", "b"),
    ("大熊猫吃什么？", ZH),
    ("大熊貓吃什麼？", "竹子"),
    ("rivers", "A long paragraph about rivers"),
    ("", "people"),
    ("dams and people", "桥"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def bert(folder: Path) -> OnnxBert:
    return open_bert(folder)


def open_bert(folder: Path) -> OnnxBert:
    shape = read_shape(folder)
    assert shape is not None
    return OnnxBert(folder, shape)


def random_head(folder: Path, target: Path, role: Role, *, window: int = 48) -> "HeadModel":
    """Save a head whose LoRA changes every layer; return the model in torch."""
    import torch

    from model.training.heads import HeadModel, HeadOptions, save_head

    model = HeadModel(folder, role, HeadOptions(rank=4, alpha=8, window=window))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:  # rounded, so that the half precision of the file is exact
            size = 0.05 if "lora" in name else 1.0
            parameter.data = torch.randn_like(parameter).mul_(size).half().float()
    save_head(model, target, base="tiny", base_sha256=BASE)
    return model


def open_head(bert: OnnxBert, target: Path) -> CrossEncoder:
    return CrossEncoder(bert, load_head(target, bert, BASE))


def in_peft(folder: Path, model: "HeadModel", rows: list[list[int]]) -> list[np.ndarray]:
    """Return the logits of all rows as one padded batch through transformers and peft, merged."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import BertModel

    names = ["query", "key", "value", "dense"]
    options = model.options
    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=names)
    adapted = get_peft_model(BertModel.from_pretrained(folder, add_pooling_layer=False), config)
    own = model.trained()
    for name, parameter in adapted.named_parameters():
        short = name.removeprefix("base_model.model.").removesuffix(".default.weight")
        if "lora_" in name:
            parameter.data = own.pop(short).clone()
    assert set(own) == {"head.weight", "head.bias"}  # peft adapts the very layers that we do
    merged = adapted.merge_and_unload().eval()
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        states = merged(input_ids=ids, attention_mask=mask).last_hidden_state
        logits = states @ own["head.weight"].T + own["head.bias"]
    return [own[: len(row)].numpy() for own, row in zip(logits, rows, strict=True)]


def assert_parity(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        a, b = ours.ravel(), theirs.ravel()
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.9999
        np.testing.assert_allclose(a, b, atol=2e-3, rtol=1e-3)


def inputs(bert: OnnxBert, window: int = 48) -> list[list[int]]:
    return [own.ids for a, b in PAIRS for own in pair_windows(bert.tokenizer, a, b, window)]


def logits_of(bert: OnnxBert, target: Path, rows: list[list[int]]) -> list[np.ndarray]:
    head = load_head(target, bert, BASE)
    return bert.compute(rows, lambda states: states @ head.weight + head.bias, head.adapter)


@pytest.mark.parametrize("role", ["read", "verify", "rerank"])
def test_the_logits_of_torch_and_peft(
    folder: Path, bert: OnnxBert, tmp_path: Path, role: Role
) -> None:
    model = random_head(folder, tmp_path, role)
    rows = inputs(bert)
    assert len(set(map(len, rows))) > 3  # so that there is padding
    expected = in_peft(folder, model, rows)
    assert_parity(logits_of(bert, tmp_path, rows), expected)
    ours = model(rows).detach().numpy()  # what training computes
    assert_parity([own[: len(row)] for own, row in zip(ours, rows, strict=True)], expected)


def test_the_scores_are_those_of_the_first_token(
    folder: Path, bert: OnnxBert, tmp_path: Path
) -> None:
    random_head(folder, tmp_path, "rerank")
    pairs = [pair for pair in PAIRS if len(pair[1]) < 40]
    rows = [pair_windows(bert.tokenizer, a, b, 48)[0].ids for a, b in pairs]
    expected = [float(logits[0, 0]) for logits in logits_of(bert, tmp_path, rows)]
    scores = open_head(bert, tmp_path).score(pairs)
    assert scores.shape == (len(pairs),)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert len(np.unique(scores)) == len(pairs)


def test_heads_share_one_session_and_leave_the_encoder_alone(
    folder: Path, bert: OnnxBert, tmp_path: Path
) -> None:
    before = bert.encode(["桥", EN])
    random_head(folder, tmp_path / "verify", "verify")
    random_head(folder, tmp_path / "rerank", "rerank")
    first = open_head(bert, tmp_path / "rerank")
    second = Aligner(bert, load_head(tmp_path / "verify", bert, BASE))
    scores = first.score(PAIRS)
    assert len(np.unique(second.score(PAIRS))) > 1
    np.testing.assert_array_equal(first.score(PAIRS), scores)
    np.testing.assert_array_equal(bert.encode(["桥", EN]), before)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> BertTokenizer:
    return BertTokenizer(folder / "tokenizer.json")


class TestWindows:
    @given(
        a=st.text("abcABC桥猫 ", max_size=90),
        b=st.text("abcABC桥貓 ", max_size=300),
        window=st.integers(12, 64),
    )
    def test_nothing_is_lost_and_nothing_too_long(
        self, tokenizer: BertTokenizer, a: str, b: str, window: int
    ) -> None:
        windows = pair_windows(tokenizer, a, b, window)
        parts = {own.part: own.ids[1 : own.first - 2] for own in windows}
        assert [*chain.from_iterable(parts.values())] == tokenizer.tokens(a)[0]
        for part in parts:
            seen: dict[tuple[int, int], int] = {}
            for own in windows:
                assert len(own.ids) <= window
                tokens = own.ids[own.first : own.first + len(own.spans)]
                if own.part == part:
                    seen |= dict(zip(own.spans, tokens, strict=True))
            ids, spans = tokenizer.tokens(comparable(b))
            assert seen == dict(zip(spans, ids, strict=True))

    def test_the_form_of_a_pair(self, tokenizer: BertTokenizer) -> None:
        (window,) = pair_windows(tokenizer, "ab", "cd", 48)
        a, b = tokenizer.tokens("ab")[0], tokenizer.tokens("cd")[0]
        assert window.ids == [2, *a, 3, 3, *b, 3]
        assert window.spans == [(0, 1), (1, 2)]

    def test_windows_overlap(self, tokenizer: BertTokenizer) -> None:
        first, second, *_ = pair_windows(tokenizer, "a", "b" * 200, 48)
        assert len(set(first.spans) & set(second.spans)) == len(first.spans) // 2

    def test_traditional_characters_are_read_as_simplified_ones(
        self, tokenizer: BertTokenizer
    ) -> None:
        assert pair_windows(tokenizer, "貓", "熊貓", 48) == pair_windows(
            tokenizer, "猫", "熊猫", 48
        )

    def test_lone_surrogates_keep_the_length(self) -> None:
        assert comparable("a\ud800b") == "a?b"


@given(
    values=st.lists(st.tuples(*[st.integers(-9, 9)] * 2), min_size=1, max_size=12),
    longest=st.integers(1, 5),
)
def test_the_best_span_is_that_of_brute_force(values: list[tuple[int, int]], longest: int) -> None:
    start, end, score = best_span(np.array(values, np.float32), longest)
    every = [
        values[i][0] + values[j][1]
        for i in range(len(values))
        for j in range(i, min(i + longest, len(values)))
    ]
    assert score == max(every) == values[start][0] + values[end][1]
    assert 0 <= end - start < longest


class TestLongTexts:
    def test_the_best_window_of_the_evidence_counts(
        self, folder: Path, bert: OnnxBert, tmp_path: Path
    ) -> None:
        random_head(folder, tmp_path, "rerank", window=24)
        head = open_head(bert, tmp_path)
        evidence = "rivers" * 20
        windows = pair_windows(bert.tokenizer, "dams", evidence, 24)
        pieces = [evidence[own.spans[0][0] : own.spans[-1][1]] for own in windows]
        assert len(pieces) > 3
        alone = head.score([("dams", piece) for piece in pieces])
        assert head.score([("dams", evidence)])[0] == pytest.approx(alone.max(), abs=1e-5)

    def test_blank_passages_are_left_out(
        self, folder: Path, bert: OnnxBert, tmp_path: Path
    ) -> None:
        random_head(folder, tmp_path, "read")
        head = open_head(bert, tmp_path)
        readings = head.read("rivers", ["", "dams and rivers", "   ", "people live"])
        assert sorted(reading.passage for reading in readings) == [1, 3]
        assert readings[0].margin >= readings[1].margin
        assert head.read("rivers", []) == []


class TestRefusals:
    @pytest.fixture
    def head(self, folder: Path, tmp_path: Path) -> Path:
        random_head(folder, tmp_path / "head", "read")
        return tmp_path / "head"

    def test_another_encoder(self, bert: OnnxBert, head: Path) -> None:
        with pytest.raises(WeightsError, match=r"another encoder \(tiny\).*train"):
            load_head(head, bert, "another hash")

    def test_missing_and_damaged_files(self, bert: OnnxBert, head: Path, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="fetch"):
            load_head(tmp_path / "nowhere", bert, BASE)
        whole = (head / HEAD_FILE).read_bytes()
        for damaged in (whole[: len(whole) // 2], whole[:9], b""):
            (head / HEAD_FILE).write_bytes(damaged)
            with pytest.raises(WeightsError, match="fetch"):
                load_head(head, bert, BASE)

    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("head.weight", (3, 32)),
            ("head.bias", (1,)),
            ("encoder.layer.0.attention.self.query.lora_A", (4, 31)),
            ("encoder.layer.0.attention.self.query.lora_A", (5, 32)),
            ("encoder.layer.7.attention.self.query.lora_A", (4, 32)),
            ("encoder.layer.0.attention.self.query.lora_B", None),
        ],
    )
    def test_other_shapes(
        self, bert: OnnxBert, head: Path, name: str, shape: tuple[int, ...] | None
    ) -> None:
        from safetensors.numpy import load_file, save_file

        path = head / HEAD_FILE
        tensors = load_file(path)
        tensors.pop(name, None)
        if shape:
            tensors[name] = np.zeros(shape, np.float16)
        told = {"format": "tether-head-1", "role": "read", "base": "tiny", "base_sha256": BASE}
        save_file(tensors, path, {**told, "rank": "4", "alpha": "8", "window": "48"})
        with pytest.raises(WeightsError, match="fetch"):
            load_head(head, bert, BASE)

    @pytest.mark.parametrize(
        ("change", "bias"),
        [
            ({"alpha": "nan"}, 0.0),
            ({"rank": "0"}, 0.0),
            ({"window": "-5"}, 0.0),
            ({"window": "7"}, 0.0),
            ({"format": "tether-head-9"}, 0.0),
            ({}, np.inf),
        ],
    )
    def test_numbers_that_make_no_sense(
        self, bert: OnnxBert, head: Path, change: dict[str, str], bias: float
    ) -> None:
        from safetensors import safe_open
        from safetensors.numpy import load_file, save_file

        path = head / HEAD_FILE
        with safe_open(path, "np") as file:
            told = file.metadata()
        tensors = load_file(path)
        tensors["head.bias"][0] = bias
        save_file(tensors, path, told | change)
        with pytest.raises(WeightsError, match="fetch"):
            load_head(head, bert, BASE)

    def test_the_wrong_role(self, folder: Path, bert: OnnxBert, tmp_path: Path) -> None:
        random_head(folder, tmp_path / "read", "read")
        random_head(folder, tmp_path / "verify", "verify")
        with pytest.raises(ValueError, match="does not rank"):
            open_head(bert, tmp_path / "read").score([])
        with pytest.raises(ValueError, match="does not read"):
            open_head(bert, tmp_path / "verify").read("a", [])
        with pytest.raises(WeightsError, match="does not verify"):
            Aligner(bert, load_head(tmp_path / "read", bert, BASE))


def test_torch_is_not_imported(folder: Path, tmp_path: Path) -> None:
    random_head(folder, tmp_path, "read")
    program = (
        "import sys; from pathlib import Path; from model.cross_encoder import *\n"
        "from retrieval.onnx import OnnxBert, read_shape\n"
        "folder = Path(sys.argv[1]); bert = OnnxBert(folder, read_shape(folder))\n"
        "head = CrossEncoder(bert, load_head(Path(sys.argv[2]), bert, sys.argv[3]))\n"
        "assert head.read('a', ['bridge'])\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(folder), str(tmp_path), BASE], check=True)


@pytest.mark.weights
def test_the_default_encoder_as_in_torch_and_peft(
    e5_encoder: object, weights_home: Path, tmp_path: Path
) -> None:
    """On one padded batch of short and long pairs, zh and en."""
    folder = weights_home / "weights" / DEFAULT_ENCODER
    model = random_head(folder, tmp_path, "read", window=320)
    bert = open_bert(folder)
    rows = [
        pair_windows(bert.tokenizer, a, b, 320)[0].ids for a, b in [*PAIRS, ("河流", ZH * 9 + EN)]
    ]
    assert_parity(logits_of(bert, tmp_path, rows), in_peft(folder, model, rows))


def test_ranges_part_what_the_whole_passage_holds(
    folder: Path, bert: OnnxBert, tmp_path: Path
) -> None:
    random_head(folder, tmp_path / "head", "read")
    reader = open_head(bert, tmp_path / "head")
    (whole,) = reader.read_pairs([("rivers", EN)])
    assert whole is not None
    parts = [(0, len(EN)), (0, whole.end), (whole.end, len(EN)), (len(EN), len(EN) + 5)]
    ((first, before, after, beyond),) = reader.read_ranges([("rivers", EN)], [parts])
    assert first == before == whole
    assert beyond is None
    assert after is not None and after.start >= whole.end
    assert after.margin <= whole.margin


@pytest.mark.parametrize(
    ("text", "read", "whole"),
    [
        ("It opened in 1931.", "193", "1931"),
        ("Ola Fenn's bridge", "la Fen", "Ola Fenn"),
        ("桥建成于1931年", "建成", "建成"),
        ("大桥Alpha号", "lph", "Alpha"),
        ("机上有11人的消息", "11人的", "11人"),
        ("冠军是来自河北的高亭宇，他", "的高亭宇，", "高亭宇"),
        ("他的目的不明", "目的", "目的"),
    ],
)
def test_what_is_read_are_whole_words(text: str, read: str, whole: str) -> None:
    start = text.index(read)
    window = Window([0, 1, 2], 1, [(start, start + len(read))], 0)
    found = _reading(0, window, np.zeros((3, 2), np.float32), text)
    assert found is not None
    assert text[found.start : found.end] == whole


def test_a_word_is_not_completed_beyond_its_part() -> None:
    window = Window([0, 1, 2], 1, [(2, 4)], 0)
    found = _reading(0, window, np.zeros((3, 2), np.float32), "bridges", (1, 5))
    assert found is not None
    assert (found.start, found.end) == (1, 5)
