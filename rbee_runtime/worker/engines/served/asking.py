"""Requests of the front in OpenAI's words and a server's own."""

import json
from collections.abc import Sequence
from typing import Any

from rbee_runtime.errors import RequestError
from rbee_runtime.worker.engines import (
    ChatRequest,
    Generation,
    Message,
    Picture,
    Sampling,
    TextRequest,
    ToolChoice,
    Tools,
)
from rbee_runtime.worker.engines.served.dialects import Words
from rbee_runtime.worker.engines.tool_forms import definition
from rbee_runtime.worker.engines.vectors import EmbedRequest


def chat_body(model: str, request: ChatRequest, words: Words) -> dict[str, Any]:
    """Return the body of a chat; RequestError for what the server has no word for."""
    body = _body(model, request.generation, words)
    body["messages"] = messages_of(request.messages)
    if request.generation.logprobs is not None:
        # llama-server gives no probability at all where none of other tokens is asked for.
        body |= {"logprobs": True, "top_logprobs": max(1, request.generation.logprobs)}
    if request.tools.offered:
        body |= _tools(request.tools)
    if request.template:
        body["chat_template_kwargs"] = dict(request.template)
    if request.continues:
        body |= _going_on(words)
    if request.schema:
        body |= held_to(json.loads(request.schema))
    return body


def embed_fields(request: EmbedRequest) -> dict[str, Any]:
    """Return what an embedding is asked for; several inputs are all texts or all token ids."""
    inputs: list[Any] = [each if isinstance(each, str) else list(each) for each in request.inputs]
    fields: dict[str, Any] = {"input": inputs, "encoding_format": "float"}
    return fields if request.dimensions is None else fields | {"dimensions": request.dimensions}


def held_to(schema: Any) -> dict[str, Any]:
    """Return the field that holds an answer to a JSON schema."""
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    }


def text_body(model: str, request: TextRequest, words: Words) -> dict[str, Any]:
    """Return the body of a completion."""
    body = _body(model, request.generation, words)
    body["prompt"] = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
    if request.generation.logprobs is not None:
        body["logprobs"] = max(1, request.generation.logprobs)
    return body


def messages_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return a conversation."""
    return [_message(message) for message in messages]


def _body(model: str, generation: Generation, words: Words) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    if generation.max_tokens is not None:
        body["max_tokens"] = generation.max_tokens
    if generation.stop:
        body["stop"] = list(generation.stop)
    if generation.choices > 1:
        body["n"] = generation.choices
    return body | _sampling(generation.sampling, words)


def _going_on(words: Words) -> dict[str, Any]:
    field = "continue_final_message"
    if not words.goes_on:
        raise RequestError(400, f"{field}: this engine does not take it", code="unsupported_parameter", param=field)
    return {field: True, "add_generation_prompt": False}


def _sampling(sampling: Sampling, words: Words) -> dict[str, Any]:
    usual = Sampling()
    plain: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "frequency_penalty": sampling.frequency_penalty or None,
        "presence_penalty": sampling.presence_penalty or None,
        "seed": sampling.seed,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias} or None,
    }
    own = (
        ("top_k", words.top_k, sampling.top_k, usual.top_k),
        ("min_p", words.min_p, sampling.min_p, usual.min_p),
        ("repeat_penalty", words.repeat, sampling.repeat_penalty, usual.repeat_penalty),
        ("grammar", words.grammar, sampling.grammar, usual.grammar),
    )
    found = {name: value for name, value in plain.items() if value is not None}
    for name, word, value, nothing in own:
        if value == nothing:
            continue
        if not word:
            raise RequestError(400, f"{name}: this engine does not take it", code="unsupported_parameter", param=name)
        found[word] = value
    return found


def _message(message: Message) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.calls:
        told["content"] = told["content"] or None
        told["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.calls
        ]
    if message.call:
        told["tool_call_id"] = message.call
    if message.name:
        told["name"] = message.name
    if message.thought:
        told["reasoning_content"] = message.thought
    return told


def _content(message: Message) -> str | list[dict[str, Any]]:
    return [_part(part) for part in message.parts] if message.parts else message.content


def _part(part: str | Picture) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": f"data:{part.media};base64,{part.data}"}}


def _tools(tools: Tools) -> dict[str, Any]:
    choice: Any = {"type": "function", "function": {"name": tools.only}} if tools.only else str(tools.choice)
    body: dict[str, Any] = {"tools": [definition(tool) for tool in tools.tools]}
    if tools.choice is not ToolChoice.AUTO:
        body["tool_choice"] = choice
    if not tools.several:
        body["parallel_tool_calls"] = False
    return body
