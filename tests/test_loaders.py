"""Loaders on real files of every format, built on the spot."""

import codecs
import ctypes
import os
from io import BytesIO
from pathlib import Path

import docx
import pypdfium2
import pytest
from docx.enum.style import WD_STYLE_TYPE
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest import loaders
from ingest.documents import Document, content_id
from ingest.encodings import decode
from ingest.errors import SourceError
from ingest.pdf import join_lines

SIMPLIFIED = "检索增强生成先从文档里找到相关的段落，然后让模型只根据这些段落来回答问题。"
TRADITIONAL = "檢索增強生成先從文檔裡找到相關的段落，然後讓模型只根據這些段落來回答問題。"


def load_bytes(folder: Path, name: str, data: bytes) -> Document:
    path = folder / name
    path.write_bytes(data)
    return loaders.load(path)


def outline(document: Document) -> list[tuple[str, str]]:
    """Return (heading, first line under it) of each section."""
    return [(s.heading, document.text[s.start :].split("\n")[0]) for s in document.sections]


# --- Plain text ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((SIMPLIFIED, e) for e in ("utf-8", "utf-8-sig", "gb18030", "gb2312", "utf-16", "utf-32")),
        *((TRADITIONAL, e) for e in ("utf-8", "big5", "gb18030", "utf-16")),
        (SIMPLIFIED + "\nRAG, in short.\n" * 40, "utf-16-le"),
        (SIMPLIFIED + "\nRAG, in short.\n" * 40, "utf-16-be"),
        ("你好，世界", "gb18030"),
        ("你好，世界", "big5"),
        ("张三在北京大学读书，李四在上海工作。" * 30, "gb18030"),
        ("The café was “closed” – née in the déjà vu of plain English text." * 3, "cp1252"),
    ],
)
def test_text_encodings(tmp_path: Path, text: str, encoding: str) -> None:
    document = load_bytes(tmp_path, "a.txt", text.encode(encoding))
    assert document.text == text
    assert document.metadata["encoding"]


@pytest.mark.parametrize(
    "data",
    [
        bytes(range(128, 256)) * 8,
        b"\x7fELF\x02\x01\x01" + bytes(range(1, 256)) * 20,
        codecs.BOM_UTF16_LE + b"\x00\xd8a",
        codecs.BOM_UTF16_LE + b"a\0b\0" + bytes(1000),
        b"A text whose end was never written." + bytes(1000),
        bytes(1000),
        "한국어 문서는 아직 지원하지 않습니다".encode("euc-kr")[:9] + b"\xff",
        "鑫淼".encode("gb18030") + b"\x80",
    ],
)
def test_undecodable_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SourceError, match="save the file as UTF-8"):
        load_bytes(tmp_path, "a.txt", data)


@given(st.text(st.sampled_from(SIMPLIFIED + "鑫淼垚犇龘abc .\n")))
@example("鑫淼")
@settings(deadline=None)
def test_chinese_text_is_read_right_or_refused(text: str) -> None:
    text += "的"  # no valid UTF-8 in GB18030; a few lone ideographs are, such as 强
    try:
        decoded, _ = decode("a.txt", text.encode("gb18030"))
    except SourceError:
        return
    assert decoded == text


def test_nulls_and_lone_surrogates_are_removed(tmp_path: Path) -> None:
    assert load_bytes(tmp_path, "a.txt", b"plain te\0xt").text == "plain text"
    html = load_bytes(tmp_path, "a.html", b"<p>a&#0;b &#xD800; c</p>")
    html.text.encode("utf-8")
    assert "\0" not in html.text


def test_document_fields(tmp_path: Path) -> None:
    document = load_bytes(tmp_path, "年度 报告.txt", SIMPLIFIED.encode())
    assert document.id == content_id(SIMPLIFIED)
    assert document.uri == (tmp_path / "年度 报告.txt").as_posix()
    assert (document.title, document.language) == ("年度 报告", "zh")
    assert (document.media_type, document.sections) == ("text/plain", ())


# --- Markdown ------------------------------------------------------------------------------------


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_markdown_headings(tmp_path: Path, newline: str) -> None:
    source = (
        "Preface.\n\n# *Guide* to `x`\n\nText.\n\n```\n# not a heading\n```\n\n## 安装\n\n"
        "Steps.\n\nUsage\n=====\n\n### Deep\n\n> # quoted\n"
    ).replace("\n", newline)
    document = load_bytes(tmp_path, "a.md", source.encode())
    assert document.text == source
    assert document.title == "Guide to x"
    assert [(heading, line.strip()) for heading, line in outline(document)] == [
        ("", "Preface."),
        ("Guide to x", "# *Guide* to `x`"),
        ("Guide to x > 安装", "## 安装"),
        ("Usage", "Usage"),
        ("Usage > Deep", "### Deep"),
    ]


