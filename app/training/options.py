"""The options of `tether train`, by role, and what a command was asked for.

Knows nothing of rows, models or how anything is learnt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.flags import Flags

if TYPE_CHECKING:
    from app.settings import Settings
    from model.training.loop import TrainingOptions
    from model.training.tasks import Objective

_FILE = click.Path(dir_okay=False, path_type=Path)

Decorator = Callable[[Any], Any]

_DATA = click.option(
    "--data", type=_FILE, metavar="FILE", help="Rows to learn from, as JSON lines."
)
_DEV = click.option("--dev", type=_FILE, metavar="FILE", help="Rows to watch (default: a tenth).")
_COLLECTION = click.option(
    "--collection", metavar="NAME", help="Learn from your own documents instead."
)
_QUESTIONS = click.option(
    "--questions",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Passages of the collection to ask about.",
)
_FEEDBACK: tuple[Decorator, ...] = (
    click.option(
        "--from-feedback", is_flag=True, help="Learn from thumbs and corrections instead."
    ),
    click.option(
        "--preferences", is_flag=True, help="Of the feedback: better answers over worse ones (DPO)."
    ),
)
_COMMON: tuple[Decorator, ...] = (
    click.option("--out", required=True, metavar="NAME", help="Name for what is trained."),
    click.option("--force", is_flag=True, help="Replace what has that name."),
    click.option("--base", metavar="MODEL", help="Model to start from (default: the one in use)."),
    click.option(
        "--epochs", type=float, default=1.0, show_default=True, help="Times over all rows."
    ),
    click.option("--steps", type=click.IntRange(1), help="Stop after so many steps."),
    click.option("--minutes", type=float, help="Stop after so many minutes."),
    click.option("--learning-rate", type=float, help="Highest learning rate (default: by task)."),
    click.option(
        "--batch-tokens",
        type=click.IntRange(1),
        default=2048,
        show_default=True,
        help="Padded tokens of a batch.",
    ),
    click.option(
        "--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Batches a step."
    ),
    click.option(
        "--most-tokens", type=click.IntRange(8), help="Longest row; longer ones are left out."
    ),
    click.option(
        "--evaluate-every",
        type=click.IntRange(0),
        default=100,
        show_default=True,
        help="Steps between looks at the dev rows; 0: before and after.",
    ),
    click.option(
        "--patience",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Looks without improvement before it stops; 0: never.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn."),
    click.option("--device", metavar="NAME", default="auto", help="cpu, cuda, or auto."),
    click.option("--dry-run", is_flag=True, help="Count rows, estimate time and memory; no more."),
)
_LORA: tuple[Decorator, ...] = (
    click.option(
        "--rank", type=click.IntRange(1), default=16, show_default=True, help="Of the LoRA."
    ),
    click.option("--alpha", type=float, help="Scale of the LoRA (default: twice the rank)."),
)
_FORGETTING: tuple[Decorator, ...] = (
    click.option(
        "--from-adapter",
        metavar="NAME",
        help="Adapter to go on with (default: none; for feedback, the one in use).",
    ),
    click.option("--full", is_flag=True, help="Train all weights; makes a model, no adapter."),
    click.option(
        "--replay", type=float, default=0.0, metavar="SHARE", help="Share of general text mixed in."
    ),
    click.option("--replay-text", type=_FILE, metavar="FILE", help="General text, by paragraphs."),
    click.option("--kl", type=float, default=0.0, help="Weight of staying near the base's words."),
    click.option("--l2sp", type=float, default=0.0, help="Weight of staying near its weights."),
    click.option("--ewc", type=float, default=0.0, help="The same, by what general text needs."),
    click.option(
        "--freeze-layers", type=click.IntRange(0), default=0, help="Lowest layers left as they are."
    ),
    click.option(
        "--interpolate",
        type=float,
        default=1.0,
        show_default=True,
        metavar="SHARE",
        help="Share of the change that is kept at the end.",
    ),
)
OBJECTIVES: Mapping[str, "Objective"] = {"gpt": "next", "bert": "masked", "t5": "spans"}
_PRETRAINING: tuple[Decorator, ...] = (
    click.option(
        "--objective",
        type=click.Choice(list(OBJECTIVES)),
        default="gpt",
        show_default=True,
        help="The next token, masked tokens, or removed spans.",
    ),
    click.option("--from-scratch", is_flag=True, help="A new model with a tokenizer of its own."),
    click.option(
        "--vocabulary", type=click.IntRange(1), default=8000, show_default=True, help="Its tokens."
    ),
    click.option(
        "--width", type=click.IntRange(8), default=256, show_default=True, help="Its width."
    ),
    click.option(
        "--layers", type=click.IntRange(1), default=4, show_default=True, help="Its layers."
    ),
    click.option(
        "--heads", type=click.IntRange(1), default=4, show_default=True, help="Its heads."
    ),
    click.option("--freeze-embeddings", is_flag=True, help="Leave the embeddings as they are."),
)
_OF_ROWS = (_DATA, _DEV, _COLLECTION)
_OF_HEADS = (*_OF_ROWS, _QUESTIONS, *_COMMON, *_LORA)
_OPTIONS: Mapping[str, Sequence[Decorator]] = {  # by role, in the order of the help
    "answer": (*_OF_ROWS, _QUESTIONS, *_FEEDBACK, *_COMMON, *_LORA, *_FORGETTING),
    "knowledge": (*_OF_ROWS, *_COMMON, *_LORA, *_FORGETTING),
    "verify": _OF_HEADS,
    "rerank": _OF_HEADS,
    "read": _OF_HEADS,
    "pretrain": (_DATA, _COLLECTION, *_PRETRAINING, *_COMMON),
}


def options_of(role: str) -> Decorator:
    """Return a decorator that adds a role's options to its command."""

    def add(command: Any) -> Any:  # noqa: ANN401 - what click decorates
        for option in reversed(_OPTIONS[role]):
            command = option(command)
        return command

    return add


