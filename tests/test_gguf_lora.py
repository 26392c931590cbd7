"""A LoRA in llama.cpp says what it says in transformers."""

import hashlib
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.errors import WeightsError
from model import gguf_lora
from model.adapters import label_adapter, read_adapter
from model.generators import Decoding, LlamaCppGenerator, TransformersGenerator
from model.gguf_files import metadata_entry, read_header, write_gguf
from model.gguf_lora import prepare_gguf_lora, write_gguf_lora
from model.prompts import Prompt
from tests.tiny_lora import GEMMA, TINY, build_lora
from tests.tiny_models import build_gguf_model

PROMPT = Prompt("", (), "The nets are mended by night.\nQuestion: when?", "Answer:")
GREEDY = Decoding(max_new_tokens=16)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    pytest.importorskip("gguf", reason="needs the `weights` extra")
    return build_gguf_model(tmp_path / "基.gguf")


def array(kind: int, count: int) -> bytes:
    """Return a metadata entry that says to hold an array, without what it holds."""
    return struct.pack("<Q", 1) + b"x" + struct.pack("<IIQ", 9, kind, count)


def run(path: Path, lora: Path | None = None, prompt: Prompt = PROMPT) -> tuple[str, list[float]]:
    """Return what a model says, and how sure it is."""
    generator = LlamaCppGenerator(path, name="tiny", threads=1, context_tokens=512, lora=lora)
    scores: list[float] = []
    return "".join(generator.stream(prompt, GREEDY, scores)), scores


class TestFiles:
    def test_a_file_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        path = tmp_path / "文件.gguf"
        entries = [metadata_entry("a", "文"), metadata_entry("b", 0.5), metadata_entry("c", 7)]
        values: dict[str, Any] = {
            "x": np.arange(6, dtype=np.float32).reshape(2, 3),
            "y": np.ones(5, np.float16),
        }
        tensors = [(n, v.shape, int(v.dtype == np.float16), v.tobytes()) for n, v in values.items()]
        write_gguf(path, entries, 3, tensors)
        header = read_header(path)
        assert header.scalars == {"a": "文", "b": 0.5, "c": 7}
        assert header.metadata == b"".join(entries)
        content = path.read_bytes()
        for tensor in header.tensors:
            kept = np.frombuffer(content[tensor.start : tensor.end], values[tensor.name].dtype)
            assert tensor.start % 32 == 0
            assert np.array_equal(kept[: values[tensor.name].size], values[tensor.name].ravel())
        assert [file.name for file in tmp_path.iterdir()] == ["文件.gguf"]

    def test_the_package_gguf_reads_it_too(self, base: Path, tmp_path: Path) -> None:
        import gguf

        write_gguf_lora(build_lora(tmp_path / "lora"), base, tmp_path / "lora.gguf")
        theirs, ours = gguf.GGUFReader(tmp_path / "lora.gguf"), read_header(tmp_path / "lora.gguf")
        assert [t.name for t in theirs.tensors] == [t.name for t in ours.tensors]
        assert [tuple(reversed(t.shape)) for t in theirs.tensors] == [t.shape for t in ours.tensors]
        assert theirs.fields["adapter.type"].contents() == "lora"

    def test_every_truncation_of_a_header_is_refused(self, base: Path, tmp_path: Path) -> None:
        content = base.read_bytes()
        path = tmp_path / "cut.gguf"
        for size in [0, 3, 4, 20, *range(30, 6000, 397)]:
            path.write_bytes(content[:size])
            with pytest.raises(WeightsError, match="cannot be read as a GGUF file") as error:
                read_header(path)
            assert "\n" not in str(error.value)

    def test_nonsense_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.gguf"
        path.write_bytes(b"no model at all, but long enough to hold a header")
        with pytest.raises(WeightsError, match="does not start with GGUF"):
            read_header(path)
        with pytest.raises(WeightsError, match="make it anew"):
            read_header(tmp_path / "none.gguf")

    @pytest.mark.parametrize(
        ("count", "entries"),
        [
            (2, array(4, 2**63) + metadata_entry("a", "b")),  # more bytes than a number can say
            (1, array(4, 2**40)),
            (1, array(8, 2**63)),
            (1, array(9, 1) + struct.pack("<IQ", 9, 1) * 5000),  # arrays of arrays
            (1, metadata_entry("general.alignment", 0)),
            (1, metadata_entry("general.alignment", float("inf"))),
            (1, metadata_entry("general.alignment", "wide")),
        ],
        ids=["huge", "beyond", "texts", "nested", "zero", "infinite", "word"],
    )
    def test_hostile_metadata_are_refused(self, tmp_path: Path, count: int, entries: bytes) -> None:
        path = tmp_path / "bad.gguf"
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, count) + entries + bytes(64))
        with pytest.raises(WeightsError, match="cannot be read as a GGUF file"):
            read_header(path)


