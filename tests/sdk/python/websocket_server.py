"""A WebSocket server that greets and then echoes.  Usage: websocket_server.py HOST PORT

Prints {"listening": URL} when it is ready.
"""

import asyncio
import json
import sys

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed


async def echo(connection: ServerConnection) -> None:
    await connection.send("hello")
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass  # The client may close with a code of its own.


async def main(host: str, port: int) -> None:
    async with serve(echo, host, port, max_size=None) as server:
        print(json.dumps({"listening": f"ws://{host}:{port}/"}), flush=True)
        await server.serve_forever()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
