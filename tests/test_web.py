"""Web pages, against a real server on loopback; names are resolved by a parameter, not a patch."""

import gzip
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from ingest.errors import SourceError
from ingest.sitemaps import pages
from ingest.web import Fetched, WebOptions, fetch, is_public, is_url
from ingest.webpages import entry_of, load_page

LOCAL = WebOptions(allow_private=True, timeout_seconds=20)
Answer = Callable[[BaseHTTPRequestHandler], object]


@dataclass
class Site:
    """A web server of this machine, with the requests it got."""

    port: int
    routes: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # path, Host, User-Agent

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def page(self, path: str, data: bytes | str, kind: str = "text/html", **more: str) -> str:
        body = data.encode() if isinstance(data, str) else data

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Type", kind)
            for name, value in more.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.routes[path] = answer
        return self.url(path)

    def redirect(self, path: str, target: str, status: int = 302) -> str:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.send_header("Location", target)
            handler.end_headers()

        self.routes[path] = answer
        return self.url(path)


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.asked.append((self.path, self.headers["Host"], self.headers["User-Agent"]))
            answer = here.routes.get(self.path)
            try:
                answer(self) if answer else self.send_error(404)
            except OSError:  # the client went away, as it should from a bad page
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Site(server.server_port)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield here
    server.shutdown()
    server.server_close()


def refusal(url: str, options: WebOptions = LOCAL) -> str:
    with pytest.raises(SourceError) as caught:
        fetch(url, options)
    assert "\n" not in str(caught.value) and "; " in str(caught.value)
    return str(caught.value)


