"""What systemd and its processes tell each other: readiness, status, inherited sockets (sd_notify, sd_listen_fds)."""

import os
import socket


def notify(message: str) -> bool:
    """Send `READY=1`, `STATUS=…` or the like to the service manager; False when there is none that listens."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(message.encode(), address)
        except OSError:
            # A service manager that is being replaced must not cost the service.
            return False
    return True


def inherited_sockets() -> dict[int, socket.socket]:
    """Return the listening sockets that systemd passed to this process, by TCP port; empty when there are none."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    first = 3  # SD_LISTEN_FDS_START
    found = [socket.socket(fileno=first + index) for index in range(int(os.environ.get("LISTEN_FDS", "0")))]
    return {listener.getsockname()[1]: listener for listener in found}
