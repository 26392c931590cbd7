"""A BERT sentence encoder in onnxruntime: the fast way on a CPU, without torch.

    shape = read_shape(folder)           # None: not a model that is computed here, use torch
    model = OnnxBert(folder, shape)
    vectors = model.encode(["query: 谁造了这座桥？"])          # (1, width), unit length
    states = model.compute(rows, finish, adapter)          # any head over any LoRA, same session

Reads a sentence-transformers folder (`config.json`, `tokenizer.json`, `model.safetensors`) and
writes the graph itself, so nothing is traced and no second copy of the weights lies on the disk.
The word embeddings, 80% of a multilingual model, stay in the memory-mapped file: only the rows of
tokens that occur are ever read. Adapters (LoRA, https://arxiv.org/abs/2106.09685) are inputs of
the graph, not part of it: any number of them share the weights, and without one (rank 0) the
vectors are the model's own. Knows nothing of prompts, names, heads or stores.
"""

import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ingest.errors import WeightsError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

BATCH_TOKENS = 450  # padded tokens a batch, whose states still fit the caches of a core

_CONTRIB = "com.microsoft"  # onnxruntime's own operators
_WEIGHTS = "model.safetensors"
_Floats = NDArray[np.float32]
# What reading a file raises that says something else than it should, or says it too deeply nested.
_NONSENSE = (
    ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, struct.error,
)  # fmt: skip
LOW_RANK = (".lora_A", ".lora_B")  # after the name of a linear layer: (in, rank) and (rank, out)


@dataclass(frozen=True, slots=True)
class BertShape:
    """What of a model's configuration decides its arithmetic."""

    width: int
    layers: int
    heads: int
    epsilon: float  # of every layer normalisation
    most_tokens: int  # a text is cut to so many, special tokens included
    pooling: Literal["mean", "cls"]


def read_shape(folder: Path) -> BertShape | None:
    """Return the shape of the model in a folder, None if it is not one that is computed here.

    Computed here: `BertModel` with erf-GELU and absolute positions, in one float32 safetensors
    file, with a `tokenizer.json`, and pooled by mean or first token, prompts included.
    """
    try:
        config = _read_json(folder / "config.json")
        pooling = _pooling(folder)
        fits = (
            config["model_type"] == "bert"
            and config["hidden_act"] == "gelu"
            and config.get("position_embedding_type", "absolute") == "absolute"
            and not config.get("is_decoder")
            and _is_float32(folder / _WEIGHTS)
            and (folder / "tokenizer.json").is_file()
        )
        if pooling is None or not fits:
            return None
        return BertShape(
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            epsilon=config["layer_norm_eps"],
            most_tokens=min(_most_tokens(folder), config["max_position_embeddings"]),
            pooling=pooling,
        )
    except (*_NONSENSE, OSError):
        return None  # torch's loader says what is wrong with the folder


def read_prompts(folder: Path) -> dict[str, str]:
    """Return the prompts that sentence-transformers puts before a "query" and a "document".

    Raises:
        WeightsError: The folder's configuration is damaged.
    """
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return {}
    try:
        config = _read_json(path)
        given = config.get("prompts") or {}
        default = given.get(config.get("default_prompt_name"), "")
        documents = [given[name] for name in ("document", "passage", "corpus") if name in given]
        return {
            "query": str(given.get("query", default)),
            "document": str(documents[0] if documents else default),
        }
    except (*_NONSENSE, OSError) as error:
        raise _damaged(path, str(error)) from error


def map_tensors(path: Path) -> dict[str, _Floats]:
    """Return the float32 tensors of a safetensors file as views of the file, nothing read yet.

    Raises:
        WeightsError: The file is missing or damaged.
    """
    try:
        base, entries = _read_header(path)
        return {
            name.removeprefix("bert."): _map_tensor(path, base, entry)
            for name, entry in entries.items()
            if entry["dtype"] == "F32"
        }
    except (*_NONSENSE, OSError) as error:
        raise _damaged(path, str(error)) from error


