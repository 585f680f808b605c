"""Ends every worker of this hive and waits for it: what `rbee-workers.service` does when `rbee.target` stops.

Run as `python -m rbee_runtime.hive.launchers.stopping --config FILE`, after the hive, which would start them again.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from rbee_runtime import config, logs, ports
from rbee_runtime.command_line import Parser
from rbee_runtime.errors import LauncherError, RbeeError
from rbee_runtime.hive import launchers
from rbee_runtime.hive.launchers import Launcher, Phase, UnitStatus
from rbee_runtime.hive.launchers.containers import STOP_SECONDS

PROGRAM = "python -m rbee_runtime.hive.launchers.stopping"
LOOK_SECONDS = 0.5
AGAIN_SECONDS = 2.0
"""A worker that does not begin to stop by then was not asked: its launcher refused, or did not know it yet."""

MARGIN_SECONDS = 5.0
"""Between the engine's own force and our giving up."""


Ask = Callable[[str], Awaitable[None]]


async def stop_all(
    launcher: Launcher,
    *,
    within: float = STOP_SECONDS + MARGIN_SECONDS,
    ask: Ask | None = None,
    clock: Callable[[], float] = time.monotonic,
    every: float = LOOK_SECONDS,
) -> tuple[str, ...]:
    """Stop every worker and return those that still run `within` seconds after they were asked; LauncherError.

    `ask` asks one of them to stop and raises nothing; `every` is seconds between looks.
    """
    order = ask or partial(_ask, launcher)
    asked: dict[str, float] = {}
    await _ask_due(order, await _alive(launcher), asked, clock)
    deadline = clock() + within
    while alive := await _alive(launcher):
        if clock() >= deadline:
            return tuple(alive)
        await _ask_due(order, alive, asked, clock)
        await asyncio.sleep(every)
    return ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = Parser(prog=PROGRAM, description="Stop every worker of this host's hive and wait for it.")
    parser.add_argument("--config", type=Path, default=ports.ETC / "hive.yaml", metavar="FILE")
    try:
        options = parser.parse_args(arguments)
        settings = config.load(options.config, config.HiveConfig)
        # The host may have left this way of running workers; units of systemd end by themselves.
        left = asyncio.run(stop_all(launchers.build(settings))) if settings.in_containers else ()
    except RbeeError as error:
        sys.stderr.write(f"rbee-workers: {error}\n")
        return 1
    if left:
        sys.stderr.write(f"rbee-workers: still running: {', '.join(left)}\n")
    return 1 if left else 0


async def _ask_due(
    order: Ask, alive: Mapping[str, UnitStatus], asked: dict[str, float], clock: Callable[[], float]
) -> None:
    """Ask those that were not asked yet, and those again that do not begin to stop."""
    now = clock()
    due = [
        worker
        for worker, status in alive.items()
        if worker not in asked or (status.phase is not Phase.STOPPING and now - asked[worker] >= AGAIN_SECONDS)
    ]
    asked |= dict.fromkeys(due, now)
    await asyncio.gather(*(order(worker) for worker in due))


async def _ask(launcher: Launcher, worker: str) -> None:
    logs.info("worker_stop", worker=worker, why="everything of rbee on this host stops")
    try:
        await launcher.stop(worker)
    except (LauncherError, OSError) as error:
        logs.warning("worker_not_stopped", worker=worker, detail=error)


async def _alive(launcher: Launcher) -> dict[str, UnitStatus]:
    return {worker: status for worker, status in (await launcher.list()).items() if status.alive}


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Not sys.exit: a call that the engine does not answer has a thread that would be waited for.
    os._exit(status)
