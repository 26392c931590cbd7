"""What a measurement leaves on disk: one JSONL row per sample, written as the sample finishes.

    RUN/run.json        what is run: suite, command, seed, identity, hardware, versions, commit
        samples.jsonl   one `Sample` a line, in the order in which they finished
        run.lock        held by the one program that may write

A sample is durable once `add` returns; a line that a kill cut off is dropped and measured again.
Each sample has a `key` made of its suite, arm, case and of the hashes of everything that shaped
it (`identity`), so a key that is there need not be measured again, in this run or in another.
A folder takes samples of one suite, seed and identity in one format, and refuses others.
Knows nothing of models, metrics or reports.

    with open_run(folder, describe("answers", command, seed=0, identity=identity)) as writer:
        for case in cases:
            if not writer.done(sample_key("answers", "rag", case.id, identity)):
                writer.add(measure(case))
    samples = read_run(folder).samples
"""

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from io import FileIO
from pathlib import Path
from typing import Any

import filelock

from ingest.documents import content_id
from ingest.errors import StoreError, UsageError
from model.answers import Citation
from retrieval.store import flush, replace_file

FORMAT = 1  # of run.json and samples.jsonl together; raise it when a field changes its meaning
RUN = "run.json"
SAMPLES = "samples.jsonl"
LOCK = "run.lock"

_NAMED = 4  # differences that a refusal names; the rest it counts


