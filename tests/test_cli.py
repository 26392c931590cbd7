"""The command line without models: every command, and every bad input as one clear line."""

import errno
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from app.cli import _print_answer, main
from ingest.documents import Chunk
from model.answers import Answer, Citation, Claim
from retrieval.passages import Passage

FAST = ("--set", "encoder.model=hashing", "--set", "generator.backend=none")


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error."""
        (line,) = self.err.strip().splitlines()
        assert line.startswith("error: ")
        return line


Run = Callable[..., Result]


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """Run a command in this process."""
    code = 0
    try:
        main([*FAST, *map(str, arguments)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return Result(code, captured.out, captured.err)


@pytest.fixture
def tether(capsys: pytest.CaptureFixture[str]) -> Run:
    return partial(call, capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small documents, one with a Chinese name."""
    place = tmp_path / "文档"
    place.mkdir()
    (place / "bridge.md").write_text(
        "# Zarnith bridge\n\nOla Fenn built the Zarnith bridge in 1931."
    )
    (place / "青石桥.txt").write_text("青石桥由工程师林望舒设计，建成于1897年。", "utf-8")
    return place


def test_ingest_search_ask(tether: Run, folder: Path) -> None:
    first = tether("ingest", folder)
    assert first.code == 0
    assert first.out.count("added ") == 2 and "2 documents" in first.out
    assert tether("ingest", folder).out.count("unchanged ") == 2
    found = json.loads(tether("search", "Who built the Zarnith bridge?", "--json").out)
    assert "Ola Fenn" in found["passages"][0]["text"]
    assert found["passages"][0]["title"] == "Zarnith bridge"
    answer = json.loads(tether("ask", "青石桥由谁设计？", "--json", "--top-k", "1").out)
    assert len(answer["passages"]) == 1
    assert answer["status"] in ("supported", "abstained")


def test_a_changed_file_replaces_its_old_text(tether: Run, folder: Path) -> None:
    tether("ingest", folder)
    (folder / "bridge.md").write_text("# Zarnith bridge\n\nMarta Lind rebuilt it in 1977.")
    assert "updated " in tether("ingest", folder).out
    texts = [p["text"] for p in json.loads(tether("search", "bridge", "--json").out)["passages"]]
    assert any("Marta Lind" in text for text in texts)
    assert not any("Ola Fenn" in text for text in texts)


def test_one_bad_file_never_stops_the_others(tether: Run, folder: Path) -> None:
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 this is no pdf")
    result = tether("ingest", folder, folder / "nowhere.txt")
    assert result.code == 1
    assert result.out.count("added ") == 2
    failed = [line for line in result.err.splitlines() if line.startswith("failed")]
    assert len(failed) == 2
    assert "broken.pdf" in failed[0] + failed[1] and "nowhere.txt" in failed[0] + failed[1]


def test_an_empty_folder(tether: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = tether("ingest", tmp_path / "empty")
    assert result.code == 1
    assert "no supported files" in result.err and ".pdf" in result.err


def test_batches_print_one_line_a_row(tether: Run, folder: Path, tmp_path: Path) -> None:
    tether("ingest", folder)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"id": 1, "question": "Zarnith bridge"}\nbroken\n{"id": 3, "question": "桥"}\n'
    )
    result = tether("search", "--batch", rows)
    assert result.code == 0
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [line["id"] for line in lines] == [1, None, 3]
    assert "error" in lines[1] and lines[0]["passages"]
    asked = tether("ask", "--batch", rows, "--json", "--top-k", "1").out.splitlines()
    assert [json.loads(line)["id"] for line in asked] == [1, None, 3]


