"""What the Quadlet units of queen and hive run before a container starts, and when one is to make way."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rbee_deploy.activator import disk
from rbee_deploy.activator.housed.engine import Engine
from rbee_deploy.activator.housed.leaving import is_ready, let_go
from rbee_deploy.activator.housed.role import HousedRole, ids, options, run_folder
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import notify, ports

LEAVE_SECONDS = 18.0
"""A queen lets go within milliseconds, or kills what hangs after 15 s."""

RUN = Path("/run")
"""Where Quadlet notes containers."""

CGROUPS = Path("/sys/fs/cgroup")
SYSTEMD = "/run/systemd/notify"
STAND_IN_SECONDS = "30"
WHILE_HELD = """\
tries=0
while [ $tries -lt 600 ] && [ -e {mark} ]; do tries=$((tries + 1)); sleep 0.05; done
"""
"""Of a unit whose files are being changed: systemd starts it once its main process, which this is, has ended.

Until then it takes the unit to be stopping, and its socket's wish to start it waits.
"""

NOTIFY_SECONDS = 5.0


def prepare(role: HousedRole, credentials: Sequence[str], shown: Sequence[str]) -> None:
    """Make ready what the unit's container is started with: folder, ids, secrets."""
    podman = Engine("podman")
    run_folder(role)
    uid, gid = ids(role)
    ports.UNIT_RUN.mkdir(mode=0o755, exist_ok=True)
    lines = (f"RBEE_UID={uid}", f"RBEE_GID={gid}", f"RBEE_OPTIONS={' '.join(options(role, shown))}", "")
    disk.write(environment(role), "\n".join(lines).encode())
    forget(role, podman)
    for name in credentials:
        _give(podman, f"{role.container}-{name}", ports.CREDENTIALS / name)
    make_way(Path("/proc/self/cgroup"), CGROUPS)


def environment(role: HousedRole) -> Path:
    """Return the file that tells the unit of a role what only the host knows."""
    return ports.UNIT_RUN / f"{role.name}.env"


def forget(role: HousedRole, podman: Engine | None = None) -> None:
    """Have Podman forget the secrets of a role: those of another time, or of a role that is no container any more."""
    engine = podman or Engine("podman")
    known = engine.run("secret", "ls", "--format", "{{.Name}}").stdout.split()
    mine = [name for name in known if name.startswith(f"{role.container}-")]
    if mine:
        engine.run("secret", "rm", *mine)


def _give(podman: Engine, secret: str, path: Path) -> None:
    """Have Podman hold a secret as a file says."""
    done = podman.run("secret", "create", secret, str(path))
    if done.returncode != 0:
        raise ActivationError(f"podman could not take the secret {secret} from {path}: {done.stderr.strip()}")


def make_way(own: Path, root: Path) -> None:
    """Move what is left of a process of the host out of the unit's own control group, into one below it.

    Podman makes groups below the unit's, and the kernel lets no group with others below it have processes of its own
    as well: after a queen that was no container and still finishes her streams, none could start.
    """
    unified = next((line for line in own.read_text().splitlines() if line.startswith("0::")), "")
    unit = root / unified.removeprefix("0::").lstrip("/").removesuffix("/.control")
    # Only where systemd has put this apart, as it does for units with groups of their own.
    if not unified.endswith("/.control") or not (unit / "cgroup.procs").is_file():
        return
    for pid in (unit / "cgroup.procs").read_text().split():
        below = unit / "leaving"
        below.mkdir(exist_ok=True)
        try:
            (below / "cgroup.procs").write_text(pid)
        except OSError:
            # It has ended meanwhile.
            continue


