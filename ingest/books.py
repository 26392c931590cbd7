"""E-books (.epub): the chapters in reading order.

An EPUB is a zip archive of XHTML pages. Which they are, and in which order, stands in its package
document; their titles stand in its table of contents. Nothing outside the archive is ever read.
"""

import posixpath
import re
import zipfile
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from ingest.archives import Budget, BudgetSpent, open_zip, read_member
from ingest.errors import SourceError
from ingest.markup import add_html, decode_html
from ingest.parsed import Parsed, Parser, TextBuilder, one_line

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
# Scrambled fonts are no protection of the text.
_FONT_SCRAMBLING = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")
_HEADING = re.compile(r"<h[1-6][\s>]", re.IGNORECASE)
_VOID = "area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr"
# XHTML closes any empty element so; HTML would leave it open and swallow what follows.
_SELF_CLOSED = re.compile(rf"<(?!(?:{_VOID})\b)([A-Za-z][\w:-]*)((?:\s[^<>]*)?)/>", re.IGNORECASE)


def parse_epub(uri: str, data: bytes) -> Parsed:
    """Return the text of all chapters, each at "chapter N"."""
    try:
        with open_zip(uri, data) as archive:
            return _Book(uri, archive).parsed()
    except BudgetSpent as spent:
        raise SourceError(f"{uri}: {spent}") from None


@dataclass
class _Book:
    """An open archive and what may still be unpacked from it."""

    uri: str
    archive: zipfile.ZipFile
    budget: Budget = field(default_factory=Budget)

    def parsed(self) -> Parsed:
        """Return the chapters' text."""
        self._refuse_protected()
        containers = self._tree(_CONTAINER)
        paths = containers.xpath("//*[local-name()='rootfile']/@full-path")
        if not paths:
            raise self._unreadable("it names no package")
        package_path = str(paths[0])
        package = self._tree(package_path)
        pages, missing = self._pages(package, posixpath.dirname(package_path))
        titles = self._titles(package, posixpath.dirname(package_path))
        builder = TextBuilder()
        for number, page in enumerate(pages, start=1):
            builder.at(place=f"chapter {number}")
            self._add_page(page, titles.get(page, ""), builder)
        metadata = {"chapters": str(len(pages))} | ({"missing": str(missing)} if missing else {})
        parsed = builder.parsed("", metadata)
        names = package.xpath("//*[local-name()='metadata']/*[local-name()='title']/text()")
        return replace(parsed, title=one_line(names[0]) if names else parsed.title)

    def _add_page(self, path: str, title: str, builder: TextBuilder) -> None:
        source, _ = decode_html(f"{self.uri}!/{path}", self._read(path))
        if title and not _HEADING.search(source):
            builder.add(title, level=1)
        add_html(_SELF_CLOSED.sub(r"<\1\2></\1>", source), builder)

    def _pages(self, package: Any, folder: str) -> tuple[list[str], int]:  # noqa: ANN401
        """Return the paths of the chapters in reading order, and how many are missing."""
        items = {
            item.get("id"): item for item in package.xpath("//*[local-name()='manifest']/*[@href]")
        }
        pages, missing = [], 0
        for reference in package.xpath("//*[local-name()='spine']/*/@idref"):
            item = items.get(str(reference))
            if item is None:
                missing += 1
            elif item.get("media-type") in _PAGES and "nav" not in item.get("properties", ""):
                path = _resolve(folder, item.get("href"))
                if path in self.archive.NameToInfo:
                    pages.append(path)
                else:
                    missing += 1
        return list(dict.fromkeys(pages)), missing

    def _titles(self, package: Any, folder: str) -> dict[str, str]:  # noqa: ANN401 - from lxml
        """Return the titles that the table of contents gives to whole pages."""
        navigation = package.xpath(
            "//*[local-name()='manifest']/*[contains(concat(' ', @properties, ' '), ' nav ')]/@href"
            " | //*[local-name()='manifest']/*[@media-type='application/x-dtbncx+xml']/@href"
        )
        titles: dict[str, str] = {}
        for href in navigation:
            path = _resolve(folder, str(href))
            if path not in self.archive.NameToInfo:
                continue
            base = posixpath.dirname(path)
            tree = self._tree(path)
            for point in tree.xpath("//*[local-name()='navPoint'] | //*[local-name()='a'][@href]"):
                target = point.xpath("@href | *[local-name()='content']/@src")
                name = point.xpath("string(self::*[@href] | *[local-name()='navLabel'])")
                if target and one_line(name):
                    titles.setdefault(_resolve(base, str(target[0])), one_line(name))
        return titles

    def _refuse_protected(self) -> None:
        if _ENCRYPTION not in self.archive.NameToInfo:
            return
        methods = self._tree(_ENCRYPTION).xpath(
            "//*[local-name()='EncryptedData']/*[local-name()='EncryptionMethod']/@Algorithm"
        )
        if any(method not in _FONT_SCRAMBLING for method in methods):
            raise SourceError(
                f"{self.uri}: protected against copying (DRM); ingest a copy without protection"
            )

    def _read(self, path: str) -> bytes:
        info = self.archive.NameToInfo.get(path)
        if info is None:
            raise self._unreadable(f"{path} is missing")
        self.budget.take_member()
        return read_member(f"{self.uri}!/{path}", self.archive, info, self.budget)

    def _tree(self, path: str) -> Any:  # noqa: ANN401 - an lxml element
        from lxml import etree

        parser = etree.XMLParser(
            resolve_entities=False, no_network=True, load_dtd=False, recover=True
        )
        tree = etree.fromstring(self._read(path), parser)
        if tree is None:
            raise self._unreadable(f"{path} is no XML")
        return tree

    def _unreadable(self, reason: str) -> SourceError:
        return SourceError(f"{self.uri}: not a readable e-book, {reason}; download it again")


def _resolve(folder: str, href: str) -> str:
    """Return the path inside the archive that a reference leads to."""
    return posixpath.normpath(posixpath.join(folder, unquote(href.partition("#")[0])))


FORMATS: dict[str, tuple[str, Parser]] = {".epub": ("application/epub+zip", parse_epub)}