class TestConversion:
    @pytest.mark.parametrize("half", [False, True])
    def test_it_is_the_sum_that_peft_forms(self, base: Path, tmp_path: Path, half: bool) -> None:
        """Merged by hand into the base's float32 tensors, the LoRA gives the same text."""
        folder = build_lora(tmp_path / "lora", half=half)
        write_gguf_lora(folder, base, tmp_path / "lora.gguf")
        adapted = run(base, tmp_path / "lora.gguf")
        merged = run(merge_by_hand(base, folder, tmp_path / "merged.gguf"))
        assert adapted[0] == merged[0] != run(base)[0]
        for_base = replace(PROMPT, is_for_base=True)
        assert run(base, tmp_path / "lora.gguf", for_base)[0] == run(base)[0]
        assert adapted[1] == pytest.approx(merged[1], abs=0.02)

    def test_scales(self, base: Path, tmp_path: Path) -> None:
        alphas = {}
        configs: dict[str, dict[str, Any]] = {
            "plain": {}, "rs": {"use_rslora": True}, "x": {"lora_alpha": 2},
        }  # fmt: skip
        for name, config in configs.items():
            write_gguf_lora(build_lora(tmp_path / name, **config), base, tmp_path / "lora.gguf")
            alphas[name] = read_header(tmp_path / "lora.gguf").scalars["adapter.lora.alpha"]
        assert alphas == {"plain": 8.0, "rs": 16.0, "x": 2.0}  # of rank 4: 8 / sqrt(4) = 16 / 4

    def test_it_is_written_once_and_anew_after_training(self, base: Path, tmp_path: Path) -> None:
        folder, home = tmp_path / "lora", tmp_path / "home"
        build_lora(folder)
        label_adapter(folder, "answer", "tiny", "a" * 64)
        first = prepare_gguf_lora(read_adapter(folder), base, home)
        written = first.stat().st_mtime_ns
        assert prepare_gguf_lora(read_adapter(folder), base, home).stat().st_mtime_ns == written
        build_lora(folder, seed=1)
        assert prepare_gguf_lora(read_adapter(folder), base, home) != first

    def test_another_converter_makes_another_file(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, home = build_lora(tmp_path / "lora"), tmp_path / "home"
        label_adapter(folder, "answer", "tiny", "a" * 64)
        first = prepare_gguf_lora(read_adapter(folder), base, home)
        first.write_bytes(b"what an older converter wrote")
        monkeypatch.setattr(gguf_lora, "CONVERTER_VERSION", gguf_lora.CONVERTER_VERSION + 1)
        second = prepare_gguf_lora(read_adapter(folder), base, home)
        assert second != first and read_header(second).scalars["adapter.type"] == "lora"

    def test_a_changed_file_has_a_new_version(self, base: Path, tmp_path: Path) -> None:
        """If this fails, raise CONVERTER_VERSION, so that nobody is served an old file."""
        from safetensors.numpy import load_file, save_file

        weights = build_lora(tmp_path / "lora") / "adapter_model.safetensors"
        even = {
            name: (np.arange(matrix.size) % 97).astype(np.float32).reshape(matrix.shape)
            for name, matrix in load_file(weights).items()
        }
        save_file(even, weights)
        write_gguf_lora(tmp_path / "lora", base, tmp_path / "lora.gguf")
        digest = hashlib.sha256((tmp_path / "lora.gguf").read_bytes()).hexdigest()
        assert {1: "46aadee97a38abd8"}[gguf_lora.CONVERTER_VERSION] == digest[:16]

    @pytest.mark.parametrize(
        "change",
        [
            {"use_dora": True},
            {"bias": "all"},
            {"modules_to_save": ["lm_head"]},
            {"r": "many"},
            {"init_lora_weights": "pissa"},
            {"alora_invocation_tokens": [1]},
            {"r": 0},
        ],
    )
    def test_more_than_a_plain_lora_is_refused(
        self, base: Path, tmp_path: Path, change: dict[str, Any]
    ) -> None:
        folder = build_lora(tmp_path / "lora", **change)
        with pytest.raises(WeightsError, match=r"generator\.backend = transformers") as error:
            write_gguf_lora(folder, base, tmp_path / "lora.gguf")
        assert "\n" not in str(error.value)

    def test_another_shape_and_damage_are_refused(self, base: Path, tmp_path: Path) -> None:
        wider = build_lora(tmp_path / "wider", {"mlp.up_proj": (48, 32)})
        deeper = build_lora(tmp_path / "deeper", layers=3)
        for folder in (wider, deeper):
            with pytest.raises(WeightsError, match="does not fit its base"):
                write_gguf_lora(folder, base, tmp_path / "lora.gguf")
        unknown = build_lora(tmp_path / "unknown", {"self_attn.qkv_proj": (96, 32)})
        cut = build_lora(tmp_path / "cut")
        weights = cut / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:500])
        for folder in (unknown, cut):
            with pytest.raises(WeightsError, match=r"generator\.backend = transformers"):
                write_gguf_lora(folder, base, tmp_path / "lora.gguf")
        assert not (tmp_path / "lora.gguf").exists()

    @pytest.mark.parametrize("content", ["[]", "[" * 100_000])
    def test_a_configuration_that_is_none_is_refused(
        self, base: Path, tmp_path: Path, content: str
    ) -> None:
        folder = build_lora(tmp_path / "lora")
        (folder / "adapter_config.json").write_text(content)
        with pytest.raises(WeightsError, match=r"generator\.backend = transformers") as error:
            write_gguf_lora(folder, base, tmp_path / "lora.gguf")
        assert "\n" not in str(error.value)

    def test_ranks_other_than_the_configuration_says_are_refused(
        self, base: Path, tmp_path: Path
    ) -> None:
        """The factor is alpha / rank: with another rank it would be silently wrong."""
        from safetensors.numpy import load_file, save_file

        name = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
        for number, matrix in enumerate([np.zeros((5, 32)), np.zeros(32), np.zeros((4, 32, 1))]):
            folder = build_lora(tmp_path / str(number))
            weights = load_file(folder / "adapter_model.safetensors")
            weights[name] = matrix.astype(np.float32)
            save_file(weights, folder / "adapter_model.safetensors")
            with pytest.raises(WeightsError, match="does not fit its base"):
                write_gguf_lora(folder, base, tmp_path / "lora.gguf")
        with pytest.raises(WeightsError, match="does not fit its base"):
            write_gguf_lora(build_lora(tmp_path / "r", r=8), base, tmp_path / "lora.gguf")

    def test_two_towers_are_not_taken_for_one(self, base: Path, tmp_path: Path) -> None:
        from safetensors.numpy import load_file, save_file

        folder = build_lora(tmp_path / "lora")
        weights = load_file(folder / "adapter_model.safetensors")
        tower = {name.replace("model.model", "model.vision"): w for name, w in weights.items()}
        save_file(weights | tower, folder / "adapter_model.safetensors")
        with pytest.raises(WeightsError, match="another layer that is called like"):
            write_gguf_lora(folder, base, tmp_path / "lora.gguf")

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"llama", b"olmo3"),  # whose files may have another order of rows
            (b"general.architecture", b"general.architextura"),
            (b"llama.attention.head_count", b"llama.attention.head_kount"),
        ],
    )
    def test_a_base_of_unknown_order_is_refused(
        self, base: Path, tmp_path: Path, old: bytes, new: bytes
    ) -> None:
        other = tmp_path / "other.gguf"
        other.write_bytes(base.read_bytes().replace(old, new))
        with pytest.raises(WeightsError, match=r"generator\.backend = transformers"):
            write_gguf_lora(build_lora(tmp_path / "lora"), other, tmp_path / "lora.gguf")

    def test_a_damaged_file_is_named_with_a_remedy(self, base: Path, tmp_path: Path) -> None:
        bad = tmp_path / "bad.gguf"
        bad.write_bytes(b"GGUF" + bytes(100))
        with pytest.raises(WeightsError, match=r"generator\.adapter = none"):
            run(base, bad)


