"""The runs of the laboratory: what lies there, and processes that measure, stop and go on."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from app.laboratory.experiment import write_report
from app.laboratory.runs import (
    FRONTIER,
    WITHOUT_DATA,
    Order,
    Runs,
    _command,
    frontier_order,
    report_of,
    suite_order,
    suites_here,
)
from app.laboratory.suites import SUITES
from app.settings import Settings, load_settings
from eval.injection.budget import Plan, read_budget
from eval.pages import WORDS
from eval.records import FORMAT, Description
from ingest.errors import UsageError
from tests.pages import HOSTILE
from tests.test_frontier import USUAL, make_run

CHEAP = {"encoder.model": "hashing", "generator.backend": "none"}
ARMS = ("base", "rag-3", "full-qa-e4")
SUITE = "injection-attack"  # it brings its own documents, and here nothing is generated


def settings_of(home: Path, **more: str) -> Settings:
    flags = {"home": str(home), **CHEAP} | {k.replace("__", "."): v for k, v in more.items()}
    return load_settings(flags, {})


def samples_of(runs: Runs) -> int:
    progress = runs.progress()
    return progress.samples if progress else 0


def put_frontier(folder: Path, *, arms: tuple[str, ...] = ARMS) -> Path:
    """Write an experiment of which so many of its three arms are measured."""
    run = make_run({name: USUAL[name] for name in arms}, groups=3)
    (folder / "seed-1").mkdir(parents=True)
    plan = Plan(read_budget("smoke"), 3, 1, ARMS)
    (folder / "plan.json").write_text(plan.to_json())
    put_run(folder / "seed-1", run.description)
    lines = [json.dumps(asdict(sample)) + "\n" for sample in run.samples]
    (folder / "seed-1" / "samples.jsonl").write_text("".join(lines))
    return folder


def html_of(folder: Path) -> str:
    """Return what `tether report` writes."""
    return write_report(folder).read_text("utf-8")


def put_run(folder: Path, description: Description) -> Path:
    """Write a run without samples."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"format": FORMAT, **asdict(description)}))
    (folder / "samples.jsonl").touch()
    return folder


# --- What there is --------------------------------------------------------------------------------


def test_what_lies_there_is_listed_the_latest_first(home: Path) -> None:
    laboratory = home / "laboratory"
    frontier = put_frontier(laboratory / "smoke")
    described = Description(HOSTILE, "", 0, {"generator": HOSTILE, "encoder": "e5"})
    suite = put_run(laboratory / "mine" / "decoding", described)
    (laboratory / "damaged").mkdir()
    (laboratory / "damaged" / "run.json").write_text("{")
    (laboratory / "away").symlink_to(frontier)
    for age, path in enumerate((frontier / "plan.json", suite / "run.json")):
        os.utime(path, (1e9 - age, 1e9 - age))
    damaged, first, second = Runs(settings_of(home)).kept()
    assert (damaged.name, damaged.suite, damaged.samples) == ("damaged", "", 0)
    assert (first.name, first.suite, first.model) == ("smoke", FRONTIER, "a" * 12)
    assert first.samples == len((frontier / "seed-1/samples.jsonl").read_text().splitlines())
    assert (second.name, second.suite, second.model) == ("mine/decoding", HOSTILE, HOSTILE)
    assert (first.state, first.started) == ("finished", 1e9)


def test_a_report_tells_what_is_measured_so_far(home: Path) -> None:
    folder = put_frontier(home / "laboratory" / "smoke", arms=ARMS[:2])
    runs = Runs(settings_of(home))
    before = report_of(home, "smoke")
    assert before == report_of(home, "smoke") and runs.kept()[0].state == "stopped"
    samples = folder / "seed-1" / "samples.jsonl"
    *_, last = put_frontier(home / "whole").glob("*/samples.jsonl")
    samples.write_bytes(last.read_bytes() + b'{"half": ')
    assert runs.kept()[0].state == "finished"
    assert before != report_of(home, "smoke") == html_of(folder)
    assert WORDS["zh"]["costs"] in report_of(home, "smoke", "zh")


def test_a_report_that_was_written_is_shown_as_it_is(home: Path) -> None:
    folder = put_run(home / "laboratory" / "mine", Description("decoding", "", 0, {}))
    (folder / "samples.jsonl").write_text(json.dumps({"kind": '"kind": "cost"'}) + "\n")
    (folder / "report.html").write_text("as it is")
    (folder / "report.zh.html").write_text("如此")
    runs = Runs(settings_of(home))
    assert report_of(home, "mine") == "as it is" and runs.kept()[0].state == "finished"
    assert report_of(home, "mine", "zh") == "如此"
    os.utime(folder / "report.html", (1e9, 1e9))  # samples came since
    assert runs.kept()[0].state == "stopped"
    with pytest.raises(UsageError, match="is damaged at line 1"):
        report_of(home, "mine")


