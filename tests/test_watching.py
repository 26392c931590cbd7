"""Folders that a serving process follows: only those it was given, only for who may, until told."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.service import Service
from app.settings import ServeSettings, folders_of
from app.users import NotAllowed
from app.watching import MOST_WATCHES, Watch, Watches
from ingest.errors import ServiceBusy, SettingsError, StoreBusy, StoreError, UnknownCollection
from ingest.pipeline import Report
from tests.serving_parts import BRIDGE, TEA, make_service


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so; a minute at most."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "handbook"
    made.mkdir()
    (made / "bridge.md").write_bytes(BRIDGE)
    return made


@pytest.fixture
def service(home: Path, folder: Path) -> Iterator[Service]:
    with make_service(home, serve__folders=str(folder)) as made:
        yield made


def titles(service: Service, collection: str) -> set[str]:
    return {info.title for info in service.documents(collection)}


def test_a_folder_is_followed_until_it_is_told_otherwise(service: Service, folder: Path) -> None:
    assert service.folders == (folder,)
    service.watch(str(folder), collection="notes")
    wait_until(lambda: service.watches("notes")[0].state == "following")
    (watch,) = service.watches("notes")
    assert watch.report is not None and watch.report.counts["added"] == 1
    (folder / "tea.md").write_bytes(TEA)
    (folder / "bridge.md").unlink()
    wait_until(lambda: titles(service, "notes") == {"Tea"})
    service.unwatch(str(folder), collection="notes")
    assert service.watches("notes") == (Watch(folder),)
    assert titles(service, "notes") == {"Tea"}  # what was read stays

    service.watch(str(folder), collection="notes")
    service.delete("notes")  # ends it, and nothing makes the collection anew
    (folder / "more.md").write_text("More.")
    with pytest.raises(UnknownCollection):
        service.watches("notes")


def test_only_what_the_settings_name_is_followed(
    service: Service, folder: Path, tmp_path: Path
) -> None:
    for wrong in ("", "/", str(tmp_path), f"{folder}/../handbook", f"{folder}/", "handbook"):
        with pytest.raises(NotAllowed, match="may not be followed"):
            service.watch(wrong)
    assert service.collections() == []  # refused before anything is made


def test_only_owners_follow_and_only_while_they_are(service: Service, folder: Path) -> None:
    ada, eve = service.users.add("ada"), service.users.add("eve")
    service.require_people()
    with pytest.raises(UnknownCollection):
        service.watch(str(folder), collection="notes")  # nobody asks
    service.watch(str(folder), collection="notes", person=ada)
    service.share("notes", "eve", person=ada)
    for uses in (service.watch, service.unwatch):
        with pytest.raises(NotAllowed):
            uses(str(folder), collection="notes", person=eve)
    with pytest.raises(NotAllowed):
        service.watches("notes", person=eve)
    wait_until(lambda: service.watches("notes", person=ada)[0].state == "following")
    service.users.own("notes", eve)
    (folder / "tea.md").write_bytes(TEA)
    wait_until(lambda: service.watches("notes", person=eve)[0].state == "failed")
    (watch,) = service.watches("notes", person=eve)
    assert "no collection notes for you" in watch.message
    assert len(service.documents("notes", person=eve)) == 1


def test_who_is_in_the_way_is_waited_for_and_errors_are_told(tmp_path: Path) -> None:
    tried = list[str]()
    done = threading.Event()

    def read() -> Report:
        tried.append("once")
        if len(tried) < 2:
            raise StoreBusy("another program is writing")
        if len(tried) == 2:
            return Report(())
        done.wait(60)
        raise StoreError("the disk is full; free some space")

    watches = Watches()
    watches.start("notes", tmp_path, read)
    wait_until(lambda: watches.of("notes")[tmp_path].state == "following")
    (tmp_path / "new.md").write_text("New.")
    wait_until(lambda: watches.of("notes")[tmp_path].state == "reading")
    watches.start("notes", tmp_path, lambda: pytest.fail("it is followed already"))
    done.set()
    wait_until(lambda: watches.of("notes")[tmp_path].state == "failed")
    assert watches.of("notes")[tmp_path].message == "the disk is full; free some space"
    watches.start("notes", tmp_path, lambda: Report(()))  # what failed can be begun again
    wait_until(lambda: watches.of("notes")[tmp_path].state == "following")
    before = threading.active_count()
    watches.close(60)
    assert threading.active_count() < before and watches.of("notes") == {}


def test_they_are_not_too_many(tmp_path: Path) -> None:
    watches = Watches()
    for number in range(MOST_WATCHES):
        watches.start(f"c{number}", tmp_path / "later", lambda: Report(()))
    with pytest.raises(ServiceBusy, match="stop one of them"):
        watches.start("more", tmp_path, lambda: Report(()))
    watches.close(60)


def test_folders_are_written_as_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.pathsep", ":")
    found = folders_of(ServeSettings(folders=f" notes:{tmp_path / 'notes'}::{tmp_path / '手册'}"))
    assert found == (tmp_path / "notes", tmp_path / "手册")
    with pytest.raises(SettingsError, match="write the path in full"):
        folders_of(ServeSettings(folders="~nobody-of-that-name/notes"))