def merge_by_hand(base: Path, folder: Path, target: Path) -> Path:
    """Add B A to a float32 base, with Llama's queries and keys turned row by row."""
    from safetensors.numpy import load_file

    matrices, scale = load_file(folder / "adapter_model.safetensors"), 8 / 4
    names = dict(zip(
        ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"), TINY,
        strict=True,
    ))  # fmt: skip
    shutil.copyfile(base, target)
    values: Any = np.memmap(target, mode="r+")
    for tensor in read_header(base).tensors:
        block, layer, kind, *_ = [*tensor.name.split("."), "", ""]
        if block != "blk" or kind not in names:
            continue
        stem = f"base_model.model.model.layers.{layer}.{names[kind]}"
        a, b = (matrices[f"{stem}.lora_{x}.weight"].astype(np.float32) for x in "AB")
        change = scale * b @ a
        if kind in ("attn_q", "attn_k"):
            rows = [h * 16 + half * 8 + i for h in range(2) for i in range(8) for half in range(2)]
            change = change[rows]
        size = change.nbytes
        there = values[tensor.start : tensor.start + size].view(np.float32).reshape(change.shape)
        there += change
    values.flush()
    return target


PASSAGES = [
    ("The bridge at Zarnith was finished in 1923 by Ola Fenn.\nQuestion: who?", "Answer:"),
    ("Honey from Tarn is dark because the bees feed on pine.\nQuestion: why?", "Answer:"),
    ("灰塔图书馆藏书四万册，由学者陆青崖创办。\n问题：谁创办的？", "答案："),
    ("渡船每天早上六点从白岛出发，票价十二元。\n问题：几点？", "答案："),
]


