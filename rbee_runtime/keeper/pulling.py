"""Models on the disks of hives: brought there with an eye on it, removed, verified."""

import sys
import time
from collections.abc import Callable, Iterable

from rbee_runtime.brief import few
from rbee_runtime.errors import ConfigError, QueenCallError
from rbee_runtime.keeper.client import QueenClient, Row
from rbee_runtime.keeper.progress import Step
from rbee_runtime.keeper.views import fetch_numbers
from rbee_runtime.states import FetchState

MOST_NAMED = 3

POLL_SECONDS = 0.5
"""A person watches a bar."""

ASK_SECONDS = 5.0
"""A queen that starts anew knows of no pull, and hears of it again within this time."""

_GIVEN_UP = frozenset({FetchState.FAILED, FetchState.DISK_FULL, FetchState.QUARANTINED})
"""What waiting does not mend; a broken connection is tried again by the hive."""

Say = Callable[[Step], None]


def pulled(
    client: QueenClient,
    hive: str,
    model: str,
    *,
    say: Say,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Row:
    """Have a hive fetch a model and return it as the hive has it then; Ctrl-C, and a fetch that fails, cancel it."""
    answer, asked = client.pull(hive, model), clock()
    try:
        while True:
            found = client.on_disk(hive, model)
            if found is not None and _is_whole(found, answer):
                return {"hive": hive, **found}
            say(_step(hive, model, found))
            _check(hive, model, found)
            sleep(POLL_SECONDS)
            if clock() - asked >= ASK_SECONDS:
                answer, asked = client.pull(hive, model), clock()
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{cancelled(client, hive, model)}\n")
        raise
    except QueenCallError:
        # Why it ends is told in other words.
        cancelled(client, hive, model)
        raise


def cancelled(client: QueenClient, hive: str, model: str) -> str:
    """Take a pull back and say what became of it."""
    try:
        known = client.cancel_pull(hive, model).get("pulled")
    except QueenCallError as error:
        return f"the pull of {model} to {hive} may go on, as nobody could be told: {error}"
    if not known:
        return f"there is no pull of {model} to {hive}"
    return f"the pull of {model} to {hive} is cancelled; what came so far is kept for the next one"


def hive_for(client: QueenClient, typed: str) -> str:
    """Return the hive that was named, or the only one that there is, or raise ConfigError."""
    if typed:
        return typed
    names = [str(row["name"]) for row in client.rows("hives")]
    if len(names) == 1:
        return names[0]
    raise ConfigError(f"--hive is missing: name one of {', '.join(names) or 'the hives, once there are some'}")


def holders(client: QueenClient, model: str, typed: str) -> list[str]:
    """Return the hive that was named, or all that have a model on disk, or raise QueenCallError."""
    if typed:
        return [typed]
    rows = [row for row in client.rows("models") if row.get("name") == model]
    if not rows:
        raise QueenCallError(f"the queen has no model {model!r}; see rbee-keeper models")
    found = [str(hive) for hive in rows[0].get("held", ())]
    if not found:
        away = [str(row["name"]) for row in client.rows("hives") if row.get("state") != "live"]
        unheard = f" as far as is known; not heard just now: {few(away, MOST_NAMED)}; ask again in a moment"
        raise QueenCallError(f"no hive has {model} on its disk{unheard if away else ''}")
    return found


def verified(client: QueenClient, hives: Iterable[str], model: str, say: Say) -> list[Row]:
    """Have hives read a model's files and return what they found, hive by hive."""
    found = []
    for hive in hives:
        say(Step(f"{hive} is asked to read {model} and compare it with its hashes"))
        found.append({"hive": hive, **client.verify(hive, model)})
    return found


def verdict(row: Row) -> str:
    """Return what a hive found, as a sentence."""
    if row.get("intact"):
        return f"{row['name']} on {row['hive']} is intact"
    return f"{row['name']} on {row['hive']} is damaged: {', '.join(row.get('damaged', ()))}: {row.get('detail', '')}"


def _check(hive: str, model: str, found: Row | None) -> None:
    """Raise QueenCallError for a fetch that waiting does not mend."""
    if found is not None and found.get("state") in _GIVEN_UP:
        raise QueenCallError(f"{model} did not come to {hive}: {found.get('detail') or found['state']}")


def _is_whole(found: Row, answer: Row) -> bool:
    if found.get("state") != FetchState.READY:
        return False
    return bool(answer.get("held")) or found.get("source") in {"", answer.get("source")}


def _step(hive: str, model: str, found: Row | None) -> Step:
    if found is None or found.get("state") == FetchState.READY:
        return Step(f"{model} on {hive}: waiting for the hive")
    why = f" ({found['detail']})" if found.get("detail") else ""
    done, total = int(found.get("done") or 0), int(found.get("total") or 0)
    return Step(f"{model} on {hive}: {found.get('state')}{why}", done, total, fetch_numbers(found))
