"""Sitemaps: the pages of a site that its own list names and its robots.txt leaves to us.

    for page in pages("https://example.com/sitemap.xml", WebOptions()):
        fetched = fetch(page, WebOptions())

Lists are a stranger's: what they name is counted, kept to their own site, and checked like any
other address. Knows nothing of what the pages say.
"""

from collections import deque
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING
from urllib.robotparser import RobotFileParser

from ingest.errors import SourceError
from ingest.web import (
    BadStatus,
    Fetched,
    Resolve,
    WebOptions,
    checked,
    fetch,
    resolve_host,
    ungzip,
)

if TYPE_CHECKING:
    import httpx

MAX_SITEMAPS = 500  # files of one sitemap index that are read


def pages(
    url: str, options: WebOptions, resolve: Resolve = resolve_host
) -> Iterator[str | SourceError]:
    """Yield the addresses of the pages that an address stands for.

    A sitemap or sitemap index (.xml, .xml.gz) stands for the pages of its own site that it lists
    and that the site's robots.txt leaves to us; anything else stands for itself.

    Yields:
        Addresses, and a `SourceError` for each part that cannot be listed or is left out.
    """
    path = url.partition("#")[0].partition("?")[0]
    if not path.lower().endswith((".xml", ".xml.gz")):
        yield url
        return
    try:
        yield from _Sitemaps(url, options, resolve).walk()
    except SourceError as error:
        yield error


class _Sitemaps:
    """One sitemap with all sitemaps it names."""

    def __init__(self, url: str, options: WebOptions, resolve: Resolve) -> None:
        self._options, self._resolve = options, resolve
        self._url = url
        self._site: tuple[str, int | None] | None = None
        self._waiting = deque([url])
        self._seen = {url}
        self._robots: dict[str, RobotFileParser] = {}
        self._foreign = self._forbidden = 0

    def walk(self) -> Iterator[str | SourceError]:
        """Yield what `pages` yields."""
        count = opened = 0
        while self._waiting:
            opened += 1
            if opened > MAX_SITEMAPS:
                yield self._left_out(f"names more than {MAX_SITEMAPS} sitemaps")
                break
            try:
                for page in self._pages_of(self._waiting.popleft()):
                    if isinstance(page, str) and count == self._options.max_pages:
                        yield self._left_out(f"lists more than {count} pages")
                        return
                    count += isinstance(page, str)
                    yield page
            except SourceError as error:
                yield error
        if self._foreign:
            yield self._left_out(f"lists {self._foreign} addresses of other sites")
        if self._forbidden:
            yield self._left_out(f"lists {self._forbidden} pages that robots.txt keeps from robots")

    def _left_out(self, what: str) -> SourceError:
        return SourceError(f"{self._url}: {what}, left out; give those you need one by one")

    def _pages_of(self, sitemap: str) -> Iterator[str | SourceError]:
        """Yield the pages one sitemap lists; the sitemaps it names go to the waiting list."""
        fetched = fetch(sitemap, self._options, self._resolve)
        self._site = self._site or _site_of(checked(fetched.url, self._options))
        kind, addresses = _read_sitemap(fetched, self._options.max_bytes)
        if not kind:
            if sitemap != self._url:
                raise SourceError(f"{sitemap}: is no sitemap; check the one that names it")
            yield sitemap
        for address in addresses:
            if address not in self._seen:
                self._seen.add(address)
                try:
                    if self._is_page(address, kind):
                        yield address
                except SourceError as error:
                    yield error

    def _is_page(self, address: str, kind: str) -> bool:
        url = checked(address, self._options)
        if _site_of(url) != self._site:
            self._foreign += 1
        elif kind == "sitemapindex":
            self._waiting.append(address)
        elif self._may_fetch(url):
            return True
        else:
            self._forbidden += 1
        return False

    def _may_fetch(self, url: "httpx.URL") -> bool:
        home = str(url.copy_with(raw_path=b"/robots.txt"))
        if home not in self._robots:
            robots = RobotFileParser()
            try:
                rules = fetch(home, self._options, self._resolve).data.decode("utf-8", "replace")
            except BadStatus as error:
                if error.status >= 500:  # RFC 9309: out of order means no
                    raise
                rules = ""
            robots.parse(rules.splitlines())
            self._robots[home] = robots
        return self._robots[home].can_fetch("Tether", str(url))


def _site_of(url: "httpx.URL") -> tuple[str, int | None]:
    """Return what two addresses of one site share: the host, less "www.", and its unusual port."""
    return url.host.removeprefix("www."), url.port


def _read_sitemap(fetched: Fetched, max_bytes: int) -> tuple[str, list[str]]:
    """Return ("urlset" or "sitemapindex", addresses); ("", []) for anything else."""
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    data = fetched.data
    if data.startswith(b"\x1f\x8b"):
        data = ungzip(fetched.url, data, max_bytes)
    namespace = kind = ""
    addresses = []
    try:
        for event, element in iterparse(BytesIO(data), events=("start", "end")):
            if not kind:
                namespace, _, kind = element.tag.rpartition("}")
                if kind not in ("urlset", "sitemapindex"):
                    return "", []
                prefix = namespace + "}" if namespace else ""
            if event == "end" and element.tag == f"{prefix}loc":  # not the image:loc of an image
                addresses.append((element.text or "").strip())
            if event == "end":
                element.clear()
    except (ParseError, DefusedXmlException, LookupError, ValueError):
        if kind:
            raise SourceError(f"{fetched.url}: a damaged sitemap; give its pages") from None
        return "", []
    return kind, list(filter(None, addresses))
