"""The runs of the laboratory: those under the data root, and the one that is being measured now.

    runs = Runs(settings)
    runs.start(suite_order("decoding", limit=20))     # or frontier_order(paths, "60m", home)
    while not runs.wait(seconds=1):
        print(runs.progress().samples)
    for one in runs.kept():
        page = report_of(settings.home, one.name)     # HTML, of what has been measured so far

A run is a process of its own, `tether eval` or `tether frontier` with the settings of this one: it
takes its models out of memory when it ends, and a crash of it harms nobody here. There is one at a
time, for two would slow each other and spoil what they measure, and it ends with this process. Each
sample is durable as soon as it is measured, so the same order goes on where a stopped run was.
Knows nothing of what is measured, and nothing of the screen.
"""

import json
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from app.laboratory import experiment, suites
from app.laboratory.experiment import PLAN, SEED
from app.laboratory.reports import page_file
from app.laboratory.suites import SUITES, require_suites
from app.settings import Settings, environment_name, flatten
from eval.datasets import find_data
from eval.injection.budget import read_budget
from eval.records import RUN, SAMPLES, digest, read_run
from ingest.errors import UsageError

State = Literal["running", "finished", "stopped", "failed"]

FRONTIER = "frontier"  # among the names of suites, the experiment of `tether frontier`
# These make their questions themselves; the others need the folder that TETHER_DATA names.
WITHOUT_DATA = ("position", "decoding", "injection-attack", "reversal")
MOST_FILES = 1_000  # of a collection, since all of them stand in one command
MOST_QUESTIONS = 100_000  # of each set and language
PATIENCE = 10.0  # seconds that a stopped process may take to end

_ROOT = Path(__file__).resolve().parents[2]
_LINES = 200  # of what a run says, kept to be shown
_SAYS_WHERE = "report: "  # how a run says at its end where its report lies
_ELSEWHERE = ("home", "collection", "generator.api_key", "chat.", "serve.")  # see `_command`


@dataclass(frozen=True, slots=True)
class Order:
    """A run to be measured."""

    suite: str  # or `FRONTIER`
    title: str  # for people
    words: tuple[str, ...]  # of the command, after `tether`
    place: Path | None = None  # of its records, if that is known beforehand


