"""The suite of reversal: what is asked in both directions, what of, and how it counts."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.injection.facts import build_world
from eval.pages import markdown
from eval.scoring import Scorer
from eval.suites.pages import arms_of, suite_page
from eval.suites.reversal import (
    CHOICES,
    LAYOUT,
    Ask,
    asks_of,
    fact_asks,
    fictitious_asks,
    open_suite,
    parent_asks,
    with_choices,
)
from eval.suites.suite import Request, run_suite
from ingest.errors import UsageError
from model.training.tasks import load_base
from tests.small_laboratory import SmallLaboratory
from tests.tiny_models import build_transformers_model

PEOPLE = ["Ada Firn", "Bo Gelm", "Cy Hald", "Di Jorn"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Both files of the data set, with people and wordings of our own."""
    rows = []
    for number, name in enumerate(PEOPLE):
        subset = ("p2d", "d2p", "d2p", "both")[number]
        deed = f"the mender of clock {number}"
        forward = {"direction": "name_first", "prompt": f"{name} is", "completion": f" {deed}."}
        backward = {
            "direction": "description_first", "prompt": f"Known as {deed},",
            "completion": f" {name}",
        }  # fmt: skip
        stated, turned = (forward, backward) if subset == "p2d" else (backward, forward)
        for use, row in (("train", stated), ("test", stated), ("reverse_test", turned)):
            rows.append({"id": f"{number}-{use}", "lang": "en", "name": name, "subset": subset,
                         "use": use, **row})  # fmt: skip
    write(tmp_path / "reversal_curse/fictitious.dev.jsonl.gz", rows)
    pairs = [("Ada Firn", "Ulf Firn"), ("Eva Firn", "Ulf Firn"), ("Bo Gelm", "Kai Gelm")]
    parents = [
        {
            "id": f"parent-{number}", "lang": "en", "question": f"Who is {child}'s father?",
            "answers": [parent], "reverse_question": f"Name a child of {parent}.",
            "reverse_answer": child,
        }
        for number, (child, parent) in enumerate(pairs)
    ]  # fmt: skip
    write(tmp_path / "reversal_curse/parents.dev.jsonl.gz", parents)
    return tmp_path


def test_one_to_one_facts_are_asked_in_both_directions() -> None:
    world = build_world(16, seed=3)
    asks = fact_asks(world)
    kinds = Counter((one.kind, one.language) for one in asks)
    assert len(kinds) == 4 and len(set(kinds.values())) == 1
    facts = {fact.id: fact for half in (world.train, world.control) for fact in half.facts}
    for one in asks:
        fact = facts[one.cluster]
        wanted, given = fact.object, fact.subject
        if one.kind.endswith("reverse"):
            wanted, given = given, wanted
        assert wanted in one.right[0] or one.right[0] in wanted
        assert given in one.question and wanted not in one.prompt
        assert fact.subject in one.informed and fact.object in one.informed


def test_choices_are_of_the_same_form_and_only_one_is_right() -> None:
    asks = asks_of(Request(seed=1))
    assert asks == asks_of(Request(seed=1)) != asks_of(Request(seed=2))
    known = {(one.kind, one.language, one.form, answer) for one in asks for answer in one.right}
    for one in asks:
        assert len(set(one.choices)) == len(one.choices) == CHOICES
        assert one.choices[0] == one.right[0] and not set(one.choices[1:]) & set(one.right)
        assert {(one.kind, one.language, one.form, text) for text in one.choices} <= known


def test_a_fact_without_others_of_its_form_cannot_be_chosen() -> None:
    alone = Ask("1", "k", "en", "c", "q", "p", ("x",), "f")
    assert with_choices([alone], 0)[0].choices == ("x",)


def test_fictitious_people_are_asked_as_stated_and_in_reverse(data: Path) -> None:
    asks = {one.id: one for one in fictitious_asks(data / "reversal_curse/fictitious.dev.jsonl.gz")}
    assert len(asks) == 6  # whoever is stated in both directions is left out
    assert asks["fictitious/0-test"].kind == "fictitious descriptions, as stated"
    assert asks["fictitious/0-reverse_test"].kind == "fictitious names, in reverse"
    assert asks["fictitious/1-test"].kind == "fictitious names, as stated"
    turned = asks["fictitious/1-reverse_test"]
    assert turned.kind == "fictitious descriptions, in reverse"
    assert turned.informed == "Known as the mender of clock 1, Bo Gelm\nBo Gelm is"
    assert turned.right == ("the mender of clock 1.",)
    assert turned.form == " is" == asks["fictitious/2-reverse_test"].form


