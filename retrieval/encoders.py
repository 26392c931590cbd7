"""Encoders turn text into unit vectors, behind one narrow interface.

Traditional Chinese is embedded in simplified characters, so that the scripts find each other
(DRCD, simplified questions to traditional paragraphs: recall@1 .72 without, .78 with it).
"""

import hashlib
import os
import re
import sys
import threading
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ingest.errors import SettingsError, WeightsError
from ingest.languages import simplified
from retrieval.e5 import E5_SMALL, describe_e5_small, prepare_e5_small
from retrieval.onnx import OnnxBert, batches, read_prompts, read_shape
from retrieval.weights import (
    WeightsInfo,
    folder_bytes,
    hash_folder,
    local_folder,
    quiet_loading,
)

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT_ENCODER = E5_SMALL.name

# Padded UTF-8 bytes per batch in torch: they follow token counts closely in Chinese and in English
# alike (about 4.5 bytes a token). About 8 paragraphs; larger batches are no faster on a CPU.
_BATCH_BYTES = 9_000
_BATCH_BYTES_GPU = 150_000

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncoderIdentity:
    """What makes vectors comparable: same name, same weights, same dimension."""

    name: str
    weights_hash: str  # SHA-256 over the weight files, hex
    dimension: int


class Encoder(Protocol):
    """Maps texts to L2-normalised float32 vectors; cosine is the inner product."""

    @property
    def identity(self) -> EncoderIdentity:
        """Name, weights hash and dimension of this encoder."""
        ...

    def encode_queries(self, texts: list[str]) -> Vectors:
        """Return unit vectors of questions, shape (len(texts), dimension)."""
        ...

    def encode_passages(self, texts: list[str]) -> Vectors:
        """Return unit vectors of passages, shape (len(texts), dimension)."""
        ...

    def count_tokens(self, text: str) -> int:
        """Return the number of this encoder's tokens in the text, special tokens excluded."""
        ...


class SentenceTransformerEncoder:
    """Any sentence-transformers model, with its own query and document prompts.

    The model itself cuts texts beyond its longest input (512 tokens for the default encoder).
    May be used from several threads: a lock is held for one batch at a time, so a question need
    not wait until a long ingest ends.
    """

    def __init__(self, model: "SentenceTransformer", name: str, weights_hash: str) -> None:
        """Wrap a loaded model; `load_encoder` is the usual way here."""
        dimension = model.get_embedding_dimension()
        if dimension is None:
            raise WeightsError(f"{name} gives no vectors: choose a sentence-transformers model")
        self._model = model
        self._lock = threading.Lock()  # fast tokenizers refuse to be used by two threads at once
        self._identity = EncoderIdentity(name, weights_hash, dimension)
        self._batch_bytes = _BATCH_BYTES if model.device.type == "cpu" else _BATCH_BYTES_GPU

    @property
    def identity(self) -> EncoderIdentity:
        """Name, weights hash and dimension of this encoder."""
        return self._identity

    def encode_queries(self, texts: list[str]) -> Vectors:
        """Return unit vectors of questions, shape (len(texts), dimension)."""
        return self._encode(self._model.encode_query, texts)

    def encode_passages(self, texts: list[str]) -> Vectors:
        """Return unit vectors of passages, shape (len(texts), dimension)."""
        return self._encode(self._model.encode_document, texts)

    def count_tokens(self, text: str) -> int:
        """Return the number of this encoder's tokens in the text, special tokens excluded."""
        with self._lock:
            ids = self._model.tokenizer.encode(
                _prepared(text), add_special_tokens=False, truncation=False, verbose=False
            )
        return len(ids)

    def _encode(self, encode: Callable[..., Any], texts: list[str]) -> Vectors:
        vectors = np.empty((len(texts), self._identity.dimension), dtype=np.float32)
        texts = [_prepared(text) for text in texts]
        for rows in batches([len(text.encode()) for text in texts], self._batch_bytes):
            batch = [texts[row] for row in rows]
            with self._lock:
                vectors[rows] = encode(
                    batch,
                    batch_size=len(batch),
                    normalize_embeddings=True,
                    show_progress_bar=False,
                )
        return vectors


class OnnxEncoder:
    """A BERT encoder in onnxruntime: the same vectors as torch, twice as fast on a CPU.

    Any number of threads may use it at once: nothing is locked, so a question never waits for an
    ingest to end. Texts are cut beyond the model's longest input.
    """

    def __init__(
        self, model: OnnxBert, name: str, weights_hash: str, prompts: Mapping[str, str]
    ) -> None:
        """Wrap a loaded model; `prompts` has those for "query" and "document", where it has any."""
        self._model = model
        self._identity = EncoderIdentity(name, weights_hash, model.shape.width)
        self._prompts = prompts

    @property
    def identity(self) -> EncoderIdentity:
        """Name, weights hash and dimension, the same as the model has in torch."""
        return self._identity

    @property
    def bert(self) -> OnnxBert:
        """The model itself, so that heads on it need no second one in memory."""
        return self._model

    def encode_queries(self, texts: list[str]) -> Vectors:
        """Return unit vectors of questions, shape (len(texts), dimension)."""
        return self._encode("query", texts)

    def encode_passages(self, texts: list[str]) -> Vectors:
        """Return unit vectors of passages, shape (len(texts), dimension)."""
        return self._encode("document", texts)

    def count_tokens(self, text: str) -> int:
        """Return the number of this encoder's tokens in the text, special tokens excluded."""
        return self._model.count_tokens(_prepared(text))

    def _encode(self, kind: str, texts: list[str]) -> Vectors:
        prompt = self._prompts.get(kind, "")
        return self._model.encode([prompt + _prepared(text) for text in texts])


