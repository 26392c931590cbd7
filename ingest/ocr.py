"""Scans: the text in an image, by RapidOCR, which carries its models for Chinese and English.

    text = recognise(PIL.Image.open("scan.png"), "scan.png")

Needs the extra `ocr`; without it a `SourceError` says so. Images are bounded before they are
decoded. Knows nothing of where an image came from.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from io import BytesIO
from statistics import median
from typing import TYPE_CHECKING, Any

from ingest.errors import SourceError
from ingest.parsed import WIDE, Parsed, TextBuilder, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_000_000  # of one image, before it is scaled down: A3 at 600 dpi has 70 million
MAX_PAGES = 2_000  # images in one TIFF
LONGEST_SIDE = 3_600  # pixels; a larger image is scaled down, A4 at 300 dpi is not
FINDING_SIDE = 1_600  # pixels of the copy in which lines are looked for; they are read in the large
MIN_CONFIDENCE = 0.6  # of a line, 0 to 1; below it stands noise, mostly
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")  # the decoders of Pillow that hostile files meet


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of text in an image, in pixels from its left and its top."""

    text: str
    left: float
    right: float
    top: float
    bottom: float


def is_installed() -> bool:
    """Tell whether the extra `ocr` is there."""
    return find_spec("rapidocr_onnxruntime") is not None


def parse_image(uri: str, data: bytes) -> Parsed:
    """Return the text in an image; the images of a TIFF are its pages."""
    from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

    builder = TextBuilder()
    pages = 0
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            for frame in ImageSequence.Iterator(image):
                _check_size(uri, frame)
                pages += 1
                if pages > MAX_PAGES:
                    raise SourceError(f"{uri}: more than {MAX_PAGES} pages; split it")
                if image.format == "TIFF":
                    builder.at(page=pages)
                builder.add(recognise(ImageOps.exif_transpose(frame), uri))
                if image.format != "TIFF":  # the frames of an animation are one picture
                    break
    except UnidentifiedImageError:
        raise SourceError(f"{uri}: not a readable image; save it again as PNG") from None
    except Image.DecompressionBombError:
        raise _too_large(uri) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = one_line(str(error))[:200]
        raise SourceError(f"{uri}: a damaged image ({reason}); save it again as PNG") from None
    metadata = {"recognised": "ocr"} | ({"pages": str(pages)} if image.format == "TIFF" else {})
    return builder.parsed("", metadata)


FORMATS = {
    ".png": ("image/png", parse_image),
    ".jpg": ("image/jpeg", parse_image),
    ".jpeg": ("image/jpeg", parse_image),
    ".tif": ("image/tiff", parse_image),
    ".tiff": ("image/tiff", parse_image),
    ".bmp": ("image/bmp", parse_image),
    ".webp": ("image/webp", parse_image),
}


def recognise(image: "Image", uri: str = "image") -> str:
    """Return the text in an image in reading order, its lines joined to paragraphs.

    Args:
        image: Of any mode; scaled to at most `LONGEST_SIDE` pixels.
        uri: For messages only.

    Raises:
        SourceError: The extra `ocr` is not installed, or the image is too large.
    """
    import numpy

    from ingest.pdf import join_lines

    _check_size(uri, image)
    engine = _engine(uri)
    pixels = numpy.asarray(_fitted(_on_white(image)))[:, :, ::-1]  # (height, width, BGR)
    found, _ = engine(pixels)
    pieces = [
        _Piece(text.strip(), *_extent(corners))
        for corners, text, confidence in found or []
        if float(confidence) >= MIN_CONFIDENCE and text.strip()
    ]
    blocks = ([_joined(line) for line in _lines(block)] for block in _blocks(pieces))
    return "\n\n".join(join_lines(block) for block in blocks)


@lru_cache(maxsize=1)
def _load_engine() -> Any:  # noqa: ANN401 - a rapidocr_onnxruntime.RapidOCR
    from rapidocr_onnxruntime import RapidOCR

    # Its own bounds lose small print in reading, and take gigabytes and a minute in finding.
    return RapidOCR(
        max_side_len=LONGEST_SIDE, det_limit_type="max", det_limit_side_len=FINDING_SIDE
    )


