"""`POST /tokenize`: the tokens of a text or of a conversation, in the words of llama.cpp's and vLLM's servers."""

from typing import Annotated, Any

import msgspec
from starlette.types import Receive, Scope, Send

from rbee_runtime.errors import RequestError
from rbee_runtime.worker.lifecycle import Worker
from rbee_runtime.worker.surface.body import receive_body
from rbee_runtime.worker.surface.generation import decoded, invalid
from rbee_runtime.worker.surface.openai import ChatBody, Turn, request_of
from rbee_runtime.worker.surface.reply import ClientGoneError, Reply


class TokenizeBody(msgspec.Struct, frozen=True):
    """What to count: `content` (llama.cpp) or `prompt` (vLLM) is a text, `messages` a conversation."""

    content: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Turn], msgspec.Meta(min_length=1, max_length=4096)] | None = None
    model: str | None = None


_decoder = msgspec.json.Decoder(TokenizeBody)


class TokenizeRoute:
    """ASGI app of the route."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        reply = Reply(send)
        try:
            self._worker.demand_ready()
            await reply.json(await self._answer(decoded(await receive_body(scope, receive), _decoder)))
        except RequestError as refusal:
            await reply.fail(refusal)
        except ClientGoneError:
            return

    async def _answer(self, body: TokenizeBody) -> dict[str, Any]:
        engine, given = self._worker.engine, (body.content, body.prompt, body.messages)
        if sum(each is not None for each in given) != 1:
            raise invalid("give one of content, prompt and messages", "content")
        if body.messages is not None:
            tokens = await engine.prompt_tokens(request_of(ChatBody(model="-", messages=body.messages)))
        else:
            tokens = await engine.tokenise(body.content if body.content is not None else body.prompt or "")
        return {"tokens": tokens, "count": len(tokens), "max_model_len": engine.context}
