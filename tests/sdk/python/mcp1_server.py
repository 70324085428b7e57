"""A server on the Python SDK 1.x, which answers every call with an event stream.  Usage: mcp1_server.py HOST PORT

Its tools have the names that the client scripts use; prints {"listening": URL} when it is ready.
"""

import asyncio
import base64
import json
import sys

import uvicorn
from mcp.server.fastmcp import Context, FastMCP, Image
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import BaseModel

STEP_SECONDS = 0.02
RED_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
)


class User(BaseModel):
    """The form that is shown to the user."""

    username: str
    email: str


security = TransportSecuritySettings(allowed_hosts=["localhost:*", "127.0.0.1:*"], allowed_origins=[])
server = FastMCP("python-fixture", transport_security=security, log_level="ERROR")


@server.tool()
async def test_simple_text() -> str:
    """Answers with fixed text."""
    return "This is a simple text response for testing."


@server.tool()
async def test_image_content() -> Image:
    """Answers with an image."""
    return Image(data=RED_PIXEL, format="png")


@server.tool()
async def test_tool_with_logging(ctx: Context) -> str:
    """Logs three lines while it runs."""
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(line)
        await asyncio.sleep(STEP_SECONDS)
    return "Logged three lines"


@server.tool()
async def test_tool_with_progress(ctx: Context) -> str:
    """Reports progress while it runs."""
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100)
        await asyncio.sleep(STEP_SECONDS)
    return "Done with progress"


@server.tool()
async def test_elicitation(message: str, ctx: Context) -> str:
    """Asks the user of the client."""
    answer = await ctx.elicit(message, User)
    return f"User response: action={answer.action}, content={answer.data.model_dump_json()}"


async def main(host: str, port: int) -> None:
    config = uvicorn.Config(server.streamable_http_app(), host=host, port=port, log_level="warning")
    running = uvicorn.Server(config)
    serving = asyncio.create_task(running.serve())
    while not running.started and not serving.done():
        await asyncio.sleep(STEP_SECONDS)
    print(json.dumps({"listening": f"http://{host}:{port}/mcp"}), flush=True)
    await serving


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
