"""The demo without root: queen and hive in one process tree of this user, same model, same answer."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from demo.chat import Endpoint, stream_answer, wait_ready
from demo.processes import STOP_SECONDS, running
from demo.story import DemoError, Story
from rbee_deploy.artefacts import cache_root
from rbee_deploy.local import install_engine
from rbee_deploy.model_files import lab_model
from rbee_runtime.hive.worker_ports import is_free
from rbee_runtime.queen.laptop import KEY_FILE

MODEL = "smol"
FIRST_PORT, LAST_PORT = 18500, 21000
START_SECONDS = 60.0
"""A queen starts in two seconds; the rest is for a busy machine."""


def folder() -> Path:
    """Return where this demo keeps its state, apart from the user's own fleet."""
    return cache_root() / "demo"


def run_laptop(story: Story) -> None:
    """Start the embedded fleet, stream one answer through it and stop it."""
    engines = folder() / "rbee" / "engines"
    story.tell("engine and model for this machine")
    install_engine(engines, say=story.tell)
    model = lab_model()
    end_previous()
    shutil.rmtree(folder() / "state", ignore_errors=True)
    port, log = _free_port(), folder() / "queen.log"
    command = _queen_command(model, port)
    story.tell(" ".join(["rbee-queen", *command[3:]]))
    environment = {"XDG_DATA_HOME": str(folder()), "PYTHONUNBUFFERED": "1"}
    # Ctrl-C's signal: a queen that is asked to end otherwise leaves its workers to the next one.
    stop = signal.SIGINT
    with log.open("wb") as sink, running(command, environment=environment, output=sink, stop_by=stop) as queen:
        _pid_file().write_text(str(queen.pid), encoding="ascii")
        endpoint = Endpoint(url=f"http://127.0.0.1:{port}", key=_first_key(queen, log))
        wait_ready(endpoint, MODEL)
        story.tell(f"{MODEL} is ready")
        story.tell(stream_answer(endpoint, MODEL))
    story.tell("queen, hive and worker stopped")


def _pid_file() -> Path:
    return folder() / "queen.pid"


def end_previous() -> None:
    """End the queen of a demo that was killed, and with it its workers."""
    try:
        pid = int(_pid_file().read_text(encoding="ascii"))
        queen = psutil.Process(pid)
        if str(folder() / "state") in queen.cmdline():
            queen.send_signal(signal.SIGINT)
            queen.wait(timeout=STOP_SECONDS)
    except (OSError, ValueError, psutil.Error):
        return


def _queen_command(model: Path, port: int) -> list[str]:
    return [
        sys.executable, "-m", "rbee_runtime.queen.main", "--attached-hive", "--model", f"{MODEL}=file:{model}",
        "--state-dir", str(folder() / "state"), "--port", str(port),
    ]  # fmt: skip


def _free_port() -> int:
    """Return a port that is free with the next one, which hives use; not of those that connections are given."""
    starts = range(FIRST_PORT + os.getpid() % 100 * 20, LAST_PORT)
    found = next((port for port in starts if all(is_free("127.0.0.1", each) for each in (port, port + 1))), None)
    if found is None:
        raise DemoError(f"every port from {starts.start} to {LAST_PORT} is in use: end what listens there (`ss -ltn`)")
    return found


def _first_key(queen: subprocess.Popen[bytes], log: Path) -> str:
    """Return the API key that the queen keeps beside its database from its first start on."""
    kept = folder() / "state" / "queen" / KEY_FILE
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and queen.poll() is None:
        if kept.is_file():
            return kept.read_text(encoding="utf-8").strip()
        time.sleep(0.1)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:])
    raise DemoError(f"the queen did not start; the end of {log}:\n{tail}")
