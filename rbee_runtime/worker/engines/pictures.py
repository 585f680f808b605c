"""What engines do with pictures in a conversation."""

from collections.abc import Sequence

from rbee_runtime.errors import RequestError
from rbee_runtime.worker.engines import Message, Picture


def refuse_pictures(messages: Sequence[Message], why: str) -> None:
    """Raise RequestError if there is one; `why` is the sentence for the client."""
    if any(isinstance(part, Picture) for message in messages for part in message.parts):
        raise RequestError(400, why, code="unsupported_content", param="messages")


BLIND = "this model reads text only; send no pictures, or ask one that is served with a projector for them"
