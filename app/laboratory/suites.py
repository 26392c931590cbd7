"""The suites behind `tether eval SUITE...`: which there are, and where their records go.

    PLACE/SUITE/run.json, samples.jsonl    the records (`eval.records`)
                report.html, report.md     made from the records alone

Each suite is a module of eval/suites/ with `open_suite` and `LAYOUT` (`eval.suites.suite` says what
they are); it is given the assistant that the settings describe. Knows nothing of what a suite
measures.
"""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.laboratory.reports import write_page
from ingest.errors import SettingsError, TetherError, UsageError

if TYPE_CHECKING:
    from app.settings import Settings
    from eval.records import Run, Sample
    from eval.suites.suite import Overheard, Request, Suite
    from ingest.chunking import ChunkingOptions
    from model.assistant import Assistant
    from model.generators import Decoding
    from model.prompts import PromptOptions
    from model.verifier import Verifier
    from retrieval.encoders import Encoder
    from retrieval.search import Searcher, SearchOptions
    from retrieval.store import Collection

# A new suite is a line here: what `tether eval` calls it, and its module in eval/suites/.
SUITES: Mapping[str, str] = {
    "answers": "answers",
    "retrieval": "retrieval",
    "verifier": "verifier",
    "benchmarks": "benchmarks",
    "position": "position",
    "decoding": "decoding",
    "injection-attack": "injection_attack",
    "reversal": "reversal",
}
_FRONTIER = ("injection", "forgetting")  # they train models, under a budget

# Settings that change what is found and said. Weights and adapters are told by their hashes.
_SEARCHING = ("encoder.", "search.", "ingest.", "reader.", "verifier.")
_GENERATING = ("generator.", "prompt.", "decoding.")
_ELSEWHERE = frozenset(
    "encoder.model generator.model generator.adapter generator.api_key generator.slots"
    " reader.adapter verifier.adapter search.reranker".split()
)


@dataclass(frozen=True, slots=True)
class Order:
    """What a user asked for, beside what the suites need to know."""

    place: Path | None = None  # folder of the suites' folders; None: laboratory in the data root
    limit: int | None = None  # trials of each kind and language; None: all
    fresh: bool = False  # put records that are there aside
    command: str = ""  # that repeats it, for the record


def require_suites(names: Sequence[str]) -> None:
    """Refuse names that are no suites, before anything is measured.

    Raises:
        UsageError: There is no such suite.
    """
    for name in names:
        if name in _FRONTIER:
            raise UsageError(f"{name} is measured on your documents; use tether frontier PATH...")
        if name not in SUITES:
            known = ", ".join([*SUITES, "line"])
            raise UsageError(f"There is no suite {name!r}; choose from: {known}.")


def module_of(suite: str) -> Any:  # noqa: ANN401 - a module
    """Return the module of a suite.

    Raises:
        UsageError: There is no such suite.
    """
    require_suites([suite])
    return importlib.import_module(f"eval.suites.{SUITES[suite]}")


def carry_out(
    name: str, request: "Request", order: Order, laboratory: "SettingsLaboratory"
) -> Path:
    """Measure a suite, or go on measuring it, write its report, and return the HTML file.

    Without a place of the user's, the folder is named after all that shapes a sample: the same
    command goes on in it, and another one never meets its records. Progress goes to standard error.

    Raises:
        UsageError: A data set is missing or its licence not accepted, or the folder holds another
            run.
        TetherError: A model cannot be loaded, the disk is full, or every sample failed.
    """
    from eval.records import digest
    from eval.suites.suite import run_suite

    with module_of(name).open_suite(laboratory, request) as suite:
        label = digest([suite.identity, request.seed])[:8]
        own = laboratory.home / "laboratory" / f"{name}-{label}"
        place = order.place / name if order.place else own
        if order.fresh:
            put_aside(place)
        with _progress(suite, place, request.seed, order.limit) as on_sample:
            run = run_suite(
                suite, place,
                seed=request.seed, limit=order.limit, command=order.command, on_sample=on_sample,
            )  # fmt: skip
    page = write_report(place)
    _require_measured(run, place)
    return page


