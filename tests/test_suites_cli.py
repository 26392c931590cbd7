"""`tether eval`: the suites over tiny sets, with a real store, search, verifier and tiny model."""

import json
import math
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import cli, main
from app.laboratory.suites import SUITES, SettingsLaboratory, module_of
from app.settings import Settings, load_settings
from eval.cases import Case
from eval.datasets import LICENCES
from eval.records import Run, Sample, read_run
from eval.suites.benchmark_sets import NAMES, Choice, ClosedBook, read_benchmarks
from eval.suites.benchmarks import chosen, compressed, recalled
from eval.suites.pages import Layout, suite_page
from eval.suites.suite import BASELINE, Request, is_baseline
from ingest.errors import SettingsError, UsageError
from tests.tiny_models import build_transformers_model
from tests.tiny_sets import asked, choices, write_all, write_set

CHEAP = ("--set", "encoder.model=hashing", "--set", "generator.backend=none")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_transformers_model(tmp_path_factory.mktemp("model"), positions=2048)


def tether(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)


def measured(out: Path, *arguments: object, settings: tuple[str, ...] = CHEAP) -> Result:
    done = tether("--home", out / "home", *settings, "eval", *arguments, "--out", out)
    assert done.exit_code == 0, done.output
    return done


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2) -> str:
    """Return the one line with which a command is refused."""
    with pytest.raises(SystemExit) as stop:
        main([*CHEAP, *map(str, arguments)])
    assert stop.value.code == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def samples(run: Run, arm: str, **wanted: str) -> dict[str, Sample]:
    return {
        one.case_id: one
        for one in run.samples
        if one.arm == arm and all(getattr(one, name) == value for name, value in wanted.items())
    }


def test_answers_are_found_cited_and_scored(tmp_path: Path, data: Path) -> None:
    done = measured(tmp_path, "answers", "--data", data, "--sets", "xquad")
    assert f"report: {tmp_path / 'answers' / 'report.html'}" in done.output
    run = read_run(tmp_path / "answers")
    found = samples(run, "assistant")
    assert len(found) == 6 and not any(one.failure for one in found.values())
    brenn = found["xquad/en-Brenn"]
    assert brenn.scores["answered"] == brenn.scores["citation_valid"] == 1.0
    assert brenn.scores["wrong"] == 0.0 and brenn.scores["rejected"] is None
    assert brenn.passages and brenn.citations[0].quote in asked("Brenn")["context"]
    assert brenn.confidence is not None and 0 < brenn.confidence <= 1
    assert brenn.identity.keys() >= {"generator", "encoder", "settings", "adapters", "calibration",
                                     "code", "cases"}  # fmt: skip
    silent = samples(run, f"{BASELINE}always abstain")
    assert {one.scores["answered"] for one in silent.values()} == {0.0}
    assert silent["xquad/en-nobody"].scores["rejected"] == 1.0
    text = (tmp_path / "answers" / "report.md").read_text()
    assert "xquad, en" in text and "xquad, zh" in text and "echo all passages" in text
    assert "**The assistant: share of all questions answered: " in text
    assert "coverage with at most 5% wrong" in text and "AURC" in text
    assert str(data) not in text and "--data DATA" in text
    assert asked("Brenn")["context"] not in text  # no text of a set in what may be published


def test_search_is_measured_half_by_half(tmp_path: Path, data: Path) -> None:
    measured(tmp_path, "retrieval", "--data", data, "--sets", "xquad")
    run = read_run(tmp_path / "retrieval")
    assert {one.arm for one in run.samples} == {
        "lexical", "dense", "hybrid", f"{BASELINE}random order",
    }  # fmt: skip
    hybrid = samples(run, "hybrid")
    assert len(hybrid) == 5  # what cannot be answered has nothing to be found
    assert all(one.scores["recall@1"] == 1.0 for one in samples(run, "lexical").values())
    assert all(one.passages for one in hybrid.values())
    assert {(one.kind, one.language) for one in run.samples} == {("xquad", "en"), ("xquad", "zh")}
    assert "generator" not in run.description.identity  # it has no part in it
    measured(tmp_path, "retrieval", "--data", data, "--sets", "xquad", "--limit", 0)
    assert read_run(tmp_path / "retrieval") == run


def test_claims_are_judged(tmp_path: Path, data: Path) -> None:
    measured(tmp_path, "verifier", "--data", data, "--sets", "fm2")
    run = read_run(tmp_path / "verifier")
    found = samples(run, "verifier")
    assert found and all(one.scores["label"] == float(one.expected == ("supported",))
                         for one in found.values())  # fmt: skip
    wrong_year = [one for one in found.values() if one.expected == ("not supported",)]
    assert wrong_year and all(one.scores["right_unsupported"] == 1.0 for one in wrong_year)
    always = samples(run, f"{BASELINE}always supported")
    assert all(one.scores["right"] == one.scores["label"] for one in always.values())
    text = (tmp_path / "verifier" / "report.md").read_text()
    assert "balanced accuracy" in text and "never supported" in text


