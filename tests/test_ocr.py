"""Text recognition, by the real engine on images drawn here."""

import struct
import sys
import zlib
from io import BytesIO

import pypdfium2
import pytest
from PIL import Image, ImageDraw, ImageFont
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas

from ingest.errors import SourceError
from ingest.ocr import FORMATS, parse_image, recognise
from ingest.pdf import parse_pdf


@pytest.fixture
def engine() -> None:
    """Skip where the extra is not installed."""
    pytest.importorskip("rapidocr_onnxruntime", reason="needs the `ocr` extra")


def drawn(*lines: tuple[int, int, str], size: tuple[int, int] = (760, 160)) -> Image.Image:
    """Draw lines (left, top, text) with Pillow's own font."""
    image = Image.new("RGB", size, "white")
    font = ImageFont.load_default(size=32)
    for left, top, text in lines:
        ImageDraw.Draw(image).text((left, top), text, fill="black", font=font)
    return image


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


HELLO = drawn((20, 20, "The pump has to run through the whole"), (20, 60, "night, on channel 42."))
READ = "The pump has to run through the whole night, on channel 42."


@pytest.mark.usefixtures("engine")
def test_lines_become_paragraphs() -> None:
    image = drawn(
        (20, 10, "The pump has to run through the whole"),
        (20, 46, "night, on channel 42."),
        (20, 130, "Ask in room 4711."),
        size=(700, 180),
    )
    assert recognise(image) == READ + "\n\nAsk in room 4711."
    assert recognise(Image.new("RGB", (300, 200), "white")) == ""


@pytest.mark.usefixtures("engine")
def test_small_print_keeps_its_spaces() -> None:
    assert recognise(HELLO.resize((HELLO.width * 5 // 8, HELLO.height * 5 // 8))) == READ


@pytest.mark.usefixtures("engine")
def test_two_columns_are_read_one_after_the_other() -> None:
    left = [
        "Alpha is the first word",
        "of the column that one",
        "has to read before any",
        "other one.",
    ]
    right = [
        "Omega is the last word",
        "of the column that one",
        "has to read after the",
        "first one.",
    ]
    lines = [(20, 60 + 40 * row, text) for row, text in enumerate(left)]
    lines += [(420, 60 + 40 * row, text) for row, text in enumerate(right)]
    text = recognise(
        drawn(
            (20, 10, "A title that stands over both of the columns below"), *lines, size=(760, 240)
        )
    )
    places = [text.index(word) for word in ("title", "Alpha", "before", "Omega", "after")]
    assert places == sorted(places)


@pytest.mark.usefixtures("engine")
def test_chinese() -> None:
    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    buffer = BytesIO()
    canvas = Canvas(buffer, pagesize=(330, 80))
    canvas.setFont("STSong-Light", 14)
    canvas.drawString(10, 50, "首先把水泵放在地上，然后依次检查压力")
    canvas.drawString(10, 28, "表。完成以后请通知值班工程师。")
    canvas.save()
    image = pypdfium2.PdfDocument(buffer.getvalue())[0].render(scale=2).to_pil()
    if len(image.convert("L").getcolors() or []) < 5:
        pytest.skip("this machine has no Chinese font to draw with")
    assert recognise(image) == "首先把水泵放在地上，然后依次检查压力表。完成以后请通知值班工程师。"


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_formats(suffix: str) -> None:
    kind = {".jpg": "JPEG"}.get(suffix, suffix[1:].upper())
    media_type, parse = FORMATS[suffix]
    parsed = parse("scan" + suffix, saved(HELLO, kind))
    assert (parsed.text, media_type) == (READ, f"image/{kind.lower()}")
    assert parsed.metadata == {"recognised": "ocr"}


@pytest.mark.usefixtures("engine")
def test_unusual_pixels() -> None:
    """Transparent, 16 bits deep, and turned by the mark of a camera."""
    clear = Image.new("RGBA", HELLO.size, (0, 0, 0, 0))
    clear.paste("black", mask=HELLO.convert("L").point(lambda value: 255 - value))
    deep = Image.new("I;16", HELLO.size)
    deep.putdata([value * 257 for value in HELLO.convert("L").tobytes()])
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(HELLO.rotate(90, expand=True), "JPEG", exif=exif)
    for data in (saved(clear, "PNG"), saved(deep, "PNG"), turned):
        assert parse_image("a.png", data).text == READ


@pytest.mark.usefixtures("engine")
def test_the_images_of_a_tiff_are_pages() -> None:
    second = drawn((20, 20, "Second page: ask in room 4711."))
    blank = Image.new("RGB", (300, 200), "white")
    data = saved(HELLO, "TIFF", save_all=True, append_images=[blank, second])
    parsed = parse_image("fax.tif", data)
    assert parsed.text == READ + "\n\nSecond page: ask in room 4711."
    assert [section.page for section in parsed.sections] == [1, 3]
    assert parsed.metadata == {"recognised": "ocr", "pages": "3"}


@pytest.mark.usefixtures("engine")
def test_scanned_pages_of_a_pdf() -> None:
    buffer = BytesIO()
    canvas = Canvas(buffer, pagesize=(400, 200))
    canvas.drawString(20, 100, "A page with text.")
    canvas.showPage()
    canvas.drawImage(ImageReader(BytesIO(saved(HELLO, "PNG"))), 20, 50, 350, 80)
    canvas.showPage()
    canvas.showPage()
    canvas.save()
    parsed = parse_pdf("mixed.pdf", buffer.getvalue())
    assert parsed.text == "A page with text.\n\n" + READ
    assert [section.page for section in parsed.sections] == [1, 2]
    assert parsed.metadata == {"pages": "3", "pages_recognised": "2", "pages_without_text": "3"}


# --- Refusals, which need no engine --------------------------------------------------------------


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)  # as if it were not there
    with pytest.raises(SourceError, match=r"a\.png: .* pip install 'tether\[ocr\]'"):
        parse_image("a.png", saved(HELLO, "PNG"))


def huge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (20_000, 12_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs(width: int, height: int) -> None:
    with pytest.raises(SourceError, match="million pixels; scale it down"):
        parse_image("bomb.png", huge_png(width, height))


@pytest.mark.parametrize(
    "data",
    [b"", b"junk" * 50, saved(HELLO, "PNG")[:300], saved(HELLO, "JPEG")[:700], saved(HELLO, "GIF"),
     saved(HELLO, "TIFF")[:200], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"],
)  # fmt: skip
def test_what_is_no_whole_image(data: bytes) -> None:
    with pytest.raises(SourceError, match=r"image.*; save it again as PNG"):
        parse_image("a.png", data)