def test_markdown_front_matter_is_no_heading(tmp_path: Path) -> None:
    source = "---\ntitle: 'My Notes'\ntags: a\n---\n\nBody.\n\n"
    plain = load_bytes(tmp_path, "a.md", source.encode())
    assert (plain.title, plain.text) == ("My Notes", source)
    headed = load_bytes(tmp_path, "b.md", (source + "# Real\n").encode())
    assert outline(headed) == [("", "---"), ("Real", "# Real")]


# --- HTML ----------------------------------------------------------------------------------------

PAGE = """<!doctype html><html><head><title>Site | Page</title><style>p {}</style></head><body>
<header>Site banner</header><nav>Menu</nav><template>Later</template>
<article><header><h1>The <em>Guide</em></h1></header>
<p>One <b>bold</b> wo<i>rd</i>
wrapped.<br>Second line.</p>
<p>中文段落
换行<a href="#">链接</a>。</p>
<ul><li>first</li><li><p>second</p></li></ul>
<h2>Data</h2>
<table><tr><th>Name</th><th>Size</th></tr><tr><td><p>a</p><p>b</p></td><td>3</td></tr></table>
<p hidden>unseen</p><div style="display: none">unseen</div><!-- unseen --><script>unseen()</script>
<dialog>unseen<title>unseen</title></dialog><textarea>unseen</textarea><video>unseen</video>
<pre>x = 1
y = 2</pre></article><footer>Imprint</footer></body></html>"""


def test_html_blocks(tmp_path: Path) -> None:
    document = load_bytes(tmp_path, "a.html", PAGE.encode())
    assert document.text.split("\n\n") == [
        "The Guide",
        "One bold word wrapped.\nSecond line.",
        "中文段落换行链接。",
        "- first\n- second",
        "Data",
        "Name | Size\na b | 3",
        "x = 1\ny = 2",
    ]
    assert outline(document) == [("The Guide", "The Guide"), ("The Guide > Data", "Data")]
    assert document.title == "The Guide"


def test_html_title_and_declared_encoding(tmp_path: Path) -> None:
    source = '<meta charset="gb2312"><title>标题</title><p>鑫淼</p>'
    document = load_bytes(tmp_path, "a.htm", source.encode("gb18030"))
    assert (document.title, document.text) == ("标题", "鑫淼")


def test_deeply_nested_html(tmp_path: Path) -> None:
    source = "<div>" * 5_000 + "deep" + "</div>" * 5_000
    assert load_bytes(tmp_path, "a.html", source.encode()).text == "deep"


# --- PDF -----------------------------------------------------------------------------------------


