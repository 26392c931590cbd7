"""Hostile files from a seed, and the check that an ingest survives them.

    folder, good = make(tmp_path, seed=1, count=300)
    survive(folder, good)

Files are mutated samples of every format, archives that are bombs, nests without end, sparse
giants, odd kinds of files and names that a terminal would obey. Among them stand good neighbours,
which must come out whole.
"""

import contextlib
import io
import json
import os
import random
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil

from ingest.chunking import ChunkingOptions
from ingest.loaders import SUPPORTED_SUFFIXES, is_supported
from ingest.pipeline import ListSink, PipelineOptions, Report, run
from ingest.workers import ParserOptions

NAMES = [
    "new\nline", "tab\tbell\x07", "\x1b[31mred", "emoji 😀", "\u202egnp.rtl", "ａ　ｂ", "%s%n{0}",
    "..", "-rf", "a!", "' OR 1=1 --", "\udcff\udc80", "长" * 60, "$(reboot)", "con", "a\\b",
]  # fmt: skip


def samples() -> dict[str, bytes]:
    """Return one real file of each format that can be written here, by suffix."""
    words = "Some words of a sample, with a number 42. 一些样本文字。\n"
    made = {suffix: (words * 20).encode() for suffix in SUPPORTED_SUFFIXES}
    made[".html"] = made[".htm"] = f"<h1>Title</h1><table><tr><td>{words}</table>".encode() * 9
    made[".json"] = json.dumps([{"a": words, "b": [1, {"c": words}]}] * 9).encode()
    made[".jsonl"] = (json.dumps({"a": words}) + "\n").encode() * 9
    made[".csv"] = b"name,value\n" + b'"a ""quoted"" one",2\n' * 40
    made[".tsv"] = b"name\tvalue\nx\t2\n" * 40
    made[".rtf"] = rb"{\rtf1\ansi\deff0 {\fonttbl{\f0 Arial;}} Some words.\par \u25991? }"
    made[".eml"] = b"From: a@b.c\nSubject: Hello\nContent-Type: text/plain\n\n" + words.encode()
    made[".ipynb"] = json.dumps(
        {"cells": [{"cell_type": "code", "source": ["x = 1\n"], "outputs": [], "metadata": {}}],
         "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    ).encode()  # fmt: skip
    made[".docx"], made[".pdf"] = _docx(words), _pdf()
    made[".pptx"], made[".xlsx"] = _pptx(words), _xlsx(words)
    made[".odt"], made[".ods"], made[".odp"] = _odt(words), _ods(words), _odp(words)
    made[".xlsm"], made[".ndjson"], made[".tab"] = made[".xlsx"], made[".jsonl"], made[".tsv"]
    made[".zip"] = pack({"a.txt": words.encode(), "b/c.html": made[".html"]})
    made[".epub"] = _epub(made[".html"])
    return {suffix: data for suffix, data in made.items() if suffix in SUPPORTED_SUFFIXES}


def pack(members: dict[str, bytes]) -> bytes:
    """Return a zip archive of members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _docx(words: str) -> bytes:
    import docx

    document, buffer = docx.Document(), io.BytesIO()
    document.add_heading("Title", 1)
    document.add_paragraph(words * 5)
    document.save(buffer)
    return buffer.getvalue()


def _pptx(words: str) -> bytes:
    import pptx

    deck, buffer = pptx.Presentation(), io.BytesIO()
    deck.slides.add_slide(deck.slide_layouts[0]).shapes.title.text = words
    deck.save(buffer)
    return buffer.getvalue()


def _xlsx(words: str) -> bytes:
    import openpyxl

    book, buffer = openpyxl.Workbook(), io.BytesIO()
    for number in range(20):
        book.active.append([number, words])
    book.save(buffer)
    return buffer.getvalue()


def _odt(words: str) -> bytes:
    from odf.opendocument import OpenDocumentText
    from odf.text import P

    document, buffer = OpenDocumentText(), io.BytesIO()
    document.text.addElement(P(text=words))
    document.write(buffer)
    return buffer.getvalue()


def _ods(words: str) -> bytes:
    from odf.opendocument import OpenDocumentSpreadsheet
    from odf.table import Table, TableCell, TableRow
    from odf.text import P

    document, buffer = OpenDocumentSpreadsheet(), io.BytesIO()
    table = Table(name="Sample")
    for _ in range(20):
        row, cell = TableRow(), TableCell()
        cell.addElement(P(text=words))
        row.addElement(cell)
        table.addElement(row)
    document.spreadsheet.addElement(table)
    document.write(buffer)
    return buffer.getvalue()


def _odp(words: str) -> bytes:
    from odf.draw import Frame, Page, TextBox
    from odf.opendocument import OpenDocumentPresentation
    from odf.style import MasterPage, PageLayout
    from odf.text import P

    document, buffer = OpenDocumentPresentation(), io.BytesIO()
    layout = PageLayout(name="layout")
    document.automaticstyles.addElement(layout)
    document.masterstyles.addElement(MasterPage(name="master", pagelayoutname=layout))
    page, frame, box = Page(masterpagename="master"), Frame(width="9cm", height="9cm"), TextBox()
    box.addElement(P(text=words))
    frame.addElement(box)
    page.addElement(frame)
    document.presentation.addElement(page)
    document.write(buffer)
    return buffer.getvalue()


def _epub(page: bytes) -> bytes:
    package = (
        "<package><manifest><item id='a' href='a.html' media-type='text/html'/></manifest>"
        "<spine><itemref idref='a'/></spine></package>"
    )
    container = "<container><rootfile full-path='book.opf'/></container>"
    return pack(
        {"META-INF/container.xml": container.encode(), "book.opf": package.encode(), "a.html": page}
    )


def _pdf() -> bytes:
    from reportlab.pdfgen.canvas import Canvas

    buffer = io.BytesIO()
    canvas = Canvas(buffer)
    for page in range(3):
        canvas.drawString(72, 700, f"Page {page} of a sample with some words.")
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


# --- Mutations: (chance, a sample, any other sample) -> hostile bytes ---

Mutation = Callable[[random.Random, bytes, bytes], bytes]


def _flip(chance: random.Random, data: bytes, other: bytes) -> bytes:
    flipped = bytearray(data)
    for _ in range(chance.randint(1, 40)):
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def _truncate(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def _splice(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]


def _repeat(chance: random.Random, data: bytes, other: bytes) -> bytes:
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.randint(1, 2000))
    return data[:start] + data[start:end] * chance.randint(2, 200) + data[end:]


def _rename(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return other


def _fill(chance: random.Random, data: bytes, other: bytes) -> bytes:
    filler = chance.choice([b"\0", b"", b"\xff", b"A", b"\xef\xbb\xbf", b"\xff\xfe"])
    return filler * chance.choice([1, 100, 100_000])


def _noise(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: chance.randrange(200)] + chance.randbytes(chance.randrange(5000))


def _nest(chance: random.Random, data: bytes, other: bytes) -> bytes:
    opening = chance.choice(
        ["[", '{"a":', "<div>", "<b><i>", "> ", "- ", "  - ", "*", "![", "{\\b", "<a b='", "`",
         "&", "|"]
    )  # fmt: skip
    return (opening * chance.choice([500, 5000, 20_000])).encode()


def _repack(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Return a container whose members are mutated, so that damage lies behind sound headers."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError):
        return _flip(chance, data, other)
    name = chance.choice(sorted(members))
    if members[name]:
        change = chance.choice([_flip, _truncate, _repeat, _nest, _fill])
        members[name] = change(chance, members[name], other)
    return pack(members)


MUTATIONS: list[Mutation] = [
    _flip, _truncate, _splice, _repeat, _rename, _fill, _noise, _nest, _repack, _repack,
]  # fmt: skip


def bombs(size: int) -> dict[str, bytes]:
    """Return archives that unpack to far more than they are, in up to `size` pieces."""
    inner = pack({"zeros.txt": b"0" * 30_000_000})
    nested = inner
    for level in range(8):
        nested = pack({f"{level}.zip": nested, "a.txt": f"Level {level} says this.".encode()})
    many = pack({f"{number}.txt": b"" for number in range(size)})
    sheet = pack({"[Content_Types].xml": b"<a>" * 20_000_000, "word/document.xml": b"<a/>"})
    lol = "".join(f'<!ENTITY l{n} "' + f"&l{n - 1};" * 10 + '">' for n in range(1, 12))
    laughs = f'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY l0 "lol">{lol}]><l>&l11;</l>'.encode()
    return {
        "ratio.zip": inner, "nested.zip": nested, "many.zip": many, "sheet.docx": sheet,
        "sheet.xlsx": sheet, "laughs.html": laughs, "overlap.zip": _overlapping(min(size, 60)),
        "laughs.docx": pack({"[Content_Types].xml": laughs, "word/document.xml": laughs}),
        "escape.zip": pack({"../../out.txt": b"Out.", "/etc/x.txt": b"Out.", "ok.txt": b"Inside."}),
    }  # fmt: skip


def _overlapping(count: int) -> bytes:
    """Return an archive whose directory names one compressed member again and again."""
    data = bytearray(pack({"a.txt": b"0" * 2_000_000}))
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    header, tail = bytes(data[start:end]), bytearray(data[end:])
    tail[8:12] = count.to_bytes(2, "little") * 2
    tail[12:16] = (len(header) * count).to_bytes(4, "little")
    return bytes(data[:start]) + header * count + bytes(tail)


def make(
    folder: Path, seed: int, count: int, giant_bytes: int = 4_000_000
) -> tuple[Path, dict[str, str]]:
    """Fill a folder with hostile files; return it and the good neighbours' texts by uri."""
    chance, made = random.Random(seed), samples()
    folder, good = folder / "hostile", {}
    for number in range(count):
        suffix = chance.choice(sorted(made))
        data = chance.choice(MUTATIONS)(chance, made[suffix], made[chance.choice(sorted(made))])
        name = chance.choice(NAMES) if number % 10 == 0 else "f"
        place = folder / f"d{number % 7}"
        place.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, ValueError):  # where the system refuses such a name
            (place / f"{number}{name}{suffix}").write_bytes(data)
        if number % 25 == 0:
            path = place / f"{number} good.{chance.choice(['txt', 'md', 'html'])}"
            good[path.as_posix()] = f"Good neighbour {number} stays whole."
            path.write_text(good[path.as_posix()])
    for name, data in bombs(count).items():
        (folder / name).write_bytes(data)
    for suffix in (".txt", ".md", ".csv", ".json", ".html"):
        with (folder / f"one line{suffix}").open("wb") as stream:
            stream.truncate(giant_bytes)
    (folder / "long.txt").write_text("word" * (giant_bytes // 200))
    _odd_kinds(folder)
    return folder, good


def _odd_kinds(folder: Path) -> None:
    """Put links in circles, pipes, sockets and devices among the files."""
    (folder / "circle").symlink_to(folder)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    (folder / ("n" * 251 + ".txt")).write_text("A name of 255 bytes.")
    os.mkfifo(folder / "pipe.txt")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "socket.md"))  # a path may be too long for one
    with contextlib.suppress(OSError):
        os.mknod(folder / "zero.csv", 0o020600, os.makedev(1, 5))


def expected(folder: Path) -> list[str]:
    """Return the sources that a run must account for, as a walk of its own finds them."""
    return [
        os.path.join(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if is_supported(name)
        and not name.startswith(".")
        and not os.path.islink(os.path.join(root, name))
    ]


def survive(folder: Path, good: dict[str, str], file_seconds: float = 30) -> tuple[Report, int]:
    """Ingest the folder twice and check all that must hold; return the report and RSS growth."""
    sink = ListSink()
    parsers = ParserOptions(workers=2, file_seconds=file_seconds)
    before = psutil.Process().memory_info().rss
    report = run([folder], sink, ChunkingOptions(), pipeline=PipelineOptions(parsers=parsers))
    grown = psutil.Process().memory_info().rss - before
    check(report, sink, folder, good)
    return report, grown


def check(report: Report, sink: ListSink, folder: Path, good: dict[str, str]) -> None:
    """Check outcomes, messages, neighbours and processes after a run."""
    from ingest.sources import printable

    sources = {printable(path) for path in expected(folder)}
    told = {printable(outcome.uri).partition("!/")[0] for outcome in report.outcomes}
    told |= {printable(outcome.uri) for outcome in report.outcomes}  # a folder may end in "!"
    assert sources <= told
    uris = [o.uri for o in report.outcomes if "!/" not in o.uri and not o.uri.endswith(".zip")]
    assert len(uris) == len(set(uris)), "one outcome a file"
    for outcome in report.outcomes:
        assert outcome.message.isprintable(), ascii(outcome.message)
        assert bool(outcome.message) or outcome.status in {"added", "updated", "moved"}
    for uri, text in good.items():
        document, chunks = sink.documents[uri]
        assert text in document.text and [chunk.text for chunk in chunks] == [document.text]
    names = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    left = [name for name in names if "forkserver" not in name and "resource_tracker" not in name]
    assert not left, "no worker is left behind"
    servers = [name for name in names if "forkserver" in name]
    assert len(servers) <= 1, "the server of processes has no children"