def test_given_passages_need_no_store(tether: Run, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": 1, "question": "Who?", "passages": ["Ola Fenn was there."]}))
    (line,) = tether("ask", "--batch", rows, "--json").out.splitlines()
    assert json.loads(line)["passages"][0]["text"] == "Ola Fenn was there."
    assert not any(Path(os.environ["TETHER_HOME"]).glob("collections/*"))


def test_judge_prints_a_probability(tether: Run) -> None:
    row = json.loads(tether("judge", "It opened in 1931.", "It opened in 1932.").out)
    assert set(row) == {"support", "supported"}
    assert row["supported"] is False and 0.0 <= row["support"] <= 1.0


def test_an_unknown_collection_names_the_remedy(tether: Run) -> None:
    for command in (("ask", "Who?"), ("search", "Who?"), ("chat", "--port", "17999")):
        result = tether(*command, "--collection", "nowhere")
        assert result.code == 2
        assert "nowhere" in result.error and "tether ingest" in result.error


@pytest.mark.parametrize("question", ["", "  ", "x" * 100_000])
def test_an_impossible_question(tether: Run, folder: Path, question: str) -> None:
    tether("ingest", folder)
    for command in ("ask", "search"):
        result = tether(command, question)
        assert result.code == 2
        assert "question" in result.error


def test_a_collection_built_with_another_encoder(tether: Run, folder: Path) -> None:
    tether("ingest", folder)
    path = Path(os.environ["TETHER_HOME"]) / "collections" / "default" / "truth.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = 'other' WHERE key = 'encoder'")
    result = tether("ask", "Who?")
    assert result.code == 1
    assert "other" in result.error and "encoder" in result.error


def test_a_damaged_index_is_rebuilt(tether: Run, folder: Path) -> None:
    tether("ingest", folder)
    before = tether("search", "Zarnith bridge", "--json").out
    snapshot = Path(os.environ["TETHER_HOME"]) / "collections" / "default" / "index.faiss"
    snapshot.write_bytes(b"garbage")
    assert tether("search", "Zarnith bridge", "--json").out == before


def test_a_damaged_database_is_named(tether: Run, folder: Path) -> None:
    tether("ingest", folder)
    directory = Path(os.environ["TETHER_HOME"]) / "collections" / "default"
    for leftover in directory.glob("truth.sqlite3-*"):
        leftover.unlink()
    (directory / "truth.sqlite3").write_bytes(b"garbage" * 1000)
    result = tether("ask", "Who?")
    assert result.code == 1
    assert "truth.sqlite3" in result.error and "ingest" in result.error


