"""The items of a response that text is written into."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def new_id(kind: str) -> str:
    """Return the id of a new thing of this kind."""
    return f"{kind}_{uuid.uuid4().hex}"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of item that text is written into: its type, that of its part and events, and their other fields."""

    type: str
    prefix: str
    text: str
    about: Mapping[str, Any]
    part_more: Mapping[str, Any]
    more: dict[str, Any]

    def item(self, text: str, status: str) -> dict[str, Any]:
        """Return an item that has this text."""
        about = {"type": self.type, "id": new_id(self.prefix), **self.about, "status": status}
        return about | {"content": [self.part(text)]}

    def part(self, text: str) -> dict[str, Any]:
        """Return the one part of an item."""
        return {"type": self.text, "text": text, **self.part_more}


SPEAKING = Kind(
    "message", "msg", "output_text", {"role": "assistant"}, {"annotations": [], "logprobs": []}, {"logprobs": []}
)
THINKING = Kind("reasoning", "rs", "reasoning_text", {"summary": []}, {}, {})
