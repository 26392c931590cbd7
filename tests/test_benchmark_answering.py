"""The answering benchmark: rows, resuming and the report, with canned answers and a real store."""

import gzip
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import answering_report as report
from benchmarks.answering import (
    Plan,
    command_line,
    describe_run,
    main,
    make_benches,
    measure,
    require_same,
)
from benchmarks.answering_records import Record, read_rows
from eval import answering as measures
from eval.cases import Case
from eval.suites.benches import Bench, Benches
from ingest.errors import UsageError
from model.answers import Answer, Citation, Claim
from retrieval.encoders import HashingEncoder, Vectors
from retrieval.passages import Passage
from retrieval.search import given_passages
from tests.tiny_models import build_transformers_model

BRIDGE = "The Zarnith bridge spans the Ool. Mara Oan built it in 1973."
TOWER = "The Kelm tower is a lighthouse. It burnt down twice."
CASES = (
    Case("b1", "en", "Who built the Zarnith bridge?", ("Mara Oan",), True, BRIDGE),
    Case("b2", "en", "When was the Zarnith bridge built?", ("1973",), True, BRIDGE),
    Case("t1", "en", "What is the Kelm tower?", ("a lighthouse", "lighthouse"), True, TOWER),
    Case("t2", "en", "Who painted the Kelm tower?", (), False, TOWER),
)
SUPPLIED = Case(
    "s1", "zh", "谁建造了大桥？", (), True, contexts=("大桥: 由玛拉建造。", "塔: 很高。")
)
ENCODER = HashingEncoder()


class CannedAssistant:
    """Answers with a span of the first passage that holds it, or abstains."""

    def __init__(self, spans: dict[str, str], paragraphs: Sequence[str]) -> None:
        self.spans = spans
        self.paragraphs = paragraphs
        self.asked: list[str] = []

    def ask(self, question: str, *, passages: Sequence[Passage] | None = None) -> Answer:
        self.asked.append(question)
        found = tuple(passages or given_passages(self.paragraphs, question, ENCODER))
        span = self.spans.get(question, "")
        for passage in found:
            start = passage.chunk.text.find(span)
            if span and start >= 0:
                quote = Citation(
                    passage.number, passage.chunk.document_id, start, start + len(span), span
                )
                claim = Claim(span, (quote,), 0.9)
                text = f"{span} [{passage.number}]"
                return Answer(question, text, (claim,), found, "supported", {"prompt_tokens": 80})
        return Answer(question, "I cannot tell.", (), found, "abstained", {})


SPANS = {
    CASES[0].question: "Mara Oan",
    CASES[1].question: "the Ool",  # wrong
    CASES[3].question: "lighthouse",  # should have abstained
    SUPPLIED.question: "玛拉",
}


class CannedSearcher:
    """Finds the two paragraphs."""

    def search(self, query: str, *, top_k: int) -> list[Passage]:
        return given_passages((BRIDGE, TOWER), query, ENCODER)[:top_k]


class Opener:
    """Opens the same canned bench for every set and counts what it was asked for."""

    def __init__(self) -> None:
        self.assistant = CannedAssistant(SPANS, (BRIDGE, TOWER))
        self.opened: list[tuple[str, int]] = []

    @contextmanager
    def __call__(self, name: str, paragraphs: Sequence[str]) -> Iterator[Bench]:
        self.opened.append((name, len(paragraphs)))
        yield Bench(
            make_asker=lambda: self.assistant,
            searcher=CannedSearcher(),
            given=lambda texts, question: given_passages(texts, question, ENCODER),
        )


PLAN = Plan({"squad": CASES, "nomiracl": (SUPPLIED,)})
CHEAP = ("encoder.model=hashing", "generator.backend=none")


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "rows.jsonl"
    measure(PLAN, Opener(), Record(path))
    return read_rows(path)


def answers(rows: Sequence[measures.Row]) -> dict[str, measures.Row]:
    return {row["id"]: row for row in rows if row["kind"] == "answer"}


