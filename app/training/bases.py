"""What a training starts from: a model by name, place and hash, and an adapter to go on with.

Knows what the options and the settings name, and nothing of rows or tasks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.training.options import Wanted

if TYPE_CHECKING:
    from model.adapters import Adapter


@dataclass(frozen=True, slots=True)
class Base:
    """A model that goes on learning."""

    name: str
    place: str  # a folder, or a hub id
    sha256: str  # empty of a hub id

    @property
    def told(self) -> dict[str, str]:
        """What the record says of it."""
        return {"name": self.name, "sha256": self.sha256}


def generator_base(wanted: Wanted) -> Base:
    """Return the language model to start from.

    Raises:
        UsageError: It is a GGUF file, which cannot be trained.
    """
    from ingest.errors import UsageError
    from model.weights import DEFAULT_GENERATOR, base_hash, prepare_gemma_folder

    home = wanted.settings.home
    model = wanted.options["base"] or wanted.settings.generator.model
    if model.lower().endswith(".gguf"):
        raise UsageError(
            f"{model} is a GGUF file, which cannot be trained; name a transformers folder, a hub"
            f" id or {DEFAULT_GENERATOR} with --base"
        )
    if model == DEFAULT_GENERATOR:
        folder = prepare_gemma_folder(home)
        return Base(model, str(folder), base_hash(folder, home))
    return _folder_or_hub_id(model, home)


def _folder_or_hub_id(model: str, home: Path) -> Base:
    """Return a model that is called by its folder or its hub id."""
    from model.weights import base_hash
    from retrieval.weights import local_folder

    folder = local_folder(model)
    if folder is None:
        return Base(model, model, "")
    return Base(folder.resolve().name, str(folder), base_hash(folder, home))


def encoder_base(wanted: Wanted) -> tuple[str, Path]:
    """Return name and folder of the sentence encoder to start from.

    Raises:
        WeightsError: There is no such folder.
    """
    from ingest.errors import WeightsError
    from retrieval.e5 import prepare_e5_small
    from retrieval.encoders import DEFAULT_ENCODER
    from retrieval.weights import local_folder

    model = wanted.options["base"] or wanted.settings.encoder.model
    if model == DEFAULT_ENCODER:
        return model, prepare_e5_small(wanted.settings.home)
    folder = local_folder(model)
    if folder is None:
        raise WeightsError(
            f"{model} is no folder of a sentence encoder; name one with --base, or"
            f" {DEFAULT_ENCODER}"
        )
    return folder.resolve().name, folder


def pretraining_base(wanted: Wanted) -> Base:
    """Return the model that goes on with an objective.

    Raises:
        UsageError: The objective needs a model that is named.
        WeightsError: There is no such folder of an encoder.
    """
    from ingest.errors import UsageError
    from model.weights import base_hash
    from retrieval.weights import local_folder

    objective, named, home = (
        wanted.options["objective"],
        wanted.options["base"],
        wanted.settings.home,
    )
    if objective == "gpt":
        return generator_base(wanted)
    if objective == "bert" and (not named or local_folder(named)):
        name, folder = encoder_base(wanted)
        return Base(name, str(folder), base_hash(folder, home))
    if not named:
        raise UsageError("there is no T5 in use: name a folder with --base, or --from-scratch")
    return _folder_or_hub_id(named, home)


def adapter_to_go_on_with(wanted: Wanted, base: Base) -> "Adapter | None":
    """Return the adapter whose training goes on; people's feedback is about the one in use.

    Raises:
        UsageError: Other options need a fresh one.
        WeightsError: There is no such adapter, or it belongs to another base.
    """
    from app.assembly import resolve_adapter
    from ingest.errors import UsageError
    from model.adapters import find_adapter, require_base

    chosen = wanted.options
    name = chosen["from_adapter"]
    if name == "none" or (name is None and not chosen.get("from_feedback")):
        return None
    if name is not None:
        adapter: Adapter | None = find_adapter(name, wanted.settings.home, "answer")
    else:
        adapter = None if chosen["base"] or chosen["full"] else resolve_adapter(wanted.settings)
    if adapter is None:
        return None
    if chosen["full"] or chosen["interpolate"] < 1:
        raise UsageError(
            f"the adapter {adapter.name} goes on learning, which --full and --interpolate cannot;"
            " leave them out, or give --from-adapter none"
        )
    require_base(adapter, base.name, base.sha256 or None)
    return adapter


def load_adapter(model: Any, folder: Path) -> Any:  # noqa: ANN401 - peft ships no types
    """Return a model with a LoRA on it that goes on learning."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder), is_trainable=True)


def adapter_switch(wanted: Wanted) -> str:
    """Return the settings under which an adapter on the base that was wanted runs."""
    adapter = f"generator.adapter={wanted.options['out']}"
    chosen = wanted.options["base"]
    if not chosen or chosen == wanted.settings.generator.model:
        return adapter
    return f"{adapter} --set generator.model={chosen}"
