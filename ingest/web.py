"""The web: from an address to bytes, without opening a door into the local network.

    fetched = fetch("https://example.com/guide", WebOptions())

An address may come from a stranger (a sitemap, a redirect), so a connection goes only to an
address that was checked just before: the name is resolved once, what it resolves to is checked,
and the socket is opened to exactly that. Redirects take the same way. Proxies are not used, since
a proxy would resolve the name anew; cookies are not kept. Sizes, times and counts are bounded.
Knows nothing of what the bytes say: lists of pages are the business of `sitemaps`, pages that of
`webpages`.
"""

import gzip
import ipaddress
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from typing import TYPE_CHECKING, cast

from ingest.errors import SourceError
from ingest.parsed import one_line

if TYPE_CHECKING:
    import httpcore
    import httpx

MAX_REDIRECTS = 5
# A stranger's list must not make us talk to a public host's mail or database server.
PORTS = (80, 443, 8080, 8443)
Resolve = Callable[[str, int], Sequence[str]]  # host, port -> IP addresses


@dataclass(frozen=True, slots=True)
class WebOptions:
    """What may be fetched, and how much of it."""

    allow_private: bool = False  # loopback and private networks, and any port
    max_bytes: int = 50 * 1024 * 1024  # bytes of one page, unpacked
    timeout_seconds: float = 60.0  # for one page with all its redirects
    max_pages: int = 10_000  # of one sitemap


@dataclass(frozen=True, slots=True)
class Fetched:
    """What an address answered."""

    url: str  # after redirects
    media_type: str  # in lower case, "" where the server names none
    charset: str  # "" where the server names none
    data: bytes  # unpacked


class BadStatus(SourceError):
    """The server answers, but not with a page."""

    def __init__(self, url: str, status: int) -> None:
        """Keep the status, beside the line that tells it."""
        super().__init__(f"{url}: the server answers {status}; check the address")
        self.status = status


def is_url(text: str) -> bool:
    """Tell an http or https address from a path."""
    return text.lower().startswith(("http://", "https://"))


# --- Which addresses may be spoken to ------------------------------------------------------------

