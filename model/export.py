"""The two-file model: one GGUF file and one small script that answers with it.

    model.gguf   the generator with its adapter merged in
    answer.py    `model/answer_script.py` with the prompt's words; needs xllamacpp, nothing of ours

Terms that must travel with the weights are copied beside them. Knows nothing of collections.

The base's values stand on the grid of their 4 or 5 bits, and what an adapter adds is mostly less
than half a step of it: quantised again to the same type, most of it would be rounded away. So
tensors that the adapter changes become Q8_0; all others, and the tokenizer, are copied bit by bit.
"""

import json
import os
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

    Matrix = np.ndarray[Any, Any]

MODEL = "model.gguf"
SCRIPT = "answer.py"
_NOTICE = "NOTICE.md"
_TERMS = ("GEMMA_TERMS.html", _NOTICE)
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
        WeightsError: The base or the adapter is unsound, they do not fit, or the disk is full.
    """
    read_header(base)  # so that what is wrong with it is said of it
    model, script = target / MODEL, target / SCRIPT
    beside = _terms(base, adapter)
    _require_room(target, [model, script, *(target / name for name in beside)], base, replace)
    try:
        target.mkdir(parents=True, exist_ok=True)
        if adapter is None:
            _copy(base, model)
        else:
            merge_gguf(base, adapter.folder, model)
        script.write_text(script_text(prompt), "utf-8")
        for name, content in beside.items():
            (target / name).write_bytes(content)
    except OSError as error:
        raise WeightsError(
            f"the model cannot be written to {target} ({error.strerror or error}): make that folder"
            " writable, or free space there"
        ) from error
    return [model, script]


def _require_room(target: Path, files: Sequence[Path], base: Path, replace: bool) -> None:
    """Refuse a target that is no folder, that holds the base, or, unless told to, the files."""
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file; name a folder to write the model to")
    for path in files:
        if path.exists() and path.samefile(base):
            raise UsageError(f"{path} is the model to export; name another folder")
        if path.exists() and not replace:
            raise UsageError(f"{path} exists; overwrite it with --force, or name another folder")


def _copy(source: Path, target: Path) -> None:
    """Copy a file beside its place and rename it, so that no half of one is ever read."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(source, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def merge_gguf(base: Path, adapter: Path, target: Path) -> None:
    """Write a GGUF file with a LoRA merged into it.

    Raises:
        WeightsError: The LoRA does not fit the base, or the package gguf is missing.
    """
    import numpy as np

    header = read_header(base)
    # Kept as narrow matrices: all products at once would take as much memory as the model.
    changes = {name: (a, scale * b.astype(np.float32)) for name, a, b, scale in lora_pairs(
        adapter, header)}  # fmt: skip
    data = np.memmap(base, mode="r").data
    alignment = int(header.scalars.get("general.alignment", ALIGNMENT))
    tensors = _merged(header, data, changes)
    write_gguf(target, [header.metadata], header.entries, tensors, alignment)


def _merged(
    header: GgufHeader, data: memoryview, changes: "dict[str, tuple[Matrix, Matrix]]"
) -> Iterator[tuple[str, Sequence[int], int, bytes | memoryview]]:
    """Yield every tensor, those with a change merged."""
    for tensor in header.tensors:
        raw = data[tensor.start : tensor.end]
        if tensor.name in changes:
            a, b = changes[tensor.name]
            kind, merged = _add(tensor, raw, b @ a.astype(b.dtype))
            yield tensor.name, tensor.shape, kind, merged
        else:
            yield tensor.name, tensor.shape, tensor.kind, raw


def _add(tensor: GgufTensor, raw: memoryview, change: "Matrix") -> tuple[int, bytes]:
    """Return the type and the bytes of a tensor plus a change of shape (out, in).

    Raises:
        WeightsError: It is damaged or of a type that the package gguf cannot read.
    """
    import numpy as np

    try:
        import gguf
    except ImportError as error:
        raise WeightsError(f"the package gguf is not installed: {INSTALL}") from error
    to = tensor.kind if tensor.kind in _FLOATS else _Q8_0
    try:
        kind = gguf.GGMLQuantizationType(tensor.kind)
        stored = gguf.quant_shape_to_byte_shape(tensor.shape, kind)
        packed = np.frombuffer(raw[: int(np.prod(stored))], np.uint8).reshape(stored)
        values = gguf.dequantize(packed, kind).reshape(tensor.shape)
        merged = gguf.quantize(values + change, gguf.GGMLQuantizationType(to))
    except (ValueError, NotImplementedError, gguf.QuantError) as error:
        raise WeightsError(
            f"nothing can be merged into {tensor.name} ({error}); set generator.adapter = none, or"
            " generator.model to a sound GGUF file of the same model"
        ) from error
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


def _terms(base: Path, adapter: Adapter | None) -> dict[str, bytes]:
    """Return by name the files that travel with the weights.

    The notice also says that they were changed, as the terms of Gemma ask.
    """
    found = {
        name: (base.parent / name).read_bytes() for name in _TERMS if (base.parent / name).is_file()
    }
    if adapter is not None:
        changed = (
            f"\n{MODEL} was modified: the LoRA adapter {adapter.name}"
            f" (SHA-256 {adapter.sha256}), trained on {adapter.base_name}, is merged into its"
            " linear layers, which are stored as Q8_0.\n"
        )
        found[_NOTICE] = found.get(_NOTICE, b"") + changed.encode("utf-8", "replace")
    return found
