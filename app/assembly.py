"""Putting the parts together as the settings say; the only place that knows all of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from app.settings import Settings
from ingest.errors import SettingsError
from model.adapters import (
    Adapter,
    find_adapter,
    list_adapters,
    prompt_in_force,
    require_base,
    shipped_adapter,
)
from model.alignment import Aligner
from model.assistant import Assistant
from model.cross_encoder import CrossEncoder, load_head
from model.export import export_two_files
from model.generators import (
    Generator,
    LlamaCppGenerator,
    OpenAIGenerator,
    ScriptedGenerator,
    TransformersGenerator,
)
from model.gguf_lora import prepare_gguf_lora
from model.head_verifier import Heads, HeadVerifier
from model.prompts import PromptOptions
from model.verifier import (
    Calibration,
    OverlapVerifier,
    Verifier,
    default_calibration,
    trained_calibration,
)
from model.weights import (
    DEFAULT_GENERATOR,
    base_hash,
    describe_generator,
    prepare_gemma_folder,
    prepare_gemma_gguf,
)
from retrieval.e5 import prepare_e5_small
from retrieval.encoders import (
    DEFAULT_ENCODER,
    Encoder,
    OnnxEncoder,
    describe_encoder,
    load_encoder,
)
from retrieval.onnx import OnnxBert, read_shape
from retrieval.remembering import RememberingEncoder
from retrieval.search import CollectionSearcher, RerankingSearcher, Searcher
from retrieval.store import Collection, open_collection, require_collection
from retrieval.weights import WeightsInfo, local_folder

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=TransformersGenerator)


def build_encoder(settings: Settings) -> Encoder:
    """Return the encoder in force, its weights prepared."""
    return load_encoder(settings.encoder.model, settings.home, settings.encoder.device)


def build_generator(settings: Settings, *, slots: int = 1) -> Generator:
    """Return the generator in force with its adapter; "none" only ever quotes.

    Args:
        settings: Say which.
        slots: Prompts that llama.cpp decodes at once; each takes memory for its own context.
    """
    chosen = settings.generator
    backend = resolve_backend(settings)
    adapter = resolve_adapter(settings)
    if backend == "none":
        return ScriptedGenerator()
    if backend == "openai":
        return OpenAIGenerator(
            _server(settings), model=chosen.model, api_key=chosen.api_key, style=chosen.style
        )
    if backend == "llama.cpp":
        path = generator_gguf(settings)
        if adapter:
            require_base(adapter, chosen.model, base_hash(path, settings.home))
        return LlamaCppGenerator(
            path,
            name=chosen.model,
            context_tokens=chosen.context_tokens,
            threads=chosen.threads,
            gpu_layers=chosen.gpu_layers,
            style=chosen.style,
            lora=prepare_gguf_lora(adapter, path, settings.home) if adapter else None,
            slots=slots,
        )
    return build_transformers(settings, TransformersGenerator)


def build_transformers(settings: Settings, kind: type[Model]) -> Model:
    """Return the generator in force as a model that transformers runs, with its adapter.

    Args:
        settings: Say which.
        kind: The class that loads it, such as `model.lens.Lens`.

    Raises:
        WeightsError: It cannot be loaded, or its adapter does not fit.
    """
    chosen = settings.generator
    model, adapter = transformers_files(settings)
    return kind(
        model,
        name=chosen.model,
        device=chosen.device,
        style=chosen.style,
        adapter=adapter.folder if adapter else None,
    )


def transformers_files(settings: Settings) -> tuple[str, Adapter | None]:
    """Return the folder or hub id that transformers loads, and the adapter to put on it.

    Raises:
        WeightsError: The adapter was trained on another base.
    """
    model, adapter = settings.generator.model, resolve_adapter(settings)
    source = str(prepare_gemma_folder(settings.home)) if model == DEFAULT_GENERATOR else model
    if adapter:
        folder = local_folder(source)
        require_base(adapter, model, base_hash(folder, settings.home) if folder else None)
    return source, adapter


def generator_gguf(settings: Settings) -> Path:
    """Return the generator's GGUF file, prepared if it is the default one's."""
    model = settings.generator.model
    if model == DEFAULT_GENERATOR:
        return prepare_gemma_gguf(settings.home)
    return Path(model).expanduser()


def resolve_adapter(settings: Settings) -> Adapter | None:
    """Return the generator's adapter in force; None runs the base as it is.

    Raises:
        SettingsError: An adapter is asked for, and the backend can run none.
        WeightsError: There is no such adapter, or it cannot be read.
    """
    chosen = settings.generator
    runs_adapters = resolve_backend(settings) in ("llama.cpp", "transformers")
    if chosen.adapter == "auto":
        is_default = chosen.model == DEFAULT_GENERATOR
        return shipped_adapter("answer") if is_default and runs_adapters else None
    if chosen.adapter == "none":
        return None
    if not runs_adapters:
        raise SettingsError(
            "only llama.cpp and transformers run an adapter; set generator.adapter = none, or"
            " another generator.backend"
        )
    return find_adapter(chosen.adapter, settings.home, "answer")


def resolve_prompt(settings: Settings) -> PromptOptions:
    """Return the prompt's options: an adapter brings its own, but for what the user set."""
    chosen = {
        name.removeprefix("prompt.") for name in settings.chosen if name.startswith("prompt.")
    }
    return prompt_in_force(resolve_adapter(settings), settings.prompt, chosen)


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