@contextmanager
def _progress(
    suite: "Suite[Any]", place: Path, seed: int, limit: int | None
) -> "Iterator[Callable[[Sample], None]]":
    """Yield what is to be told of each sample: a bar on a terminal, else a line at each percent."""
    import click
    from tqdm import tqdm

    from eval.records import RUN, read_run
    from eval.suites.suite import drawn

    wanted = {
        (variant.name, trial.id)
        for own in drawn(suite.trials, limit, seed)
        for trial in own
        for variant in suite.variants
        if variant.takes(trial)
    }
    kept = read_run(place).samples if (place / RUN).exists() else ()
    done = wanted & {(one.arm, one.case_id) for one in kept}
    total = len(wanted)

    with tqdm(desc=suite.name, total=total, initial=len(done), unit="sample", disable=None) as bar:

        def say() -> None:
            if bar.disable:
                click.echo(sampled_line(suite.name, len(done), total), err=True)

        def told(sample: "Sample") -> None:
            one, before = (sample.arm, sample.case_id), len(done)
            if one in wanted and one not in done:  # no baseline
                done.add(one)
                bar.update()
                if before * 100 // total != len(done) * 100 // total:
                    say()

        say()
        yield told


def sampled_line(name: str, done: int, total: int) -> str:
    """Return how far a suite is, as it is told where there is no terminal."""
    return f"{name}: {done} of {total} samples"


def read_sampled_line(line: str) -> tuple[int, int] | None:
    """Return what such a line says: how many are done, and how many there are."""
    found = re.fullmatch(r"\S+: (\d+) of (\d+) samples", line.strip())
    return (int(found[1]), int(found[2])) if found else None


def _require_measured(run: "Run", place: Path) -> None:
    """Refuse to pass a run off as measured in which everything failed."""
    from eval.suites.suite import failures

    failed = [one for own in failures(run.samples).values() for one in own]
    if failed and len(failed) == len(run.samples):
        raise TetherError(
            f"all {len(failed)} samples failed, the last one because: {failed[-1].failure}; mend"
            f" that, and measure again with --fresh (records: {place})"
        )


def put_aside(folder: Path) -> None:
    """Give a folder another name, if it is there; nothing that was measured is lost."""
    if folder.exists():
        number = 1
        while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
            number += 1
        folder.rename(aside)


def holds_suite(folder: Path) -> bool:
    """Return whether a folder has the records of a suite; the message for others is not ours."""
    from eval.records import RUN, read_run

    return (folder / RUN).is_file() and read_run(folder).description.suite in SUITES


def write_report(folder: Path, language: str = "en") -> Path:
    """Write the report of a suite's run from its records alone, and return the HTML file.

    Raises:
        UsageError: The folder holds no run of a suite.
    """
    from eval.records import read_run
    from eval.suites.pages import suite_page

    run = read_run(folder)
    return write_page(
        folder, suite_page(run, module_of(run.description.suite).LAYOUT, language), language
    )


# --- The assistant in force -----------------------------------------------------------------------


