"""Separated values and json: every value is there, with its header and its place."""

import csv
import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest import tables
from ingest.errors import SourceError
from ingest.parsed import Parsed
from ingest.tables import parse_csv, parse_json, parse_jsonl, parse_tsv, table_lines


def places(parsed: Parsed) -> list[tuple[str, str]]:
    """Return (place, first line there) of each section."""
    return [(s.place, parsed.text[s.start :].split("\n")[0]) for s in parsed.sections]


def lines_of(rows: list[list[str]], *, records: bool = True) -> list[str]:
    return [line for _, line in table_lines(enumerate(rows, start=1), records=records)]


# --- Rows with their header ----------------------------------------------------------------------


def test_a_row_keeps_its_header_and_leaves_out_empty_cells() -> None:
    assert lines_of(
        [["姓名", "City", "Age"], ["张三", "", "30"], ["Ann", "Paris", "", "extra"]]
    ) == [
        "姓名 | City | Age",
        "姓名: 张三 | Age: 30",
        "姓名: Ann | City: Paris | extra",
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [["1", "2"], ["3", "4"]],
        [["Ann", "Paris"], ["Bob", "Rome"], ["Cid", "Paris"]],  # "Paris" comes again: a value
        [["ann@example.org", "Ann"], ["bob@example.org", "Bob"]],
        [["2024-01-05", "sold"], ["2024-01-06", "bought"]],
        [["only one row", "of words"]],
    ],
)
def test_a_first_row_of_values_is_no_header(rows: list[list[str]]) -> None:
    assert lines_of(rows) == [" | ".join(row) for row in rows]


def test_two_columns_of_words_in_a_document_need_evidence() -> None:
    labels = [["姓名", "张三"], ["城市", "北京"]]
    assert lines_of(labels, records=False) == ["姓名 | 张三", "城市 | 北京"]
    prices = [["Item", "Price"], ["Pear", "3.50"], ["Apple", "€ 4"]]
    assert lines_of(prices, records=False)[1:] == [
        *("Item: Pear | Price: 3.50", "Item: Apple | Price: € 4"),
    ]


def test_titles_above_a_header_and_a_second_table_below() -> None:
    rows = [
        (1, ["Annual report"]),
        (3, ["Region", "2023", "2024"]),
        (4, ["East", "10", "12"]),
        (8, ["产品", "销量"]),
        (9, ["苹果", "5"]),
        (12, ["合计", "梨"]),
    ]
    assert list(table_lines(rows, records=True)) == [
        (1, "Annual report"),
        (3, "Region | 2023 | 2024"),
        (4, "Region: East | 2023: 10 | 2024: 12"),
        (8, "产品 | 销量"),
        (9, "产品: 苹果 | 销量: 5"),
        (12, "产品: 合计 | 销量: 梨"),
    ]


def test_a_header_of_two_rows() -> None:
    rows = [["Region", "Sales", "Sales"], ["Region", "Q1", "Q2"], ["East", "1", "2"]]
    assert lines_of(rows)[2] == "Region: East | Sales Q1: 1 | Sales Q2: 2"


# --- Separated values ----------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_csv_dialects_and_encodings(delimiter: str, encoding: str) -> None:
    rows = [["姓名", "城市", "备注"], ["张三", "北京", "他说的是这个"], ["李四", "上海", "没有"]]
    text = "\r\n".join(delimiter.join(row) for row in rows)
    parsed = parse_csv("a.csv", text.encode(encoding))
    assert parsed.text.split("\n")[1] == "姓名: 张三 | 城市: 北京 | 备注: 他说的是这个"
    assert places(parsed) == [("rows 1-3", "姓名 | 城市 | 备注")]
    assert "encoding" in parsed.metadata


def test_csv_quoted_newlines_ragged_rows_and_excels_hint() -> None:
    source = 'sep=;\r\nName;Note\r\n"Ann; B.";"first\nsecond ""line"""\r\n\r\nBob\r\nCid;x;y\r\n'
    parsed = parse_csv("a.csv", source.encode())
    assert parsed.text.split("\n") == [
        *("Name | Note", 'Name: Ann; B. | Note: first second "line"'),
        *("Name: Bob", "Name: Cid | Note: x | y"),
    ]
    assert [place for place, _ in places(parsed)] == ["rows 2-6"]


def test_csv_places_hold_a_chunk_of_rows_each() -> None:
    rows = "".join(f"{number},{'x' * 90}\n" for number in range(2, 101))
    parsed = parse_csv("a.csv", f"Number,Text\n{rows}".encode())
    found = places(parsed)
    assert found[0] == ("rows 1-6", "Number | Text")
    assert found[1] == ("rows 7-11", "Number: 7 | Text: " + "x" * 90)
    assert found[-1][0].endswith("100")
    assert parse_csv("a.csv", b"a,b\n1,2\n").sections[0].place == "rows 1-2"
    assert parse_csv("a.csv", b"a,b\n").sections[0].place == "row 1"


def test_csv_quotation_mark_that_is_never_closed() -> None:
    rows = "".join(f'{number},"{number} inch\n' for number in range(2, 60))
    text = parse_csv("a.csv", f"Number,Size\n{rows}".encode()).text
    assert text.split("\n")[5] == "Number: 6 | Size: 6 inch"
    assert text.endswith("Number: 59 | Size: 59 inch")