def values(label: str, rows: Sequence[measures.Row]) -> dict[str, float]:
    chosen = next(m for m in measures.MEASURES if m.label.startswith(label))
    found = {name: chosen.of(row) for name, row in answers(rows).items()}
    return {name: value for name, value in found.items() if value is not None}


def test_one_row_per_question_and_kind(rows: list[dict[str, Any]]) -> None:
    kinds = sorted((row["kind"], row["id"]) for row in rows)
    assert kinds == sorted(
        [("answer", case.id) for case in (*CASES, SUPPLIED)]
        + [("retrieval", case.id) for case in CASES]
    )
    row = answers(rows)["b1"]
    assert row["gold"] == ["Mara Oan"]
    assert row["gold_document"] == CASES[0].gold_document
    assert row["seconds"] >= 0
    assert len({row["hash"] for row in rows}) == 5


def test_measures_of_every_row(rows: list[dict[str, Any]]) -> None:
    assert values("exact match", rows) == {"b1": 1.0, "b2": 0.0, "t1": 0.0}
    assert values("F1", rows) == {"b1": 1.0, "b2": 0.0, "t1": 0.0}
    assert values("coverage", rows) == {"b1": 1, "b2": 1, "t1": 0, "t2": 1, "s1": 1}
    assert values("wrong", rows) == {"b1": 0.0, "b2": 1.0, "t2": 1.0}
    assert values("over-refusal", rows) == {"b1": 0, "b2": 0, "t1": 1, "s1": 0}
    assert values("abstention", rows) == {"t2": 0.0}
    assert values("citation correct", rows) == {"b1": 1.0, "b2": 0.0}
    assert values("valid citation", rows) == {"b1": 1, "b2": 1, "t2": 1, "s1": 1}
    assert values("answer length", rows) == {"b1": 8, "b2": 7, "t2": 10, "s1": 2}
    assert values("prompt tokens", rows) == {"b1": 80, "b2": 80, "t2": 80, "s1": 80}


def test_a_citation_is_judged_by_the_sentence_around_its_quote(rows: list[dict[str, Any]]) -> None:
    row = dict(answers(rows)["b2"])
    start = BRIDGE.index("built it")
    citation = row["claims"][0]["citations"][0]
    citation |= {"start": start, "end": start + 8, "quote": "built it"}
    assert values("citation correct", [row]) == {"b2": 1.0}  # its sentence says 1973
    assert values("citation correct", [row | {"gold_document": "other"}]) == {"b2": 0.0}
    assert values("valid citation", [row]) == {"b2": 1.0}
    citation["quote"] = "built him"
    assert values("valid citation", [row]) == {"b2": 0.0}
    citation["passage_number"] = 9
    assert values("citation correct", [row]) == {"b2": 0.0}
    row["claims"][0]["citations"] = []
    assert values("citation correct", [row]) == {}
    assert values("valid citation", [row]) == {"b2": 0.0}


def test_quotations_and_drafts_are_measured_apart(rows: list[dict[str, Any]]) -> None:
    assert values("quotations", rows) == {"b1": 0, "b2": 0, "t2": 0, "s1": 0}
    assert values("wrong among quotations", rows) == {}
    answered = answers(rows)
    answered["b2"]["claims"][0]["quotation"] = True
    apart = list(answered.values())
    assert values("quotations", apart) == {"b1": 0, "b2": 1, "t2": 0, "s1": 0}
    assert values("wrong among quotations", apart) == {"b2": 1.0}
    assert values("wrong among drafted", apart) == {"b1": 0.0, "t2": 1.0}
    assert values("F1 (answerable; drafted", apart) == {"b1": 1.0}
    assert values("abstained before", apart) == {"b1": 0, "b2": 0, "t1": 1, "t2": 0, "s1": 0}
    answered["t1"] = {**answered["t1"], "timings": {"generate": 0.2}}
    apart = list(answered.values())
    assert values("abstained before", apart)["t1"] == 0.0
    assert values("abstained after", apart) == {"b1": 0, "b2": 0, "t1": 1, "t2": 0, "s1": 0}
    echoed = [measures.echo(row) for row in apart]
    assert set(values("quotations", echoed).values()) == {1.0}
    assert values("wrong among drafted", echoed) == {}


