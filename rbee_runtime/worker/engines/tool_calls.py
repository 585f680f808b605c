"""Find calls of tools in an answer as it comes: text goes on, calls are held back until they are whole."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rbee_runtime.worker.engines import ToolCall
from rbee_runtime.worker.engines.text import overlap
from rbee_runtime.worker.engines.tool_forms import ARGS, MARKS, ToolForm

MOST_CALLS = 128
"""In one answer; OpenAI's own limit of tools. A model that goes on and on writes text."""


@dataclass(frozen=True, slots=True)
class Found:
    """Text that is no call, and calls that are whole."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()


class CallReader:
    """Reads one answer in one family's form; `new_id` makes the id of a call. What only looks like a call is text."""

    def __init__(self, form: ToolForm, new_id: Callable[[], str]) -> None:
        self._marks = MARKS[form]
        self._bare = form is ToolForm.LLAMA3
        self._named = form is ToolForm.MISTRAL_ARGS
        self._new_id = new_id
        self._held = ""
        self._inside = False
        self._begun = False
        self._after_call = False
        self.found = 0

    def push(self, text: str) -> Found:
        """Take more of the answer and return what is certain."""
        self._held += text
        if self._bare and not self._begun:
            return self._perhaps_bare()
        out: list[str] = []
        calls: list[ToolCall] = []
        while self._step(out, calls):
            pass
        return Found("".join(out), tuple(calls))

    def finish(self, *, cut: bool = False) -> Found:
        """Return what was held back: a call that needs no end mark, or text.

        What could still have become a call when the answer was `cut` is neither: nobody can use half of one.
        """
        held, self._held = self._held, ""
        if not self._inside:
            return Found(self._text(held))
        if calls := self._calls(held):
            return Found(calls=tuple(calls))
        return Found() if cut and self._half(held) else Found(self._shown(held))

    def _half(self, body: str) -> bool:
        return not self._bare and (self._named or body.lstrip()[:1] in {"", "{", "["})

    def _perhaps_bare(self) -> Found:
        """Hold back an answer that begins with a brace: in this form that is a call without any mark."""
        begin = self._held.lstrip()
        if not begin:
            return Found()
        self._begun = True
        if begin.startswith("{"):
            self._inside, self._held = True, begin
            return Found()
        return self.push("")

    def _step(self, out: list[str], calls: list[ToolCall]) -> bool:
        """Move over one mark; False when there is none (yet)."""
        if not self._inside:
            before, mark, after = self._held.partition(self._marks.begin)
            keep = 0 if mark else overlap(before, self._marks.begin)
            out.append(self._text(before[: len(before) - keep]))
            self._held = after if mark else before[len(before) - keep :]
            self._inside = bool(mark)
            return bool(mark)
        if not self._marks.end or self._marks.end not in self._held:
            return False
        body, _, self._held = self._held.partition(self._marks.end)
        self._inside = False
        found = self._calls(body)
        calls += found
        if not found:
            out.append(self._shown(body) + self._marks.end)
        self._after_call = bool(found)
        return True

    def _text(self, text: str) -> str:
        """Return what of `text` is answer: between two calls there is nothing but space, which is none."""
        shown = text.lstrip() if self._after_call else text
        self._after_call = self._after_call and not shown
        return shown

    def _shown(self, body: str) -> str:
        return body if self._bare else self._marks.begin + body

    def _calls(self, body: str) -> list[ToolCall]:
        pairs = self._read(body)
        if self.found + len(pairs) > MOST_CALLS:
            return []
        self.found += len(pairs)
        return [ToolCall(self._new_id(), name, json.dumps(given)) for name, given in pairs]

    def _read(self, body: str) -> list[tuple[str, Any]]:
        try:
            values = list(_values(body)) if ARGS not in body else list(_named(body))
            pairs = [(value.get("name"), _arguments(value)) for value in values if isinstance(value, dict)]
        except (ValueError, RecursionError):
            return []
        if len(pairs) != len(values):
            return []
        good = [(name, given) for name, given in pairs if isinstance(name, str) and isinstance(given, dict)]
        return good if len(good) == len(pairs) else []


def _arguments(value: dict[str, Any]) -> Any:
    given = value.get("arguments", value.get("parameters", {}))
    return json.loads(given) if isinstance(given, str) else given


def _values(body: str) -> Iterator[Any]:
    """Yield the JSON values in a text, those of lists one by one; space and semicolons between them are skipped."""
    decoder, at = json.JSONDecoder(), 0
    while (at := _after_space(body, at)) < len(body):
        value, at = decoder.raw_decode(body, at)
        yield from value if isinstance(value, list) else [value]


def _named(body: str) -> Iterator[dict[str, Any]]:
    """Yield the calls in `name[ARGS]{…}[TOOL_CALLS]name[ARGS]{…}`."""
    for part in body.split("[TOOL_CALLS]"):
        name, mark, given = part.partition(ARGS)
        if not mark:
            raise ValueError(f"{part!r} is no call")
        yield {"name": name.strip().partition("[CALL_ID]")[0], "arguments": json.loads(given)}


def _after_space(body: str, at: int) -> int:
    while at < len(body) and body[at] in " \t\r\n;":
        at += 1
    return at