@dataclass(frozen=True, slots=True)
class Kept:
    """A run under the data root."""

    name: str  # of its folder, from the laboratory's
    suite: str  # or `FRONTIER`; "" if its records are damaged
    model: str  # that was measured
    started: float  # seconds since 1970
    samples: int
    state: State  # "stopped" also while a process that is not ours is measuring it


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the latest run of this process is."""

    title: str
    state: State
    seconds: float
    samples: int  # in its records, those of earlier sittings too
    arms: tuple[int, int] | None  # done and in all; of a frontier with a plan
    said: tuple[str, ...]  # the last lines of its output
    sampled: tuple[int, int] | None = None  # samples done and in all; of a suite that has begun


# --- What can be ordered --------------------------------------------------------------------------


def suites_here() -> tuple[str, ...]:
    """Return the suites that can be measured: all of them only where there are question sets."""
    try:
        find_data()
    except UsageError:
        return WITHOUT_DATA
    return tuple(SUITES)


def suite_order(suite: str, limit: int, seed: int = 0) -> Order:
    """Return the order to measure a suite.

    Args:
        suite: Its name.
        limit: Questions of each set and language.
        seed: Of what is drawn.

    Raises:
        UsageError: There is no such suite, it needs data that there is not, or the limit is none.
    """
    require_suites([suite])
    if suite not in suites_here():
        raise UsageError(
            f"{suite} needs question sets; start the server with TETHER_DATA set to their folder"
        )
    if not 1 <= limit <= MOST_QUESTIONS:
        raise UsageError(f"questions must be a number from 1 to {MOST_QUESTIONS:,}; correct it")
    words = ("eval", suite, "--limit", str(limit), "--seed", str(seed))
    return Order(suite, f"{suite} ({limit})", words)


def frontier_order(paths: Sequence[Path], budget: str, home: Path) -> Order:
    """Return the order to measure a frontier over documents; equal orders share a folder.

    Args:
        paths: Files of documents; those that are gone are left out.
        budget: As `tether frontier` takes it.
        home: The data root.

    Raises:
        UsageError: There is no such budget, no file, or too many of them.
    """
    name = read_budget(budget).name
    files = sorted({str(path) for path in paths if path.exists()})
    if not files:
        raise UsageError("the collection has no files on this machine; ingest documents first")
    if len(files) > MOST_FILES:
        raise UsageError(
            f"the collection has {len(files):,} files, more than {MOST_FILES:,}; give their folder"
            " to tether frontier on the command line"
        )
    place = home / "laboratory" / f"{FRONTIER}-{name}-{digest([files, name])[:8]}"
    words = (FRONTIER, "--budget", name, "--out", str(place), "--", *files)
    return Order(FRONTIER, f"{FRONTIER} ({name})", words, place)


# --- What there is --------------------------------------------------------------------------------


def report_of(home: Path, name: str, language: str = "en") -> str:
    """Return the report of a run as an HTML document, made of its records if its own is older.

    Nothing is written: the file of a suite's report says that the suite was measured to its end.

    Args:
        home: The data root.
        name: As `Kept` has it; what is no name of a run there is refused, whatever it looks like.
        language: Of the report, "en" or "zh".

    Raises:
        UsageError: There is no such run, it has no samples yet, or its records are damaged.
    """
    folder = dict(_folders(home)).get(name)
    if folder is None:
        raise UsageError(f"there is no run {name!r:.100} in the laboratory; choose another")
    is_frontier = (folder / PLAN).is_file()
    page = page_file(folder, language)
    if _is_current(page, folder):
        return page.read_text("utf-8")
    states = tuple(path.stat() for path in _samples_of(folder))
    if not any(state.st_size for state in states):
        raise UsageError(f"nothing of {name} has been measured yet; wait, or start it again")
    stamp = tuple((state.st_mtime_ns, state.st_size) for state in states)
    return _made(folder, language, stamp, is_frontier=is_frontier)


@lru_cache(maxsize=8)
def _made(
    folder: Path, language: str, stamp: tuple[tuple[int, int], ...], *, is_frontier: bool
) -> str:
    """Return a report made of records; `stamp` tells them from those of another time."""
    from eval.frontier.page import frontier_page
    from eval.pages import html
    from eval.suites.pages import suite_page

    del stamp
    if is_frontier:
        plan = experiment.read_plan_of(folder)
        return html(frontier_page(experiment.runs_of(folder), plan, language))
    run = read_run(folder)
    return html(suite_page(run, suites.module_of(run.description.suite).LAYOUT, language))


def _folders(home: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and folder of every run: in the laboratory, or one folder further down."""
    for one in _below(home / "laboratory"):
        if _is_run(one):
            yield one.name, one
        else:
            yield from ((f"{one.name}/{sub.name}", sub) for sub in _below(one) if _is_run(sub))


def _below(folder: Path) -> list[Path]:
    """Return the folders in a folder; a link leads elsewhere, and is none of them."""
    try:
        return sorted(one for one in folder.iterdir() if one.is_dir() and not one.is_symlink())
    except OSError:
        return []


def _is_run(folder: Path) -> bool:
    return (folder / PLAN).is_file() or (folder / RUN).is_file()


def _samples_of(folder: Path) -> list[Path]:
    """Return the files of samples of a run: a frontier has one for each seed."""
    seeds = folder.glob(f"{SEED}*/{SAMPLES}")
    return [path for path in (folder / SAMPLES, *sorted(seeds)) if path.is_file()]