def test_what_the_reader_read_is_no_draft(rows: list[dict[str, Any]]) -> None:
    read = answers(rows)["b2"]
    assert values("read by the reader", [read]) == {"b2": 0.0}
    read["claims"][0]["span"] = True
    assert values("read by the reader", [read]) == {"b2": 1.0}
    assert values("wrong among read", [read]) == {"b2": 1.0}
    assert values("wrong among drafted", [read]) == {}


def test_baselines_show_what_a_metric_is_worth(rows: list[dict[str, Any]]) -> None:
    asked = list(answers(rows).values())
    echoed = [measures.echo(row) for row in asked]
    assert set(values("wrong", echoed).items()) == {("b1", 0), ("b2", 0), ("t1", 0), ("t2", 1)}
    assert max(values("F1", echoed).values()) < 0.3
    assert values("valid citation", echoed)["b1"] == 1.0
    silent = [measures.always_abstain(row) for row in asked]
    assert values("coverage", silent) == {"b1": 0, "b2": 0, "t1": 0, "t2": 0, "s1": 0}
    assert values("abstention", silent) == {"t2": 1.0}
    assert values("wrong", silent) == {}
    first = {row["id"]: row for row in map(measures.first_sentence, asked)}
    assert first["b1"]["text"] == "The Zarnith bridge spans the Ool."
    assert first["s1"]["claims"][0]["citations"][0]["quote"] == "大桥: 由玛拉建造。"
    assert values("valid citation", list(first.values()))["b1"] == 1.0
    nothing = measures.first_sentence({**asked[0], "passages": []})
    assert nothing["status"] == "abstained"


def test_the_report_needs_the_rows_alone(rows: list[dict[str, Any]]) -> None:
    run = {"kind": "run", "command": "-m x", "seed": 0, "generator": "canned", "started": "now"}
    text = report.render([run, *rows])
    assert "    generator: canned" in text
    assert "started" not in text
    lines = text.splitlines()
    assert sum(line.startswith("### ") for line in lines) == 4  # retrieval, two sets, together
    wrong = next(line for line in lines if line.startswith("| wrong among answered"))
    assert wrong.split("|")[2].strip().startswith("0.667 [")
    assert wrong.split("|")[2].strip().endswith("n=3")
    assert wrong.split("|")[4].strip() == "–"  # always abstain answers nothing
    retrieval = next(line for line in lines if line.startswith("| squad | en | default"))
    assert "n=3" in retrieval
    assert "n=4" in retrieval  # seconds count the unanswerable too
    assert report.render([run, *rows]) == text


def test_resuming_asks_only_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    measure(replace(PLAN, limit=1), Opener(), Record(path))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "answer", "id": "b')  # the process died here
    with pytest.raises(UsageError, match="--resume"):
        Record(path)
    opener, record = Opener(), Record(path, resume=True)
    assert path.read_bytes() == whole
    asked = sum(row["kind"] == "answer" for row in record.rows)
    measure(PLAN, opener, record)
    assert len(opener.assistant.asked) == 5 - asked
    assert len(answers(read_rows(path))) == 5
    assert path.read_bytes().startswith(whole)
    again = Opener()
    measure(PLAN, again, Record(path, resume=True))
    assert again.assistant.asked == []


def test_retrieval_only_asks_nothing(tmp_path: Path) -> None:
    opener, record = Opener(), Record(tmp_path / "rows.jsonl")
    measure(replace(PLAN, retrieval_only=True), opener, record)
    assert opener.assistant.asked == []
    assert {row["kind"] for row in record.rows} == {"retrieval"}
    assert opener.opened == [("squad-en", 2), ("nomiracl-zh", 0)]


