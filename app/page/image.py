"""Draws one page of a PDF, in a process of its own: hostile files meet PDFium nowhere else.

    with turns.take():
        png = page_image(data, page=3)

The process has a limit on time and memory, gets the file through a pipe and gives a PNG back. Turns
bound how many there are. Knows nothing of collections.
"""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from ingest.errors import ServiceBusy, SourceError

SECONDS = 20
MEMORY_BYTES = 1 << 30
LONGEST_SIDE = 1_600  # pixels of the picture
_SCALE = 2.0  # 144 dpi
AT_ONCE = 2  # pages: each takes a core, the file in memory, and up to `MEMORY_BYTES`
WAITING = 8  # more of them: each holds a thread of its door


class Turns:
    """Lets few pages be drawn at a time, a few more wait, and refuses the rest."""

    def __init__(self) -> None:
        """Begin with nobody's turn."""
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._asked = threading.BoundedSemaphore(AT_ONCE + WAITING)

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait for a turn, which lasts until the block ends.

        Raises:
            ServiceBusy: Too many wait already.
        """
        if not self._asked.acquire(blocking=False):
            raise ServiceBusy("too many pages are being drawn at this moment; try again")
        try:
            with self._places:
                yield
        finally:
            self._asked.release()


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
