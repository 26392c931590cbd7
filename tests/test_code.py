"""Source code and notebooks: the text, the lines and the cells that citations name."""

import json
from typing import Any

import pytest

from ingest.documents import Document
from ingest.errors import SourceError
from ingest.loaders import Entry, is_supported, load_entry


def loaded(name: str, source: str) -> Document:
    return load_entry(Entry("/" + name, name, source.encode()))


def test_sections_follow_the_blocks() -> None:
    body = "".join(f"        x{n} = {n}  # 说明\n" for n in range(30))
    source = (
        f'"""Module."""\n\nclass Store:\n    def add(self):\n{body}\n    def get(self):\n{body}\n'
    )
    source += f"\ndef main():\n{body}"
    document = loaded("store.py", source)
    assert document.text == source
    assert (document.title, document.media_type) == ("store", "text/x-python")
    lines = source.split("\n")
    for section in document.sections:
        first, last = map(int, section.place.removeprefix("lines ").split("-"))
        shown = "\n".join(lines[first - 1 : last])
        assert source.startswith(shown, section.start)
        assert len(shown) <= 1_000
    headings = [section.heading for section in document.sections]
    assert headings == sorted(set(headings), key=headings.index)  # none comes back
    assert {"Store > get", "main"} <= set(headings)
    assert document.sections[-1].place.endswith(f"-{source.count(chr(10))}")


@pytest.mark.parametrize(
    ("name", "line", "heading"),
    [
        ("a.go", "func (s *Store) Add(x int) {", "Add"),
        ("a.rs", "pub(crate) async fn add(x: i32) {", "add"),
        ("a.ts", "export default class Store {", "Store"),
        ("a.java", "public final class Store {", "Store"),
        ("a.rb", "module Store", "Store"),
    ],
)
def test_definitions_in_many_languages(name: str, line: str, heading: str) -> None:
    assert loaded(name, line + "\n  body\n").sections[0].heading == heading


def test_one_endless_line_and_no_blank_lines() -> None:
    assert loaded("min.js", "x=1;" * 50_000).sections[0].place == "lines 1-1"
    log = "".join(f"2026-01-01 12:00:00 event {n}\n" for n in range(1_000))
    sections = loaded("a.log", log).sections
    assert 30 <= len(sections) <= 45
    assert all(log[section.start - 1] == "\n" for section in sections[1:])


def test_names_without_a_suffix() -> None:
    assert loaded("Makefile", "all:\n\techo ok\n").text == "all:\n\techo ok\n"
    assert loaded("run", "#!/bin/sh\necho ok\n").media_type == "text/plain"
    assert is_supported("LICENSE")
    assert not is_supported("core")
    with pytest.raises(SourceError, match="unsupported format"):
        loaded("core", "words")


def notebook(cells: list[dict[str, Any]], **more: object) -> str:
    return json.dumps({"nbformat": 4, "metadata": {}, "cells": cells, **more})


def test_notebook_cells() -> None:
    source = notebook(
        [
            {"cell_type": "markdown", "source": ["# 分析\n", "Some words.\n", "```\n# code\n```"]},
            {
                "cell_type": "code",
                "source": "total = 1 + 1\ntotal",
                "outputs": [
                    {"output_type": "stream", "text": ["line one\n", "line two\n"]},
                    {
                        "output_type": "execute_result",
                        "data": {"text/plain": "2", "image/png": "x"},
                    },
                    {"output_type": "error", "ename": "ValueError", "evalue": "bad"},
                    {"output_type": "stream", "text": "y" * 10_000},
                ],
            },
            {"cell_type": "markdown", "source": "## End\nDone."},
        ]
    )
    document = loaded("a.ipynb", source)
    assert document.title == "分析"
    assert document.text.split("\n\n") == [
        "分析",
        "Some words.\n```\n# code\n```",
        "total = 1 + 1\ntotal",
        "line one\nline two",
        "2",
        "ValueError: bad",
        "y" * 2_000 + " […]",
        "End",
        "Done.",
    ]
    assert [(s.place, s.heading) for s in document.sections] == [
        ("cell 1", "分析"),
        ("cell 2", "分析"),
        ("cell 3", "分析 > End"),
    ]


def test_notebook_of_format_3() -> None:
    cells = [
        {"cell_type": "heading", "level": 2, "source": "Old"},
        {"cell_type": "code", "input": ["print(1)"], "outputs": [{"text": ["1\n"]}]},
    ]
    source = json.dumps({"nbformat": 3, "worksheets": [{"cells": cells}]})
    assert loaded("a.ipynb", source).text == "Old\n\nprint(1)\n\n1"


@pytest.mark.parametrize(
    "source", ["{", "[]", "{}", '{"cells": 3}', '{"cells": [1]}', "[" * 99_999]
)
def test_notebooks_that_cannot_be_read(source: str) -> None:
    with pytest.raises(SourceError, match=r"not a readable notebook.*; save it again"):
        loaded("a.ipynb", source)
