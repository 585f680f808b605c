"""systemd on the host: what units are like, and bringing a role to what it should run."""

import contextlib
import json
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy.activator import disk
from rbee_deploy.activator.manifest import STARTS_AT_BOOT, Role

COMMAND_SECONDS = 120.0
"""A stop may take the units' own TimeoutStopSec of 20 s, a start their TimeoutStartSec of 60 s."""

READY_SECONDS = 40.0
"""A role is ready within a second or two; with the way back this stays below a minute on a release that never is."""

MOST_RESTARTS = 3
"""Automatic restarts after ours mean that it cannot start; the deadline needs no waiting then."""

LOG_LINES = 10

LOOKED_THROUGH = 2000
"""A queen that leaves writes a line for each of her open requests, after the first lines of the one that comes."""

RUNNING_BYTES = 1 << 20
"""Above any `running.json`; whoever runs the service could write more."""


class ActivationError(Exception):
    """A step failed; the text is what a person should read, the unit's last lines included."""


@dataclass(frozen=True)
class Unit:
    """A unit as systemd has it."""

    active: str = ""
    file_state: str = ""
    need_reload: bool = False
    restarts: int = 0
    load: str = ""


def systemctl(*words: str, seconds: float = COMMAND_SECONDS) -> str:
    """Run systemctl; raise ActivationError with its own words when it fails."""
    try:
        done = subprocess.run(
            ["systemctl", *words],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise ActivationError(f"systemctl {' '.join(words)} took longer than {seconds:.0f} s") from error
    if done.returncode != 0:
        raise ActivationError(f"systemctl {' '.join(words)} failed: {done.stderr.strip() or done.returncode}")
    return done.stdout


def look(names: Iterable[str]) -> dict[str, Unit]:
    """Return units by name."""
    wanted = list(names)
    if not wanted:
        return {}
    properties = "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,NRestarts"
    blocks = systemctl("show", "-p", properties, "--", *wanted).strip().split("\n\n")
    found = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in blocks]
    return {
        asked: Unit(
            active=block.get("ActiveState", ""),
            file_state=block.get("UnitFileState", ""),
            need_reload=block.get("NeedDaemonReload") == "yes",
            restarts=int(block.get("NRestarts") or 0),
            load=block.get("LoadState", ""),
        )
        for asked, block in zip(wanted, found, strict=False)
    }


def register(enabled: Iterable[str]) -> None:
    """Have systemd know the unit files as they are now, and start these at boot."""
    wanted = list(enabled)
    found = look(wanted)
    if _a_running_one_is_old() or any(unit.need_reload or unit.load != "loaded" for unit in found.values()):
        # Only then: a reload can take GPUs away from containers.
        systemctl("daemon-reload")
    off = [name for name in wanted if look([name])[name].file_state not in STARTS_AT_BOOT]
    if off:
        systemctl("enable", "--quiet", "--", *off)


def disable(names: Iterable[str]) -> None:
    """Have units not start at boot any more, of those that are there."""
    present = [name for name, unit in look(names).items() if unit.file_state == "enabled"]
    if present:
        systemctl("disable", "--quiet", "--", *present)


def _a_running_one_is_old() -> bool:
    """Say whether systemd holds an older form of a unit of ours that runs, such as a worker's; names do not matter."""
    return "NeedDaemonReload=yes" in systemctl("show", "-p", "NeedDaemonReload", "--", "rbee-*").split()


