"""The sets of the answering benchmark: their cases, the passages they are asked over, what counts.

Data are tiny files of the public schemas; the store and the search are real.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.answering import Plan, main, measure
from benchmarks.answering_records import Record, read_rows
from benchmarks.answering_report import coverage_at, render
from eval import answering as measures
from eval.answering import Row
from eval.cases import Case
from eval.suites.benches import Benches
from eval.suites.question_sets import DEFAULT, GROUPS, MIXED, SETS, cases_of
from ingest.errors import UsageError
from model.answers import Answer
from retrieval.encoders import HashingEncoder
from retrieval.passages import Passage

TOWNS = ("Brenn", "Halden", "Orra", "Vell", "Morrow", "Tarn", "Quill")
YEARS = ("1901", "1908", "1915", "1922", "1929", "1936", "1943")
NOISE = [f"Ferries leave harbour {number} every morning." for number in range(6)]


def paragraph(town: str, year: str) -> str:
    return f"The bridge of {town} was opened in {year}. Ferries leave {town} every morning."


def bridges() -> list[dict[str, Any]]:
    return [
        {
            "id": f"en-{town}",
            "lang": "en",
            "question": f"When was the bridge of {town} opened?",
            "answers": [year],
            "context": paragraph(town, year),
            "answerable": True,
        }
        for town, year in zip(TOWNS, YEARS, strict=True)
    ]


def rgb(language: str) -> dict[str, Any]:
    return {
        "id": f"{language}-1",
        "lang": language,
        "question": "Who built the bridge of Brenn?",
        "answers": ["Ada Fenn", ["Bo Rook", "B. Rook"]],
        "positive": [f"Ada Fenn and Bo Rook built bridge {number}." for number in range(5)],
        "negative": NOISE,
        "wrong": [f"Cal Oan built bridge {number}." for number in range(5)],
        "fake_answer": "Cal Oan",
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    written = {
        "xquad/xquad": bridges(),
        "rgb/zh_refine": [rgb("zh")],
        "rgb/zh_fact": [rgb("zh")],
        "rgb/en_fact": [rgb("en")],
    }
    for name, rows in written.items():
        path = tmp_path / "data" / f"{name}.dev.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return tmp_path / "data"


def test_every_name_is_a_set_and_the_default_ones_stay_few() -> None:
    assert DEFAULT == ("xquad", "cmrc2018", "squad", "nomiracl")
    assert set(DEFAULT) | {one for group in GROUPS.values() for one in group} <= SETS.keys()
    assert not SETS.keys() & GROUPS.keys()
    with pytest.raises(UsageError, match=r"'nosuch'.*choose from: xquad, .*, mixed"):
        cases_of(["nosuch"], Path("nowhere"), 0)


def test_groups_are_their_sets(data: Path) -> None:
    cases = cases_of(["rgb", "counterfactual"], data, seed=0)
    assert list(cases) == [*GROUPS["rgb"], *GROUPS["counterfactual"]]
    assert [case.answerable for name in GROUPS["rgb"] for case in cases[name]] == [True] * 3 + [
        False
    ]
    noisy = {name: sum(c in NOISE for c in cases[name][0].contexts) for name in GROUPS["rgb"]}
    assert noisy == {"rgb-0": 0, "rgb-0.4": 2, "rgb-0.8": 4, "rgb-1": 5}
    assert cases["rgb-0"][0].parts == (("Ada Fenn",), ("Bo Rook", "B. Rook"))
    assert [case.language for case in cases["counterfactual-rgb"]] == ["zh", "en"]
    assert {case.answers for case in cases["counterfactual-rgb"]} == {("Cal Oan",)}


class Reader:
    """Keeps the passages that it was given and says nothing."""

    def __init__(self) -> None:
        self.given: dict[str, list[str]] = {}

    def ask(self, question: str, *, passages: Sequence[Passage] | None = None) -> Answer:
        assert passages is not None, "it was left to search"
        assert [passage.number for passage in passages] == [*range(1, len(passages) + 1)]
        self.given[question] = [passage.chunk.text for passage in passages]
        return Answer(question, "No.", (), tuple(passages), "abstained", {})


def asked_over(cases: Sequence[Case], folder: Path) -> tuple[list[dict[str, Any]], Reader]:
    reader = Reader()
    benches = Benches(folder, HashingEncoder(), lambda searcher: reader)
    record = Record(folder / "rows.jsonl")
    measure(Plan({"xquad-given": cases}), benches.open, record)
    return record.rows, reader


def test_the_gold_paragraph_is_given_among_four_others(data: Path, tmp_path: Path) -> None:
    cases = cases_of(["xquad-given"], data, seed=0)["xquad-given"]
    rows, reader = asked_over(cases, tmp_path)
    assert {row["kind"] for row in rows} == {"answer"}  # it is searched for in the set "xquad"
    for case in cases:
        texts = reader.given[case.question]
        assert len(set(texts)) == 5
        assert texts[0] == case.gold_context  # it alone names the town
    assert {row["gold_document"] for row in rows} == {case.gold_document for case in cases}


def test_a_gold_paragraph_that_is_not_found_is_put_last(data: Path, tmp_path: Path) -> None:
    cases = cases_of(["xquad-given"], data, seed=0)["xquad-given"]
    others = [  # ten better hits, none of them the gold paragraph
        replace(cases[0], id=f"o{number}", gold_context=f"Kelm tower: {'Kelm tower ' * number}.")
        for number in range(1, 11)
    ]
    stray = replace(cases[0], question="Kelm tower?")
    _, reader = asked_over([stray, *(replace(one, question="?") for one in others)], tmp_path)
    texts = reader.given["Kelm tower?"]
    assert len(texts) == 5
    assert texts[-1] == stray.gold_context
    assert all(text.startswith("Kelm tower") for text in texts[:-1])


def test_changed_paragraphs_are_given_too(data: Path, tmp_path: Path) -> None:
    cases = cases_of(["counterfactual-xquad"], data, seed=0)["counterfactual-xquad"]
    assert cases
    rows, reader = asked_over(cases, tmp_path)
    by_id = {row["id"]: row for row in rows}
    for case in cases:
        assert case.gold_context in reader.given[case.question]
        assert by_id[case.id]["gold"] == list(case.answers)
        assert by_id[case.id]["memory"] == list(case.memory) != list(case.answers)


def test_the_command_measures_and_reports_further_sets(data: Path, tmp_path: Path) -> None:
    out, sets = tmp_path / "rows.jsonl", "rgb-0.4,rgb-1,counterfactual,xquad-given"
    arguments = ["--data", str(data), "--home", str(tmp_path), "--out", str(out), "--sets", sets]
    cheap = ["--set", "encoder.model=hashing", "--set", "generator.backend=none", "--limit", "2"]
    result = CliRunner().invoke(main, [*arguments, *cheap])
    assert result.exit_code == 0, result.output
    for title in ("rgb-0.4, zh", "rgb-1, zh", "counterfactual-xquad, en", "xquad-given, en"):
        assert f"### {title}\n" in result.output
    rows = read_rows(out)
    assert sum(row["kind"] == "answer" for row in rows) == 2 + 2 + 2 + 2
    assert not any(row["kind"] == "retrieval" for row in rows)
    assert "Answerable and unanswerable" not in result.output


# --- What counts ---------------------------------------------------------------------------------


def row(text: str, cited: Sequence[int] = (), **facts: object) -> dict[str, Any]:
    """An answer of one claim over two passages; document "d2" holds the answer."""
    texts = {1: "Brenn lies on the coast.", 2: "Ada Fenn built the bridge of Brenn in 1901."}
    passages = [
        {"number": number, "document": f"d{number}", "start": 0, "text": text}
        for number, text in texts.items()
    ]
    places = [{"passage_number": n, "document": f"d{n}", "start": 0, "end": 5} for n in cited]
    claim = {"text": text, "support": 0.5, "citations": [p | {"quote": "Brenn"} for p in places]}
    default = {
        **{"id": "q", "language": "en", "gold": ["Ada Fenn"], "answerable": True, "cluster": "c"},
        **{"gold_document": "d2", "status": "supported" if text else "abstained", "text": text},
        **{"claims": [claim] if text else [], "passages": passages, "timings": {}},
    }
    return {"kind": "answer", "set": "squad", "variant": "default", **default, **facts}


def value(label: str, of: Row) -> float | None:
    (chosen,) = [one for one in measures.MEASURES if one.label.startswith(label)]
    return chosen.of(of)


def test_accuracy_wants_short_answers() -> None:
    assert value("accuracy, at most 64", row("It was Ada Fenn.")) == 1.0
    assert value("accuracy, at most 64", row("It was Bo.")) == 0.0
    assert value("accuracy, at most 64", row("")) == 0.0
    long = row("Ada Fenn, as is told in every book about the bridge, and there are many.")
    assert value("accuracy, at most 64", long) == 0.0
    assert value("longer than 64", long) == 1.0
    assert value("longer than 64", row("Ada Fenn")) == 0.0
    echoed = measures.echo(row("", passages=[*row("")["passages"] * 2]))
    assert value("accuracy, at most 64", echoed) == 0.0
    assert value("accuracy, at most 64", row("Ada Fenn", answerable=False)) is None


def test_accuracy_by_parts_wants_them_all() -> None:
    facts: dict[str, Any] = {
        "gold": ["Ada Fenn", "Bo Rook", "B. Rook"],
        "parts": [["Ada Fenn"], ["Bo Rook", "B. Rook"]],
    }
    assert value("accuracy, likewise", row("Ada Fenn and B. Rook", **facts)) == 1.0
    assert value("accuracy, likewise", row("Ada Fenn", **facts)) == 0.0
    assert value("accuracy, at most 64", row("Ada Fenn", **facts)) == 1.0
    assert value("accuracy, likewise", row("Ada Fenn")) is None


def test_following_the_passage_is_not_remembering() -> None:
    facts: dict[str, Any] = {"gold": ["1908"], "memory": ["1901"]}
    assert value("follows the changed", row("in 1908", **facts)) == 1.0
    assert value("says what it said", row("in 1908", **facts)) == 0.0
    assert value("follows the changed", row("in 1901", **facts)) == 0.0
    assert value("says what it said", row("in 1901", **facts)) == 1.0
    assert value("follows the changed", row("", **facts)) is None
    assert value("follows the changed", row("in 1901")) is None


def test_supplied_passages_with_gold_answers_can_be_wrong() -> None:
    assert value("wrong among answered", row("Bo", gold_document=None)) == 1.0
    assert value("wrong among answered", row("Ada Fenn", gold_document=None)) == 0.0
    assert value("wrong among answered", row("Bo", gold_document=None, gold=[])) is None
    assert value("citation correct", row("Ada Fenn", [2], gold_document=None)) is None
    assert value("citation correct", row("Ada Fenn", [2])) is not None


@pytest.mark.parametrize(
    ("text", "cited", "gold_document", "recall", "precision"),
    [
        ("Ada Fenn", [2], "d2", 1.0, 1.0),
        ("Ada Fenn", [1, 2], "d2", 1.0, 0.5),
        ("Ada Fenn", [1], "d2", 0.0, 0.0),
        ("Ada Fenn", [], "d2", 0.0, 0.0),
        ("Ada Fenn", [9], "d2", 0.0, 0.0),  # no such passage
        ("The builder was Ada Fenn.", [2, 2], "d2", 1.0, 1.0),  # two places of one passage
        ("the coast", [1], None, 0.0, 0.0),  # it says so, but is no evidence
        ("Ada Fenn", [2], None, 1.0, 1.0),
        ("in 1901", [2], "d2", 1.0, 1.0),  # wrong, but the gold paragraph says it
        ("Bo Rook", [2], "d2", 0.0, 0.0),
    ],
)
def test_citation_recall_and_precision(
    text: str, cited: list[int], gold_document: str | None, recall: float, precision: float
) -> None:
    answer = row(text, cited, gold_document=gold_document)
    assert value("citation recall", answer) == recall
    assert value("citation precision", answer) == precision


def test_faithful_is_what_the_passages_say_cited_or_not() -> None:
    assert value("claims that the passages hold", row("Ada Fenn built the bridge")) == 1.0
    assert value("claims that the passages hold", row("The builder was Ada Fenn.")) == 1.0
    assert value("claims that the passages hold", row("Bo Rook", [2])) == 0.0
    assert value("claims that the passages hold", row("")) is None
    assert value("claims that the passages hold", measures.echo(row(""))) == 1.0


def test_citations_of_abstentions_and_unknown_answers_do_not_count() -> None:
    for answer in (row(""), row("Ada Fenn", [2], gold=[], gold_document=None)):
        assert value("citation recall", answer) is None
        assert value("citation precision", answer) is None
    echoed = measures.echo(row("Ada Fenn"))
    assert value("citation recall", echoed) == 1.0
    assert value("citation precision", echoed) == 0.5


def mixed() -> list[dict[str, Any]]:
    """Ten questions, of which three are unanswerable; the surer an answer the better it is."""
    said = [("Ada Fenn", True)] * 5 + [
        ("Bo", False),
        ("Bo", True),
        ("", True),
        ("", False),
        ("", False),
    ]
    rows = []
    for place, (text, answerable) in enumerate(said):
        gold = ["Ada Fenn"] if answerable else []
        one = row(text, id=str(place), cluster=str(place), answerable=answerable, gold=gold)
        for claim in one["claims"]:
            claim["support"] = 0.9 - place / 10
        rows.append(one)
    return rows


def test_coverage_at_a_share_of_wrong_answers() -> None:
    rows = mixed()
    assert coverage_at(rows, 0.05, 0, of_all=True).startswith("0.500 [")
    assert coverage_at(rows, 0.05, 0, of_all=True).endswith("n=10")
    assert coverage_at(rows, 0.20, 0, of_all=True).startswith("0.600 [")  # one of six is wrong
    assert coverage_at(rows, 0.30, 0, of_all=True).startswith("0.700 [")
    assert coverage_at(rows, 0.05, 0, of_all=False).startswith("0.714 [")
    assert coverage_at(rows, 0.05, 0, of_all=False).endswith("n=7")
    wrong = [one | {"gold": ["Cal Oan"]} for one in rows]
    assert coverage_at(wrong, 0.15, 0, of_all=True).startswith("0.000 [")


def test_mixed_sets_are_pooled_by_language() -> None:
    supplied = [one | {"set": "nomiracl", "gold": [], "gold_document": None} for one in mixed()]
    chinese = [one | {"language": "zh"} for one in supplied]
    lines = render([*mixed(), *supplied, *chinese]).splitlines()
    found = [line.split(" | ") for line in lines if "nomiracl | " in line or "squad | " in line]
    found = [cells for cells in found if cells[2] == "default"]
    figures = {(cells[0].strip("| "), cells[1]): cells[3:5] for cells in found}
    assert list(figures) == [
        ("squad", "en"),
        ("nomiracl", "en"),
        ("squad + nomiracl", "en"),
        ("nomiracl", "zh"),
    ]
    assert figures["squad", "en"][0].startswith("0.286 [")  # two of seven
    assert figures["nomiracl", "en"][0].startswith("0.143 [")  # gold unknown: one of seven
    assert figures["squad + nomiracl", "en"][0].startswith("0.214 [")
    assert figures["squad + nomiracl", "en"][0].endswith("n=14")
    assert figures["nomiracl", "zh"][1].startswith("0.700 [")
    assert {"squad", "nomiracl"} == set(MIXED)
    abstaining = next(line for line in lines if "| squad | en | always abstain" in line)
    assert abstaining.split(" | ")[3:5] == ["–", "0.000 [0.000, 0.278] n=10"]


def test_measures_of_no_row_are_left_out() -> None:
    text = render(mixed())
    assert "| coverage (all questions) |" in text
    assert "follows the changed passage (answers) |" not in text
