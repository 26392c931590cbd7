"""One settings object: defaults, then the TOML file, then `TETHER_*`, then flags; the last wins.

    home = "~/.tether"            TETHER_HOME, --home
    [generator]
    model = "gemma-3-270m"        TETHER_GENERATOR_MODEL, --set generator.model=...

The file is `settings.toml` under the data root, or what `TETHER_SETTINGS` / `--settings` names.
Holds plain values only, never a model or a store.
"""

import dataclasses
import difflib
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ingest.chunking import ChunkingOptions
from ingest.errors import SettingsError
from ingest.workers import ParserOptions
from model.generators import Decoding, PromptStyle
from model.prompts import PromptOptions
from retrieval.search import SearchOptions

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """Which encoder embeds documents and questions."""

    model: str = "multilingual-e5-small"  # that name, a folder, a hub id, or "hashing" (no model)
    device: Device = "auto"  # auto takes a GPU if torch sees one


@dataclass(frozen=True, slots=True)
class GeneratorSettings:
    """Which language model writes the draft."""

    model: str = "gemma-3-270m"  # that name, a .gguf file, a folder, or a hub id
    backend: Literal["auto", "llama.cpp", "transformers", "openai", "none"] = (
        "auto"  # none: quote only
    )
    adapter: str = "auto"  # trained LoRA: "auto" (the shipped one), "none", a name, or a folder
    style: PromptStyle = "auto"  # "chat" for instructed models, "completion" for base models
    device: Device = "auto"  # transformers; "cuda" takes that backend for the default model too
    url: str = ""  # OpenAI-compatible server, e.g. http://127.0.0.1:8080/v1
    api_key: str = field(default="", repr=False)  # for that server; shown nowhere
    context_tokens: int = 4096  # llama.cpp: longest prompt and answer together
    threads: int = 0  # llama.cpp: CPU threads, 0 takes every core
    gpu_layers: int = 0  # llama.cpp: layers on a GPU
    slots: int = 4  # chat, serve: questions answered at once, each with its own context_tokens


@dataclass(frozen=True, slots=True)
class ReaderSettings:
    """Who reads answers out of sentences: a trained head on the encoder."""

    adapter: str = "auto"  # "auto" (the shipped head), "none", a name, or a folder
    answers: Literal["first", "beside"] = "first"  # no draft where it alone is sure; always beside


@dataclass(frozen=True, slots=True)
class VerifierSettings:
    """Who judges claims: what texts visibly share, and a trained head on the encoder."""

    adapter: str = "auto"  # "auto" (the shipped head, if there is one), "none", a name, or a folder


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """Where the chat listens."""

    host: str = "127.0.0.1"  # GRADIO_SERVER_NAME is honoured
    port: int = 7860  # GRADIO_SERVER_PORT is honoured


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What one serving process takes on; it listens where the chat does."""

    waiting: int = 256  # questions that may wait in all
    waiting_each: int = 64  # of these, questions of one owner: a browser page, an API user
    upload_bytes: int = 209_715_200  # largest body of an upload
    upload_seconds: float = 300.0  # longest time that a request's body may take to arrive
    sources: bool = False  # let POST /api/ingest read paths of this machine, and web pages
    folders: str = ""  # that owners may let a collection follow on the page; several as in PATH


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a user can choose."""

    home: Path = Path("~/.tether")  # the one data root
    collection: str = "default"  # the collection to ingest into and to ask
    ingest: ChunkingOptions = field(default_factory=ChunkingOptions)
    parsing: ParserOptions = field(default_factory=ParserOptions)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    search: SearchOptions = field(default_factory=SearchOptions)
    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    prompt: PromptOptions = field(default_factory=PromptOptions)
    decoding: Decoding = field(default_factory=Decoding)
    reader: ReaderSettings = field(default_factory=ReaderSettings)
    verifier: VerifierSettings = field(default_factory=VerifierSettings)
    chat: ChatSettings = field(default_factory=ChatSettings)
    serve: ServeSettings = field(default_factory=ServeSettings)
    # Names of the settings that someone chose: a trained adapter brings the rest of its own prompt.
    chosen: frozenset[str] = field(default=frozenset(), compare=False, repr=False)


