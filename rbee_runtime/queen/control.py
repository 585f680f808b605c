"""What supervisor and serving child say to each other: lines over a socket pair. The end of it means the other died."""

from enum import StrEnum


class Order(StrEnum):
    """From the supervisor."""

    DRAIN = "drain"
    STOP = "stop"


class Word(StrEnum):
    """From the child: it serves; it can only refuse; it has let go of sockets and state and finishes open answers."""

    READY = "ready"
    REFUSING = "refusing"
    RELEASED = "released"


class LineReader:
    """Cuts received bytes into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode() for line in lines]