def _is_current(page: Path, folder: Path) -> bool:
    """Tell whether a report was written after the last sample."""
    if not page.is_file() or page.is_symlink():
        return False
    written = page.stat().st_mtime_ns
    return all(path.stat().st_mtime_ns <= written for path in _samples_of(folder))


def _json(path: Path) -> dict[str, Any]:
    """Return what a file says, nothing if it is damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _model_of(description: dict[str, Any]) -> str:
    """Return what was measured, in the words of the records."""
    identity = description.get("identity")
    if not isinstance(identity, dict):
        return ""
    if "weights" in identity:  # of a frontier, which trains them
        return str(identity["weights"])[:12]
    return str(identity.get("generator") or identity.get("encoder") or "")


@dataclass
class _Count:
    """The samples in a file that grows; what was counted is not read again."""

    number: int = 0  # of the file, to notice when it was replaced
    read: int = 0  # bytes
    samples: int = 0
    arms: int = 0  # that are through: each ends with what it cost

    def go_on(self, path: Path) -> None:
        """Count what has come."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self.number or status.st_size < self.read:
                self.number, self.read, self.samples, self.arms = status.st_ino, 0, 0, 0
            file.seek(self.read)
            for line in file:
                if line.endswith(b"\n"):  # else it is being written
                    self.read += len(line)
                    self.samples += 1
                    # Quotes within a text are escaped, so no document can look like this.
                    self.arms += b'"kind": "cost"' in line


# --- The one that is being measured ---------------------------------------------------------------


@dataclass
class _Child:
    """A process that measures."""

    order: Order
    process: "subprocess.Popen[str]"
    begun: float = field(default_factory=time.time)  # seconds since 1970
    ended: float | None = None
    was_stopped: bool = False
    sampled: tuple[int, int] | None = None  # as it says
    said: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES))

    def __post_init__(self) -> None:
        """Begin to listen to what the process says."""
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        with self.process:  # waits for it, at the end
            for line in self.process.stdout or ():
                sampled = suites.read_sampled_line(line)
                if sampled is not None:
                    self.sampled = sampled
                elif line.strip():
                    self.said.append(line.rstrip())
        self.ended = time.time()

    def stop(self) -> None:
        """End the process, and wait until it has."""
        self.was_stopped = True
        _end_all([self.process])
        self.listener.join(PATIENCE)

    @property
    def state(self) -> State:
        """How it stands with it."""
        if self.ended is None:
            return "running"
        if self.was_stopped:
            return "stopped"
        return "failed" if self.process.returncode else "finished"


