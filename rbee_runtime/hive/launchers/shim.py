"""Parent of one worker where there is no systemd: outlives the hive, records the exit, bounds the log, enforces stops.

Runs as a script on the bare standard library (`python -I -S shim.py JSON`), so that it starts fast and stays small.
The JSON object: `worker` id, `spec` digest, `argv`, `folder` for the handle and exit files, `log`, `lock` (a descriptor
whose lock says that this worker runs; the worker inherits it), `stop_seconds`, `log_bytes`.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

SCHEMA = 1
LOOK_SECONDS = 5.0
COLLAPSE_RANGE = 0x08
"""FALLOC_FL_COLLAPSE_RANGE of linux/falloc.h."""

_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def main() -> None:
    """Leave the caller's process tree, start the worker, and stay until it ends."""
    order = json.loads(sys.argv[1])
    reader, writer = os.pipe()
    if os.fork() != 0:
        os.close(writer)
        # The caller waits for us: an answer means that the handle file is written.
        os._exit(0 if os.read(reader, 1) else 1)
    os.close(reader)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    pid = _launch(order)
    _record(order, "handle", _handle(order, pid))
    os.write(writer, b"1")
    os.close(writer)
    _record(order, "exit", _watch(order, pid))


def _launch(order: dict[str, Any]) -> int:
    os.set_inheritable(order["lock"], True)
    argv = order["argv"]
    return os.posix_spawn(argv[0], argv, dict(os.environ), setsid=True, setsigmask=[], setsigdef=_SIGNALS)


def _handle(order: dict[str, Any], pid: int) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "worker": order["worker"],
        "spec": order["spec"],
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid": pid,
        "started": _start_time(pid),
        "shim_pid": os.getpid(),
        "shim_started": _start_time(os.getpid()),
    }


def _start_time(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def _watch(order: dict[str, Any], pid: int) -> dict[str, Any]:
    """Return how the worker ended."""
    deadline: float | None = None
    killed = False
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return {"schema": SCHEMA, "status": code if code >= 0 else None, "signal": -code if code < 0 else None}
        # One that hangs in a driver stays after its kill, perhaps for ever.
        left = LOOK_SECONDS if deadline is None or killed else deadline - time.monotonic()
        caught = signal.sigtimedwait(_SIGNALS, max(0.0, min(LOOK_SECONDS, left)))
        if caught is not None and caught.si_signo != signal.SIGCHLD and deadline is None:
            deadline = time.monotonic() + order["stop_seconds"]
            os.kill(pid, signal.SIGTERM)
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
            killed = True
        _bound_log(Path(order["log"]), order["log_bytes"])


def _bound_log(log: Path, limit: int) -> None:
    """Keep about the last half when a log grows past its limit; the worker appends, so it goes on at the new end."""
    try:
        size = log.stat().st_size
        if size > limit and not _collapse(log, size - limit // 2):
            _copy_over(log, limit // 2)
    except OSError:
        return


def _collapse(log: Path, length: int) -> bool:
    """Cut whole blocks off the front in one step, as ext4 and XFS can, so that nothing written meanwhile is lost."""
    fallocate = ctypes.CDLL(None).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    with log.open("r+b") as file:
        block = os.fstatvfs(file.fileno()).f_bsize
        return bool(fallocate(file.fileno(), COLLAPSE_RANGE, 0, length // block * block) == 0)


def _copy_over(log: Path, length: int) -> None:
    """Write the last `length` bytes to the front; what the worker writes in that instant may be lost."""
    with log.open("rb") as file:
        file.seek(-length, os.SEEK_END)
        tail = file.read()
    os.truncate(log, 0)
    with log.open("ab") as file:
        file.write(tail)


def _record(order: dict[str, Any], kind: str, content: dict[str, Any]) -> None:
    path = Path(order["folder"]) / f"{order['worker']}.{kind}.json"
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(content))
    draft.replace(path)


if __name__ == "__main__":
    main()
