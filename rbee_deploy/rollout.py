"""In which order hosts are activated: a canary first, then batches; pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rollout:
    """`canary` hosts go first, then at most `batch` at a time: a number of hosts, or a share of them as in "25%".

    A host that fails is put back by itself; `undo` "run" takes the hosts back as well that the same run changed before.
    `workers_seconds` is how long a run waits for the queen to replace workers (0: it does not); she goes on anyway.
    """

    canary: int = 1
    batch: int | str = "25%"
    undo: str = "host"
    workers_seconds: float = 1800.0

    def size(self, hosts: int) -> int:
        """Return how many of `hosts` go at a time."""
        if isinstance(self.batch, int):
            return max(1, self.batch)
        return max(1, math.ceil(hosts * float(self.batch.rstrip("%")) / 100))

    def turns(self, hosts: int) -> int:
        """Return how many turns that many hosts need at most."""
        rest = max(0, hosts - self.canary)
        return (1 if self.canary and hosts else 0) + math.ceil(rest / self.size(hosts))

    def assign(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return the turn of each host, 0 for the first."""
        first = list(names[: self.canary])
        turns = [first] if first else []
        size = self.size(len(names))
        rest = names[len(first) :]
        turns += [list(rest[at : at + size]) for at in range(0, len(rest), size)]
        return {name: number for number, turn in enumerate(turns) for name in turn}