# Lowest and highest values that make sense; sizes of chunks are checked by `ChunkingOptions`.
RANGES: Mapping[str, tuple[float, float]] = {
    "parsing.workers": (0, 256),
    "parsing.file_seconds": (0.1, 86_400),
    "parsing.memory_bytes": (1 << 28, math.inf),
    "parsing.files_per_worker": (1, math.inf),
    "search.top_k": (1, 100),
    "search.candidates": (1, 10_000),
    "search.dense_weight": (0, 1),
    "search.rerank_from": (1, 1_000),
    "generator.context_tokens": (512, math.inf),
    "generator.threads": (0, math.inf),
    "generator.slots": (1, 64),
    "prompt.examples": (0, math.inf),
    "prompt.passage_tokens": (1, math.inf),
    "decoding.temperature": (0.01, 10),
    "decoding.top_p": (0.01, 1),
    "decoding.beams": (1, 64),
    "decoding.max_new_tokens": (1, math.inf),
    "chat.port": (1, 65_535),
    "serve.waiting": (1, 10_000),
    "serve.waiting_each": (1, 10_000),
    "serve.upload_bytes": (1, math.inf),
    "serve.upload_seconds": (0.1, math.inf),
}


def load_settings(
    flags: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Return the settings in force.

    Args:
        flags: "section.field" (or "home", "collection") to its value as text.
        environment: Variables; None takes the process's own.
        file: The TOML file; None takes `TETHER_SETTINGS`, else `settings.toml` under the home.

    Raises:
        SettingsError: A name is unknown, a value has the wrong type or lies out of range, or the
            file is missing or no TOML.
    """
    environment = os.environ if environment is None else environment
    flags = flags or {}
    given = file or _path(environment.get("TETHER_SETTINGS"))
    if given is not None and not given.is_file():
        raise SettingsError(
            f"no settings file at {given}; create it, or name another with --settings or"
            " TETHER_SETTINGS"
        )
    home = _path(flags.get("home") or environment.get("TETHER_HOME")) or Settings().home
    values = _read_file(given or _expanded(home) / "settings.toml")
    values |= _read_environment(environment)
    for name, value in flags.items():
        _require_known(name, "--set")
        values[name] = value
    return _build(values)


def setting_names() -> dict[str, Any]:
    """Return every setting's dotted name with its default, in order."""
    names: dict[str, Any] = {}
    for top in dataclasses.fields(Settings):
        if top.name == "chosen":  # about the settings, none of them
            continue
        default = getattr(Settings(), top.name)
        if dataclasses.is_dataclass(default):
            for inner in dataclasses.fields(default):
                names[f"{top.name}.{inner.name}"] = getattr(default, inner.name)
        else:
            names[top.name] = default
    return names


def flatten(settings: Settings) -> dict[str, Any]:
    """Return every setting's dotted name with its value in force."""
    return {name: _get(settings, name) for name in setting_names()}


def environment_name(name: str) -> str:
    """Return the variable of a setting: "generator.model" is TETHER_GENERATOR_MODEL."""
    return "TETHER_" + name.replace(".", "_").upper()


def range_text(name: str) -> str:
    """Return a setting's range in words, "" if it has none."""
    if name not in RANGES:
        return ""
    low, high = RANGES[name]
    return f"{low} or more" if high == math.inf else f"{low} to {high}"


def folders_of(settings: ServeSettings) -> tuple[Path, ...]:
    """Return the folders that a collection may follow on the page, in full.

    Raises:
        SettingsError: One starts with the home of a user who is not known here.
    """
    parts = (part.strip() for part in settings.folders.split(os.pathsep))
    return tuple(dict.fromkeys(_expanded(Path(part)).absolute() for part in parts if part))


def _path(text: str | None) -> Path | None:
    return _expanded(Path(text)) if text else None


def _expanded(path: Path) -> Path:
    """Return the path with "~" replaced.

    Raises:
        SettingsError: It starts with the home of a user who is not known here.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise SettingsError(f"there is no home for {path}; write the path in full") from error


def _get(settings: Settings, name: str) -> Any:  # noqa: ANN401 - a setting of any type
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _read_file(path: Path) -> dict[str, Any]:
    """Return the file's settings by dotted name; none if there is no file."""
    try:
        if not path.is_file():
            return {}
        table = tomllib.loads(path.read_text("utf-8-sig"))  # Windows editors write the mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"cannot read {path}: {error}; mend or remove the file") from error
    values: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            values |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            values[key] = value
    for name in values:
        _require_known(name, str(path))
    return values


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that `TETHER_*` (and Gradio's two variables) give."""
    by_variable = {environment_name(name): name for name in setting_names()}
    by_variable |= {"GRADIO_SERVER_NAME": "chat.host", "GRADIO_SERVER_PORT": "chat.port"}
    # Tether's own variables come last: they win over Gradio's.
    ordered = sorted(by_variable, key=lambda variable: variable.startswith("TETHER_"))
    return {
        by_variable[variable]: environment[variable]
        for variable in ordered
        if environment.get(variable)
    }


def _require_known(name: str, source: str) -> None:
    known = setting_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise SettingsError(
            f'{source}: there is no setting "{name}"; did you mean "{near}"?'
            " tether settings lists them all"
        )


def _build(values: Mapping[str, Any]) -> Settings:
    """Return the settings with these values in place of defaults."""
    top: dict[str, Any] = {"chosen": frozenset(values)}
    for attribute in dataclasses.fields(Settings):
        default = getattr(Settings(), attribute.name)
        if dataclasses.is_dataclass(default):
            kind: Any = type(default)
            hints = get_type_hints(kind)
            inner = {
                name.split(".")[1]: _coerce(name, value, hints[name.split(".")[1]])
                for name, value in values.items()
                if name.startswith(f"{attribute.name}.")
            }
            try:
                top[attribute.name] = kind(**inner)
            except SettingsError as error:
                raise SettingsError(f"[{attribute.name}] {error}") from error
        elif attribute.name in values:
            hint = get_type_hints(Settings)[attribute.name]
            top[attribute.name] = _coerce(attribute.name, values[attribute.name], hint)
    settings = Settings(**top)
    return dataclasses.replace(settings, home=_expanded(settings.home).absolute())


def _coerce(name: str, value: Any, hint: Any) -> Any:  # noqa: ANN401 - a setting of any type
    """Return the value in the type of its field, from TOML or from text."""
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        choices = ", ".join(map(str, get_args(hint)))
        raise SettingsError(f'{name} cannot be "{value}"; choose one of: {choices}')
    if hint is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if str(value).lower() in words:
            return words[str(value).lower()]
        raise SettingsError(f'{name} cannot be "{value}"; write true or false')
    if hint in (int, float):
        return _number(name, value, hint)
    if isinstance(value, (dict, list)) or (hint is Path and not str(value)):
        raise SettingsError(f'{name} cannot be "{value}"; write a {_KINDS[hint]}')
    return hint(value)


_KINDS = {int: "whole number", float: "number", str: "text", Path: "path"}


def _number(name: str, value: Any, kind: type[int] | type[float]) -> float:  # noqa: ANN401
    """Return a number of that kind within the setting's range; 2.5 is no whole number."""
    low, high = RANGES.get(name, (-math.inf, math.inf))
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float)):
            raise ValueError
        number = kind(value)
        if not low <= number <= high:
            raise ValueError
    except (TypeError, ValueError) as error:
        wanted = f"a {_KINDS[kind]}" + (f", {range_text(name)}" if name in RANGES else "")
        raise SettingsError(f'{name} cannot be "{value}"; write {wanted}') from error
    return number
