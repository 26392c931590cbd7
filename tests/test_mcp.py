"""The tools over MCP, called by the protocol's official client: over HTTP and standard input."""

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from app.http.server import build_app
from app.mcp_server import DATA
from app.service import Service
from tests.serving_parts import BRIDGE, DRAFT, QUESTION, TEA, GatedGenerator, make_service, served
from tests.test_service import upload

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"encoder.model": "hashing", "generator.backend": "none"}


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    with make_service(home) as made:
        upload(made, "tea.md", TEA)
        upload(made, "bridge.md", BRIDGE, "bridges")
        yield made


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    with served(build_app(service)) as address:
        yield f"{address}/mcp"


def with_client(server: object, use: Callable[[Client], Awaitable[None]], **options: Any) -> None:  # noqa: ANN401
    """Run a coroutine with a connected client."""

    async def run() -> None:
        async with Client(server, read_timeout_seconds=120, **options) as client:  # type: ignore[arg-type]
            await use(client)

    asyncio.run(run())


def message_of(result: CallToolResult) -> str:
    """Return the one text of a result."""
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def error_of(result: CallToolResult) -> str:
    """Return the message of a failed call: one line with a remedy."""
    message = message_of(result)
    assert result.is_error and result.structured_content is None
    assert ";" in message and "\n" not in message
    return message


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_both_tools_over_http(url: str, service: Service, mode: str) -> None:
    async def use(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"search", "ask"}
        assert all(DATA in str(tool.description) and tool.output_schema for tool in tools.values())
        called = await client.call_tool("ask", {"question": QUESTION, "collection": "bridges"})
        answer = called.structured_content
        assert (answer["status"], answer["text"]) == ("supported", DRAFT)
        assert json.loads(message_of(called)) == answer
        (claim,) = answer["claims"]
        (cited,) = claim["citations"]
        document = service.document(cited["document"], collection="bridges")
        assert document is not None and claim["support"] > 0.5
        assert document.text[cited["start"] : cited["end"]] == cited["quote"]
        assert "Ola Fenn" in cited["quote"] and cited["uri"].endswith("bridge.md")
        called = await client.call_tool("search", {"query": "tea harvest", "top_k": 1})
        (passage,) = called.structured_content["passages"]
        assert "April" in passage["text"]
        abstained = (await client.call_tool("ask", {"question": QUESTION})).structured_content
        assert (abstained["status"], abstained["claims"]) == ("abstained", [])

    with_client(url, use, mode=mode)


def test_everybody_sees_their_own_collections_alone(home: Path) -> None:
    with make_service(home) as service, served(build_app(service)) as address:
        people = {name: service.users.add(name) for name in ("ada", "bo")}
        service.upload([("bridge.md", io.BytesIO(BRIDGE))], collection="own", person=people["ada"])
        called: dict[str, CallToolResult] = {}
        for name in people:

            async def use(client: Client, name: str = name) -> None:
                arguments = {"question": QUESTION, "collection": "own"}
                called[name] = await client.call_tool("ask", arguments)

            token = {"Authorization": f"Bearer {service.users.issue_token(name)}"}
            http = httpx2.AsyncClient(headers=token, timeout=120)
            with_client(streamable_http_client(f"{address}/mcp", http_client=http), use)
        assert called["ada"].structured_content["text"] == DRAFT
        assert "there is no collection own for you" in error_of(called["bo"])
        assert httpx.post(f"{address}/mcp", json={}).status_code == 401


