"""Podman's API of a user without rights, at a socket that root alone opens: root binds it and hands it over."""

import os
import pwd
import socket

from rbee_deploy.activator import engines
from rbee_deploy.activator.rootless import account
from rbee_runtime import ports

FIRST_INHERITED = 3
BACKLOG = 128


def serve() -> None:
    """Become the API's process."""
    account.prepare(anew=True)
    _hand(_bound())
    user = pwd.getpwnam(ports.ENGINE_USER)
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.chdir("/")
    os.umask(0o022)
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(ports.ENGINE_STATE),
        "USER": user.pw_name,
        "XDG_RUNTIME_DIR": engines.runtime_dir(str(user.pw_uid)),
        "LISTEN_FDS": "1",
        "LISTEN_PID": str(os.getpid()),
    }
    os.execvpe("podman", ["podman", "system", "service", "--time=0"], environment)  # noqa: S606 - there is no shell to want


def _bound() -> socket.socket:
    ports.PODMAN_RUN.mkdir(mode=0o700, exist_ok=True)
    ports.PODMAN_SOCKET.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(ports.PODMAN_SOCKET))
    finally:
        os.umask(mask)
    listener.listen(BACKLOG)
    return listener


def _hand(listener: socket.socket) -> None:
    """Have the next program find the socket where systemd would put it."""
    # Detached, or it would be closed when nobody knows it any more.
    number = listener.detach()
    if number == FIRST_INHERITED:
        os.set_inheritable(number, True)
    else:
        os.dup2(number, FIRST_INHERITED, inheritable=True)