@pytest.mark.parametrize("name", ["", ".", "..", "../laboratory/smoke", "smoke/../smoke", "away"])
def test_only_a_name_on_the_list_opens_a_report(home: Path, name: str) -> None:
    outside = put_frontier(home / "elsewhere")
    put_frontier(home / "laboratory" / "smoke")
    (home / "laboratory" / "away").symlink_to(outside)
    for wrong in (name, str(home / "laboratory" / "smoke")):
        with pytest.raises(UsageError, match="there is no run"):
            report_of(home, wrong)


def test_a_run_without_samples_has_no_report(home: Path) -> None:
    put_run(home / "laboratory" / "decoding-1", Description("decoding", "", 0, {}))
    with pytest.raises(UsageError, match="nothing of decoding-1 has been measured yet"):
        report_of(home, "decoding-1")


# --- What can be ordered --------------------------------------------------------------------------


def test_suites_that_need_data_are_offered_where_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TETHER_DATA", raising=False)
    assert suites_here() == WITHOUT_DATA and set(WITHOUT_DATA) < set(SUITES)
    with pytest.raises(UsageError, match="answers needs question sets"):
        suite_order("answers", 5)
    for suite, limit in (("magic", 5), (FRONTIER, 5), ("decoding", 0)):
        with pytest.raises(UsageError):
            suite_order(suite, limit)
    monkeypatch.setenv("TETHER_DATA", str(tmp_path))
    assert suites_here() == tuple(SUITES)
    words = ("eval", "answers", "--limit", "5", "--seed", "0")
    assert suite_order("answers", 5).words == words


def test_a_frontier_over_the_same_files_goes_on_in_the_same_folder(
    home: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / "a.md", tmp_path / "--set.md", tmp_path / "gone.md"]
    for path in paths[:2]:
        path.touch()
    order = frontier_order(paths, "60M", home)
    assert order == frontier_order(paths[1::-1], "60m", home)
    assert order.words[-3:] == ("--", str(paths[1]), str(paths[0]))
    assert order.place != frontier_order(paths, "2h", home).place
    for files, budget in (([], "60m"), (paths[2:], "60m"), (paths, "soon")):
        with pytest.raises(UsageError):
            frontier_order(files, budget, home)


def test_a_run_has_the_settings_of_this_process_and_no_secret_among_its_words(home: Path) -> None:
    more = {"decoding__max_new_tokens": "7", "search__top_k": "3", "generator__api_key": "sesame"}
    settings = settings_of(home, **more, chat__port="1234", collection="mine")
    words, environment = _command(settings, Order("x", "x", ("eval", "x")))
    assert "sesame" not in " ".join(words) and "chat.port" not in " ".join(words)
    chosen = [word for word in words if "=" in word]
    flags = dict(word.split("=", 1) for word in chosen) | {"home": words[words.index("--home") + 1]}
    there = load_settings(flags, environment)
    assert replace(there, chat=settings.chat, collection="mine") == settings


# --- Measuring ------------------------------------------------------------------------------------


def test_a_run_is_stopped_and_goes_on(home: Path) -> None:
    runs = Runs(settings_of(home))
    assert runs.progress() is None and runs.wait() and runs.kept() == []
    runs.start(suite_order(SUITE, 1_000))
    with pytest.raises(UsageError, match=r"injection-attack \(1000\) is being measured"):
        runs.start(suite_order(SUITE, 1))
    while not runs.wait(0.2) and not samples_of(runs):
        pass
    (kept,) = runs.kept()
    assert kept.state == "running" and kept.name.startswith(f"{SUITE}-")
    runs.stop()
    progress = runs.progress()
    assert progress and progress.state == "stopped" == runs.kept()[0].state
    assert progress.sampled and progress.sampled[0] < progress.sampled[1]
    assert report_of(home, kept.name).startswith("<!DOCTYPE html>")
    assert runs.kept()[0].state == "stopped"
    samples = home / "laboratory" / kept.name / "samples.jsonl"
    before = samples.read_bytes()
    runs.start(suite_order(SUITE, 1))
    assert runs.wait(600)
    progress = runs.progress()
    assert progress and progress.state == "finished", progress
    assert samples.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert progress.samples == len(samples.read_bytes().splitlines()) == runs.kept()[0].samples
    assert progress.sampled and progress.sampled[0] == progress.sampled[1] <= progress.samples
    assert runs.kept()[0].state == "finished"
    assert report_of(home, kept.name) == (samples.parent / "report.html").read_text("utf-8")


def test_a_run_that_fails_says_why(home: Path) -> None:
    runs = Runs(settings_of(home))
    runs.start(Order("x", "x", ("eval", "nothing-such")))
    assert runs.wait(600)
    progress = runs.progress()
    assert progress and progress.state == "failed"
    assert "There is no suite 'nothing-such'" in progress.said[-1]


ENDING = """
import sys
from pathlib import Path
from app.laboratory.runs import Runs, suite_order
from app.settings import load_settings
runs = Runs(load_settings({"home": sys.argv[1]}, {}))
runs.start(suite_order("decoding", 5))
print(runs._processes[0].pid)
"""


def test_a_run_ends_with_the_process_that_started_it(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDING, str(home)], capture_output=True, text=True, check=True
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
