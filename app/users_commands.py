"""`tether users`: who may log in to a server that others can reach, and whose the collections are.

Passwords are read from a prompt, or from standard input where nobody types: never from an argument,
which every process of the machine could read. A token is printed once and cannot be shown again.
"""

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from app.flags import Flags, json_option, pass_flags, shown

if TYPE_CHECKING:
    from app.users import Account, Users


def _users(flags: Flags) -> "Users":
    from app.users import Users

    return Users(flags.settings().home)


@click.group()
def users() -> None:
    """Say who may log in to a server, and who may read which collection."""


@users.command()
@click.argument("name")
@click.option("--operator", is_flag=True, help="Sees all collections, and what the server does.")
@click.option("--token", "with_token", is_flag=True, help="Print a token instead of a password.")
@pass_flags
def add(flags: Flags, name: str, operator: bool, with_token: bool) -> None:
    """Add a user; asks for their password, or reads it from standard input.

    From then on everybody has to log in, on this machine, too.
    """
    from app.users import checked_password, checked_user_name

    store, name = _users(flags), checked_user_name(name)
    password = "" if with_token else checked_password(_password())  # before anything is written
    store.add(name, role="operator" if operator else "member")
    if with_token:
        click.echo(store.issue_token(name))
        return
    store.set_password(name, password)
    click.echo(f"added {name}")


@users.command(name="list")
@json_option
@pass_flags
def list_users(flags: Flags, as_json: bool) -> None:
    """List users with their roles and the beginnings of their tokens."""
    accounts = _users(flags).accounts()
    if as_json:
        click.echo(json.dumps([asdict(account) for account in accounts], ensure_ascii=False))
        return
    for account in accounts:
        click.echo(shown(f"{account.name}: {', '.join(_described(account))}"))
    if not accounts:
        click.echo("no users: whoever sits at this machine needs no login, and nobody else gets in")


def _described(account: "Account") -> list[str]:
    tokens = [f"token {token.prefix} {_until(token.expires)}" for token in account.tokens]
    ways = ["password"] * account.has_password + tokens
    return [account.role, *(ways or ["cannot log in yet"])]


def _until(expires: float | None) -> str:
    if expires is None:
        return "without end"
    return f"until {datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M} UTC"


@users.command()
@click.argument("name")
@pass_flags
def remove(flags: Flags, name: str) -> None:
    """Remove a user with their tokens; the collections they own are left to the operators."""
    _users(flags).remove(name)
    click.echo(shown(f"removed {name}"))


@users.command()
@click.argument("name")
@click.option(
    "--days", type=click.FloatRange(0, min_open=True), help="Until it expires (default: never)."
)
@pass_flags
def token(flags: Flags, name: str, days: float | None) -> None:
    """Print a new token of a user for programs: it cannot be shown again."""
    click.echo(_users(flags).issue_token(name, days=days))


@users.command()
@click.argument("prefix")
@pass_flags
def revoke(flags: Flags, prefix: str) -> None:
    """End a token; PREFIX is what `tether users list` shows of it."""
    _users(flags).revoke(prefix)
    click.echo(shown(f"revoked {prefix}"))


@users.command()
@click.argument("name")
@pass_flags
def password(flags: Flags, name: str) -> None:
    """Give a user another password; where they are logged in, they have to log in again."""
    store = _users(flags)
    store.person(name)  # or say so before anything is typed
    store.set_password(name, _password())
    click.echo(shown(f"changed the password of {name}"))


@users.command()
@click.argument("collection")
@click.argument("name")
@click.option("--owner", is_flag=True, help="Give it to them: to fill, to share and to delete.")
@pass_flags
def share(flags: Flags, collection: str, name: str, owner: bool) -> None:
    """Let a user read a collection."""
    settings = flags.settings()
    from retrieval.store import checked_name, require_collection

    store, collection = _users(flags), checked_name(collection)
    require_collection(settings.home, collection)
    if owner:
        store.own(collection, store.person(name))
    else:
        store.share(collection, name)
    click.echo(shown(f"{name} {'owns' if owner else 'may read'} collection {collection}"))


@users.command()
@click.argument("collection")
@click.argument("name")
@pass_flags
def unshare(flags: Flags, collection: str, name: str) -> None:
    """Take from a user the right to read a collection."""
    from ingest.errors import UsageError
    from retrieval.store import checked_name

    if not _users(flags).unshare(checked_name(collection), name):
        raise UsageError(
            f"{name} was no reader of collection {collection}; tether users rights shows who is"
        )
    click.echo(shown(f"{name} may no longer read collection {collection}"))


@users.command()
@json_option
@pass_flags
def rights(flags: Flags, as_json: bool) -> None:
    """List who owns each collection, and who may read it."""
    settings = flags.settings()
    from retrieval.store import list_collections

    store = _users(flags)
    found = {info.name: store.who_may(info.name) for info in list_collections(settings.home)}
    if as_json:
        rows = [
            {"collection": name, "owner": owner, "readers": readers}
            for name, (owner, readers) in found.items()
        ]
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    for name, (owner, readers) in found.items():
        read = f", read by {', '.join(readers)}" if readers else ""
        click.echo(shown(f"{name}: {f'owned by {owner}' if owner else 'of the operators'}{read}"))
    if not found:
        click.echo("no collections yet; make one with: tether ingest PATH --collection NAME")


def _password() -> str:
    """Return a password that was typed twice, or the line on standard input."""
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\r\n")