@dataclass(frozen=True, slots=True)
class Sample:
    """What one arm made of one case.

    `scores` maps a name to a finite number, or to None where the score does not apply to the case
    (say, citations of an abstention). A sample that could not be measured says why in `failure`
    and has no scores, so no average can take it in.

    Raises:
        ValueError: A number is not finite, or a failed sample has scores.
    """

    suite: str
    arm: str
    case_id: str
    cluster: str  # samples of one cluster are not independent: a passage, or a fact
    language: str  # "zh" or "en"
    question: str
    prompt: str
    output: str
    expected: tuple[str, ...]  # accepted answers; empty where there is none
    scores: Mapping[str, float | None]
    seconds: float
    identity: Mapping[str, str]  # hashes: weights, adapters, index, prompt, code, options ...
    kind: str = ""  # of case within the suite, such as "reverse"
    passages: tuple[tuple[str, float], ...] = ()  # (chunk id, score), as the arm was given them
    citations: tuple[Citation, ...] = ()
    confidence: float | None = None  # 0..1 where the arm gives one
    failure: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no report could use."""
        numbers = [*self.scores.values(), self.confidence, self.seconds]
        if not all(number is None or math.isfinite(number) for number in numbers):
            raise ValueError(f"A number of case {self.case_id} is not finite: make it a failure.")
        if self.failure is not None and self.scores:
            raise ValueError(f"Case {self.case_id} failed, so it has no scores.")

    @property
    def key(self) -> str:
        """What names the sample: equal keys mean an equal measurement."""
        return sample_key(self.suite, self.arm, self.case_id, self.identity)


@dataclass(frozen=True, slots=True)
class Description:
    """What a run is, and where it was started.

    `suite`, `seed` and `identity` decide what is measured: a folder takes one of each. The other
    fields say how the run was first started.
    """

    suite: str
    command: str
    seed: int
    identity: Mapping[str, str]  # what all samples have in common, by hash
    hardware: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it was read: all that a report may use."""

    name: str  # of its folder
    description: Description
    samples: tuple[Sample, ...]


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON value as 64 hex digits, whatever the order of its keys."""
    return content_id(json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False))


def sample_key(suite: str, arm: str, case_id: str, identity: Mapping[str, str]) -> str:
    """Return the key that a sample of that arm and case will have."""
    return digest([suite, arm, case_id, dict(identity)])


def by_key(runs: Iterable[Run]) -> dict[str, Sample]:
    """Return the samples of several runs by key: a cache of what was measured without failing."""
    return {sample.key: sample for run in runs for sample in run.samples if sample.failure is None}


def describe(
    suite: str, command: str, *, seed: int, identity: Mapping[str, str], device: str = "cpu"
) -> Description:
    """Return the description of a run on this machine and of this source tree."""
    from model.training.records import hardware, source_commit, versions  # loads torch

    return Description(
        suite, command, seed, dict(identity), hardware(device), versions(), source_commit()
    )


# --- Reading --------------------------------------------------------------------------------------


def read_run(folder: Path) -> Run:
    """Return a run; it may be unfinished, or still be written.

    Raises:
        UsageError: The folder holds no run, one of another format, or a damaged one.
    """
    description = _read_description(folder)
    content = _read(folder / SAMPLES) if (folder / SAMPLES).exists() else b""
    samples = _samples(folder / SAMPLES, content)
    return Run(folder.name, description, tuple(samples.values()))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): give the folder of a run, which holds {RUN}"
        ) from error


def _read_description(folder: Path) -> Description:
    path = folder / RUN
    content = _read(path)
    try:
        found = json.loads(content)
        version = found.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _damaged(path) from error
    if version != FORMAT:
        raise UsageError(
            f"{path} has format {version} and this Tether reads format {FORMAT}: use the Tether"
            " that wrote it, or measure again with another --out"
        )
    try:
        return Description(**found)
    except TypeError as error:
        raise _damaged(path) from error


def _samples(path: Path, content: bytes) -> dict[str, Sample]:
    """Return the samples of whole lines by key."""
    samples: dict[str, Sample] = {}
    for number, line in enumerate(content[: _whole(content)].splitlines(), 1):
        try:
            sample = _sample(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _damaged(path, f"line {number}") from error
        if sample.key in samples:
            raise _damaged(path, f"line {number}, which repeats a sample")
        samples[sample.key] = sample
    return samples


def _whole(content: bytes) -> int:
    """Return how many bytes are whole lines; a kill may have cut the last one."""
    return content.rfind(b"\n") + 1


def _sample(row: Mapping[str, Any]) -> Sample:
    if set(row) != {each.name for each in fields(Sample)}:
        raise ValueError("other fields than those of this format")
    restored = {
        "expected": tuple(row["expected"]),
        "passages": tuple((str(chunk), float(score)) for chunk, score in row["passages"]),
        "citations": tuple(Citation(**citation) for citation in row["citations"]),
    }
    return Sample(**{**row, **restored})


def _damaged(path: Path, place: str = "") -> UsageError:
    where = f" at {place}" if place else ""
    return UsageError(
        f"{path} is damaged{where}: restore it from a copy, or measure again with another --out"
    )


# --- Writing --------------------------------------------------------------------------------------


class RunWriter:
    """A run that is being written; `open_run` makes one and holds the folder's lock meanwhile."""

    def __init__(self, folder: Path, samples: dict[str, Sample], file: FileIO) -> None:
        """Take the samples that are there, and the file to append to."""
        self.folder = folder
        self._samples = samples
        self._file = file

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All samples so far, those of earlier sittings first."""
        return tuple(self._samples.values())

    def done(self, key: str) -> bool:
        """Return whether a sample of that key is there (see `sample_key`)."""
        return key in self._samples

    def add(self, sample: Sample) -> None:
        """Append a sample; when this returns, it survives a power cut.

        Raises:
            ValueError: Its key is there already.
            StoreError: The disk is full or not writable.
        """
        if self.done(sample.key):
            raise ValueError(f"Case {sample.case_id} of arm {sample.arm} is there already.")
        line = json.dumps(asdict(sample), ensure_ascii=False, allow_nan=False) + "\n"
        try:
            # A lone surrogate has no UTF-8; its backslashed form is the same text to JSON.
            _append(self._file, line.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self._samples[sample.key] = sample


def _append(file: FileIO, line: bytes) -> None:
    """Append a line durably, or raise and leave the file as it was."""
    before = os.fstat(file.fileno()).st_size
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            file.truncate(before)
        raise


@contextmanager
def open_run(folder: Path, description: Description) -> Iterator[RunWriter]:
    """Start a run in a folder, or go on with the one that is there.

    Raises:
        UsageError: The folder holds another run (the message says in what it differs), a damaged
            one, or one that another program is writing.
        StoreError: The disk is full or not writable.
    """
    lock = filelock.FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UsageError(
            f"{folder} is being written by another program: wait for it, or choose another --out"
        ) from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        _start(folder, description)
        with _opened(folder / SAMPLES) as (file, content):
            yield RunWriter(folder, _samples(folder / SAMPLES, content), file)
    finally:
        lock.release()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[FileIO, bytes]]:
    """Open a file of lines to append to, without a last line that was cut off."""
    try:
        file = path.open("a+b", buffering=0)
        file.seek(0)
        content = file.read()
        file.truncate(_whole(content))
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    with file:
        yield file, content


def _start(folder: Path, description: Description) -> None:
    """Write `run.json`, or refuse a folder whose own is of another run."""
    if (folder / RUN).exists():
        differing = _differences(_read_description(folder), description)
        if differing:
            more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
            raise UsageError(
                f"{folder} holds another run ({'; '.join(differing[:_NAMED])}{more}):"
                " choose another --out, or repeat the command that started it"
            )
        return
    if (folder / SAMPLES).exists():
        raise UsageError(f"{folder} holds samples without {RUN}: choose another --out")
    text = json.dumps({"format": FORMAT, **asdict(description)}, ensure_ascii=False, indent=1)
    try:
        replace_file(folder / RUN, (text + "\n").encode())
        (folder / SAMPLES).touch()
        flush(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _differences(found: Description, wanted: Description) -> list[str]:
    """Return what keeps two descriptions from being the same run, in words."""
    pairs: dict[str, tuple[object, object]] = {
        "suite": (found.suite, wanted.suite),
        "seed": (found.seed, wanted.seed),
    }
    for name in sorted({*found.identity, *wanted.identity}):
        pairs[name] = (found.identity.get(name, "absent"), wanted.identity.get(name, "absent"))
    return [
        f"{name} {str(there)[:12]}, now {str(now)[:12]}"
        for name, (there, now) in pairs.items()
        if there != now
    ]


def _unwritable(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{folder} cannot be written ({error.strerror}): free space on that disk or make it"
        " writable, and run the same command again, which goes on where it stopped"
    )
