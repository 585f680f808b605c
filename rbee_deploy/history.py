"""What hosts ran before, out of what their activators noted, and which of them a rollback concerns; pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rbee_deploy.activator.records import Good as Step
from rbee_deploy.activator.records import switches

__all__ = ["Past", "Step", "back", "lacking", "to"]


@dataclass(frozen=True)
class Past:
    """A host's way to what it runs: `steps`, the newest last."""

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, deploy: Mapping[str, Any]) -> "Past":
        """Return the past out of what the state fact says of deploys."""
        return cls(tuple(map(Step.parse, deploy.get("good", ()))))

    @property
    def now(self) -> Step | None:
        """Return what the host runs."""
        return self.steps[-1] if self.steps else None

    @property
    def switch(self) -> Step | None:
        """Return the step by which the host came to its release and images; later ones changed files or ways."""
        return switches(self.steps)[-1] if self.steps else None

    @property
    def since(self) -> int | None:
        """Return when the host came to its release and images, by the switch or a rollback to it, in Unix seconds."""
        again = max((step.again for step in self.steps[self._begin :]), default=0)
        return again or (self.switch.since if self.switch else None)

    @property
    def _begin(self) -> int:
        """Return the place of the first step with its release and images; the switch itself may be known no more."""
        found = switches(self.steps)
        return max((at + 1 for at, switch in enumerate(found) if switch != found[-1]), default=0)

    @property
    def before(self) -> Step | None:
        """Return what it ran before that switch."""
        return self.steps[self._begin - 1] if self._begin else None

    @property
    def change(self) -> "Change | None":
        """Return the switch together with what it took the place of, None where there was nothing before."""
        switch, before = self.switch, self.before
        return Change(switch, before) if switch is not None and before is not None else None

    def before_run(self, run: str) -> Step | None:
        """Return what the host ran before a run changed it; None if that run did not, or there was nothing before."""
        mine = self.now is not None and self.now.run == run
        return self.steps[-2] if mine and len(self.steps) > 1 else None

    def newest(self, release: str) -> Step | None:
        """Return the newest step with a release, given as its id or as its version."""
        found = (step for step in reversed(self.steps) if release in {step.release, step.release.rpartition("-")[0]})
        return next(found, None)


@dataclass(frozen=True)
class Change:
    """How a host came to the release and images that it runs, and what it ran before."""

    switch: Step
    before: Step

    @property
    def brought(self) -> Collection[str]:
        """Return what other hosts have of the same change: the release, or new images where the release stayed."""
        # Releases of before did not note it; the host may have run bare, or at another engine, just before.
        return self.switch.brought or self.switch.brings(self.before) or {*self.switch.images}

    def is_one_with(self, other: "Change") -> bool:
        """Say whether one run made both, or both brought the same."""
        of_one_run = bool(self.switch.run) and self.switch.run == other.switch.run
        return of_one_run or not {*self.brought}.isdisjoint(other.brought)


def back(pasts: Mapping[str, Past]) -> Mapping[str, Step]:
    """Return where each host goes that the newest change of release or images concerned; others are where they were.

    A deploy that stopped half-way has left hosts behind: those must not go back one further. One that was run again
    after it had stopped is one change: hosts that one run brought, or that got the same by it, go back together.
    """
    changes = {name: change for name, past in pasts.items() if (change := past.change) is not None}
    newest = max(changes.values(), key=lambda change: change.switch.since, default=None)
    concerned = _together(newest, changes.values()) if newest is not None else ()
    return {name: change.before for name, change in changes.items() if change in concerned}


def _together(newest: Change, changes: Collection[Change]) -> Collection[Change]:
    """Return the changes that are one with the newest, directly or by way of others."""
    found = [newest]
    for known in found:  # also over what is added on the way
        found += [change for change in changes if change.is_one_with(known) and change not in found]
    return found


def to(release: str, pasts: Mapping[str, Past]) -> Mapping[str, Step]:
    """Return where each host goes that ran a release before and does not run it now."""
    found = {name: past.newest(release) for name, past in pasts.items()}
    return {name: step for name, step in found.items() if step is not None and step != pasts[name].now}


def lacking(release: str, pasts: Mapping[str, Past]) -> Sequence[str]:
    """Return the hosts that never ran a release, or have it no more."""
    return [name for name, past in pasts.items() if past.newest(release) is None]
