"""Read one file as a `Document`, by the parser of its format.

    document = load(Path("notes.md"))

`Document.text` is what all offsets count in. For plain text and Markdown it is the source itself
(less NULs and lone surrogates); for the others it is the text extracted here, blocks parted by
blank lines. What cannot be read faithfully is refused with a `SourceError`, never garbled.
Knows nothing of chunks, stores or models.
"""

import os
import stat
from pathlib import Path

from ingest.documents import TITLE_FROM_NAME, Document, content_id
from ingest.errors import SourceError
from ingest.languages import detect_language
from ingest.markup import parse_html, parse_markdown, parse_text
from ingest.office import parse_docx
from ingest.parsed import REMOVED, Parser, one_line
from ingest.pdf import parse_pdf

LOADER_VERSION = 2  # raise it when the same bytes would give another Document
MAX_BYTES = 200 * 1024 * 1024  # bytes per file


def load(path: Path, data: bytes | None = None) -> Document:
    """Return the document in a file.

    Args:
        path: A regular file with one of `SUPPORTED_SUFFIXES`.
        data: Its bytes, where the caller has read them with `read_bytes` already.

    Raises:
        SourceError: The file is of no supported format, unreadable, corrupt, protected by a
            password, or holds no text.
    """
    uri = uri_of(path)
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise SourceError(
            f"{uri}: unsupported format {suffix or '(no suffix)'}; convert it to one of "
            + " ".join(SUPPORTED_SUFFIXES)
        )
    media_type, parse = _FORMATS[suffix]
    parsed = parse(uri, read_bytes(path) if data is None else data)
    if not parsed.text.strip():
        raise SourceError(f"{uri}: holds no text; check the file or leave it out")
    title = one_line(parsed.title)
    return Document(
        id=content_id(parsed.text),
        uri=uri,
        title=title or path.stem,
        text=parsed.text,
        language=detect_language(parsed.text),
        media_type=media_type,
        metadata=parsed.metadata | ({} if title else TITLE_FROM_NAME),
        sections=parsed.sections,
    )


def uri_of(path: Path) -> str:
    """Return the absolute path with forward slashes.

    Raises:
        SourceError: The name is not valid Unicode, so it could not be stored.
    """
    uri = Path(os.path.abspath(path)).as_posix()
    if REMOVED.search(uri):
        shown = uri.encode("utf-8", "backslashreplace").decode()
        raise SourceError(f"{shown}: the name is not valid Unicode; rename the file")
    return uri


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file of at most `MAX_BYTES`.

    Raises:
        SourceError: The file is missing, not a regular file, too large, or unreadable.
    """
    uri = uri_of(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(f"{uri}: not a regular file; give a file or a folder of files")
        if status.st_size > MAX_BYTES:
            raise SourceError(
                f"{uri}: larger than {MAX_BYTES >> 20} MB; split it into smaller files"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise SourceError(f"{uri}: does not exist; check the path") from None
    except PermissionError:
        raise SourceError(f"{uri}: permission denied; grant yourself read permission") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{uri}: cannot be read ({reason}); check the path and disk") from None


_DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_FORMATS: dict[str, tuple[str, Parser]] = {
    ".txt": ("text/plain", parse_text),
    ".md": ("text/markdown", parse_markdown),
    ".markdown": ("text/markdown", parse_markdown),
    ".html": ("text/html", parse_html),
    ".htm": ("text/html", parse_html),
    ".pdf": ("application/pdf", parse_pdf),
    ".docx": (_DOCX, parse_docx),
}
SUPPORTED_SUFFIXES = tuple(_FORMATS)
