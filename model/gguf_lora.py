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
# What changes the sum, or when it is added, and has no place in a GGUF LoRA.
_PLAIN = {"use_dora": False, "bias": "none", "fan_in_fan_out": False, "lora_bias": False,
          "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None, "use_qalora": False,
          "alora_invocation_tokens": None, "layer_replication": None}  # fmt: skip
# Others (PiSSA, OLoRA, LoftQ ...) change the base's own weights when peft loads the adapter.
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
# Their rows are known to stand as `_as_stored` has them; others may be turned in ways of their own.
_ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3")
CONVERTER_VERSION = 1  # raise it when the same adapter and base would give another file
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
    # Named by all that it is made of and by: a new training or a new converter makes a new file.
    made_of = f"{adapter.sha256[:16]}-{adapter.base_sha256[:8]}"
    name = f"{made_of}-{CONVERTER_VERSION}.gguf"
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
        rank, scale = _rank_and_scale(json.loads((folder / LORA_CONFIG).read_text("utf-8")))
        matrices = _read_matrices(folder / LORA)
        turned = _heads_to_turn(base)
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
        RecursionError, SafetensorError,
    ) as error:  # fmt: skip
        raise WeightsError(
            f"llama.cpp cannot run the adapter {folder} ({_one_line(error)}); {_REMEDY}"
        ) from error
    shapes = {tensor.name: tensor.shape for tensor in base.tensors}
    for name, pair in sorted(matrices.items()):
        shape = shapes.get(name, ())
        out, into = shape if len(shape) == 2 else (0, 0)
        found = {letter: matrix.shape for letter, matrix in pair.items()}
        heads = turned.get(name.split(".")[2], 0)
        if found != {"A": (rank, into), "B": (out, rank)} or (heads and out % (2 * heads)):
            raise WeightsError(
                f"the adapter {folder} does not fit its base: {name} has another shape there; set"
                " generator.model to the base it was trained on"
            )
        yield name, pair["A"], _as_stored(pair["B"], heads), scale


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _rank_and_scale(config: dict[str, Any]) -> tuple[int, float]:
    """Return the rank and the factor of B A; a LoRA that is more than B A raises ValueError."""
    for key, plain in _PLAIN.items():
        if config.get(key) not in (plain, None):
            raise ValueError(f"{key} = {config[key]}")
    if config.get("init_lora_weights") not in _STARTS:
        raise ValueError(f"init_lora_weights = {config['init_lora_weights']}")
    rank = int(config["r"])
    root = math.sqrt(rank) if config.get("use_rslora") else rank
    return rank, float(config["lora_alpha"]) / root


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
        pair = found.setdefault(f"blk.{match[1]}.{_LAYERS[match[2]]}.weight", {})
        if match[3] in pair:  # of an image model's two towers
            raise ValueError(f"it adapts another layer that is called like {name}")
        pair[match[3]] = kept.contiguous().numpy()
    if not found:
        raise ValueError("it adapts nothing")
    return found


def _heads_to_turn(base: GgufHeader) -> dict[str, int]:
    """Return by layer how many heads have their rows in llama.cpp's own order.

    llama.cpp turns Llama's queries and keys so that the two halves of a head alternate (see
    `permute` in its convert_hf_to_gguf.py); files of Gemma and Qwen keep the order of transformers.
    """
    architecture = base.scalars["general.architecture"]
    if architecture not in _ARCHITECTURES:
        raise ValueError(f"the order of rows in {architecture} files is not known")
    if architecture != "llama":
        return {}
    heads = int(base.scalars["llama.attention.head_count"])
    keys = int(base.scalars.get("llama.attention.head_count_kv", heads))
    return {"attn_q": heads, "attn_k": keys}


def _as_stored(b: "np.ndarray[Any, Any]", heads: int) -> "np.ndarray[Any, Any]":
    """Return B with its rows as the base stores them, those of so many heads turned."""
    if not heads:
        return b
    turned = b.reshape(heads, 2, -1, b.shape[1]).swapaxes(1, 2)
    return turned.reshape(b.shape).copy()
