"""People and their credentials as they are kept, failed guesses as counted, `tether users`."""

import json
import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import cli
from app.http.attempts import FREE, LONGEST_WAIT, MOST_KEYS, REMEMBERED, Attempts, address_key
from app.users import LOCAL, MOST_SESSIONS, SESSION_SECONDS, Cost, Users, prefix_of
from ingest.errors import StoreError, TetherError, UsageError
from retrieval.encoders import HashingEncoder
from retrieval.store import open_collection

CHEAP = Cost(n=2**4, r=1, p=1)  # for tests alone
PASSWORD = "correct horse battery"


class Clock:
    """Tells the time that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def users(home: Path, clock: Clock) -> Users:
    made = Users(home, cost=CHEAP, clock=clock)
    made.add("ada")
    made.add("root", role="operator")
    return made


class TestPeople:
    def test_nobody_is_there_at_first_and_asking_makes_no_file(self, home: Path) -> None:
        users = Users(home)
        assert not users.any() and users.accounts() == [] and users.rights(LOCAL) == {}
        users.forget("handbook")
        assert not users.path.exists()

    def test_names_have_one_form(self, users: Users) -> None:
        assert users.person(" ＡDA ").name == "ada"
        with pytest.raises(UsageError, match="already"):
            users.add("Ada")
        assert users.add("李雷").name == "李雷"
        for name in ("", " ", "a b", "../x", ".a", "a.", "a/b", "a\nb", "x" * 41, "<b>"):
            with pytest.raises(UsageError, match="cannot name a user"):
                users.add(name)

    def test_who_comes_later_under_the_same_name_inherits_nothing(self, users: Users) -> None:
        ada = users.person("ada")
        token, session = users.issue_token("ada"), users.open_session(ada)
        users.own("handbook", ada)
        users.share("minutes", "ada")
        users.remove("ada")
        later = users.add("ada")
        assert later.id != ada.id and users.rights(later) == {} == users.rights(ada)
        assert users.person_of_token(token) is None
        assert users.person_of_session(session) is None
        assert users.who_may("handbook") == (None, ())

    def test_the_file_is_private_and_holds_no_secret(self, users: Users) -> None:
        users.set_password("ada", PASSWORD)
        token, session = users.issue_token("ada"), users.open_session(users.person("ada"))
        with sqlite3.connect(users.path) as reading:  # keeps the log beside the file
            reading.execute("SELECT * FROM users").fetchall()
            kept = [path for path in users.path.parent.iterdir() if path.name.startswith("users")]
            held = b"".join(path.read_bytes() for path in kept)
        for secret in (PASSWORD, token, token.rpartition("_")[2], session):
            assert secret.encode() not in held
        if os.name == "posix":
            assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}

    def test_a_newer_or_damaged_file_lets_nobody_in(self, users: Users, tmp_path: Path) -> None:
        with sqlite3.connect(users.path) as connection:
            connection.execute("PRAGMA user_version = 99")
        with pytest.raises(StoreError, match="newer Tether"):
            users.any()
        damaged = Users(tmp_path)
        damaged.path.write_bytes(b"not a database" * 100)
        with pytest.raises(StoreError, match="cannot be used"):
            damaged.any()

    def test_many_may_begin_at_once(self, home: Path) -> None:
        failed: list[Exception] = []

        def add(name: str) -> None:
            try:
                Users(home, cost=CHEAP).add(name)
            except TetherError as error:
                failed.append(error)

        threads = [threading.Thread(target=add, args=(f"user{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == [] and len(Users(home).accounts()) == 8


class TestCredentials:
    def test_passwords(self, users: Users) -> None:
        assert users.person_of_password("ada", "") is None  # none was set
        users.set_password("ada", "Ｐassword of Ada")
        assert users.person_of_password("ADA", "Password of Ada") == users.person("ada")
        for name, password in [
            ("ada", "password of Ada"), ("root", "Password of Ada"), ("eve", "Password of Ada"),
            ("ada", ""), ("", ""), ("ada", "\ud83d" * 20), ("' OR 1=1 --", "x"),
        ]:  # fmt: skip
            assert users.person_of_password(name, password) is None
        for password in ("short", "x" * 1001):
            with pytest.raises(UsageError, match="12 to 1000"):
                users.set_password("ada", password)

    def test_the_recommended_cost_is_what_is_kept(self, home: Path) -> None:
        users = Users(home)
        users.add("ada")
        users.set_password("ada", PASSWORD)
        with sqlite3.connect(users.path) as connection:
            (kept,) = connection.execute("SELECT password FROM users").fetchone()
        assert kept.split("$")[:4] == ["scrypt", "32768", "8", "3"]
        assert Users(home, cost=CHEAP).person_of_password("ada", PASSWORD) is not None

    def test_tokens_expire_and_are_revoked(self, users: Users, clock: Clock) -> None:
        token, short = users.issue_token("ada"), users.issue_token("ada", days=1)
        assert users.person_of_token(token) == users.person("ada")
        changed = token[:-1] + ("A" if token[-1] != "A" else "B")
        for wrong in (changed, "", prefix_of(token), token + "x", short[:15], "tether__", "x_y_z"):
            assert users.person_of_token(wrong) is None
        clock.now += 86_399
        assert users.person_of_token(short) is not None
        clock.now += 1
        assert users.person_of_token(short) is None
        users.revoke(prefix_of(token))
        assert users.person_of_token(token) is None
        with pytest.raises(UsageError, match="no token"):
            users.revoke(prefix_of(token))

    def test_sessions_end(self, users: Users, clock: Clock) -> None:
        ada = users.person("ada")
        first = users.open_session(ada)
        assert users.person_of_session(first) == ada
        clock.now += 1
        others = [users.open_session(ada) for _ in range(MOST_SESSIONS)]
        assert users.person_of_session(first) is None  # too many: the oldest ends
        users.close_session(others[0])
        assert users.person_of_session(others[0]) is None
        users.set_password("ada", PASSWORD)  # whoever knew the old one is out
        assert users.person_of_session(others[1]) is None
        last = users.open_session(ada)
        clock.now += SESSION_SECONDS
        assert users.person_of_session(last) is None


class TestRights:
    def test_owners_readers_and_strangers(self, users: Users) -> None:
        ada, eve = users.person("ada"), users.add("eve")
        users.own("handbook", ada)
        users.share("handbook", "eve")
        users.share("handbook", "eve")
        users.share("handbook", "ada")  # takes nothing from its owner
        assert (users.right(ada, "handbook"), users.right(eve, "handbook")) == ("owner", "reader")
        assert users.right(eve, "Handbook") is None
        assert users.who_may("handbook") == ("ada", ("ada", "eve"))
        assert users.unshare("handbook", "eve") and not users.unshare("handbook", "eve")
        assert users.right(eve, "handbook") is None
        users.own("handbook", eve)  # hers alone: those before have left
        assert users.right(ada, "handbook") is None
        users.forget("handbook")
        assert users.right(eve, "handbook") is None
        with pytest.raises(UsageError, match="no user"):
            users.share("handbook", "nobody")


class TestAttempts:
    def test_a_few_are_free_and_each_further_one_doubles_the_wait(self, clock: Clock) -> None:
        attempts = Attempts(clock=clock)
        assert [attempts.begin("a") for _ in range(FREE)] == [0.0] * FREE
        waits = []
        for _ in range(12):
            wait = attempts.begin("a", "b")
            waits.append(wait)
            clock.now += wait
            assert attempts.begin("a") == 0.0
        assert waits[:4] == [2.0, 4.0, 8.0, 16.0] and waits[-1] == LONGEST_WAIT
        assert attempts.begin("b") == 0.0  # it never came to an attempt of b
        clock.now += REMEMBERED
        assert [attempts.begin("a") for _ in range(FREE)] == [0.0] * FREE

    def test_the_right_one_counts_for_nothing(self, clock: Clock) -> None:
        attempts = Attempts(clock=clock)
        for _ in range(10 * FREE):
            assert attempts.begin("address", "user") == 0.0
            attempts.undo("address")
            attempts.forget("user")
        assert len(attempts) == 0
        for _ in range(FREE):
            attempts.begin("address")
        clock.now += 2
        assert attempts.begin("address") == 0.0
        attempts.undo("address")  # one's own account does not buy guesses at others
        assert attempts.begin("address") == 2.0

    def test_many_at_the_same_instant_do_not_slip_through(self, clock: Clock) -> None:
        attempts = Attempts(clock=clock)
        barrier, allowed = threading.Barrier(20), []

        def guess() -> None:
            barrier.wait()
            if not attempts.begin("a"):
                allowed.append(1)

        threads = [threading.Thread(target=guess) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(allowed) == FREE

    def test_memory_is_bounded(self, clock: Clock) -> None:
        attempts = Attempts(clock=clock)
        for number in range(MOST_KEYS + 10):
            attempts.begin(str(number))
        assert len(attempts) == MOST_KEYS

    def test_addresses(self) -> None:
        assert address_key("2001:db8::1") == address_key("2001:db8::ffff:2") != address_key("::1")
        assert address_key("192.0.2.1") != address_key("192.0.2.2")
        assert address_key("testclient") == "address testclient"


class TestCommands:
    def tether(self, *arguments: str, said: str = "") -> Result:
        return CliRunner().invoke(cli, ["users", *arguments], input=said)

    def test_from_the_first_user_to_the_last(self, home: Path) -> None:
        assert "nobody else gets in" in self.tether("list").output
        assert self.tether("add", "Ada", "--operator", said=f"{PASSWORD}\n").output == "added ada\n"
        users = Users(home)
        found = users.person_of_password("ada", PASSWORD)
        assert found is not None and found.is_operator
        token = self.tether("add", "bo", "--token").output.strip()
        assert users.person_of_token(token) == users.person("bo")
        short = self.tether("token", "bo", "--days", "1").output.strip()
        listed = self.tether("list").output
        assert "ada: operator, password\n" in listed
        assert f"token {prefix_of(token)} without end, token {prefix_of(short)} until" in listed
        assert token not in listed and short not in listed
        rows = json.loads(self.tether("list", "--json").output)
        assert [row["name"] for row in rows] == ["ada", "bo"]
        assert self.tether("revoke", prefix_of(token)).exit_code == 0
        assert users.person_of_token(token) is None
        changed = self.tether("password", "ada", said="another good one\n")
        assert changed.exit_code == 0 and "another" not in changed.output
        assert users.person_of_password("ada", PASSWORD) is None
        assert self.tether("remove", "ada").exit_code == 0
        assert [account.name for account in users.accounts()] == ["bo"]

    def test_a_bad_password_adds_nobody(self, home: Path) -> None:
        result = self.tether("add", "ada", said="short\n")
        assert isinstance(result.exception, UsageError) and not Users(home).any()

    def test_sharing(self, home: Path) -> None:
        users = Users(home, cost=CHEAP)
        bo = users.add("bo")
        open_collection(home, "handbook", HashingEncoder(), create=True).close()
        assert self.tether("rights").output == "handbook: of the operators\n"
        assert self.tether("share", "handbook", "bo").exit_code == 0
        assert self.tether("rights").output == "handbook: of the operators, read by bo\n"
        assert self.tether("unshare", "handbook", "bo").exit_code == 0
        assert "no reader" in str(self.tether("unshare", "handbook", "bo").exception)
        assert self.tether("share", "handbook", "bo", "--owner").exit_code == 0
        assert users.right(bo, "handbook") == "owner"
        (row,) = json.loads(self.tether("rights", "--json").output)
        assert row == {"collection": "handbook", "owner": "bo", "readers": []}
        assert "no collection" in str(self.tether("share", "nowhere", "bo").exception)