class SettingsLaboratory:
    """The parts of the assistant that the settings describe: an `eval.suites.suite.Laboratory`."""

    def __init__(self, settings: "Settings") -> None:
        """Load nothing yet."""
        self._settings = settings

    def close(self) -> None:
        """Let go of the generator, if one was loaded."""
        if "_generator" in self.__dict__:
            self._generator.close()

    @property
    def home(self) -> Path:
        """Tether's home folder."""
        return self._settings.home

    @property
    def search(self) -> "SearchOptions":
        """How collections are searched."""
        return self._settings.search

    @property
    def chunking(self) -> "ChunkingOptions":
        """How documents are cut."""
        return self._settings.ingest

    @property
    def decoding(self) -> "Decoding":
        """How drafts are decoded."""
        return self._settings.decoding

    @property
    def prompt(self) -> "PromptOptions":
        """What goes into a prompt."""
        from app.assembly import resolve_prompt

        return resolve_prompt(self._settings)

    @property
    def device(self) -> str:
        """Where a transformers model is put: "cpu" or "cuda"."""
        from model.training.loop import pick_device

        return pick_device(self._settings.generator.device).type

    def identity(self, *, generates: bool = True) -> dict[str, str]:
        """Return hashes of what answers, or of what only searches and judges."""
        return identity_of(self._settings, self.encoder(), generates=generates)

    def encoder(self) -> "Encoder":
        """Return the encoder."""
        return self._encoder

    @cached_property
    def _encoder(self) -> "Encoder":
        from app.assembly import build_encoder

        return build_encoder(self._settings)

    def generator(self) -> "Overheard":
        """Return the generator with its adapter, as `tether ask` uses it."""
        return self._generator

    @cached_property
    def _generator(self) -> "Overheard":
        from app.assembly import build_generator
        from eval.suites.suite import Overheard

        return Overheard(build_generator(self._settings))

    def verifier(self) -> "Verifier":
        """Return the verifier with its heads."""
        from app.assembly import build_verifier

        return build_verifier(self._settings, self.encoder())

    def searcher(self, collection: "Collection") -> "Searcher":
        """Return the search over a collection, with the reranker if there is one."""
        from app.assembly import build_searcher

        return build_searcher(self._settings, self.encoder(), collection)

    def assistant(
        self,
        searcher: "Searcher | None" = None,
        *,
        decoding: "Decoding | None" = None,
        prompt: "PromptOptions | None" = None,
    ) -> "Assistant":
        """Return the assistant over a searcher, with another decoding or prompt if given."""
        from app.assembly import build_assistant

        settings = self._settings
        if decoding is not None:
            settings = replace(settings, decoding=decoding)
        if prompt is not None:  # all of it is the caller's wish: an adapter changes nothing of it
            names = {f"prompt.{name}" for name in asdict(prompt)}
            settings = replace(settings, prompt=prompt, chosen=settings.chosen | names)
        return build_assistant(
            settings, encoder=self.encoder(), generator=self.generator(), searcher=searcher
        )

    def causal_model(self) -> tuple[Any, Any]:
        """Return the generator as a transformers model in float32, and its tokenizer."""
        return self._causal_model

    @cached_property
    def _causal_model(self) -> tuple[Any, Any]:
        from app.assembly import resolve_backend, transformers_files
        from model.training.tasks import load_base
        from model.weights import DEFAULT_GENERATOR

        name = self._settings.generator.model
        is_default = name == DEFAULT_GENERATOR
        # llama.cpp's file of the default model has a twin that transformers reads.
        backend = resolve_backend(self._settings)
        if backend != "transformers" and not (backend == "llama.cpp" and is_default):
            raise SettingsError(
                f"{name} gives no likelihoods of texts as it is run; set generator.model to a"
                " transformers folder or a hub id, or leave out the sets that need them"
            )
        source, adapter = transformers_files(self._settings)
        model, tokenizer = load_base(source, device=self.device)
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(adapter.folder))
        return model.eval(), tokenizer


def identity_of(
    settings: "Settings", encoder: "Encoder", *, generates: bool = True
) -> dict[str, str]:
    """Return what shapes an answer, in hashes: models, adapters, calibration, settings, code.

    Args:
        settings: Those in force.
        encoder: The encoder that they describe.
        generates: Whether the generator has a part in it.
    """
    from app.assembly import build_verifier, describe_adapters
    from app.settings import flatten
    from eval.records import digest
    from eval.suites.suite import hash_code

    kinds = _SEARCHING + (_GENERATING if generates else ())
    measured = {
        name: value
        for name, value in flatten(settings).items()
        if name.startswith(kinds) and name not in _ELSEWHERE
    }
    adapters = [
        f"{row['role']} {row['sha256'][:12]}"
        for row in describe_adapters(settings)
        if row["in_force"] and (generates or row["role"] != "answer")
    ]
    one = encoder.identity
    found = {
        "encoder": f"{one.name} ({one.dimension}, {one.weights_hash[:12]})",
        "settings": digest(measured)[:12],
        "adapters": ", ".join(adapters) or "none",
        "calibration": digest(asdict(build_verifier(settings, encoder).calibration))[:12],
        "code": hash_code(),
    }
    return {"generator": _generator_of(settings), **found} if generates else found


def _generator_of(settings: "Settings") -> str:
    """Return the generator's name, backend and weights' hash, for the record."""
    from app.assembly import describe_models, prepare_generator

    prepare_generator(settings)  # its hash is known once it is there
    row = next(row for row in describe_models(settings) if row["role"] == "generator")
    told = [row["backend"], *([row["sha256"][:12]] if row["sha256"] else [])]
    if row["backend"] == "openai":  # a server may have several models
        told.append(settings.generator.model)
    return f"{row['name']} ({', '.join(told)})"