def test_one_variant_is_one_identity(tmp_path: Path) -> None:
    record = Record(tmp_path / "rows.jsonl")
    record.add(describe_run(PLAN, {"generator": "a"}, "first"))
    same = describe_run(PLAN, {"generator": "a"}, "second")
    require_same(record, same, {"generator": "a"})
    other = describe_run(PLAN, {"generator": "b"}, "third")
    remedy = r"rows\.jsonl was measured with another generator: .*--out, delete .*--variant"
    with pytest.raises(UsageError, match=remedy):
        require_same(record, other, {"generator": "b"})
    renamed = describe_run(replace(PLAN, variant="b"), {"generator": "b"}, "fourth")
    require_same(record, renamed, {"generator": "b"})


def test_other_code_or_calibration_is_another_identity(tmp_path: Path) -> None:
    _, identity = make_benches(tmp_path, CHEAP)
    assert {"generator", "encoder", "settings", "adapters", "calibration", "code"} == set(identity)
    record = Record(tmp_path / "rows.jsonl")
    record.add(describe_run(PLAN, {**identity, "code": "old", "calibration": "old"}, "first"))
    now = describe_run(PLAN, identity, "second")
    with pytest.raises(UsageError, match=r"another calibration, code: .*--out, delete"):
        require_same(record, now, identity)


def test_the_generator_is_loaded_once_for_all_sets(tmp_path: Path) -> None:
    folder = build_transformers_model(tmp_path / "generator")
    benches, _ = make_benches(
        tmp_path, ["encoder.model=hashing", f"generator.model={folder}", "generator.device=cpu"]
    )
    with benches.open("squad-en", [BRIDGE]) as bench:
        bench.make_asker()
    shutil.rmtree(folder)  # whatever loads it again fails
    with benches.open("squad-zh", ["青石桥由林望舒设计。"]) as bench:
        answer = bench.make_asker().ask("青石桥由谁设计？")
        assert [passage.chunk.text for passage in answer.passages] == ["青石桥由林望舒设计。"]


def test_the_command_line_names_no_path() -> None:
    plan = replace(PLAN, limit=5, variant="dense")
    assert command_line(plan, ["search.mode=dense"]) == (
        "python -m benchmarks.answering --data DATA --out FILE --sets squad,nomiracl --seed 0"
        " --limit 5 --variant dense --set search.mode=dense"
    )


class CountingEncoder(HashingEncoder):
    """Counts the passages it encodes."""

    passages = 0

    def encode_queries(self, texts: list[str]) -> Vectors:
        return super().encode_passages(texts)

    def encode_passages(self, texts: list[str]) -> Vectors:
        self.passages += len(texts)
        return super().encode_passages(texts)


def test_a_real_collection_is_filled_once(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    benches = Benches(tmp_path, encoder, lambda searcher: CannedAssistant(SPANS, (BRIDGE,)))
    first = Record(tmp_path / "first.jsonl")
    measure(replace(PLAN, retrieval_only=True), benches.open, first)
    assert encoder.passages == 2
    recall = measures.RETRIEVAL_MEASURES[0]
    assert [recall.of(row) for row in first.rows] == [1.0, 1.0, 1.0, None]
    second = Record(tmp_path / "second.jsonl")
    measure(replace(PLAN, retrieval_only=True), benches.open, second)
    assert encoder.passages == 2
    with benches.open("squad-en", [BRIDGE]) as bench:  # other paragraphs: another collection
        assert len(bench.searcher.search("Kelm tower", top_k=5)) == 1
    assert encoder.passages == 3


def test_the_command_reports_from_a_file_and_names_missing_data(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path / "rows.jsonl"
    shown = CliRunner().invoke(main, ["--out", str(path), "--report"])
    assert shown.exit_code == 0
    assert shown.output.strip() == report.render(rows).strip()
    arguments = ["--out", str(tmp_path / "new.jsonl"), "--data", str(tmp_path), "--sets", "xquad"]
    failed = CliRunner().invoke(main, arguments)
    assert failed.exit_code == 2
    assert "--data PATH or TETHER_DATA" in failed.output
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(gzip.compress(json.dumps({}).encode()) + b"\n")
    assert CliRunner().invoke(main, ["--out", str(damaged), "--report"]).exit_code == 2
