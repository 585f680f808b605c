"""`POST /tokenize`: the tokens of a text or of a conversation, in the words of llama.cpp's and vLLM's servers."""

from typing import Annotated

import msgspec

from rbee_runtime.worker.surface.exchange import Exchange
from rbee_runtime.worker.surface.generation import decoded, invalid
from rbee_runtime.worker.surface.openai import ChatBody, Turn, request_of
from rbee_runtime.worker.surface.reply import Reply


class TokenizeBody(msgspec.Struct, frozen=True):
    """What to count: `content` (llama.cpp) or `prompt` (vLLM) is a text, `messages` a conversation."""

    content: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Turn], msgspec.Meta(min_length=1, max_length=4096)] | None = None
    model: str | None = None


_decoder = msgspec.json.Decoder(TokenizeBody)


class TokenizeRoute(Exchange):
    """The route; of a conversation it counts what the prompt would have."""

    async def answer(self, raw: bytes, reply: Reply) -> None:
        """Give the tokens and how many there are."""
        body, engine = decoded(raw, _decoder), self.worker.engine
        if sum(each is not None for each in (body.content, body.prompt, body.messages)) != 1:
            raise invalid("give one of content, prompt and messages", "content")
        if body.messages is not None:
            tokens = await engine.prompt_tokens(request_of(ChatBody(model="-", messages=body.messages)))
        else:
            tokens = await engine.tokenise(body.content if body.content is not None else body.prompt or "")
        await reply.json({"tokens": tokens, "count": len(tokens), "max_model_len": engine.context})
