"""Tiny language models with random weights, built on the spot: files as the real ones come."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

CHAT_TEMPLATE = (
    "{% for message in messages %}<turn>{{ message['role'] }}: {{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant: {% endif %}"
)
_TRAINING_TEXT = [
    "The harbour of Orrin has three piers and a lantern that burns all night.",
    "Answer the question briefly. Question: who mends the nets? Answer: the old keeper [1]",
    "港口有三座码头和一盏整夜不灭的灯。问题：谁修补渔网？答案：老守夜人[1]",
    "turn user assistant system : < >",
]


def build_tokenizer(folder: Path, chat_template: str | None = None) -> int:
    """Train a tokenizer on a few sentences, save it, and return its vocabulary's size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<pad>", "<s>", "</s>", "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator([*_TRAINING_TEXT, "\n"], trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>",
    )  # fmt: skip
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    return len(fast)


def build_transformers_model(
    folder: Path,
    kind: Literal["llama", "gpt2", "t5"] = "llama",
    *,
    chat_template: str | None = None,
    positions: int = 512,
) -> Path:
    """Save a two-layer language model and its tokenizer as a transformers folder."""
    import torch
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    size = build_tokenizer(folder, chat_template)
    torch.manual_seed(0)
    model: Any
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=positions, initializer_range=0.5,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        ))  # fmt: skip
    elif kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(
            vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=positions,
            initializer_range=0.5, bos_token_id=1, eos_token_id=2,
        ))  # fmt: skip
    else:
        model = T5ForConditionalGeneration(T5Config(
            vocab_size=size, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
            initializer_factor=4.0, pad_token_id=0, eos_token_id=2,
        ))  # fmt: skip
        model.generation_config.decoder_start_token_id = 0
    model.save_pretrained(folder)
    return folder


def build_gguf_model(path: Path, chat_template: str | None = None) -> Path:
    """Write a two-layer llama with a byte vocabulary as a GGUF file."""
    import gguf

    words = [
        " ",
        "a",
        "e",
        "n",
        "r",
        "th",
        "er",
        "in",
        "on",
        "the",
        "Answer",
        "港",
        "灯",
        "问",
        "答",
    ]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(words)
    tokens += [word.replace(" ", "▁") for word in words]
    width, inner, layers = 32, 64, 2

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_block_count(layers)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(width // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if chat_template:
        writer.add_chat_template(chat_template)
    random = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values = np.ones(shape) if len(shape) == 1 else random.normal(0, 0.3, shape)
        writer.add_tensor(name, values.astype(np.float32))

    add("token_embd.weight", len(tokens), width)
    add("output_norm.weight", width)
    add("output.weight", len(tokens), width)
    for layer in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}.weight", width)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", width, width)
        for name in ("ffn_gate", "ffn_up"):
            add(f"blk.{layer}.{name}.weight", inner, width)
        add(f"blk.{layer}.ffn_down.weight", width, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