def load_encoder(name: str, home: Path, device: str = "auto") -> Encoder:
    """Load the encoder of that name.

    Args:
        name: `DEFAULT_ENCODER`; "hashing" (no model, for tests); a local folder; or a hub id, which
            is downloaded by its own library unless HF_HUB_OFFLINE is set.
        home: Tether's home folder, which keeps prepared weights.
        device: "auto", or a torch device such as "cpu" or "cuda". On a CPU the models that
            `retrieval.onnx` knows run in onnxruntime, all others in torch; the identity and, to
            within rounding, the vectors are the same.

    Raises:
        WeightsError: The weights are missing, unreadable, not in safetensors, or out of reach.
        SettingsError: There is no such device here.
    """
    if name == "hashing":
        return HashingEncoder()
    if name == DEFAULT_ENCODER:
        folder: Path | None = prepare_e5_small(home)
    else:
        folder = local_folder(name)
    if folder and (shape := read_shape(folder)) and _is_cpu(device):
        return OnnxEncoder(
            OnnxBert(folder, shape),
            folder.resolve().name,
            hash_folder(folder, home),
            read_prompts(folder),
        )
    model = _load_model(str(folder or name), device, local=folder is not None)
    weights = folder or _snapshot(name)
    return SentenceTransformerEncoder(
        model, folder.resolve().name if folder else name, hash_folder(weights, home)
    )


def describe_encoder(name: str, home: Path) -> WeightsInfo:
    """Describe an encoder without loading it (and without importing torch).

    Raises:
        WeightsError: The name is that of a folder which is missing or holds no weights.
    """
    if name == "hashing":
        return WeightsInfo(name, "built in, no model", "Apache-2.0", 0, None, None)
    if name == DEFAULT_ENCODER:
        return describe_e5_small(home)
    folder = local_folder(name)
    if folder is None:
        return WeightsInfo(name, "Hugging Face hub", "see its own terms", None, None, None)
    return WeightsInfo(
        name=folder.resolve().name,
        source="local folder",
        licence="see its own terms",
        bytes=folder_bytes(folder),
        sha256=hash_folder(folder, home),
        path=folder,
    )


def _is_cpu(device: str) -> bool:
    """Tell whether a device means the CPU here, importing torch only where a GPU is likely."""
    if device != "auto":
        return device == "cpu"
    drivers = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    if sys.platform == "linux" and not any(map(os.path.exists, drivers)):
        return True
    import torch

    return not torch.accelerator.is_available()


def _load_model(source: str, device: str, *, local: bool) -> "SentenceTransformer":
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError('device "cuda" is not available here: set device to "auto" or "cpu"')
    with quiet_loading():
        try:
            from sentence_transformers import SentenceTransformer

            return SentenceTransformer(
                source,
                device=None if device == "auto" else device,
                local_files_only=local,
                trust_remote_code=False,
                # no pickles; and the same arithmetic wherever vectors are made
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
        except Exception as error:  # whatever a foreign folder or an absent network makes it raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            remedy = (
                "name a sentence-transformers folder with .safetensors weights"
                if local
                else "check the name and the network, or name a local folder"
            )
            raise WeightsError(f"cannot load the encoder {source} ({reason}): {remedy}") from error


def _prepared(text: str) -> str:
    """Return what is embedded of a text: both Chinese scripts as one, and no lone surrogates.

    No tokenizer can read those, and broken files may hold them.
    """
    return simplified(text).encode("utf-8", "replace").decode("utf-8")


def _snapshot(name: str) -> Path:
    """Return the folder of the hub's cache from which a hub id was just loaded."""
    from huggingface_hub import snapshot_download

    repository = name if "/" in name else f"sentence-transformers/{name}"
    cache = os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    return Path(snapshot_download(repository, cache_dir=cache, local_files_only=True))


class HashingEncoder:
    """A deterministic encoder without a model, for tests and dry runs.

    A text is the bag of its lower-cased words and of the character pairs inside them; each feature
    is hashed to one signed component. Texts that share words or pairs are close, no more than that.
    """

    def __init__(self, dimension: int = 64) -> None:
        """Make an encoder of `dimension` components."""
        self._identity = EncoderIdentity(
            "hashing", hashlib.sha256(f"hashing-1-{dimension}".encode()).hexdigest(), dimension
        )

    @property
    def identity(self) -> EncoderIdentity:
        """The name "hashing", a hash of the recipe, and the dimension."""
        return self._identity

    def encode_queries(self, texts: list[str]) -> Vectors:
        """Return unit vectors, shape (len(texts), dimension)."""
        return self.encode_passages(texts)

    def encode_passages(self, texts: list[str]) -> Vectors:
        """Return unit vectors, shape (len(texts), dimension)."""
        vectors = np.zeros((len(texts), self._identity.dimension), dtype=np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in self._words(text):
                for feature in (word, *map("".join, pairwise(word))):
                    digest = hashlib.blake2b(feature.encode("utf-8", "replace")).digest()
                    place = int.from_bytes(digest[:4], "big") % len(vector)
                    vector[place] += 1 if digest[4] % 2 else -1
            if not vector.any():
                vector[0] = 1  # a text without words still needs a direction
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def count_tokens(self, text: str) -> int:
        """Return the number of words, where each Han character counts as one."""
        return len(re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+", text))

    @staticmethod
    def _words(text: str) -> list[str]:
        return re.findall(r"\w+", simplified(unicodedata.normalize("NFKC", text).lower()))
