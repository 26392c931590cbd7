"""Source code, configuration and logs as they are, and Jupyter notebooks cell by cell.

The text of a source file is the source itself; its sections follow its blocks, so that a citation
names lines and the function or class around them. Knows nothing of any language's grammar: a
definition is a line that looks like one.
"""

import json
import re
from collections.abc import Iterator
from io import StringIO
from itertools import accumulate
from typing import Any

from ingest.documents import Section
from ingest.encodings import decode
from ingest.errors import SourceError
from ingest.parsed import Parsed, Parser, TextBuilder, one_line

_SECTION_SIZE = 1_000  # characters
_MAX_OUTPUT = 2_000  # characters kept of each output of a notebook's cell

_DEFINITION = re.compile(
    r"(?P<indent>[ \t]*)(?:(?:export|default|pub(?:\([a-z]+\))?|public|private|protected|internal|"
    r"static|final|abstract|async|sealed|override|open|data|case|unsafe|inline|virtual|partial)\s+)*"
    r"(?:def|class|function|func|fun|fn|interface|struct|enum|trait|impl|module|namespace|object|"
    r"record|protocol|extension|sub)\s+(?:\([^()]{0,100}\)\s*)?(?P<name>[A-Za-z_$][\w$]{0,100})"
)


def parse_source(uri: str, data: bytes) -> Parsed:
    """Return a source file as it is, in sections of whole blocks of lines."""
    text, encoding = decode(uri, data)
    return Parsed(text, sections=tuple(_sections(text)), metadata={"encoding": encoding})


def _sections(text: str) -> Iterator[Section]:
    """Yield sections of about `_SECTION_SIZE` characters, under the definition they stand in."""
    lines = StringIO(text, newline="\n").readlines()
    starts = [0, *accumulate(map(len, lines))]
    outer: list[tuple[int, str]] = []  # indent and name of the definitions around a line
    heading, first = "", 0
    for number, line in enumerate(lines):
        definition = _DEFINITION.match(line)
        opens = definition is not None or (number > 0 and not lines[number - 1].strip())
        size = starts[number] - starts[first]
        if number > first and _is_full(size, len(line), opens and bool(line.strip())):
            yield Section(starts[first], heading, place=f"lines {first + 1}-{number}")
            first = number
        if line.strip() and (opens or number == first):
            indent = len(line) - len(line.lstrip())
            while outer and outer[-1][0] >= indent:
                outer.pop()
            if definition is not None:
                outer.append((indent, definition["name"]))
        if number == first:
            heading = " > ".join(name for _, name in outer)
    if lines:
        yield Section(starts[first], heading, place=f"lines {first + 1}-{len(lines)}")


def _is_full(size: int, line_length: int, opens: bool) -> bool:
    """Return whether a section ends before a line, rather where a block opens than within one."""
    return size + line_length > _SECTION_SIZE or (opens and size > 0.7 * _SECTION_SIZE)


# --- Notebooks -----------------------------------------------------------------------------------

_FENCE = re.compile(r"\s*(```|~~~)")
_HEADING = re.compile(r"(#{1,6})\s+(.*?)[\s#]*$")


def parse_notebook(uri: str, data: bytes) -> Parsed:
    """Return the cells of a Jupyter notebook of format 3 or 4, with their outputs in text form."""
    source, encoding = decode(uri, data)
    try:
        notebook = json.loads(source)
        cells = list(_cells(notebook))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        reason = type(error).__name__
        raise SourceError(f"{uri}: not a readable notebook ({reason}); save it again") from None
    builder = TextBuilder()
    for number, cell in enumerate(cells, start=1):
        builder.at(place=f"cell {number}")
        _add_cell(cell, builder)
    return builder.parsed("", {"encoding": encoding, "cells": str(len(cells))})


def _cells(notebook: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - whatever JSON holds
    for sheet in notebook.get("worksheets", [notebook]):  # format 3, or 4
        for cell in sheet["cells"]:
            yield dict(cell)


def _add_cell(cell: dict[str, Any], builder: TextBuilder) -> None:
    source = _joined(cell.get("source", cell.get("input")))
    kind = cell.get("cell_type")
    if kind == "markdown":
        _add_markdown(source, builder)
    elif kind == "heading":  # format 3
        level = cell.get("level")
        builder.add(one_line(source), level=level if isinstance(level, int) else 1)
    else:
        builder.add(source)
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else []:
        if isinstance(output, dict):
            text = _output(output)
            builder.add(text if len(text) <= _MAX_OUTPUT else text[:_MAX_OUTPUT] + " […]")


def _add_markdown(source: str, builder: TextBuilder) -> None:
    """Add a cell's paragraphs as they are and its headings as headings."""
    lines: list[str] = []
    fenced = False
    for line in source.splitlines():
        fenced ^= _FENCE.match(line) is not None
        heading = None if fenced else _HEADING.match(line)
        if heading:
            builder.add("\n".join(lines))
            lines.clear()
            builder.add(heading[2], level=len(heading[1]))
        else:
            lines.append(line)
    builder.add("\n".join(lines))


def _output(output: dict[str, Any]) -> str:
    """Return what an output shows as text: printed lines, a result, or an error's last line."""
    if "ename" in output:
        return f"{output['ename']}: {output.get('evalue', '')}"
    shown = output.get("data")
    plain = shown.get("text/plain") if isinstance(shown, dict) else None
    return _joined(output.get("text", plain))


def _joined(lines: Any) -> str:  # noqa: ANN401 - a string, a list of strings, or a mistake
    if isinstance(lines, list):
        return "".join(line for line in lines if isinstance(line, str))
    return lines if isinstance(lines, str) else ""


# --- The registry --------------------------------------------------------------------------------

_LANGUAGES = """
.py .pyi python|.js .mjs .cjs .jsx javascript|.ts .mts .tsx typescript|.java java|.c .h c|.go go
.cpp .cc .cxx .hpp .hh .hxx c++|.cs csharp|.rs rust|.rb ruby|.php php|.swift swift|.kt .kts kotlin
.scala scala|.sh .bash .zsh sh|.ps1 powershell|.bat .cmd batch|.sql sql|.r r|.jl julia|.lua lua
.pl .pm perl|.m matlab|.mm objective-c|.dart dart|.ex .exs elixir|.erl erlang|.hs haskell|.vb vb
.clj clojure|.ml ocaml|.f90 fortran|.asm assembler|.cu cuda|.proto protobuf|.graphql graphql
.css css|.scss .less scss|.vue vue|.svelte svelte|.yaml .yml yaml|.toml toml|.xml .xsd .xsl xml
.ini .cfg .conf .properties ini|.tex .bib tex|.rst rst|.org org|.adoc asciidoc|.log log
.diff .patch diff|.gradle .groovy groovy|.tf terraform|.cmake cmake|.mk makefile|.srt .vtt subtitles
"""
FORMATS: dict[str, tuple[str, Parser]] = {
    suffix: ("text/x-" + group.split()[-1], parse_source)
    for group in re.split(r"[|\n]", _LANGUAGES.strip())
    for suffix in group.split()[:-1]
}
FORMATS[".ipynb"] = ("application/x-ipynb+json", parse_notebook)

# Files without a suffix that are text by custom, in lower case.
NAMES = frozenset(
    "authors brewfile changelog changes codeowners contributing contributors copying copyright "
    "credits dockerfile gemfile history install jenkinsfile justfile licence license maintainers "
    "makefile news notice pipfile procfile rakefile readme thanks todo vagrantfile version".split()
)
