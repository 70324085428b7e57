"""A client of websocket_server.py; tells in one JSON line what it got.  Usage: websocket_client.py URL"""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from report import tell

DEADLINE_SECONDS = 20
LARGE = b"x" * 1_000_000


async def main(url: str) -> None:
    try:
        async with asyncio.timeout(DEADLINE_SECONDS), connect(url, max_size=None, proxy=None) as socket:
            report = {"greeting": await socket.recv()}
            await socket.send("text")
            report["text"] = await socket.recv()
            await socket.send(LARGE)
            report["large"] = len(await socket.recv())
            await (await socket.ping())
            report["pong"] = True
            await socket.close(code=4001, reason="enough")
            report["close"] = socket.close_code
    except InvalidStatus as refused:
        report = {"refused": refused.response.status_code}
    tell(report)


asyncio.run(main(sys.argv[1]))
