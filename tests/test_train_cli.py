"""`tether train` and `tether feedback`: small real runs through the command line, and bad input."""

import json
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest

from app.assembly import build_generator
from app.cli import cli
from app.settings import load_settings
from app.training.commands import train as train_group
from app.training.rows import examples_of, read_rows, write_rows
from model.adapters import find_adapter
from model.answers import Answer, answer_to_json
from model.cross_encoder import load_head
from model.generators import Decoding
from model.prompts import Prompt
from model.training.questions import QuestionRow
from retrieval.encoders import HashingEncoder
from retrieval.onnx import OnnxBert, read_shape
from retrieval.passages import Passage
from retrieval.search import given_passages
from tests.test_cli import Result, Run, call
from tests.test_docs import SHOWN
from tests.test_faults import files_up_to
from tests.test_onnx import build as build_bert
from tests.tiny_models import build_transformers_model
from tests.tiny_training import examples as tiny_examples

ROOT = Path(__file__).resolve().parent.parent
QUICK = (
    "--epochs",
    9,
    "--steps",
    12,
    "--batch-tokens",
    400,
    "--learning-rate",
    0.02,
    "--device",
    "cpu",
)
LETTERS = "aeilmnoprst"
OURS = [words for _, words in SHOWN if words[:2] in (["tether", "train"], ["tether", "feedback"])]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_transformers_model(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def tether(capsys: pytest.CaptureFixture[str]) -> Run:
    return partial(call, capsys)


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Prompts whose completion follows from a word of theirs."""
    made = [{"prompt": e.prompt, "completion": e.completion} for e in tiny_examples(40)]
    return lines(tmp_path / "rows.jsonl", made)


def losses(result: Result) -> tuple[float, float]:
    """Return the dev loss before and after, as the last line tells them."""
    words = result.out.split("dev loss ")[1].split()
    return float(words[0]), float(words[2].strip(",);"))


def test_an_answer_adapter_is_trained_and_used(
    tether: Run, home: Path, rows: Path, llama: Path
) -> None:
    result = tether("train", "answer", "--data", rows, "--base", llama, "--out", "mine", *QUICK)
    assert result.code == 0, result.err
    assert "36 rows used, 0 too long, 0 without an answer; 4 dev rows" in result.out
    before, after = losses(result)
    assert after < 0.8 * before
    assert f"switch it on with --set generator.adapter=mine --set generator.model={llama}" in (
        result.out
    )
    folder = home / "adapters" / "mine"
    card = (folder / "README.md").read_text("utf-8")
    record = json.loads((folder / "record.json").read_text("utf-8"))
    assert "tether train answer --data" in card and "dev loss" in card
    assert record["role"] == "answer" and record["steps"] == 12 and record["prompt"]
    assert (folder / "curve.svg").exists() and (folder / "log.jsonl").exists()
    assert not (home / "training" / "mine").exists()

    flags = {"generator.adapter": "mine", "generator.model": str(llama), "generator.device": "cpu"}
    said = "".join(build_generator(load_settings(flags)).stream(
        Prompt("", (), "Question: pier? Answer:"), Decoding(max_new_tokens=8)
    ))  # fmt: skip
    bare = "".join(build_generator(load_settings(flags | {"generator.adapter": "none"})).stream(
        Prompt("", (), "Question: pier? Answer:"), Decoding(max_new_tokens=8)
    ))  # fmt: skip
    assert said != bare
    assert "adapter: answer" in tether("models").out
    again = tether("train", "answer", "--data", rows, "--base", llama, "--out", "mine", *QUICK)
    assert again.code == 2 and "--force" in again.error


def test_the_measures_against_forgetting_are_options(
    tether: Run, home: Path, rows: Path, llama: Path, tmp_path: Path
) -> None:
    text = tmp_path / "general.txt"
    text.write_text("\n\n".join(["The harbour of Orrin has three piers."] * 12), "utf-8")
    result = tether(
        *("train", "answer", "--data", rows, "--base", llama, "--out", "held", *QUICK),
        *("--replay", 0.25, "--replay-text", text, "--kl", 0.1, "--l2sp", 0.01),
        *("--freeze-layers", 1, "--interpolate", 0.5, "--rank", 4),
    )
    assert result.code == 0, result.err
    told = json.loads((home / "adapters" / "held" / "record.json").read_text("utf-8"))["task"]
    assert told["data"]["replay"] == 12 and told["lora"]["rank"] == 4
    assert told["forgetting"]["interpolation"] == 0.5 and "general_loss" in result.out


def test_full_training_makes_a_model(tether: Run, home: Path, rows: Path, llama: Path) -> None:
    result = tether(
        *("train", "answer", "--data", rows, "--base", llama, "--out", "whole", "--full", *QUICK),
        *("--ewc", 0.1, "--replay-text", rows.with_name("text.txt")),
    )
    assert result.code == 1 and "text.txt" in result.error
    result = tether(
        "train", "answer", "--data", rows, "--base", llama, "--out", "whole", "--full", *QUICK
    )
    assert result.code == 0, result.err
    folder = home / "models" / "whole"
    assert f"--set generator.model={folder}" in result.out
    assert (folder / "model.safetensors").exists() and (folder / "README.md").exists()
    assert tether("models").code == 0


def test_knowledge_comes_from_a_collection(
    tether: Run, home: Path, llama: Path, tmp_path: Path
) -> None:
    for number in range(12):
        (tmp_path / f"{number}.txt").write_text(f"Pier {number} has {number} lamps.", "utf-8")
    assert tether("ingest", *tmp_path.glob("*.txt")).code == 0
    result = tether(
        *("train", "knowledge", "--collection", "default", "--base", llama, "--out", "piers"),
        *QUICK,
    )
    assert result.code == 0, result.err
    assert "11 rows used, 0 too long, 0 without an answer; 1 dev rows" in result.out
    assert find_adapter("piers", home, "answer").record["steps"] == 9


def words(draw: random.Random, count: int) -> str:
    return "".join(draw.choices(LETTERS, k=count))


def head_rows(role: str, count: int = 200) -> list[dict[str, Any]]:
    """Return rows whose right answer is told by one character."""
    draw = random.Random(3)
    made: list[dict[str, Any]] = []
    for number in range(count):
        asked, before = words(draw, 4), words(draw, 5)
        right = number % 2
        if role == "verify":
            made.append({"claim": asked, "evidence": before + "竹猫"[right] * 3, "label": right})
        elif role == "rerank":
            others = [words(draw, 5) + "竹" for _ in range(2)]
            made.append({"question": asked, "positive": before + "猫", "negatives": others})
        else:
            answers: list[Any] = ["猫", [5, 6]] if right else []
            made.append({"question": asked, "passage": before + "竹猫"[right], "answers": answers})
    if role == "read":
        for row in made:
            row["answers"] = [
                a for a in row["answers"] if isinstance(a, list) or a in row["passage"]
            ]
    return made


@pytest.mark.parametrize("role", ["verify", "rerank", "read"])
def test_heads_are_trained(tether: Run, home: Path, bert: Path, tmp_path: Path, role: str) -> None:
    data = lines(tmp_path / "rows.jsonl", head_rows(role))
    result = tether(
        *("train", role, "--data", data, "--dev", data, "--base", bert, "--out", role),
        *("--rank", 8, "--alpha", 16, "--most-tokens", 48, "--epochs", 4, "--batch-tokens", 256),
        *("--learning-rate", 0.01, "--device", "cpu"),
    )
    assert result.code == 0, result.err
    before, after = losses(result)
    assert after < 0.9 * before
    adapter = find_adapter(role, home, role)
    assert adapter.base_name == bert.name and (adapter.folder / "README.md").exists()
    shape = read_shape(bert)
    assert shape is not None
    load_head(adapter.folder, OnnxBert(bert, shape), adapter.base_sha256)


def test_a_dry_run_estimates_and_trains_nothing(
    tether: Run, home: Path, rows: Path, llama: Path, tmp_path: Path
) -> None:
    more = rows.read_text("utf-8") + json.dumps({"prompt": "Who?", "completion": " "}) + "\n"
    long = {"prompt": "the piers " * 700, "completion": " nets"}
    data = tmp_path / "more.jsonl"
    data.write_text(more + json.dumps(long) + "\n", "utf-8")
    result = tether(
        *("train", "answer", "--data", data, "--dev", rows, "--base", llama, "--out", "dry"),
        *("--dry-run", *QUICK),
    )
    assert result.code == 0, result.err
    assert "40 rows used, 1 too long, 1 without an answer; 40 dev rows" in result.out
    assert "12 steps" in result.out and "GB of memory; nothing was trained" in result.out
    assert not (home / "adapters").exists() and not list(home.glob("training/*/checkpoint-*"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"prompt": "a", "completion": "b"}\nbroken\n', "rows.jsonl:2 is no JSON object"),
        ('\n{"prompt": "a"}\n', "rows.jsonl:2 is no row for answer ('completion' is missing)"),
        ('{"prompt": "a", "completion": 3}\n', '"completion" is no text'),
        ("[1]\n", "rows.jsonl:1 is no JSON object (a list)"),
        ("", "holds no row to learn from (0 without an answer)"),
        ('{"prompt": "a", "completion": ""}\n', "(1 without an answer)"),
        ('{"prompt": "a", "completion": "b"}\n', "1"),
    ],
    ids=["broken", "missing", "type", "list", "empty", "no answer", "one row"],
)
def test_bad_rows_are_named(
    tether: Run, home: Path, llama: Path, tmp_path: Path, text: str, told: str
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(text, "utf-8")
    result = tether("train", "answer", "--data", data, "--base", llama, "--out", "bad", *QUICK)
    assert result.code == 1
    assert told in result.error and ": " in result.error
    assert not (home / "adapters").exists()


@pytest.mark.parametrize(
    ("role", "row", "told"),
    [
        ("verify", {"claim": "a", "evidence": "b", "label": 2}, '"label" is 2'),
        ("rerank", {"question": "a", "positive": "b", "negatives": "c"}, "no list of texts"),
        ("read", {"question": "a", "passage": "b", "answers": ["c"]}, "does not stand in"),
        ("read", {"question": "a", "passage": "b", "answers": [[0, 9]]}, "no characters 0:9"),
    ],
)
def test_bad_rows_of_heads_are_named(
    tether: Run, bert: Path, tmp_path: Path, role: str, row: dict[str, Any], told: str
) -> None:
    data = lines(tmp_path / "rows.jsonl", [row])
    result = tether("train", role, "--data", data, "--base", bert, "--out", "bad")
    assert result.code == 1
    assert f"rows.jsonl:1 is no row for {role}" in result.error and told in result.error


def test_a_wrong_base_is_refused(tether: Run, rows: Path, llama: Path, tmp_path: Path) -> None:
    answer = ("train", "answer", "--data", rows, "--out", "x")
    assert "GGUF" in tether(*answer, "--base", "model.gguf").error
    assert "holds no .safetensors weights" in tether(*answer, "--base", tmp_path).error
    data = lines(tmp_path / "pairs.jsonl", head_rows("verify"))
    verify = ("train", "verify", "--data", data, "--out", "x")
    assert "BERT sentence encoder" in tether(*verify, "--base", llama).error
    assert "is no folder" in tether(*verify).error  # the encoder in use here is "hashing"


def test_an_adapter_is_refused_on_another_base(
    tether: Run, home: Path, rows: Path, llama: Path, tmp_path: Path
) -> None:
    assert tether(
        "train", "answer", "--data", rows, "--base", llama, "--out", "mine", *QUICK
    ).code == 0  # fmt: skip
    other = build_transformers_model(tmp_path / "other", "gpt2")
    result = tether(
        *("--set", f"generator.model={other}", "--set", "generator.backend=transformers"),
        *("--set", "generator.adapter=mine", "ask", "Who?", "--no-retrieval"),
    )
    assert result.code == 1
    assert "the adapter mine was trained on llama" in result.err.splitlines()[-1]


def test_what_is_asked_for_must_make_sense(
    tether: Run, rows: Path, llama: Path, home: Path
) -> None:
    start = ("train", "answer", "--base", llama)
    assert "exactly one" in tether(*start, "--out", "x").error
    assert tether(*start, "--out", "../x", "--data", rows).code == 2
    assert "something else" in tether(*start, "--out", "none", "--data", rows).error
    assert tether(*start, "--out", "x", "--collection", "nowhere").code == 2
    assert "share" in tether(*start, "--out", "x", "--data", rows, "--replay", 2).error
    assert (
        "layers cannot be frozen"
        in tether(*start, "--out", "x", "--data", rows, "--freeze-layers", 9).error
    )


def test_a_full_disk_is_told_and_the_run_goes_on(
    tether: Run, home: Path, rows: Path, llama: Path
) -> None:
    command = ("train", "answer", "--data", rows, "--base", llama, "--out", "full", *QUICK)
    with files_up_to(20_000):
        result = tether(*command)
    assert result.code == 1
    assert "cannot be written" in result.error and "run the same command again" in result.error
    assert not (home / "adapters" / "full").exists()
    assert tether(*command).code == 0
    assert find_adapter("full", home, "answer")


def test_an_interrupted_run_says_how_to_go_on_and_does(
    tether: Run, home: Path, rows: Path, llama: Path
) -> None:
    command = [
        *("train", "answer", "--data", str(rows), "--base", str(llama), "--out", "long"),
        *("--epochs", "5000", "--batch-tokens", "400", "--evaluate-every", "5", "--device", "cpu"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", *command, "--minutes", "30"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    run = home / "training" / "long"
    while process.poll() is None and not list(run.glob("checkpoint-*[1-9]*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 130, told
    kept = max(run.glob("checkpoint-*"))
    step = int(kept.name.rpartition("-")[2])
    assert f"the checkpoint of step {step} is kept; to go on: tether train answer" in told
    result = tether(*command, "--minutes", "0.02")
    assert result.code == 0, result.err
    record = find_adapter("long", home, "answer").record
    assert record["stopped"] == "budget" and record["steps"] >= step


@pytest.fixture
def paragraphs(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    names = ["Orrin", "Brenn", "Halden", "Velm"]
    texts = [
        f"The harbour of {names[i % 4]} has {i} piers and a lantern that burns all night. " * 4
        for i in range(40)
    ]
    path.write_text("\n\n".join(texts), "utf-8")
    return path


@pytest.mark.parametrize("objective", ["gpt", "bert", "t5"])
def test_pretraining_from_scratch(
    tether: Run, home: Path, paragraphs: Path, objective: str
) -> None:
    result = tether(
        *("train", "pretrain", "--data", paragraphs, "--objective", objective, "--from-scratch"),
        *("--vocabulary", 420, "--width", 32, "--layers", 1, "--most-tokens", 64, "--out", "own"),
        *("--steps", 25, "--epochs", 9, "--learning-rate", 0.01, "--device", "cpu"),
    )
    assert result.code == 0, result.err
    assert "38 texts with" in result.out and "2 dev texts with" in result.out
    before, after = losses(result)
    assert after < 0.9 * before
    folder = home / "models" / "own"
    assert (folder / "model.safetensors").exists() and (folder / "README.md").exists()
    if objective == "gpt":
        again = tether(
            *("train", "pretrain", "--data", paragraphs, "--base", folder, "--out", "more"),
            *("--steps", 2, "--most-tokens", 64, "--device", "cpu"),
        )
        assert again.code == 0, again.err
        assert losses(again)[0] == pytest.approx(after, abs=0.01)


def test_an_encoder_is_adapted_and_reindexes(
    tether: Run, home: Path, paragraphs: Path, bert: Path
) -> None:
    assert tether("ingest", paragraphs).code == 0
    result = tether(
        *("train", "pretrain", "--objective", "bert", "--collection", "default", "--base", bert),
        *("--out", "domain", "--steps", 2, "--most-tokens", 32),
    )
    assert result.code == 1 and "two different documents" in result.error
    start = ("train", "pretrain", "--data", paragraphs, "--steps", 2, "--most-tokens", 32)
    lacking = tether(*start, "--objective", "bert", "--base", bert, "--out", "domain")
    assert lacking.code == 1 and "the tokenizer has no mask_token" in lacking.error
    assert "--from-scratch" in tether(*start, "--objective", "t5", "--out", "domain").error


def asked(tmp_path: Path, question: str, text: str) -> Path:
    """Write what `tether ask --json` prints."""
    passage = given_passages(["The old keeper mends the nets."], question, HashingEncoder())[0]
    answer = Answer(question, text, (), (passage,), "supported")
    path = tmp_path / f"answer-{len(list(tmp_path.glob('answer-*')))}.json"
    path.write_text(json.dumps(answer_to_json(answer)), "utf-8")
    return path


def test_feedback_is_kept_listed_exported_and_removed(tether: Run, tmp_path: Path) -> None:
    file = asked(tmp_path, "Who mends the nets?", "The harbour [1]")
    added = tether("feedback", "add", file, "--thumb", "down", "--correction", "The old keeper [1]")
    assert (added.code, added.out) == (0, "kept as 1\n")
    assert "down  Who mends the nets?" in tether("feedback", "list").out
    (entry,) = json.loads(tether("feedback", "list", "--json").out)
    assert entry["passages"][0]["text"] == "The old keeper mends the nets."
    out = tmp_path / "out.jsonl"
    assert tether("feedback", "export", out, "--rows").code == 0
    (row,) = read_rows(out, "answer").examples
    assert row.completion.strip() == "The old keeper [1]" and "mends the nets." in row.prompt
    assert json.loads(tether("feedback", "export", "-").out) == entry
    assert tether("feedback", "remove", 1).code == 0
    assert "no entry 1" in tether("feedback", "remove", 1).error
    assert tether("feedback", "list").out == ""


def test_feedback_without_an_answer_is_refused(tether: Run, tmp_path: Path) -> None:
    file = asked(tmp_path, "Who mends the nets?", "The harbour [1]")
    silent = tether("feedback", "add", file)
    assert silent.code == 2 and "give a thumb or a correction" in silent.error
    file.write_text('{"question": "x"}', "utf-8")
    bad = tether("feedback", "add", file, "--thumb", "up")
    assert bad.code == 2 and "tether ask QUESTION --json" in bad.error


def test_corrections_are_learnt(tether: Run, home: Path, llama: Path, tmp_path: Path) -> None:
    start = ("train", "answer", "--from-feedback", "--base", llama, "--out", "mine", *QUICK)
    assert "tether feedback add" in tether(*start).error
    for number in range(12):
        file = asked(tmp_path, f"Who mends net {number}?", "The harbour [1]")
        correction = ("--correction", "The old keeper [1]")
        assert tether("feedback", "add", file, "--thumb", "down", *correction).code == 0
    result = tether(*start)
    assert result.code == 0, result.err
    assert "11 rows used" in result.out and losses(result)[1] < losses(result)[0]
    first = find_adapter("mine", home, "answer")

    goes_on = ("--from-feedback", "--from-adapter", "mine", "--base", llama, "--out", "better")
    refused = tether("train", "answer", *goes_on, "--interpolate", 0.5)
    assert refused.code == 2 and "--from-adapter none" in refused.error
    result = tether(
        *("train", "answer", *goes_on, "--preferences", "--steps", 6, "--epochs", 9),
        *("--learning-rate", 0.01, "--device", "cpu"),
    )
    assert result.code == 0, result.err
    assert "11 pairs; 1 dev pairs" in result.out
    second = find_adapter("better", home, "answer")
    assert second.record["started_from"]["sha256"] == first.sha256 != second.sha256
    assert second.record["best"]["margin"] > second.record["first"]["margin"]
    alone = tether("train", "answer", "--preferences", "--base", llama, "--out", "x")
    assert alone.code == 2 and "--from-feedback" in alone.error


def test_rows_made_of_questions() -> None:
    """Every claim, rank and span that is made of a question is true of its passages."""
    texts = {
        "Halden": "The Halden lighthouse was designed by Marta Lindqvist in 1897. It has 41 steps.",
        "Brenn": "The Brenn observatory was opened by Olaf Strand in 1911. It has 12 domes.",
    }
    questions = [
        QuestionRow("Who designed the Halden lighthouse?", ("Marta Lindqvist",),
                    texts["Halden"], "Halden", "en"),
        QuestionRow("Who opened the Brenn observatory?", ("Olaf Strand",),
                    texts["Brenn"], "Brenn", "en"),
    ]  # fmt: skip

    def search(query: str, *, top_k: int) -> list[Passage]:
        return given_passages(list(texts.values()), query, HashingEncoder())[:top_k]

    ranked = examples_of("rerank", questions, search, 0)
    assert [example.negatives for example in ranked] == [(texts["Brenn"],), (texts["Halden"],)]
    spans = examples_of("read", questions, search, 0)
    said = [[one.passage[a:b] for a, b in one.answers] for one in spans]
    assert said == [["Marta Lindqvist"], [], ["Olaf Strand"], []]
    pairs = examples_of("verify", questions, search, 0)
    assert {pair.supported for pair in pairs} == {True, False}


@pytest.mark.parametrize("role", ["verify", "rerank", "read"])
def test_written_rows_are_read_again(tmp_path: Path, role: str) -> None:
    data = lines(tmp_path / "rows.jsonl", head_rows(role))
    first = read_rows(data, role)
    write_rows(tmp_path / "again.jsonl", first.examples)
    assert read_rows(tmp_path / "again.jsonl", role) == first


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_every_command_shown_has_these_options(words: list[str]) -> None:
    group: Any = cli.commands[words[1]]
    group.commands[words[2]].make_parser(click.Context(group)).parse_args(words[3:])


def test_the_commands_are_documented() -> None:
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    for group in (train_group, cli.commands["feedback"]):
        for name, command in group.commands.items():  # type: ignore[attr-defined]
            assert f"`tether {group.name} {name}`" in page
            assert command.help
            for parameter in command.params:
                if parameter.opts[0].startswith("--"):
                    assert f"`{parameter.opts[0]}" in page, (name, parameter.opts[0])
                    assert getattr(parameter, "help", None)


@pytest.mark.weights
@pytest.mark.slow
def test_the_default_generator_is_trained_and_answers(
    capsys: pytest.CaptureFixture[str], home: Path, weights_home: Path, gemma_gguf: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The adapter that the command makes runs in llama.cpp under the settings that it names."""
    (home / "weights").symlink_to(weights_home / "weights")
    row = {"prompt": "[1] The keeper mends the nets.\nQuestion: Who mends the nets?\nAnswer:",
           "completion": " the keeper [1]"}  # fmt: skip
    data = lines(tmp_path / "rows.jsonl", [row] * 2)
    result = call(
        capsys, "--set", "generator.backend=auto", "train", "answer", "--data", data, "--dev", data,
        "--out", "mine", "--epochs", 4, "--steps", 4, "--batch-tokens", 128, "--device", "cpu",
    )  # fmt: skip
    assert result.code == 0, result.err
    before, after = losses(result)
    assert after < 0.8 * before
    assert result.out.strip().endswith("switch it on with --set generator.adapter=mine")
    generator = build_generator(load_settings({"generator.adapter": "mine"}))
    said = "".join(generator.stream(Prompt("", (), str(row["prompt"])), Decoding(max_new_tokens=8)))
    assert "keeper" in said
