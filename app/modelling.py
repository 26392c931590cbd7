"""The commands about models: `tether models`.

Each reads the settings, calls one function, and prints what it found or did.
"""

import json

import click

from app.flags import Flags, json_option, pass_flags, shown


@click.command()
@json_option
@click.option("--prepare", is_flag=True, help="Convert the default weights now.")
@pass_flags
def models(flags: Flags, as_json: bool, prepare: bool) -> None:
    """Show the models in use and all adapters: name, source, size, hash, and what is in force."""
    settings = flags.settings()
    from app.assembly import (
        build_encoder,
        describe_adapters,
        describe_models,
        prepare_generator,
    )

    if prepare:
        build_encoder(settings)
        prepare_generator(settings)
    adapters = [row | {"role": f"adapter: {row['role']}"} for row in describe_adapters(settings)]
    rows = [*describe_models(settings), *adapters]
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        mark = " (in force)" if row.pop("in_force", False) else ""
        click.echo(f"{row.pop('role')}{mark}")
        for name, value in row.items():
            click.echo(shown(f"  {name:<8} {value}"))


MODELLING = [models]
