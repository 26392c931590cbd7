"""The bench of serving counts what was answered in time, and runs against the real server."""

import itertools
import json
import math
import threading
from pathlib import Path

import pytest

from benchmarks.serving import Asked, main, quantile, run_level, summarised


def test_a_level_asks_all_questions_with_all_its_threads() -> None:
    together = threading.Barrier(3)
    asked: list[str] = []

    def ask(question: str, until: float) -> Asked | None:
        del until
        asked.append(question)
        if len(asked) <= 3:
            together.wait(60)  # passes only if three ask at once
        return Asked(0.25, 0.5)

    done = run_level(ask, itertools.cycle("abc"), askers=3, seconds=0.2)
    assert sorted(asked[:3]) == ["a", "b", "c"]
    assert 0 < len(done) <= len(asked)


def test_errors_are_counted_and_what_was_hung_up_is_not() -> None:
    done = [Asked(0.1, 1.0), Asked(0.3, 3.0, position=7), Asked(0.0, 9.0, error="busy")]
    level = summarised("tether", 2, done, seconds=30)
    assert (level.answers, level.errors, level.longest_line) == (2, 1, 7)
    assert level.answers_per_minute == 4.0
    assert (level.first_p50, level.answer_p50) == (0.2, 2.0)
    assert run_level(lambda question, until: None, itertools.cycle("a"), 2, 0.05) == []


def test_quantiles() -> None:
    assert math.isnan(quantile([], 0.5))
    assert quantile([2.0], 0.95) == 2.0
    assert quantile(list(range(101)), 0.95) == 95.0


def test_it_runs_against_the_real_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    main([
        "--stages", "tether", "--levels", "1,3", "--seconds", "2", "--warm-up", "1",
        "--out", str(out), "--set", "encoder.model=hashing",
        "--set", "generator.backend=none",
    ])  # fmt: skip
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [(row["askers"], row["errors"]) for row in rows] == [(1, 0), (3, 0)]
    assert all(row["answers"] > 0 for row in rows)
    assert rows[0]["gain"] == 1.0
    assert "'added': 10" in capsys.readouterr().out
