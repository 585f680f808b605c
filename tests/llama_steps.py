"""llama-cpp's steps in one process: `python -m tests.llama_steps ENGINE MODEL pooled|streams` prints what it answers.

Which way cells are kept follows from the hardware; here it is chosen, so that both are tried on any machine.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from rbee_runtime.worker.engines import GREEDY, artefact
from rbee_runtime.worker.engines.llamacpp import native, wire
from rbee_runtime.worker.engines.llamacpp.loop import Loop
from rbee_runtime.worker.engines.options import Task

SLOTS, CONTEXT, TOKENS = 4, 512, 12
SYSTEM = "You keep the books of a small harbour library and answer in one sentence. " * 6
ASKED = ("What is a tide?", "What is a bee?", "Who reads maps?", "When does the library close?", "What is a ship?")


def order(engine: str, model: str) -> wire.Load:
    """Return what to load."""
    return wire.Load(
        path=model,
        directory=engine,
        context=CONTEXT,
        slots=SLOTS,
        gpu_layers=0,
        threads=2,
        batch=128,
        flash_attention="auto",
        kv_type="f16",
        parking=64 << 20,
    )


class Steps:
    """One loop and what it has sent."""

    def __init__(self, wanted: wire.Load, *, pooled: bool) -> None:
        native.on_processor = lambda *_: not pooled
        self._model = native.load(wanted, task=Task.GENERATE, progress=lambda _: None, abort=native.Abort())
        self._sent: list[Any] = []
        self._loop = Loop(
            self._model,
            slots=SLOTS,
            context=CONTEXT,
            batch=wanted.batch,
            parking=wanted.parking,
            send=self._sent.append,
            clock=time.monotonic,
        )

    def answers(self, numbers: range, *, together: bool) -> list[tuple[str, int]]:
        """Return the text of each request and how many tokens of its prompt were reused."""
        for number in numbers:
            prompt = self._model.tokens_of(f"{SYSTEM}\n\nQuestion: {ASKED[number % len(ASKED)]}\nAnswer:")
            self._loop.submit(wire.Submit(number, "", TOKENS, (), GREEDY), prompt)
            while not together and self._loop.step():
                pass
        while self._loop.step():
            pass
        pieces = [(piece.request, piece.delta) for message in self._sent for piece in message.pieces]
        return [
            (
                "".join(delta.text for request, delta in pieces if request == number),
                next(delta.usage.cached for request, delta in pieces if request == number and delta.usage is not None),
            )
            for number in numbers
        ]


def main(engine: str, model: str, kind: str) -> None:
    """Ask one after the other, then all at once, twice."""
    artefact.activate(Path(engine), "llama-cpp")
    steps = Steps(order(engine, model), pooled=kind == "pooled")
    count = len(ASKED)
    rounds = [
        steps.answers(range(count), together=False),
        steps.answers(range(count, 2 * count), together=True),
        steps.answers(range(2 * count, 3 * count), together=True),
    ]
    sys.stdout.write(json.dumps(rounds))


if __name__ == "__main__":
    main(*sys.argv[1:])
