"""Suites: what is drawn and measured, what a failure does, and the report from records alone."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from eval.pages import Table, html
from eval.records import Run, read_run
from eval.statistics import Estimate, wilson
from eval.suites.pages import (
    SECONDS,
    Column,
    Layout,
    arms_of,
    mean_of,
    share_where,
    suite_page,
)
from eval.suites.suite import (
    BASELINE,
    PATIENCE,
    Measured,
    Overheard,
    Suite,
    Trial,
    Variant,
    drawn,
    hash_code,
    run_suite,
    without_baselines,
)
from ingest.errors import GeneratorError, SettingsError, UsageError
from model.generators import Decoding, ScriptedGenerator
from model.prompts import Prompt

ROOT = Path(__file__).resolve().parent.parent


def trial(number: int, kind: str = "sums", language: str = "en") -> Trial[int]:
    return Trial(
        f"{kind}/{language}-{number}", number, f"{number} + {number}?", language,
        f"cluster {number // 2}", kind, (str(2 * number),),
    )  # fmt: skip


TRIALS = tuple(trial(number) for number in range(8))


class Adder:
    """Doubles numbers; those in `bad` raise, or give what they are mapped to."""

    def __init__(self, bad: dict[int, BaseException | float] | None = None) -> None:
        self.bad = bad or {}
        self.blocks: list[list[int]] = []

    def __call__(self, trials: Sequence[Trial[int]]) -> list[Measured]:
        self.blocks.append([one.subject for one in trials])
        return [self.double(one.subject) for one in trials]

    def double(self, number: int) -> Measured:
        found = self.bad.get(number, 1.0)
        if isinstance(found, BaseException):
            raise found
        return Measured(
            str(2 * number),
            {"right": found, "odd": None},
            prompt=f"{number} + {number} =",
            confidence=0.5,
            baselines={"says nothing": Measured("", {"right": 0.0})},
        )


def suite(
    *variants: Variant[int], trials: Sequence[Trial[int]] = TRIALS, code: str = "a"
) -> Suite[int]:
    return Suite("sums", {"code": code}, tuple(trials), variants)


def measured(run: Run, arm: str) -> dict[str, float | None]:
    return {one.case_id: one.scores.get("right") for one in run.samples if one.arm == arm}


def test_a_limit_is_of_each_kind_and_language() -> None:
    mixed = [
        trial(n, kind, language) for kind in "ab" for language in ("en", "zh") for n in range(6)
    ]
    groups = list(drawn(mixed, 4, seed=0))
    assert [len(group) for group in groups] == [4] * 4
    assert all(len({(one.kind, one.language) for one in group}) == 1 for group in groups)
    assert all(len({one.cluster for one in group}) == 2 for group in groups)  # whole clusters
    assert [group[:2] for group in groups] == list(drawn(mixed, 2, seed=0))
    assert list(drawn(mixed, 4, seed=1)) != groups
    assert sum(map(len, drawn(mixed, None, seed=0))) == len(mixed)


def test_samples_say_all_that_was_measured(tmp_path: Path) -> None:
    seen: list[str] = []
    own = Variant("adder", Adder(), identity={"temperature": "0"})
    run = run_suite(
        suite(own), tmp_path, seed=3, command="sums", on_sample=lambda s: seen.append(s.arm)
    )
    assert len(run.samples) == 16 and seen.count("adder") == 8
    assert (run.description.suite, run.description.seed, run.description.command) == (
        "sums",
        3,
        "sums",
    )
    one = next(sample for sample in run.samples if sample.case_id == "sums/en-3" and sample.prompt)
    assert (one.arm, one.output, one.expected, one.kind) == ("adder", "6", ("6",), "sums")
    assert (one.prompt, one.cluster, one.confidence) == ("3 + 3 =", "cluster 1", 0.5)
    assert one.identity == {"code": "a", "temperature": "0"}
    assert one.scores == {"right": 1.0, "odd": None}
    dull = measured(run, f"{BASELINE}says nothing")
    assert set(dull.values()) == {0.0} and len(dull) == 8
    assert {sample.arm for sample in without_baselines(run).samples} == {"adder"}


def test_going_on_measures_only_what_is_missing(tmp_path: Path) -> None:
    first = Adder()
    run_suite(suite(Variant("adder", first)), tmp_path, limit=4)
    before = (tmp_path / "samples.jsonl").read_bytes()
    (tmp_path / "samples.jsonl").write_bytes(before + b'{"suite": "su')  # the process died here
    second = Adder()
    run = run_suite(suite(Variant("adder", second)), tmp_path)
    assert len(second.blocks) == 4
    assert sorted(n for block in first.blocks + second.blocks for n in block) == list(range(8))
    assert (tmp_path / "samples.jsonl").read_bytes().startswith(before)
    third = Adder()
    assert run_suite(suite(Variant("adder", third)), tmp_path) == run
    assert third.blocks == []


def test_a_block_is_measured_whole(tmp_path: Path) -> None:
    killed = Adder(
        {trial.subject: KeyboardInterrupt() for trial in next(drawn(TRIALS, None, 0))[4:6]}
    )
    with pytest.raises(KeyboardInterrupt):
        run_suite(suite(Variant("adder", killed, block=3)), tmp_path)
    kept = read_run(tmp_path).samples
    assert sum(one.arm == "adder" for one in kept) == 3
    adder = Adder()
    whole = run_suite(suite(Variant("adder", adder, block=3)), tmp_path)
    assert [len(block) for block in adder.blocks] == [3, 2]
    other = run_suite(suite(Variant("adder", Adder(), block=3)), tmp_path.parent / "uninterrupted")
    assert measured(whole, "adder") == measured(other, "adder")


def test_a_sample_that_fails_is_told_and_the_others_stand(tmp_path: Path) -> None:
    bad: dict[int, BaseException | float] = {
        2: GeneratorError("the server is gone"),
        5: float("nan"),
    }
    bad[6] = ZeroDivisionError("division")
    run = run_suite(suite(Variant("adder", Adder(bad), block=4)), tmp_path)
    failed = {one.case_id: one.failure for one in run.samples if one.failure}
    assert failed == {
        "sums/en-2": "the server is gone",
        "sums/en-5": "a score is no finite number",
        "sums/en-6": "ZeroDivisionError: division",
    }
    assert sum(value == 1.0 for value in measured(run, "adder").values()) == 5
    again = Adder()
    run_suite(suite(Variant("adder", again, block=4)), tmp_path)
    assert again.blocks == []  # a failure is a result too


def test_a_variant_that_only_fails_is_left_for_the_sitting(tmp_path: Path) -> None:
    many = tuple(trial(number) for number in range(2 * PATIENCE + 3))
    broken = Adder({number: GeneratorError("gone") for number in range(len(many))})
    variants = (Variant("broken", broken), Variant("adder", Adder()))
    run = run_suite(suite(*variants, trials=many), tmp_path)
    assert len(measured(run, "broken")) == PATIENCE
    assert len(measured(run, "adder")) == len(many)
    mended = Variant("broken", Adder())
    run = run_suite(suite(mended, variants[1], trials=many), tmp_path)
    assert sum(value == 1.0 for value in measured(run, "broken").values()) == len(many) - PATIENCE


def test_what_no_case_is_to_blame_for_stops_the_run(tmp_path: Path) -> None:
    broken = Variant("broken", Adder({0: SettingsError("no beam search")}))
    with pytest.raises(SettingsError, match="no beam search"):
        run_suite(suite(broken, trials=TRIALS[:1]), tmp_path)
    assert read_run(tmp_path).samples == ()


def test_variants_take_what_they_can(tmp_path: Path) -> None:
    small = Variant[int]("small", Adder(), takes=lambda one: one.subject < 3)
    run = run_suite(suite(small, Variant("adder", Adder())), tmp_path)
    assert (len(measured(run, "small")), len(measured(run, "adder"))) == (3, 8)
    assert len(measured(run, f"{BASELINE}says nothing")) == 8  # once, whoever came first


def test_a_variant_may_time_itself(tmp_path: Path) -> None:
    def slow_to_load(trials: Sequence[Trial[int]]) -> list[Measured]:
        return [Measured("", {}, seconds=float(one.subject)) for one in trials]

    run = run_suite(suite(Variant("own", slow_to_load, block=4), trials=TRIALS[:4]), tmp_path)
    assert sorted(one.seconds for one in run.samples) == [0, 1, 2, 3]


def test_other_code_or_seed_is_another_run(tmp_path: Path) -> None:
    run_suite(suite(Variant("adder", Adder())), tmp_path)
    with pytest.raises(UsageError, match=r"another run \(code a, now b\).*choose another --out"):
        run_suite(suite(Variant("adder", Adder()), code="b"), tmp_path)
    with pytest.raises(UsageError, match="seed 0, now 1"):
        run_suite(suite(Variant("adder", Adder())), tmp_path, seed=1)


def test_the_code_of_a_suite_is_part_of_what_is_measured(tmp_path: Path) -> None:
    for folder in ("model", "eval"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    code = hash_code("suites.position", root=tmp_path)
    (tmp_path / "eval/pages.py").write_text("x = 2\n")  # changes no sample
    assert hash_code("suites.position", root=tmp_path) == code
    for name in ("model/part.py", "eval/metrics.py", "eval/suites/position.py"):
        (tmp_path / name).write_text("x = 3\n")
        assert code != (code := hash_code("suites.position", root=tmp_path))


def test_a_prompt_is_overheard_once() -> None:
    generator = Overheard(ScriptedGenerator({"bridge": "in Brenn"}))
    asked = Prompt("", (), "Where is the bridge?", "Answer:")
    assert generator.heard() == ""
    assert "".join(generator.stream(asked, Decoding())) == "in Brenn"
    assert generator.heard() == asked.as_text()
    assert generator.heard() == ""
    assert generator.identity.name == "scripted" and generator.count_tokens("four") == 1


# --- The report -----------------------------------------------------------------------------------


def layout(*columns: Column) -> Layout:
    return Layout(
        "Sums", "Numbers are doubled.", columns, legend="right: doubled.", headline="right"
    )


def run_of(tmp_path: Path, bad: dict[int, BaseException | float] | None = None) -> Run:
    other: Callable[[Sequence[Trial[int]]], Sequence[Measured]] = Adder({0: 0.0, 1: 0.0})
    variants = (Variant("adder", Adder(bad)), Variant("other", other))
    return run_suite(suite(*variants), tmp_path, command="tether eval sums")


def tables(run: Run, shown: Layout) -> list[Table]:
    return [block for block in suite_page(run, shown).blocks if isinstance(block, Table)]


def test_every_figure_has_an_interval_and_a_count_beside_baselines(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    (table,) = tables(run, layout(mean_of("right"), mean_of("odd"), mean_of("nothing")))
    assert (table.title, table.columns) == ("sums, en", ("arm", "right"))  # nothing else is there
    assert [row[0] for row in table.rows] == ["adder", "other", "says nothing"]
    cells = [row[1] for row in table.rows]
    assert all(isinstance(cell, Estimate) and cell.count == 8 for cell in cells)
    assert [cell.value for cell in cells if isinstance(cell, Estimate)] == [1.0, 0.75, 0.0]
    assert isinstance(cells[1], Estimate) and cells[1].low < 0.75 < cells[1].high
    assert cells[1].clusters == 4
    assert "says nothing" in table.note


def test_more_measures_than_arms_stand_in_rows(tmp_path: Path) -> None:
    columns = [mean_of("right", f"right {number}") for number in range(5)]
    (table,) = tables(run_of(tmp_path), layout(*columns, SECONDS))
    assert table.columns == ("measure", "adder", "other", "says nothing")
    assert [row[0] for row in table.rows] == [*(column.label for column in columns), SECONDS.label]
    last = table.rows[-1][-1]
    assert isinstance(last, Estimate) and last.count == 0  # a baseline takes no time


def test_pools_join_kinds_of_a_language(tmp_path: Path) -> None:
    trials = [trial(n, kind) for kind in ("one", "two") for n in range(4)] + [trial(9, "one", "zh")]
    run = run_suite(suite(Variant("adder", Adder()), trials=trials), tmp_path)
    pooled = replace(
        layout(mean_of("right")), pools=(("one", "two"),), pooled=(mean_of("right", "r"),)
    )
    found = {table.title: table for table in tables(run, pooled)}
    assert list(found) == ["one, en", "two, en", "one, zh", "one + two, en"]
    cell = found["one + two, en"].rows[0][1]
    assert isinstance(cell, Estimate) and cell.count == 8
    assert found["one + two, en"].columns == ("arm", "r")


def test_the_page_comes_from_records_alone_and_tells_failures(tmp_path: Path) -> None:
    run = run_of(tmp_path, {2: GeneratorError("<b>gone</b>"), 3: GeneratorError("gone again")})
    shown = replace(layout(mean_of("right")), shows="right", shown=1)
    page = suite_page(run, shown)
    assert page.verdict.startswith("right: adder 1.000")
    assert "The best that knows nothing (says nothing): 0.000" in page.verdict
    text = html(page)
    assert "adder: 2 samples. &lt;b&gt;gone&lt;/b&gt; gone again" in text
    assert "1 of 2 that some arm got wrong" in text
    assert "tether eval sums" in text and "code a" in text
    assert html(suite_page(read_run(tmp_path), shown)) == text
    assert len(arms_of(run.samples)["adder"]) == 6


def test_few_clusters_make_nothing_certain() -> None:
    never = share_where(lambda rows: 0.0, ["a", "a", "b", "c"], seed=0)
    assert (never.value, never.low, never.count, never.clusters) == (0.0, 0.0, 4, 3)
    assert never.high == pytest.approx(wilson(0, 3).high)
    assert share_where(lambda rows: 1.0, ["a", "b"], seed=0).low == pytest.approx(wilson(2, 2).low)
    known = share_where(lambda rows: float((rows < 2).mean()), list("abcd"), seed=0)
    assert known.low < 0.5 < known.high


def test_an_empty_run_has_a_page(tmp_path: Path) -> None:
    run = run_suite(suite(Variant("adder", Adder()), trials=()), tmp_path)
    assert suite_page(run, layout(mean_of("right"))).verdict == "0 samples."