def running(role: Role) -> tuple[str, str]:
    """Return digest and release that a role's process says it runs, each "" if it does not."""
    try:
        known: Mapping[str, object] = json.loads(disk.read_untrusted(Path(role.running_file), most=RUNNING_BYTES))
        return str(known.get("digest", "")), str(known.get("release", ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return "", ""


def runs(role: Role) -> bool:
    """Say whether a role runs what it should: its units are active, its ports are held, the digests agree."""
    found = look((*role.sockets, role.service))
    active = all(unit.active == "active" for unit in found.values())
    return active and running(role) == (role.digest, role.release) and set(role.listens) <= listening()


def restart(role: Role, *, seconds: float = READY_SECONDS) -> None:
    """Start a role anew and wait until it is ready with its digest and release, or raise ActivationError."""
    deadline, leaving = time.monotonic() + seconds, processes(role.service)
    _listen(role)
    subprocess.run(["systemctl", "reset-failed", "--", role.service], capture_output=True, check=False)
    # Without waiting: systemd's own patience is longer than ours.
    systemctl("restart", "--no-block", "--", role.service)
    time.sleep(0.1)
    while time.monotonic() < deadline:
        if runs(role) and not _has_job(role.service):
            return
        if look([role.service])[role.service].restarts >= MOST_RESTARTS:
            break
        time.sleep(0.1)
    raise ActivationError(_complaint(role, leaving))


def forget_failed(names: Iterable[str]) -> None:
    """Have systemd forget that units failed which are not there any more; that they did not is no mistake."""
    gone = list(names)
    # Without a name it would forget those of everybody else.
    if gone:
        subprocess.run(["systemctl", "reset-failed", "--", *gone], capture_output=True, check=False)


def kill_unready(role: Role) -> None:
    """End a service at once that does not run as it should: it serves nobody, and a stop would wait for it."""
    if look([role.service])[role.service].active not in {"active", "inactive", "failed"}:
        words = ["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "--", role.service]
        subprocess.run(words, capture_output=True, check=False)


def listening() -> set[int]:
    """Return the TCP ports that something listens on (state 0A in the kernel's table)."""
    ports: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        rows = (line.split() for line in Path(table).read_text().splitlines()[1:]) if Path(table).exists() else ()
        ports |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}
    return ports


def processes(unit: str, proc: Path = Path("/proc")) -> frozenset[int]:
    """Return every process in the control group of a unit, those that a restart leaves to their open streams too."""
    found = set()
    for table in proc.glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):
            if any(unit in line.split("/") for line in table.read_text().splitlines()):
                found.add(int(table.parent.name))
    return frozenset(found)


def journal(unit: str, without: Collection[int] = ()) -> list[str]:
    """Return the last lines that the unit's own processes wrote, or what systemd says of it if they are silent.

    `without` are processes whose lines are left out.
    """
    for which in (f"_SYSTEMD_UNIT={unit}", f"--unit={unit}"):
        output = (
            "-n",
            str(LOOKED_THROUGH),
            "--no-pager",
            "-o",
            "json",
            "--all",
            "--output-fields=MESSAGE,_PID,PODMAN_EVENT",
        )
        done = subprocess.run(["journalctl", which, *output], capture_output=True, check=False)
        found = written(done.stdout.decode(errors="replace").splitlines(), without)
        if found:
            return found[-LOG_LINES:]
    return []


def written(records: Iterable[str], without: Collection[int] = ()) -> list[str]:
    """Return the lines in journal records, each one JSON, but for those that these processes wrote.

    What cannot be read is left out: an activation that failed has more to do than to say why.
    """
    found: list[str] = []
    for text in records:
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            record = json.loads(text)
            # Podman notes there what it does to a container, a long line each.
            if int(record.get("_PID", 0)) not in without and "PODMAN_EVENT" not in record:
                found += _text(record.get("MESSAGE")).splitlines()
    return found


def _text(message: object) -> str:
    """Return a message, which is a list of bytes where it is not plain text."""
    return bytes(message).decode(errors="replace") if isinstance(message, list) else str(message or "")


def _listen(role: Role) -> None:
    """Have the sockets listen; a change of ports needs the service stopped, for systemd refuses it otherwise."""
    for socket in role.sockets:
        if look([socket])[socket].active == "active" and not set(role.listens) <= listening():
            systemctl("stop", "--", role.service)
            systemctl("restart", "--", socket)
        else:
            systemctl("start", "--", socket)


def _has_job(unit: str) -> bool:
    """Say whether systemd is still busy with our restart: until then the old process may look ready."""
    return systemctl("show", "-p", "Job", "--value", "--", unit).strip() not in {"", "0"}


def _complaint(role: Role, leaving: Collection[int]) -> str:
    state = look([role.service])[role.service].active
    lines = journal(role.service, leaving)
    return "\n".join((f"{role.service} did not become ready ({state}); its last lines:", *lines))
