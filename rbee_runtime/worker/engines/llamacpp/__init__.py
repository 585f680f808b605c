"""llama.cpp in a process of its own, through the low-level API of llama-cpp-python.

engine.py     the face towards the front: requests in, pieces of answers out, and a watch over the process
child.py      that process as the front has it; wire.py what the two say to each other
program.py    the process itself; loop.py its steps, batching.py what goes into each, native.py the library
preparer.py   the other process, which runs chat templates (template.py) and makes grammars of schemas (schemas.py)
"""

from pathlib import Path

from rbee_runtime.protocol import WorkerLaunch
from rbee_runtime.worker.engines.llamacpp.engine import LlamaEngine


def create(launch: WorkerLaunch) -> LlamaEngine:
    """Return an engine for a worker spec, not loaded yet."""
    directory = Path(launch.engine_dir) if launch.engine_dir else None
    return LlamaEngine(launch.worker, Path(launch.model_path), directory)