def test_csv_field_of_millions_of_characters() -> None:
    parsed = parse_csv("a.csv", b"Name,Text\nAnn," + b"word " * 500_000)
    assert parsed.text.count("word") == 500_000


def test_csv_text_that_would_run_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_CHARACTERS", 10_000)
    header = ",".join(f"{'label' * 8}{number}" for number in range(100))
    source = header + "\n" + "\n".join([",".join("1" * 100)] * 20)
    with pytest.raises(SourceError, match=r"a\.csv: over .* split it"):
        parse_csv("a.csv", source.encode())


def test_tsv() -> None:
    parsed = parse_tsv("a.tsv", b"Name\tNote\nAnn\tone, two, three\n")
    assert parsed.text == "Name | Note\nName: Ann | Note: one, two, three"


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(
    table=st.lists(st.lists(CELL, min_size=1, max_size=5), min_size=1, max_size=20),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
)
@example([["a", 'b"'], ['"', "\r"], ["x\r\ny", ","]], ",")
@example([["\ufeff", "\u2028"], ["", "\x85"]], ";")
def test_csv_every_value_is_present(table: list[list[str]], delimiter: str) -> None:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(table)
    # Marked as UTF-8: a few strange letters alone do not show what encoding they are in.
    data = file.getvalue().encode("utf-8-sig")
    try:
        text = parse_csv("a.csv", data).text
    except SourceError as error:
        assert "encoding is unknown" in str(error)  # mere control characters
        return
    squeezed = "".join(text.split()).replace('"', "").replace("|", "")
    for cell in (cell for row in table for cell in row):
        wanted = "".join(cell.split()).replace('"', "").replace("|", "")
        assert wanted in squeezed


# --- Records -------------------------------------------------------------------------------------


def test_json_list_of_records() -> None:
    records = [
        {
            "name": "张三",
            "address": {"city": "北京", "zip": 100000},
            "tags": ["a", "b"],
        },
        {"nothing": None},
        {"name": "Ann", "paid": True, "price": 12.50, "items": [{"id": 1}, {"id": 2}]},
    ]
    source = json.dumps(records, ensure_ascii=False).replace("12.5", "12.50")
    parsed = parse_json("a.json", source.encode())
    assert parsed.text.split("\n\n") == [
        "name: 张三\naddress.city: 北京\naddress.zip: 100000\ntags: a, b",
        "name: Ann\npaid: true\nprice: 12.50\nitems.1.id: 1\nitems.2.id: 2",
    ]
    assert places(parsed) == [("entry 1", "name: 张三"), ("entry 3", "name: Ann")]


def test_json_object_with_lists_of_records() -> None:
    source = {"version": 2, "users": [{"name": "Ann"}, {"name": "Bob"}], "城市": [{"名": "北京"}]}
    parsed = parse_json("a.json", json.dumps(source).encode())
    assert parsed.text.split("\n\n") == [
        *("version: 2", "users", "name: Ann", "name: Bob", "城市", "名: 北京"),
    ]
    assert [(s.heading, s.place) for s in parsed.sections] == [
        *(("", ""), ("users", ""), ("users", "entry 1"), ("users", "entry 2")),
        *(("城市", ""), ("城市", "entry 1")),
    ]
    assert parsed.title == ""


@pytest.mark.parametrize("source", ["[]", "{}", "null", '""', "[[], {}]"])
def test_json_without_values_has_no_text(source: str) -> None:
    assert parse_json("a.json", source.encode()).text == ""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[1, 2", "not valid json"),
        ('[{"a": 1} {"b": 2}]', "not valid json"),
        ("[1] 2", "not valid json"),
        ('{"a": 1', "not valid json"),
        ("", "not valid json"),
    ],
)
def test_json_that_cannot_be_read(source: str, reason: str) -> None:
    with pytest.raises(SourceError, match=rf"a\.json: {reason}"):
        parse_json("a.json", source.encode())


def test_json_number_of_many_digits() -> None:
    assert parse_json("a.json", b"[" + b"7" * 10_000 + b"]").text == "7" * 10_000


def test_jsonl_entries_are_numbered_by_lines() -> None:
    parsed = parse_jsonl("a.jsonl", '{"问": "水？"}\n\n{"a": {"b": 1}}\r\n'.encode())
    assert parsed.text == "问: 水？\n\na.b: 1"
    assert [s.place for s in parsed.sections] == ["entry 1", "entry 3"]
    assert "bad_lines" not in parsed.metadata


def test_jsonl_bad_lines_are_kept_and_reported() -> None:
    source = b'{"a": 1}\n{"a": 2}\n{"a": broken\n{"a": 4}\n' + b"[" * 5000
    parsed = parse_jsonl("a.jsonl", source)
    assert parsed.metadata["bad_lines"] == "2 of 5: 3 5"
    assert '{"a": broken' in parsed.text


def test_jsonl_of_mostly_bad_lines_is_refused() -> None:
    with pytest.raises(SourceError, match="2 of 3 lines are no json, the first is line 1"):
        parse_jsonl("a.jsonl", b"nothing\nhere\n{}\n")
