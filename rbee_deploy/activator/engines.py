"""How the commands of engines of containers begin, for root on this host; by the names that generations have."""

import pwd

from rbee_runtime import ports

PODMAN = "podman"
ROOTLESS = "podman-rootless"
"""Podman of the user `ports.ENGINE_USER`."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ROOT_S = (PODMAN, "docker")


def program(engine: str) -> str:
    """Return the name of an engine's program."""
    return "podman" if engine == ROOTLESS else engine


def command(engine: str) -> tuple[str, ...]:
    """Return the words; those of an engine whose user is not there fail when they are run."""
    if engine != ROOTLESS:
        return (engine,)
    try:
        uid = str(pwd.getpwnam(ports.ENGINE_USER).pw_uid)
    except KeyError:
        uid = "none"
    return as_user(uid)


def as_user(uid: str) -> tuple[str, ...]:
    """Return how a command of the engine's user begins; in a script `uid` may be what the shell puts in its place.

    The folder is changed because root's may be closed to that user.
    """
    who = (f"--reuid={ports.ENGINE_USER}", f"--regid={ports.ENGINE_USER}", "--init-groups")
    # Nothing of root's own, such as its name, by which Podman looks for what the user was lent.
    known = (f"PATH={PATH}", f"HOME={ports.ENGINE_STATE}", f"USER={ports.ENGINE_USER}")
    return ("setpriv", *who, "env", "-i", "--chdir=/", *known, f"XDG_RUNTIME_DIR={runtime_dir(uid)}", "podman")


def runtime_dir(uid: str) -> str:
    """Return where a user's sockets and locks are."""
    return f"/run/user/{uid}"


def in_shell(engine: str) -> str:
    """Return the words as a script has them, on a host whose ids nobody knows yet."""
    return engine if engine != ROOTLESS else " ".join(as_user(f"$(id -u {ports.ENGINE_USER})"))
