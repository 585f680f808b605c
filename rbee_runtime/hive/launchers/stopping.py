"""Ends every worker of this hive and waits for it: what `rbee-workers.service` does when `rbee.target` stops.

Run as `python -m rbee_runtime.hive.launchers.stopping --config FILE`, after the hive, which would start them again.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rbee_runtime import config, logs, ports
from rbee_runtime.errors import LauncherError, RbeeError
from rbee_runtime.hive import launchers
from rbee_runtime.hive.launchers import Launcher
from rbee_runtime.hive.launchers.containers import STOP_SECONDS

LOOK_SECONDS = 0.5
MARGIN_SECONDS = 5.0
"""Between the engine's own force and our giving up."""


async def stop_all(launcher: Launcher, *, within: float = STOP_SECONDS + MARGIN_SECONDS) -> tuple[str, ...]:
    """Stop every worker and return those that still run after `within` seconds; LauncherError."""
    alive = await _alive(launcher)
    for worker in alive:
        logs.info("worker_stop", worker=worker, why="everything of rbee on this host stops")
    answers = await asyncio.gather(*(launcher.stop(worker) for worker in alive), return_exceptions=True)
    for refusal in (each for each in answers if isinstance(each, LauncherError)):
        logs.warning("worker_not_stopped", detail=refusal)
    deadline = time.monotonic() + within
    while alive := await _alive(launcher):
        if time.monotonic() >= deadline:
            return alive
        await asyncio.sleep(LOOK_SECONDS)
    return ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description="Stop every worker of this host's hive and wait for it.")
    parser.add_argument("--config", type=Path, default=ports.ETC / "hive.yaml", metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        left = asyncio.run(stop_all(launchers.build(config.load(options.config, config.HiveConfig))))
    except RbeeError as error:
        sys.stderr.write(f"rbee-workers: {error}\n")
        return 1
    if left:
        sys.stderr.write(f"rbee-workers: still running: {', '.join(left)}\n")
    return 1 if left else 0


async def _alive(launcher: Launcher) -> tuple[str, ...]:
    return tuple(worker for worker, status in (await launcher.list()).items() if status.alive)


if __name__ == "__main__":
    sys.exit(main())
