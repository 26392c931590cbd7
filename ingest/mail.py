"""Mails as files (.eml): what they say, and what is attached to them.

Of the alternatives of a mail its plain text is read, or its HTML where there is none. Pictures that
only decorate the HTML are no attachments. Knows nothing of mailboxes or servers.
"""

import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import PurePosixPath

from ingest.archives import Budget, Member, Wanted, unique
from ingest.encodings import decode
from ingest.errors import SourceError
from ingest.markup import add_html, decode_html
from ingest.parsed import Parsed, Parser, TextBuilder, one_line

_SHOWN = ("From", "To", "Cc", "Date")
_EXPECTED = ("from", "to", "subject", "date", "received", "message-id")
_MAX_DEPTH = 50  # multiparts in multiparts
_MULTIPART = re.compile(rb"(?i)multipart/")
_MAX_MULTIPARTS = 1_000  # each level makes Python's parser look at every line once more


def parse_mail(uri: str, data: bytes) -> Parsed:
    """Return a mail's subject, its correspondents and date, and what it says."""
    message = _message(uri, data)
    builder = TextBuilder()
    builder.add(_header(message, "Subject"), level=1)
    lines = [f"{name}: {value}" for name in _SHOWN if (value := _header(message, name))]
    builder.add("\n".join(lines))
    encodings = []
    for part in _leaves(uri, message):
        if _is_body(part):
            encodings.append(_add_body(uri, part, builder))
    return builder.parsed("", {"encoding": " ".join(dict.fromkeys(encodings))})


def mail_members(
    uri: str, data: bytes, wanted: Wanted, budget: Budget
) -> Iterator[Member | SourceError]:
    """Yield the wanted attachments of a mail; a forwarded mail is an attachment too.

    Raises:
        SourceError: It is no mail.
        BudgetSpent: Too many attachments or too many bytes.
    """
    taken: set[str] = set()
    for part in _leaves(uri, _message(uri, data)):
        name = "" if _is_body(part) else _name(part)
        if name and wanted(name):
            budget.take_member()
            name = unique(name, taken)
            try:
                content = _content(part)
            except Exception as error:  # parsing and writing hostile mails fails in many ways
                reason = type(error).__name__
                yield SourceError(f"{uri}!/{name}: cannot be unpacked ({reason}); save it alone")
                continue
            budget.take_bytes(len(content))
            yield name, content


def _message(uri: str, data: bytes) -> EmailMessage:
    if sum(1 for _ in _MULTIPART.finditer(data)) > _MAX_MULTIPARTS:
        raise SourceError(f"{uri}: its parts are nested too deeply; save it as text")
    try:
        message = message_from_bytes(data.lstrip(), _class=EmailMessage, policy=policy.default)
        names = {name.lower() for name in message.keys()}  # noqa: SIM118 - iterating is by index
    except Exception as error:
        reason = type(error).__name__
        raise SourceError(f"{uri}: not a readable mail ({reason}); save it again") from None
    if not names & {*_EXPECTED}:
        raise SourceError(f"{uri}: not a mail, it has no subject or sender; save it again")
    return message


def _leaves(uri: str, message: EmailMessage, depth: int = 0) -> Iterator[EmailMessage]:
    """Yield the parts that hold no parts, of alternatives the body that reads best.

    Raises:
        SourceError: Parts are nested without end.
    """
    if depth > _MAX_DEPTH:
        raise SourceError(f"{uri}: its parts are nested too deeply; save it as text")
    if message.get_content_maintype() != "multipart" or not message.is_multipart():
        yield message
        return
    children = [
        list(_leaves(uri, part, depth + 1))
        for part in message.iter_parts()
        if isinstance(part, EmailMessage)
    ]
    chosen = -1
    if message.get_content_subtype() == "alternative":
        chosen = max(range(len(children)), key=lambda i: (_rank(children[i]), -i), default=-1)
    for index, leaves in enumerate(children):
        keeps_body = chosen in (-1, index)
        yield from (leaf for leaf in leaves if keeps_body or not _is_body(leaf))


def _rank(leaves: list[EmailMessage]) -> int:
    """Return how well an alternative reads: as plain text, as HTML, or not at all."""
    bodies = [leaf for leaf in leaves if _is_body(leaf) and _content(leaf).strip()]
    if any(leaf.get_content_subtype() == "plain" for leaf in bodies):
        return 2
    return 1 if bodies else 0


def _is_body(part: EmailMessage) -> bool:
    kind = part.get_content_type()
    return (
        kind in ("text/plain", "text/html")
        and part.get_content_disposition() != "attachment"
        and not part.get_filename()
    )


def _name(part: EmailMessage) -> str:
    """Return the file name of an attachment, "" where it is none."""
    decorates = part.get_content_maintype() == "image" and "content-id" in part
    if decorates and part.get_content_disposition() != "attachment":
        return ""
    is_mail = part.get_content_type() == "message/rfc822"
    name = one_line(part.get_filename() or "").replace("\\", "/")
    name = PurePosixPath(name).name
    if is_mail and not name.lower().endswith(".eml"):
        name = (name or "message") + ".eml"
    return name


def _content(part: EmailMessage) -> bytes:
    if part.get_content_type() == "message/rfc822":
        inner = part.get_payload(0)
        return bytes(inner) if isinstance(inner, EmailMessage) else b""
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _add_body(uri: str, part: EmailMessage, builder: TextBuilder) -> str:
    """Add what a part says and return its encoding."""
    content, charset = _content(part), part.get_content_charset()
    if part.get_content_subtype() == "html":
        source, encoding = decode_html(uri, content, charset)
        add_html(source, builder)
    else:
        text, encoding = decode(uri, content, charset)
        builder.add(text.replace("\r\n", "\n"))
    return encoding


def _header(message: EmailMessage, name: str) -> str:
    """Return a header in one line; raw bytes, which mails should not hold, are decoded too."""
    raw = next((str(v) for n, v in message.raw_items() if n.lower() == name.lower()), "")
    try:
        data = raw.encode("ascii", "surrogateescape")
        if not data.isascii():
            return one_line(decode("", data)[0])
        return one_line(str(message[name] or ""))
    except Exception:  # the header's syntax, or its encoding; the rest of the mail is fine
        return one_line(raw)


FORMATS: dict[str, tuple[str, Parser]] = {".eml": ("message/rfc822", parse_mail)}
