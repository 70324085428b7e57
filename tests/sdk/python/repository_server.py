"""A server on the Python SDK 1.x with tools of repositories.  Usage: repository_server.py HOST PORT

Prints {"listening": URL} when it is ready.
"""

import asyncio
import json
import sys

import uvicorn
from mcp.server.fastmcp import FastMCP
from mcp.server.transport_security import TransportSecuritySettings

STEP_SECONDS = 0.02

security = TransportSecuritySettings(allowed_hosts=["localhost:*", "127.0.0.1:*"], allowed_origins=[])
server = FastMCP("repositories", transport_security=security, log_level="ERROR")


def carried(tool: str, owner: str) -> str:
    """What every tool answers: that it ran, and for whom."""
    return f"{tool} for {owner}"


@server.tool()
def search_code(owner: str) -> str:
    """Searches code."""
    return carried("search_code", owner)


@server.tool()
def search_issues(owner: str) -> str:
    """Searches issues."""
    return carried("search_issues", owner)


@server.tool()
def get_issue(owner: str) -> str:
    """Reads an issue."""
    return carried("get_issue", owner)


@server.tool()
def delete_repository(owner: str) -> str:
    """Deletes a repository."""
    return carried("delete_repository", owner)


async def main(host: str, port: int) -> None:
    config = uvicorn.Config(server.streamable_http_app(), host=host, port=port, log_level="warning")
    running = uvicorn.Server(config)
    serving = asyncio.create_task(running.serve())
    while not running.started and not serving.done():
        await asyncio.sleep(STEP_SECONDS)
    print(json.dumps({"listening": f"http://{host}:{port}/mcp"}), flush=True)
    await serving


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