@dataclass(frozen=True, slots=True)
class Wanted:
    """A command's role and options, and the settings in force."""

    role: str
    settings: "Settings"
    options: Mapping[str, Any]
    command: str  # as it would be typed again

    @property
    def run(self) -> Path:
        """The folder of the run while it lasts."""
        return self.settings.home / "training" / str(self.options["out"])

    @property
    def target(self) -> Path:
        """The folder of what is trained."""
        kind = "models" if self.options.get("full") else "adapters"
        return self.settings.home / kind / str(self.options["out"])

    def training_options(self, rate: float) -> "TrainingOptions":
        """Return the loop's options; `rate` is the learning rate if none was chosen."""
        from model.training.loop import TrainingOptions

        chosen = self.options
        return TrainingOptions(
            seed=chosen["seed"],
            epochs=chosen["epochs"],
            most_steps=chosen["steps"],
            minutes=chosen["minutes"],
            batch_tokens=chosen["batch_tokens"],
            accumulate=chosen["accumulate"],
            learning_rate=chosen["learning_rate"] or rate,
            evaluate_every=chosen["evaluate_every"],
            patience=chosen["patience"],
            checkpoint_every=300.0 if chosen.get("full") else 60.0,
            device=chosen["device"],
        )


def wanted_by(flags: Flags, role: str, options: dict[str, Any]) -> Wanted:
    """Return what a command was asked for, its name checked.

    Raises:
        UsageError: The name cannot be that of an adapter, or it is taken.
    """
    from ingest.errors import UsageError
    from retrieval.store import checked_name

    name = checked_name(options["out"])
    if name in ("auto", "none"):
        raise UsageError(f'"{name}" means something else in the settings; choose another --out')
    settings = flags.settings(collection=options.get("collection"))
    context = click.get_current_context()
    wanted = Wanted(role, settings, options | {"out": name}, _typed(context))
    if wanted.target.exists() and not options["force"]:
        raise UsageError(
            f"{wanted.target} exists; give another --out, or --force to replace it when the"
            " training is done"
        )
    return wanted


def _typed(context: click.Context) -> str:
    """Return the command with the options that were given, for the card."""
    group = context.parent.info_name if context.parent else ""
    words = [f"tether {group} {context.info_name}"]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        source = context.get_parameter_source(parameter.name or "")
        if source is not click.core.ParameterSource.COMMANDLINE:
            continue
        text = str(value)
        words += [parameter.opts[0]] if value is True else [parameter.opts[0], text]
    return " ".join(f'"{word}"' if " " in word and word != words[0] else word for word in words)