# --- Which addresses may be spoken to ------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    """127.0.0.1 127.8.8.8 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 0.0.0.0
    0.1.2.3 100.64.0.1 100.100.100.200 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1
    203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16 :: ::1 fe80::1
    fe80::1%1 fc00::1 fd00:ec2::254 fec0::1 ff02::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1
    64:ff9b::7f00:1 64:ff9b:1::1 2002:7f00:1:: 2001:0:7f00:1::1 2001:db8::1 100::1 3fff::1
    5f00::1""".split(),
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(SourceError, match=r"--allow-private|never fetched"):
        fetch("http://example.com/", WebOptions(), resolve=lambda host, port: [address])


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "172.32.0.1"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "100.100.100.200", "fd00:ec2::254", "::ffff:169.254.169.254",
                "64:ff9b::a9fe:a9fe", "0.0.0.0", "224.0.0.1"],
)  # fmt: skip
def test_metadata_is_refused_even_in_a_private_network(address: str) -> None:
    with pytest.raises(SourceError, match="never fetched; save the page"):
        fetch("http://example.com/", LOCAL, resolve=lambda host, port: [address])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]"])
def test_loopback_is_refused_however_it_is_written(site: Site, host: str) -> None:
    site.page("/", "secret")
    assert "private network; if you trust it, pass --allow-private" in refusal(
        f"http://{host}/", WebOptions()
    )
    assert not site.asked


def test_unusual_ports_are_for_trusted_networks(site: Site) -> None:
    assert "port 25 is not one of" in refusal("http://example.com:25/", WebOptions())
    assert "--allow-private" in refusal(site.url("/"), WebOptions())


@pytest.mark.parametrize(
    "url",
    ["ftp://example.com/", "file:///etc/passwd", "http://", "http://[", "http://a b/", "x.html"],
)
def test_what_is_no_web_address(url: str) -> None:
    assert "address" in refusal(url)


def test_credentials_are_neither_sent_nor_shown(site: Site) -> None:
    message = refusal(f"http://someone:hidden@127.0.0.1:{site.port}/")
    assert "user name or password" in message and "hidden" not in message
    site.redirect("/go", f"http://someone:hidden@127.0.0.1:{site.port}/")
    assert "hidden" not in refusal(site.url("/go"))


def test_is_url() -> None:
    assert is_url("https://a.example/b") and is_url("HTTP://a.example")
    assert not any(map(is_url, ["a.html", "http", "/http://x", "ftp://a", "file:///a", "-"]))


# --- Names ---------------------------------------------------------------------------------------


def test_a_connection_goes_to_the_address_that_was_checked(site: Site) -> None:
    """The name exists for the parameter alone: were it resolved anew, nothing would be found."""
    site.page("/", "<p>Hello")
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    fetched = fetch(site.url("/", "wiki.invalid"), LOCAL, resolve)
    assert asked == ["wiki.invalid"]
    [(_, host, agent)] = site.asked
    assert host == f"wiki.invalid:{site.port}" and agent.startswith("Tether/")
    assert fetched.url == site.url("/", "wiki.invalid")


def test_a_name_that_is_bound_anew_is_checked_anew(site: Site) -> None:
    site.redirect("/", "/next")
    site.page("/next", "never reached")
    answers = iter(["127.0.0.1", "169.254.169.254"])
    with pytest.raises(SourceError, match="never fetched"):
        fetch(site.url("/", "flip.invalid"), LOCAL, lambda host, port: [next(answers)])
    assert [path for path, *_ in site.asked] == ["/"]


def test_only_the_allowed_ones_of_several_addresses_are_tried(site: Site) -> None:
    site.page("/", "x")
    mixed = ["169.254.169.254", "127.0.0.1"]
    assert fetch(site.url("/", "two.invalid"), LOCAL, lambda host, port: mixed).data == b"x"


def test_a_name_that_does_not_exist() -> None:
    assert "no such host; check" in refusal("http://nowhere.invalid/", WebOptions())


def test_the_environment_names_no_proxy(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(site.page("/", "direct"), LOCAL).data == b"direct"


# --- Redirects -----------------------------------------------------------------------------------


def test_redirects_lead_to_the_final_address(site: Site) -> None:
    site.redirect("/a", "/b?x=1", 301)
    site.redirect("/b?x=1", "c#part", 307)
    site.page("/c", "here")
    assert fetch(site.url("/a#top"), LOCAL).url == site.url("/c")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data/", "never fetched"),
        ("http://[::ffff:169.254.169.254]/", "never fetched"),
        ("file:///etc/passwd", "not a web address"),
        ("gopher://127.0.0.1/", "not a web address"),
        ("http://[oops", "address"),
    ],
)
def test_redirects_into_the_dark(site: Site, target: str, reason: str) -> None:
    assert reason in refusal(site.redirect("/", target))


def test_redirects_in_a_circle(site: Site) -> None:
    assert "more than 5 redirects; give" in refusal(site.redirect("/", "/"))
    assert len(site.asked) == 6


def test_the_body_of_a_redirect_is_not_read(site: Site) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/end")
        handler.end_headers()
        while True:  # until the client goes away
            handler.wfile.write(b"x" * 65536)

    site.routes["/"] = answer
    site.page("/end", "end")
    assert fetch(site.url("/"), LOCAL).data == b"end"


# --- Too much, too slow, broken ------------------------------------------------------------------


def test_a_body_without_end(site: Site) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 65536)

    site.routes["/"] = answer
    assert "larger than 1 MB; save" in refusal(site.url("/"), replace(LOCAL, max_bytes=1 << 20))


def test_a_gzip_bomb(site: Site) -> None:
    bomb = gzip.compress(bytes(50 << 20))
    assert len(bomb) < 100_000
    url = site.page("/", bomb, Content_Encoding="gzip")
    assert "larger than 1 MB" in refusal(url, replace(LOCAL, max_bytes=1 << 20))


def test_content_encodings(site: Site) -> None:
    packed = gzip.compress("你好".encode())
    assert fetch(site.page("/", packed, Content_Encoding="gzip"), LOCAL).data.decode() == "你好"
    for path, encoding in (("/br", "br"), ("/twice", "gzip, gzip")):
        assert "nobody asked for" in refusal(site.page(path, packed, Content_Encoding=encoding))
    assert "damaged" in refusal(site.page("/cut", packed[:9], Content_Encoding="gzip"))


@pytest.mark.parametrize("headers_first", [True, False])
def test_a_server_that_drips(site: Site, headers_first: bool) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if headers_first:
            handler.send_response(200)
            handler.end_headers()
        else:
            handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
        while True:
            handler.wfile.write(b"x")
            time.sleep(0.02)

    site.routes["/"] = answer
    message = refusal(site.url("/"), replace(LOCAL, timeout_seconds=0.3))
    assert "took longer than 0.3 s; try again" in message


def test_servers_that_fail(site: Site) -> None:
    assert "answers 404; check the address" in refusal(site.url("/nothing"))
    site.routes["/junk"] = lambda handler: handler.wfile.writelines([b"\0 not http\r\n\r\n"])
    assert "cannot be reached" in refusal(site.url("/junk"))
    site.page("/short", "abc", Content_Length="100")
    assert "cannot be reached" in refusal(site.url("/short"))
    assert "video/mp4" in refusal(site.page("/film", b"\0", kind="video/mp4"))
    assert "cannot be reached" in refusal("http://127.0.0.1:9/")


# --- Documents -----------------------------------------------------------------------------------

MANUAL = """<!doctype html><html><head><title>The Manual - Pumps Inc</title></head><body>
<nav><a href="/">Home</a><a href="/shop">Buy our pumps today</a></nav>
<main><h1>The Manual</h1>
<p>This paragraph says that the pump has to run through the whole night, all of its valves open.</p>
<h2>Installing</h2><p>First the pump is put on the floor, then its valves are opened by hand.</p>
<ul><li>open valve A</li><li>open valve B</li></ul>
<h2>Prices</h2><table><tr><th>Part</th><th>Price</th></tr><tr><td>Valve</td><td>12 EUR</td></tr>
</table><h3>安装</h3><p>首先把水泵放在地上，然后依次打开阀门。阀门甲和阀门乙，都要手动打开。</p></main>
<aside>Subscribe to our newsletter</aside><footer>All rights reserved</footer></body></html>"""


def test_the_main_content_of_a_page(site: Site) -> None:
    site.redirect("/old", "/manual")
    site.page("/manual", MANUAL, "text/html; charset=UTF-8")
    document = load_page(fetch(site.url("/old"), LOCAL))
    assert document.uri == site.url("/manual")
    assert (document.title, document.media_type) == ("The Manual", "text/html")
    assert document.metadata == {"encoding": "utf-8"}
    blocks = document.text.split("\n\n")
    assert blocks[0] == "The Manual" and "安装" in blocks
    assert "- open valve A\n- open valve B" in blocks and "Part | Price\nValve | 12 EUR" in blocks
    for noise in ("Buy our pumps", "newsletter", "rights reserved"):
        assert noise not in document.text
    headings = [section.heading for section in document.sections]
    assert "The Manual > Prices > 安装" in headings


@pytest.mark.parametrize("kind", ["text/html; charset=gb2312", "text/html"])
def test_a_page_in_gb2312(site: Site, kind: str) -> None:
    source = MANUAL.replace("<head>", '<head><meta charset="gb2312">').encode("gb2312")
    document = load_page(fetch(site.page("/", source, kind), LOCAL))
    assert "阀门甲和阀门乙，都要手动打开。" in document.text
    assert document.metadata["encoding"] == "gb18030"


def test_the_charset_of_the_header_counts(site: Site) -> None:
    source = "<p>" + "日本語の文章です。これは漢字とかなの混じった文です。" * 3
    url = site.page("/", source.encode("shift_jis"), 'text/html; charset="Shift_JIS"')
    assert load_page(fetch(url, LOCAL)).text == source[3:]


def test_a_page_of_which_little_would_be_left(site: Site) -> None:
    cells = "".join(f"<div><span>Member {i}</span> <b>Room {i}</b></div>" for i in range(80))
    document = load_page(fetch(site.page("/", f"<title>Staff</title>{cells}"), LOCAL))
    assert all(f"Member {i} Room {i}" in document.text for i in range(80))
    assert document.title == "Staff"


def test_a_page_without_text(site: Site) -> None:
    with pytest.raises(SourceError, match="holds no text, maybe it is drawn by scripts; save"):
        load_page(fetch(site.page("/", "<script>draw()</script>"), LOCAL))


def test_other_formats_go_to_their_loaders(site: Site) -> None:
    document = load_page(
        fetch(site.page("/notes?id=3", "# Notes\n\nText.", "text/markdown"), LOCAL)
    )
    assert (document.media_type, document.title) == ("text/markdown", "Notes")
    document = load_page(fetch(site.page("/%E7%AC%94%E8%AE%B0.md", "Text.", "text/plain"), LOCAL))
    assert (document.media_type, document.title) == ("text/markdown", "笔记")
    with pytest.raises(SourceError, match="unsupported format"):
        load_page(fetch(site.page("/thing.xyz", b"\0\1", "application/octet-stream"), LOCAL))


@pytest.mark.parametrize(
    ("url", "media_type", "data", "name"),
    [
        ("https://a.example/x/report.pdf?a=b", "application/pdf", b"", "report.pdf"),
        ("https://a.example/download?id=1", "application/pdf", b"", "download.pdf"),
        ("https://a.example/get", "text/html", b"%PDF-1.7", "get.pdf"),
        ("https://a.example/b.zip", "application/zip", b"", "b.zip"),
        ("https://a.example/", "text/plain", b"", "a.example.txt"),
        ("https://a.example/..%2F..%2Fetc%2Fpasswd", "text/plain", b"", "passwd.txt"),
    ],
)
def test_file_names(url: str, media_type: str, data: bytes, name: str) -> None:
    assert entry_of(Fetched(url, media_type, "", data)).name == name


# --- Sitemaps ------------------------------------------------------------------------------------


def sitemap(*addresses: str, kind: str = "urlset") -> str:
    entry = "url" if kind == "urlset" else "sitemap"
    listed = "".join(f"<{entry}><loc>\n {a} </loc></{entry}>" for a in addresses)
    return f'<?xml version="1.0"?><{kind} xmlns="http://sitemaps.example/0.9">{listed}</{kind}>'


def listing(url: str, options: WebOptions = LOCAL) -> tuple[list[str], str]:
    found = list(pages(url, options))
    return [page for page in found if isinstance(page, str)], "\n".join(
        str(page) for page in found if isinstance(page, SourceError)
    )


def test_an_ordinary_address_stands_for_itself(site: Site) -> None:
    assert listing("https://a.example/b") == (["https://a.example/b"], "")
    feed = site.page("/feed.xml", "<rss><channel/></rss>", "text/xml")
    assert listing(feed) == ([feed], "")


def test_a_sitemap_index(site: Site) -> None:
    a, b, c = (site.url(path) for path in ("/a", "/b?x=1&amp;y=2", "/c"))
    site.page("/one.xml", sitemap(a, b, a))
    packed = gzip.compress(sitemap(c, b).encode())
    site.page("/two.xml.gz", packed, "application/gzip")
    index = site.page(
        "/sitemap.xml",
        sitemap(
            *map(site.url, ["/one.xml", "/gone.xml", "/two.xml.gz", "/sitemap.xml", "/one.xml"]),
            kind="sitemapindex",
        ),
    )
    found, errors = listing(index)
    assert found == [a, site.url("/b?x=1&y=2"), c]
    assert errors == f"{site.url('/gone.xml')}: the server answers 404; check the address"


def test_robots_and_other_sites_are_heeded_and_reported(site: Site) -> None:
    site.page("/robots.txt", "User-agent: *\nDisallow: /private/\n", "text/plain")
    url = site.page(
        "/sitemap.xml",
        sitemap(
            site.url("/open"), site.url("/private/x"), "http://127.0.0.1:1/", "ftp://x/", "nonsense"
        ),
    )
    found, errors = listing(url)
    assert found == [site.url("/open")]
    assert "lists 1 addresses of other sites" in errors and "robots.txt keeps" in errors
    assert "'ftp://x/': not a web address" in errors and "'nonsense'" in errors
    assert [path for path, *_ in site.asked] == ["/sitemap.xml", "/robots.txt"]


def test_robots_out_of_order_means_no(site: Site) -> None:
    site.routes["/robots.txt"] = lambda handler: handler.send_error(503)
    found, errors = listing(site.page("/sitemap.xml", sitemap(site.url("/a"))))
    assert found == [] and "answers 503" in errors


def test_sitemaps_are_bounded(site: Site) -> None:
    many = [site.url(f"/{i}") for i in range(30)]
    url = site.page("/sitemap.xml", sitemap(*many))
    found, errors = listing(url, replace(LOCAL, max_pages=10))
    assert found == many[:10] and "lists more than 10 pages, left out; give" in errors
    assert listing(url, replace(LOCAL, max_pages=30)) == (many, "")
    bomb = site.page("/bomb.xml.gz", gzip.compress(bytes(20 << 20)), "application/gzip")
    assert "larger than 1 MB" in listing(bomb, replace(LOCAL, max_bytes=1 << 20))[1]


def test_hostile_sitemaps(site: Site) -> None:
    laughs = '<!DOCTYPE u [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>' + sitemap("&b;")[21:]
    for path, text in {"/laughs.xml": laughs, "/cut.xml": sitemap(site.url("/a"))[:-20]}.items():
        found, errors = listing(site.page(path, text))
        assert found == [site.url(path)] if path == "/laughs.xml" else "damaged sitemap" in errors
    assert "private network" in listing("http://10.0.0.1/sitemap.xml", WebOptions())[1]
    assert listing("http://[/sitemap.xml")[1]
