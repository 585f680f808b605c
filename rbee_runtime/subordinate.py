"""Ids of a host as a rootless engine of containers calls them, by the lines of /etc/subuid and /etc/subgid. Pure.

Podman sorts the spans that a user was lent by their first id and lays them end to end, behind the user's own id, which
is 0 inside. So a host's id can be lent by itself, and a container that is given the id that this one has inside is, on
the host, that very user or group. The standard library alone, as the guard.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

SUBUID, SUBGID = "/etc/subuid", "/etc/subgid"
IMAGE_IDS = 65536
"""For the owners of an image's own files, whatever image it is."""

FIRST_IMAGE_ID = 100_000
"""As useradd begins; below are people and services of the host."""


@dataclass(frozen=True, order=True)
class Span:
    """Ids of the host in a row."""

    first: int
    count: int

    @property
    def end(self) -> int:
        """Return the first id behind it."""
        return self.first + self.count


def lent(text: str, user: str | None = None) -> tuple[Span, ...]:
    """Return what a file lends to a user, or to anybody, in Podman's order; what it cannot say is no line of it."""
    rows = (line.split(":") for line in text.splitlines())
    return tuple(
        sorted(
            Span(int(row[1]), int(row[2]))
            for row in rows
            if len(row) == 3 and user in {None, row[0]} and row[1].isdecimal() and row[2].isdecimal()
        )
    )


def inside(host_id: int, spans: Iterable[Span]) -> int | None:
    """Return what an id of the host is called inside, None for one that was not lent."""
    below = 1
    for span in spans:
        if span.first <= host_id < span.end:
            return below + host_id - span.first
        below += span.count
    return None


def lending(text: str, user: str, ids: Iterable[int]) -> str:
    """Return the file's text so that it lends these ids, one by one, and a span for images; others' lines stay.

    The span stays where it is: files of images belong to it.
    """
    mine = f"{user}:"
    others = [line for line in text.splitlines() if line and not line.startswith(mine)]
    images = next((span for span in lent(text, user) if span.count >= IMAGE_IDS), None) or _free(lent(text))
    spans = [*(Span(each, 1) for each in sorted(set(ids))), images]
    return "".join(f"{line}\n" for line in (*others, *(f"{mine}{span.first}:{span.count}" for span in spans)))


def _free(taken: Iterable[Span]) -> Span:
    held = tuple(taken)
    starts = itertools.count(FIRST_IMAGE_ID, IMAGE_IDS)
    tried = (Span(first, IMAGE_IDS) for first in starts)
    return next(span for span in tried if all(span.end <= each.first or each.end <= span.first for each in held))