def open_searcher(settings: Settings) -> tuple[Encoder, Collection, Searcher]:
    """Return the encoder, the collection in force, and a searcher over it.

    Raises:
        UnknownCollection: There is no such collection yet; no model is loaded then.
        StoreError: It is damaged or was built with another encoder.
    """
    require_collection(settings.home, settings.collection)
    encoder = build_encoder(settings)
    collection = open_collection(settings.home, settings.collection, encoder)
    return encoder, collection, build_searcher(settings, encoder, collection)


def build_searcher(settings: Settings, encoder: Encoder, collection: Collection) -> Searcher:
    """Return a searcher over a collection, with the reranker in force if there is one.

    Raises:
        WeightsError: There is no such reranker, or it was trained on another encoder.
        SettingsError: The encoder can carry none.
    """
    searcher = CollectionSearcher(collection, settings.search)
    reranker = resolve_reranker(settings)
    if reranker is None:
        return searcher
    bert = _backbone(settings, encoder)
    head = load_head(reranker.folder, bert, encoder.identity.weights_hash)
    return RerankingSearcher(searcher, CrossEncoder(bert, head), settings.search)


def resolve_reranker(settings: Settings) -> Adapter | None:
    """Return the reranker in force, None if there is none.

    Raises:
        WeightsError: There is no such adapter, or it cannot be read.
    """
    chosen = settings.search.reranker
    return None if chosen == "none" else find_adapter(chosen, settings.home, "rerank")


def build_verifier(settings: Settings, encoder: Encoder) -> Verifier:
    """Return the verifier in force: with trained heads if there are any, else training-free.

    It remembers the sentences that it has weighed, as questions come back to the same passages.

    Raises:
        WeightsError: A head cannot be read, or was trained on another encoder.
        SettingsError: A head is asked for, and the encoder can carry none.
    """
    remembering = RememberingEncoder(encoder)
    adapters = resolve_heads(settings)
    if not adapters:
        return OverlapVerifier(remembering)
    bert, base = _backbone(settings, encoder), encoder.identity.weights_hash
    heads = {role: load_head(adapter.folder, bert, base) for role, adapter in adapters.items()}
    joined = Heads(
        CrossEncoder(bert, heads["read"]) if "read" in heads else None,
        Aligner(bert, heads["verify"]) if "verify" in heads else None,
    )
    return HeadVerifier(remembering, joined, calibration_with(adapters))


def resolve_heads(settings: Settings) -> dict[str, Adapter]:
    """Return the reader ("read") and the judge ("verify") in force, those that there are.

    Raises:
        WeightsError: There is no such adapter, or it cannot be read.
    """
    found = {}
    for role, chosen in (("read", settings.reader.adapter), ("verify", settings.verifier.adapter)):
        if chosen not in ("auto", "none"):
            found[role] = find_adapter(chosen, settings.home, role)
        elif chosen == "auto" and settings.encoder.model == DEFAULT_ENCODER:
            shipped = shipped_adapter(role)
            found |= {role: shipped} if shipped else {}
    return found


