"""What the hive's own journal says of its workers' states: each turn of events once."""

from collections.abc import Sequence

from rbee_runtime import logs
from rbee_runtime.hive.scene import Decision
from rbee_runtime.hive.wording import wording
from rbee_runtime.states import Observed


class Journal:
    """Remembers what was said last of each worker."""

    def __init__(self) -> None:
        self._said: dict[str, object] = {}

    def tell(self, decisions: Sequence[Decision], *, now: float) -> None:
        """Say what is new: a state, why it is so, or a next try whose time has come and that still has to wait.

        Figures in a sentence are no news by themselves.
        """
        before = self._said
        self._said = {each.worker: _news(each, now) for each in decisions}
        for each in decisions:
            if before.get(each.worker) != self._said[each.worker]:
                logs.info("worker_state", worker=each.worker, state=each.state, detail=each.said)


def _news(decision: Decision, now: float) -> object:
    due = decision.state is Observed.BACKOFF and decision.record.next_try <= now
    return decision.state, decision.reason, due, wording(decision.state, decision.said)
