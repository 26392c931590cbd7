"""PDF: every page found again, running heads kept once, scans and bad files."""

import sys
from collections.abc import Callable
from io import BytesIO

import pypdf
import pypdfium2
import pytest
from PIL import Image
from pypdf.generic import ArrayObject, NameObject, NumberObject
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas

from ingest.errors import SourceError
from ingest.parsed import Parsed
from ingest.pdf import join_lines, parse_pdf, ranges

Line = tuple[str, float, float]  # text, size and height on the page in points


def pdf_of(*pages: list[Line], title: str = "") -> bytes:
    """Draw pages of lines."""
    buffer = BytesIO()
    canvas = Canvas(buffer, pageCompression=1)
    canvas.setTitle(title)
    for lines in pages:
        for text, size, height in lines:
            canvas.setFont("Helvetica", size)
            canvas.drawString(72, height, text)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def body(*texts: str, top: float = 700) -> list[Line]:
    return [(text, 11, top - 16 * row) for row, text in enumerate(texts)]


def page_of(parsed: Parsed, text: str) -> int | None:
    """Return the page a text stands on; it must stand on one only."""
    assert parsed.text.count(text) == 1
    position = parsed.text.index(text)
    return [section.page for section in parsed.sections if section.start <= position][-1]


def rewritten(data: bytes, change: Callable[[pypdf.PdfWriter], object]) -> bytes:
    writer = pypdf.PdfWriter(clone_from=BytesIO(data))
    change(writer)
    buffer = BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def test_every_page_of_a_thousand() -> None:
    pages = [
        body(*(f"Row {row} of the report." for row in range(8)), f"The code is {i * 7919}X.")
        for i in range(1, 1001)
    ]
    parsed = parse_pdf("big.pdf", pdf_of(*pages))
    assert parsed.metadata == {"pages": "1000"}
    for i in range(1, 1001):
        assert page_of(parsed, f" {i * 7919}X.") == i


def test_wrapped_lines_and_an_empty_page() -> None:
    parsed = parse_pdf(
        "a.pdf",
        pdf_of(
            body("The first line of a paragraph that wraps", "over to the next one. Done."),
            [],
            body("Steps to take are listed in this line", "1. First open it and then", "2. close"),
            title="A Manual",
        ),
    )
    assert parsed.text.split("\n\n") == [
        "The first line of a paragraph that wraps over to the next one. Done.",
        *("Steps to take are listed in this line", "1. First open it and then", "2. close"),
    ]
    assert [section.page for section in parsed.sections] == [1, 3]
    assert parsed.title == "A Manual"
    assert parsed.metadata == {"pages": "3", "pages_without_text": "2"}


def test_chinese_lines_join_without_a_space() -> None:
    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    buffer = BytesIO()
    canvas = Canvas(buffer)
    canvas.setFont("STSong-Light", 12)
    for row, line in enumerate(["检索增强生成先从文档里找到", "相关的段落，然后让模型回答。"]):
        canvas.drawString(72, 700 - 20 * row, line)
    canvas.save()
    text = "检索增强生成先从文档里找到相关的段落，然后让模型回答。"
    assert parse_pdf("a.pdf", buffer.getvalue()).text == text
    lines = ["检索增强生成先从文档里找到", "相关的段落，然后让模型 RAG", "根据这些来回答问题。"]
    assert join_lines(lines) == (
        "检索增强生成先从文档里找到相关的段落，然后让模型 RAG 根据这些来回答问题。"
    )


# --- Running heads -------------------------------------------------------------------------------


def report(pages: int, head: str, foot: str) -> Parsed:
    """Read pages with a head, a text of their own and a foot; {} stands for the number."""
    return parse_pdf(
        "report.pdf",
        pdf_of(
            *(
                [
                    (head.format(i), 9, 800),
                    *body(f"Text {i * 31} begins here.", "It goes on,", f"and ends with {i * 31}."),
                    (foot.format(i), 9, 30),
                ]
                for i in range(1, pages + 1)
            )
        ),
    )


def test_running_heads_are_kept_once() -> None:
    text = report(12, "Annual Report 2024", "Page {} of 12").text
    assert text.count("Annual Report 2024") == 1 and text.count(" of 12") == 1
    assert all(f"Text {i * 31} begins" in text for i in range(1, 13))


@pytest.mark.parametrize(
    ("pages", "head"),
    [(12, "Invoice 10{}7"), (3, "Annual Report 2024"), (12, "{0} apples, {0}{0} pears")],
)
def test_what_might_be_more_than_a_running_head_stays(pages: int, head: str) -> None:
    text = report(pages, head, "foot").text
    assert text.count(head.partition("{")[0] or "apples") == pages


def test_pages_of_few_lines_keep_them_all() -> None:
    text = parse_pdf("a.pdf", pdf_of(*(body(f"Slide {i}", "Agenda") for i in range(1, 9)))).text
    assert text.count("Agenda") == 8 and "Slide 8" in text