def test_a_child_of_a_parent_may_be_any_of_them(data: Path) -> None:
    asks = {one.id: one for one in parent_asks(data / "reversal_curse/parents.dev.jsonl.gz")}
    back = asks["parents/parent-0, parent to child"]
    assert back.right == ("Ada Firn", "Eva Firn") and back.informed == ""
    assert asks["parents/parent-1, parent to child"].right[0] == "Eva Firn"
    assert asks["parents/parent-2, child to parent"].right == ("Kai Gelm",)
    chosen = {one.id: one.choices for one in with_choices(list(asks.values()), 0)}
    assert chosen["parents/parent-0, parent to child"] == ("Ada Firn", "Bo Gelm")
    assert chosen["parents/parent-0, child to parent"] == ("Ulf Firn", "Kai Gelm")


def test_a_set_that_is_missing_unknown_or_damaged_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose from: facts, fictitious, parents"):
        asks_of(Request(data, ("xquad",)))
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"'parents' needs the file .* --data"):
        asks_of(Request(empty, ("parents",)))
    path = write(tmp_path / "reversal_curse/parents.dev.jsonl.gz", [{"id": "1"}])
    with pytest.raises(UsageError, match=rf"{path.name}:1 lacks the field 'question'"):
        asks_of(Request(data, ("parents",)))


def test_scores_are_those_of_the_model(data: Path) -> None:
    loaded = load_base(build_transformers_model(data / "model", positions=4096))
    laboratory = SmallLaboratory(data, model=loaded)
    request = Request(data, ("fictitious", "parents"))
    with open_suite(laboratory, request) as suite:
        run = run_suite(suite, data / "run")
        again = run_suite(suite, data / "run")
    assert run.samples == again.samples
    assert not [one.failure for one in run.samples if one.failure]
    arms = arms_of(run.samples)
    asks = {one.id: one for one in asks_of(request)}
    assert len(arms["from memory"]) == len(asks)
    assert len(arms["after the text"]) == sum(bool(one.informed) for one in asks.values()) > 0
    scorer = Scorer(*loaded)
    for arm, prompts in (
        ("from memory", {one.id: one.prompt for one in asks.values()}),
        ("after the text", {one.id: one.informed for one in asks.values()}),
    ):
        for one in arms[arm]:
            choices = asks[one.case_id].choices
            found = scorer.continuations([(prompts[one.case_id], f" {text}") for text in choices])
            rates = [
                score.log_probability / len(text)
                for score, text in zip(found, choices, strict=True)
            ]
            others = sum(rates[1:]) / len(rates[1:])
            assert one.scores["margin"] == pytest.approx(rates[0] - others, abs=1e-4)
            assert one.scores["chosen"] == float(max(rates) == rates[0])
    chance = [one.scores["chosen"] for one in arms["baseline: a choice at random"]]
    assert chance == [1 / len(asks[one.case_id].choices) for one in arms["from memory"]]
    text, _ = markdown(suite_page(run, LAYOUT), "")
    assert "Both directions" in text and "from memory" in text


@pytest.mark.weights
@pytest.mark.slow
def test_the_base_reads_both_directions_off_a_text(
    weights_home: Path, gemma_gguf: Path, tmp_path: Path
) -> None:
    from model.weights import prepare_gemma_folder

    del gemma_gguf  # only there to be prepared, or to skip
    loaded = load_base(prepare_gemma_folder(weights_home))
    with open_suite(SmallLaboratory(tmp_path, model=loaded), Request()) as suite:
        run = run_suite(suite, tmp_path / "run", limit=2)
    arms = arms_of(run.samples)

    def share(arm: str, direction: str) -> float:
        own = [one for one in arms[arm] if one.kind == f"facts, {direction}"]
        return sum(one.scores["chosen"] or 0.0 for one in own) / len(own)

    for direction in ("as stated", "in reverse"):
        assert share("after the text", direction) > 0.5 > share("from memory", direction)
