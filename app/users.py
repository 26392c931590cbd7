"""Who may come in: people, their passwords, tokens and sessions, and whose the collections are.

    users = Users(home)
    ada = users.add("ada", role="member")
    token = users.issue_token("ada", days=90)        # shown once; only its hash is kept
    users.person_of_token(token) == ada
    users.own("handbook", ada)                       # ada may change it, and share it

One SQLite file (WAL, mode 0600) under the data root. It holds no secret that could be used: of a
password its scrypt hash, of a token or session its SHA-256, which suffices for 256 random bits.
Each change is one durable transaction, each method opens the file anew and may be called from any
thread or process. Rights belong to a person's random id, so that who comes later under the name of
somebody who left inherits nothing. Knows nothing of HTTP, and does not count failed guesses.
"""

import hashlib
import hmac
import os
import secrets
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ingest.errors import StoreError, UsageError

USERS_FILE = "users.sqlite"
LEAST_PASSWORD = 12  # characters
LONGEST_PASSWORD = 1000  # characters
SESSION_SECONDS = 12 * 3600.0  # from a login to the next one
MOST_SESSIONS = 20  # of one person; older ones end
TOKEN_MARK = "tether"  # what a token begins with, so that a leaked one can be recognised

Role = Literal["operator", "member"]
Right = Literal["owner", "reader"]

_DAY = 86_400.0  # seconds
_VERSION = 1
_WAIT = 30.0  # seconds for another process to finish its change
_SCHEMA = """
CREATE TABLE users (
    id TEXT PRIMARY KEY,  -- random, never given twice
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL CHECK (role IN ('operator', 'member')),
    password TEXT  -- as `_hashed` writes it; NULL cannot log in
) STRICT;
CREATE TABLE tokens (
    prefix TEXT PRIMARY KEY,  -- the public part, by which it is found and revoked
    hash BLOB NOT NULL,
    user TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    expires REAL  -- seconds since 1970, NULL for never
) STRICT;
CREATE TABLE sessions (
    hash BLOB PRIMARY KEY,
    user TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    expires REAL NOT NULL
) STRICT;
CREATE TABLE owners (
    collection TEXT PRIMARY KEY,
    user TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE
) STRICT;
CREATE TABLE readers (
    collection TEXT NOT NULL,
    user TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    PRIMARY KEY (collection, user)
) STRICT;
"""


class NotAllowed(UsageError):
    """The person who asks may not do that."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks."""

    id: str  # what rights and history belong to
    name: str
    is_operator: bool = False  # sees all collections, and what the process does


# Who runs the process, where nobody has to log in.
LOCAL = Person("", "", is_operator=True)


@dataclass(frozen=True, slots=True)
class Token:
    """A token as a listing shows it."""

    prefix: str
    expires: float | None  # seconds since 1970, None for never


