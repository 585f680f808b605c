"""Engines that are servers of OpenAI's API: programs behind the front, on a socket that only it can reach.

dialects.py      what each of them is called, how it is started, and the words that it has for what OpenAI has none for
llama_server.py  llama.cpp's own server
vllm.py          vLLM's
command.py       any other, as its engine.json says
program.py       the server's process
calls.py         HTTP over its socket
asking.py        requests of the front in OpenAI's words
hearing.py       streams of events back into pieces of an answer
engine.py        the face towards the front
"""

from collections.abc import Callable

from rbee_runtime.protocol import WorkerLaunch
from rbee_runtime.worker.engines.served import command, llama_server, vllm
from rbee_runtime.worker.engines.served.dialects import Dialect
from rbee_runtime.worker.engines.served.engine import ServedEngine

DIALECTS: dict[str, Callable[[WorkerLaunch], Dialect]] = {"llama-server": llama_server.dialect, "vllm": vllm.dialect}


def create(launch: WorkerLaunch) -> ServedEngine:
    """Return an engine for a worker spec, not loaded yet; ConfigError where its options are wrong."""
    return ServedEngine(launch.worker, DIALECTS.get(launch.worker.engine, command.dialect)(launch))