class BertTokenizer:
    """A folder's own tokenizer, for one text at a time; may be used by several threads at once."""

    def __init__(self, path: Path) -> None:
        """Load a `tokenizer.json`.

        Raises:
            WeightsError: The file is missing or damaged.
        """
        self._tokenizer = _load_tokenizer(path)
        self.vocabulary: int = self._tokenizer.get_vocab_size()
        self.before, self.after = self._frame()  # special tokens around a text: <s> and </s>

    def tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the ids of a text, special tokens excluded, and their (start, end) characters.

        One by one: the tokenizer's own batches start threads, and a process with those cannot
        be forked quietly. Tokenizing takes a hundredth of the time that encoding does.
        """
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return found.ids, found.offsets

    def _frame(self) -> tuple[list[int], list[int]]:
        found = self._tokenizer.encode("a")
        ordinary = [i for i, special in enumerate(found.special_tokens_mask) if not special]
        if not ordinary:  # "a" is no token of its own
            ordinary = [1]
        return found.ids[: ordinary[0]], found.ids[ordinary[-1] + 1 :]


class OnnxBert:
    """Texts become unit vectors; may be used from any number of threads at once.

    A vector depends on the text alone, up to about 1e-6 a component: sums run in another order
    where a batch is padded to another length.
    """

    def __init__(self, folder: Path, shape: BertShape) -> None:
        """Load a folder of which `read_shape` gave the shape.

        Raises:
            WeightsError: The weights or the tokenizer are damaged or do not fit each other.
        """
        self.shape = shape
        tensors = map_tensors(folder / _WEIGHTS)
        try:
            _require_shapes(tensors, shape)
            self._words = tensors["embeddings.word_embeddings.weight"]  # (vocabulary, width)
            positions = tensors["embeddings.position_embeddings.weight"]
            kinds = tensors["embeddings.token_type_embeddings.weight"]
            self._places = positions[: shape.most_tokens] + kinds[0]  # (most_tokens, width)
            self._pool = ThreadPoolExecutor(_cores(), thread_name_prefix="encode")
            with ThreadPoolExecutor(1) as pool:  # beside the tokenizer, which takes a second
                session = pool.submit(_session, tensors, shape)
                self.tokenizer = BertTokenizer(folder / "tokenizer.json")
                self._session = session.result()
            self._no_adapter = _no_adapter(tensors, shape)
        except (KeyError, ValueError) as error:
            raise _damaged(folder / _WEIGHTS, str(error)) from error
        if self.tokenizer.vocabulary > len(self._words):
            raise _damaged(folder / "tokenizer.json", "it has more tokens than the model")

    @property
    def adaptable(self) -> dict[str, tuple[int, int]]:
        """The matrices an adapter may have, with their shapes; the rank stands as 0."""
        return {name: matrix.shape for name, matrix in self._no_adapter.items()}

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, special tokens excluded, however long it is."""
        return len(self.tokenizer.tokens(text)[0])

    def encode(self, texts: list[str]) -> _Floats:
        """Return the vectors of texts, shape (len(texts), width), each of length 1."""
        vectors = self.compute([self._tokens(text) for text in texts], self._pooled)
        return np.stack(vectors) if vectors else np.empty((0, self.shape.width), np.float32)

    def compute(
        self,
        rows: Sequence[Sequence[int]],
        finish: Callable[[_Floats], _Floats],
        adapter: Mapping[str, _Floats] | None = None,
    ) -> list[_Floats]:
        """Return what `finish` makes of each row's last hidden states, (tokens, width).

        Args:
            rows: Token ids, special tokens included, at most `shape.most_tokens` each.
            finish: Called once a row, in several threads; padding is never among the states.
            adapter: Matrices by names of `adaptable`, of any one rank a layer; the layers it
                leaves out stay as they are. The scale is already in them.
        """
        inputs = {**self._no_adapter, **(adapter or {})}
        results: list[_Floats] = [np.empty(0, np.float32)] * len(rows)

        def fill(batch: list[int]) -> None:
            states = self._states([rows[number] for number in batch], inputs)
            for number, own in zip(batch, states, strict=True):
                results[number] = finish(own[: len(rows[number])])

        made = list(batches([len(row) for row in rows], BATCH_TOKENS))
        if len(made) == 1:
            fill(made[0])  # a question waits for nobody
        else:
            list(self._pool.map(fill, made))  # a batch a core; raises what a batch raised
        return results

    def _tokens(self, text: str) -> list[int]:
        before, after = self.tokenizer.before, self.tokenizer.after
        room = self.shape.most_tokens - len(before) - len(after)
        return before + self.tokenizer.tokens(text)[0][:room] + after

    def _states(self, rows: list[Sequence[int]], adapter: Mapping[str, _Floats]) -> _Floats:
        """Return the last hidden states of one padded batch, (rows, longest, width)."""
        lengths = np.array([len(row) for row in rows], np.int32)
        embedded = np.zeros((len(rows), int(lengths.max()), self.shape.width), np.float32)
        for place, row in zip(embedded, rows, strict=True):
            np.add(self._words[row], self._places[: len(row)], out=place[: len(row)])
        (hidden,) = self._session.run(None, {"embedded": embedded, "lengths": lengths, **adapter})
        return np.asarray(hidden, np.float32)

    def _pooled(self, states: _Floats) -> _Floats:
        vector = states[0] if self.shape.pooling == "cls" else states.mean(axis=0)
        return np.asarray(vector / np.maximum(np.linalg.norm(vector), 1e-12), np.float32)


