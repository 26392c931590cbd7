"""The laboratory's doors: a whole smoke experiment, its report again, and what is refused."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import cli, main
from app.laboratory.asking import Known, keep, read_kept
from app.laboratory.documents import (
    given_questions,
    made_questions,
    parted,
    passages_of,
    with_gaps,
)
from app.laboratory.experiment import PLAN
from app.settings import load_settings
from docs.generate import ROOT
from eval.frontier.verdict_words import WORDS
from eval.injection.arms import standard_arms
from eval.injection.budget import read_plan
from eval.injection.experiment import Bench, InjectionOptions
from eval.injection.facts import build_world
from eval.injection.known_facts import candidates
from eval.injection.measuring import MeasuringOptions
from eval.injection.speeds import head_share, measure, work_of
from eval.line import METHODS
from eval.records import read_run
from ingest.errors import TetherError, UsageError
from model.training.questions import QuestionRow
from retrieval.encoders import Encoder
from tests.tiny_models import build_transformers_model

KNOWLEDGE = ROOT / "examples" / "knowledge"


def tether(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one line with which a command is refused."""
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


OWN = [
    {
        "question": f"Who keeps the light of pier {number}?",
        "passage": f"Pier {number} has a light. It is kept by Marta {name}.",
        "answers": [f"Marta {name}"],
    }
    for number, name in enumerate(["Lindqvist", "Sorvik", "Brennholt", "Orrin", "Halden", "Brenn"])
]


