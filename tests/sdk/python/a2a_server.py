"""The official A2A SDK as an agent over JSON-RPC and HTTP+JSON, 0.3 and 1.0.  Usage: a2a_server.py HOST PORT

Prints {"listening": ADDRESS} when ready.
"""

import asyncio
import json
import sys

import uvicorn
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from starlette.applications import Starlette

import a2a_agent


async def main(host: str, port: str) -> None:
    url = f"http://{host}:{port}/"
    handler = a2a_agent.handler(url)
    routes = [
        *create_agent_card_routes(a2a_agent.card(url)),
        *create_jsonrpc_routes(handler, "/", enable_v0_3_compat=True),
        *create_rest_routes(handler, enable_v0_3_compat=True),
    ]
    config = uvicorn.Config(Starlette(routes=routes), host=host, port=int(port), log_level="warning")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    print(json.dumps({"listening": f"{host}:{port}"}), flush=True)
    await running


asyncio.run(main(*sys.argv[1:3]))
