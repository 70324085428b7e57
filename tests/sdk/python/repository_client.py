"""The Python SDK 1.x as a client of repository_server.py.  Usage: repository_client.py URL TOOL:OWNER...

Tells the tools that it sees and what became of every call, or why no session was opened.
"""

import asyncio
import sys

import httpx
from mcp import ClientSession, McpError
from mcp.client.streamable_http import streamable_http_client

from report import outcome, tell


async def main(url: str, calls: list[str]) -> None:
    async with (
        streamable_http_client(url) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        try:
            await session.initialize()
        except McpError as refused:
            tell({"refused": refused.error.message})
            return
        tools = [tool.name for tool in (await session.list_tools()).tools]
        report = {"tools": sorted(tools), "calls": {}}
        for call in calls:
            tool, owner = call.split(":")
            report["calls"][call] = await outcome(lambda: session.call_tool(tool, {"owner": owner}), McpError)
    tell(report)


try:
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
except* httpx.HTTPStatusError as failed:
    tell({"refused": str(failed.exceptions[0])})