_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")  # all of IPv6 that is given to public hosts
_LOCAL_IPV6 = ipaddress.ip_network("fc00::/7")
_NOT_PUBLIC = [  # what `is_global` of some Python versions lets pass
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments, a cloud's metadata among them
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # a cloud's metadata
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4 carries any IPv4 address
        "3fff::/20",
    )
]
_METADATA = [  # of clouds: credentials, for whoever asks; no one's documents
    ipaddress.ip_network(network)
    for network in (
        *("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128"),
        *("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),
    )
]


def is_public(address: str) -> bool:
    """Tell whether an IP address (no name) is that of a host in the public internet."""
    ip = ipaddress.ip_address(address)
    if not ip.is_global or ip.is_multicast or ip.is_reserved or ip.is_unspecified:
        return False
    if ip.version == 6 and ip not in _GLOBAL_IPV6:  # IPv4-mapped and NAT64 addresses among them
        return False
    return not any(ip in network for network in _NOT_PUBLIC)


def _is_private_host(address: str) -> bool:
    """Tell whether an address is fit for `allow_private`: a host's, but no metadata service's."""
    ip = ipaddress.ip_address(address)
    # Not the forms of IPv6 that carry an address of IPv4: the metadata's could hide in them.
    plain = ip.version == 4 or ip.is_loopback or ip in _LOCAL_IPV6
    return plain and not (
        ip.is_multicast or ip.is_unspecified or any(ip in network for network in _METADATA)
    )


def resolve_host(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host, in the order of the system's resolver.

    Raises:
        OSError: There is no such host, or no resolver.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _allowed_addresses(host: str, port: int, options: WebOptions, resolve: Resolve) -> list[str]:
    try:
        addresses = resolve(host, port)
    except (OSError, UnicodeError):
        raise SourceError(f"{host}: no such host; check the address and the network") from None
    public = [address for address in addresses if is_public(address)]
    private = [address for address in addresses if _is_private_host(address)]
    if public or (private and options.allow_private):
        return public or private
    if private:
        raise SourceError(
            f"{host}: is in a local or private network; if you trust it, pass --allow-private"
        )
    raise SourceError(
        f"{host}: leads to a cloud's metadata or to no single host, which is never fetched; "
        "save the page as a file and give that"
    )


def checked(url: str, options: WebOptions) -> "httpx.URL":
    """Return an address that may be asked for, without its fragment.

    Raises:
        SourceError: It is no web address, holds a password, or names an unusual port.
    """
    import httpx

    try:
        parsed = httpx.URL(url.partition("#")[0])
    except httpx.InvalidURL:
        raise SourceError(f"{url[:200]!r}: not a valid web address; check it") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SourceError(f"{url[:200]!r}: not a web address; give one with http:// or https://")
    if parsed.userinfo:
        raise SourceError(
            f"{parsed.host}: the address holds a user name or password; leave it out, or save "
            "the page as a file and give that"
        )
    if parsed.port not in (None, *PORTS) and not options.allow_private:
        raise SourceError(
            f"{parsed.host}: port {parsed.port} is not one of a public web server; if you trust "
            "it, pass --allow-private"
        )
    return parsed


# --- Fetching ------------------------------------------------------------------------------------


class _Network:
    """An `httpcore.NetworkBackend` that opens connections to checked addresses only.

    Not a subclass, so that httpcore is imported only when something is fetched.
    """

    def __init__(self, options: WebOptions, resolve: Resolve, ends: float) -> None:
        from httpcore import SyncBackend

        self._options, self._resolve, self._ends = options, resolve, ends
        self._backend = SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: "Iterable[httpcore.SOCKET_OPTION] | None" = None,
    ) -> "_Stream":
        """Connect to the first of the host's checked addresses that answers."""
        from httpcore import ConnectError

        failure: Exception = ConnectError("no address")
        for address in _allowed_addresses(host, port, self._options, self._resolve):
            try:
                left = _left(self._ends)
                return _Stream(self._backend.connect_tcp(address, port, timeout=left), self._ends)
            except ConnectError as error:
                failure = error
        raise failure


class _Stream:
    """An `httpcore.NetworkStream` of which all operations together end in time.

    A timeout for each operation would not do: a server that sends a byte now and then keeps it.
    """

    def __init__(self, stream: "httpcore.NetworkStream", ends: float) -> None:
        self._stream, self._ends = stream, ends

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read in the time that is left."""
        return self._stream.read(max_bytes, _left(self._ends))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write in the time that is left."""
        self._stream.write(buffer, _left(self._ends))

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> "_Stream":
        """Return an encrypted stream; the certificate must be that of the host's name."""
        secure = self._stream.start_tls(ssl_context, server_hostname, _left(self._ends))
        return _Stream(secure, self._ends)

    def get_extra_info(self, info: str) -> object:
        """Return what the connection knows of itself."""
        return self._stream.get_extra_info(info)


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()


@lru_cache(maxsize=1)
def _headers() -> Mapping[str | bytes, str | bytes]:
    try:
        number = version("tether")
    except PackageNotFoundError:  # run from a checkout
        number = "0"
    return {
        "User-Agent": f"Tether/{number}",
        "Accept": "text/html,application/xhtml+xml,*/*;q=0.5",
        "Accept-Encoding": "gzip",  # the one that is unpacked within bounds here
    }


def fetch(url: str, options: WebOptions, resolve: Resolve = resolve_host) -> Fetched:
    """Return what stands at an address, following up to `MAX_REDIRECTS` redirects.

    Args:
        url: An http or https address.
        options: What is allowed, and how much of it.
        resolve: Turns a host name into IP addresses; called once a connection.

    Raises:
        SourceError: The address is not allowed or leads to one that is not, the server fails, or
            what it sends is too large, too slow or no document.
    """
    import httpcore

    network = _Network(options, resolve, time.monotonic() + options.timeout_seconds)
    backend = cast("httpcore.NetworkBackend", network)
    try:
        here = checked(url, options)
        with httpcore.ConnectionPool(ssl_context=_tls(), network_backend=backend) as pool:
            for _ in range(MAX_REDIRECTS + 1):
                answer = _get(pool, here, options)
                if isinstance(answer, Fetched):
                    return answer
                here = answer
    except (httpcore.TimeoutException, TimeoutError):
        raise SourceError(
            f"{here}: took longer than {options.timeout_seconds:g} s; try again later, or save "
            "the page as a file and give that"
        ) from None
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        reason = one_line(str(error))[:200] or type(error).__name__
        raise SourceError(f"{here}: cannot be reached ({reason}); check the address") from None
    raise SourceError(f"{url}: more than {MAX_REDIRECTS} redirects; give the final address")


def _get(
    pool: "httpcore.ConnectionPool", url: "httpx.URL", options: WebOptions
) -> "Fetched | httpx.URL":
    """Ask once; return the answer or the address it redirects to."""
    from httpx import InvalidURL

    with pool.stream("GET", str(url), headers=_headers()) as response:
        head = {name.decode("latin-1").lower(): value for name, value in response.headers}
        if response.status in (301, 302, 303, 307, 308) and "location" in head:
            location = head["location"].decode("utf-8", "replace")
            try:
                return checked(str(url.join(location)), options)
            except InvalidURL:
                raise SourceError(f"{url}: redirects to no address; check it") from None
        if response.status != 200:
            raise BadStatus(str(url), response.status)
        media_type, charset = _content_type(head.get("content-type", b"").decode("latin-1"))
        if media_type.startswith(("audio/", "video/", "font/")):
            raise SourceError(f"{url}: is {media_type}; give the address of a page or a document")
        data = _read(str(url), response.iter_stream(), options.max_bytes)
        encoding = head.get("content-encoding", b"identity").strip().lower()
    if encoding == b"gzip":
        data = ungzip(str(url), data, options.max_bytes)
    elif encoding not in (b"", b"identity"):
        raise SourceError(
            f"{url}: is compressed in a way nobody asked for; save the page as a file and give that"
        )
    return Fetched(str(url), media_type, charset, data)


def _content_type(header: str) -> tuple[str, str]:
    from email.message import Message

    message = Message()
    message["Content-Type"] = one_line(header)
    named = header.strip() != "" and "/" in header
    charset = message.get_content_charset("") if named else ""
    return (message.get_content_type() if named else ""), charset


def _read(url: str, pieces: Iterable[bytes], max_bytes: int) -> bytes:
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) > max_bytes:
            raise _too_large(url, max_bytes)
    return bytes(data)


def ungzip(url: str, data: bytes, max_bytes: int) -> bytes:
    """Return what was compressed by gzip.

    Raises:
        SourceError: It is damaged or larger than `max_bytes`.
    """
    try:
        unpacked = gzip.GzipFile(fileobj=BytesIO(data)).read(max_bytes + 1)
    except (OSError, EOFError, zlib.error):
        raise SourceError(f"{url}: its compression is damaged; try again later") from None
    if len(unpacked) > max_bytes:
        raise _too_large(url, max_bytes)
    return unpacked


def _too_large(url: str, max_bytes: int) -> SourceError:
    return SourceError(
        f"{url}: larger than {max_bytes / (1 << 20):g} MB; save it as a file and split it"
    )
