"""Adapters: small trained weights for a frozen base, found by name and refused on another base.

An adapter is a folder with these files:

    adapter_model.safetensors   a LoRA as peft saves it, with adapter_config.json
    head.safetensors            a head on the encoder, alone or beside a LoRA
    record.json                 role, base, the prompt's options it was trained with, data, figures
    README.md                   the model card

Shipped ones lie in `model/adapters_shipped/<role>/`, a user's in `<home>/adapters/<name>/`. Of the
record, this file reads "role" (answer, verify, rerank or read), "base" {"name", "sha256"} and
"prompt". Knows nothing of how an adapter is trained or run.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingest.errors import WeightsError
from model.prompts import PromptOptions

SETTINGS = {  # by role, the setting that switches it
    "answer": "generator.adapter",
    "verify": "verifier.adapter",
    "rerank": "search.reranker",
    "read": "reader.adapter",
}
ROLES = tuple(SETTINGS)
LORA = "adapter_model.safetensors"
LORA_CONFIG = "adapter_config.json"
HEAD = "head.safetensors"
RECORD = "record.json"
SHIPPED = Path(__file__).resolve().parent / "adapters_shipped"


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter on disk."""

    name: str  # a shipped one is named after its role
    role: str
    folder: Path
    base_name: str
    base_sha256: str  # as `model.weights.base_hash` gives it
    sha256: str  # over the weights and the LoRA's configuration
    bytes: int  # of all files
    is_shipped: bool
    prompt: Mapping[str, Any]  # fields of `PromptOptions`
    record: Mapping[str, Any]

    @property
    def is_lora(self) -> bool:
        """Whether it holds a LoRA in peft's format."""
        return (self.folder / LORA).is_file()


def list_adapters(home: Path, shipped: Path = SHIPPED) -> list[Adapter]:
    """Return the shipped adapters by role, then the user's by name.

    Raises:
        WeightsError: One of them cannot be read.
    """
    found = []
    for parent in (shipped, home / "adapters"):
        folders = sorted(path.parent for path in parent.glob(f"*/{RECORD}"))
        # Hidden ones are what a killed training left of a folder that it was replacing.
        folders = [folder for folder in folders if not folder.name.startswith(".")]
        found += [read_adapter(folder, is_shipped=parent == shipped) for folder in folders]
    return found


def find_adapter(name: str, home: Path, role: str, shipped: Path = SHIPPED) -> Adapter:
    """Return an adapter by the path of its folder, by its name, or the shipped one by its role.

    Raises:
        WeightsError: There is none of that name and role, or it cannot be read.
    """
    path = Path(name).expanduser()
    looks_like_path = name.startswith((".", "~", "/")) or len(path.parts) > 1
    places = [path] if looks_like_path else [home / "adapters" / name, shipped / name]
    for folder in places:
        if folder.is_dir():
            adapter = read_adapter(folder, is_shipped=folder.parent == shipped)
            if adapter.role != role:
                raise WeightsError(
                    f'the adapter {name} is for "{adapter.role}", not for "{role}"; set'
                    f" {SETTINGS[role]} = none, with which tether models lists them all"
                )
            return adapter
    raise WeightsError(
        f'there is no adapter "{name}"; set {SETTINGS[role]} = none, with which tether models'
        " lists them all"
    )


def shipped_adapter(role: str, shipped: Path = SHIPPED) -> Adapter | None:
    """Return the adapter that comes with Tether for a role, None if none does."""
    folder = shipped / role
    return read_adapter(folder, is_shipped=True) if (folder / RECORD).is_file() else None


