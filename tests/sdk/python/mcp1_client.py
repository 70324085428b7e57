"""The Python SDK 1.x as a client.  Usage: mcp1_client.py URL"""

import asyncio
import sys

from mcp import ClientSession, McpError, types
from mcp.client.streamable_http import streamable_http_client

from report import ALLOWED, DENIED, FORM, PARALLEL_CALLS, outcome, tell, text_of


async def main(url: str) -> None:
    logs, progress, changed = [], [], asyncio.Event()

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        logs.append(params.data)

    async def on_message(message: object) -> None:
        if isinstance(getattr(message, "root", None), types.ToolListChangedNotification):
            changed.set()

    async def on_progress(done: float, total: float | None, _: str | None) -> None:
        progress.append([done, total])

    async def on_elicit(_: object, params: types.ElicitRequestParams) -> types.ElicitResult:
        wanted = params.requestedSchema["properties"]
        return types.ElicitResult(action="accept", content={key: FORM[key] for key in wanted})

    callbacks = {"logging_callback": on_log, "message_handler": on_message, "elicitation_callback": on_elicit}
    async with (
        streamable_http_client(url) as (read, write, session_id),
        ClientSession(read, write, **callbacks) as session,
    ):
        revision = (await session.initialize()).protocolVersion
        tools = [tool.name for tool in (await session.list_tools()).tools]
        report = {
            "revision": revision,
            "session": session_id() is not None,
            "tools": sorted(tools),
            "allowed": await outcome(lambda: session.call_tool(ALLOWED), McpError),
            "denied": await outcome(lambda: session.call_tool(DENIED), McpError),
            "after_denied": await outcome(lambda: session.call_tool(ALLOWED), McpError),
        }
        await session.call_tool("test_tool_with_logging")
        await session.call_tool("test_tool_with_progress", progress_callback=on_progress)
        report |= {"logs": logs, "progress": progress}
        asked = await session.call_tool("test_elicitation", {"message": "Who are you?"})
        report["asked"] = text_of(asked)
        if "test_reconnection" in tools:
            report["resumed"] = text_of(await session.call_tool("test_reconnection"))
            await session.call_tool("test_trigger_tool_change")
            report["list_changed"] = await asyncio.wait_for(changed.wait(), 10)
        calls = await asyncio.gather(*(session.call_tool(ALLOWED) for _ in range(PARALLEL_CALLS)))
        report["parallel"] = sum(text_of(call) == report["allowed"]["text"] for call in calls)
    tell(report)


asyncio.run(main(sys.argv[1]))
