"""How models of the common families write calls of tools, by what their chat template shows; and grammars for it.

hermes        <tool_call>{"name": …, "arguments": {…}}</tool_call>, several; Qwen, Hermes and many others
mistral       [TOOL_CALLS][{"name": …, "arguments": {…}}, …]
mistral_args  [TOOL_CALLS]name[ARGS]{…}, several; Mistral's newer models
llama3        {"name": …, "parameters": {…}}, one; Llama 3.1 and later
plain         the template knows no tools: they are told in the system message, calls as with hermes
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rbee_runtime.worker.engines import Message, Tool, Tools


class ToolForm(StrEnum):
    """A family's way to write calls."""

    HERMES = "hermes"
    MISTRAL = "mistral"
    MISTRAL_ARGS = "mistral_args"
    LLAMA3 = "llama3"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Marks:
    """Text that begins and ends a call ("": the answer's own), and the key of the arguments."""

    begin: str
    end: str
    arguments: str = "arguments"


MARKS = {
    ToolForm.HERMES: Marks("<tool_call>", "</tool_call>"),
    ToolForm.PLAIN: Marks("<tool_call>", "</tool_call>"),
    ToolForm.MISTRAL: Marks("[TOOL_CALLS]", ""),
    ToolForm.MISTRAL_ARGS: Marks("[TOOL_CALLS]", ""),
    ToolForm.LLAMA3: Marks("<|python_tag|>", "", "parameters"),
}

ARGS = "[ARGS]"

SPECIAL = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", ARGS, "<|python_tag|>")
"""Marks that are one token of their own in some vocabularies, and have to be shown where they mean a call."""


def form_of(template: str) -> ToolForm:
    """Return the form of the model whose chat template this is."""
    if "tools" not in template:
        return ToolForm.PLAIN
    if "[TOOL_CALLS]" in template:
        return ToolForm.MISTRAL_ARGS if ARGS in template else ToolForm.MISTRAL
    if "<tool_call>" in template:
        return ToolForm.HERMES
    if "<|python_tag|>" in template or "ipython" in template:
        return ToolForm.LLAMA3
    return ToolForm.HERMES


def told(messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Message, ...]:
    """Return a conversation whose system message tells of tools and how to call them."""
    listed = "\n".join(json.dumps(definition(tool), ensure_ascii=False) for tool in tools)
    text = (
        "You can call these functions:\n<tools>\n"
        f"{listed}\n</tools>\n"
        "To call one, write its name and arguments as JSON between these marks:\n"
        '<tool_call>\n{"name": "the name", "arguments": {"the": "arguments"}}\n</tool_call>'
    )
    if messages and messages[0].role == "system":
        return (Message("system", f"{messages[0].content}\n\n{text}"), *messages[1:])
    return (Message("system", text), *messages)


def definition(tool: Tool) -> dict[str, Any]:
    """Return a tool as templates expect it."""
    function = {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)}
    return {"type": "function", "function": function}


def schema_of(tools: Tools, form: ToolForm) -> dict[str, Any]:
    """Return the JSON schema of one call of any of the tools that may be called."""
    key = MARKS[form].arguments
    allowed = [tool for tool in tools.tools if not tools.only or tool.name == tools.only]
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, key: json.loads(tool.parameters)},
            "required": ["name", key],
        }
        for tool in allowed
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def wrapped(grammar: str, form: ToolForm, *, several: bool) -> str:
    """Return the grammar of an answer that is nothing but calls, from that of one call (its root)."""
    lines = [line for line in grammar.splitlines() if not line.startswith("root ::=")]
    body = next(line.removeprefix("root ::=") for line in grammar.splitlines() if line.startswith("root ::="))
    more = '("\\n" one)*' if several else ""
    match form:
        case ToolForm.LLAMA3:
            root = ["root ::= one-call"]
        case ToolForm.MISTRAL | ToolForm.MISTRAL_ARGS:
            # The older form is understood by the newer models too, and by our reader for both.
            listed = '("," space one-call)*' if several else ""
            root = [f'root ::= "[TOOL_CALLS]" "[" one-call {listed} "]"']
        case _:
            root = [f"root ::= one {more}", 'one ::= "<tool_call>\\n" one-call "\\n"? "</tool_call>"']
    return "\n".join([*root, f"one-call ::= {body}", *lines])
