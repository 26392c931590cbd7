"""Office documents, made on the spot by the writing side of their libraries."""

import datetime
import functools
import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import docx
import openpyxl
import pptx
import pytest
from odf import draw, presentation, style, table, text
from odf.opendocument import (
    OpenDocumentPresentation,
    OpenDocumentSpreadsheet,
    OpenDocumentText,
)
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from ingest.errors import SourceError
from ingest.office import FORMATS, require_bounded_zip
from ingest.parsed import Parsed


def saved(file: Any) -> bytes:  # noqa: ANN401 - whatever has `save`
    buffer = io.BytesIO()
    file.save(buffer)
    return buffer.getvalue()


def parse(suffix: str, data: bytes) -> Parsed:
    return FORMATS[suffix][1](f"a{suffix}", data)


def outline(parsed: Parsed) -> list[tuple[str, str, str]]:
    """Return (place, heading, first line there) of each section."""
    return [(s.place, s.heading, parsed.text[s.start :].split("\n")[0]) for s in parsed.sections]


def repacked(data: bytes, **parts: bytes | None) -> bytes:
    """Return a container in which parts whose name ends like a key are replaced, or left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", 8) as new:
        for entry in old.infolist():
            content: bytes | None = old.read(entry)
            for name, replacement in parts.items():
                if entry.filename.endswith(f"{name}.xml"):
                    content = replacement
            if content is not None:
                new.writestr(entry.filename, content)
    return buffer.getvalue()


# --- Word ----------------------------------------------------------------------------------------


def test_docx_table_rows_keep_their_header() -> None:
    word = docx.Document()
    grid = word.add_table(rows=3, cols=3)
    rows = [["产品", "Price", "Stock"], ["苹果", "3.50", ""], ["Pear", "4", "12"]]
    for row, texts in zip(grid.rows, rows, strict=True):
        for cell, content in zip(row.cells, texts, strict=True):
            cell.text = content
    grid.rows[1].cells[1].merge(grid.rows[1].cells[2])
    assert parse(".docx", saved(word)).text.split("\n") == [
        *("产品 | Price | Stock", "产品: 苹果 | Price: 3.50", "产品: Pear | Price: 4 | Stock: 12"),
    ]


WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
WRAPPED = f"""<w:body xmlns:w="{WORD}">
<w:sdt><w:sdtPr/><w:sdtContent><w:p><w:r><w:t>in a control</w:t></w:r></w:p></w:sdtContent></w:sdt>
<w:p><w:r><w:t>kept, </w:t></w:r><w:ins><w:r><w:t>inserted</w:t></w:r></w:ins></w:p>
<w:p><w:r><w:pict><w:txbxContent><w:p><w:r><w:t>文本框</w:t></w:r></w:p></w:txbxContent></w:pict>
</w:r></w:p></w:body>"""


def test_docx_controls_insertions_boxes_and_margins() -> None:
    word = docx.Document()
    word.sections[0].header.paragraphs[0].text = "机密 Confidential"
    word.sections[0].footer.paragraphs[0].text = "7"
    body = word.element.body
    for child in reversed(docx.oxml.parse_xml(WRAPPED)):
        body.insert(0, child)
    assert parse(".docx", saved(word)).text.split("\n\n") == [
        *("in a control", "kept, inserted", "文本框", "机密 Confidential"),
    ]


# --- PowerPoint ----------------------------------------------------------------------------------


def slides() -> bytes:
    show = pptx.Presentation()
    first = show.slides.add_slide(show.slide_layouts[1])
    first.shapes.title.text = "季度报告"
    first.placeholders[1].text_frame.text = "Revenue grew"
    first.placeholders[1].text_frame.add_paragraph().text = "成本下降"
    first.notes_slide.notes_text_frame.text = "Speak slowly."
    second = show.slides.add_slide(show.slide_layouts[6])
    box = second.shapes.add_textbox(0, 0, Inches(1), Inches(1))
    box.text_frame.text = "free\vtext"
    group = second.shapes.add_group_shape()
    inner = group.shapes.add_group_shape()
    inner.shapes.add_textbox(0, 0, Inches(1), Inches(1)).text_frame.text = "在组里"
    third = show.slides.add_slide(show.slide_layouts[5])
    third.shapes.title.text = "Numbers"
    grid = third.shapes.add_table(2, 2, 0, 0, Inches(4), Inches(2)).table
    for (row, column), content in {
        **{(0, 0): "Name", (0, 1): "Size", (1, 0): "甲", (1, 1): "3"},
    }.items():
        grid.cell(row, column).text = content
    chart = CategoryChartData()
    chart.categories = ["East", "West"]
    chart.add_series("Sales", (1.5, 2))
    third.shapes.add_chart(XL_CHART_TYPE.PIE, 0, 0, Inches(2), Inches(2), chart)
    return saved(show)


def test_pptx_slides() -> None:
    parsed = parse(".pptx", slides())
    assert outline(parsed) == [
        ("slide 1", "季度报告", "季度报告"),
        ("slide 2", "Slide 2", "Slide 2"),
        ("slide 3", "Numbers", "Numbers"),
    ]
    first, second, third = (parsed.text[s.start :] for s in parsed.sections)
    assert first.startswith("季度报告\n\n- Revenue grew\n- 成本下降\n\nSpeak slowly.\n\nSlide 2")
    assert second.startswith("Slide 2\n\nfree\ntext\n\n在组里\n\nNumbers")
    assert "Name | Size\nName: 甲 | Size: 3\n" in third
    assert "East | Sales: 1.5\nWest | Sales: 2" in third
    assert parsed.title == "季度报告"
    assert parsed.metadata == {"slides": "3"}


# --- Excel ---------------------------------------------------------------------------------------


def test_xlsx_sheets_places_and_values() -> None:
    book = openpyxl.Workbook()
    book.properties.title = "台账"
    sales = book.active
    sales.title = "销售 2024"
    sales.append(["Date", "Product", "Price", "Share", "Paid", "Sum", "Time", "Took"])
    day = datetime.datetime(2024, 3, 5)
    sales.append([day, "苹果", 12.000000001, 0.125, True, 0.1 + 0.2, day.replace(hour=9)])
    sales["H2"] = datetime.timedelta(days=1, hours=2, minutes=5)
    sales.append([day, "Pear", 1234.5, 0.5, False, 10**15, datetime.time(8, 30)])
    for row in sales["C2:D3"]:
        row[0].number_format, row[1].number_format = "#,##0.00", "0.0%"
    book.create_sheet("Empty")
    book.create_sheet("Notes")["B40"] = "far\naway"
    parsed = parse(".xlsx", saved(book))
    assert parsed.text.split("\n\n") == [
        "销售 2024",
        "Date | Product | Price | Share | Paid | Sum | Time | Took\n"
        "Date: 2024-03-05 | Product: 苹果 | Price: 12.00 | Share: 12.5% | Paid: TRUE | Sum: 0.3 | "
        "Time: 2024-03-05 09:00:00 | Took: 26:05:00\n"
        "Date: 2024-03-05 | Product: Pear | Price: 1234.50 | Share: 50.0% | Paid: FALSE | "
        "Sum: 1000000000000000 | Time: 08:30:00",
        "Notes",
        "far away",
    ]
    assert outline(parsed) == [
        ("sheet 销售 2024 rows 1-3", "销售 2024", "销售 2024"),
        ("sheet Notes row 40", "Notes", "Notes"),
    ]
    assert (parsed.title, parsed.metadata) == ("台账", {"sheets": "3"})


def test_xlsx_merged_cells() -> None:
    sheet = (book := openpyxl.Workbook()).active
    for row in [
        ["Report of the year"],
        ["Region", "Sales", None, "Cost", None],
        [None, "Q1", "Q2", "Q1", "Q2"],
        ["华东", 1, 2, 3, 4],
        [None, 5, 6, 7, 8],
    ]:
        sheet.append(row)
    for area in ["A1:E1", "A2:A3", "B2:C2", "D2:E2", "A4:A5"]:
        sheet.merge_cells(area)
    lines = parse(".xlsx", saved(book)).text.split("\n")
    assert lines[2] == "Report of the year"
    assert lines[-2:] == [
        "Region: 华东 | Sales Q1: 1 | Sales Q2: 2 | Cost Q1: 3 | Cost Q2: 4",
        "Region: 华东 | Sales Q1: 5 | Sales Q2: 6 | Cost Q1: 7 | Cost Q2: 8",
    ]


def test_xlsx_formulas_without_a_cached_value() -> None:
    sheet = (book := openpyxl.Workbook()).active
    sheet.append(["Item", "Sum"])
    sheet.append(["x", "=1+2"])
    assert parse(".xlsx", saved(book)).text.endswith("Item: x | Sum: =1+2")


SHEET = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">{}<sheetData>'
    '<row r="1"><c r="A1"><v>1</v></c><c r="B1"><f>1+1</f><v>2</v></c></row>{}</sheetData>'
    "</worksheet>"
)


@pytest.mark.parametrize("dimension", ["A1", "A1:XFD1048576", "A1:B1"])
def test_xlsx_wrong_dimension_records(dimension: str) -> None:
    rows = '<row r="999999999999"><c r="B999999999999"><v>77</v></c></row>'
    rows = rows.replace("B999999999999", "B9") + '<row r="1048576"><c><v>88</v></c></row>'
    source = SHEET.format(f'<dimension ref="{dimension}"/>', rows).encode()
    parsed = parse(".xlsx", repacked(saved(openpyxl.Workbook()), sheet1=source))
    assert parsed.text.split("\n") == ["Sheet", "", "1 | 2", "77", "88"]


# --- OpenDocument --------------------------------------------------------------------------------


def test_odt_blocks() -> None:
    file = OpenDocumentText()
    automatic = style.Style(name="P1", family="paragraph", parentstylename="Title")
    file.automaticstyles.addElement(automatic)
    file.text.addElement(text.P(stylename=automatic, text="The 手册"))
    file.text.addElement(text.H(outlinelevel=1, text="安装"))
    paragraph = text.P(text="A")
    paragraph.addElement(text.S(c=2))
    paragraph.addElement(text.Span(text="spanned word"))
    note = text.Note(noteclass="footnote")
    note.addElement(text.NoteCitation(text="1"))
    body = text.NoteBody()
    body.addElement(text.P(text="脚注"))
    note.addElement(body)
    paragraph.addElement(note)
    file.text.addElement(paragraph)
    items = text.List()
    for content in ("one", "two"):
        item = text.ListItem()
        item.addElement(text.P(text=content))
        items.addElement(item)
    file.text.addElement(items)
    file.text.addElement(grid([["姓名", "City", "Age"], ["张三", "Paris", "30"]]))
    parsed = parse(".odt", saved(file))
    assert parsed.text.split("\n\n") == [
        *("The 手册", "安装", "A  spanned word [脚注]", "- one\n- two"),
        "姓名 | City | Age\n姓名: 张三 | City: Paris | Age: 30",
    ]
    assert [s.heading for s in parsed.sections] == ["The 手册", "The 手册 > 安装"]
    assert parsed.title == "The 手册"


def grid(rows: list[list[str]], name: str = "Table") -> Any:  # noqa: ANN401 - from odf
    element = table.Table(name=name)
    for texts in rows:
        row = table.TableRow()
        for content in texts:
            cell = table.TableCell()
            if content:
                cell.addElement(text.P(text=content))
            row.addElement(cell)
        element.addElement(row)
    return element


def test_ods_sheets_with_repeated_and_merged_cells() -> None:
    file = OpenDocumentSpreadsheet()
    sheet = grid([["Region", "Date"], ["East", ""], ["", "b"]], "销售")
    rows = sheet.getElementsByType(table.TableRow)
    rows[1].childNodes[0].setAttribute("numberrowsspanned", 2)
    date = table.TableCell(valuetype="date", datevalue="2024-03-05T00:00:00")
    date.addElement(text.P(text="3/5/24"))
    rows[1].removeChild(rows[1].childNodes[1])
    rows[1].addElement(date)
    rows[2].addElement(table.TableCell(numbercolumnsrepeated=16382))
    gap = table.TableRow(numberrowsrepeated=1_000_000)
    gap.addElement(table.TableCell(numbercolumnsrepeated=16384))
    sheet.addElement(gap)
    last = table.TableRow()
    cell = table.TableCell()
    cell.addElement(text.P(text="底部"))
    last.addElement(cell)
    sheet.addElement(last)
    file.spreadsheet.addElement(sheet)
    file.spreadsheet.addElement(grid([["Other", "Sheet"], ["1", "2"]], "Two"))
    parsed = parse(".ods", saved(file))
    assert parsed.text.split("\n") == [
        *("销售", "", "Region | Date", "Region: East | Date: 2024-03-05"),
        *("Region: East | Date: b", "Region: 底部", "", "Two", ""),
        *("Other | Sheet", "Other: 1 | Sheet: 2"),
    ]
    assert [s.place for s in parsed.sections] == ["sheet 销售 rows 1-1000004", "sheet Two rows 1-2"]


def test_odp_slides() -> None:
    file = OpenDocumentPresentation()
    layout = style.PageLayout(name="L")
    file.automaticstyles.addElement(layout)
    master = style.MasterPage(name="M", pagelayoutname=layout)
    file.masterstyles.addElement(master)
    for title, body in [("第一页", "Body one"), ("", "正文")]:
        page = draw.Page(masterpagename=master)
        for content, kind in [(title, "title"), (body, "subtitle")]:
            frame = draw.Frame(width="1cm", height="1cm")
            frame.setAttribute("class", kind)
            box = draw.TextBox()
            box.addElement(text.P(text=content))
            frame.addElement(box)
            page.addElement(frame)
        notes = presentation.Notes()
        note = draw.Frame(width="1cm", height="1cm")
        box = draw.TextBox()
        box.addElement(text.P(text=f"note on {body}"))
        note.addElement(box)
        notes.addElement(note)
        page.addElement(notes)
        file.presentation.addElement(page)
    parsed = parse(".odp", saved(file))
    assert outline(parsed) == [("slide 1", "第一页", "第一页"), ("slide 2", "Slide 2", "Slide 2")]
    assert parsed.text.split("\n\n") == [
        *("第一页", "Body one", "note on Body one", "Slide 2", "正文", "note on 正文"),
    ]


# --- Rich text -----------------------------------------------------------------------------------

RTF = r"""{\rtf1\ansi\ansicpg936\deff0{\fonttbl{\f0\fnil\fcharset134 \'cb\'ce\'cc\'e5;}
{\f1\fswiss\fcharset0 Arial;}{\f2\fnil\fcharset136 x;}}
{\stylesheet{\s0 Normal;}{\s1\outlinelevel0 heading 1;}{\s2 \'b1\'ea\'cc\'e2 2;}}
{\info{\title \'ca\'d6\'b2\'e1}{\author nobody}}{\*\generator x;}
\pard\s1 \'b0\'b2\'d7\'b0\par
\pard\f0 \'d6\'d0\'ce\'c4 and {\f1 caf\'e9}, {\f2\'a4\'a4\'a4\'e5}\'81@\par
\pard\s2 \uc1\u26631?\u39064?\par
\pard\uc2 \u20013\'d6\'d0\uc1\u-10179?\u-8704?{\footnote\pard \u27880?}.\par
{\listtext\'b7\tab}item one\par{\listtext 2.}item two\par
\trowd\cellx1\cellx2\pard\intbl Name\cell Size\cell City\cell\row
\trowd\cellx1\cellx2\pard\intbl \'bc\'d7\cell 3\cell{\b Par\par is}\cell\row
\pard{\field{\*\fldinst HYPERLINK "http://x"}{\fldrslt link}}\{x\}\line next{\pict\bin5 }}}{}\par}
"""


def test_rtf_code_pages_headings_tables() -> None:
    data = RTF.encode("ascii").replace(b"\\bin5 }}}{}", b"\\bin5 }}}{\\}")
    parsed = parse(".rtf", data)
    assert parsed.text.split("\n\n") == [
        "安装",
        "中文 and café, 中文" + b"\x81@".decode("gb18030"),
        "标题",
        "中\U0001f600 [注].",
        "- item one\n- item two",
        "Name | Size | City\nName: 甲 | Size: 3 | City: Par is",
        "link{x}\nnext",
    ]
    assert [s.heading for s in parsed.sections] == ["安装", "安装 > 标题"]
    assert parsed.title == "安装"


def test_rtf_unescaped_bytes_and_a_font_that_names_no_code_page() -> None:
    head = rb"{\rtf1\ansi\ansicpg936{\fonttbl{\f0\fcharset0 Arial;}}\f0 "
    assert parse(".rtf", head + "直接写入的中文".encode("gbk") + rb"\par}").text == "直接写入的中文"
    head = head.replace(b"936", b"950")
    assert parse(".rtf", head + "繁體中文".encode("big5") + b"}").text == "繁體中文"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not rtf", "not a readable .rtf"),
        (RTF.encode()[:600], "cut off"),
        (b"{\\rtf1 " + b"{" * 100_000, "nested too deeply"),
        (b"{\\rtf1\\ansi\\ansicpg65001 " + b"\x81" * 100 + b"}", "cannot be decoded"),
    ],
)
def test_rtf_that_cannot_be_read(data: bytes, reason: str) -> None:
    with pytest.raises(SourceError, match=rf"a\.rtf: .*{reason}.*; save it"):
        parse(".rtf", data)


# --- Bad containers ------------------------------------------------------------------------------


def containers() -> dict[str, bytes]:
    document = OpenDocumentText()
    document.text.addElement(text.P(text="x"))
    sheets, shown = OpenDocumentSpreadsheet(), OpenDocumentPresentation()
    book = openpyxl.Workbook()
    return {
        ".docx": saved(docx.Document()),
        ".pptx": slides(),
        ".xlsx": saved(book),
        ".odt": saved(document),
        ".ods": saved(sheets),
        ".odp": saved(shown),
    }


CONTAINERS = containers()
MAIN_PART = {".docx": "document", ".pptx": "slide1", ".xlsx": "sheet1"}
LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha">'
    + b"".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">'.encode() for n in range(12))
    + b"]><x>&m;</x>"
)


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda data, part: data[: len(data) // 2],
        lambda data, part: data[:-30],
        lambda data, part: b"PK\x03\x04 no container",
        lambda data, part: b"",
        lambda data, part: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
        lambda data, part: repacked(data, **{part: None}),
        lambda data, part: repacked(data, **{part: b"<x"}),
        lambda data, part: repacked(data, **{part: b"<x>" * 100_000}),
        lambda data, part: repacked(data, **{part: LAUGHS}),
        lambda data, part: data.replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
        ),
    ],
    ids="half tail junk empty ole missing broken deep laughs encrypted".split(),
)
def test_a_bad_container_is_refused(suffix: str, spoil: Callable[[bytes, str], bytes]) -> None:
    data = spoil(CONTAINERS[suffix], MAIN_PART.get(suffix, "content"))
    try:
        parsed = parse(suffix, data)
    except SourceError as error:
        message = str(error)
        assert message.startswith(f"a{suffix}: ")
        assert "; save it" in message
        assert "\n" not in message
    else:  # a library may read what is left of a container that lacks a part
        assert "ha" * 100 not in parsed.text


def test_an_encrypted_open_document_is_refused() -> None:
    manifest = b'<manifest><file-entry><encryption-data checksum="x"/></file-entry></manifest>'
    with pytest.raises(SourceError, match="protected by a password"):
        parse(".odt", repacked(CONTAINERS[".odt"], manifest=manifest))


@functools.cache
def bomb(megabytes: int, name: str = "xl/worksheets/sheet1.xml") -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", 8, compresslevel=1) as archive,
        archive.open(name, "w") as file,
    ):
        for _ in range(megabytes):
            file.write(b" " * (1 << 20))
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_bomb_is_refused(suffix: str) -> None:
    with pytest.raises(SourceError, match=r"unpacks to over \d+ MB; split it"):
        parse(suffix, bomb(520))


def test_a_bomb_whose_directory_lies_is_refused() -> None:
    data = bomb(3, "picture.png")
    require_bounded_zip("a.zip", data, limit=3 << 20)
    with pytest.raises(SourceError, match="unpacks to over 2 MB; split"):
        require_bounded_zip("a.zip", data, limit=2 << 20)
    size = struct.pack("<I", 3 << 20)
    assert data.count(size) == 2  # in the directory and before the entry
    with pytest.raises(SourceError, match=r"a\.zip: cannot be unpacked \(BadZipFile\); save"):
        require_bounded_zip("a.zip", data.replace(size, struct.pack("<I", 100)), limit=2 << 20)


def test_a_container_of_very_many_files_is_refused() -> None:
    with pytest.raises(SourceError, match="holds too many files; split"):
        parse(".xlsx", CONTAINERS[".xlsx"] + b"PK\x01\x02" * 200_000)


@pytest.mark.parametrize("suffix", [".docx", ".xlsx", ".ods"])
def test_empty_documents_have_no_text(suffix: str) -> None:
    assert parse(suffix, CONTAINERS[suffix]).text == ""
