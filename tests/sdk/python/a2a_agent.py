"""What both A2A servers serve: an agent that makes a task of every message and leaves it open for more."""

from a2a.helpers.proto_helpers import new_task_from_user_message, new_text_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types.a2a_pb2 import AgentCapabilities, AgentCard, AgentInterface, TaskState


class Echo(AgentExecutor):
    """Answers each message with an artifact and asks for another."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        task = context.current_task
        if task is None:
            task = new_task_from_user_message(context.message)
            await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await updater.add_artifact([new_text_part(context.get_user_input())], name="echo")
        await updater.update_status(
            TaskState.TASK_STATE_INPUT_REQUIRED, message=new_text_message("more?")
        )

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def card(url: str) -> AgentCard:
    """The card of an agent of both versions at this URL, on each binding."""
    interfaces = [
        AgentInterface(url=url, protocol_binding=binding, protocol_version=version)
        for binding in ("JSONRPC", "HTTP+JSON", "GRPC")
        for version in ("1.0", "0.3")
    ]
    return AgentCard(
        name="echo",
        description="Echoes what it is told",
        version="1",
        supported_interfaces=interfaces,
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
    )


def handler(url: str) -> DefaultRequestHandler:
    """Keeps tasks in memory, and gives them to anybody."""
    return DefaultRequestHandler(
        agent_executor=Echo(), task_store=InMemoryTaskStore(), agent_card=card(url)
    )
