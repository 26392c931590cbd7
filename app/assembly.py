"""Putting the parts together as the settings say; the only place that knows all of them."""

from pathlib import Path
from typing import Any

from app.settings import Settings
from ingest.errors import SettingsError
from model.assistant import Assistant
from model.generators import (
    Generator,
    LlamaCppGenerator,
    OpenAIGenerator,
    ScriptedGenerator,
    TransformersGenerator,
)
from model.verifier import OverlapVerifier
from model.weights import (
    DEFAULT_GENERATOR,
    describe_generator,
    prepare_gemma_folder,
    prepare_gemma_gguf,
)
from retrieval.encoders import Encoder, describe_encoder, load_encoder
from retrieval.search import CollectionSearcher, Searcher
from retrieval.store import Collection, open_collection, require_collection
from retrieval.weights import WeightsInfo


def build_encoder(settings: Settings) -> Encoder:
    """Return the encoder in force, its weights prepared."""
    return load_encoder(settings.encoder.model, settings.home, settings.encoder.device)


def build_generator(settings: Settings) -> Generator:
    """Return the generator in force, its weights prepared; "none" only ever quotes."""
    chosen = settings.generator
    backend = resolve_backend(settings)
    if backend == "none":
        return ScriptedGenerator()
    if backend == "openai":
        return OpenAIGenerator(
            _server(settings), model=chosen.model, api_key=chosen.api_key, style=chosen.style
        )
    if backend == "llama.cpp":
        path = Path(chosen.model).expanduser()
        if chosen.model == DEFAULT_GENERATOR:
            path = prepare_gemma_gguf(settings.home)
        return LlamaCppGenerator(
            path,
            name=chosen.model,
            context_tokens=chosen.context_tokens,
            threads=chosen.threads,
            gpu_layers=chosen.gpu_layers,
            style=chosen.style,
        )
    folder = chosen.model
    if chosen.model == DEFAULT_GENERATOR:
        folder = str(prepare_gemma_folder(settings.home))
    return TransformersGenerator(
        folder, name=chosen.model, device=chosen.device, style=chosen.style
    )


def resolve_backend(settings: Settings) -> str:
    """Return the backend that "auto" stands for.

    A URL takes "openai"; a GGUF file and the default model take llama.cpp, which is several times
    faster on a CPU, unless a GPU is asked for; all else takes transformers.
    """
    chosen = settings.generator
    if chosen.backend != "auto":
        return chosen.backend
    if chosen.url:
        return "openai"
    if chosen.model.lower().endswith(".gguf"):
        return "llama.cpp"
    is_default = chosen.model == DEFAULT_GENERATOR
    return "llama.cpp" if is_default and chosen.device != "cuda" else "transformers"


def open_searcher(settings: Settings) -> tuple[Encoder, Collection, CollectionSearcher]:
    """Return the encoder, the collection in force, and a searcher over it.

    Raises:
        UnknownCollection: There is no such collection yet; no model is loaded then.
        StoreError: It is damaged or was built with another encoder.
    """
    require_collection(settings.home, settings.collection)
    encoder = build_encoder(settings)
    collection = open_collection(settings.home, settings.collection, encoder)
    return encoder, collection, CollectionSearcher(collection, settings.search)


def build_assistant(
    settings: Settings,
    *,
    encoder: Encoder,
    generator: Generator | None = None,
    searcher: Searcher | None = None,
) -> Assistant:
    """Return the assistant that the settings describe, around a loaded generator if given one."""
    return Assistant(
        generator=generator or build_generator(settings),
        verifier=OverlapVerifier(encoder),
        searcher=searcher,
        prompt=settings.prompt,
        decoding=settings.decoding,
        top_k=settings.search.top_k,
    )


def prepare_generator(settings: Settings) -> None:
    """Convert the default generator's weights, if that is the one in force."""
    if settings.generator.model == DEFAULT_GENERATOR:
        backend = resolve_backend(settings)
        if backend == "llama.cpp":
            prepare_gemma_gguf(settings.home)
        elif backend == "transformers":
            prepare_gemma_folder(settings.home)


def describe_models(settings: Settings) -> list[dict[str, Any]]:
    """Return role, name, source, licence, size, hash and device of the models in force."""
    chosen = settings.generator
    backend = resolve_backend(settings)
    encoder = describe_encoder(settings.encoder.model, settings.home)
    if backend == "none":
        generator, device = WeightsInfo("none", "quotations only", "-", 0, None, None), "cpu"
    elif backend == "openai":
        generator, device = describe_generator(_server(settings), settings.home), chosen.url
    elif backend == "llama.cpp":
        generator = describe_generator(chosen.model, settings.home)
        device = "gpu" if chosen.gpu_layers else "cpu"
    else:
        generator = describe_generator(chosen.model, settings.home, converted=True)
        device = chosen.device
    return [
        {"role": "encoder"} | _weights_row(encoder, settings.encoder.device),
        {"role": "generator"} | _weights_row(generator, device) | {"backend": backend},
    ]


def _server(settings: Settings) -> str:
    """Return the URL of the OpenAI-compatible server."""
    if not settings.generator.url:
        raise SettingsError("generator.backend = openai needs generator.url; set both")
    return settings.generator.url


def _weights_row(info: WeightsInfo, device: str) -> dict[str, Any]:
    if info.bytes == 0:  # nothing to load, so nothing that a GPU could hold
        device = "cpu"
    elif device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "name": info.name,
        "source": info.source,
        "licence": info.licence,
        "bytes": info.bytes,
        "sha256": info.sha256,
        "path": str(info.path) if info.path else None,
        "device": device,
    }