def pdf_of(pages: list[list[str]], title: str = "") -> bytes:
    """Write a PDF of Latin text lines with nothing but its own syntax."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for index, lines in enumerate(pages):
        shown = " ".join(f"({line}) Tj 0 -14 Td" for line in lines)
        content = f"BT /F1 12 Tf 40 740 Td {shown} ET"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * index} 0 R >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    objects.append(f"<< /Title ({title}) >>")
    body, offsets = "%PDF-1.4\n", []
    for number, value in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{value}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    return (
        f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}"
        f"trailer\n<< /Size {size} /Root 1 0 R /Info {size - 1} 0 R >>\n"
        f"startxref\n{len(body)}\n%%EOF"
    ).encode("latin-1")


def test_pdf_pages_and_line_wraps(tmp_path: Path) -> None:
    pages = [
        ["Chapter One", "The first line of a paragraph that wraps", "over to the next line, exam-"],
        [],
        ["Steps to take are listed in this long line", "1. First open it and then", "2. close"],
    ]
    pages[0] += ["ple given. Done."]
    document = load_bytes(tmp_path, "手册.pdf", pdf_of(pages, title="A Manual"))
    first = (
        "Chapter One\n\nThe first line of a paragraph that wraps over to the next line, example "
        "given. Done."
    )
    last = "Steps to take are listed in this long line\n\n1. First open it and then\n\n2. close"
    assert document.text == f"{first}\n\n{last}"
    assert [(s.page, document.text[s.start :][:5]) for s in document.sections] == [
        (1, "Chapt"),
        (3, "Steps"),
    ]
    assert (document.title, document.metadata["pages"]) == ("A Manual", "3")


def test_wrapped_chinese_lines_join_without_a_space() -> None:
    lines = ["检索增强生成先从文档里找到", "相关的段落，然后让模型 RAG", "根据这些来回答问题。"]
    assert join_lines(lines) == (
        "检索增强生成先从文档里找到相关的段落，然后让模型 RAG 根据这些来回答问题。"
    )


def test_pdf_written_by_another_program(tmp_path: Path) -> None:
    raw = pypdfium2.raw
    pdf = pypdfium2.PdfDocument.new()
    page = pdf.new_page(400, 400)
    text = raw.FPDFPageObj_NewTextObj(pdf, b"Helvetica", 12.0)
    shown = ctypes.create_string_buffer("Hello there.\0".encode("utf-16-le"))
    raw.FPDFText_SetText(text, ctypes.cast(shown, raw.FPDF_WIDESTRING))
    raw.FPDFPage_InsertObject(page, text)
    page.gen_content()
    buffer = BytesIO()
    pdf.save(buffer)
    assert load_bytes(tmp_path, "a.pdf", buffer.getvalue()).text == "Hello there."


def test_pdf_that_cannot_be_read(tmp_path: Path) -> None:
    import pypdf

    whole = pdf_of([["Secret text."]])
    writer = pypdf.PdfWriter(clone_from=BytesIO(whole))
    writer.encrypt("secret", algorithm="RC4-128")
    locked = BytesIO()
    writer.write(locked)
    for data, reason in [
        (locked.getvalue(), "protected by a password; save it without"),
        (b"%PDF-1.7 garbage", "not a readable PDF; export"),
        (pdf_of([[], []]), "holds only empty pages; check the file"),
        (b"", "not a readable PDF"),
    ]:
        with pytest.raises(SourceError, match=reason):
            load_bytes(tmp_path, "a.pdf", data)


# --- Word ----------------------------------------------------------------------------------------


def saved(document: object) -> bytes:
    buffer = BytesIO()
    document.save(buffer)  # type: ignore[attr-defined]
    return buffer.getvalue()


def test_docx_blocks(tmp_path: Path) -> None:
    word = docx.Document()
    word.core_properties.title = "Metadata title"
    word.add_paragraph("Before.")
    word.add_heading("Guide", level=1)
    word.add_paragraph("Text.")
    word.add_paragraph("one", style="List Bullet")
    word.add_paragraph("two", style="List Number")
    table = word.add_table(rows=2, cols=3)
    for cell, text in zip([c for row in table.rows for c in row.cells], "abcdef", strict=True):
        cell.text = text
    table.rows[1].cells[0].merge(table.rows[1].cells[1])
    word.styles.add_style("标题 2", WD_STYLE_TYPE.PARAGRAPH)
    word.add_paragraph("安装", style="标题 2")
    word.add_paragraph("After.")
    document = load_bytes(tmp_path, "文档.docx", saved(word))
    assert document.text.split("\n\n") == [
        *(
            "Before.",
            "Guide",
            "Text.",
            "- one\n- two",
            "a | b | c\na: d e | c: f",
            "安装",
            "After.",
        ),
    ]
    assert outline(document) == [("", "Before."), ("Guide", "Guide"), ("Guide > 安装", "安装")]
    assert document.title == "Guide"


def test_docx_title_from_metadata(tmp_path: Path) -> None:
    word = docx.Document()
    word.core_properties.title = "年报"
    word.add_paragraph("正文。")
    assert load_bytes(tmp_path, "a.docx", saved(word)).title == "年报"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PK\x03\x04 cut off", "not a readable .docx"),
        (saved(docx.Document())[:2000], "not a readable .docx"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "without a password"),
        (saved(docx.Document()), "holds no text"),
    ],
)
def test_docx_that_cannot_be_read(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        load_bytes(tmp_path, "a.docx", data)


# --- Files ---------------------------------------------------------------------------------------


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.md").write_text(" \n\n")
    (tmp_path / "mark.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "film").write_bytes(b"text")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate(loaders.MAX_BYTES + 1)  # sparse: takes no space
    for name, reason in {
        "pipe.txt": "not a regular file",
        "folder.txt": "not a regular file",
        "zero.txt": "not a regular file",
        "empty.txt": "holds no text",
        "blank.md": "holds no text",
        "mark.txt": "holds no text",
        "large.txt": "larger than 200 MB; split",
        "missing.txt": "does not exist; check",
        "film.mp4": "unsupported format .mp4; convert it to one of .txt .md",
        "film": r"unsupported format \(no suffix\)",
        "README": "does not exist",
        "a\0b.txt": "name is not valid",
    }.items():
        with pytest.raises(SourceError, match=reason) as caught:
            loaders.load(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission(tmp_path: Path) -> None:
    path = tmp_path / "private.txt"
    path.write_text("text")
    path.chmod(0)
    with pytest.raises(SourceError, match="permission denied; grant"):
        loaders.load(path)
