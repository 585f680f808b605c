"""What systemd and its processes tell each other: readiness, status, inherited sockets (sd_notify, sd_listen_fds)."""

import os
import select
import socket

from rbee_runtime.errors import ConfigError


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


def wait_read(seconds: float) -> None:
    """Wait until the service manager has read what was sent before, but no longer than that (sd_notify_barrier)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    reading, writing = os.pipe()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect("\0" + path[1:] if path.startswith("@") else path)
            socket.send_fds(channel, [b"BARRIER=1"], [writing])
    except OSError:
        os.close(writing)
    else:
        os.close(writing)
        # It closes its end when it comes to this message.
        select.select([reading], [], [], seconds)
    finally:
        os.close(reading)


SOCKETS = "RBEE_SOCKETS"
"""Names the Unix socket at which a unit hands its listening sockets to a container that systemd cannot give any."""

HAND_OVER_SECONDS = 10.0
MOST_SOCKETS = 8


def inherited_sockets() -> dict[int, socket.socket]:
    """Return the listening sockets that systemd passed to this process, by TCP port; empty when there are none."""
    if os.environ.get(SOCKETS):
        return _by_port(_received(os.environ[SOCKETS]))
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    first = 3  # SD_LISTEN_FDS_START
    return _by_port([first + index for index in range(int(os.environ.get("LISTEN_FDS", "0")))])


def _received(path: str) -> list[int]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(HAND_OVER_SECONDS)
        try:
            channel.connect(path)
            _, descriptors, _, _ = socket.recv_fds(channel, 1, MOST_SOCKETS)
        except OSError as error:
            raise ConfigError(f"no listening sockets come from {path} ({error}); restart the unit") from error
    return descriptors


def _by_port(descriptors: list[int]) -> dict[int, socket.socket]:
    found = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    return {listener.getsockname()[1]: listener for listener in found}
