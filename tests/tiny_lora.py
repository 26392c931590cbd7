"""Random LoRA adapters in peft's format, large enough in effect to change what a model says."""

import json
from pathlib import Path

import numpy as np

# The tiny models of `tests.tiny_models`: width 32, inner 64.
TINY = {
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (32, 32),
    "self_attn.v_proj": (32, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (64, 32),
    "mlp.up_proj": (64, 32),
    "mlp.down_proj": (32, 64),
}
GEMMA = {
    "self_attn.q_proj": (1024, 640),
    "self_attn.k_proj": (256, 640),
    "self_attn.v_proj": (256, 640),
    "self_attn.o_proj": (640, 1024),
    "mlp.gate_proj": (2048, 640),
    "mlp.up_proj": (2048, 640),
    "mlp.down_proj": (640, 2048),
}


def build_lora(
    folder: Path,
    shapes: dict[str, tuple[int, int]] = TINY,
    *,
    layers: int = 2,
    strength: float = 0.3,
    seed: int = 0,
    half: bool = False,
    **config: object,
) -> Path:
    """Write a LoRA of rank 4 for every layer.

    Args:
        folder: Made if need be.
        shapes: (out, in) of each linear layer to adapt.
        layers: How many blocks.
        strength: Standard deviation of B; A's is 1 / sqrt(in).
        seed: Of the numbers.
        half: Store float16.
        config: Entries of `adapter_config.json` to change.
    """
    from safetensors.numpy import save_file

    random = np.random.default_rng(seed)
    kind = np.float16 if half else np.float32
    tensors = {}
    for layer in range(layers):
        for name, (out, into) in shapes.items():
            stem = f"base_model.model.model.layers.{layer}.{name}"
            a = random.normal(0, into**-0.5, (4, into))
            b = random.normal(0, strength, (out, 4))
            tensors[f"{stem}.lora_A.weight"] = a.astype(kind)
            tensors[f"{stem}.lora_B.weight"] = b.astype(kind)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    plain = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "bias": "none",
        "target_modules": sorted(name.split(".")[1] for name in shapes),
        "base_model_name_or_path": "tiny", "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))
    return folder
