"""How many workers a model is to have, from what it sees of requests. Pure: each look gives a new target.

more, up to the maximum    requests wait, or four fifths of all slots are taken, for 5 s while every worker serves
fewer, down to one         one worker fewer would have room for what there is, for as long as the idle TTL
none, where that is the    no request for as long as the idle TTL, or the host of the last one is lost and nobody asks
minimum

A model that has no worker gets its first one by a load (`loads`), never here. An idle TTL of 0 means never, and a model
that is kept loaded keeps every worker that it has.
"""

from dataclasses import dataclass, replace

from rbee_runtime.config import FleetModel

UP_SECONDS = 5.0
"""Shorter bursts are over before another worker has loaded."""

FULL_SHARE, ROOM_SHARE = 0.8, 0.6
"""Of the slots: from the first on there are too few workers; of what is left less than the second may be taken."""


@dataclass(frozen=True)
class Traffic:
    """What is seen of a model: requests in line and in flight, slots of the workers that serve, and their number.

    `loading` says that its first worker is being loaded for somebody, `gone` that it has none on a host that is there.
    """

    waiting: int = 0
    in_flight: int = 0
    slots: int = 0
    ready: int = 0
    loading: bool = False
    gone: bool = False

    @property
    def active(self) -> bool:
        """Say whether anybody wants anything of it."""
        return self.waiting > 0 or self.in_flight > 0 or self.loading

    @property
    def is_pressed(self) -> bool:
        """Say whether there are too few workers."""
        return self.ready > 0 and (self.waiting > 0 or self.in_flight >= FULL_SHARE * self.slots)

    @property
    def has_room(self) -> bool:
        """Say whether one worker fewer would do."""
        left = self.slots * (self.ready - 1) / self.ready if self.ready else 0.0
        return not self.waiting and self.in_flight <= ROOM_SHARE * left


@dataclass(frozen=True)
class Scale:
    """The target of one model, and since when it was pressed, had room, or was wanted by nobody (monotonic seconds)."""

    replicas: int
    used: float
    pressed: float | None = None
    roomy: float | None = None


def started(model: FleetModel, workers: int, *, now: float) -> Scale:
    """Return the target of a model that was not seen before and has so many workers: those stay."""
    return Scale(_within(model, workers), used=now)


def advanced(before: Scale, model: FleetModel, seen: Traffic, *, now: float) -> Scale:
    """Return the target after one more look."""
    scale = replace(
        before,
        replicas=_within(model, before.replicas),
        used=now if seen.active else before.used,
        pressed=_since(before.pressed, now=now, holds=seen.is_pressed),
        roomy=_since(before.roomy, now=now, holds=seen.has_room),
    )
    if _grows(scale, model, seen, now):
        return replace(scale, replicas=scale.replicas + 1, pressed=None, roomy=None)
    if seen.gone and not seen.active and not model.replicas_min and not model.keep_loaded:
        return replace(scale, replicas=0)
    if _shrinks(scale, model, now):
        return replace(scale, replicas=scale.replicas - 1, roomy=now)
    return scale


def without(scale: Scale, workers: int = 1) -> Scale:
    """Return the target of a model that lost workers to another one."""
    return replace(scale, replicas=max(0, scale.replicas - workers), pressed=None)


def _grows(scale: Scale, model: FleetModel, seen: Traffic, now: float) -> bool:
    # While one that was asked for is still to come, it is not known whether it is enough.
    may = 0 < scale.replicas < model.replicas_max and seen.ready >= scale.replicas
    return may and scale.pressed is not None and now - scale.pressed >= UP_SECONDS


def _shrinks(scale: Scale, model: FleetModel, now: float) -> bool:
    if scale.replicas <= model.replicas_min or not model.idle_ttl or model.keep_loaded:
        return False
    since = scale.roomy if scale.replicas > 1 else scale.used
    return since is not None and now - since >= model.idle_ttl


def _within(model: FleetModel, workers: int) -> int:
    return min(max(workers, model.replicas_min), max(model.replicas_max, model.replicas_min))


def _since(before: float | None, *, now: float, holds: bool) -> float | None:
    if not holds:
        return None
    return now if before is None else before