# --- Headings ------------------------------------------------------------------------------------


def test_larger_lines_are_headings() -> None:
    prose = ["This is a line of the text.", "It is followed by another one."] * 5
    parsed = parse_pdf(
        "a.pdf",
        pdf_of(
            [("Pump Manual", 24, 780), ("Installing", 16, 740), *body(*prose)],
            [("Cleaning", 16, 740), *body("Use water.", *prose)],
            title="Microsoft Word - draft7.doc",
        ),
    )
    assert parsed.title == "Pump Manual"
    assert [(s.page, s.heading) for s in parsed.sections] == [
        (1, "Pump Manual"),
        (1, "Pump Manual > Installing"),
        (2, "Pump Manual > Cleaning"),
    ]
    start = parsed.sections[2].start
    assert parsed.text[start:].startswith("Cleaning\n\nUse water.")


def test_sizes_that_tell_nothing_make_no_headings() -> None:
    mixed = [(f"Line {i} in a size of its own", 8.0 + i, 780.0 - 40 * i) for i in range(14)]
    assert {s.heading for s in parse_pdf("a.pdf", pdf_of(mixed)).sections} == {""}


# --- Scans ---------------------------------------------------------------------------------------


def picture_page(canvas: Canvas) -> None:
    buffer = BytesIO()
    Image.new("RGB", (50, 20), "grey").save(buffer, "PNG")
    buffer.seek(0)
    from reportlab.lib.utils import ImageReader

    canvas.drawImage(ImageReader(buffer), 72, 500)
    canvas.showPage()


def test_a_scan_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)  # as if it were not there
    buffer = BytesIO()
    canvas = Canvas(buffer)
    picture_page(canvas)
    picture_page(canvas)
    canvas.save()
    with pytest.raises(SourceError, match=r"scan; .* pip install 'tether\[ocr\]'"):
        parse_pdf("scan.pdf", buffer.getvalue())
    buffer = BytesIO()
    canvas = Canvas(buffer)
    canvas.drawString(72, 700, "A page with text.")
    canvas.showPage()
    picture_page(canvas)
    picture_page(canvas)
    canvas.save()
    parsed = parse_pdf("scan.pdf", buffer.getvalue())
    assert parsed.text == "A page with text."
    assert parsed.metadata == {"pages": "3", "pages_without_text": "2-3"}


def test_ranges() -> None:
    assert ranges([3, 7, 8, 9, 11, 12]) == "3, 7-9, 11-12"
    assert ranges([]) == ""


# --- Bad files -----------------------------------------------------------------------------------


def test_protected() -> None:
    whole = pdf_of(body("Secret text."))
    locked = rewritten(whole, lambda writer: writer.encrypt("secret", algorithm="RC4-128"))
    with pytest.raises(SourceError, match="protected by a password; save it without"):
        parse_pdf("a.pdf", locked)
    opened = rewritten(whole, lambda writer: writer.encrypt("", "owner", algorithm="RC4-128"))
    assert parse_pdf("a.pdf", opened).text == "Secret text."


def test_cut_off_anywhere() -> None:
    whole = pdf_of(*(body(f"Page {i}.") for i in range(30)))
    for share in (0, 1, 10, 50, 90, 99):
        with pytest.raises(SourceError, match="; "):
            parse_pdf("a.pdf", whole[: len(whole) * share // 100])


def test_no_pages() -> None:
    empty = BytesIO()
    pypdfium2.PdfDocument.new().save(empty)
    with pytest.raises(SourceError, match="; "):
        parse_pdf("a.pdf", empty.getvalue())
    with pytest.raises(SourceError, match="holds only empty pages; check"):
        parse_pdf("a.pdf", pdf_of([], []))


def test_pages_in_a_circle() -> None:
    def bend(writer: pypdf.PdfWriter) -> None:
        tree = writer.root_object["/Pages"].get_object()
        assert isinstance(tree, pypdf.generic.DictionaryObject)
        reference = tree.indirect_reference
        assert reference is not None
        tree[NameObject("/Kids")] = ArrayObject([reference, reference])
        tree[NameObject("/Count")] = NumberObject(1_000_000_000)

    with pytest.raises(SourceError, match="; "):
        parse_pdf("a.pdf", rewritten(pdf_of(body("Round")), bend))


def test_damage_in_the_middle_is_refused_or_read() -> None:
    whole = bytearray(pdf_of(*(body(f"Page {i} of the damaged report.") for i in range(5))))
    for position in range(20, len(whole), 97):
        damaged = bytes(whole[:position]) + b"\0\xff<<[(" + bytes(whole[position + 6 :])
        try:
            assert parse_pdf("a.pdf", damaged).text
        except SourceError as error:
            assert "; " in str(error) and "\n" not in str(error)
