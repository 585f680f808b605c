"""What hosts ran before, out of what their activators noted, and which of them a rollback concerns; pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rbee_deploy.activator.records import Good as Step

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
        """Return the step by which the host came to its release; later ones changed its files only."""
        return self._same[0] if self._same else None

    @property
    def since(self) -> int | None:
        """Return when the host came to its release, by the switch or by a rollback to it, in Unix seconds."""
        return max((step.again for step in self._same), default=0) or (self.switch.since if self.switch else None)

    @property
    def _same(self) -> tuple[Step, ...]:
        """Return the steps of its release, the first of them the switch."""
        others = [at for at, step in enumerate(self.steps) if self.now is None or step.release != self.now.release]
        return self.steps[others[-1] + 1 if others else 0 :]

    @property
    def before(self) -> Step | None:
        """Return what it ran before that release."""
        switch = self.switch
        at = self.steps.index(switch) if switch is not None else 0
        return self.steps[at - 1] if at else None

    def before_run(self, run: str) -> Step | None:
        """Return what the host ran before a run changed it; None if that run did not, or there was nothing before."""
        mine = self.now is not None and self.now.run == run
        return self.steps[-2] if mine and len(self.steps) > 1 else None

    def newest(self, release: str) -> Step | None:
        """Return the newest step with a release, given as its id or as its version."""
        found = (step for step in reversed(self.steps) if release in {step.release, step.release.rpartition("-")[0]})
        return next(found, None)


def back(pasts: Mapping[str, Past]) -> Mapping[str, Step]:
    """Return where each host goes that the newest change of release concerned; the others are where they were.

    A deploy that stopped half-way has left hosts behind: those must not go back one further. One that was run again
    after it had stopped is one change: hosts that one run brought, or that run the same release, go back together.
    """
    switches = {name: past.switch for name, past in pasts.items() if past.before is not None}
    newest = max((step for step in switches.values() if step is not None), key=lambda step: step.since, default=None)
    if newest is None:
        return {}
    steps = {name: step for name, step in switches.items() if step is not None}
    concerned = _together(newest, steps.values())
    return {name: pasts[name].before or step for name, step in steps.items() if step in concerned}


def _together(newest: Step, steps: Collection[Step]) -> Collection[Step]:
    """Return the steps that belong to one change with the newest, directly or by way of others."""
    found = [newest]
    for known in found:  # also over what is added on the way
        near = (step for step in steps if step.release == known.release or (step.run and step.run == known.run))
        found += [step for step in near if step not in found]
    return found


def to(release: str, pasts: Mapping[str, Past]) -> Mapping[str, Step]:
    """Return where each host goes that ran a release before and does not run it now."""
    found = {name: past.newest(release) for name, past in pasts.items()}
    return {name: step for name, step in found.items() if step is not None and step != pasts[name].now}


def lacking(release: str, pasts: Mapping[str, Past]) -> Sequence[str]:
    """Return the hosts that never ran a release, or have it no more."""
    return [name for name, past in pasts.items() if past.newest(release) is None]