@dataclass(frozen=True, slots=True)
class Account:
    """A person as a listing shows them."""

    name: str
    role: Role
    has_password: bool
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one guess of a password costs: 128 * n * r bytes, and time in proportion to n * r * p.

    One of the settings that OWASP counts as equally strong; of these, one that needs 32 MiB.
    https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#scrypt
    """

    n: int = 2**15
    r: int = 8
    p: int = 3


class Users:
    """The people of one home folder."""

    def __init__(
        self, home: Path, *, cost: Cost | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Name the file; it is made with the first person.

        Args:
            home: The data root.
            cost: Of passwords that are set from now on, None for the recommended one.
            clock: Seconds since 1970, by which tokens and sessions expire.
        """
        self.path = home / USERS_FILE
        self._cost = cost or Cost()
        self._clock = clock
        self._hashing = threading.Lock()  # one at a time: each takes memory that a flood would fill

    # People

    def any(self) -> bool:
        """Tell whether there is anybody.

        Raises:
            StoreError: The file cannot be read.
        """
        if not self.path.exists():
            return False
        with self._reading() as connection:
            return connection.execute("SELECT 1 FROM users LIMIT 1").fetchone() is not None

    def add(self, name: str, *, role: Role = "member") -> Person:
        """Let somebody in, who then needs a password or a token.

        Raises:
            UsageError: The name is taken, or is none.
            StoreError: The file cannot be written.
        """
        name = checked_user_name(name)
        person = Person(secrets.token_hex(8), name, role == "operator")
        with self._writing() as connection:
            if _row_of(connection, name) is not None:
                raise UsageError(f"there is a user {name} already; choose another name")
            connection.execute(
                "INSERT INTO users (id, name, role) VALUES (?, ?, ?)", (person.id, name, role)
            )
        return person

    def remove(self, name: str) -> None:
        """Forget a person with their tokens, sessions and rights; what they owned stays.

        Raises:
            UsageError: There is no such person.
            StoreError: The file cannot be written.
        """
        with self._writing() as connection:
            connection.execute("DELETE FROM users WHERE id = ?", (_id_of(connection, name),))

    def accounts(self) -> list[Account]:
        """Return all people by name.

        Raises:
            StoreError: The file cannot be read.
        """
        if not self.path.exists():
            return []
        with self._reading() as connection:
            people = connection.execute(
                "SELECT id, name, role, password IS NOT NULL FROM users ORDER BY name"
            ).fetchall()
            tokens = connection.execute(
                "SELECT user, prefix, expires FROM tokens ORDER BY rowid"
            ).fetchall()
        held: dict[str, list[Token]] = {}
        for user, prefix, expires in tokens:
            held.setdefault(user, []).append(Token(prefix, expires))
        return [
            Account(name, role, bool(has_password), tuple(held.get(user, ())))
            for user, name, role, has_password in people
        ]

    def person(self, name: str) -> Person:
        """Return the person of a name.

        Raises:
            UsageError: There is no such person.
            StoreError: The file cannot be read.
        """
        with self._reading() as connection:
            return _person(_required(connection, name))

    # Passwords and sessions, for people

    def set_password(self, name: str, password: str) -> None:
        """Give a person a password in place of the one before, whose sessions end.

        Raises:
            UsageError: There is no such person, or the password is too short or too long.
            StoreError: The file cannot be written.
        """
        hashed = self._hashed(checked_password(password), self._cost, secrets.token_bytes(16))
        with self._writing() as connection:
            user = _id_of(connection, name)
            connection.execute("UPDATE users SET password = ? WHERE id = ?", (hashed, user))
            connection.execute("DELETE FROM sessions WHERE user = ?", (user,))

    def person_of_password(self, name: str, password: str) -> Person | None:
        """Return whose name and password these are, None if nobody's; either takes as long.

        Raises:
            StoreError: The file cannot be read.
        """
        with self._reading() as connection:
            row = _row_of(connection, folded(name))
        known = row[3] if row and row[3] else self._nobodys()
        cost, salt = _cost_and_salt(known)
        given = self._hashed(password[:LONGEST_PASSWORD], cost, salt)
        is_right = hmac.compare_digest(given.encode(), known.encode())
        return _person(row) if is_right and row and row[3] else None

    def open_session(self, person: Person) -> str:
        """Return the secret of a new session, which ends after `SESSION_SECONDS`.

        Raises:
            StoreError: The file cannot be written.
        """
        secret, now = secrets.token_urlsafe(32), self._clock()
        with self._writing() as connection:
            connection.execute("DELETE FROM sessions WHERE expires <= ?", (now,))
            connection.execute(
                "INSERT INTO sessions VALUES (?, ?, ?)",
                (_digest(secret), person.id, now + SESSION_SECONDS),
            )
            connection.execute(
                "DELETE FROM sessions WHERE user = ? AND hash NOT IN "
                "(SELECT hash FROM sessions WHERE user = ? ORDER BY expires DESC LIMIT ?)",
                (person.id, person.id, MOST_SESSIONS),
            )
        return secret

    def person_of_session(self, secret: str) -> Person | None:
        """Return whose session this is, None if it is none, ended or expired.

        Raises:
            StoreError: The file cannot be read.
        """
        with self._reading() as connection:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM sessions JOIN users ON users.id = sessions.user "
                "WHERE sessions.hash = ? AND sessions.expires > ?",
                (_digest(secret), self._clock()),
            ).fetchone()
        return _person(row) if row else None

    def close_session(self, secret: str) -> None:
        """End a session, if it is one.

        Raises:
            StoreError: The file cannot be written.
        """
        with self._writing() as connection:
            connection.execute("DELETE FROM sessions WHERE hash = ?", (_digest(secret),))

    # Tokens, for programs

    def issue_token(self, name: str, *, days: float | None = None) -> str:
        """Return a new token of a person: it is shown this once.

        Args:
            name: Whose.
            days: Until it expires, None for never.

        Raises:
            UsageError: There is no such person.
            StoreError: The file cannot be written.
        """
        prefix = secrets.token_hex(4)
        token = f"{TOKEN_MARK}_{prefix}_{secrets.token_urlsafe(32)}"
        expires = None if days is None else self._clock() + days * _DAY
        with self._writing() as connection:
            user = _id_of(connection, name)
            connection.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?)", (prefix, _digest(token), user, expires)
            )
        return token

    def revoke(self, prefix: str) -> None:
        """End a token by its public part.

        Raises:
            UsageError: There is no such token.
            StoreError: The file cannot be written.
        """
        with self._writing() as connection:
            done = connection.execute("DELETE FROM tokens WHERE prefix = ?", (prefix,))
            if not done.rowcount:
                raise UsageError(
                    f"there is no token {prefix}; tether users list shows how each one begins"
                )

    def person_of_token(self, token: str) -> Person | None:
        """Return whose token this is, None if nobody's, revoked or expired.

        Raises:
            StoreError: The file cannot be read.
        """
        prefix = prefix_of(token)
        with self._reading() as connection:
            row = connection.execute(
                f"SELECT {_COLUMNS}, hash FROM tokens JOIN users ON users.id = tokens.user "
                "WHERE prefix = ? AND (expires IS NULL OR expires > ?)",
                (prefix, self._clock()),
            ).fetchone()
        if row is None or not hmac.compare_digest(row[-1], _digest(token)):
            return None
        return _person(row)

    def knows_prefix(self, prefix: str) -> bool:
        """Tell whether there is a token with this public part.

        Raises:
            StoreError: The file cannot be read.
        """
        with self._reading() as connection:
            found = connection.execute("SELECT 1 FROM tokens WHERE prefix = ?", (prefix,))
            return found.fetchone() is not None

    # Whose the collections are

    def own(self, collection: str, owner: Person) -> None:
        """Make a collection somebody's alone; `LOCAL` leaves it to the operators.

        Raises:
            StoreError: The file cannot be written.
        """
        if not self.path.exists():
            return  # there is nobody but LOCAL
        with self._writing() as connection:
            _forget(connection, collection)
            if owner.id:
                connection.execute("INSERT INTO owners VALUES (?, ?)", (collection, owner.id))

    def share(self, collection: str, reader: str) -> None:
        """Let somebody read a collection.

        Raises:
            UsageError: There is no such person.
            StoreError: The file cannot be written.
        """
        with self._writing() as connection:
            user = _id_of(connection, reader)
            connection.execute("INSERT OR IGNORE INTO readers VALUES (?, ?)", (collection, user))

    def unshare(self, collection: str, reader: str) -> bool:
        """Take that right away; tell whether it was there.

        Raises:
            UsageError: There is no such person.
            StoreError: The file cannot be written.
        """
        with self._writing() as connection:
            done = connection.execute(
                "DELETE FROM readers WHERE collection = ? AND user = ?",
                (collection, _id_of(connection, reader)),
            )
            return done.rowcount > 0

    def forget(self, collection: str) -> None:
        """Forget all rights to a collection that is no more.

        Raises:
            StoreError: The file cannot be written.
        """
        self.own(collection, LOCAL)

    def right(self, person: Person, collection: str) -> Right | None:
        """Return what a person may do with a collection, None for nothing.

        Raises:
            StoreError: The file cannot be read.
        """
        return self.rights(person).get(collection)

    def rights(self, person: Person) -> dict[str, Right]:
        """Return the collections that a person owns or may read; operators need no right.

        Raises:
            StoreError: The file cannot be read.
        """
        if not self.path.exists():
            return {}
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT collection, 'reader' FROM readers WHERE user = ? "
                "UNION ALL SELECT collection, 'owner' FROM owners WHERE user = ?",
                (person.id, person.id),
            ).fetchall()
        return dict(rows)  # owners come last: theirs is the greater right

    def who_may(self, collection: str) -> tuple[str | None, tuple[str, ...]]:
        """Return the names of a collection's owner, None for the operators, and of its readers.

        Raises:
            StoreError: The file cannot be read.
        """
        if not self.path.exists():
            return None, ()
        name = "SELECT name FROM users JOIN {0} ON {0}.user = users.id WHERE collection = ?"
        with self._reading() as connection:
            owner = connection.execute(name.format("owners"), (collection,)).fetchone()
            readers = connection.execute(
                name.format("readers") + " ORDER BY name", (collection,)
            ).fetchall()
        return (owner[0] if owner else None), tuple(reader for (reader,) in readers)

    # The file

    def _hashed(self, password: str, cost: Cost, salt: bytes) -> str:
        """Return what is kept of a password: "scrypt$n$r$p$salt$hash"."""
        text = unicodedata.normalize("NFKC", password)  # as every keyboard would type it
        with self._hashing:
            found = hashlib.scrypt(
                text.encode("utf-8", "replace"), salt=salt, n=cost.n, r=cost.r, p=cost.p,
                maxmem=256 * cost.n * cost.r + (1 << 20), dklen=32,
            )  # fmt: skip
        return f"scrypt${cost.n}${cost.r}${cost.p}${salt.hex()}${found.hex()}"

    def _nobodys(self) -> str:
        """Return what nobody's password becomes: to try it costs as much as somebody's."""
        return f"scrypt${self._cost.n}${self._cost.r}${self._cost.p}${'00' * 16}$"

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction, which is durable when the block ends."""
        with self._reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            self._make_private()
            with closing(
                sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
            ) as connection:
                _prepare(connection, self.path)
                yield connection
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"the users in {self.path} cannot be used ({error}): free space or make it"
                " writable; if it is damaged, move it away and add them anew"
            ) from error

    def _make_private(self) -> None:
        """Make the file before SQLite does, which would let others read it; its log takes after."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))