class Runs:
    """The runs of one data root; all methods are thread-safe."""

    def __init__(self, settings: Settings) -> None:
        """Start nothing.

        Args:
            settings: In force here, and so in the runs.
        """
        self._settings = settings
        self._lock = threading.Lock()
        self._child: _Child | None = None  # the latest one
        self._counts: dict[Path, _Count] = {}
        self._processes: list[subprocess.Popen[str]] = []  # the latest one
        weakref.finalize(self, _end_all, self._processes)  # at the end of this process, too

    def start(self, order: Order) -> None:
        """Start a run, or go on with it where it was stopped.

        Raises:
            UsageError: Another one is being measured.
        """
        with self._lock:
            if self._child is not None and self._child.state == "running":
                raise UsageError(
                    f"{self._child.order.title} is being measured; wait for it, or stop it first"
                )
            words, environment = _command(self._settings, order)
            process = subprocess.Popen(
                words, env=environment, text=True, encoding="utf-8", errors="replace",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            self._processes[:] = [process]
            self._child = _Child(order, process)

    def stop(self) -> None:
        """End the run that is being measured, if there is one; its samples stay."""
        with self._lock:
            child = self._child
        if child is not None and child.state == "running":
            child.stop()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until nothing is measured, or so many seconds; tell whether nothing is."""
        with self._lock:
            child = self._child
        if child is None:
            return True
        child.listener.join(seconds)
        return child.ended is not None

    def progress(self) -> Progress | None:
        """Return how far the latest run is, None if there was none."""
        with self._lock:
            child = self._child
            if child is None:
                return None
            place = self._place_of(child)
            samples, arms = self._counted(place) if place else (0, 0)
            planned = _planned(place) if place else 0
        return Progress(
            child.order.title,
            child.state,
            (child.ended or time.time()) - child.begun,
            samples,
            (min(arms, planned), planned) if planned else None,
            tuple(child.said),
            child.sampled,
        )

    def kept(self) -> list[Kept]:
        """Return all runs, the latest first."""
        with self._lock:
            child = self._child if self._child and self._child.state == "running" else None
            place = self._place_of(child) if child else None
            found = [
                self._kept(name, folder, is_running=folder == place)
                for name, folder in _folders(self._settings.home)
            ]
        return sorted(found, key=lambda one: one.started, reverse=True)

    def _kept(self, name: str, folder: Path, *, is_running: bool) -> Kept:
        is_frontier = (folder / PLAN).is_file()
        first = folder / (PLAN if is_frontier else RUN)
        described = [_json(path) for path in sorted(folder.glob(f"{SEED}*/{RUN}"))]
        description = described[0] if described else _json(folder / RUN)
        suite = FRONTIER if is_frontier else str(description.get("suite", ""))
        samples, arms = self._counted(folder)
        if is_frontier:
            is_whole = 0 < _planned(folder) <= arms
        else:
            is_whole = _is_current(page_file(folder), folder)
        state: State = "running" if is_running else "finished" if is_whole else "stopped"
        return Kept(name, suite, _model_of(description), first.stat().st_mtime, samples, state)

    def _counted(self, folder: Path) -> tuple[int, int]:
        """Return how many samples a folder has, and how many arms are through."""
        counts = []
        for path in _samples_of(folder):
            count = self._counts.setdefault(path, _Count())
            with suppress(OSError):
                count.go_on(path)
            counts.append(count)
        return sum(one.samples for one in counts), sum(one.arms for one in counts)

    def _place_of(self, child: _Child) -> Path | None:
        """Return where samples go: a suite names its folder after what it loads first."""
        if child.order.place:
            return child.order.place
        if child.said and child.said[-1].startswith(_SAYS_WHERE):
            return Path(child.said[-1].removeprefix(_SAYS_WHERE)).parent
        named = child.order.suite + "-"
        grown = [
            (path.stat().st_mtime, folder)
            for name, folder in _folders(self._settings.home)
            if name.startswith(named)
            for path in _samples_of(folder)
            if path.stat().st_mtime > child.begun - 1
        ]
        return max(grown)[1] if grown else None


def _planned(folder: Path) -> int:
    """Return how many arms a frontier's plan has, those of all seeds together; 0 without one."""
    plan = _json(folder / PLAN)
    arms, seeds = plan.get("arms"), plan.get("seeds")
    return len(arms) * seeds if isinstance(arms, list) and isinstance(seeds, int) else 0


def _command(settings: Settings, order: Order) -> tuple[list[str], dict[str, str]]:
    """Return the command of a run with all settings that somebody chose, and its environment.

    A secret goes by the environment: everybody on a machine can read the words of a command. What
    concerns only the server stays away.
    """
    chosen = {
        name: value
        for name, value in flatten(settings).items()
        if name in settings.chosen and not name.startswith(_ELSEWHERE)
    }
    words = [word for name, value in chosen.items() for word in ("--set", f"{name}={value}")]
    # The modules of this process, whatever folder it runs in and whatever lies there.
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUTF8": "1"}
    if settings.generator.api_key:
        environment[environment_name("generator.api_key")] = settings.generator.api_key
    command = [sys.executable, "-P", "-m", "app.cli", "--home", str(settings.home)]
    return [*command, *words, *order.words], environment


def _end_all(processes: "Sequence[subprocess.Popen[str]]") -> None:
    """Let processes end, and end them if they do not."""
    for process in processes:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
