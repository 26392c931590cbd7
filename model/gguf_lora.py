"""A peft LoRA as the GGUF file that llama.cpp reads, made once for each adapter and base.

llama.cpp adds `alpha / rank * B A x` to the product of a tensor: the same sum that peft forms. The
file holds `general.type = adapter`, `adapter.type = lora`, `adapter.lora.alpha`, and for every
adapted tensor the pair `<tensor>.lora_a` (rank, in) and `<tensor>.lora_b` (out, rank). Knows models
whose linear layers are named as Llama's are (Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3), and
nothing of prompts or of generation.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.errors import WeightsError
from model.adapters import LORA, LORA_CONFIG, Adapter
from model.gguf_files import GgufHeader, metadata_entry, read_header, write_gguf

if TYPE_CHECKING:
    import numpy as np

_LAYERS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NAME = re.compile(r".*\blayers\.(\d+)\.([\w.]+)\.lora_([AB])\.weight")
_KINDS = {"float32": 0, "float16": 1}  # ggml's numbers
# What changes the sum and has no place in a GGUF LoRA.
_PLAIN = {"use_dora": False, "bias": "none", "fan_in_fan_out": False, "lora_bias": False,
          "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None}  # fmt: skip
_REMEDY = "set generator.backend = transformers, which runs it as it is"


def prepare_gguf_lora(adapter: Adapter, base: Path, home: Path) -> Path:
    """Return the adapter's GGUF file below the home, written on the first call.

    Args:
        adapter: An adapter of a generator.
        base: The GGUF file of its base.
        home: Tether's home folder.

    Raises:
        WeightsError: The adapter is no plain LoRA, does not fit the base, or the disk is full.
    """
    # Named by the contents of the adapter and by its base: a new training makes a new file.
    name = f"{adapter.sha256[:16]}-{adapter.base_sha256[:8]}.gguf"
    target = home / "weights" / "adapters" / name
    if not target.is_file():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_gguf_lora(adapter.folder, base, target)
        except OSError as error:
            raise WeightsError(
                f"{target} cannot be written ({error.strerror or error}): free space there, or set"
                " TETHER_HOME to another disk"
            ) from error
    return target


def write_gguf_lora(folder: Path, base: Path, target: Path) -> None:
    """Write a peft LoRA's folder as a GGUF LoRA for a base.

    Raises:
        WeightsError: The adapter is no plain LoRA, or does not fit the base.
    """
    header = read_header(base)
    alpha, pairs = 0.0, []
    for name, a, b, scale in lora_pairs(folder, header):
        alpha = scale * a.shape[0]  # of one rank, so the same for all
        pairs += [
            (f"{name}.lora_{letter}", matrix.shape, _KINDS[matrix.dtype.name], matrix.tobytes())
            for letter, matrix in (("a", a), ("b", b))
        ]
    metadata = [
        metadata_entry("general.architecture", str(header.scalars["general.architecture"])),
        metadata_entry("general.type", "adapter"),
        metadata_entry("adapter.type", "lora"),
        metadata_entry("adapter.lora.alpha", float(alpha)),
    ]
    write_gguf(target, metadata, len(metadata), pairs)


def lora_pairs(
    folder: Path, base: GgufHeader
) -> Iterator[tuple[str, "np.ndarray[Any, Any]", "np.ndarray[Any, Any]", float]]:
    """Yield a LoRA in the order of rows that the base's GGUF file has.

    Yields:
        The tensor's name in the base, A (rank, in), B (out, rank), and the factor of B A.

    Raises:
        WeightsError: The adapter is no plain LoRA, or does not fit the base.
    """
    from safetensors import SafetensorError

    try:
        scale = _scale(json.loads((folder / LORA_CONFIG).read_text("utf-8")))
        matrices = _read_matrices(folder / LORA)
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise WeightsError(f"llama.cpp cannot run the adapter {folder} ({error}); {_REMEDY}") from (
            error
        )
    shapes = {tensor.name: tensor.shape for tensor in base.tensors}
    for name, pair in sorted(matrices.items()):
        if set(pair) != {"A", "B"} or shapes.get(name) != (pair["B"].shape[0], pair["A"].shape[1]):
            raise WeightsError(
                f"the adapter {folder} does not fit its base: {name} has another shape there; set"
                " generator.model to the base it was trained on"
            )
        yield name, pair["A"], _as_stored(name, pair["B"], base), scale


def _scale(config: dict[str, Any]) -> float:
    """Return the factor of B A; a LoRA that is more than B A raises ValueError."""
    for key, plain in _PLAIN.items():
        if config.get(key) not in (plain, None):
            raise ValueError(f"{key} = {config[key]}")
    rank = int(config["r"])
    root = math.sqrt(rank) if config.get("use_rslora") else rank
    return float(config["lora_alpha"]) / root


def _read_matrices(path: Path) -> dict[str, dict[str, "np.ndarray[Any, Any]"]]:
    """Return the matrices by the tensor they adapt, in float16 or float32."""
    import torch
    from safetensors.torch import load_file

    found: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    for name, tensor in load_file(path).items():
        match = _NAME.fullmatch(name)
        if match is None or match[2] not in _LAYERS:
            raise ValueError(f"it adapts {name}")
        kept = tensor if tensor.dtype == torch.float16 else tensor.float()
        layer = f"blk.{match[1]}.{_LAYERS[match[2]]}.weight"
        found.setdefault(layer, {})[match[3]] = kept.contiguous().numpy()
    if not found:
        raise ValueError("it adapts nothing")
    return found


def _as_stored(name: str, b: "np.ndarray[Any, Any]", base: GgufHeader) -> "np.ndarray[Any, Any]":
    """Return B with its rows as the base stores them.

    llama.cpp turns Llama's queries and keys so that the two halves of a head alternate (see
    `permute` in its convert_hf_to_gguf.py); files of Gemma and Qwen keep the order of transformers.
    """
    if base.scalars["general.architecture"] != "llama" or not re.search(r"attn_[qk]\.", name):
        return b
    heads = int(base.scalars["llama.attention.head_count"])
    if "attn_k" in name:
        heads = int(base.scalars.get("llama.attention.head_count_kv", heads))
    turned = b.reshape(heads, 2, -1, b.shape[1]).swapaxes(1, 2)
    return turned.reshape(b.shape).copy()
