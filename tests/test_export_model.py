"""The two-file model: it says what the adapter says, and its script needs nothing of ours."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from app.cli import cli
from ingest.errors import UsageError, WeightsError
from model.adapters import label_adapter, read_adapter
from model.answer_script import likeliest, marked
from model.export import MODEL, SCRIPT, export_two_files, merge_gguf, script_text
from model.generators import Decoding, LlamaCppGenerator
from model.gguf_files import read_header
from model.gguf_lora import write_gguf_lora
from model.prompts import Prompt, PromptOptions, build_prompt
from model.weights import base_hash
from tests.tiny_lora import GEMMA, build_lora
from tests.tiny_models import build_gguf_model

PROMPT = Prompt("", (), "The nets are mended by night.\nQuestion: when?", "Answer:")
NOTES = "Tea from Orra is green.\n\nThe bridge at Zarnith was finished in 1923 by Ola Fenn.\n"


def says(path: Path, lora: Path | None = None, *, tokens: int = 24) -> tuple[str, list[float]]:
    generator = LlamaCppGenerator(path, name="x", threads=1, context_tokens=512, lora=lora)
    scores: list[float] = []
    return "".join(generator.stream(PROMPT, Decoding(max_new_tokens=tokens), scores)), scores


def ask(folder: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script as a stranger would: elsewhere, without our folder on the path."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, str(folder / SCRIPT), *arguments],
        input=given, cwd=folder, env=environment, capture_output=True, encoding="utf-8",
        check=False, timeout=300,
    )  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    pytest.importorskip("gguf", reason="needs the `weights` extra")
    (tmp_path / "base").mkdir()
    return build_gguf_model(tmp_path / "base" / "基.gguf")


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    folder = build_lora(tmp_path / "home" / "adapters" / "mine")
    label_adapter(folder, "answer", "tiny", base_hash(base, tmp_path), {"examples": 0})
    return folder


class TestMerging:
    def test_it_says_what_the_adapter_says(self, base: Path, adapter: Path, tmp_path: Path) -> None:
        write_gguf_lora(adapter, base, tmp_path / "lora.gguf")
        merge_gguf(base, adapter, tmp_path / "merged.gguf")
        adapted, merged = says(base, tmp_path / "lora.gguf"), says(tmp_path / "merged.gguf")
        assert merged[0] == adapted[0] != says(base)[0]
        assert merged[1] == pytest.approx(adapted[1], abs=0.02)

    def test_what_the_adapter_leaves_alone_is_copied(self, base: Path, tmp_path: Path) -> None:
        folder = build_lora(tmp_path / "lora", {"mlp.up_proj": (64, 32)}, layers=1)
        merge_gguf(base, folder, tmp_path / "merged.gguf")
        before, after = read_header(base), read_header(tmp_path / "merged.gguf")
        assert (before.metadata, before.entries) == (after.metadata, after.entries)
        old, new = base.read_bytes(), (tmp_path / "merged.gguf").read_bytes()
        assert [t.name for t in before.tensors] == [t.name for t in after.tensors]
        changed = [
            x.name
            for x, y in zip(before.tensors, after.tensors, strict=True)
            if old[x.start : x.end].rstrip(b"\0") != new[y.start : y.end].rstrip(b"\0")
        ]
        assert changed == ["blk.0.ffn_up.weight"]

    def test_a_quantised_tensor_keeps_a_change_smaller_than_its_step(self, tmp_path: Path) -> None:
        gguf = pytest.importorskip("gguf", reason="needs the `weights` extra")
        path = tmp_path / "base.gguf"
        values = np.random.default_rng(0).normal(0, 1, (32, 32)).astype(np.float32)
        writer = gguf.GGUFWriter(path, "gemma3")
        kind = gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor("blk.0.attn_q.weight", gguf.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        folder = build_lora(
            tmp_path / "lora", {"self_attn.q_proj": (32, 32)}, layers=1, strength=0.02
        )
        merge_gguf(path, folder, tmp_path / "merged.gguf")
        (tensor,) = read_header(tmp_path / "merged.gguf").tensors
        raw = np.frombuffer((tmp_path / "merged.gguf").read_bytes()[tensor.start :], np.uint8)
        q8_0 = gguf.GGMLQuantizationType.Q8_0
        merged = gguf.dequantize(raw[: 32 * 34].reshape(32, 34), q8_0)
        from safetensors.numpy import load_file

        a, b = load_file(folder / "adapter_model.safetensors").values()
        change = 2 * b @ a
        before = gguf.dequantize(gguf.quantize(values, kind), kind)
        again = gguf.dequantize(gguf.quantize(before + change, kind), kind)

        def kept(after: np.ndarray[Any, Any]) -> float:
            return float(np.corrcoef((after - before).ravel(), change.ravel())[0, 1])

        assert kept(merged) > 0.9
        assert kept(again) < kept(merged) - 0.2  # of the same four bits


class TestScript:
    def test_it_imports_only_python_and_xllamacpp(self) -> None:
        tree = ast.parse(script_text(PromptOptions()))
        names = {
            name.split(".")[0]
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert names - set(sys.stdlib_module_names) == {"xllamacpp"}

    @pytest.mark.parametrize("options", [PromptOptions(), PromptOptions(examples=0)])
    @pytest.mark.parametrize("question", ["Who built the bridge?", "桥是谁造的？"])
    def test_its_prompt_is_ours(self, options: PromptOptions, question: str) -> None:
        scope: dict[str, object] = {"__name__": "script"}
        exec(compile(script_text(options), SCRIPT, "exec"), scope)
        forms: object = scope["PROMPTS"]
        assert isinstance(forms, dict)
        form = forms["zh" if "桥" in question else "en"]
        text = form["text"].replace("<passages>", "[1] A\n[2] B").replace("<question>", question)
        ours = build_prompt(question, [(1, "A"), (2, "B")], options)
        assert (text, form["stop"]) == (ours.as_text(), list(ours.stop))

    def test_it_picks_what_shares_rare_terms(self) -> None:
        passages = ["The tea is green. It is sold. " * 20, "The bridge is old. Ola Fenn built it."]
        shown = likeliest("Who built the old bridge?", passages, 12)
        assert list(shown) == [2]
        assert shown[2] == "The bridge is old. Ola Fenn built it."
        chinese = likeliest("桥是谁造的？", ["茶是绿色的。", "这座桥很旧。欧拉造的。"], 30)
        assert list(chinese)[-1] == 2

    def test_marks(self) -> None:
        shown = {1: "Ola Fenn built it.", 3: "Nobody knows."}
        assert marked("Ola Fenn [3]", shown) == "Ola Fenn [3]"
        assert marked("ola fenn.", shown) == "ola fenn. [1]"
        assert marked("someone", shown) == "someone"

    def test_it_answers_without_anything_of_ours(
        self, base: Path, adapter: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "两个文件"
        (base.parent / "NOTICE.md").write_text("Terms.")
        model, script = export_two_files(
            folder, base, read_adapter(adapter), PromptOptions(examples=0)
        )
        assert (model.name, script.name) == (MODEL, SCRIPT)
        notice = (folder / "NOTICE.md").read_text()
        assert notice.startswith("Terms.") and "was modified" in notice
        (folder / "notes.txt").write_text(NOTES)
        done = ask(folder, "Who built the bridge?", "notes.txt")
        assert (done.returncode, done.stdout != "\n") == (0, True), done.stderr
        assert ask(folder, "Who built the bridge?", given=NOTES).stdout == done.stdout
        for arguments in ([], ["Who?"], ["Who?", "none.txt"]):
            wrong = ask(folder, *arguments)
            assert wrong.returncode == 1 and wrong.stderr.count("\n") == 1


class TestExporting:
    def test_nothing_is_overwritten_unasked(self, base: Path, tmp_path: Path) -> None:
        folder = tmp_path / "out"
        export_two_files(folder, base, None, PromptOptions())
        assert (folder / MODEL).read_bytes() == base.read_bytes()
        with pytest.raises(UsageError, match="--force"):
            export_two_files(folder, base, None, PromptOptions())
        export_two_files(folder, base, None, PromptOptions(), replace=True)
        with pytest.raises(UsageError, match="name a folder"):
            export_two_files(base, base, None, PromptOptions())

    def test_a_notice_of_the_folders_own_is_not_overwritten(
        self, base: Path, adapter: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "out"
        folder.mkdir()
        (folder / "NOTICE.md").write_text("Mine.")
        with pytest.raises(UsageError, match="--force"):
            export_two_files(folder, base, read_adapter(adapter), PromptOptions())
        assert (folder / "NOTICE.md").read_text() == "Mine."
        export_two_files(folder, base, None, PromptOptions())  # nothing to say
        for _ in range(2):
            export_two_files(folder, base, read_adapter(adapter), PromptOptions(), replace=True)
        assert (folder / "NOTICE.md").read_text().count("was modified") == 1

    @pytest.mark.parametrize("merged", [False, True])
    def test_the_base_is_never_written_over(self, base: Path, adapter: Path, merged: bool) -> None:
        own = base.with_name(MODEL)
        base.rename(own)
        before = own.read_bytes()
        with pytest.raises(UsageError, match="name another folder"):
            export_two_files(
                own.parent, own, read_adapter(adapter) if merged else None, PromptOptions(),
                replace=True,
            )  # fmt: skip
        assert own.read_bytes() == before

    def test_a_base_that_is_none_is_named(self, tmp_path: Path) -> None:
        for base in (tmp_path / "none.gguf", Path(__file__)):
            with pytest.raises(WeightsError, match="cannot be read as a GGUF file"):
                export_two_files(tmp_path / "out", base, None, PromptOptions())
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("kind", [4, 16, 27])  # gone from ggml; of other blocks; whole numbers
    def test_a_tensor_of_a_type_that_cannot_be_merged(
        self, base: Path, adapter: Path, tmp_path: Path, kind: int
    ) -> None:
        name = b"blk.0.ffn_up.weight"
        content = bytearray(base.read_bytes())
        at = content.find(name) + len(name) + 4 + 2 * 8
        content[at : at + 4] = kind.to_bytes(4, "little")
        base.write_bytes(content)
        with pytest.raises(WeightsError, match=r"merged into blk\.0\.ffn_up\.weight"):
            merge_gguf(base, adapter, tmp_path / MODEL)
        assert not (tmp_path / MODEL).exists()

    def test_an_adapter_of_another_shape_leaves_no_model(self, base: Path, tmp_path: Path) -> None:
        folder = build_lora(tmp_path / "wide", {"mlp.up_proj": (48, 32)})
        label_adapter(folder, "answer", "tiny", "a" * 64)
        with pytest.raises(WeightsError, match="does not fit its base"):
            export_two_files(tmp_path / "out", base, read_adapter(folder), PromptOptions())
        assert list((tmp_path / "out").iterdir()) == []

    def test_the_command(self, base: Path, adapter: Path, tmp_path: Path) -> None:
        def tether(*arguments: str) -> Result:
            return CliRunner().invoke(cli, [
                "--home", str(tmp_path / "home"), "--set", f"generator.model={base}",
                "--set", "generator.adapter=mine", "export", *arguments,
            ])  # fmt: skip

        done = tether(f"{tmp_path / 'model'}/")
        assert done.exit_code == 0, done.exception
        assert re.search(r"model\.gguf \(.*MB\)", done.output) and "answer.py" in done.output
        assert isinstance(tether(str(tmp_path / "model")).exception, UsageError)  # it is there
        assert tether("--model", "--force", str(tmp_path / "model")).exit_code == 0
        named = tether("--collection", "x", str(tmp_path / "model"))
        assert "is a folder" in str(named.exception)
        hub = CliRunner().invoke(cli, ["--set", "generator.model=org/x", "export", "--model", "y"])
        assert "only a GGUF file can be exported" in str(hub.exception)


@pytest.mark.weights
def test_gemma_as_two_files(gemma_gguf: Path, tmp_path: Path) -> None:
    """Merged and quantised again, it stays with the adapter that runs beside the base."""
    folder = build_lora(tmp_path / "lora", GEMMA, layers=18, strength=0.005, half=True)
    label_adapter(folder, "answer", "gemma-3-270m", base_hash(gemma_gguf, tmp_path))
    out = tmp_path / "out"
    export_two_files(out, gemma_gguf, read_adapter(folder), PromptOptions())
    assert (out / "GEMMA_TERMS.html").stat().st_size > 0
    assert (out / MODEL).stat().st_size < 1.2 * gemma_gguf.stat().st_size
    write_gguf_lora(folder, gemma_gguf, tmp_path / "lora.gguf")
    adapted, merged = (
        says(gemma_gguf, tmp_path / "lora.gguf", tokens=8),
        says(out / MODEL, tokens=8),
    )
    assert merged[0][:8] == adapted[0][:8]
    assert merged[1][0] == pytest.approx(adapted[1][0], abs=0.2)  # 8 bits of a random adapter
    done = ask(out, "Who built the Zarnith bridge?", given=NOTES)
    assert "Ola Fenn" in done.stdout, done.stderr
    assert "[2]" in done.stdout
