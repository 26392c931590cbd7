"""The onnxruntime engine: the vectors of torch, for BERT models of every shape we compute."""

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.errors import WeightsError
from retrieval.encoders import DEFAULT_ENCODER, OnnxEncoder, Vectors, load_encoder
from retrieval.onnx import OnnxBert, linear_layers, map_tensors, read_prompts, read_shape

ZH = "大熊猫主要栖息在中国四川、陕西和甘肃的山区，以竹子为食。"
EN = "A long paragraph about rivers, dams and the people who live beside them. "
MIXED = [
    "",
    "桥",
    "bridge",
    "cat \ud800 lone surrogate",
    "<s> special </s> tokens <mask> as text",
    "混合 mixed text：产品型号 ABC１２３ 的保修期 (warranty) 是 24 个月～",
    *(ZH * n for n in (1, 3, 9, 27, 60)),  # the last ones are cut to the longest input
    *(EN * n for n in (1, 3, 9, 27, 60)),
]


def build(folder: Path, *, pooling: str = "mean", normalize: bool = False) -> Path:
    """Save a BERT of two layers with random weights as a sentence-transformers folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = sorted(set("".join(MIXED)) - set(" \ud800"))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Split("", "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=64, initializer_range=0.4,
    )  # fmt: skip
    base = folder / "base"
    bert = BertModel(config)
    for parameter in bert.parameters():  # biases and scales start as 0 and 1: make them count
        torch.nn.init.normal_(parameter, mean=0.3 if parameter.dim() == 1 else 0.0, std=0.3)
    bert.save_pretrained(base)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, model_max_length=64, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]",
    ).save_pretrained(base)  # fmt: skip
    modules: list[Any] = [Transformer(str(base)), Pooling(32, pooling)]
    SentenceTransformer(
        modules=modules + [Normalize()] * normalize,
        prompts={"query": "q: ", "passage": "p: "},
        device="cpu",
    ).save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bert"))


def in_torch(folder: Path) -> Callable[[list[str]], Vectors]:
    """Return the passages' vectors by sentence-transformers, all texts in one padded batch."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")

    def encode(texts: list[str]) -> Vectors:
        whole = [text.encode("utf-8", "replace").decode() for text in texts]
        vectors = model.encode_document(
            whole, batch_size=len(whole), normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32)

    return encode


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_same_vectors_as_torch(
    tmp_path: Path, home: Path, pooling: str, *, normalize: bool
) -> None:
    folder = build(tmp_path, pooling=pooling, normalize=normalize)
    encoder = load_encoder(str(folder), home, "cpu")
    assert isinstance(encoder, OnnxEncoder)
    np.testing.assert_allclose(encoder.encode_passages(MIXED), in_torch(folder)(MIXED), atol=1e-5)


def test_a_vector_does_not_depend_on_its_batch(folder: Path, home: Path) -> None:
    encoder = load_encoder(str(folder), home, "cpu")
    together = encoder.encode_passages(MIXED)
    alone = np.concatenate([encoder.encode_passages([text]) for text in MIXED])
    np.testing.assert_allclose(together, alone, atol=1e-6)


class TestAdapters:
    def merged(self, folder: Path, target: Path, layers: list[str]) -> dict[str, Any]:
        """Write the model with random products added to some layers; return the adapter."""
        from safetensors.numpy import load_file, save_file

        shutil.copytree(folder, target)
        weights = load_file(target / "model.safetensors")
        random = np.random.default_rng(0)
        adapter: dict[str, Any] = {}
        for layer in layers:
            weight = weights[f"{layer}.weight"]
            first = random.normal(0, 0.3, (weight.shape[1], 3)).astype(np.float32)
            second = random.normal(0, 0.3, (3, weight.shape[0])).astype(np.float32)
            adapter |= {f"{layer}.lora_A": first, f"{layer}.lora_B": second}
            weights[f"{layer}.weight"] = weight + (first @ second).T
        save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
        return adapter

    @pytest.mark.parametrize("chosen", [slice(None), slice(3, None, 4), slice(0)])
    def test_an_adapter_is_as_if_merged(self, folder: Path, tmp_path: Path, chosen: slice) -> None:
        """All layers, some, or none: those left out stay as they are."""
        adapter = self.merged(folder, tmp_path / "merged", linear_layers(2)[chosen])
        shape = read_shape(folder)
        assert shape is not None
        rows = [[2, *range(4, 4 + count), 3] for count in (1, 5, 20, 40)]
        found = OnnxBert(folder, shape).compute(rows, np.copy, adapter)
        expected = OnnxBert(tmp_path / "merged", shape).compute(rows, np.copy)
        for row, ours, theirs in zip(rows, found, expected, strict=True):
            assert ours.shape == (len(row), 32)  # no padding
            np.testing.assert_allclose(ours, theirs, atol=2e-5)

    def test_every_linear_layer_is_adaptable(self, folder: Path) -> None:
        from safetensors.numpy import load_file

        shape = read_shape(folder)
        assert shape is not None
        adaptable = OnnxBert(folder, shape).adaptable
        matrices = {
            name: value.shape
            for name, value in load_file(folder / "model.safetensors").items()
            if name.startswith("encoder.") and value.ndim == 2
        }
        assert len(adaptable) == 2 * len(matrices) == 24
        for name, (out, width) in matrices.items():
            layer = name.removesuffix(".weight")
            assert adaptable[f"{layer}.lora_A"] == (width, 0)
            assert adaptable[f"{layer}.lora_B"] == (0, out)