def read_adapter(folder: Path, *, is_shipped: bool = False) -> Adapter:
    """Return the adapter in a folder.

    Raises:
        WeightsError: Its weights or its record are missing, or the record is not understood.
    """
    weights = [folder / name for name in (LORA, HEAD) if (folder / name).is_file()]
    try:
        if not weights:
            raise ValueError(f"no {LORA} and no {HEAD}")
        record = json.loads((folder / RECORD).read_text("utf-8"))
        role, base, prompt = record["role"], record["base"], record.get("prompt") or {}
        if role not in ROLES:
            raise ValueError(f'"{role}" is no role')
        _require_prompt_options(prompt)
        return Adapter(
            name=folder.resolve().name,
            role=role,
            folder=folder,
            base_name=str(base["name"]),
            base_sha256=str(base["sha256"]),
            sha256=_hash_files([*weights, folder / LORA_CONFIG]),
            bytes=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
            is_shipped=is_shipped,
            prompt=prompt,
            record=record,
        )
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError,
    ) as error:  # fmt: skip
        raise WeightsError(
            f"{folder} holds no adapter that this Tether can read ({_reason(error)}); train it"
            " anew, remove the folder, or set generator.adapter = none"
        ) from error


def _reason(error: Exception) -> str:
    """Return what went wrong, on one line."""
    if isinstance(error, KeyError):
        return f"{RECORD} has no {error}"
    return " ".join((getattr(error, "strerror", None) or str(error)).split())[:200]


def _require_prompt_options(prompt: Mapping[str, Any]) -> None:
    """Refuse options that this version does not know: their prompt could not be made."""
    defaults = {field.name: field.default for field in dataclasses.fields(PromptOptions)}
    for name, value in prompt.items():
        if name not in defaults or type(value) is not type(defaults[name]):
            raise ValueError(f'its prompt needs "{name}" = {value!r}')


def _hash_files(paths: Collection[Path]) -> str:
    """Return one SHA-256 over those of the files that are there."""
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            digest.update(f"{path.name}\n{path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def require_base(adapter: Adapter, name: str, sha256: str | None) -> None:
    """Refuse to run an adapter on weights other than those it was trained on.

    Args:
        adapter: The adapter.
        name: What the settings call the base in use.
        sha256: The base's hash; None of a model on a hub, which is then told by its name.

    Raises:
        WeightsError: It is another base.
    """
    if sha256 == adapter.base_sha256 or (sha256 is None and name == adapter.base_name):
        return
    found = f" ({sha256[:12]})" if sha256 else ""
    raise WeightsError(
        f"the adapter {adapter.name} was trained on {adapter.base_name}"
        f" ({adapter.base_sha256[:12]}), not on {name}{found}; set generator.model ="
        f" {adapter.base_name}, or generator.adapter = none"
    )


def label_adapter(
    folder: Path,
    role: str,
    base_name: str,
    base_sha256: str,
    prompt: Mapping[str, Any] | None = None,
) -> None:
    """Write into a folder's record what finding and running an adapter needs; keep the rest.

    Args:
        folder: Holds the weights, and the record of their training if there is one.
        role: One of `ROLES`.
        base_name: What the settings call the base, never a path.
        base_sha256: As `model.weights.base_hash` gives it.
        prompt: Fields of `PromptOptions` that it was trained with.
    """
    path = folder / RECORD
    record = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    label = {"role": role, "base": {"name": base_name, "sha256": base_sha256}}
    label |= {"prompt": dict(prompt)} if prompt else {}
    partial = path.with_name(f".{RECORD}.partial")  # the record of a long run must not be torn
    partial.write_text(json.dumps(record | label, indent=1, ensure_ascii=False) + "\n", "utf-8")
    os.replace(partial, path)


def prompt_in_force(
    adapter: Adapter | None, own: PromptOptions, chosen: Collection[str]
) -> PromptOptions:
    """Return the prompt's options: those an adapter was trained with, unless the user set them.

    Args:
        adapter: The adapter in force, if any.
        own: The options as the settings have them.
        chosen: Names of the options that the user set.
    """
    learnt = adapter.prompt if adapter else {}
    return dataclasses.replace(own, **{k: v for k, v in learnt.items() if k not in chosen})
