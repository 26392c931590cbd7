"""E-books, zipped on the spot."""

# ruff: noqa: E501 - markup reads better whole

import zipfile
from io import BytesIO

import pytest

from ingest.documents import Document
from ingest.errors import SourceError
from ingest.loaders import Entry, load_entry

CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OPS/book.opf" media-type="application/oebps-package+xml"/>'
    "</rootfiles></container>"
)
PACKAGE = """<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>海边的灯塔</dc:title></metadata>
<manifest>
<item id="two" href="text/two.xhtml" media-type="application/xhtml+xml"/>
<item id="one" href="text/%E4%B8%80.xhtml" media-type="application/xhtml+xml"/>
<item id="gone" href="gone.xhtml" media-type="application/xhtml+xml"/>
<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="art" href="cover.png" media-type="image/png"/>
</manifest>
<spine><itemref idref="nav"/><itemref idref="art"/><itemref idref="one"/><itemref idref="two"/></spine>
</package>"""
NAV = '<html><nav><a href="text/%E4%B8%80.xhtml#x">第一章 出海</a><a href="text/two.xhtml">Two</a></nav></html>'
ONE = '<?xml version="1.0"?><html><head><title/></head><body><a id="x"/><p>船离开了港口。</p></body></html>'
TWO = "<html><body><h1>Chapter Two</h1><p>The sea &amp; the storm.</p></body></html>"
MEMBERS = {
    "META-INF/container.xml": CONTAINER,
    "OPS/book.opf": PACKAGE,
    "OPS/nav.xhtml": NAV,
    "OPS/text/一.xhtml": ONE,
    "OPS/text/two.xhtml": TWO,
}


def book(changes: dict[str, str]) -> Document:
    return load_entry(Entry("/b.epub", "b.epub", zipped(MEMBERS | changes)))


def zipped(members: dict[str, str]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def test_chapters_in_reading_order() -> None:
    document = book({})
    assert document.title == "海边的灯塔"
    assert document.text == ("第一章 出海\n\n船离开了港口。\n\nChapter Two\n\nThe sea & the storm.")
    assert [(s.place, s.heading) for s in document.sections] == [
        ("chapter 1", "第一章 出海"),
        ("chapter 2", "Chapter Two"),
    ]
    assert document.metadata == {"chapters": "2"}


def test_a_table_of_contents_of_version_2() -> None:
    ncx = (
        "<ncx><navMap><navPoint><navLabel><text>起航</text></navLabel>"
        '<content src="text/%E4%B8%80.xhtml"/></navPoint></navMap></ncx>'
    )
    package = PACKAGE.replace("nav.xhtml", "toc.ncx").replace(
        'media-type="application/xhtml+xml" properties="nav"',
        'media-type="application/x-dtbncx+xml"',
    )
    members = MEMBERS | {"OPS/book.opf": package, "OPS/toc.ncx": ncx}
    document = load_entry(Entry("/b.epub", "b.epub", zipped(members)))
    assert document.sections[0].heading == "起航"


def test_missing_chapters_are_counted() -> None:
    package = PACKAGE.replace('<itemref idref="one"/>', '<itemref idref="gone"/>')
    document = book({"OPS/book.opf": package})
    assert document.metadata == {"chapters": "1", "missing": "1"}


def test_protected_books_are_refused_but_not_scrambled_fonts() -> None:
    for algorithm, protected in [
        ("http://www.w3.org/2001/04/xmlenc#aes128-cbc", True),
        ("http://www.idpf.org/2008/embedding", False),
    ]:
        encryption = (
            '<encryption xmlns:e="http://www.w3.org/2001/04/xmlenc#"><e:EncryptedData>'
            f'<e:EncryptionMethod Algorithm="{algorithm}"/></e:EncryptedData></encryption>'
        )
        entry = Entry(
            "/b.epub", "b.epub", zipped(MEMBERS | {"META-INF/encryption.xml": encryption})
        )
        if protected:
            with pytest.raises(SourceError, match=r"protected against copying \(DRM\); ingest"):
                load_entry(entry)
        else:
            assert load_entry(entry).title == "海边的灯塔"


def test_entities_are_not_expanded() -> None:
    bomb = (
        '<!DOCTYPE p [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;"><!ENTITY f SYSTEM '
        '"file:///etc/passwd">]>'
    )
    package = PACKAGE.replace("?>", "?>" + bomb, 1).replace("海边的灯塔", "x&b;&f;")
    document = book({"OPS/book.opf": package})
    assert document.title == "x"


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"META-INF/container.xml": "<container/>"},
        {"META-INF/container.xml": "no xml"},
        {"META-INF/container.xml": CONTAINER},
    ],
)
def test_what_is_no_book_is_refused(members: dict[str, str]) -> None:
    with pytest.raises(SourceError, match=r"not a readable e-book.*; download it again"):
        load_entry(Entry("/b.epub", "b.epub", zipped(members)))
