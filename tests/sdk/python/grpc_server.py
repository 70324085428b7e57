"""A gRPC server whose messages are plain bytes, so that it needs no generated code.  Usage: grpc_server.py HOST PORT

Service `echo.Echo`: `Unary` and `Secret` answer with the request, `Both` answers each message of a stream as it comes, and
`Fail` ends with FAILED_PRECONDITION. All of them send the trailer `calls`. Prints {"listening": ADDRESS} when ready.
"""

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator

import grpc

calls = itertools.count(1)


def count(context: grpc.aio.ServicerContext) -> None:
    context.set_trailing_metadata((("calls", str(next(calls))),))


async def unary(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    count(context)
    return request


async def both(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    count(context)
    async for request in requests:
        yield request


async def fail(_: bytes, context: grpc.aio.ServicerContext) -> bytes:
    count(context)
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "told to fail", (("calls", "0"),))


async def main(host: str, port: int) -> None:
    server = grpc.aio.server()
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Secret": grpc.unary_unary_rpc_method_handler(unary),
        "Both": grpc.stream_stream_rpc_method_handler(both),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", methods),))
    server.add_insecure_port(f"{host}:{port}")
    await server.start()
    print(json.dumps({"listening": f"{host}:{port}"}), flush=True)
    await server.wait_for_termination()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
