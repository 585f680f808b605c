"""What the host remembers of deploys: the state, which is one file replaced in one step, and the audit log."""

import contextlib
import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from rbee_deploy.activator import disk, places
from rbee_deploy.activator.manifest import Generation

MOST_AUDIT_BYTES = 4 << 20
"""Some ten thousand lines; the older half goes."""


@dataclass(frozen=True)
class Good:
    """A generation that became ready, when (Unix seconds), and the id of the run that brought it.

    `again` is when a rollback came back to it, 0 if none did; `images` are the ids of what its containers are made of,
    at its `engine` of containers, and `kinds` says of each in turn what it is for. `switch` is the step by which the
    host came to its release and images, None where that is this one. `had` is what it had last since then for the same,
    by engine and kind: in between it may have run bare. `brought` is what other hosts have of a change that this step
    is: the release, or those of its images that are others than the host had last.
    """

    generation: str
    release: str
    since: int
    run: str = ""
    again: int = 0
    images: tuple[str, ...] = ()
    engine: str = ""
    kinds: tuple[str, ...] = ()
    switch: "Good | None" = None
    # These do not tell steps apart: of those that an older release wrote they are found out later.
    had: tuple[tuple[str, str, str], ...] = field(default=(), compare=False)
    brought: tuple[str, ...] = field(default=(), compare=False)

    @property
    def programs(self) -> tuple[str, tuple[str, ...]]:
        """Return what it runs: its release and its images."""
        return self.release, self.images

    def brings(self, before: "Good") -> Collection[str]:
        """Return what makes it another one to go back over: a release, or other images of the same kinds.

        A host that runs the same release in another way, bare or at another engine, or that has an image more or less,
        brings nothing: its inventory takes that back.
        """
        if self.release != before.release:
            return {self.release}
        mine, others = self.made_of, before.made_of
        if mine is not None and others is not None:
            return {mine[kind] for kind in mine.keys() & others.keys() if mine[kind] != others[kind]}
        # Releases of before did not note the kinds: as many images at the same engine are taken for those of the same.
        alike = (self.engine, len(self.images)) == (before.engine, len(before.images))
        return {*self.images} - {*before.images} if alike else set()

    @property
    def made_of(self) -> Mapping[tuple[str, str], str] | None:
        """Return the images by engine and kind, None where nobody noted their kinds."""
        if len(self.kinds) != len(self.images):
            return None
        return {(self.engine, kind): image for kind, image in zip(self.kinds, self.images, strict=True)}

    @property
    def last(self) -> Mapping[tuple[str, str], str]:
        """Return the images that it had last, by engine and kind."""
        return {(engine, kind): image for engine, kind, image in self.had}

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> "Good":
        """Return an entry as far as this release knows its fields: a newer one may have written more."""
        known = {name: value for name, value in entry.items() if name in {item.name for item in fields(cls)}}
        lists = {name: tuple(known.get(name, ())) for name in ("images", "kinds", "brought")}
        switch, had = known.get("switch"), tuple(map(tuple, known.get("had", ())))
        return cls(**{**known, **lists, "switch": cls.parse(switch) if switch else None, "had": had})


