"""The suite of decoding: every way is tried, seeds are kept apart, and agreement is counted."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from eval.pages import markdown
from eval.records import Run
from eval.suites.decoding import BEAMS, DRAWS, LAYOUT, TEMPERATURES, open_suite, ways
from eval.suites.gold_questions import gold_questions
from eval.suites.pages import arms_of, suite_page
from eval.suites.suite import Request, is_baseline, run_suite
from model.generators import (
    Decoding,
    GeneratorIdentity,
    ScriptedGenerator,
    TransformersGenerator,
)
from model.prompts import TRAINED, Prompt
from tests.small_laboratory import SmallLaboratory
from tests.tiny_models import build_transformers_model

ANSWERS = {
    question.case.question: question.case.answers[0]
    for question in gold_questions(Request(), others=0)
}


class TellingGenerator(ScriptedGenerator):
    """Right with passages, and from memory only if it draws with an even seed."""

    def stream(
        self, prompt: Prompt, decoding: Decoding, scores: list[float] | None = None
    ) -> Iterator[str]:
        self.prompts.append(prompt)
        asked = next(question for question in ANSWERS if question in prompt.user)
        is_lucky = decoding.strategy == "sample" and decoding.seed % 2 == 0
        if scores is not None:
            scores.append(-1.0)
        yield ANSWERS[asked] if "[1]" in prompt.user or is_lucky else "a lamp"


class Llama(ScriptedGenerator):
    """Looks like a backend without beams."""

    @property
    def identity(self) -> GeneratorIdentity:
        return GeneratorIdentity("small", "llama.cpp", "cpu")


def measure(laboratory: SmallLaboratory, limit: int = 1) -> Run:
    with open_suite(laboratory, Request()) as suite:
        return run_suite(suite, laboratory.home / "run", limit=limit)


def test_every_way_is_tried_once_a_seed(tmp_path: Path) -> None:
    generator = TellingGenerator()
    run = measure(SmallLaboratory(tmp_path, generator, prompt=TRAINED))
    arms = {arm: own for arm, own in arms_of(run.samples).items() if not is_baseline(arm)}
    assert len(arms) == (2 + len(TEMPERATURES)) * 4
    for arm, own in arms.items():
        assert len(own) == 2 * (DRAWS if arm.startswith("temperature") else 1)
    assert len(generator.prompts) == 2 * 4 * (2 + DRAWS * len(TEMPERATURES))
    assert not [one for one in run.samples if one.failure]
    # What an adapter learnt to read has passages: without any, the base is asked.
    assert all(one.is_for_base == ("[1]" not in one.user) for one in generator.prompts)
    assert not any("passages" in one.as_text() for one in generator.prompts if one.is_for_base)
    few, zero = (arms[f"greedy, {shots}, from memory"][0] for shots in ("few-shot", "zero-shot"))
    assert len(few.prompt) > len(zero.prompt) and few.question in zero.prompt
    assert few.confidence == pytest.approx(0.3679, abs=1e-3)


def test_passages_help_and_seeds_disagree(tmp_path: Path) -> None:
    run = measure(SmallLaboratory(tmp_path, TellingGenerator()))
    text, _ = markdown(suite_page(run, LAYOUT), "")

    def row(arm: str) -> list[str]:
        lines = text.partition("Seeds compared: facts, en")[2].splitlines()
        line = next(line for line in lines if line.startswith(f"| {arm} |"))
        return [cell.split()[0] for cell in line.strip("| ").split("|")[1:]]

    assert row("temperature 0.7, zero-shot, with passages") == ["1.000"] * 3
    assert row("temperature 0.7, zero-shot, from memory") == ["0.000", "1.000", "0.000"]
    assert "Right with passages: greedy" in text or "Right with passages: beam" in text


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    first = measure(SmallLaboratory(tmp_path, TellingGenerator()))
    again = TellingGenerator()
    assert measure(SmallLaboratory(tmp_path, again)).samples == first.samples
    assert not again.prompts


def test_without_beam_search_the_other_ways_remain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = ways(SmallLaboratory(tmp_path, Llama()), seed=0)
    assert "beam search is left out: llama.cpp" in caplog.text
    assert {way.decoding.strategy for way in found} == {"greedy", "sample"}
    seeds = [
        {way.decoding.seed for way in ways(SmallLaboratory(tmp_path, Llama()), seed)}
        for seed in (1, 2)
    ]
    assert not (seeds[0] & seeds[1]) - {0}


def test_a_real_backend_searches_beams_and_draws(tmp_path: Path) -> None:
    model = build_transformers_model(tmp_path / "model", positions=4096)
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    generator = TransformersGenerator(str(model), name="tiny", device="cpu")
    laboratory = SmallLaboratory(tmp_path, generator, decoding=Decoding(max_new_tokens=3))
    run = measure(laboratory)
    assert not [one.failure for one in run.samples if one.failure]
    beams = [one for one in run.samples if one.arm.startswith(f"beam {BEAMS}")]
    assert len(beams) == 8
    hot = [one.output for one in run.samples if one.arm.startswith("temperature 1.0")]
    assert len(set(hot)) > 1
