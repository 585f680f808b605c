"""The queen's admin API, asked on her own host over loopback; the key comes by standard input and stays in memory."""

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rbee_deploy.activator.units import ActivationError

CALL_SECONDS = 15.0
POLL_SECONDS = 0.5

SILENT_SECONDS = 60.0
"""A queen that has answered is asked for so long again: a restart under load takes seconds."""

HOPELESS = frozenset({"crash_loop"})
"""States in which a worker that was replaced will not come up by waiting."""

STUCK_SECONDS = 60.0
"""A replaced worker that has been in none but these states for so long is given up; its hive retries within seconds."""

STUCK = frozenset({"exited", "backoff", "crash_loop"})


@dataclass(frozen=True)
class Queen:
    """Where the queen of this host answers."""

    port: int
    key: str
    tls: bool = False

    def call(self, method: str, path: str) -> Any:
        """Return the JSON of an answer, or raise ActivationError."""
        url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/api/v1/{path}"
        request = urllib.request.Request(url, method=method, headers={"authorization": f"Bearer {self.key}"})  # noqa: S310
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_loopback_tls())
        )
        try:
            with opener.open(request, timeout=CALL_SECONDS) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise ActivationError(f"the queen refused {method} {path}: {_sentence(error)}") from error
        except (OSError, ValueError) as error:
            raise ActivationError(f"the queen does not answer on port {self.port}: {error}") from error


def _loopback_tls() -> ssl.SSLContext:
    """Return a context for this host's own port: the certificate may be the operator's, for other names than this."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _sentence(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


@dataclass(frozen=True)
class Outcome:
    """How far the replacement of workers came: `problem` is "" when all run what they should."""

    problem: str = ""
    workers: int = 0


def follow(queen: Queen, releases: Mapping[str, str], seconds: float) -> Outcome:
    """Wait until every worker of these hives runs its hive's release; `releases` are by hive.

    It is the queen who replaces them, one of a model at a time, and goes on with that whether somebody waits or not.
    """
    deadline = time.monotonic() + seconds
    stuck_since: dict[str, float] = {}
    asked = _Patient(queen)
    while True:
        rows, hives = asked.get("workers"), asked.get("hives")
        left = [row for row in rows if row["hive"] in releases and row["outdated"]]
        behind = behind_of(hives, releases)
        if not left and not behind:
            return Outcome(workers=sum(row["hive"] in releases for row in rows))
        now = time.monotonic()
        # One that is yet to be renewed may have failed for weeks, perhaps for what this run mends.
        stuck = [row for row in left if row["state"] in STUCK and row.get("renewed", True)]
        stuck_since = {row["id"]: stuck_since.get(row["id"], now) for row in stuck}
        hopeless = [row for row in stuck if row["state"] in HOPELESS or now - stuck_since[row["id"]] > STUCK_SECONDS]
        if hopeless:
            return Outcome("; ".join(map(_named, hopeless)))
        if now > deadline:
            return Outcome(
                "; ".join([*(f"{name} has not reported its release" for name in behind), *map(_named, left)])
            )
        time.sleep(POLL_SECONDS)


class _Patient:
    """Asks a queen who has answered before again while she is busy or restarts; one who never did is told at once."""

    def __init__(self, queen: Queen) -> None:
        self._queen = queen
        self._answered: float | None = None

    def get(self, path: str) -> Any:
        """Return what she answers, or raise ActivationError when she has been silent for SILENT_SECONDS."""
        while True:
            try:
                answer = self._queen.call("GET", path)
            except ActivationError:
                if self._answered is None or time.monotonic() - self._answered > SILENT_SECONDS:
                    raise
                time.sleep(POLL_SECONDS)
            else:
                self._answered = time.monotonic()
                return answer


def behind_of(hives: Sequence[Mapping[str, Any]], releases: Mapping[str, str]) -> list[str]:
    """Return the hives that do not report the release that they should have by now."""
    known = {row["name"]: row for row in hives}
    return [name for name, release in releases.items() if not _reports(known.get(name), release)]


def _reports(row: Mapping[str, Any] | None, release: str) -> bool:
    builds = row["builds"].values() if row is not None and row["state"] == "live" else ()
    return any(build == release or build.startswith(f"{release}+") for build in builds)


def _named(row: Mapping[str, Any]) -> str:
    state = row["state"] or "not reachable"
    why = f" ({row['detail']})" if row["detail"] else ""
    return f"worker {row['id']} on {row['hive']} is {state}{why}"