def leave(role: HousedRole, *, unit: Path | None = None) -> bool:
    """Have a container let go, and end in its own time under another name if it still has open streams.

    `unit` is the control group of its unit where somebody else than that unit asks, who then changes what the unit is:
    it does not start again before `release`, or half a minute. False if its container may be there still, for it to
    end. Raises ActivationError, and changes nothing, where Podman does not say what it runs.
    """
    podman, file = Engine("podman"), noted(role)
    container = _running(podman, role)
    if not container:
        return True
    # By its name: Podman takes this note away whenever a predecessor ends. The unit ends what is noted.
    disk.write(file, container.encode())
    # One that is not ready may not hear a signal yet: it serves nobody, and the unit ends it.
    if not is_ready(role):
        return False
    if unit is not None:
        # Before anything ends: one without open streams is gone at once, and its unit would be free to start.
        _hold(unit)
    podman.run("kill", "--signal=TERM", container)
    if not let_go(podman, role, container, LEAVE_SECONDS):
        return podman.runs(container) is False
    podman.run("rename", container, f"{role.leaving}{container[:12]}")
    file.unlink(missing_ok=True)
    if unit is None:
        _stand_in()
    return True


def _running(podman: Engine, role: HousedRole) -> str:
    """Return the id of the container that the unit of a role runs, "" if it is none; ActivationError."""
    # Quadlet labels what it starts.
    known = (f"--filter=name=^{role.container}$", f"--filter=label=PODMAN_SYSTEMD_UNIT={role.unit}")
    done = podman.run("ps", "--no-trunc", *known, "--format={{.ID}}")
    if done.returncode != 0:
        # Silence is no container that is gone: hers would be ended with all its streams.
        why = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise ActivationError(
            f"podman does not say whether the {role.name} runs in a container of it ({why[0]}): run `podman ps` as "
            "root, mend what it says, and run the same command again"
        )
    return done.stdout.strip()


def release(role: HousedRole) -> None:
    """Let the unit of a role start again, as what it is now."""
    _mark(role.unit).unlink(missing_ok=True)


def _mark(unit: str) -> Path:
    """Return what is there while a unit may not start again."""
    return ports.UNIT_RUN / f"{unit}.held"


def noted(role: HousedRole) -> Path:
    """Return the file in which Quadlet has noted the container of a unit."""
    return RUN / f"{role.container}.cid"


def _stand_in() -> None:
    """Give systemd a main process that it may end in place of the one that watches over the container."""
    notify.notify(f"MAINPID={os.posix_spawnp('sleep', ['sleep', STAND_IN_SECONDS], os.environ)}")
    # Only a process of the unit may say so, and this one ends now.
    notify.wait_read(NOTIFY_SECONDS)


def _hold(unit: Path) -> None:
    """Give systemd a main process that does not end before `release`."""
    below = unit / "leaving"
    below.mkdir(exist_ok=True)
    ports.UNIT_RUN.mkdir(mode=0o755, exist_ok=True)
    _mark(unit.name).touch()
    child = _started_in(below, ["sh", "-c", WHILE_HELD.format(mark=_mark(unit.name))])
    _wait(_forked_into(below, lambda: _say(f"MAINPID={child}")))


def _started_in(group: Path, command: Sequence[str]) -> int:
    """Start a command in a control group, as a child of systemd, which learns of the end of its own children only."""
    reading, writing = os.pipe()

    def start() -> None:
        os.write(writing, str(os.posix_spawnp(command[0], list(command), os.environ)).encode())

    _wait(_forked_into(group, start))
    os.close(writing)
    with os.fdopen(reading) as told:
        return int(told.read())


def _forked_into(group: Path, act: Callable[[], None]) -> int:
    """Do something in a process of its own that is in a control group; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            (group / "cgroup.procs").write_text(str(os.getpid()))
            act()
        finally:
            os._exit(0)
    return pid


def _wait(pid: int) -> None:
    os.waitpid(pid, 0)


def _say(message: str) -> None:
    os.environ.setdefault("NOTIFY_SOCKET", SYSTEMD)
    notify.notify(message)
    notify.wait_read(NOTIFY_SECONDS)