def _engine(uri: str) -> Any:  # noqa: ANN401 - a rapidocr_onnxruntime.RapidOCR
    if not is_installed():
        raise SourceError(
            f"{uri}: an image or a scan; its text can be recognised after pip install 'tether[ocr]'"
        )
    try:
        return _load_engine()
    except ImportError as error:  # OpenCV's window code wants a library that servers lack
        raise SourceError(
            f"{uri}: text recognition cannot start ({error}); install the system's libGL "
            "(on Debian: apt install libgl1 libglib2.0-0)"
        ) from None


def _check_size(uri: str, image: "Image") -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(uri)


def _too_large(uri: str) -> SourceError:
    return SourceError(f"{uri}: more than {MAX_PIXELS // 10**6} million pixels; scale it down")


def _on_white(image: "Image") -> "Image":
    """Return the image in RGB; what is transparent becomes white, as on a page."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        image = image.point(lambda value: value / 256).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _fitted(image: "Image") -> "Image":
    """Return the image at a size that can be read: in small print the engine loses the spaces."""
    from PIL import Image

    if max(image.size) <= LONGEST_SIDE // 2:
        return image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return image


# --- Reading order -------------------------------------------------------------------------------


def _extent(corners: list[list[float]]) -> tuple[float, float, float, float]:
    across, down = zip(*corners, strict=True)
    return min(across), max(across), min(down), max(down)


def _blocks(pieces: list[_Piece]) -> list[list[_Piece]]:
    """Return the blocks to read one after the other: all, or the columns between wide lines."""
    gutter = _gutter(pieces)
    if gutter is None:
        return [pieces]
    blocks: list[list[_Piece]] = [[], [], []]  # wide lines, left, right, and so on
    for piece in sorted(pieces, key=lambda piece: piece.top):
        if piece.left < gutter < piece.right:
            if blocks[-2] or blocks[-1]:
                blocks += [[], [], []]
            blocks[-3].append(piece)
        else:
            blocks[-2 if piece.right <= gutter else -1].append(piece)
    return [block for block in blocks if block]


def _gutter(pieces: list[_Piece]) -> float | None:
    """Return where (in pixels) two columns of text part, None where there are no two."""
    if len(pieces) < 8:
        return None
    start, end = min(p.left for p in pieces), max(p.right for p in pieces)
    for gutter in sorted({p.right + 1 for p in pieces}, key=lambda x: abs(x - (start + end) / 2)):
        left = [p for p in pieces if p.right <= gutter]
        right = [p for p in pieces if p.left >= gutter]
        most = len(left) + len(right) >= 0.8 * len(pieces)
        if most and all(_is_column(side, end - start) for side in (left, right)):
            return gutter
    return None


def _is_column(pieces: list[_Piece], page_width: float) -> bool:
    """Tell a column of text from one of a table: it is wide, and its lines fill most of it."""
    if len(pieces) < 4:
        return False
    width = max(p.right for p in pieces) - min(p.left for p in pieces)
    return width >= 0.3 * page_width and median(p.right - p.left for p in pieces) >= 0.8 * width


def _lines(pieces: list[_Piece]) -> list[list[_Piece]]:
    """Group pieces to lines, top to bottom, with an empty line where there is a wide gap."""
    lines: list[list[_Piece]] = []
    for piece in sorted(pieces, key=lambda piece: piece.top + piece.bottom):
        centre = (piece.top + piece.bottom) / 2
        if lines and lines[-1][0].top <= centre <= lines[-1][0].bottom:
            lines[-1].append(piece)
        else:
            lines.append([piece])
    usual = median([piece.bottom - piece.top for piece in pieces]) if pieces else 0.0
    spaced: list[list[_Piece]] = []
    for line in lines:
        if spaced and line[0].top - spaced[-1][0].bottom > usual:
            spaced.append([])
        spaced.append(sorted(line, key=lambda piece: piece.left))
    return spaced


def _joined(line: list[_Piece]) -> str:
    text = ""
    for piece in line:
        glued = text and WIDE.match(text[-1]) and WIDE.match(piece.text[0])
        text += piece.text if glued or not text else " " + piece.text
    return text
