"""The suite of positions sees where a reader looks, on invented facts and on sets by path."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from eval.metrics import contains_answer
from eval.pages import markdown
from eval.records import Run, Sample
from eval.suites.gold_questions import FACTS, GoldQuestion, answer_scores, gold_questions, trial_of
from eval.suites.pages import arms_of, suite_page
from eval.suites.position import LAYOUT, SPOTS, open_suite
from eval.suites.suite import Request, run_suite
from ingest.errors import UsageError
from model.generators import Decoding, ScriptedGenerator
from model.prompts import Prompt
from tests.small_laboratory import SmallLaboratory


class FirstReader(ScriptedGenerator):
    """Repeats the first passage of its prompt, and nothing else that it read."""

    def stream(
        self, prompt: Prompt, decoding: Decoding, scores: list[float] | None = None
    ) -> Iterator[str]:
        self.prompts.append(prompt)
        yield prompt.user.partition("\n")[0].removeprefix("[1] ")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a set of reading comprehension, and one without gold passages."""
    rows = [
        {
            "id": f"q{number}", "lang": "en", "question": f"What hangs on hook {number}?",
            "answers": [f"coat {number}"], "answerable": number != 5,
            "context": f"On hook {number} hangs coat {number}. It is made of wool.",
        }
        for number in range(6)
    ]  # fmt: skip
    bare = [{**row, "contexts": [row["context"]], "context": None} for row in rows]
    for name, own in (("xquad", rows), ("nomiracl", bare)):
        (tmp_path / name).mkdir()
        with gzip.open(tmp_path / name / f"{name}.dev.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in own)
    return tmp_path


def measure(folder: Path, generator: ScriptedGenerator, request: Request, limit: int) -> Run:
    with open_suite(SmallLaboratory(folder, generator), request) as suite:
        return run_suite(suite, folder / "run", limit=limit)


def test_the_gold_passage_stands_where_it_is_said_to(data: Path) -> None:
    for question in gold_questions(Request(data, (FACTS, "xquad")), others=4):
        case = question.case
        assert len(set(question.others)) == 4 and question.gold not in question.others
        assert contains_answer(question.gold, case.answers, case.language)
        for text in question.others:
            assert not contains_answer(text, case.answers, case.language)
        for place in range(5):
            passages = question.passages(5, place)
            assert len(passages) == 5 and passages[place] == question.gold
        assert question.passages(1, 0) == [question.gold]
        assert trial_of(question).kind == question.set


def test_questions_follow_from_the_seed() -> None:
    drawn = [gold_questions(Request(seed=seed), others=3) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {question.case.language for question in drawn[0]} == {"en", "zh"}


def test_only_answerable_questions_with_a_gold_passage_can_be_placed(data: Path) -> None:
    found = gold_questions(Request(data, ("xquad",)), others=9)
    assert [question.case.id for question in found] == ["q0", "q1", "q2", "q3", "q4"]
    assert {len(question.others) for question in found} == {4}  # the set has no more
    with pytest.raises(UsageError, match="no gold passage"):
        gold_questions(Request(data, ("nomiracl",)), others=1)
    with pytest.raises(UsageError, match=r"--data"):
        gold_questions(Request(data, ("squad",)), others=1)


def test_an_answer_is_right_if_it_holds_the_answer_and_refuses_nothing() -> None:
    (case, *_) = (question.case for question in gold_questions(Request(), others=1))
    assert answer_scores(case, f"{case.answers[0]} [1]") == {"right": 1, "f1": 1, "answered": 1}
    assert answer_scores(case, "") == {"right": 0, "f1": 0, "answered": 0}
    assert answer_scores(case, "The passages do not say.")["answered"] == 0


def right_by_arm(run: Run) -> dict[str, list[float | None]]:
    def rights(samples: list[Sample]) -> list[float | None]:
        return [one.scores["right"] for one in samples]

    return {arm: rights(own) for arm, own in arms_of(run.samples).items()}


def test_a_reader_of_the_first_passage_is_found_out(tmp_path: Path) -> None:
    run = measure(tmp_path, FirstReader(), Request(), limit=2)
    found = right_by_arm(run)
    assert not [one for one in run.samples if one.failure]
    for spot in SPOTS:
        expected = float(spot.place == "first")
        assert found[f"generator alone, {spot.name}"] == [expected] * 4
    assert found["baseline: echo all passages"] == [1.0] * 4
    assert found["baseline: always abstain"] == [0.0] * 4
    tokens = {
        one.arm: one.scores["prompt tokens"] or 0.0
        for one in run.samples
        if one.arm.startswith("generator")
    }
    longest = tokens["generator alone, last of 10"]
    assert longest > tokens["generator alone, last of 3"] > tokens["generator alone, first of 1"]


def test_the_page_shows_places_by_numbers(tmp_path: Path) -> None:
    run = measure(tmp_path, FirstReader(), Request(), limit=2)
    page = suite_page(run, LAYOUT)
    text, _ = markdown(page, "")
    assert "generator alone first 1.000" in page.verdict
    assert "generator alone, facts, zh: right" in text
    (ten,) = [
        line
        for line in text.partition("generator alone, facts, en: right")[2].splitlines()
        if line.startswith("| 10 |")
    ][:1]
    assert [cell.split()[0] for cell in ten.split("|")[2:5]] == ["1.000", "0.000", "0.000"]


def test_a_small_set_is_asked_with_as_many_passages_as_it_has(data: Path) -> None:
    run = measure(data, FirstReader(), Request(data, ("xquad",)), limit=3)
    arms = set(arms_of(run.samples))
    assert "assistant, last of 5" in arms and "assistant, last of 10" not in arms
    assert {one.kind for one in run.samples} == {"xquad"}


def test_the_assistant_cites_the_gold_passage(tmp_path: Path) -> None:
    questions: list[GoldQuestion] = gold_questions(Request(), others=0)
    replies = {question.case.question: question.case.answers[0] for question in questions}
    run = measure(tmp_path, ScriptedGenerator(replies), Request(), limit=4)
    cited = [
        one.scores["cites gold"]
        for one in run.samples
        if one.arm == "assistant, middle of 3" and one.citations
    ]
    assert cited and all(share == 1.0 for share in cited)
