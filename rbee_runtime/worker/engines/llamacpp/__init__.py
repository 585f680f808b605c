"""llama.cpp inside the worker process, through the low-level API of llama-cpp-python.

native.py    the model and its context: load, tokenise, decode
template.py  the chat template of the model file
generate.py  one answer, token by token
engine.py    the face towards the front: one decode thread, one answer at a time
"""

from pathlib import Path

from rbee_runtime.protocol import WorkerLaunch
from rbee_runtime.worker.engines.llamacpp.engine import LlamaEngine


def create(launch: WorkerLaunch) -> LlamaEngine:
    """Return an engine for a worker spec, not loaded yet."""
    directory = Path(launch.engine_dir) if launch.engine_dir else None
    return LlamaEngine(launch.worker, Path(launch.model_path), directory)
