"""The official A2A SDK as an agent over gRPC, packages a2a.v1 and lf.a2a.v1.  Usage: a2a_grpc_server.py HOST PORT

Prints {"listening": ADDRESS} when ready.
"""

import asyncio
import json
import sys

import grpc
from a2a.compat.v0_3.a2a_v0_3_pb2_grpc import add_A2AServiceServicer_to_server as add_old
from a2a.compat.v0_3.grpc_handler import CompatGrpcHandler
from a2a.server.request_handlers import GrpcHandler
from a2a.types.a2a_pb2_grpc import add_A2AServiceServicer_to_server as add_new

import a2a_agent


async def main(host: str, port: str) -> None:
    handler = a2a_agent.handler(f"{host}:{port}")
    server = grpc.aio.server()
    add_new(GrpcHandler(handler), server)
    add_old(CompatGrpcHandler(handler), server)
    server.add_insecure_port(f"{host}:{port}")
    await server.start()
    print(json.dumps({"listening": f"{host}:{port}"}), flush=True)
    await server.wait_for_termination()


asyncio.run(main(*sys.argv[1:3]))