def calibration_with(adapters: Mapping[str, Adapter]) -> Calibration:
    """Return what was fitted with these heads, and the training-free functions where one is off.

    Answers are weighed with the reader, statements with the judge. Another judge than the fitted
    one speaks for itself; another reader is taken for the fitted one, and a warning says so.
    """
    trained, plain = trained_calibration(), default_calibration()
    fitted: Mapping[str, str] = trained.provenance["adapters"]
    reader, judge = adapters.get("read"), adapters.get("verify")
    if reader and reader.sha256 != fitted.get("read"):
        logger.warning(
            "verification was fitted with another read head than %s; fit it anew with"
            " benchmarks/calibrate.py",
            reader.name,
        )
    is_fitted = judge is not None and judge.sha256 == fitted.get("verify")
    statements = trained if is_fitted else plain
    return replace(trained if reader else plain, statement=statements.statement)


def _backbone(settings: Settings, encoder: Encoder) -> OnnxBert:
    """Return the model that heads run on: the encoder's own, a second one if that is on a GPU."""
    if isinstance(encoder, OnnxEncoder):
        return encoder.bert
    default = settings.encoder.model == DEFAULT_ENCODER
    folder = prepare_e5_small(settings.home) if default else local_folder(settings.encoder.model)
    shape = read_shape(folder) if folder else None
    if folder is None or shape is None:
        raise SettingsError(
            f"the encoder {settings.encoder.model} can carry no head; set reader.adapter = none"
            " and search.reranker = none"
        )
    return OnnxBert(folder, shape)


def build_assistant(
    settings: Settings,
    *,
    encoder: Encoder,
    generator: Generator | None = None,
    verifier: Verifier | None = None,
    searcher: Searcher | None = None,
) -> Assistant:
    """Return the assistant that the settings describe, around loaded parts if given some."""
    return Assistant(
        generator=generator or build_generator(settings),
        verifier=verifier or build_verifier(settings, encoder),
        searcher=searcher,
        prompt=resolve_prompt(settings),
        decoding=settings.decoding,
        top_k=settings.search.top_k,
        reads_first=settings.reader.answers == "first",
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


def export_generator(settings: Settings, folder: Path, *, replace: bool = False) -> list[Path]:
    """Write the generator in force, its adapter merged, as the two-file model into a folder.

    Raises:
        SettingsError: The generator is no GGUF file.
        WeightsError: The adapter does not fit, or the disk is full.
    """
    chosen = settings.generator
    if chosen.model != DEFAULT_GENERATOR and not chosen.model.lower().endswith(".gguf"):
        raise SettingsError(
            f"only a GGUF file can be exported, and {chosen.model} is none; set generator.model ="
            f" {DEFAULT_GENERATOR}, or the path of a .gguf file"
        )
    adapter = resolve_adapter(settings)
    base = generator_gguf(settings)
    if adapter:
        require_base(adapter, chosen.model, base_hash(base, settings.home))
    return export_two_files(folder, base, adapter, resolve_prompt(settings), replace=replace)


def describe_adapters(settings: Settings) -> list[dict[str, Any]]:
    """Return role, name, base, size, hash and place of every adapter, and whether it is in use."""
    chosen = (resolve_adapter(settings), resolve_reranker(settings))
    in_force = [*filter(None, chosen), *resolve_heads(settings).values()]
    return [
        {
            "role": adapter.role,
            "name": adapter.name,
            "source": "shipped" if adapter.is_shipped else "trained here",
            "base": adapter.base_name,
            "base_sha256": adapter.base_sha256,
            "bytes": adapter.bytes,
            "sha256": adapter.sha256,
            "path": str(adapter.folder),
            "in_force": any(adapter.folder == used.folder for used in in_force),
        }
        for adapter in _known_adapters(settings, in_force)
    ]


def _known_adapters(settings: Settings, in_force: Sequence[Adapter]) -> list[Adapter]:
    """Return all adapters, also those in force that lie somewhere else."""
    known = list_adapters(settings.home)
    places = {adapter.folder for adapter in known}
    return known + [adapter for adapter in in_force if adapter.folder not in places]


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
