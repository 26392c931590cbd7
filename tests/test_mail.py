"""Mails, written with Python's own `email`, and some that no library would write."""

from email.message import EmailMessage

import pytest

from ingest.errors import SourceError
from ingest.loaders import Entry, load_entry, unpack


def mail(subject: str = "季度报告") -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = "王芳 <wang@example.org>"
    message["To"] = "Li <li@example.org>"
    message["Date"] = "Mon, 02 Mar 2026 10:00:00 +0800"
    return message


def entry_of(message: EmailMessage | bytes) -> Entry:
    return Entry("/home/x.eml", "x.eml", message if isinstance(message, bytes) else bytes(message))


def test_subject_correspondents_and_body() -> None:
    message = mail()
    message.set_content("第一季度收入增长。\n\nSee you soon.\n")
    document = load_entry(entry_of(message))
    assert document.title == "季度报告"
    assert document.text == (
        "季度报告\n\nFrom: 王芳 <wang@example.org>\nTo: Li <li@example.org>\n"
        "Date: Mon, 02 Mar 2026 10:00:00 +0800\n\n第一季度收入增长。\n\nSee you soon."
    )
    assert (document.media_type, document.metadata) == ("message/rfc822", {"encoding": "utf-8"})


@pytest.mark.parametrize("charset", ["gb2312", "big5", "iso-2022-jp", "iso-8859-1", "utf-8"])
@pytest.mark.parametrize("cte", ["quoted-printable", "base64"])
def test_charsets(charset: str, cte: str) -> None:
    text = {
        "big5": "會議改到週三下午。",
        "iso-2022-jp": "会議は水曜日の午後です。",
        "iso-8859-1": "Die Sitzung wird auf übermorgen verschoben: ½ Stunde später.",
    }.get(charset, "会议改到周三下午。")
    message = mail("Subject")
    message.set_content(text, charset=charset, cte=cte)
    assert load_entry(entry_of(message)).text.endswith("\n\n" + text)


def test_plain_text_is_preferred_else_html() -> None:
    message = mail()
    message.set_content("Plain words.")
    message.add_alternative("<h2>Rich</h2><p>Rich words.</p>", subtype="html")
    text = load_entry(entry_of(message)).text
    assert "Plain words." in text
    assert "Rich" not in text
    html = mail()
    html.set_content("<h2>Agenda</h2><p>Rich <b>words</b>.</p>", subtype="html")
    document = load_entry(entry_of(html))
    assert document.text.endswith("Agenda\n\nRich words.")
    assert document.sections[-1].heading == "季度报告 > Agenda"


def test_attachments_are_entries() -> None:
    inner = mail("Forwarded")
    inner.set_content("Inner words.")
    inner.add_attachment(b"Deep.", maintype="text", subtype="plain", filename="deep.txt")
    message = mail()
    message.set_content("Body.")
    message.add_attachment(
        "名,值".encode("gb18030"), maintype="text", subtype="csv", filename="表格.csv"
    )
    message.add_attachment(b"x", maintype="application", subtype="octet-stream", filename="a.exe")
    message.add_attachment(
        b"Escaped.", maintype="text", subtype="plain", filename="../../etc/note.txt"
    )
    message.add_attachment(inner)
    found = [found for found in unpack(entry_of(message)) if isinstance(found, Entry)]
    assert [entry.uri.removeprefix("/home/") for entry in found] == [
        "x.eml",
        "x.eml!/表格.csv",
        "x.eml!/note.txt",
        "x.eml!/message.eml",
        "x.eml!/message.eml!/deep.txt",
    ]
    assert found[1].data == "名,值".encode("gb18030")
    assert load_entry(found[3]).text.endswith("Inner words.")
    assert "Inner" not in load_entry(found[0]).text


def test_raw_bytes_in_headers_are_decoded() -> None:
    raw = "Subject: 关于季度会议的通知\nFrom: a@example.org\n\nBody.".encode("gb18030")
    assert load_entry(entry_of(raw)).title == "关于季度会议的通知"


@pytest.mark.parametrize("data", [b"", b"just some words\n\nand more", bytes(range(256)) * 10])
def test_what_is_no_mail_is_refused(data: bytes) -> None:
    (found,) = unpack(entry_of(data))  # the mail itself: loading it tells
    assert isinstance(found, Entry)
    with pytest.raises(SourceError, match=r"not a mail.*; save it again"):
        load_entry(found)


@pytest.mark.parametrize(
    ("levels", "kind"), [(60, b"multipart"), (5_000, b"multipart"), (5_000, b"MultiPart")]
)
def test_endless_nesting_is_refused(levels: int, kind: bytes) -> None:
    head = b"Subject: x\nFrom: a@example.org\n"
    body = b"".join(
        b'Content-Type: %s/mixed; boundary="b%d"\n\n--b%d\n' % (kind, n, n) for n in range(levels)
    )
    with pytest.raises(SourceError, match="nested too deeply"):
        load_entry(entry_of(head + body))
