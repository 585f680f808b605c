"""What our engine says is what llama.cpp's own server says, token for token, where each prompt is alone."""

import asyncio
import math
import sys
from pathlib import Path

import pytest

from tests.unit.worker.fronts import KINDS, Front, front
from tests.unit.worker.serving import MODEL

pytestmark = pytest.mark.engine

PROMPTS = (
    "What do bees do in spring?",
    "Write a short poem about the sea.",
    "Explain photosynthesis to a child.",
    "List three uses of copper.",
    "Who wrote Hamlet?",
    "Translate 'good morning' into French.",
    "What is 12 times 8?",
    "Give me a recipe for pancakes.",
    "Why is the sky blue?",
    "Summarise the story of Noah's ark.",
    "How does a bicycle stay upright?",
    "Name the planets of the solar system.",
    "Write a Python function that adds two numbers.",
    "What is the capital of Mongolia?",
    "Describe a thunderstorm.",
    "What makes bread rise?",
    "Give two reasons to learn Latin.",
    "How far is the moon?",
    "Tell me a joke about a hive.",
    "What is recursion?",
)
TOKENS = 48
NEAR = 0.25
"""Natural logarithms between two tokens of which numerics may choose either; see docs/engines.md."""

Answer = list[dict[str, float]]
"""Of each token its own text first, and the log probabilities of the likeliest ones."""


async def answers(up: Front, *, at_once: int) -> list[Answer]:
    """Return the answers to all prompts, so many asked at a time."""
    turns = asyncio.Semaphore(at_once)
    async with up.client() as ai:

        async def ask(prompt: str) -> Answer:
            async with turns:
                found = await ai.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": prompt}],
                    max_tokens=TOKENS,
                    temperature=0,
                    logprobs=True,
                    top_logprobs=3,
                )
            listed = found.choices[0].logprobs
            assert listed is not None
            return [
                {token.token: token.logprob, **{top.token: top.logprob for top in token.top_logprobs}}
                for token in listed.content or ()
            ]

        return await asyncio.gather(*(ask(prompt) for prompt in PROMPTS))


def words(answer: Answer) -> list[str]:
    """Return the tokens that were chosen."""
    return [next(iter(token)) for token in answer]


def parting(alone: Answer, together: Answer) -> float:
    """Return how much likelier the first token that differs was than what was chosen in its place, 0 if none does."""
    for one, other in zip(alone, together, strict=False):
        mine, its = next(iter(one)), next(iter(other))
        if mine != its:
            return one[mine] - one.get(its, -math.inf)
    return 0.0


async def test_greedy_answers_are_those_of_llama_server(tmp_path: Path) -> None:
    """Twenty prompts, one after the other: the same tokens. Eight at a time they part where two are nearly even."""
    found = {}
    for name in ("llama-server", "llama-cpp"):
        place = tmp_path / name
        place.mkdir()
        with front(KINDS[name], place) as up:
            found[name] = await answers(up, at_once=1)
            if name == "llama-cpp":
                together = await answers(up, at_once=8)
    ours, theirs = found["llama-cpp"], found["llama-server"]
    assert [
        number for number, pair in enumerate(zip(ours, theirs, strict=True)) if words(pair[0]) != words(pair[1])
    ] == []
    gaps = [parting(one, other) for one, other in zip(ours, together, strict=True)]
    same = sum(words(one) == words(other) for one, other in zip(ours, together, strict=True))
    sys.stdout.write(f"{same} of {len(gaps)} the same eight at a time, others part within {max(gaps):.3f}\n")
    assert max(gaps) < NEAR
