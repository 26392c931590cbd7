"""The two-file model: one GGUF file and one small script that answers with it.

    model.gguf   the generator with its adapter merged in
    answer.py    `model/answer_script.py` with the prompt's words; needs xllamacpp, nothing of ours

Terms that must travel with the weights are copied beside them. Knows nothing of collections.

The base's values stand on the grid of their 4 or 5 bits, and what an adapter adds is mostly less
than half a step of it: quantised again to the same type, most of it would be rounded away. So
tensors that the adapter changes become Q8_0; all others, and the tokenizer, are copied bit by bit.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.errors import UsageError, WeightsError
from model.adapters import Adapter
from model.gguf_files import ALIGNMENT, GgufHeader, GgufTensor, read_header, write_gguf
from model.gguf_lora import lora_pairs
from model.prompts import PromptOptions, build_prompt
from retrieval.weights import INSTALL

if TYPE_CHECKING:
    import numpy as np

MODEL = "model.gguf"
SCRIPT = "answer.py"
_TERMS = ("GEMMA_TERMS.html", "NOTICE.md")
_FLOATS = (0, 1, 30)  # ggml's numbers of float32, float16, bfloat16: they stay what they are
_Q8_0 = 8
# Stand for the passages and the question in a prompt; the second decides the language.
_SENTINELS = {"en": ("<passages>", "<question>"), "zh": ("<passages>", "<question>问")}


def export_two_files(
    target: Path,
    base: Path,
    adapter: Adapter | None,
    prompt: PromptOptions,
    *,
    replace: bool = False,
) -> list[Path]:
    """Write the two-file model into a folder; return its two files, the model first.

    Args:
        target: The folder, made if need be.
        base: The generator's GGUF file.
        adapter: What to merge into it, if anything.
        prompt: The options of the prompt that the model is asked with.
        replace: Overwrite files of the same names.

    Raises:
        UsageError: A file of that name is there already, or the target is no folder.
        WeightsError: The adapter does not fit the base, or the disk is full.
    """
    model, script = target / MODEL, target / SCRIPT
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file; name a folder to write the model to")
    for path in (model, script):
        if path.exists() and not replace:
            raise UsageError(f"{path} exists; overwrite it with --force, or name another folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
        if adapter is None:
            shutil.copyfile(base, model)
        else:
            merge_gguf(base, adapter.folder, model)
        script.write_text(script_text(prompt), "utf-8")
        for name in _TERMS:
            if (base.parent / name).is_file():
                shutil.copyfile(base.parent / name, target / name)
        if adapter is not None:
            _write_notice(target / "NOTICE.md", adapter)
    except OSError as error:
        raise WeightsError(
            f"the model cannot be written to {target} ({error.strerror or error}): make that folder"
            " writable, or free space there"
        ) from error
    return [model, script]


def merge_gguf(base: Path, adapter: Path, target: Path) -> None:
    """Write a GGUF file with a LoRA merged into it.

    Raises:
        WeightsError: The LoRA does not fit the base, or the package gguf is missing.
    """
    import numpy as np

    header = read_header(base)
    changes = {
        name: (scale * b.astype(np.float32)) @ a.astype(np.float32)
        for name, a, b, scale in lora_pairs(adapter, header)
    }
    data = np.memmap(base, mode="r").data
    alignment = int(header.scalars.get("general.alignment", ALIGNMENT))
    tensors = _merged(header, data, changes)
    write_gguf(target, [header.metadata], header.entries, tensors, alignment)


def _merged(
    header: GgufHeader, data: memoryview, changes: "dict[str, np.ndarray[Any, Any]]"
) -> Iterator[tuple[str, Sequence[int], int, bytes | memoryview]]:
    """Yield every tensor, those with a change merged."""
    for tensor in header.tensors:
        raw = data[tensor.start : tensor.end]
        if tensor.name in changes:
            kind, merged = _add(tensor, raw, changes[tensor.name])
            yield tensor.name, tensor.shape, kind, merged
        else:
            yield tensor.name, tensor.shape, tensor.kind, raw


def _add(tensor: GgufTensor, raw: memoryview, change: "np.ndarray[Any, Any]") -> tuple[int, bytes]:
    """Return the type and the bytes of a tensor plus a change of shape (out, in)."""
    import numpy as np

    try:
        import gguf
    except ImportError as error:
        raise WeightsError(f"the package gguf is not installed: {INSTALL}") from error
    kind = gguf.GGMLQuantizationType(tensor.kind)
    stored = gguf.quant_shape_to_byte_shape(tensor.shape, kind)
    packed = np.frombuffer(raw[: int(np.prod(stored))], np.uint8).reshape(stored)
    values = gguf.dequantize(packed, kind).reshape(tensor.shape)
    to = tensor.kind if tensor.kind in _FLOATS else _Q8_0
    merged = gguf.quantize(values + change, gguf.GGMLQuantizationType(to))
    return to, merged.tobytes()


def script_text(prompt: PromptOptions) -> str:
    """Return `answer.py`: the script with the prompt of each language, as the model knows it."""
    forms = {}
    for language, (passages, question) in _SENTINELS.items():
        made = build_prompt(question, [(1, passages)], prompt)
        text = made.as_text().replace(f"[1] {passages}", passages).replace(question, "<question>")
        forms[language] = {
            "text": text,
            "stop": list(made.stop),
            "budget": prompt.passage_tokens,
        }
    source = Path(__file__).with_name("answer_script.py").read_text("utf-8")
    empty = "PROMPTS: dict[str, dict[str, Any]] = {}\n"
    written = json.dumps(forms, ensure_ascii=False, indent=4)
    return source.replace(empty, f"PROMPTS: dict[str, dict[str, Any]] = {written}\n")


def _write_notice(path: Path, adapter: Adapter) -> None:
    """Say beside the weights that they were changed, as the terms of Gemma ask."""
    before = path.read_text("utf-8") if path.is_file() else ""
    path.write_text(
        f"{before}\n{MODEL} was modified: the LoRA adapter {adapter.name}"
        f" (SHA-256 {adapter.sha256}), trained on {adapter.base_name}, is merged into its linear"
        " layers, which are stored as Q8_0.\n",
        "utf-8",
    )