def batches(sizes: list[int], budget: int) -> Iterator[list[int]]:
    """Yield batches of row numbers, similar sizes together, so that little is spent on padding.

    A batch's longest size times its number of rows stays within the budget, unless one row alone
    exceeds it.
    """
    batch: list[int] = []
    for row in sorted(range(len(sizes)), key=sizes.__getitem__):
        if batch and sizes[row] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def linear_layers(layers: int) -> list[str]:
    """Return the names of the linear layers of a BERT of so many blocks, six in each."""
    attention = [f"attention.{part}" for part in ("self.query", "self.key", "self.value")]
    parts = [*attention, "attention.output.dense", "intermediate.dense", "output.dense"]
    return [f"encoder.layer.{layer}.{part}" for layer in range(layers) for part in parts]


class _Graph:
    """Builds a BERT of onnxruntime's fused operators, node by node, from the tensors of a file."""

    def __init__(self, tensors: Mapping[str, _Floats], shape: BertShape) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, _Floats] = {}
        self._tensors = tensors
        self._shape = shape

    def bert(self) -> str:
        """Add all layers; return the name of the last hidden states, (B, T, width)."""
        names = [f"embeddings.LayerNorm.{part}" for part in ("weight", "bias")]
        inputs = ["embedded", *map(self._tensor, names)]
        states = self._node("LayerNormalization", inputs, "", epsilon=self._shape.epsilon)
        for layer in range(self._shape.layers):
            prefix = f"encoder.layer.{layer}"
            attended = self._attention(f"{prefix}.attention.self", states)
            states = self._output(f"{prefix}.attention.output", attended, states)
            wide = self._linear(f"{prefix}.intermediate.dense", states)
            bias = self._tensor(f"{prefix}.intermediate.dense.bias")
            wide = self._node("BiasGelu", [wide, bias])  # by erf, as BERT has it
            states = self._output(f"{prefix}.output", wide, states)
        return states

    def _attention(self, prefix: str, states: str) -> str:
        parts = [f"{prefix}.{part}" for part in ("query", "key", "value")]
        projected = [self._linear(part, states) for part in parts]
        biases = np.concatenate([self._tensors[f"{part}.bias"] for part in parts])
        bias = self._constant(f"{prefix}.bias", biases)
        # "lengths" masks the keys beyond each row's own: padding is never attended to.
        inputs = [*projected, bias, "lengths"]
        return self._node("MultiHeadAttention", inputs, num_heads=self._shape.heads)

    def _output(self, prefix: str, states: str, skipped: str) -> str:
        """Project to the model's width, add what skipped the block, normalise."""
        names = ("LayerNorm.weight", "LayerNorm.bias", "dense.bias")
        constants = [self._tensor(f"{prefix}.{name}") for name in names]
        inputs = [self._linear(f"{prefix}.dense", states), skipped, *constants]
        return self._node("SkipLayerNormalization", inputs, epsilon=self._shape.epsilon)

    def _linear(self, name: str, states: str) -> str:
        """Multiply by a weight, (out, in) in the file; its bias is added by the node after it.

        An adapter's product is added: x W + (x A) B.
        """
        weight = self._constant(f"{name}.weight", self._tensors[f"{name}.weight"].T)
        product = self._node("MatMul", [states, weight], "")
        first, second = (name + ending for ending in LOW_RANK)
        low = self._node("MatMul", [states, first], "")
        return self._node("Add", [product, self._node("MatMul", [low, second], "")], "")

    def _tensor(self, name: str) -> str:
        return self._constant(name, self._tensors[name])

    def _constant(self, name: str, value: _Floats) -> str:
        self.constants[name] = np.ascontiguousarray(value, np.float32)
        return name

    def _node(
        self, kind: str, inputs: list[str], domain: str = _CONTRIB, **options: float | int
    ) -> str:
        from onnx import helper

        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **options))
        return output


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _session(tensors: Mapping[str, _Floats], shape: BertShape) -> "InferenceSession":
    """Return the session that turns embedded (B, T, width) into hidden states (B, T, width)."""
    import onnxruntime

    graph = _Graph(tensors, shape)
    model = _model(graph, shape)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    # Whole batches run side by side, one a core: cores that share one wait for each other
    # (2,900 tokens a second against 2,300 on two cores).
    options.intra_op_num_threads = 1
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(v) for v in graph.constants.values()]
    options.add_external_initializers(list(graph.constants), values)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _model(graph: _Graph, shape: BertShape) -> bytes:
    """Return the model with the names and shapes of its weights; their memory is handed over."""
    from onnx import TensorProto, helper

    output = graph.bert()
    constants = []
    for name, value in graph.constants.items():
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="handed over")
        constants.append(tensor)
    states = ["batch", "length", shape.width]
    inputs = [
        helper.make_tensor_value_info("embedded", TensorProto.FLOAT, states),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
        *(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None])
            for layer in linear_layers(shape.layers)
            for name in (layer + LOW_RANK[0], layer + LOW_RANK[1])
        ),
    ]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, states)]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "bert", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(_CONTRIB, 1)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


