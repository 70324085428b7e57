"""A client of grpc_server.py; tells in one JSON line what it got.  Usage: grpc_client.py HOST:PORT"""

import asyncio
import sys
from typing import Any

import grpc

from report import tell

DEADLINE_SECONDS = 20
MESSAGES = [b"one", b"two", b"three"]
# Larger than any single HTTP/2 frame or window that is usual.
LARGE = b"x" * 1_000_000


async def outcome(call: grpc.aio.UnaryUnaryCall) -> dict[str, Any]:
    """Answer, status and trailers of a call."""
    try:
        answer = (await call).decode()
    except grpc.aio.AioRpcError:
        answer = None
    trailers = {key: value for key, value in await call.trailing_metadata()}
    return {"answer": answer, "status": (await call.code()).name, "details": await call.details(), "trailers": trailers}


async def main(target: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:

        def unary(method: str, message: bytes) -> grpc.aio.UnaryUnaryCall:
            return channel.unary_unary(f"/echo.Echo/{method}")(message, timeout=DEADLINE_SECONDS)

        report = {method.lower(): await outcome(unary(method, b"hi")) for method in ("Unary", "Secret", "Fail")}
        report["large"] = len(await unary("Unary", LARGE))
        stream = channel.stream_stream("/echo.Echo/Both")(timeout=DEADLINE_SECONDS)
        echoed = []
        for message in MESSAGES:
            # Each answer is waited for before the next message: a hop that buffers the stream would hang here.
            await stream.write(message)
            echoed.append((await stream.read()).decode())
        await stream.done_writing()
        end = await stream.read() is grpc.aio.EOF
        trailers = {key: value for key, value in await stream.trailing_metadata()}
        report["both"] = {"echoed": echoed, "end": end, "status": (await stream.code()).name, "trailers": trailers}
    tell(report)


asyncio.run(main(sys.argv[1]))