def test_threads_do_not_disturb_each_other(folder: Path, home: Path) -> None:
    encoder = load_encoder(str(folder), home, "cpu")
    expected = encoder.encode_passages(MIXED)

    def work(number: int) -> bool:
        if number % 2:
            return encoder.count_tokens(ZH * 60) == len(ZH) * 60  # never cut
        return np.allclose(encoder.encode_passages(MIXED), expected, atol=1e-6)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))


def test_neither_torch_nor_transformers_is_imported(folder: Path, home: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from retrieval.encoders import load_encoder\n"
        "load_encoder(sys.argv[1], Path(sys.argv[2]), 'cpu').encode_queries(['桥'])\n"
        "assert not {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(folder), str(home)], check=True)


class TestWhatIsLeftToTorch:
    @pytest.fixture
    def copy(self, folder: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / "copy"))

    def change(self, path: Path, **values: object) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    def test_the_model_as_it_is_would_be_taken(self, copy: Path) -> None:
        shape = read_shape(copy)
        assert shape is not None
        assert (shape.width, shape.layers, shape.heads, shape.most_tokens) == (32, 2, 4, 64)

    @pytest.mark.parametrize(
        ("file", "values"),
        [
            ("config.json", {"model_type": "xlm-roberta"}),
            ("config.json", {"hidden_act": "relu"}),
            ("config.json", {"position_embedding_type": "relative_key"}),
            ("config.json", {"is_decoder": True}),
            ("1_Pooling/config.json", {"pooling_mode": "max"}),
            ("1_Pooling/config.json", {"pooling_mode": ["mean", "cls"]}),
            ("1_Pooling/config.json", {"include_prompt": False}),
            ("sentence_bert_config.json", {"do_lower_case": True}),
            ("tokenizer_config.json", {"truncation_side": "left"}),
        ],
    )
    def test_other_arithmetic(self, copy: Path, file: str, values: dict[str, object]) -> None:
        self.change(copy / file, **values)
        assert read_shape(copy) is None

    def test_a_module_we_do_not_know(self, copy: Path) -> None:
        modules = json.loads((copy / "modules.json").read_text())
        modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "x.modules.Dense"})
        (copy / "modules.json").write_text(json.dumps(modules))
        assert read_shape(copy) is None

    @pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "modules.json"])
    def test_missing_files(self, copy: Path, name: str) -> None:
        (copy / name).unlink()
        assert read_shape(copy) is None

    def test_half_precision(self, copy: Path) -> None:
        from safetensors.numpy import load_file, save_file

        weights = load_file(copy / "model.safetensors")
        half = {name: value.astype(np.float16) for name, value in weights.items()}
        save_file(half, copy / "model.safetensors", metadata={"format": "pt"})
        assert read_shape(copy) is None

    def test_a_damaged_file_is_named(self, copy: Path) -> None:
        shape = read_shape(copy)
        assert shape is not None
        weights = copy / "model.safetensors"
        whole = weights.read_bytes()
        for damaged in (whole[: len(whole) // 2], whole[:200], b""):
            weights.write_bytes(damaged)
            with pytest.raises(WeightsError, match=r"model\.safetensors .*fetch"):
                OnnxBert(copy, shape)
        weights.write_bytes(whole)
        (copy / "tokenizer.json").write_text("{}")
        with pytest.raises(WeightsError, match=r"tokenizer\.json .*fetch"):
            OnnxBert(copy, shape)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("encoder.layer.0.attention.self.query.weight", (-1, 0)),
        ("encoder.layer.1.attention.self.query.weight", (0, -1)),
        ("encoder.layer.1.attention.self.value.bias", (-29,)),
        ("encoder.layer.0.attention.output.dense.weight", (0, 1)),
        ("encoder.layer.0.intermediate.dense.weight", (1, 0)),
        ("encoder.layer.1.output.dense.weight", (0, -2)),
        ("encoder.layer.1.output.LayerNorm.weight", (-1,)),
        ("embeddings.LayerNorm.bias", (-31,)),
        ("embeddings.word_embeddings.weight", (0, -1)),
        ("embeddings.position_embeddings.weight", (-500, 0)),
    ],
)
def test_a_tensor_of_another_shape_is_refused(
    folder: Path, tmp_path: Path, name: str, change: tuple[int, ...]
) -> None:
    """The fused operators do not look: they would answer wrongly, or read beyond its end."""
    from safetensors.numpy import load_file, save_file

    target = tmp_path / "model"
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    shape = read_shape(target)
    assert shape is not None
    sizes = [max(1, size + more) for size, more in zip(tensors[name].shape, change, strict=True)]
    tensors[name] = np.zeros(sizes, np.float32)
    save_file(tensors, target / "model.safetensors")
    with pytest.raises(WeightsError, match=r"has another shape .*fetch"):
        OnnxBert(target, shape)