def test_benchmarks_are_asked_each_in_its_way(tmp_path: Path, data: Path, model: Path) -> None:
    settings = ("--set", "encoder.model=hashing", "--set", f"generator.model={model}",
                "--set", "generator.device=cpu", "--set", "decoding.max_new_tokens=4")  # fmt: skip
    sets = "xquad,simpleqa,truthfulqa,truthfulqa-choice,mmlu,wikitext"
    measured(tmp_path, "benchmarks", "--data", data, "--sets", sets, settings=settings)
    run = read_run(tmp_path / "benchmarks")
    assert not [one.failure for one in run.samples if one.failure]
    by_set = {one.kind: one.arm for one in run.samples if not is_baseline(one.arm)}
    assert by_set == {
        "xquad": "assistant, given passages",
        "simpleqa": "assistant, from memory",
        "truthfulqa": "assistant, from memory",
        "truthfulqa-choice": "model, likeliest choice",
        "mmlu": "model, likeliest choice",
        "wikitext": "model, text",
    }
    recited = samples(run, "assistant, from memory", kind="simpleqa")["simpleqa/en-1"]
    assert "Which town has bridge 1?" in recited.prompt
    assert recited.scores["attempted"] == float(bool(recited.output))
    picked = samples(run, "model, likeliest choice", kind="mmlu")["mmlu/en-2"]
    assert picked.prompt.endswith("A. Brenn\nB. Orra by the sea\nC. Vell\nAnswer:")
    assert picked.output in choices(2)["choices"] and picked.expected == ("Vell",)
    read = samples(run, "model, text")["wikitext/t1"]
    assert read.scores["tokens"] and read.scores["bytes"] == len("Bridge 1 stands in Brenn.")
    text = (tmp_path / "benchmarks" / "report.md").read_text()
    for label in ("perplexity a token", "zlib", "F (SimpleQA)", "guess", "repeats the question"):
        assert label in text


def test_a_report_needs_the_records_alone(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(tmp_path, "retrieval", "--data", data, "--sets", "xquad", "--limit", 1)
    bare = tmp_path / "copy" / "retrieval"
    bare.mkdir(parents=True)
    for name in ("run.json", "samples.jsonl"):
        shutil.copy(tmp_path / "retrieval" / name, bare / name)
    assert tether("report", bare).exit_code == 0
    for name in ("report.html", "report.md"):
        assert (bare / name).read_bytes() == (tmp_path / "retrieval" / name).read_bytes()
    compared = tether("compare", bare, tmp_path / "retrieval").output
    assert "| retrieval | hybrid | ndcg@10 |" in compared
    assert f"# copy/retrieval against {tmp_path.name}/retrieval" in compared
    assert BASELINE not in compared and " yes |" not in compared
    one = tether("compare", bare, tmp_path / "retrieval", "--scores", "ndcg@10").output
    assert "| ndcg@10 |" in one and "| recall@1 |" not in one
    said = refused(capsys, "compare", bare, tmp_path / "retrieval", "--scores", "beauty")
    assert "no sample has the score 'beauty'; choose from: " in said and "recall@1" in said
    assert f"{bare / 'report.zh.html'}" in tether("report", bare, "--language", "zh").output
    in_chinese = tether("compare", bare, tmp_path / "retrieval", "--language", "zh").output
    assert "| retrieval | 混合检索 | nDCG@10 |" in in_chinese


def test_the_same_command_goes_on_and_another_is_kept_apart(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ("--data", data, "--sets", "xquad", "--limit")
    measured(tmp_path, "answers", *first, 1)
    folder = tmp_path / "answers"
    before = (folder / "samples.jsonl").read_bytes()
    measured(tmp_path, "answers", *first, 2)
    after = (folder / "samples.jsonl").read_bytes()
    assert after.startswith(before) and len(after) > len(before)
    said = refused(
        capsys, "--home", tmp_path / "home", "--set", "search.top_k=2",
        "eval", "answers", *first, 2, "--out", tmp_path,
    )  # fmt: skip
    assert "holds another run (settings" in said and "choose another --out" in said
    described = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(described | {"format": 0}))
    said = refused(capsys, "--home", tmp_path / "home", "eval", "answers", *first, 2,
                   "--out", tmp_path)  # fmt: skip
    assert "format 0" in said
    measured(tmp_path, "answers", *first, 1, "--fresh")
    assert (tmp_path / "answers.1" / "samples.jsonl").read_bytes() == after
    assert len((folder / "samples.jsonl").read_bytes().splitlines()) == len(before.splitlines())


def test_without_a_place_each_run_has_its_own(tmp_path: Path, data: Path) -> None:
    common = ("retrieval", "--data", data, "--sets", "xquad", "--limit", 1)
    for more in ((), ("--seed", "1"), ()):
        done = tether("--home", tmp_path, *CHEAP, "eval", *common, *more)
        assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "laboratory").glob("retrieval-*/report.html"))) == 2