def _require_shapes(tensors: Mapping[str, _Floats], shape: BertShape) -> None:
    """Refuse tensors of other shapes: the fused operators do not look, and would read beyond them.

    Raises:
        ValueError: A tensor has another shape than the configuration says.
        KeyError: One is missing.
    """
    width = shape.width
    inner = len(tensors["encoder.layer.0.intermediate.dense.bias"])
    norms = ["embeddings.LayerNorm"]
    expected: dict[str, tuple[int, ...]] = {}
    for name in linear_layers(shape.layers):
        out = inner if name.endswith(".intermediate.dense") else width
        is_last = name.endswith(".output.dense")
        into = inner if is_last and ".attention." not in name else width
        expected |= {f"{name}.weight": (out, into), f"{name}.bias": (out,)}
        if is_last:
            norms.append(name.removesuffix("dense") + "LayerNorm")
    expected |= {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}
    for kind, least in (("word", 1), ("position", shape.most_tokens), ("token_type", 1)):
        name = f"embeddings.{kind}_embeddings.weight"
        expected[name] = (max(least, len(tensors[name])), width)  # may have more rows
    for name, size in expected.items():
        if tensors[name].shape != size:
            raise ValueError(f"{name} has another shape than config.json says")
    if shape.heads < 1 or width % shape.heads:
        raise ValueError(f"{shape.heads} heads do not divide a width of {width}")


def _no_adapter(tensors: Mapping[str, _Floats], shape: BertShape) -> dict[str, _Floats]:
    """Return matrices of rank 0 for every linear layer: onnxruntime makes nothing of them."""
    empty = {}
    for name in linear_layers(shape.layers):
        out, width = tensors[f"{name}.weight"].shape
        empty[name + LOW_RANK[0]] = np.empty((width, 0), np.float32)
        empty[name + LOW_RANK[1]] = np.empty((0, out), np.float32)
    return empty


def _read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Return where the values of a safetensors file begin, and its entries by tensor name."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(min(size, path.stat().st_size)))
    header.pop("__metadata__", None)
    return 8 + size, header


def _is_float32(path: Path) -> bool:
    _, entries = _read_header(path)
    return {entry["dtype"] for entry in entries.values()} <= {"F32", "I64"}  # numbered positions


def _map_tensor(path: Path, base: int, entry: Mapping[str, Any]) -> _Floats:
    start, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if end - start != 4 * math.prod(shape):
        raise ValueError("a tensor has the wrong size")
    return np.memmap(path, "<f4", "r", offset=base + start, shape=shape)


def _load_tokenizer(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises Exception itself
        raise _damaged(path, str(error)) from error
    tokenizer.no_truncation()  # we cut ourselves: a shared switch would disturb other threads
    tokenizer.no_padding()
    return tokenizer


def _pooling(folder: Path) -> Literal["mean", "cls"] | None:
    """Return how the modules pool, None if they do anything else."""
    modules = _read_json(folder / "modules.json")
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return None
    config = _read_json(folder / modules[1]["path"] / "config.json")
    if modules[0]["path"] or not config.get("include_prompt", True):
        return None
    old = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    modes = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    mode = config.get("pooling_mode") or (old.get(modes[0]) if len(modes) == 1 else None)
    return "mean" if mode == "mean" else "cls" if mode == "cls" else None


def _most_tokens(folder: Path) -> int:
    """Return the length to which sentence-transformers cuts texts.

    Raises:
        ValueError: The transformer is set up in a way that is not computed here.
    """
    path = folder / "sentence_bert_config.json"
    own = _read_json(path) if path.is_file() else {}
    modality = own.get("modality_config", {}).get("text", {})
    if own.get("do_lower_case") or modality.get("method", "forward") != "forward":
        raise ValueError("texts are changed before they are tokenized")
    tokenizer = _read_json(folder / "tokenizer_config.json")
    if tokenizer.get("truncation_side", "right") != "right":
        raise ValueError("texts are cut on the left")
    return int(own.get("max_seq_length") or tokenizer.get("model_max_length") or 10**9)


def _read_json(path: Path) -> Any:  # noqa: ANN401
    return json.loads(path.read_text(encoding="utf-8"))


def _damaged(path: Path, reason: str) -> WeightsError:
    lines = reason.splitlines() or [""]
    return WeightsError(f"cannot read {path} ({lines[0]}): fetch the model's folder again")
