"""Rewrite the generated blocks of the documentation, or check that they are fresh.

    python -m docs.generate
    python -m docs.generate --check

A block stands between `<!-- generated: WHAT -->` and `<!-- end -->`. WHAT is "help" with a command
of the command line ("help", "help ask", ...), or "settings", the table of every setting. Meanings
of settings are the comments beside the fields in the source, so they are written once. Knows
nothing of the prose around the blocks.
"""

import ast
import inspect
import io
import re
import tokenize
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from app.cli import cli
from app.settings import Settings, environment_name, range_text, setting_names

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WIDTH = 100  # characters of a line of help

_BLOCK = re.compile(r"(<!-- generated: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def refreshed(page: str) -> str:
    """Return a page with every generated block written anew."""
    return _BLOCK.sub(lambda match: f"{match[1]}{_generate(match[2])}\n{match[3]}", page)


def _generate(what: str) -> str:
    """Return the content of a block."""
    kind, *rest = what.split()
    if kind == "help":
        return f"```text\n{help_text(*rest)}\n```"
    if kind == "settings":
        return settings_table()
    raise click.ClickException(f'nothing generates "{what}"; write "help COMMAND" or "settings"')


def help_text(command: str = "") -> str:
    """Return what `tether COMMAND --help` prints, at a fixed width."""
    options: dict[str, Any] = {**cli.context_settings, "terminal_width": WIDTH}
    context = click.Context(cli, info_name="tether", **options)
    if command:
        chosen = cli.commands[command]
        return chosen.get_help(click.Context(chosen, info_name=command, parent=context))
    return cli.get_help(context)


def settings_table() -> str:
    """Return a Markdown table of every setting: name, default, variable, meaning."""
    lines = ["| setting | default | environment variable | meaning |", "|---|---|---|---|"]
    for name, default in setting_names().items():
        shown = str(default) if isinstance(default, Path) else default
        value = f"`{shown}`" if shown != "" else "empty"
        lines.append(f"| `{name}` | {value} | `{environment_name(name)}` | {meaning(name)} |")
    return "\n".join(lines)


def meaning(name: str) -> str:
    """Return a setting's comment in the source, then its choices or its range."""
    section, _, field = name.rpartition(".")
    owner = type(getattr(Settings(), section)) if section else Settings
    hint = get_type_hints(owner)[field]
    choices = [f"`{choice}`" for choice in get_args(hint)] if get_origin(hint) is Literal else []
    parts = [comments(owner).get(field, ""), ", ".join(choices), range_text(name)]
    return "; ".join(part for part in parts if part).replace("|", "\\|")


def comments(kind: type) -> dict[str, str]:
    """Return the comment beside each field of a dataclass, by field name; the last one counts."""
    source = Path(inspect.getfile(kind)).read_text("utf-8")
    by_line = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    return {
        field.target.id: by_line[line]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        for line in range(field.lineno, (field.end_lineno or field.lineno) + 1)
        if line in by_line
    }


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; fail if a page is stale.")
def main(check: bool) -> None:
    """Rewrite the generated blocks of README.md and docs/*.md."""
    stale = [
        page for page in PAGES if refreshed(page.read_text("utf-8")) != page.read_text("utf-8")
    ]
    names = ", ".join(str(page.relative_to(ROOT)) for page in stale)
    if check and stale:
        raise click.ClickException(f"stale: {names}; run: python -m docs.generate")
    for page in stale:
        page.write_text(refreshed(page.read_text("utf-8")), "utf-8")
    click.echo(f"rewritten: {names}" if stale else "all fresh")


if __name__ == "__main__":
    main()
