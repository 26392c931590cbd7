"""Draws one page of a PDF, in a process of its own: hostile files meet PDFium nowhere else.

    png = page_image(data, page=3)

The process has a limit on time and memory, gets the file through a pipe and gives a PNG back. Knows
nothing of collections.
"""

import subprocess
import sys
from io import BytesIO

from ingest.errors import SourceError

SECONDS = 20
MEMORY_BYTES = 1 << 30
LONGEST_SIDE = 1_600  # pixels of the picture
_SCALE = 2.0  # 144 dpi


def page_image(data: bytes, page: int) -> bytes:
    """Return a page as PNG.

    Args:
        data: The PDF.
        page: Its number, from 1.

    Raises:
        SourceError: The page cannot be drawn, or not within the limits.
    """
    command = [sys.executable, "-P", "-m", "app.page.image", str(page)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SourceError(f"page {page} cannot be drawn; open the PDF itself") from error
    return done.stdout


def _draw(data: bytes, page: int) -> bytes:
    import pypdfium2

    pdf = pypdfium2.PdfDocument(data)
    drawn = pdf[page - 1]
    scale = min(_SCALE, LONGEST_SIDE / max(drawn.get_size()))
    picture = BytesIO()
    drawn.render(scale=scale).to_pil().save(picture, "PNG")
    return picture.getvalue()


def _limit_memory() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _limit_memory()
    sys.stdout.buffer.write(_draw(sys.stdin.buffer.read(), int(sys.argv[1])))