def smoke_run(place: Path) -> Result:
    """Go the whole way on the sample documents, with questions of one's own about others."""
    asked = place / "asked.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in OWN))
    return tether(
        "--home", place / "home", "frontier", KNOWLEDGE, "--budget", "smoke",
        "--questions", asked, "--out", place / "out",
    )  # fmt: skip


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run the whole way once."""
    place = tmp_path_factory.mktemp("smoke")
    done = smoke_run(place)
    assert done.exit_code == 0, done.output
    assert f"report: {place / 'out' / 'report.html'}" in done.output
    yield place / "out"


def test_a_smoke_run_shows_the_whole_way(smoke: Path) -> None:
    plan = read_plan((smoke / PLAN).read_text())
    run = read_run(smoke / "seed-0")
    assert {sample.arm for sample in run.samples} == set(plan.arms)
    assert not [sample for sample in run.samples if sample.failure]
    kinds = {sample.kind for sample in run.samples}
    assert kinds >= {"train/forward-new", "control/reverse", "known/forward", "text/en", "text/zh"}
    assert {"own/train/forward-seen", "own/control/forward-seen"} <= kinds
    page = (smoke / "report.html").read_text()
    assert WORDS["en"]["smoke"].split(":")[0] in page
    assert "tether frontier" in page and "full-qa-e4+rag-3" in page
    assert page.count("<svg") == 2
    assert "too few for a verdict of their own" in page and WORDS["en"]["own"] in page
    assert str(smoke) not in page  # no place of this machine but the documents'
    pictures = sorted(path.name for path in (smoke / "report-files").iterdir())
    text = (smoke / "report.md").read_text()
    assert len(pictures) == 2 and all(f"report-files/{name}" in text for name in pictures)


def test_the_report_comes_from_the_records_alone(smoke: Path, tmp_path: Path) -> None:
    bare = tmp_path / "copy"
    (bare / "seed-0").mkdir(parents=True)
    for name in (PLAN, "seed-0/run.json", "seed-0/samples.jsonl"):
        shutil.copy(smoke / name, bare / name)
    assert tether("report", bare).exit_code == 0
    for name in ("report.html", "report.md"):
        assert (bare / name).read_bytes() == (smoke / name).read_bytes()
    done = tether("report", bare, "--language", "zh")
    assert "report.zh.html" in done.output
    assert WORDS["zh"]["title"] in (bare / "report.zh.html").read_text()


def test_the_same_command_repeats_no_sample(smoke: Path) -> None:
    before = (smoke / "seed-0" / "samples.jsonl").read_bytes()
    page = (smoke / "report.html").read_bytes()
    done = smoke_run(smoke.parent)
    assert done.exit_code == 0, done.output
    assert (smoke / "seed-0" / "samples.jsonl").read_bytes() == before
    assert (smoke / "report.html").read_bytes() == page


def test_another_experiment_is_not_mixed_in(
    smoke: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "frontier", KNOWLEDGE, "--budget", "smoke", "--seed", 3, "--out", smoke)
    assert "holds another experiment" in said and "choose another --out" in said


def test_records_of_another_version_are_refused(
    smoke: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "seed-0").mkdir()
    for name in (PLAN, "seed-0/run.json", "seed-0/samples.jsonl"):
        shutil.copy(smoke / name, tmp_path / name)
    described = tmp_path / "seed-0" / "run.json"
    described.write_text(json.dumps({**json.loads(described.read_text()), "format": 0}))
    assert "format 0" in refused(capsys, "report", tmp_path)
    (tmp_path / PLAN).write_text("{}")
    shutil.copy(smoke / "seed-0/run.json", described)
    assert "damaged or of another version" in refused(capsys, "report", tmp_path)


@pytest.mark.parametrize(
    ("budget", "said"),
    [("soon", "no budget; give smoke, gpu, or a time"), ("smoke", "no such file or folder")],
)
def test_what_cannot_be_measured_is_said_in_a_line(
    budget: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert said in refused(capsys, "frontier", tmp_path / "gone", "--budget", budget, "--out", out)
    assert not out.exists()


def test_documents_without_text_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.txt").write_text("A lone sentence.")
    said = refused(capsys, "frontier", tmp_path, "--budget", "smoke", "--out", tmp_path / "out")
    assert "1 passages of text were found" in said and "give documents with text" in said


def test_a_folder_without_an_experiment_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "give a folder that tether frontier wrote" in refused(capsys, "report", tmp_path)
    said = refused(capsys, "compare", tmp_path, tmp_path)
    assert "give the folder of a run" in said


def test_two_runs_are_compared(smoke: Path) -> None:
    done = tether("compare", smoke / "seed-0", smoke / "seed-0")
    assert done.exit_code == 0
    assert "# seed-0 against seed-0" in done.output
    assert "Nothing that the records know of." in done.output
    assert " yes |" not in done.output  # nothing differs from itself


def test_the_line_forgets() -> None:
    done = tether("eval", "line")
    assert [line.partition(":")[0] for line in done.output.splitlines()] == list(METHODS)


def test_a_rehearsal_says_what_would_be_run_and_runs_nothing(tmp_path: Path) -> None:
    done = tether(
        "frontier", KNOWLEDGE, "--budget", "smoke", "--dry-run", "--out", tmp_path / "out"
    )
    assert done.exit_code == 0
    assert done.output.startswith(
        "smoke: 1 seeds, 8 invented facts of each language and half, 8 facts of the documents\n"
    )
    assert "\n  full-qa-e4+rag-3\n" in done.output and "\n  full-documents-e4\n" in done.output
    assert not (tmp_path / "out").exists()


def test_a_rehearsal_measures_how_fast_a_model_is(tmp_path: Path) -> None:
    build_transformers_model(tmp_path / "base", positions=2048)
    done = tether(
        "frontier", KNOWLEDGE, "--budget", "99h", "--base", tmp_path / "base", "--device", "cpu",
        "--dry-run", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    first, *rest = done.stdout.splitlines()
    assert first.startswith("99h: 3 seeds, 64 invented facts of each language and half, 24 facts")
    assert "left out" not in done.stdout and len(rest) == len(standard_arms("cpu"))
    assert all(" min  " in line for line in rest)
    assert not (tmp_path / "out").exists()


def test_passages_are_short_and_of_both_languages() -> None:
    passages = passages_of([KNOWLEDGE])
    assert len(set(passages)) == len(passages) > 40
    assert max(map(len, passages)) < 700
    assert set(parted(passages, 2)[0]) == {"en", "zh"}


def test_sentences_with_a_gap_fill_up_what_is_asked() -> None:
    passages = passages_of([KNOWLEDGE])
    made = [QuestionRow("Who?", ("x",), passages[0], "a", "en")]
    rows = with_gaps(made, passages, most=20, seed=1)
    assert rows[0] == made[0] and len({row.context for row in rows}) == len(rows) == 20
    assert {row.language for row in rows} == {"en", "zh"}
    assert (
        rows
        == with_gaps(made, passages, most=20, seed=1)
        != with_gaps(made, passages, most=20, seed=2)
    )
    assert len(with_gaps(made, passages[:4], most=20, seed=1)) <= 2  # half of the passages
    assert with_gaps(made, passages, most=0, seed=1) == made


def test_own_questions_are_read_with_their_passages(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    said_nowhere = {**OWN[0], "answers": []}
    file.write_text("".join(json.dumps(row) + "\n" for row in [*OWN, said_nowhere]))
    rows = given_questions(file)
    assert [row.answers for row in rows] == [tuple(row["answers"]) for row in OWN]
    assert [row.context for row in rows] == [row["passage"] for row in OWN]
    file.write_text('{"question": "Who?"}')
    with pytest.raises(TetherError, match="is no row for read"):
        given_questions(file)


def test_what_a_model_knows_is_kept_for_one_command(tmp_path: Path) -> None:
    row = QuestionRow("Who?", ("Marta",), "Marta does.", "a", "en")
    known = Known(3, (row, replace(row, question="Why?")), (True, False), ("capital-peru-en",))
    path = tmp_path / "asked.json"
    assert read_kept(path, "tether frontier") is None
    keep(known, path, "tether frontier")
    assert read_kept(path, "tether frontier") == known
    assert read_kept(path, "tether frontier --seed 1") is None
    assert known.new == [row]
    path.write_text("{}")
    with pytest.raises(UsageError, match="remove it, and give the command again"):
        read_kept(path, "tether frontier")


@pytest.mark.weights
@pytest.mark.slow
def test_questions_about_documents_make_the_round_trip(
    weights_home: Path, gemma_gguf: Path, e5_encoder: Encoder
) -> None:
    settings = load_settings({"home": str(weights_home)}, {})
    keepers = ("Lindqvist", "Sorvik", "Brennholt", "Orrin", "Halden", "Brenn")
    built = (1871, 1888, 1893, 1902, 1911, 1926)
    passages = [
        f"The lighthouse of {name} Island was finished in {year}. It was designed by Marta {name}."
        for name, year in zip(keepers, built, strict=True)
    ]
    told: list[str] = []
    rows, asked = made_questions(passages, settings, most=8, seed=0, say=told.append)
    assert asked == 3  # at most half of them
    assert told == ["asking questions about 3 passages of the documents"]
    assert len(rows) <= 3
    for row in rows:
        assert row.context in passages and row.answers[0] in row.context
        assert row.answers[0].lower() not in row.question.lower()


def test_texts_are_parted_by_language() -> None:
    texts = [f"Sentence {n}." for n in range(10)] + [f"第{n}句话。" for n in range(6)] + ["Last."]
    aside, general = parted(texts, 24)
    assert {language: len(own) for language, own in aside.items()} == {"en": 3, "zh": 2}
    assert sorted([*general, *aside["en"], *aside["zh"]]) == sorted(texts)
    assert [len(own) for own in parted(texts, 1)[0].values()] == [1, 1]
    assert parted(["Only.", "Two."], 24)[1] == ("Two.",)


def test_known_facts_are_asked_in_both_languages() -> None:
    cases = candidates()
    assert len({case.id for case in cases}) == len(cases) == 60
    assert {case.language for case in cases} == {"en", "zh"}
    assert not any(answer in case.question for case in cases for answer in case.answers)


def test_speeds_and_work_are_of_the_model_at_hand(tmp_path: Path) -> None:
    from model.training.tasks import load_base

    build_transformers_model(tmp_path, positions=2048)
    model, tokenizer = load_base(tmp_path)
    world, options = build_world(4, 0), InjectionOptions(
        versions=2, measuring=MeasuringOptions(most_new_tokens=4)
    )  # fmt: skip
    texts = {"en": ("The harbour has three piers.",), "zh": ("港口有三座码头。",)}
    rows = tuple(
        QuestionRow(f"Who keeps light {n}?", (f"keeper {n}",), f"Light {n}: keeper {n}.", "a", "en")
        for n in range(6)
    )
    bench = Bench(
        tmp_path, tmp_path, known=candidates()[:3], texts=texts, general=texts["en"],
        passages=texts["en"], documents=rows,
    )  # fmt: skip
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    found = measure(model.eval(), tokenizer, world, bench, options)
    assert min(found.full, found.lora, found.closed, found.texts) > 0
    assert min(found.single, found.reading) > 0
    assert all(bool((weight == before[name]).all()) for name, weight in model.named_parameters())
    work = work_of(world, 4, tokenizer, bench, options)
    assert work.tokens["qa"] > work.tokens["text"] > 0
    assert work.reading > work.closed > 0  # stale passages are for readers alone
    assert (work.own, work.known) == (len(rows), 3)
    assert min(work.texts, work.replay["qa"], work.tokens["documents"]) > 0
    assert 0 < head_share(model) < 1
    bodies = work_of(world, 4, tokenizer, bench, options, head=0.5)
    assert bodies.tokens["qa"] < work.tokens["qa"]  # questions are read and not predicted
    assert bodies.tokens["text"] == work.tokens["text"]
    more = work_of(world, 4, tokenizer, bench, replace(options, versions=4))
    assert more.tokens["text"] == 2 * work.tokens["text"]
    bare = work_of(world, 4, tokenizer, Bench(tmp_path, tmp_path), options)
    assert not {"documents", "general"} & set(bare.tokens)
