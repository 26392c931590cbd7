"""What all commands share: the settings that flags give, and text that is safe to print."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from app.settings import Settings


@dataclass
class Flags:
    """Settings given on the command line, by dotted name."""

    values: dict[str, str] = field(default_factory=dict)
    file: Path | None = None

    def settings(self, **more: object) -> "Settings":
        """Return the settings in force; `more` are a command's own flags ("__" for the dot)."""
        from app.settings import load_settings

        given = {k.replace("__", "."): str(v) for k, v in more.items() if v is not None}
        return load_settings(self.values | given, file=self.file)


pass_flags = click.make_pass_decorator(Flags)

collection_option = click.option(
    "--collection", metavar="NAME", help="Collection to use (default: the setting `collection`)."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def shown(text: str) -> str:
    """Return text on one line, without the control characters that could steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
