"""What our engine says is what llama.cpp's own server says, token for token, where each prompt is alone."""

import asyncio
import sys
from collections.abc import Callable
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


async def answers(up: Front, *, at_once: int) -> list[list[str]]:
    """Return the tokens of the answers to all prompts, so many asked at a time."""
    turns = asyncio.Semaphore(at_once)
    async with up.client() as ai:

        async def ask(prompt: str) -> list[str]:
            async with turns:
                found = await ai.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": prompt}],
                    max_tokens=TOKENS,
                    temperature=0,
                    logprobs=True,
                )
            listed = found.choices[0].logprobs
            assert listed is not None
            return [token.token for token in listed.content or ()]

        return await asyncio.gather(*(ask(prompt) for prompt in PROMPTS))


async def test_greedy_answers_are_those_of_llama_server(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Twenty prompts, one after the other: the same tokens. Eight at a time: most of them, see docs/engines.md."""
    found = {}
    for name in ("llama-server", "llama-cpp"):
        place = tmp_path / name
        place.mkdir()
        with front(KINDS[name], place) as up:
            found[name] = await answers(up, at_once=1)
            if name == "llama-cpp":
                together = await answers(up, at_once=8)
    ours, theirs = found["llama-cpp"], found["llama-server"]
    assert [number for number, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b] == []
    same = sum(a == b for a, b in zip(ours, together, strict=True))
    record_property("same_together", same)
    sys.stdout.write(f"of {len(PROMPTS)} answers {same} are the same eight at a time\n")
    assert same >= len(PROMPTS) // 2
