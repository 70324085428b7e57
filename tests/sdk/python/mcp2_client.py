"""The Python SDK 2.x as a client, in either era.  Usage: mcp2_client.py URL legacy|auto"""

import asyncio
import sys

from mcp import Client, MCPError, types

from report import ALLOWED, DENIED, FORM, PARALLEL_CALLS, outcome, tell, text_of


async def main(url: str, mode: str) -> None:
    logs, progress, changed = [], [], asyncio.Event()

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        logs.append(params.data)

    async def on_message(message: object) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            changed.set()

    async def on_progress(done: float, total: float | None, _: str | None) -> None:
        progress.append([done, total])

    async def on_elicit(_: object, params: types.ElicitRequestFormParams) -> types.ElicitResult:
        wanted = params.requested_schema["properties"]
        return types.ElicitResult(action="accept", content={key: FORM[key] for key in wanted})

    callbacks = {"logging_callback": on_log, "message_handler": on_message, "elicitation_callback": on_elicit}
    async with Client(url, mode=mode, log_level="info", **callbacks) as client:
        legacy = client.protocol_version < "2026-07-28"
        tools = [tool.name for tool in (await client.list_tools()).tools]
        report = {
            "revision": client.protocol_version,
            "tools": sorted(tools),
            "allowed": await outcome(lambda: client.call_tool(ALLOWED), MCPError),
            "denied": await outcome(lambda: client.call_tool(DENIED), MCPError),
            "after_denied": await outcome(lambda: client.call_tool(ALLOWED), MCPError),
        }
        await client.call_tool("test_tool_with_logging")
        await client.call_tool("test_tool_with_progress", progress_callback=on_progress)
        report |= {"logs": logs, "progress": progress}
        if legacy:
            asked = await client.call_tool("test_elicitation", {"message": "Who are you?"})
        else:
            asked = await client.call_tool("test_input_required_result_elicitation")
        report["asked"] = text_of(asked)
        if legacy and "test_reconnection" in tools:
            report["resumed"] = text_of(await client.call_tool("test_reconnection"))
            await client.call_tool("test_trigger_tool_change")
            report["list_changed"] = await asyncio.wait_for(changed.wait(), 10)
        calls = await asyncio.gather(*(client.call_tool(ALLOWED) for _ in range(PARALLEL_CALLS)))
        report["parallel"] = sum(text_of(call) == report["allowed"]["text"] for call in calls)
    tell(report)


asyncio.run(main(sys.argv[1], sys.argv[2]))