@pytest.mark.weights
@pytest.mark.timeout(900)  # the first run on a machine converts the weights
def test_gemma_with_a_lora_agrees_with_peft(
    gemma_gguf: Path, weights_home: Path, tmp_path: Path
) -> None:
    """llama.cpp chooses what peft over the same dequantised base finds (nearly) best."""
    import torch

    from model.weights import base_hash, prepare_gemma_folder

    base = prepare_gemma_folder(weights_home)
    assert base_hash(base, weights_home) == base_hash(gemma_gguf, weights_home)
    folder = build_lora(tmp_path / "lora", GEMMA, layers=18, strength=0.02, half=True)
    label_adapter(folder, "answer", "gemma-3-270m", base_hash(base, weights_home))
    lora = prepare_gguf_lora(read_adapter(folder), gemma_gguf, tmp_path)
    ours = LlamaCppGenerator(gemma_gguf, name="g", threads=1, context_tokens=1024, lora=lora)
    bare = LlamaCppGenerator(gemma_gguf, name="g", threads=1, context_tokens=1024)
    theirs = TransformersGenerator(str(base), name="g", device="cpu", adapter=folder)
    gaps: list[float] = []  # how far below the best logit peft sees llama.cpp's choices
    distances: list[float] = []  # between the log-probabilities of the same tokens
    changed = 0
    for user, cue in PASSAGES:
        prompt = Prompt("", (), user, cue)
        scores: list[float] = []
        text = "".join(ours.stream(prompt, GREEDY, scores))
        changed += text != "".join(bare.stream(prompt, GREEDY))
        asked = ours._tokenize(prompt.as_text(), add_special=True)
        chosen = ours._tokenize(text, add_special=False)
        with torch.no_grad():
            logits = theirs._model(torch.tensor([asked + chosen])).logits[0, len(asked) - 1 : -1]
        picked = logits.gather(1, torch.tensor(chosen)[:, None])[:, 0]
        gaps.append(float((logits.max(dim=1).values - picked).max()))
        expected = logits.log_softmax(dim=1).gather(1, torch.tensor(chosen)[:, None])[:, 0]
        if len(scores) == len(chosen):  # a character cut in two has tokens without a text
            distances += [abs(a - float(b)) for a, b in zip(scores, expected, strict=True)]
    assert changed >= 3
    assert max(gaps) < 0.3
    assert len(distances) >= 32
    assert sum(distances) / len(distances) < 0.1
