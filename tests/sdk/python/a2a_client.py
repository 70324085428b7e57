"""The official A2A SDK as a client.  Usage: a2a_client.py ADDRESS BINDING VERSION [TASK]

Sends a message, streams another to the same task, gets, lists and cancels it; with TASK it only tries to get that task of
somebody else. Prints what came of each step; a step that failed is the name of its error.
"""

import asyncio
import sys
import uuid

import grpc
import httpx
from a2a.client import ClientConfig, ClientFactory
from a2a.helpers.proto_helpers import new_text_part
from a2a.types.a2a_pb2 import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Message,
    Role,
    SendMessageRequest,
    TaskState,
)

from report import tell


def client(address: str, binding: str, version: str, streaming: bool, http: httpx.AsyncClient):
    url = address if binding == "GRPC" else f"http://{address}/"
    interface = AgentInterface(url=url, protocol_binding=binding, protocol_version=version)
    card = AgentCard(
        name="echo", supported_interfaces=[interface], capabilities=AgentCapabilities(streaming=True)
    )
    config = ClientConfig(
        streaming=streaming,
        httpx_client=http,
        grpc_channel_factory=grpc.aio.insecure_channel,
        supported_protocol_bindings=[binding],
    )
    return ClientFactory(config).create(card)


def request(text: str, task_id: str = "", context_id: str = "") -> SendMessageRequest:
    message = Message(
        message_id=str(uuid.uuid4()),
        role=Role.ROLE_USER,
        parts=[new_text_part(text)],
        task_id=task_id,
        context_id=context_id,
    )
    return SendMessageRequest(message=message)


async def attempt(step):
    """What a step tells, or the name of what went wrong."""
    try:
        return await step
    except Exception as error:  # noqa: BLE001
        return {"error": type(error).__name__}


def told(task) -> dict:
    return {"state": TaskState.Name(task.status.state), "artifacts": len(task.artifacts)}


async def send(client, message) -> object:
    """The task as the last answer that holds it, and how many answers came."""
    task, count = None, 0
    async for answer in client.send_message(message):
        count += 1
        if answer.HasField("task"):
            task = answer.task
    return task, count


async def cancel(client, task_id: str) -> dict:
    return told(await client.cancel_task(CancelTaskRequest(id=task_id)))


async def get(client, task_id: str) -> dict:
    return told(await client.get_task(GetTaskRequest(id=task_id)))


async def listed(client) -> dict:
    answer = await client.list_tasks(ListTasksRequest())
    return {"count": len(answer.tasks)}


async def main(address: str, binding: str, version: str, foreign: str = "") -> None:
    async with httpx.AsyncClient(timeout=60) as http:
        plain = client(address, binding, version, False, http)
        if foreign:
            tell({"foreign": await attempt(get(plain, foreign)), "listed": await attempt(listed(plain))})
            return
        task, _ = await send(plain, request("one"))
        steps = {"task": task.id, "sent": told(task)}
        streaming = client(address, binding, version, True, http)
        _, steps["streamed"] = await send(streaming, request("two", task.id, task.context_id))
        steps["got"] = await attempt(get(plain, task.id))
        steps["listed"] = await attempt(listed(plain))
        steps["canceled"] = await attempt(cancel(plain, task.id))
        tell(steps)


asyncio.run(main(*sys.argv[1:]))