@dataclass(frozen=True)
class State:
    """`good` are the generations that became ready, the newest last; `undo` is what an activation may have to put back.

    `wanted` is the generation of an activation under way, "" while none is.
    """

    current: str = ""
    good: tuple[Good, ...] = ()
    wanted: str = ""
    undo: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls) -> "State":
        """Return what is on disk; a host that was never activated, or whose file is damaged, has nothing."""
        try:
            known = json.loads(places.STATE.read_text(encoding="utf-8"))
            good = tuple(map(Good.parse, known.get("good", ())))
            return cls(known.get("current", ""), good, known.get("wanted", ""), known.get("undo", {}))
        except (OSError, ValueError, TypeError, AttributeError):
            return cls()

    def save(self) -> None:
        """Put it on the disk in one step."""
        disk.private_folder(places.HOME)
        text = json.dumps(asdict(self), separators=(",", ":")) + "\n"
        disk.write(places.STATE, text.encode())

    def reached(self, generation: Generation, now: float, run: str, *, goes_back: bool = False) -> "State":
        """Return the state in which a generation has become ready; what is gone back from counts as good no more.

        What is gone back to stays the step that it was, of the run that brought it: a rollback that is run again,
        because it did not reach every host, must not take those that it reached for newly changed ones.
        """
        ids = [entry.generation for entry in self.good]
        if not goes_back and ids[-1:] == [generation.id]:
            # Only repaired: the run that did it has brought nothing, and there is nothing to take back of it.
            return replace(self, current=generation.id, wanted="", undo={})
        if goes_back and generation.id in ids:
            at = ids.index(generation.id)
            good = (*self.good[:at], replace(self.good[at], again=int(now)))
        else:
            step = Good(
                generation=generation.id,
                release=generation.release,
                since=int(now),
                run=run,
                images=generation.images,
                engine=generation.engine,
                kinds=generation.kinds,
            )
            # Noted while what was before is known: what is gone over to once more, or pruned, leaves its place.
            *known, step = settled((*self.good, step))
            if step.switch is not None:
                step = replace(step, again=known[-1].again)
            # But not what was before the switch: bare, new images, bare again is still to be gone back over.
            before = next((entry for entry in reversed(known) if _switch(entry) != step.switch), None)
            good = (*(entry for entry in known if entry.generation != generation.id or entry is before), step)
        return replace(self, current=generation.id, good=good, wanted="", undo={})


def switches(good: Sequence[Good]) -> tuple[Good, ...]:
    """Return for each of the steps of a host, the newest last, the one by which it came to that release and images."""
    return tuple(map(_switch, settled(good)))


def settled(good: Sequence[Good]) -> tuple[Good, ...]:
    """Return the steps with all noted of them that is to be known without the steps before."""
    found: list[Good] = []
    for step in good:
        found.append(_settled(step, found[-1] if found else None))
    return tuple(found)


def _settled(step: Good, before: Good | None) -> Good:
    """Return a step as what it is after the one before, whose own way there is noted already."""
    former = None if before is None else _switch(before)
    switch, brought = step.switch, step.brought
    if switch is None and before is not None and not brought:
        brought = _brought(step, before)
        switch = None if brought else former
    had = before.last if before is not None and switch == former else (switch or step).made_of or {}
    last = step.had or tuple((*kind, image) for kind, image in {**had, **(step.made_of or {})}.items())
    return replace(step, switch=switch, had=last, brought=brought)


def _brought(step: Good, before: Good) -> tuple[str, ...]:
    """Return the release, or the images that are others than the host had last: it may have run bare since."""
    if step.release != before.release:
        return (step.release,)
    mine = step.made_of or {}
    others = {image for kind, image in mine.items() if before.last.get(kind, image) != image}
    return tuple(sorted(others | {*step.brings(before)}))


def _switch(step: Good) -> Good:
    return _alone(step) if step.switch is None else step.switch


def _alone(step: Good) -> Good:
    return replace(step, again=0, switch=None, had=())


def load(generation: str) -> Generation:
    """Return a generation that was staged, or raise ValueError."""
    path = places.GENERATIONS / f"{generation}.json"
    try:
        return Generation.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"generation {generation} is not on this host ({error.strerror}); run the deploy") from error


def audit(action: str, **facts: Any) -> None:
    """Append one line; a full disk costs the line, not the activation."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "action": action, **facts}
    with contextlib.suppress(OSError):
        _shorten()
        with places.AUDIT.open("a", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def _shorten() -> None:
    if places.AUDIT.is_file() and places.AUDIT.stat().st_size > MOST_AUDIT_BYTES:
        lines = places.AUDIT.read_bytes().splitlines(keepends=True)
        disk.write(places.AUDIT, b"".join(lines[len(lines) // 2 :]))
