"""`tether mcp`: the tools `search` and `ask` for one client that starts this process.

Standard output belongs to the protocol; the log goes to standard error, one JSON object a line.
What the tools do stands in `app.mcp_server`.
"""

import logging

import click

from app.flags import Flags, collection_option, pass_flags

logger = logging.getLogger(__name__)


@click.command()
@collection_option
@pass_flags
def mcp(flags: Flags, collection: str | None) -> None:
    """Offer search and ask to an MCP client, over standard input and output.

    Name this command in the client's list of servers; it starts the process and ends it. A client
    that speaks HTTP finds the same tools at /mcp of `tether serve`.
    """
    settings = flags.settings(collection=collection)
    from app.http.answering import Asking
    from app.http.metrics import Metrics
    from app.http.tracing import open_service
    from app.mcp_server import build_mcp_server, serve_stdio
    from app.serving import log_as_json

    log_as_json()
    with open_service(settings) as service:
        logger.info("ready: the tools search and ask over standard input and output")
        serve_stdio(build_mcp_server(Asking(service, Metrics())))
