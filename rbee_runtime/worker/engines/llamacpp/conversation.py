"""A conversation as chat templates expect it: their dicts, calls with arguments that are no text."""

import json
from collections.abc import Sequence
from typing import Any

from rbee_runtime.worker.engines import Message, ToolCall


def turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages for a template."""
    return [_turn(message) for message in messages]


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        turn["tool_calls"] = [_call(call) for call in message.calls]
    if message.call:
        turn["tool_call_id"] = message.call
    if message.name:
        turn["name"] = message.name
    if message.thought:
        turn["reasoning_content"] = message.thought
    return turn


def _call(call: ToolCall) -> dict[str, Any]:
    # OpenAI's clients send text, the templates of published models are written for objects.
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = call.arguments
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
