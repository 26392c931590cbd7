"""Read a file as `Document`s, by the parser of its format; look inside archives and mails.

    document = load(Path("notes.md"))
    for entry in unpack(read_entry(Path("reports.zip"))):
        document = load_entry(entry)  # where it is no SourceError

`Document.text` is what all offsets count in. For plain text, Markdown and source code it is the
source itself (less NULs and lone surrogates); for the others it is the text extracted here, blocks
parted by blank lines. What cannot be read faithfully is refused with a `SourceError`, never
garbled. Knows nothing of chunks, stores or models.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ingest import archives, books, code, mail, markup, ocr, office, pdf, tables
from ingest.archives import Budget, BudgetSpent, Member, Wanted
from ingest.documents import TITLE_FROM_NAME, Document, content_id
from ingest.errors import EmptySource, SourceError
from ingest.languages import detect_language
from ingest.parsed import REMOVED, Parser, one_line

LOADER_VERSION = 4  # raise it when the same bytes would give another Document
MAX_BYTES = archives.MAX_MEMBER_BYTES  # per file, and per entry of an archive

FORMATS: dict[str, tuple[str, Parser]] = {  # suffix to media type and parser
    **markup.FORMATS,
    **pdf.FORMATS,
    **ocr.FORMATS,
    **office.FORMATS,
    **tables.FORMATS,
    **books.FORMATS,
    **mail.FORMATS,
    **code.FORMATS,
}

Opener = Callable[[str, bytes, Wanted, Budget], Iterator[Member | SourceError]]
CONTAINERS: dict[str, tuple[Opener, int]] = {  # suffix to opener and levels it may be nested
    ".zip": (archives.zip_members, 2),
    ".eml": (mail.mail_members, 10),  # forwarded again and again
}
SUPPORTED_SUFFIXES = tuple(dict.fromkeys((*FORMATS, *CONTAINERS)))


@dataclass(frozen=True, slots=True)
class Entry:
    """Bytes with a name: a file, a member of an archive, an attachment, a downloaded file."""

    uri: str  # "/home/me/report.zip!/inner/a.txt" for a member
    name: str  # the file name with its suffix
    data: bytes


def load(path: Path, data: bytes | None = None) -> Document:
    """Return the document in a file.

    Args:
        path: A regular file of a supported format that is no archive.
        data: Its bytes, where the caller has read them with `read_bytes` already.

    Raises:
        SourceError: The file is of no supported format, unreadable, corrupt, protected by a
            password, or holds no text.
    """
    uri = uri_of(path)
    if path.suffix:
        _format_of(uri, path.name)  # before reading it
    return load_entry(Entry(uri, path.name, read_bytes(path) if data is None else data))


def load_entry(entry: Entry) -> Document:
    """Return the document in an entry, by the suffix of its name.

    Raises:
        EmptySource: The entry holds no text.
        SourceError: It is of no supported format, corrupt, or protected by a password.
    """
    media_type, parse = _format_of(entry.uri, entry.name, entry.data)
    parsed = parse(entry.uri, entry.data)
    if not parsed.text.strip():
        raise EmptySource(f"{entry.uri}: holds no text; check the file or leave it out")
    title = one_line(parsed.title)
    return Document(
        id=content_id(parsed.text),
        uri=entry.uri,
        title=title or PurePosixPath(entry.name).stem,
        text=parsed.text,
        language=detect_language(parsed.text),
        media_type=media_type,
        metadata=parsed.metadata | ({} if title else TITLE_FROM_NAME),
        sections=parsed.sections,
    )


def unpack(entry: Entry) -> Iterator[Entry | SourceError]:
    """Yield what an entry holds: itself, or the entries of an archive, level by level.

    A mail is yielded itself and then its attachments. A bad member is yielded as a `SourceError`
    and the others go on; unsupported formats inside are skipped, as in folders.
    """
    try:
        yield from _unpack(entry, Budget(), 0)
    except BudgetSpent as spent:
        yield SourceError(f"{entry.uri}: {spent}")


def _unpack(entry: Entry, budget: Budget, depth: int) -> Iterator[Entry | SourceError]:
    suffix = suffix_of(entry.name)
    if suffix not in CONTAINERS:
        yield entry
        return
    opener, deepest = CONTAINERS[suffix]
    if depth > deepest:
        yield SourceError(f"{entry.uri}: nested too deeply; unpack it and ingest the folder")
        return
    is_document = suffix in FORMATS
    if is_document:
        yield entry
    found = is_document
    try:
        for member in opener(entry.uri, entry.data, is_supported, budget):
            found = True
            if isinstance(member, SourceError):
                yield member
            else:
                name, data = member
                inner = Entry(f"{entry.uri}!/{name}", PurePosixPath(name).name, data)
                yield from _unpack(inner, budget, depth + 1)
    except SourceError as error:
        if not is_document:  # or loading it reports the same
            yield error
        return
    if not found:
        yield SourceError(f"{entry.uri}: holds no supported files; check it or leave it out")


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in lower case, with its dot; "" if there is none."""
    return PurePosixPath(name).suffix.lower()


def is_supported(name: str) -> bool:
    """Return whether a file of this name can be ingested here: pictures only with the extra."""
    suffix = suffix_of(name)
    if suffix in ocr.FORMATS and not ocr.is_installed():
        return False
    return suffix in SUPPORTED_SUFFIXES or name_is_text(name)


def name_is_text(name: str) -> bool:
    """Return whether a name without a suffix is one of a text by custom, such as README."""
    return PurePosixPath(name).name.lower() in code.NAMES


def _format_of(uri: str, name: str, data: bytes = b"") -> tuple[str, Parser]:
    suffix = suffix_of(name)
    if suffix in FORMATS:
        return FORMATS[suffix]
    if name_is_text(name) or (not suffix and data.startswith(b"#!")):
        return "text/plain", code.parse_source
    if suffix in CONTAINERS:
        raise SourceError(f"{uri}: an archive, not a document; ingest it as a whole")
    raise SourceError(
        f"{uri}: unsupported format {suffix or '(no suffix)'}; convert it to one of "
        + " ".join(SUPPORTED_SUFFIXES)
    )


def read_entry(path: Path) -> Entry:
    """Return a file's bytes under its uri and name.

    Raises:
        SourceError: As `uri_of` and `read_bytes`.
    """
    return Entry(uri_of(path), path.name, read_bytes(path))


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
        if status.st_size <= MAX_BYTES:
            with path.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)  # it may grow, or hide its size as in /proc
            if len(data) <= MAX_BYTES:
                return data
        raise SourceError(f"{uri}: larger than {MAX_BYTES >> 20} MB; split it into smaller files")
    except FileNotFoundError:
        raise SourceError(f"{uri}: does not exist; check the path") from None
    except PermissionError:
        raise SourceError(f"{uri}: permission denied; grant yourself read permission") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{uri}: cannot be read ({reason}); check the path and disk") from None
