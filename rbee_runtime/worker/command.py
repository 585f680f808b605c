"""`rbee-worker`: serve one model until told to stop; the exit status says why it ended (`states.WORKER_EXIT_CODES`)."""

import errno
import os
import sys
from collections.abc import Sequence
from socket import socket

import uvloop

from rbee_runtime import logs
from rbee_runtime.errors import ConfigError, EngineCrashedError, EngineError, EngineLoadError, RbeeError
from rbee_runtime.protocol import WorkerLaunch
from rbee_runtime.server import bind
from rbee_runtime.states import WORKER_EXIT_CODES, ExitReason
from rbee_runtime.worker import engines, process
from rbee_runtime.worker.launch import BY_HAND, link_of, parse_arguments
from rbee_runtime.worker.lifecycle import Worker

_STATUS = {reason: status for status, reason in WORKER_EXIT_CODES.items()}
_SOFTWARE = 70
"""EX_SOFTWARE: the engine failed while it served; no row of the table, so the hive counts it as a crash."""

BACKLOG = 1024
"""Connections that wait for the loop; the kernel caps it at net.core.somaxconn."""


def program() -> int:
    """Run the command line and return its exit status."""
    logs.capture_libraries()
    return run(sys.argv[1:])


def run(arguments: Sequence[str]) -> int:
    """Serve and return the exit status, after one sentence on stderr if it is not 0."""
    try:
        launch = parse_arguments(arguments, os.environ)
        uvloop.run(_serve(launch))
    except RbeeError as error:
        sys.stderr.write(f"rbee-worker: {error}\n")
        return _status_of(error)
    except MemoryError:
        sys.stderr.write("rbee-worker: out of memory; give the host more, or the model a smaller context\n")
        return _STATUS[ExitReason.OUT_OF_MEMORY]
    return 0


async def _serve(launch: WorkerLaunch) -> None:
    link = link_of(launch)
    worker = Worker(launch.worker, engines.create(launch))
    listener = _listen(launch)
    if launch.worker.id == BY_HAND:
        _greet(launch, listener.getsockname()[1])
    await process.serve(worker, link, listener)


def _listen(launch: WorkerLaunch) -> socket:
    listener = bind(launch.host, launch.port)
    try:
        # Here and not in the server: two processes that are bound but not listening yet see each other only now.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {launch.host}:{launch.port}: {error.strerror}") from error
    return listener


def _greet(launch: WorkerLaunch, port: int) -> None:
    sys.stdout.write(f"url: http://{launch.host}:{port}/v1\nheader: x-rbee-token: {launch.token}\n")
    sys.stdout.flush()


def _status_of(error: RbeeError) -> int:
    if isinstance(error, EngineLoadError | EngineCrashedError) and error.reason:
        return _STATUS.get(ExitReason(error.reason), _SOFTWARE)
    if isinstance(error, EngineError):
        return _SOFTWARE
    cause = error.__cause__
    taken = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
    return _STATUS[ExitReason.PORT_TAKEN if taken else ExitReason.BAD_CONFIG]
