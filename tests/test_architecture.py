"""The law of the house, read from the source with `ast`: imports only point left."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["ingest", "retrieval", "model", "eval", "app"]
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
LIGHT = {"click", "app", "ingest"}  # what the top of app/cli.py may import beside Python's own
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def imported(tree: ast.AST) -> set[str]:
    """Return every module imported anywhere: nested, lazy and TYPE_CHECKING imports too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def top(tree: ast.Module) -> ast.Module:
    """Return the part of a module that runs on import and holds its plain imports."""
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return ast.Module(list(imports), [])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_point_left(path: Path) -> None:
    place = FOLDERS.index(path.relative_to(ROOT).parts[0])
    roots = {name.split(".")[0] for name in imported(ast.parse(path.read_text("utf-8")))}
    assert not roots & {*FOLDERS[place + 1 :], "benchmarks", "tests", "docs", ""}


def test_the_reader_sees_every_kind_of_import() -> None:
    tree = ast.parse(
        "import a.b\nif TYPE_CHECKING:\n from c import d\ndef f():\n import e\n from . import g"
    )
    assert imported(tree) == {"a.b", "c", "e", "."}
    assert imported(top(tree)) == {"a.b"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_can_unpickle(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert not {name.split(".")[0] for name in imported(tree)} & PICKLES
    loads = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert "torch.load" not in {ast.unparse(node) for node in loads}
    assert "allow_pickle" not in path.read_text("utf-8")


def test_no_folder_for_leftovers() -> None:
    names = {part for path in FILES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not names & {"core", "utils", "util", "common", "helpers", "misc", "types"}


def test_the_command_line_imports_nothing_heavy_at_the_top() -> None:
    tree = top(ast.parse((ROOT / "app" / "cli.py").read_text("utf-8")))
    roots = {name.split(".")[0] for name in imported(tree)}
    assert roots <= LIGHT | set(sys.stdlib_module_names)