def test_a_set_that_is_missing_or_not_for_everyone_is_told(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ("--home", tmp_path, "eval")
    said = refused(capsys, *home, "benchmarks", "--data", data, "--sets", "popqa")
    assert "entity_qa/popqa.dev.jsonl.gz" in said and "--data PATH or TETHER_DATA" in said
    said = refused(capsys, *home, "benchmarks", "--data", data, "--sets", "c3,cmmlu")
    assert LICENCES["cmmlu"] in said and LICENCES["c3"] in said
    assert "--accept-licence" in said and "leave them out" in said
    for suite, sets in (("answers", "rgb"), ("verifier", "ocnli")):
        assert LICENCES[sets] in refused(capsys, *home, suite, "--data", data, "--sets", sets)
    said = refused(capsys, *home, "answers", "--data", data, "--sets", "rgb", "--accept-licence")
    assert "rgb/zh_refine.dev.jsonl.gz" in said  # accepted, but not there
    assert "no folder" in refused(capsys, *home, "answers", "--data", tmp_path / "gone")
    said = refused(capsys, *home, "benchmarks", "--data", data, "--sets", "nosuch")
    assert "no benchmark 'nosuch'" in said and "simpleqa" in said
    assert not (tmp_path / "laboratory").exists()


def test_a_suite_that_is_none_is_refused_before_anything_is_measured(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "--home", tmp_path, "eval", "retrieval", "nosuch", "--data", data)
    assert "no suite 'nosuch'; choose from: answers, " in said and "line" in said
    assert not (tmp_path / "laboratory").exists()
    assert "use tether frontier" in refused(capsys, "--home", tmp_path, "eval", "forgetting")
    said = refused(capsys, "report", tmp_path, "--language", "en")
    assert "give a folder that tether frontier wrote" in said


def test_likelihoods_that_cannot_be_had_are_refused_at_once(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--home", tmp_path, "--set", "generator.model=some.gguf")
    said = refused(
        capsys, *settings, "eval", "benchmarks", "--data", data, "--sets", "xquad,mmlu",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert "gives no likelihoods" in said and "leave out the sets" in said
    assert not (tmp_path / "out").exists()


def test_a_run_in_which_all_failed_is_no_success(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = asked("Brenn") | {"question": "When? " * 1000}
    write_set(tmp_path / "data", "xquad/xquad", [long])
    said = refused(
        capsys, "--home", tmp_path, "eval", "answers", "--data", tmp_path / "data",
        "--sets", "xquad", "--out", tmp_path / "out", code=1,
    )  # fmt: skip
    assert "all 1 samples failed" in said and "5,999 characters" in said and "--fresh" in said
    assert "5,999 characters" in (tmp_path / "out" / "answers" / "report.md").read_text()


def test_every_suite_has_what_the_runner_and_the_report_need() -> None:
    for name in SUITES:
        module = module_of(name)
        assert isinstance(module.LAYOUT, Layout) and module.LAYOUT.about
        assert callable(module.open_suite)
        labels = [column.label for column in module.LAYOUT.columns]
        assert len(set(labels)) == len(labels)
        assert not module.LAYOUT.headline or module.LAYOUT.headline in labels


# --- Scores of single rows ------------------------------------------------------------------------


def test_recollections_count_as_simpleqa_counts_them() -> None:
    case = Case("1", "en", "Which town?", ("Brenn",), answerable=True)
    row = ClosedBook(case, ("the town of Orra",))
    assert recalled(row, "It is Brenn.")["correct"] == 1.0
    missed = recalled(row, "the town of Orra")
    assert (missed["hallucinated"], missed["wrong_if_attempted"], missed["misled"]) == (1, 1, 1)
    silent = recalled(row, "")
    assert (silent["attempted"], silent["wrong_if_attempted"], silent["misled"]) == (0, None, None)
    assert silent["over_refused"] == 1.0
    assert recalled(ClosedBook(case), "Orra")["misled"] is None


def test_the_likeliest_choice_counts() -> None:
    row = Choice(
        "1", "en", "?", "? ", (" Brenn", " Orra by the sea"), ("Brenn", "Orra by the sea"), 1, "1"
    )
    found = chosen(row, [-4.0, -8.0])
    assert (found.output, found.scores) == ("Brenn", {"choice": 0.0, "choice_normalised": 1.0})
    assert found.confidence == pytest.approx(1 / (1 + math.exp(-4)))
    blind = {name: one.scores["choice"] for name, one in found.baselines.items()}
    assert blind == {"guess": 0.5, "always the first": 0.0, "always the longest": 1.0}
    letters = Choice("1", "en", "?", "? ", (" A", " B"), ("Brenn", "Orra"), 0, "1")
    assert chosen(letters, [-1.0, -2.0]).scores == {"choice": 1.0, "choice_normalised": None}


def test_texts_have_bits_without_any_language() -> None:
    found = compressed("桥" * 40)
    assert found["bytes"].scores == {"bits": 960.0, "bytes": 120.0}
    assert (found["zlib"].scores["bits"] or 0) < 200


def test_beliefs_stand_in_an_order_of_their_own(data: Path) -> None:
    rows = read_benchmarks(["truthfulqa-choice"], data, 0)["truthfulqa-choice"]
    assert all(isinstance(row, Choice) and row.texts[row.gold] == "Brenn" for row in rows)
    assert len({row.gold for row in rows if isinstance(row, Choice)}) > 1
    assert read_benchmarks(["truthfulqa-choice"], data, 1)["truthfulqa-choice"] == rows
    assert len(set(NAMES)) == len(NAMES)


def test_damaged_benchmarks_are_user_errors(tmp_path: Path) -> None:
    write_set(tmp_path, "simpleqa/simpleqa", [{"id": "x"}])
    with pytest.raises(UsageError, match=r"simpleqa\.dev\.jsonl\.gz:1 lacks the field 'answers'"):
        read_benchmarks(["simpleqa"], tmp_path, 0)


# --- The assistant in force -----------------------------------------------------------------------


def test_the_laboratory_changes_what_it_is_told_to(home: Path, model: Path) -> None:
    settings = load_settings({
        "encoder.model": "hashing", "generator.model": str(model), "generator.device": "cpu",
        "decoding.max_new_tokens": "3",
    })  # fmt: skip
    laboratory = SettingsLaboratory(settings)
    assert laboratory.generator() is laboratory.generator()  # loaded once
    identity = laboratory.identity()
    assert str(model.parent) not in json.dumps(identity)  # no place of this machine
    assert identity == SettingsLaboratory(settings).identity()
    other = load_settings({"encoder.model": "hashing", "generator.model": str(model),
                           "generator.device": "cpu", "decoding.max_new_tokens": "4"})  # fmt: skip
    changed = SettingsLaboratory(other).identity()
    assert {name for name in identity if identity[name] != changed[name]} == {"settings"}
    assert SettingsLaboratory(other).identity(generates=False) == laboratory.identity(
        generates=False
    )
    laboratory.assistant().ask("Who built it?", retrieval=False)
    assert "Who built it?" in laboratory.generator().heard()
    causal, tokenizer = laboratory.causal_model()
    assert not causal.training and tokenizer is laboratory.causal_model()[1]
    with pytest.raises(SettingsError, match="gives no likelihoods"):
        SettingsLaboratory(load_settings({"generator.model": "some.gguf"})).causal_model()


# --- The real assistant ---------------------------------------------------------------------------


@pytest.mark.weights
@pytest.mark.slow
def test_the_real_assistant_reads_recalls_chooses_and_follows(
    weights_home: Path, real_settings: Settings, gemma_gguf: Path, tmp_path: Path
) -> None:
    """The default assistant answers from a passage, and its model prefers text to noise."""
    del gemma_gguf  # only there to be prepared, or to skip
    folder = weights_home / "weights"
    if not any(path.name.startswith("gemma") and (path / "config.json").exists()
               for path in folder.iterdir()):  # fmt: skip
        pytest.skip("the generator is not converted for transformers here")
    data = write_all(tmp_path / "data")
    sane = "The ship left the harbour in the morning and came back in the evening."
    texts = [{"id": "sane", "lang": "en", "text": sane},
             {"id": "noise", "lang": "en", "text": " ".join(reversed(sane.split()))}]  # fmt: skip
    write_set(data, "plain_text/wikitext2", texts)
    request = Request(data, ("xquad", "simpleqa", "mmlu", "wikitext"))
    laboratory = SettingsLaboratory(real_settings)
    from eval.suites.suite import run_suite

    module = module_of("benchmarks")
    with module.open_suite(laboratory, request) as suite:
        run = run_suite(suite, tmp_path / "run", limit=4)
    assert not [one.failure for one in run.samples if one.failure]
    reading = samples(run, "assistant, given passages", language="en")
    right = [one.scores["f1"] for one in reading.values() if one.scores["f1"] is not None]
    assert right and sum(right) / len(right) > 0.6
    followed = samples(run, "model, text")
    bits = {name: (one.scores["bits"] or 0) for name, one in followed.items()}
    assert bits["wikitext/sane"] < bits["wikitext/noise"]
    assert "perplexity a token" in str(suite_page(run, module.LAYOUT).blocks)