def test_a_port_in_use(tether: Run, folder: Path) -> None:
    tether("ingest", folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = tether("chat", "--port", port)
    assert result.code == 2
    assert str(port) in result.error and "--port" in result.error


def test_two_ingests_at_once(tether: Run, folder: Path) -> None:
    tether("ingest", folder)
    holder = (
        "import sys, time; from pathlib import Path\n"
        "from retrieval.encoders import HashingEncoder\n"
        "from retrieval.store import open_collection\n"
        "store = open_collection(Path(sys.argv[1]), 'default', HashingEncoder())\n"
        "with store.writing():\n    print('held', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder, os.environ["TETHER_HOME"]],
        stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    try:
        assert process.stdout and process.stdout.readline().strip() == "held"
        (folder / "new.txt").write_text("A new document.")
        result = tether("ingest", folder)
        assert result.code == 1
        assert "another" in result.error
    finally:
        process.kill()
        process.wait()
    assert "added " in tether("ingest", folder).out


def test_settings_and_collections_and_models(tether: Run, folder: Path) -> None:
    assert "no collections yet" in tether("collections").out
    tether("ingest", folder, "--collection", "我的文档")
    assert json.loads(tether("collections", "--json").out)[0]["name"] == "我的文档"
    values = json.loads(tether("settings", "--json").out)
    assert values["encoder.model"] == "hashing"
    roles = [row["role"] for row in json.loads(tether("models", "--json").out)]
    assert roles[:2] == ["encoder", "generator"]
    assert all(role.startswith("adapter:") for role in roles[2:])  # the shipped ones


def test_documents_cannot_steer_the_terminal(tether: Run, tmp_path: Path) -> None:
    command = "\x1b]0;pwned\x07\u202e"
    page = f"# Orrin{command}\n\nOla{command} built the Orrin pier. " + "It is long. " * 50
    (tmp_path / f"pier{command}.md").write_text(page, "utf-8")
    (tmp_path / f"broken{command}.pdf").write_bytes(b"%PDF-1.7 this is no pdf")
    added, found = tether("ingest", tmp_path), tether("search", "Orrin pier")
    for shown in (added.out, added.err, found.out):
        assert "]0;pwned" in shown
        assert all(character.isprintable() for character in shown.replace("\n", ""))
    title, text = found.out.splitlines()
    assert "]0;pwned" in title and "]0;pwned" in text


def test_an_answer_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    command = "\x1b]0;pwned\x07"
    text = f"Ola{command} built\nthe pier."
    chunk = Chunk("d:0-1", "d", 0, len(text), text, page=3)
    passage = Passage(1, chunk, f"Orrin{command}", f"pier{command}.html", 0.9)
    claim = Claim(text, (Citation(1, "d", 0, len(text), text),), 0.9, is_quotation=True)
    _print_answer(Answer("Who?", f"“{text}” [1]", (claim,), (passage,), "supported"))
    answer, empty, source, quote = capsys.readouterr().out.splitlines()
    assert answer == "“Ola ]0;pwned  built the pier.” [1]" and empty == ""
    assert source == "[1] Orrin ]0;pwned , p. 3  pier ]0;pwned .html"
    assert quote == "    Ola ]0;pwned built the pier."


def test_a_damaged_collection_is_listed_with_its_problem(tether: Run, folder: Path) -> None:
    tether("ingest", folder)
    tether("ingest", folder, "--collection", "broken")
    directory = Path(os.environ["TETHER_HOME"]) / "collections" / "broken"
    for leftover in directory.glob("truth.sqlite3-*"):
        leftover.unlink()
    (directory / "truth.sqlite3").write_bytes(b"garbage" * 1000)
    broken, sound = tether("collections").out.splitlines()
    assert broken.startswith("broken: ") and "truth.sqlite3" in broken
    assert "documents," not in broken
    assert sound.startswith("default: 2 documents")


def test_models_are_those_of_the_backend(tether: Run) -> None:
    def generator(*changes: str) -> dict[str, object]:
        flags = [word for change in changes for word in ("--set", f"generator.{change}")]
        encoder, generator, *_ = json.loads(tether(*flags, "models", "--json").out)
        assert (encoder["name"], encoder["device"]) == ("hashing", "cpu")
        return {name: generator[name] for name in ("name", "device", "backend")}

    torch_device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = {"name": "gemma-3-270m-transformers", "backend": "transformers"}
    assert generator("backend=transformers") == {**folder, "device": torch_device}
    assert generator("backend=transformers", "device=cuda") == {**folder, "device": "cuda"}
    gguf = {"name": "gemma-3-270m", "backend": "llama.cpp"}
    assert generator("backend=auto") == {**gguf, "device": "cpu"}
    assert generator("backend=llama.cpp", "gpu_layers=9") == {**gguf, "device": "gpu"}
    url = "http://127.0.0.1:8080/v1"
    assert generator("backend=auto", f"url={url}")["device"] == url
    assert "generator.url" in tether("--set", "generator.backend=openai", "models").error


def test_an_unknown_setting_suggests_the_nearest(tether: Run) -> None:
    result = tether("--set", "search.topk=3", "settings")
    assert result.code == 2
    assert "search.top_k" in result.error


def test_a_settings_file_that_is_missing(tether: Run, tmp_path: Path) -> None:
    assert "no settings file" in tether("--settings", tmp_path / "no.toml", "settings").error


def test_question_and_batch_exclude_each_other(tether: Run) -> None:
    assert tether("ask").code == 2
    assert tether("judge", "a claim alone").code == 2


def test_a_full_disk_is_one_line(tether: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("retrieval.store.list_collections", full)
    result = tether("collections")
    assert result.code == 1
    assert "No space left" in result.error


def test_an_interrupted_ingest_keeps_what_is_done(folder: Path) -> None:
    for i in range(300):
        (folder / f"{i:03}.txt").write_text(f"Document number {i} speaks of item {i}. " * 200)
    command = [sys.executable, "-m", "app.cli", *FAST, "ingest", str(folder)]
    root = Path(__file__).parent.parent

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        done = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.returncode == 130
    time.sleep(0.1)
    again = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True).stdout
    assert all(line.startswith("added") for line in done)
    assert again.count("unchanged ") >= 5
    assert again.count("unchanged ") + again.count("added ") == 302
