"""One measurement of one worker: the same questions, one at a time, at its own HTTPS front.

Not through the queen: her work is the same for every way of running, and would hide part of a difference. What an
engine of containers puts between a client and the worker, such as the forwarding of its port, is measured with it.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from benchmarks.container.results import Sample

TOKENS = 64
WARM_TOKENS = 4
STORY = (
    "Tell the long story of a lighthouse keeper who lives alone on a rock in a cold sea, with the ships that pass, the "
    "storms of the winter, the birds that rest on the lamp in autumn, and the letters that come twice a year by boat."
)


class BenchError(Exception):
    """Something did not run, so that there is nothing to measure; the message says what."""


@dataclass(frozen=True)
class Answer:
    """One streamed answer: its text, how many tokens it has, and seconds to the first and from there to the last."""

    text: str
    tokens: int
    first: float
    rest: float


def measure(client: httpx.Client, url: str, model: str, numbers: range) -> tuple[Sample, str]:
    """Ask the questions with these numbers; return the figures and all that was said.

    A short question before them opens the connection and wakes the processor, and does not count.
    """
    ask(client, url, model, numbers.start, WARM_TOKENS)
    answers = [ask(client, url, model, number, TOKENS) for number in numbers]
    return sample(answers), "\n".join(answer.text for answer in answers)


def sample(answers: list[Answer]) -> Sample:
    """Return tokens per second over all answers, each without its first token, and the mean time to the first."""
    rate = sum(answer.tokens - 1 for answer in answers) / sum(answer.rest for answer in answers)
    return Sample(rate=rate, first=sum(answer.first for answer in answers) / len(answers))


def ask(client: httpx.Client, url: str, model: str, number: int, tokens: int) -> Answer:
    """Ask one question and read its stream to the end; raise BenchError for anything but an answer."""
    # The number comes first: workers keep what two questions begin with in common, and would have nothing to read.
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"{number}. {STORY}"}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begun = time.perf_counter()
    with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise BenchError(f"{model} at {url} answered {response.status_code}: {response.read()[:500]!r}")
        return read(model, begun, ((time.perf_counter(), line) for line in response.iter_lines()))


def read(model: str, begun: float, lines: Iterator[tuple[float, str]]) -> Answer:
    """Return an answer from the lines of its stream, each with the time at which it came (seconds)."""
    text, tokens, times = "", 0, []
    for at, line in lines:
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise BenchError(f"{model} ended its answer with an error: {event['error']}")
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        for choice in event["choices"]:
            if said := choice["delta"].get("content"):
                text += said
                times.append(at)
    if tokens < 2 or len(times) < 2:
        raise BenchError(f"{model} answered {tokens} token(s), {text!r}: too few to measure")
    return Answer(text, tokens, first=times[0] - begun, rest=times[-1] - times[0])