def test_deeply_nested_json_is_refused(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    shutil.copytree(folder, target)
    header = b'{"a":' * 100_000
    (target / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(WeightsError, match=r"model\.safetensors .*fetch"):
        map_tensors(target / "model.safetensors")
    for name in ("config.json", "config_sentence_transformers.json"):
        (target / name).write_text("[" * 100_000)
    assert read_shape(target) is None
    with pytest.raises(WeightsError, match="fetch"):
        read_prompts(target)


def test_tensors_are_views_of_the_file(folder: Path) -> None:
    from safetensors.numpy import load_file

    path = folder / "model.safetensors"
    expected = load_file(path)
    found = map_tensors(path)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name])
        assert isinstance(value, np.memmap)


def test_prompts_follow_sentence_transformers(tmp_path: Path) -> None:
    assert read_prompts(tmp_path) == {}
    path = tmp_path / "config_sentence_transformers.json"
    for prompts, default, query, document in (
        ({"query": "q: ", "passage": "p: "}, None, "q: ", "p: "),
        ({"query": "q: ", "document": "d: ", "passage": "p: "}, None, "q: ", "d: "),
        ({"other": "o: "}, "other", "o: ", "o: "),
        ({}, None, "", ""),
    ):
        path.write_text(json.dumps({"prompts": prompts, "default_prompt_name": default}))
        assert read_prompts(tmp_path) == {"query": query, "document": document}
    path.write_text("[")
    with pytest.raises(WeightsError, match="fetch"):
        read_prompts(tmp_path)


@pytest.mark.weights
class TestDefaultEncoder:
    def test_parity_with_torch(self, e5_encoder: OnnxEncoder, weights_home: Path) -> None:
        """On padded batches of 1 to 512 tokens, zh and en, however torch pads them."""
        assert isinstance(e5_encoder, OnnxEncoder)
        torch_encoder = in_torch(weights_home / "weights" / DEFAULT_ENCODER)
        for texts in (MIXED[:8], [MIXED[1], MIXED[8], MIXED[10], MIXED[15]]):
            expected, found = torch_encoder(texts), e5_encoder.encode_passages(texts)
            assert (found * expected).sum(axis=1).min() >= 0.99999
            assert np.abs(found - expected).max() < 1e-5

    def test_a_vector_does_not_depend_on_its_batch(self, e5_encoder: OnnxEncoder) -> None:
        texts = MIXED[:8]
        alone = np.concatenate([e5_encoder.encode_passages([text]) for text in texts])
        np.testing.assert_allclose(e5_encoder.encode_passages(texts), alone, atol=1e-6)