def test_errors_say_what_to_do_and_repeat_nothing(url: str) -> None:
    async def use(client: Client) -> None:
        unknown = await client.call_tool("ask", {"question": QUESTION, "collection": "nowhere"})
        assert "nowhere" in error_of(unknown)
        assert "question is empty" in error_of(await client.call_tool("ask", {"question": " "}))
        for arguments in (
            {},
            {"query": ["secret"]},
            {"query": "x", "top_k": 1000},
            {"query": "x", "colection": "secret"},
        ):
            refused = error_of(await client.call_tool("search", arguments))
            assert "schema" in refused and "secret" not in refused
        with pytest.raises(MCPError, match="use search or ask"):
            await client.call_tool("delete", {})

    with_client(url, use)
    foreign = httpx.post(url, headers={"origin": "https://evil.example"}, json={})
    assert foreign.status_code == 403
    opened = httpx.get(url)
    assert (opened.status_code, opened.headers["allow"]) == (405, "POST")
    assert "POST only" in opened.json()["error"]["message"]


def test_a_waiting_call_tells_its_place_and_one_that_is_left_frees_it(home: Path) -> None:
    gated = GatedGenerator()
    places: list[str | None] = []
    with make_service(home, gated, generator__slots="1") as service:
        upload(service, "bridge.md", BRIDGE)

        async def use(client: Client) -> None:
            running = asyncio.create_task(client.call_tool("ask", {"question": QUESTION}))
            assert await asyncio.to_thread(gated.wait_until_inside, 1)
            has_place = asyncio.Event()

            async def tell(progress: float, total: float | None, message: str | None) -> None:
                del progress, total
                places.append(message)
                has_place.set()

            waiting = asyncio.create_task(
                client.call_tool("ask", {"question": QUESTION}, progress_callback=tell)
            )
            await asyncio.wait_for(has_place.wait(), 60)
            running.cancel()
            gated.gate.set()
            assert (await waiting).structured_content["text"] == DRAFT

        with served(build_app(service)) as address:
            with_client(f"{address}/mcp", use)
        assert places[0] == "position 1 in the line"
        assert service.load() == (0, 0)


def command(home: Path) -> StdioServerParameters:
    """Return how `tether mcp` is started without models."""
    assignments = [word for one in SETTINGS.items() for word in ("--set", "=".join(one))]
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "app.cli", *assignments, "mcp", "--collection", "bridges"],
        env={"TETHER_HOME": str(home)},
        cwd=ROOT,
    )


def test_both_tools_over_standard_input(home: Path, service: Service) -> None:
    async def use(client: Client) -> None:
        assert {tool.name for tool in (await client.list_tools()).tools} == {"search", "ask"}
        called = await client.call_tool("search", {"query": QUESTION})
        assert "Ola Fenn" in called.structured_content["passages"][0]["text"]
        answer = (await client.call_tool("ask", {"question": QUESTION})).structured_content
        assert answer["status"] == "supported"
        assert "Ola Fenn" in answer["claims"][0]["citations"][0]["quote"]
        assert "nowhere" in error_of(
            await client.call_tool("ask", {"question": QUESTION, "collection": "nowhere"})
        )

    del service  # its documents are read by the process
    with (home / "log").open("w") as log:
        with_client(stdio_client(command(home), errlog=log), use)
    lines = [json.loads(line) for line in (home / "log").read_text("utf-8").splitlines()]
    assert any(line["message"].startswith("ready") for line in lines)
    assert not any("Zarnith" in json.dumps(line) for line in lines)


def test_nonsense_is_survived_and_a_client_that_vanishes_ends_the_process(home: Path) -> None:
    started = command(home)
    ping = '{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n'
    with (
        (home / "log").open("w") as log,
        subprocess.Popen(
            [started.command, *started.args], cwd=ROOT, text=True, stderr=log,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | (started.env or {}),
        ) as process,
    ):  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write("nonsense\n" + ping)
            process.stdin.flush()
            replies = [json.loads(process.stdout.readline())]
            while replies[-1].get("id") != 1:
                replies.append(json.loads(process.stdout.readline()))
            assert replies[-1]["result"] == {}
            process.stdout.close()  # the reply to this one cannot be sent
            process.stdin.write(ping)
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert "Traceback" not in (home / "log").read_text("utf-8")
