"""A queen of this machine: started in the foreground, in the background or in a container, and stopped again."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import psutil
import typer

from rbee_runtime import __version__, ports
from rbee_runtime.errors import ConfigError, QueenCallError
from rbee_runtime.keeper import queen_container
from rbee_runtime.keeper.output import AsJson, say

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""What is no option of ours is the queen's, `--help` too."""

START_SECONDS = 60.0
"""A slow disk reads the programs anew after a boot."""

STOP_SECONDS = 210.0
"""The queen gives its workers 180 s for what is in flight."""

_POLL_SECONDS = 0.1
_NOT_BANNER = re.compile(r"Ctrl-C|(debug|info|warning|error) event=")
_MODULES = ("rbee_runtime.queen.main", "rbee-queen")

OWN = """\
Of rbee-keeper itself:
  --detach       start it in the background and return once it serves; its log is in DIR/queen.log
  --container    start it in a container of Podman or Docker; goes with --attached-hive
  --image IMAGE  the image of that container (default: {image})
All else is rbee-queen's:
"""


def start_queen(
    context: typer.Context,
    container: Annotated[bool, typer.Option("--container", help="In a container of Podman or Docker.")] = False,
    image: Annotated[str, typer.Option(help="The image of that container.")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="In the background; return once it serves.")] = False,
) -> None:
    """Become a queen on this machine; options are rbee-queen's (--attached-hive --model NAME=file:/path.gguf)."""
    options, image = list(context.args), image or queen_container.image_of(__version__)
    # The same interpreter and release, whatever else is called rbee-queen on PATH.
    command = [sys.executable, "-m", "rbee_runtime.queen.main", *options]
    if "--help" in options:
        sys.stdout.write(OWN.format(image=image))
        sys.stdout.flush()
    elif container:
        command = queen_container.command(_engine(image), image, options, queen_container.here(), detach=detach)
    elif detach:
        typer.echo(started(command, state_dir(options)))
        return
    os.execv(shutil.which(command[0]) or command[0], command)  # noqa: S606 - no shell wanted


def stop_queen(
    folder: Annotated[
        Path | None, typer.Option("--state-dir", metavar="DIR", help="Of the queen, if it was started with one.")
    ] = None,
    container: Annotated[bool, typer.Option("--container", help="The one that runs in a container.")] = False,
    keep_workers: Annotated[bool, typer.Option("--keep-workers", help="The next start takes them over.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the queen of this machine that start-queen started, with its workers."""
    if container:
        engine = _found_engine()
        stopped = subprocess.run(queen_container.stop_command(engine), capture_output=True, text=True, check=False)
        if stopped.returncode:
            _demand_answer(engine)
        say({"stopped": stopped.returncode == 0}, _of_container(stopped.returncode), as_json)
        return
    pid = queen_of(folder or ports.user_root())
    if pid is None:
        say({"stopped": False}, "no queen runs here", as_json)
        return
    os.kill(pid, signal.SIGTERM if keep_workers else signal.SIGINT)
    if not _within(STOP_SECONDS, lambda: not psutil.pid_exists(pid)):
        raise QueenCallError(f"the queen (process {pid}) has not ended for {STOP_SECONDS:.0f} s; see its log")
    left = "; its workers run on, and the next start takes them over" if keep_workers else ""
    say({"stopped": True, "pid": pid}, f"the queen (process {pid}) is stopped{left}", as_json)


def queen_of(root: Path) -> int | None:
    """Return the process of the queen of this state directory, None where none runs."""
    try:
        pid = int(json.loads((root / "run" / "queen" / ports.RUNNING_FILE).read_bytes())["pid"])
        words = psutil.Process(pid).cmdline()
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    # The number may be another program's by now.
    return pid if any(word.endswith(_MODULES) for word in words) else None


def state_dir(options: Sequence[str]) -> Path:
    """Return the state directory that these options of rbee-queen name."""
    return Path(next(iter(queen_container.values(options, "--state-dir")), ports.user_root())).resolve()


def started(command: Sequence[str], root: Path) -> str:
    """Start a queen in the background and return what it said once it serves, or raise QueenCallError with why not."""
    if (pid := queen_of(root)) is not None:
        raise ConfigError(f"a queen of {root} runs already (process {pid}); stop it with: rbee-keeper stop-queen")
    root.mkdir(parents=True, exist_ok=True)
    log = root / "queen.log"
    # The first start shows the key.
    with open(log, "wb", opener=partial(os.open, mode=0o600)) as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        if _within(START_SECONDS, lambda: process.poll() is not None or queen_of(root) == process.pid):
            if process.poll() is None:
                return f"{_banner(log)}\nIt runs in the background (process {process.pid}, log {log})."
            raise QueenCallError(f"the queen did not start: {_last_line(log)}")
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        raise
    process.send_signal(signal.SIGINT)
    raise QueenCallError(f"the queen did not serve within {START_SECONDS:.0f} s; its log is {log}")


def _engine(image: str) -> str:
    """Return the container engine that has an image, or raise ConfigError with what is missing."""
    engine = _found_engine()
    looked = subprocess.run([engine, "image", "inspect", image], capture_output=True, text=True, check=False)
    if looked.returncode:
        _demand_answer(engine)
        why = (looked.stderr.strip().splitlines() or ["no word about why"])[-1]
        raise ConfigError(
            f"{engine} has no image {image} ({why}); bring one there with rbee-deploy images -o DIR and "
            f"{engine} load -i FILE, or name another with --image"
        )
    return engine


def _demand_answer(engine: str) -> None:
    """Raise ConfigError if an engine does not answer: it says no to whatever it is asked then."""
    asked = subprocess.run([engine, "version"], capture_output=True, text=True, check=False)
    if asked.returncode:
        why = (asked.stderr.strip().splitlines() or ["no word about why"])[-1]
        raise ConfigError(f"{engine} does not answer ({why}); start it, or leave --container out")


def _found_engine() -> str:
    engine = next((name for name in queen_container.ENGINES if shutil.which(name)), None)
    if engine is None:
        known = " or ".join(queen_container.ENGINES)
        raise ConfigError(f"--container needs {known}, and this machine has none on PATH; leave --container out")
    return engine


def _of_container(status: int) -> str:
    return "the queen's container is stopped" if status == 0 else "no queen runs in a container here"


def _within(seconds: float, done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _banner(log: Path) -> str:
    """Return what the queen says to a person, without what it says to a log and about Ctrl-C."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith("OpenAI-compatible")), len(lines))
    told = [line for line in lines[first:] if not _NOT_BANNER.match(line)]
    return "\n".join(told)


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError, IndexError):
        return log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1].removeprefix("rbee-queen: ")
    return "it said nothing"