_COLUMNS = "users.id, users.name, users.role, users.password"
_Row = tuple[str, str, str, str | None]


def checked_user_name(name: str) -> str:
    """Return a name in the one form in which it is known: lower case, NFKC.

    Raises:
        UsageError: It cannot name a user.
    """
    known = folded(name)
    has_form = all(c.isalnum() or c in "_-." for c in known)
    if not has_form or not 1 <= len(known) <= 40 or not (known[0] + known[-1]).isalnum():
        raise UsageError(
            f"{name[:100]!r} cannot name a user; use up to 40 letters, digits, or _-. within"
        )
    return known


def checked_password(password: str) -> str:
    """Return a password that is neither too short nor too long.

    Raises:
        UsageError: It is.
    """
    if not LEAST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise UsageError(
            f"a password has {LEAST_PASSWORD} to {LONGEST_PASSWORD} characters; choose such a one,"
            " for example four words"
        )
    return password


def prefix_of(token: str) -> str:
    """Return the public part of a token, "" if it has not the form of one."""
    mark, _, rest = token.partition("_")
    prefix, _, secret = rest.partition("_")
    return prefix if mark == TOKEN_MARK and secret else ""


def folded(name: str) -> str:
    """Return a name that somebody typed in the form in which names are kept."""
    return unicodedata.normalize("NFKC", name).strip().casefold()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def _cost_and_salt(hashed: str) -> tuple[Cost, bytes]:
    _, n, r, p, salt, _ = hashed.split("$")
    return Cost(int(n), int(r), int(p)), bytes.fromhex(salt)


def _person(row: _Row) -> Person:
    return Person(row[0], row[1], row[2] == "operator")


def _row_of(connection: sqlite3.Connection, name: str) -> _Row | None:
    found: _Row | None = connection.execute(
        f"SELECT {_COLUMNS} FROM users WHERE name = ?", (name,)
    ).fetchone()
    return found


def _required(connection: sqlite3.Connection, name: str) -> _Row:
    row = _row_of(connection, folded(name))
    if row is None:
        raise UsageError(f"there is no user {name[:100]}; tether users list shows them all")
    return row


def _id_of(connection: sqlite3.Connection, name: str) -> str:
    return _required(connection, name)[0]


def _forget(connection: sqlite3.Connection, collection: str) -> None:
    for table in ("owners", "readers"):
        connection.execute(f"DELETE FROM {table} WHERE collection = ?", (collection,))


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA synchronous = FULL")  # what was revoked stays so after a power cut
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA foreign_keys = ON")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise StoreError(f"{path} was written by a newer Tether: update Tether")
    if version < _VERSION:
        connection.execute("PRAGMA journal_mode = WAL")  # the file remembers it
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version < _VERSION:  # no other process was faster
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
