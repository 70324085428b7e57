"""What every client script tells: one JSON line, in the same words whatever SDK it uses."""

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

PARALLEL_CALLS = 24
ALLOWED = "test_simple_text"
DENIED = "test_image_content"
FORM = {"username": "ada", "email": "ada@example.com", "name": "Ada"}


def text_of(result: Any) -> str:
    """The text of a tool's answer; an answer that is no text is told by its type."""
    return " ".join(getattr(block, "text", f"<{block.type}>") for block in result.content)


async def outcome(call: Callable[[], Awaitable[Any]], error: type[Exception]) -> dict[str, Any]:
    """What became of a call: its text, or the code and message that refused it."""
    try:
        return {"text": text_of(await call())}
    except error as refused:
        detail = getattr(refused, "error", refused)
        return {"code": detail.code, "message": detail.message}


def tell(report: dict[str, Any]) -> None:
    """Prints the report, for the test to read."""
    json.dump(report, sys.stdout)
    print(flush=True)
