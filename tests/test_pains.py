"""What users of other tools suffered while their files were read, each a test of a whole run."""

import csv
import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from ingest import ocr
from ingest.chunking import ChunkingOptions
from ingest.loaders import SUPPORTED_SUFFIXES
from ingest.pipeline import FileOutcome, ListSink, PipelineOptions, run
from tests.fuzz import samples
from tests.test_encodings import ENGLISH, GERMAN, JAPANESE, SIMPLIFIED, TRADITIONAL

OPTIONS = ChunkingOptions()
BEYOND_GB2312 = SIMPLIFIED + "朱镕基、陶喆和张堃的姓名里有不在国标旧表中的字：镕、喆、堃、㐂。"


def test_no_encoding_aborts_an_ingest(tmp_path: Path) -> None:
    written = {
        "a gb18030.txt": (BEYOND_GB2312, "gb18030"),
        "b mark.txt": (SIMPLIFIED, "utf-8-sig"),
        "c utf-16.md": (SIMPLIFIED * 2, "utf-16"),
        "e big5.txt": (TRADITIONAL, "big5"),
        "f shift-jis.txt": (JAPANESE, "shift_jis"),
        "g latin.txt": (GERMAN.replace("„", '"').replace("“", '"'), "latin-1"),
        "h utf-32.txt": (ENGLISH, "utf-32"),
    }
    for name, (text, encoding) in written.items():
        (tmp_path / name).write_bytes(text.encode(encoding))
    (tmp_path / "d binary.txt").write_bytes(bytes(range(128, 256)) * 8)
    sink = ListSink()
    report = run([tmp_path], sink, OPTIONS)
    (failed,) = report.failed
    assert failed.uri == (tmp_path / "d binary.txt").as_posix()
    assert failed.message.endswith("save the file as UTF-8")
    found = {Path(uri).name: document.text for uri, (document, _) in sink.documents.items()}
    assert found == {name: text for name, (text, _) in written.items()}


def ingest_table(folder: Path, rows: int) -> int:
    """Ingest a csv of so many rows, require that each is found, and return the file's bytes."""
    path = folder / "large.csv"
    note = "delivered in good order, nothing to add for this one but its number"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "code", "note"])
        writer.writerows([n, f"c{n * 7919}", f"{note}, {n}"] for n in range(rows))
    sink = ListSink()
    (outcome,) = run([path], sink, OPTIONS).outcomes
    assert outcome.status == "added", outcome.message
    _, chunks = sink.documents[path.as_posix()]
    found = {line for chunk in chunks for line in chunk.text.splitlines()}
    for n in range(rows):
        assert f"id: {n} | code: c{n * 7919} | note: {note}, {n}" in found
    return path.stat().st_size


def test_every_row_of_a_large_table_is_found(tmp_path: Path) -> None:
    assert ingest_table(tmp_path, rows=20_000) > 1_500_000


def test_every_page_of_a_long_pdf_is_found_on_its_page(tmp_path: Path) -> None:
    from reportlab.pdfgen.canvas import Canvas

    buffer = BytesIO()
    canvas = Canvas(buffer)
    for page in range(1, 201):
        canvas.drawString(72, 700, f"The code of this page is {page * 7919}X.")
        canvas.showPage()
    canvas.save()
    (tmp_path / "long.pdf").write_bytes(buffer.getvalue())
    sink = ListSink()
    run([tmp_path], sink, OPTIONS)
    ((_, chunks),) = sink.documents.values()
    found = {chunk.page: chunk for chunk in chunks}
    assert len(chunks) == 200
    assert all(f" {page * 7919}X." in found[page].text for page in range(1, 201))


def test_an_interrupted_ingest_goes_on_and_what_was_done_is_there(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.txt").write_text(f"Text number {number}.")
    sink, done = ListSink(), list[str]()

    def interrupt(outcome: FileOutcome, files: int, total: int) -> None:
        done.append(outcome.uri)
        if files == 12:
            raise KeyboardInterrupt

    batches = PipelineOptions(batch_chunks=4)
    with pytest.raises(KeyboardInterrupt):
        run([tmp_path], sink, OPTIONS, pipeline=batches, on_file=interrupt)
    kept = set(sink.documents)
    assert len(done) == 12 and set(done) <= kept and len(kept) < 30
    report = run([tmp_path], sink, OPTIONS, pipeline=batches)
    assert {o.uri for o in report.outcomes if o.status == "unchanged"} == kept
    assert report.counts["added"] == 30 - len(kept) and len(sink.documents) == 30


# Found by every Python that starts with it on its path: the program, and the server of its workers.
_NO_NETWORK = """
import os, sys

_ASKING = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")

def forbid(event, values):
    local = event == "socket.connect" and isinstance(values[1], (str, bytes))
    if event in _ASKING and not local:
        note(event)
        raise OSError("no network here")

def note(line):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(line + "\\n")

sys.addaudithook(forbid)
note(f"guarded {os.getpid()}")
"""
_INGEST_ALL = """
import json, socket, sys
from pathlib import Path
from ingest.chunking import ChunkingOptions
from ingest.pipeline import ListSink, run
from ingest.web import Fetched
from ingest.webpages import load_page

report = run([Path(sys.argv[1])], ListSink(), ChunkingOptions())
page = Fetched("https://example.org/guide", "text/html", "", b"<h1>Guide</h1><p>Some words.")
assert load_page(page).text
print(json.dumps([(outcome.uri, outcome.status, outcome.message) for outcome in report.outcomes]))
try:
    socket.getaddrinfo("example.org", 443)
except OSError:
    print("forbidden")
"""


def test_no_format_needs_the_network(tmp_path: Path) -> None:
    folder, guard, notes = tmp_path / "all", tmp_path / "guard", tmp_path / "notes"
    folder.mkdir()
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(_NO_NETWORK)
    formats = {suffix: data for suffix, data in samples().items() if suffix not in ocr.FORMATS}
    for suffix, data in formats.items():
        (folder / f"a{suffix}").write_bytes(data)
    if ocr.is_installed():
        formats[".png"] = b""
        picture = Image.new("RGB", (900, 120), "white")
        ImageDraw.Draw(picture).text((20, 20), "A line to recognise", "black", font_size=60)
        picture.save(folder / "a.png")
    done = subprocess.run(
        [sys.executable, "-c", _INGEST_ALL, str(folder)],
        env={"PYTHONPATH": f"{guard}{os.pathsep}{Path.cwd()}", "NOTES": str(notes)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    *_, outcomes, control = done.stdout.splitlines()
    read = {Path(uri.partition("!/")[0]).suffix for uri, _, _ in json.loads(outcomes)}
    assert read == formats.keys() >= set(SUPPORTED_SUFFIXES) - ocr.FORMATS.keys()
    assert [one for one in json.loads(outcomes) if one[1] not in ("added", "duplicate")] == []
    lines = notes.read_text().splitlines()
    assert sum(line.startswith("guarded") for line in lines) > 1, "the workers are guarded, too"
    assert control == "forbidden"
    assert [line for line in lines if not line.startswith("guarded")] == ["socket.getaddrinfo"]
