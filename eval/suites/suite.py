"""What a suite is, and how one is run: cases, what is compared on them, and samples on disk.

    with open_suite(laboratory, request) as suite:  # of eval.suites.answers, or another
        run = run_suite(suite, Path("runs/answers"), seed=0, limit=200)
    page = suite_page(run, LAYOUT)                  # eval.suites.pages, from the records alone

A suite has `Trial`s (one case each) and `Variant`s (what is compared; records call one an arm). A
variant measures blocks of trials and says for each what came out, with its scores; beside them it
gives what assistants without any sense would have scored, the baselines. The runner keeps all of it
as `eval.records.Sample`s, skips what is there already, and never mixes what differs in any hash.

A module of a suite has two names: `open_suite(laboratory, request)`, a context manager that yields
the `Suite` and closes what it opened; and `LAYOUT`, an `eval.suites.pages.Layout`, which says how
its records read as tables. `app/laboratory/suites.py` lists the modules. Knows nothing of settings
or the screen.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from eval.cases import sample
from eval.records import Run, RunWriter, Sample, describe, open_run, read_run, sample_key
from ingest.chunking import ChunkingOptions
from ingest.documents import content_id
from ingest.errors import SettingsError, StoreError, TetherError, WeightsError
from model.answers import Citation
from model.assistant import Assistant
from model.generators import Decoding, Generator, GeneratorIdentity
from model.prompts import Prompt, PromptOptions
from model.verifier import Verifier
from retrieval.encoders import Encoder
from retrieval.search import Searcher, SearchOptions
from retrieval.store import Collection

BASELINE = "baseline: "  # how the name of an arm that knows nothing begins
PATIENCE = 10  # failures in a row after which a variant is left alone for this sitting

S = TypeVar("S")
OnSample = Callable[[Sample], None]


@dataclass(frozen=True)  # no slots: Python 3.11 cannot call Trial[int](...) with them
class Trial(Generic[S]):
    """One case of a suite; `subject` is what its variants need to know of it."""

    id: str  # unique within the suite, such as "xquad/en-56be4db0"
    subject: S
    question: str
    language: str  # "zh" or "en"
    cluster: str  # trials of one cluster are not independent: a passage, or a fact
    kind: str = ""  # trials of one kind share a table: a question set, an attack
    expected: tuple[str, ...] = ()  # accepted answers


@dataclass(frozen=True, slots=True)
class Measured:
    """What a variant made of a trial. `scores` are as in `eval.records.Sample`."""

    output: str
    scores: Mapping[str, float | None]
    prompt: str = ""
    passages: tuple[tuple[str, float], ...] = ()  # (chunk id, score)
    citations: tuple[Citation, ...] = ()
    confidence: float | None = None
    seconds: float | None = None  # where a variant timed itself, say without loading what it needs
    # What something without any sense would have said to the same trial, by name. Where several
    # variants give one baseline of a trial, the first one is kept.
    baselines: "Mapping[str, Measured]" = field(default_factory=dict)


@dataclass(frozen=True)  # no slots: Python 3.11 cannot call Variant[int](...) with them
class Variant(Generic[S]):
    """One of the things that a suite compares.

    `measure` returns one `Measured` a trial, in order. An error that it raises is the failure of a
    sample (of a block's samples, each of which is then tried alone), and the others stand.
    """

    name: str
    measure: Callable[[Sequence[Trial[S]]], Sequence[Measured]]
    block: int = 1  # trials measured at once; always the same ones, so that a second run agrees
    identity: Mapping[str, str] = field(default_factory=dict)  # hashes of what is its alone
    takes: Callable[[Trial[S]], bool] = lambda trial: True  # trials that it can be measured on


@dataclass(frozen=True)  # no slots: Python 3.11 cannot call Suite[int](...) with them
class Suite(Generic[S]):
    """All that is measured under one name.

    `identity` holds hashes of all that shapes a sample, the cases among it: a folder takes samples
    of one identity. `trials` of one kind stand together; a limit draws from each kind and language.
    """

    name: str
    identity: Mapping[str, str]
    trials: tuple[Trial[S], ...]
    variants: tuple[Variant[S], ...]
    device: str = "cpu"


# --- What a suite is opened with ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked of a suite."""

    data: Path | None = None  # folder of the question sets; None: TETHER_DATA
    sets: tuple[str, ...] = ()  # names of sets; empty: those that the suite takes by itself
    seed: int = 0
    accepts_licences: bool = False  # also sets that are not for commercial use


class Laboratory(Protocol):
    """The assistant in force in its parts, each loaded when it is first asked for."""

    @property
    def home(self) -> Path:
        """Tether's home folder."""
        ...

    @property
    def search(self) -> SearchOptions:
        """How collections are searched."""
        ...

    @property
    def chunking(self) -> ChunkingOptions:
        """How documents are cut."""
        ...

    @property
    def decoding(self) -> Decoding:
        """How drafts are decoded."""
        ...

    @property
    def prompt(self) -> PromptOptions:
        """What goes into a prompt."""
        ...

    @property
    def device(self) -> str:
        """Where a transformers model is put: "cpu" or "cuda"."""
        ...

    def identity(self, *, generates: bool = True) -> dict[str, str]:
        """Return hashes of what answers: weights, adapters, calibration, code, options.

        Args:
            generates: Whether the generator has a part in what is measured.
        """
        ...

    def encoder(self) -> Encoder:
        """Return the encoder."""
        ...

    def generator(self) -> "Overheard":
        """Return the generator with its adapter, as `tether ask` uses it."""
        ...

    def verifier(self) -> Verifier:
        """Return the verifier with its heads."""
        ...

    def searcher(self, collection: Collection) -> Searcher:
        """Return the search over a collection, with the reranker if there is one."""
        ...

    def assistant(
        self,
        searcher: Searcher | None = None,
        *,
        decoding: Decoding | None = None,
        prompt: PromptOptions | None = None,
    ) -> Assistant:
        """Return the assistant over a searcher (None: passages are given), else as it is."""
        ...

    def causal_model(self) -> tuple[Any, Any]:
        """Return the generator as a transformers model with its adapter on, and its tokenizer.

        In float32, so that `eval.scoring.Scorer` gives the same figures twice.

        Raises:
            SettingsError: The generator in force is none that transformers runs.
        """
        ...


class Overheard:
    """A generator whose last prompt can be read, for the record of what it was asked."""

    def __init__(self, generator: Generator) -> None:
        """Pass everything on to a generator."""
        self._generator = generator
        self._prompt: Prompt | None = None

    @property
    def identity(self) -> GeneratorIdentity:
        """That of the generator."""
        return self._generator.identity

    def stream(
        self, prompt: Prompt, decoding: Decoding, scores: list[float] | None = None
    ) -> Iterator[str]:
        """Yield what the generator yields."""
        self._prompt = prompt
        yield from self._generator.stream(prompt, decoding, scores)

    def count_tokens(self, text: str) -> int:
        """Return the number of the generator's tokens in the text."""
        return self._generator.count_tokens(text)

    def close(self) -> None:
        """Close the generator."""
        self._generator.close()

    def heard(self) -> str:
        """Return the prompt since the last call of this, "" if there was none."""
        prompt, self._prompt = self._prompt, None
        return prompt.as_text() if prompt else ""


# The Python files under these folders, and these of eval/, decide what a sample holds.
_MEASURED = ("ingest", "retrieval", "model")
_SCORED = (
    "answering",
    "suites.benches",
    "suites.suite",
    "cases",
    "datasets",
    "metrics",
    "outcomes",
    "scoring",
)


def hash_code(*modules: str, root: Path | None = None) -> str:
    """Return 12 hex digits over the sources that shape a sample, whether committed or not.

    Args:
        modules: Names of further modules under `eval`, such as `suites.answers`.
        root: Where the folders stand; this source tree if not given.
    """
    root = root or Path(__file__).resolve().parents[2]
    paths = [path for folder in _MEASURED for path in (root / folder).rglob("*.py")]
    paths += [root / "eval" / f"{name.replace('.', '/')}.py" for name in (*_SCORED, *modules)]
    named = {path.relative_to(root).as_posix(): path for path in paths}
    told = [f"{name}\n{path.read_text('utf-8')}" for name, path in sorted(named.items())]
    return content_id("\0".join(told))[:12]


# --- Running --------------------------------------------------------------------------------------


def run_suite(
    suite: Suite[S],
    folder: Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    command: str = "",
    on_sample: OnSample | None = None,
) -> Run:
    """Measure a suite, or go on measuring it, and return the run.

    Args:
        suite: What is measured.
        folder: Of this run alone; its samples are kept, and a higher limit adds to them.
        seed: Of the draw; it is part of what the run is.
        limit: Trials of each kind and language, whole clusters at a time; None: all.
        command: What was typed, for the record.
        on_sample: Is told each new sample when it is durable.

    Raises:
        UsageError: The folder holds another run.
        StoreError: The disk is full or not writable.
        SettingsError: What is asked for cannot be had with these settings.
        WeightsError: A model cannot be loaded.
    """
    description = describe(
        suite.name, command, seed=seed, identity=suite.identity, device=suite.device
    )
    with open_run(folder, description) as writer:
        runner = _Runner(suite, writer, on_sample)
        for trials in drawn(suite.trials, limit, seed):
            for variant in suite.variants:
                runner.measure(variant, [trial for trial in trials if variant.takes(trial)])
    return read_run(folder)


def drawn(trials: Sequence[Trial[S]], limit: int | None, seed: int) -> Iterator[list[Trial[S]]]:
    """Yield at most `limit` trials of each kind and language, in a seeded order.

    Whole clusters at a time; a smaller limit gives a prefix of a larger one's.
    """
    groups: dict[tuple[str, str], list[Trial[S]]] = {}
    for trial in trials:
        groups.setdefault((trial.kind, trial.language), []).append(trial)
    return (sample(group, limit, seed) for group in groups.values())


class _Runner(Generic[S]):
    """One sitting over a suite."""

    def __init__(self, suite: Suite[S], writer: RunWriter, on_sample: OnSample | None) -> None:
        self._suite, self._writer, self._on_sample = suite, writer, on_sample
        self._failures: dict[str, int] = {}  # in a row, by variant

    def measure(self, variant: Variant[S], trials: Sequence[Trial[S]]) -> None:
        """Add what is missing of one variant on trials of one kind.

        If one trial of a block is missing the whole block is measured: a batch rounds by what is in
        it, so a resumed run would differ from an uninterrupted one.
        """
        for at in range(0, len(trials), variant.block):
            block = trials[at : at + variant.block]
            if all(self._has(variant, trial) for trial in block):
                continue
            if self._failures.get(variant.name, 0) >= PATIENCE:
                return
            self._measure_block(variant, block)

    def _has(self, variant: Variant[S], trial: Trial[S]) -> bool:
        return self._writer.done(
            sample_key(self._suite.name, variant.name, trial.id, self._identity(variant))
        )

    def _identity(self, variant: Variant[S]) -> dict[str, str]:
        return {**self._suite.identity, **variant.identity}

    def _measure_block(self, variant: Variant[S], block: Sequence[Trial[S]]) -> None:
        started = time.perf_counter()
        try:
            found = variant.measure(block)
        except (SettingsError, WeightsError, StoreError):
            raise  # not this case's fault: no case could be measured
        except Exception as error:
            if len(block) > 1:
                for trial in block:
                    self._measure_block(variant, [trial])
                return
            self._add(variant, block[0], _reason(error), time.perf_counter() - started)
            return
        seconds = (time.perf_counter() - started) / len(block)
        for trial, measured in zip(block, found, strict=True):
            own = seconds if measured.seconds is None else measured.seconds
            self._add(variant, trial, measured, own)

    def _add(
        self, variant: Variant[S], trial: Trial[S], found: Measured | str, seconds: float
    ) -> None:
        """Keep what was measured of a trial, or why nothing was."""
        if isinstance(found, Measured) and not _is_finite(found):
            found = "a score is no finite number"
        if isinstance(found, str):
            self._failures[variant.name] = self._failures.get(variant.name, 0) + 1
            self._keep(variant.name, variant, trial, Measured("", {}), seconds, failure=found)
            return
        self._failures[variant.name] = 0
        # Baselines first: what is there of a variant is then there with its baselines.
        for name, baseline in found.baselines.items():
            self._keep(f"{BASELINE}{name}", None, trial, baseline, 0.0)
        self._keep(variant.name, variant, trial, found, seconds)

    def _keep(  # noqa: PLR0917 - one caller
        self,
        arm: str,
        variant: Variant[S] | None,
        trial: Trial[S],
        found: Measured,
        seconds: float,
        failure: str | None = None,
    ) -> None:
        identity = self._identity(variant) if variant else dict(self._suite.identity)
        sample = Sample(
            self._suite.name, arm, trial.id, trial.cluster, trial.language, trial.question,
            found.prompt, found.output, trial.expected, dict(found.scores), seconds, identity,
            trial.kind, found.passages, found.citations, found.confidence, failure,
        )  # fmt: skip
        if self._writer.done(sample.key):
            return
        self._writer.add(sample)
        if self._on_sample:
            self._on_sample(sample)


def _is_finite(found: Measured) -> bool:
    numbers = [*found.scores.values(), found.confidence]
    return all(number is None or math.isfinite(number) for number in numbers)


def _reason(error: Exception) -> str:
    """Return why a sample failed, on one line."""
    said = " ".join(str(error).split())
    return said if isinstance(error, TetherError) else f"{type(error).__name__}: {said}"


# --- Reading what was measured --------------------------------------------------------------------


def is_baseline(arm: str) -> bool:
    """Return whether an arm of a suite's records knows nothing, and is there for comparison."""
    return arm.startswith(BASELINE)


def without_baselines(run: Run) -> Run:
    """Return a run without its baselines, which a comparison of two runs need not repeat."""
    kept = tuple(sample for sample in run.samples if not is_baseline(sample.arm))
    return Run(run.name, run.description, kept)


def failures(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Return the samples that could not be measured, by arm."""
    found: dict[str, list[Sample]] = {}
    for one in samples:
        if one.failure is not None:
            found.setdefault(one.arm, []).append(one)
    return found
